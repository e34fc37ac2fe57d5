"""One writer at a time: a lock on a file, which the system lets go when its process dies."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.errors import LibraryLockedError, StoreError

if TYPE_CHECKING:
    from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


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
    named: IO[str] | None = None
    try:
        with contextlib.suppress(OSError):  # a courtesy to whoever comes second
            named = _named(holder)
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
        if named is not None:
            named.close()
        lock.release()


def _named(holder: Path) -> IO[str]:
    """The file that names this process, locked while it is open: of a killed one the lock goes, and
    its number may be another process's soon. Raises OSError."""
    file = holder.open("w", encoding="ascii")
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)  # whoever looks holds it for a moment
        file.write(str(os.getpid()))
        file.flush()
    except OSError:
        file.close()
        raise
    return file


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

    Never in the way of one that begins: the library's lock is not touched, only that of the name.
    On Windows also one that was killed, until the next one has ended.
    """
    holder = library / "writer.pid"
    if fcntl is not None:
        try:
            with holder.open(encoding="ascii") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None  # nobody holds it: whoever left its name was killed
        except BlockingIOError:
            pass
        except OSError:
            return None
    return _pid(holder)


def _pid(holder: Path) -> int | None:
    try:
        return int(holder.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
