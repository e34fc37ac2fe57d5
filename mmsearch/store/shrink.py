"""Giving the space that the catalog no longer needs back to the disk.

SQLite keeps the pages of what was deleted for what comes, and where only some rows of a page went
the others stay alone in it: vectors, which come at the end of their table, never fill it again.
After half of a library was removed that is half of its file, which only VACUUM makes smaller: it
writes all that is left once more, into a temporary file and from there, through the log, into the
catalog. That is one transaction: a kill leaves the catalog as it was, and readers go on meanwhile.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mmsearch.errors import StoreError, os_reason
from mmsearch.points import reached
from mmsearch.store.connect import connect_to_read, translate_errors, writable

logger = logging.getLogger(__name__)

#: What is free in a catalog is given back from so many bytes on, and from this share of it on.
WORTH_BYTES = 16 << 20
WORTH_SHARE = 0.25
#: What is left is written twice before the old is freed, and a little is to remain.
_COPIES = 2
_REMAINS = 64 << 20


#: What goes with a vector of the rows of its content and their indexes; of 400,000 pictures with
#: captions it is some 500 bytes.
_ROWS_BYTES = 400


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of a catalog. free: about so many of them nothing is in; empty: those of whole pages.

    gone: how many vectors were deleted since it was made.
    """

    bytes: int
    free: int
    empty: int
    gone: int

    @property
    def is_worth_it(self) -> bool:
        """Whether there is so much that giving it back is worth writing the rest anew."""
        return self.free >= max(WORTH_BYTES, WORTH_SHARE * self.bytes)

    @property
    def needs(self) -> int:
        """Bytes that must be free on the disk for that."""
        return _COPIES * (self.bytes - self.empty) + _REMAINS


def room(path: Path) -> Room:
    """How much of the catalog at `path` is free. Raises StoreError when it cannot be read."""
    reader = sqlite3.connect(path) if writable(path) else connect_to_read(path)
    with translate_errors(path), closing(reader) as ours:
        return room_of(ours)


def room_of(connection: sqlite3.Connection) -> Room:
    """The same of the catalog that a connection has open. Counts the vectors."""

    def number(query: str) -> int:
        row = connection.execute(query).fetchone()
        return 0 if row is None else int(row[0] or 0)

    page = number("PRAGMA page_size")
    size, empty = page * number("PRAGMA page_count"), page * number("PRAGMA freelist_count")
    given = number("SELECT seq FROM sqlite_sequence WHERE name = 'embedding'")
    gone = given - number("SELECT count(*) FROM embedding")
    vector = number("SELECT length(vector) FROM embedding ORDER BY seq DESC LIMIT 1")
    # `shrink` notes how many there were then.
    scattered = (gone - number("PRAGMA user_version")) * (vector + _ROWS_BYTES)
    return Room(size, min(max(empty, scattered), size), empty, gone)


def shrink(path: Path) -> int:
    """Gives what is free in the catalog at `path` back. How many bytes that were.

    The caller holds the library's write lock. While others read a state from before, the file stays
    as it is; it gets smaller with the next commit after that.

    Raises StoreError: the disk has no room for what is written on the way. Nothing was changed.
    """
    with translate_errors(path), closing(sqlite3.connect(path, isolation_level=None)) as ours:
        before = room_of(ours)
        if not before.free:
            return 0
        try:
            free = shutil.disk_usage(path.parent).free
        except OSError as exc:
            raise StoreError(f"the disk of {path} cannot be asked: {os_reason(exc)}") from exc
        if free < before.needs:
            raise StoreError(
                f"{before.free / 1e6:,.0f} MB of {path} could be given back to the disk, but "
                f"{before.needs / 1e6:,.0f} MB must be free there for that, and "
                f"{free / 1e6:,.0f} MB are. Free some space, then: mmsearch optimize"
            )
        # Beside the catalog and not where the system keeps such files: that may be memory.
        folder = str(path.parent.absolute()).replace("'", "''")
        ours.execute(f"PRAGMA temp_store_directory = '{folder}'").close()
        try:
            ours.execute("PRAGMA temp_store=FILE").close()
            reached("shrink: begun")
            ours.execute("VACUUM").close()
            reached("shrink: committed")
            ours.execute(f"PRAGMA user_version = {before.gone}").close()
        finally:
            ours.execute("PRAGMA temp_store_directory = ''").close()
        ours.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
        return before.bytes - room_of(ours).bytes


def shrink_if_worth_it(path: Path) -> None:
    """The same after much was deleted. What is in the way is told, and no error: all is well."""
    try:
        if room(path).is_worth_it:
            shrink(path)
    except StoreError as exc:
        logger.warning("%s", exc)
