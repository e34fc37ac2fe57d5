"""A copy of the catalog as it was at one moment, made while it is read and written."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from mmsearch.errors import StoreError
from mmsearch.store.connect import (
    complaints,
    connect_to_read,
    create_engine,
    translate_errors,
    writable,
)
from mmsearch.store.rows import now
from mmsearch.store.schema import space


def copy_catalog(path: Path, to: Path) -> None:
    """Copies the catalog at `path` to the file `to`, which appears whole or not at all.

    SQLite copies all pages within one read transaction: writers go on meanwhile, and what they
    commit after its beginning is not in the copy.

    Raises:
        StoreError: the catalog is damaged, or the copy could not be written. There is none then.
    """
    temporary = to.with_name(f"{to.name}.tmp")
    _remove(temporary)
    try:
        with translate_errors(path):
            with closing(_reader(path)) as ours, closing(sqlite3.connect(temporary)) as copy:
                _copy(ours, copy)
            with closing(connect_to_read(temporary)) as copy:
                found = complaints(copy.execute("PRAGMA quick_check(3)"))
        if found:
            raise StoreError(
                f"{path} is damaged ({'; '.join(found[:3])}): no copy was made. `mmsearch doctor` "
                "says more; restore an earlier backup, or delete the catalog and index again"
            )
        sync(temporary)
        temporary.replace(to)
        sync_folder(to.parent)
    except OSError as exc:
        raise StoreError(
            f"{to} cannot be written: {exc.strerror}. Check that its disk works and has free "
            "space, and run the command again"
        ) from exc
    finally:
        _remove(temporary)


def _copy(ours: sqlite3.Connection, copy: sqlite3.Connection) -> None:
    """Copies all pages. Raises OSError when the disk of the copy, the only one written, is full."""
    try:
        ours.backup(copy)
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from exc
        raise


def _reader(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path) if writable(path) else connect_to_read(path)


def _remove(temporary: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        with contextlib.suppress(OSError):
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until the file's bytes are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Waits until the names in a folder are on the disk, where the system can do that."""
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def renew_origins(path: Path) -> None:
    """Lets the spaces of the catalog at `path` begin now.

    A copy and what it was made from go different ways: index files of the one must never be taken
    for those of the other, not even when a copy is put back beside the index files that were there.
    """
    with translate_errors(path):
        engine = create_engine(path)
        try:
            with engine.begin() as connection:
                connection.execute(sa.update(space).values(created_at=now()))
        finally:
            engine.dispose()
