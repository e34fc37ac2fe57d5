"""From the paths that exported embeddings name to files, and to the sources they belong to.

Paths stay the strings that they are told as: `Path` would write some of them in another way, and it
raises where os.path says that nothing is there (a name that is too long).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.sources import covering, kind_of
from mmsearch import archive
from mmsearch.errors import RefusedError
from mmsearch.filenames import joined, real, relative, shared, spelled
from mmsearch.overview import (
    SourcePlace,
)
from mmsearch.store.exchange import as_named

#: Folders that no source should be by guess: "/", "/home", "/mnt/x" hold more than was meant.
_LEAST_PARTS = 3


@dataclass(frozen=True, slots=True)
class Home:
    """A source: an absolute path, and "folder" or "file"."""

    location: str
    kind: str


@dataclass(frozen=True, slots=True)
class Place:
    """A picture found: its source, its path there, and where it is; member: of an archive."""

    home: Home
    path: str
    location: str
    member: str = ""


def takes_in(source: SourcePlace, home: Home) -> bool:
    """Whether runs over a source read these files, too: what it passes over is its own source."""
    if source.kind != "folder":
        return source.location == home.location
    if not home.location.startswith(source.location.rstrip("/") + "/"):
        return False
    if home.kind != "folder" and kind_of(os.path.basename(home.location)) is None:  # noqa: PTH119
        return False
    folder = covering(
        source.location, home.location, exclude=source.exclude, follow_links=source.follow_links
    )
    return folder is not None


class Places:
    """Finds pictures, and says whose they are."""

    def __init__(
        self,
        known: Sequence[SourcePlace],
        named: Sequence[tuple[str, str]],
        images: Path | None,
    ) -> None:
        """known: the sources of the library. named: those that the embeddings name, (location,
        kind). images: the folder where the pictures are now, if they are not where they were."""
        self._root = None if images is None else real(images)
        self._homes: dict[str, Home] = {}
        self._files: dict[str, Home] = {}
        for source in known:
            self._add(Home(source.location, source.kind))
        if self._root is None:
            wanted = [Home(as_named(location), kind) for location, kind in named]
        else:
            wanted = [Home(self._root, "folder")]
        for home in wanted:
            there = os.path.exists(home.location)  # noqa: PTH110
            # A source in one that reads its files would hold every file a second time.
            if there and not any(takes_in(source, home) for source in known):
                self._add(home)
        self._common: str | None = None
        self._dropped = 0

    def _add(self, home: Home) -> None:
        (self._homes if home.kind == "folder" else self._files)[home.location] = home

    def survey(self, names: Iterable[object]) -> None:
        """Looks at names of pictures before any is placed: for `settle`."""
        if self._root is not None:
            return
        for name in names:
            if not isinstance(name, str) or self._home(spelled(name)) is not None:
                continue
            found = self.locate(name) if name else None
            if found is not None and self._home(found[0]) is None:
                folder = os.path.dirname(found[0])  # noqa: PTH120
                self._common = shared([folder if self._common is None else self._common, folder])

    def settle(self) -> None:
        """Makes one source of the pictures seen that belong to none: the folder they have in
        common.

        Raises:
            RefusedError: that folder would be too much.
        """
        common = self._common
        if common is None:
            return
        too_much = len(Path(common).parts) < _LEAST_PARTS or common == spelled(Path.home())
        if too_much:
            but = f" but {common}, and all of that would become a source of the library"
            raise RefusedError(
                f"the pictures have no folder in common{but if common else ''}. Say where they "
                "are, one folder at a time: --images DIR"
            )
        self._add(Home(common, "folder"))

    def find(self, text: str) -> Place | None:
        """The picture that a path names; None when it is not there."""
        found = self.locate(text)
        if found is None:
            return None
        location, member = found
        home = self._home(location)
        if home is None:
            return None
        base = home.location if home.kind == "folder" else os.path.dirname(home.location)  # noqa: PTH120
        return Place(home, relative(location, base), location, member)

    def _home(self, location: str) -> Home | None:
        """The source that a file belongs to: itself, or the innermost folder."""
        if location in self._files:
            return self._files[location]
        at = location.rfind("/")
        while at >= 0:
            folder = location[:at] or "/"
            if folder in self._homes:
                return self._homes[folder]
            at = location.rfind("/", 0, at)
        return None

    def locate(self, text: str) -> tuple[str, str] | None:
        """The absolute path of the file that a name means, and the member of it."""
        for name in dict.fromkeys((text, as_named(text))):
            found = self._file(name)
            if found is not None:
                return found, ""
            split = archive.split_member_path(name)
            found = self._file(split[0]) if split is not None else None
            if split is not None and found is not None:
                return found, split[1]
        return None

    def _file(self, name: str) -> str | None:
        if "\0" in name:
            return None
        if self._root is None:
            if not os.path.isfile(name):  # noqa: PTH113
                return None
            folder, _, last = spelled(name).rpartition("/")
            return joined(real(f"{folder}/"), last)
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        if ".." in parts:
            return None
        # What was /old/drive/2019/a.jpg is ROOT/2019/a.jpg: as much of the path as is there, the
        # number of parts first that was right the last time.
        for drop in (self._dropped, *range(len(parts))):
            path = "/".join((self._root, *parts[drop:]))
            if drop < len(parts) and os.path.isfile(path):  # noqa: PTH113
                self._dropped = drop
                return path
        return None
