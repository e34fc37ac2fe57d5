"""What a scan sees of the files in one folder that tell of the pictures there."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from indexer.beside.names import beside, tell_of
from indexer.beside.notes import NONE, Seen, noted
from mmsearch.filetimes import modified_ns


class Around:
    """closed: the files that could not be looked at, and why."""

    def __init__(
        self,
        files: Mapping[str, os.DirEntry[str]],
        pictures: Sequence[str],
        same: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """files: those whose names may be of that kind (`is_beside`). same: of raw files that are
        passed over, the picture beside each: what tells of the one tells of the other."""
        self.closed: list[tuple[str, OSError]] = []
        self._notes: dict[str, str | None] = {}
        told = beside([*pictures, *same], files)
        for raw, picture in same.items():
            tell_of(told, picture, raw)
        seen: dict[str, Seen | None] = {}
        for name in sorted({name for names in told.values() for name in names}):
            try:
                info = files[name].stat()
            except OSError as exc:
                self.closed.append((name, exc))
                seen[name] = None
                continue
            if stat.S_ISREG(info.st_mode):
                seen[name] = Seen(name, info.st_size, modified_ns(info))
        for picture, names in told.items():
            near = [seen[name] for name in names if name in seen]
            whole = [file for file in near if file is not None]
            self._notes[picture] = noted(whole) if len(whole) == len(near) else None

    def of(self, picture: str) -> str | None:
        """What is noted of a picture; None where something of it could not be looked at."""
        return self._notes.get(picture, NONE)
