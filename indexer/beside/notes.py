"""What is kept of the files beside a picture, to see when they are others."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

#: What is noted of a picture that no file tells of.
NONE = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A file beside a picture, as a scan saw it. name: in their folder."""

    name: str
    size: int
    mtime_ns: int


def noted(files: Iterable[Seen]) -> str:
    """One text about all of them."""
    found = [(file.name, file.size, file.mtime_ns) for file in files]
    return json.dumps(found, separators=(",", ":")) if found else NONE


def of_note(note: str | None) -> list[Seen]:
    """The files that were noted."""
    return [Seen(*fields) for fields in json.loads(note)] if note else []
