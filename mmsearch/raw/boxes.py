"""The boxes of a CR3 (ISO/IEC 14496-12, 4.2), and the blocks of a MRW."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

#: Of one level; cameras write a dozen.
MAX_BOXES = 1000


class Box(NamedTuple):
    """kind: its four letters, or for a uuid box the sixteen bytes. What is in it lies from `start`
    to `end`, which may be beyond the end of the file."""

    kind: bytes
    start: int
    end: int


def boxes(data: bytes, at: int, end: int) -> Iterator[Box]:
    """The boxes of one level between two places; up to the first that is none."""
    for _ in range(MAX_BOXES):
        if at + 8 > end:
            return
        size, kind, start = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
        if size == 1:
            size, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        elif size == 0:  # to the end
            size = end - at
        if size < start - at:
            return
        after = at + size
        if kind == b"uuid":
            kind, start = data[start : start + 16], start + 16
        yield Box(kind, start, after)
        at = after


def blocks(data: bytes) -> Iterator[Box]:
    """The blocks of a MRW (Minolta): a name and a size each, after those of the whole head."""
    at, end = 8, 8 + int.from_bytes(data[4:8], "big")
    for _ in range(MAX_BOXES):
        if at + 8 > min(end, len(data)):
            return
        size = int.from_bytes(data[at + 4 : at + 8], "big")
        yield Box(data[at : at + 4], at + 8, at + 8 + size)
        at += 8 + size
