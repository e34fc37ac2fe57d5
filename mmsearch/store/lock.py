"""One writer at a time: a lock on a file, which the system lets go when its process dies."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mmsearch.errors import LibraryLockedError, StoreError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


#: The file of the lock for approximate indexes, in the folder of index files.
_OPTIMIZING = "optimize.lock"


@contextmanager
def writing(library: Path) -> Iterator[None]:
    """Makes the library folder if need be and holds its write lock.

    Raises:
        LibraryLockedError: another process holds it.
        StoreError: the folder cannot be made or written.
    """
    # Who only searches need not wait for it to be imported.
    from filelock import FileLock, Timeout

    holder = library / "writer.pid"
    try:
        library.mkdir(parents=True, exist_ok=True)
        lock = FileLock(library / "writer.lock")
        lock.acquire(timeout=0)
    except Timeout as exc:
        raise LibraryLockedError(str(library), _pid(holder)) from exc
    except OSError as exc:
        message = f"the library at {library} cannot be written: {exc.strerror}"
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            message += ". Free some space and run the command again"
        elif library.is_dir():
            message += ". Searching it works; to change it, copy the folder to where it can be"
        else:
            message += ". -l/--library or MMSEARCH_LIBRARY chooses another place"
        raise StoreError(message) from exc
    signed: IO[str] | None = None
    try:
        with contextlib.suppress(OSError):  # a courtesy to whoever comes second
            signed = _sign(holder)
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
        if signed is not None:
            signed.close()
        lock.release()


def _sign(holder: Path) -> IO[str] | None:
    """Writes down which process this is. What is returned is to be kept open as long as that says
    who writes: it locks the file, where there are such locks.

    The number alone would not tell: containers that share a library each count their processes from
    1 on, and so does the one that is started after a crash.
    """
    if fcntl is None:
        holder.write_text(str(os.getpid()), encoding="ascii")
        return None
    # Locked and whole before it bears its name.
    fresh = holder.with_name(f"{holder.name}.new")
    file = fresh.open("w", encoding="ascii")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write(str(os.getpid()))
        file.flush()
        fresh.replace(holder)
    except BaseException:
        file.close()
        raise
    return file


def lock_is_there(folder: Path) -> bool:
    """Whether the file of that lock lies in the folder: without it nobody holds the lock."""
    return (folder / _OPTIMIZING).exists()


@contextmanager
def optimizing(folder: Path) -> Iterator[bool]:
    """Holds the lock for putting approximate indexes into the folder of index files.

    Nothing that it keeps apart touches the catalog, so an indexing run and this go on side by side.
    Yields False, at once, where another process holds it. Raises StoreError when the folder cannot
    be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _OPTIMIZING)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as exc:
        raise StoreError(f"{folder} cannot be written: {exc.strerror}") from exc
    try:
        yield True
    finally:
        lock.release()


def writer_of(library: Path) -> int | None:
    """The process that writes to the library now; None where none does, or none can be named.

    Never in the way of one that begins: the lock itself is not touched. On Windows also one that
    was killed, until the next one has ended.
    """
    holder = library / "writer.pid"
    if fcntl is None:
        return _pid(holder)
    try:
        with holder.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid(holder)
    except OSError:
        pass  # there is no such file
    return None  # or whoever wrote it is gone


def _pid(holder: Path) -> int | None:
    try:
        return int(holder.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
