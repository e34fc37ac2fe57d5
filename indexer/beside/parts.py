"""Exports that Google Takeout wrote as several archives: which belong together, what is in them.

`takeout-20251101T100000Z-001.zip` to `-017.zip` are parts of one export, of which a picture may be
in one and the file about it in another.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable

from indexer.beside.inside import is_another_programs, split
from indexer.beside.said import NotReadableError, said_in
from mmsearch import archive
from mmsearch.store import TakeoutFile
from mmsearch.store.parts import Part

#: Also with a second number before that of the part, and as browsers name what they load twice.
_PART = re.compile(
    r"takeout-(\d{8}t\d{6}z)(?:-\d{1,6}){0,2} ?(?:\(\d{1,3}\))?\.(?:zip|tgz|tar|tar\.gz)",
    re.IGNORECASE,
)


def export_of(location: str) -> tuple[str, str] | None:
    """What tells the export that an archive is a part of from all others: its folder, and the time
    in its name. None where it is no part of one."""
    folder, _, name = location.rpartition("/")
    part = _PART.fullmatch(name)
    return None if part is None else (folder, part[1].upper())


def exports(parts: Iterable[Part]) -> list[list[Part]]:
    """The parts of each export, in the order of their names."""
    found: defaultdict[tuple[str, str], list[Part]] = defaultdict(list)
    for part in parts:
        export = export_of(part.location)
        if export is not None:
            found[export].append(part)
    return [sorted(found[export], key=lambda part: part.location) for export in sorted(found)]


def as_told_with(parts: Iterable[Part]) -> str:
    """What is noted of parts once their pictures were told, to see when they are others."""
    facts = [(p.location.rpartition("/")[2], p.size, p.mtime_ns) for p in parts]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def are_told(parts: Iterable[Part]) -> bool:
    """Whether the pictures in all these parts were told what there is to tell."""
    parts = list(parts)
    now = as_told_with(parts)
    return all(part.size is not None and part.told_with == now for part in parts)


def about_pictures(file: archive.Text) -> TakeoutFile | None:
    """What is kept of a file in a part; None where it is about something else."""
    if is_another_programs(file):
        return None
    folder, name = split(file.name)
    said, problem = None, file.problem or None
    if problem is None:
        try:
            found = said_in(name, file.data)
        except NotReadableError as exc:
            problem = str(exc)
        else:
            if found is None:
                return None
            said = found.text()
    return TakeoutFile(folder, name, len(file.data), zlib.crc32(file.data), said, problem)
