"""The doctor's look at files: those of the pictures, thumbnails, and what was left behind."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mmsearch.doctor.finding import NEXT_RUN, Finding, mended
from mmsearch.files import torn_thumbnails
from mmsearch.filetimes import modified_ns
from mmsearch.plaintext import counted
from mmsearch.store.catalog import absolute
from mmsearch.store.check import CatalogCheck, KnownFile

#: A thumbnail that is being made is younger.
_LEFT_BEHIND_S = 3600


def check_files(check: CatalogCheck) -> Iterator[Finding]:
    """Whether every file that the catalog counts on is there as it was read."""
    there = missing = changed = 0
    away: list[str] = []
    for location, kind, known in check.files():
        if not _can_be_seen(location, kind):
            away.append(location)
            continue
        for file in known:
            there += 1
            state = _state(absolute(location, kind, file.path), file)
            missing += state == "missing"
            changed += state == "changed"
    if missing or changed:
        yield Finding(
            "files",
            "note",
            f"of {there:,} known, gone: {missing:,}, changed: {changed:,}; {NEXT_RUN} brings "
            "the library up to date",
        )
    else:
        yield Finding("files", "ok", f"{there:,} known, all there as they were read")
    for location in away:
        message = f"{location} is not there (unplugged drive?): its files are kept, not looked at"
        yield Finding("files", "note", message)


def _can_be_seen(location: str, kind: str) -> bool:
    """Whether a source can be looked at: an empty folder may be where a drive is mounted."""
    folder = location if kind == "folder" else os.path.dirname(location)  # noqa: PTH120 -- surrogates
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def _state(path: str, file: KnownFile) -> Literal["there", "missing", "changed"]:
    try:
        stat = os.stat(path)  # noqa: PTH116 -- strings with surrogates, by the million
    except OSError:
        return "missing"
    same = (stat.st_size, modified_ns(stat)) == (file.size, file.mtime_ns)
    return "there" if same else "changed"


def check_thumbnails(folder: Path, *, repair: bool) -> Finding:
    """Whether all thumbnails are whole."""
    torn = list(torn_thumbnails(folder))
    if not torn:
        return Finding("thumbnails", "ok", "all whole")
    if repair:
        for path in torn:
            path.unlink(missing_ok=True)
    return mended(
        "thumbnails",
        f"not whole: {len(torn):,}",
        "deleted; they are made again when shown",
        repair=repair,
    )


def check_leftovers(catalog: Path, index: Path, thumbs: Path, *, repair: bool) -> Iterator[Finding]:
    """What killed runs left, and the copies that migrations made."""
    found = [*index.glob("*.tmp"), *catalog.parent.glob(f"{catalog.name}.*.tmp*")]
    old = time.time() - _LEFT_BEHIND_S
    for path in thumbs.glob("??/*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < old:
                found.append(path)
    if found and repair:
        for path in found:
            path.unlink(missing_ok=True)
        yield Finding("leftovers", "repaired", f"{counted(len(found), 'unfinished file')}: deleted")
    elif found:
        yield Finding(
            "leftovers",
            "note",
            f"{counted(len(found), 'unfinished file')}, of runs that were killed or of one at "
            "work; `mmsearch doctor --repair` deletes them",
        )
    for path in sorted(catalog.parent.glob(f"{catalog.name}.*.bak")):
        yield Finding(
            "leftovers",
            "note",
            f"{path.name} ({path.stat().st_size / 1e6:,.1f} MB) is the catalog as it was before "
            "its migration; delete it when all is well",
        )
