"""Which picture a text was written for: from the name in the text to a row of the catalog."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from mmsearch.batches import batches
from mmsearch.store.incoming import images_at, stage
from mmsearch.store.schema import failure, image, source, stored_path, text_
from mmsearch.store.transaction import VALUES_A_QUERY, folder_of, run_many

_TEXTS_A_CHUNK = 2000


@dataclass(frozen=True, slots=True)
class Linked:
    """How many texts found their picture now, and how many name one that is not there.

    What pictures carry themselves is linked too, but not counted. changed: anything was written.
    """

    linked: int
    unknown: int
    changed: bool


#: What of a text tells which picture it means.
_TEXTS = sa.select(
    text_.c.id,
    text_.c.source_id,
    text_.c.path,
    text_.c.member,
    text_.c.key,
    text_.c.origin,
    text_.c.image_ref,
    text_.c.image_id,
)
_LINK = "UPDATE text SET image_id = ? WHERE id = ?"
#: Texts of files that are linked to pictures whose names were staged as paths.
_LINKED = (
    "SELECT t.id FROM incoming AS p CROSS JOIN image AS i ON i.name = p.path "
    "CROSS JOIN text AS t ON t.image_id = i.id WHERE t.origin = 'file'"
)
_FORGET_FAILURE = (
    "DELETE FROM failure WHERE source_id = ? AND path = ? AND member = '' AND \"key\" = ?"
)
#: Whether any text came from a file of texts: remembered by the connection, the only one to write.
_OF_FILES = "texts of files"
#: A name that normpath would change, or that is absolute.
_ODD = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")
_FOLDERS_KEPT = 10_000


class _Sources:
    """Which sources a path may lie in."""

    def __init__(self, connection: sa.Connection) -> None:
        rows = connection.execute(sa.select(source.c.id, source.c.location, source.c.kind)).all()
        self.roots = {row.id: _folder(row.location, row.kind) for row in rows}
        self._folders = {row.location: row.id for row in rows if row.kind == "folder"}
        self._files = {row.location: row.id for row in rows if row.kind != "folder"}
        self._around: dict[str, list[tuple[int, int]]] = {}

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


def link_texts(connection: sa.Connection) -> Linked:
    """Links every text that names a picture and is not linked yet. The caller commits.

    What lies beside a picture is that picture's, as what it carries itself is. Any other name is
    looked up beside the text's own file, then from the root of its source, then, if exactly one
    picture of the library has that file name, anywhere. What stays unknown is recorded as a failure
    of that text, which is searchable all the same.
    """
    sources = _Sources(connection)
    linked = unknown = last = written = 0
    while True:
        rows = connection.execute(
            _TEXTS.where(
                text_.c.image_ref.is_not(None), text_.c.image_id.is_(None), text_.c.id > last
            )
            .where(text_.c.missing_since.is_(None))
            .order_by(text_.c.id)
            .limit(_TEXTS_A_CHUNK)
        ).all()
        if not rows:
            return Linked(linked, unknown, written > 0)
        last = rows[-1].id
        found, reasons = _resolve(connection, rows, sources)
        written += len(found)
        run_many(connection, _LINK, [(image_id, id_) for id_, image_id in found.items()])
        if found and connection.scalar(sa.select(sa.exists(sa.select(failure.c.id)))):
            run_many(
                connection,
                _FORGET_FAILURE,
                [(r.source_id, stored_path(r.path), r.key) for r in rows if r.id in found],
            )
        lost = [row for row in rows if row.id not in found]
        if lost:
            statement = insert(failure)
            new_reason = statement.excluded.reason
            written += connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["source_id", "path", "member", "key"],
                    set_={"reason": new_reason, "at": statement.excluded.at},
                    where=failure.c.reason != new_reason,
                ),
                [
                    {
                        "source_id": row.source_id,
                        "path": row.path,
                        "member": row.member,
                        "key": row.key,
                        "size": 0,
                        "mtime_ns": 0,
                        "reason": reasons[row.id],
                        "transient": True,
                        "at": datetime.now(UTC).replace(tzinfo=None),
                    }
                    for row in lost
                ],
            ).rowcount
        linked += sum(row.id in found and row.origin != "embedded" for row in rows)
        unknown += len(lost)


def relink(connection: sa.Connection, names: Sequence[str]) -> None:
    """Looks anew for what texts mean that are linked to pictures with these file names.

    For when such pictures came or became others: a better place for the name may be taken now, or
    it may mean several pictures, and then none. In the same transaction, so that a kill leaves no
    link that a clean run would not make. When pictures go, the texts linked to them are unlinked,
    and all other links hold. The caller commits.
    """
    if not names or not _any_of_files(connection):
        return
    stage(connection, ((0, name, "", "", b"") for name in names))
    linked = connection.exec_driver_sql(_LINKED).scalars().all()
    sources = _Sources(connection) if linked else None
    for part in batches(sorted(set(linked)), _TEXTS_A_CHUNK):
        assert sources is not None
        rows = connection.execute(_linked_from_afar(text_.c.id.in_(part))).all()
        found, _ = _resolve(connection, rows, sources)
        moved = [(found.get(row.id), row.id) for row in rows if found.get(row.id) != row.image_id]
        run_many(connection, _LINK, moved)


def note_texts_of_files(connection: sa.Connection, any_: bool) -> None:
    """Remembers that texts of files came: the only ones that `relink` has to look for."""
    if any_:
        connection.info[_OF_FILES] = True


def _any_of_files(connection: sa.Connection) -> bool:
    if _OF_FILES not in connection.info:
        there = sa.select(sa.exists(sa.select(text_.c.id).where(text_.c.origin == "file")))
        connection.info[_OF_FILES] = bool(connection.scalar(there))
    return bool(connection.info[_OF_FILES])


def unlink_from_afar(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    """The same for any number of pictures, or texts, left to link_texts at the end of the run.

    which: a condition on rows of `image` and the texts linked to them.
    """
    texts = _linked_from_afar(which).with_only_columns(text_.c.id)
    connection.execute(sa.update(text_).where(text_.c.id.in_(texts)).values(image_id=None))


def _linked_from_afar(which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Those linked texts of files, but for those that have their picture beside them.

    That place is the best there is, so nothing that comes changes their links.
    """
    beside = sa.and_(
        image.c.source_id == text_.c.source_id,
        image.c.path == folder_of(text_.c.path) + text_.c.image_ref,
        image.c.member == "",
    )
    return _TEXTS.join(image, image.c.id == text_.c.image_id).where(
        which, text_.c.origin == "file", ~beside
    )


