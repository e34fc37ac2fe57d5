"""Connections to a catalog: for files that can be written, and for those that cannot."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mmsearch.errors import StoreError

_WAIT_S = 30
#: Bytes free on a disk that may be too full for what SQLite makes beside a catalog.
_LITTLE = 1 << 20
#: mmap_size: pages are read where the system caches them, not copied.
_READING = ("cache_size=-16384", "mmap_size=268435456")
# WAL: readers never wait for the writer. NORMAL is safe against a killed process, and against a
# power cut loses at most the last commits, never the file's consistency.
# secure_delete: what is deleted is overwritten, as many builds do unasked: `sources forget` could
# not find the words of files that went before.
# wal_autocheckpoint: pages, 32 MB (4 MB by default). The log is copied into the file less often,
# which waits for the disk twice, and pages that many small commits changed are copied once.
# journal_size_limit: bytes, as many. A large transaction (a model dropped, a source removed) makes
# the log as large as what it changes, and so it would stay while a server has the library open.
_WRITING = (
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "foreign_keys=ON",
    "secure_delete=ON",
    "wal_autocheckpoint=8000",
    "journal_size_limit=32768000",
)


def writable(path: Path) -> bool:
    """Whether the catalog may be written, and files beside it: SQLite's log needs both.

    False for root too, where the file system is read-only; and on a disk that is full to the last
    byte, where the file can only be read as one that nobody writes.
    """
    if not path.exists():
        return os.access(path.parent, os.W_OK)
    return os.access(path.parent, os.W_OK) and os.access(path, os.W_OK) and not _is_stuck(path)


def _is_stuck(path: Path) -> bool:
    """Whether there is no space for the log's index, without which SQLite does not even read.

    False where a log or a journal has to be read too: without writing that cannot be done.
    """
    if not hasattr(os, "statvfs"):  # Windows
        return False
    try:
        disk = os.statvfs(path.parent)
        if disk.f_bavail * disk.f_frsize > _LITTLE:
            return False  # as it nearly always is: nothing is opened to find out
        for suffix in ("-wal", "-journal"):
            beside = path.with_name(path.name + suffix)
            if beside.exists() and beside.stat().st_size:
                return False
    except OSError:
        return False
    try:
        _open(path, "mode=rw").close()
    except sqlite3.OperationalError as exc:
        return "disk I/O error" in str(exc) or "unable to open" in str(exc)
    except sqlite3.Error:
        return False
    return False


def create_engine(
    path: Path, *, read_only: bool = False, before: Callable[[], None] = lambda: None
) -> sa.Engine:
    """An engine on the SQLite file `path`, in write-ahead-log mode, that waits 30 s for locks.

    read_only: nothing is written, no file made; for a catalog that cannot be written.
    before: called before each connection is made, which it may refuse.
    """

    def connect() -> sqlite3.Connection:
        before()
        return connect_to_read(path)

    if read_only:
        # Each connection is new and lives for one query: somebody else may write the file yet,
        # and a connection that takes it for immutable would not notice.
        engine = sa.create_engine(
            "sqlite://",
            creator=connect,
            poolclass=sa.pool.NullPool,
            hide_parameters=True,
        )
    else:
        # Not as one string: a "?" in a folder's name would begin the options.
        url = sa.URL.create("sqlite", database=str(path))
        # Errors end up in logs, where nothing of what people search for is to stand.
        engine = sa.create_engine(url, connect_args={"timeout": _WAIT_S}, hide_parameters=True)
        sa.event.listen(engine, "do_connect", lambda *_: before())
    pragmas = _READING if read_only else (*_WRITING, *_READING)

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: sqlite3.Connection, _record: Any) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing and makes no file.

    A catalog in write-ahead-log mode is read with the log's index, `catalog.db-shm`. Where that is
    not there and may not be made, and no log either, the file alone is all there is
    (https://www.sqlite.org/wal.html#readonly).

    Raises:
        StoreError: there is a log, which cannot be read without its index, or a journal.
    """
    # Asked before, because SQLite would begin by making an empty log where it can.
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and path.with_name(f"{path.name}-shm").exists():
        return _open(path, "mode=ro&readonly_shm=1")
    journal = path.with_name(f"{path.name}-journal")
    for beside, what in ((log, "what was committed last"), (journal, "how to undo a stopped run")):
        if beside.exists() and beside.stat().st_size:
            raise StoreError(
                f"{path} cannot be read as it is: {what} is still in {beside.name}, which can only "
                "be read where the folder can be written. Copy the library folder to such a place, "
                "or run `mmsearch status` once where it was written, and copy it then"
            )
    return _open(path, "immutable=1")


def _open(path: Path, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}",
        uri=True,
        timeout=_WAIT_S,
        check_same_thread=False,
    )
    try:
        # Nothing is opened before the first look.
        connection.execute("SELECT 1 FROM sqlite_master").close()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Turns the database's own errors into StoreError, with what to do about the common ones."""
    try:
        yield
    except (sa.exc.DatabaseError, sqlite3.Error) as exc:
        cause = str(exc.orig) if isinstance(exc, sa.exc.DatabaseError) else str(exc)
        raise StoreError(f"{path}: {with_advice(cause)}") from exc


def complaints(rows: Iterable[Any]) -> list[str]:
    """The rows of SQLite's quick_check or integrity_check a line each; none for a sound file."""
    lines = [line for row in rows for line in str(row[0]).splitlines()]
    return [line for line in lines if line != "ok" and not line.startswith("***")]  # headings


def is_damage(exc: StoreError) -> bool:
    """Whether SQLite refused the file for what is in it, rather than for the disk or the system."""
    cause = exc.__cause__
    origin = cause.orig if isinstance(cause, sa.exc.DatabaseError) else cause
    # Of the kinds of sqlite3.DatabaseError, "malformed" and "not a database" are of none.
    return type(origin) is sqlite3.DatabaseError


def with_advice(cause: str) -> str:
    """What SQLite says, and what to do about it."""
    if "disk is full" in cause:
        return f"{cause}. What was committed is safe; free some space and run the command again"
    if "disk I/O error" in cause or "unable to open" in cause:
        # SQLite does not say which: a broken disk, one that is full, or one taken away.
        return (
            f"{cause}. What was committed is safe; check that the disk works, has free space and "
            "can be written, and run the command again"
        )
    if "malformed" in cause or "not a database" in cause:
        return (
            f"{cause}. `mmsearch doctor` says what is damaged; restore a backup, or delete the "
            "library folder and index again"
        )
    if "readonly" in cause:
        return f"{cause}. To change the library, copy its folder to a place that can be written"
    return cause
