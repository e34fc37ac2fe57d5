"""Which places a text means by the name of a picture: sources, folders and members of archives."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from mmsearch.filenames import joined, straightened
from mmsearch.store.schema import source

#: (source id, path in it, member of the archive there, or "")
Place = tuple[int, str, str]
#: (source id, folder in it or archive with a "!" at its end)
Holder = tuple[int, str]
#: A name that normpath would change, or that is absolute.
_ODD = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")
_FOLDERS_KEPT = 10_000


class Sources:
    """Which sources a path may lie in."""

    def __init__(self, connection: sa.Connection) -> None:
        rows = connection.execute(sa.select(source.c.id, source.c.location, source.c.kind)).all()
        self.roots = {row.id: _folder(row.location, row.kind) for row in rows}
        self._folders = {row.location: row.id for row in rows if row.kind == "folder"}
        self._files = {row.location: row.id for row in rows if row.kind != "folder"}
        self._around: dict[str, list[tuple[int, int]]] = {}
        #: Of folders and archives that were asked for: whether the library knows them.
        self.known: dict[Holder, bool] = {}
        #: Whether any file could not be used; None: not asked for yet.
        self.any_failed: bool | None = None

    def places(self, path: str) -> list[tuple[int, str]]:
        """(source id, path in it) for an absolute path, the innermost source first."""
        folder = path[: path.rfind("/")]
        around = self._around.get(folder)
        if around is None:
            if len(self._around) >= _FOLDERS_KEPT:
                self._around.clear()
            self._around[folder] = around = list(self._holders(path))
        found = [(source_id, path[start:]) for source_id, start in around]
        if path in self._files:
            found.insert(0, (self._files[path], path.rpartition("/")[2]))
        return found

    def _holders(self, path: str) -> Iterator[tuple[int, int]]:
        """The sources that hold a path, and from where on it is a path in them."""
        at = path.rfind("/")
        while at >= 0:
            folder = path[:at] or "/"
            if folder in self._folders:
                yield self._folders[folder], at + 1
            at = path.rfind("/", 0, at)


def _folder(location: str, kind: str) -> str:
    return location if kind == "folder" else os.path.dirname(location)  # noqa: PTH120


def beside(row: Any, sources: Sources) -> list[Place]:
    """Places the name may mean beside the text, best first."""
    if row.origin == "embedded":
        return [(row.source_id, row.path, row.member)]
    if row.origin == "sidecar":
        parent, slash, _ = row.path.rpartition("/")
        return [(row.source_id, parent + slash + row.image_ref, "")]
    root, folder = sources.roots[row.source_id], row.path.rpartition("/")[0]
    return _below(joined(root, folder) if folder else root, row.image_ref, sources)


def from_root(row: Any, sources: Sources) -> list[Place]:
    """The same from the root of the text's source."""
    return _below(sources.roots[row.source_id], row.image_ref, sources)


def is_bare(name: str) -> bool:
    """Whether a name says nothing of the folder that its picture lies in."""
    name = name.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return "/" not in name


def last_part(name: str) -> str:
    """The file name at the end of a name."""
    return name.replace("\\", "/").rpartition("/")[2]


def holder(place: Place) -> str:
    """What a place lies in: "2019" of "2019/a.jpg", "a.zip!" of a member, "" at the top."""
    _, path, member = place
    return f"{path}!" if member else path.rpartition("/")[0]


def all_holders(place: Place, *, failed: bool) -> Iterator[Holder]:
    """All folders and archives that what is at a place makes known. What could not be used may be
    one of them itself: an archive, or a folder that cannot be listed."""
    source_id, path, member = place
    shown = f"{path}!/{member}" if member else path
    if failed:
        yield from ((source_id, shown), (source_id, f"{shown}!"))
    at = shown.rfind("/")
    while at > 0:
        yield source_id, shown[:at]
        at = shown.rfind("/", 0, at)


def _below(base: str, name: str, sources: Sources) -> list[Place]:
    names = [name]
    if os.sep == "/" and "\\" in name:
        names.append(name.replace("\\", "/"))  # as Windows writes it; as it stands comes first
    found: list[Place] = []
    for each in names:
        found += [(source_id, inner, "") for source_id, inner in _places(base, each, sources)]
        at = each.find("!/")
        while at > 0:  # "a.zip!/b.jpg": a member of an archive, as answers show it
            member = each[at + 2 :]
            found += [(id_, inner, member) for id_, inner in _places(base, each[:at], sources)]
            at = each.find("!/", at + 1)
    return found


def _places(base: str, name: str, sources: Sources) -> list[tuple[int, str]]:
    if os.sep == "/" and not _ODD.search(name):
        path = f"{base.rstrip('/')}/{name}"
    else:
        path = straightened(joined(base, name))
    return sources.places(path)