def _folder(location: str, kind: str) -> str:
    return location if kind == "folder" else os.path.dirname(location)  # noqa: PTH120


def _beside(row: sa.Row[Any], sources: _Sources) -> list[tuple[int, str, str]]:
    """Places the name may mean beside the text, best first: (source id, path in it, member)."""
    if row.origin == "embedded":
        return [(row.source_id, row.path, row.member)]
    if row.origin == "sidecar":
        parent, slash, _ = row.path.rpartition("/")
        return [(row.source_id, parent + slash + row.image_ref, "")]
    root, folder = sources.roots[row.source_id], row.path.rpartition("/")[0]
    return _below(os.path.join(root, folder) if folder else root, row.image_ref, sources)  # noqa: PTH118


def _from_root(row: sa.Row[Any], sources: _Sources) -> list[tuple[int, str, str]]:
    """The same from the root of the text's source."""
    return _below(sources.roots[row.source_id], row.image_ref, sources)


def _below(base: str, name: str, sources: _Sources) -> list[tuple[int, str, str]]:
    names = [name]
    if os.sep == "/" and "\\" in name:
        names.append(name.replace("\\", "/"))  # as Windows writes it; as it stands comes first
    found: list[tuple[int, str, str]] = []
    for each in names:
        found += [(source_id, inner, "") for source_id, inner in _places(base, each, sources)]
        at = each.find("!/")
        while at > 0:  # "a.zip!/b.jpg": a member of an archive, as answers show it
            member = each[at + 2 :]
            found += [(id_, inner, member) for id_, inner in _places(base, each[:at], sources)]
            at = each.find("!/", at + 1)
    return found


def _places(base: str, name: str, sources: _Sources) -> list[tuple[int, str]]:
    if os.sep == "/" and not _ODD.search(name):
        path = f"{base.rstrip('/')}/{name}"
    else:
        path = os.path.normpath(os.path.join(base, name))  # noqa: PTH118
    return sources.places(path)


def _resolve(
    connection: sa.Connection, rows: Sequence[Any], sources: _Sources
) -> tuple[dict[int, int], dict[int, str]]:
    """For a chunk of texts: text id → image row id, and for the others the reason."""
    found = _at(connection, [(row.id, _beside(row, sources)) for row in rows])
    left = [row for row in rows if row.id not in found and row.origin == "file"]
    found |= _at(connection, [(row.id, _from_root(row, sources)) for row in left])
    left = [row for row in left if row.id not in found]
    names = {row.id: row.image_ref.replace("\\", "/").rpartition("/")[2] for row in left}
    same_name: dict[str, tuple[int, int]] = {}
    for part in batches(set(names.values()), VALUES_A_QUERY):
        for name, id_, n in connection.execute(
            sa.select(
                image.c.name, sa.func.min(image.c.id), sa.func.count(image.c.content_id.distinct())
            )
            .where(image.c.name.in_(part), image.c.missing_since.is_(None))
            .group_by(image.c.name)
        ).all():
            same_name[name] = (id_, n)
    reasons: dict[int, str] = {}
    for row in rows:
        if row.id in found:
            continue
        id_, n = same_name.get(names.get(row.id, ""), (0, 0))
        if n == 1:
            found[row.id] = id_
        elif n > 1:
            reasons[row.id] = f"names the picture {row.image_ref!r}: {n} pictures are called that"
        else:
            reasons[row.id] = f"names the picture {row.image_ref!r}, which is not in the library"
    return found, reasons


def _at(
    connection: sa.Connection, wanted: Sequence[tuple[int, list[tuple[int, str, str]]]]
) -> dict[int, int]:
    """Text id → the first of its places (source id, path, member) where there is a picture."""
    owners = [text_id for text_id, places in wanted for _ in places]
    if not owners:
        return {}
    stage(connection, ((*place, "", b"") for _, places in wanted for place in places))
    found: dict[int, int] = {}
    for n, image_id in sorted(images_at(connection).items()):
        found.setdefault(owners[n], image_id)
    return found
