"""One writer at a time: a lock on a file, which the system lets go when its process dies."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsearch.errors import LibraryLockedError, StoreError


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
    try:
        with contextlib.suppress(OSError):  # a courtesy to whoever comes second
            holder.write_text(str(os.getpid()), encoding="ascii")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


@contextmanager
def optimizing(folder: Path) -> Iterator[bool]:
    """Holds the lock for putting approximate indexes into the folder of index files.

    Nothing that it keeps apart touches the catalog, so an indexing run and this go on side by side.
    Yields False, at once, where another process holds it. Raises StoreError when the folder cannot
    be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "optimize.lock")
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
    pid = _pid(library / "writer.pid")
    # There, signal 0 is no question: it is Ctrl-C.
    if pid is None or os.name == "nt":
        return pid
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None  # it was killed, and left its name
    except OSError:
        pass  # somebody else's
    return pid


def _pid(holder: Path) -> int | None:
    try:
        return int(holder.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
