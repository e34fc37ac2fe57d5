"""Checks everything in a library, and mends what is derived or can be read again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from mmsearch.doctor import catalog as catalog_checks
from mmsearch.doctor.files import check_files, check_leftovers, check_thumbnails
from mmsearch.doctor.finding import Finding, State
from mmsearch.doctor.indexes import IndexDoctor
from mmsearch.errors import LibraryNotFoundError, RefusedError
from mmsearch.library import CATALOG_NAME, INDEX_FOLDER, THUMBS_FOLDER
from mmsearch.store import Catalog, lock
from mmsearch.store.mend import examined

__all__ = ["Finding", "State", "doctor"]


def doctor(library: Path, *, repair: bool = False, files: bool = True) -> Iterator[Finding]:
    """Checks the library; the findings come one by one, as the checks end.

    repair: mends what can be mended, and holds the locks for writing while it looks. files: looks
        for the files of all pictures and texts, too.

    Raises:
        LibraryNotFoundError: there is no library.
        LibraryLockedError, StoreError: it is to be mended, and cannot be written now.
        RefusedError: the same, while `mmsearch optimize` is at work.
    """
    if not (library / CATALOG_NAME).exists():
        raise LibraryNotFoundError(str(library))
    with _alone(library) if repair else contextlib.nullcontext():
        yield from _examine(library, repair=repair, files=files)


@contextmanager
def _alone(library: Path) -> Iterator[None]:
    """Holds off who writes to the library, and who puts approximate indexes into it: what that one
    has not finished yet looks like something that a killed run left."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock.writing(library))
        index = library / INDEX_FOLDER
        if index.is_dir() and not stack.enter_context(lock.optimizing(index)):
            raise RefusedError(
                f"`mmsearch optimize` is at work on {library}. Wait until it is done, and repair "
                "the library then"
            )
        yield


def _examine(library: Path, *, repair: bool, files: bool) -> Iterator[Finding]:
    path, index, thumbs = (library / n for n in (CATALOG_NAME, INDEX_FOLDER, THUMBS_FOLDER))
    finding = catalog_checks.check_file(path, repair=repair)
    yield finding
    if finding.state != "problem":
        finding = catalog_checks.check_schema(path, repair=repair)
        yield finding
    if finding.state != "problem":
        yield from _examine_catalog(path, index, repair=repair, files=files)
    yield check_thumbnails(thumbs, repair=repair)
    yield from check_leftovers(path, index, thumbs, repair=repair)


def _examine_catalog(path: Path, index: Path, *, repair: bool, files: bool) -> Iterator[Finding]:
    sound = True
    with examined(path) as (check, mender), closing(Catalog(path)) as catalog:
        for finding in catalog_checks.check_rows(check, mender, catalog, repair=repair):
            sound &= finding.check != "vectors" or finding.state != "problem"
            yield finding
        if files:
            yield from check_files(check)
        if sound:
            yield from IndexDoctor(index, check, catalog, repair=repair).run()
        else:
            yield Finding("index", "note", "not checked while vectors are bad")
