"""How the terminal finds a service that runs for a library on this machine already.

The service writes a small file into the library folder and keeps it locked while it lives. The lock
dies with its process, so a file that a crash left, or that came along with a copy of the folder, is
not taken for a service. Needs nothing heavy: a search in the terminal waits for this.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mmsearch

if TYPE_CHECKING:
    from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FILE_NAME = "serve.json"
_MAX_BYTES = 10_000
#: How often a service looks whether the one that was there before it is gone.
_AGAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Announcement:
    """A running service. address: "http://127.0.0.1:8080". token: lets this user read with it.

    machine: the name of the one it runs on: a library may lie on a drive that several share.
    """

    address: str
    token: str
    pid: int
    started: float
    version: str
    library: str
    machine: str


@contextmanager
def announced(library: Path, address: str, token: str, started: float) -> Iterator[None]:
    """Within, other processes of this user find the service with `find`; where another service of
    the library has said so first, as soon as that one has ended.

    Does nothing where the folder cannot be written, or where the system has no such locks.
    """
    about = Announcement(
        address,
        token,
        os.getpid(),
        started,
        mmsearch.__version__,
        str(library.resolve()),
        platform.node(),
    )
    word = _Word(library / FILE_NAME, about)
    word.give()
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(_AGAIN_S):
            word.give()

    thread = threading.Thread(target=keep, name="mmsearch-announce", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        word.take_back()


class _Word:
    """What one service says of itself, while it holds the lock of the file that says so."""

    def __init__(self, file: Path, about: Announcement) -> None:
        self._file = file
        self._about = about
        self._folder = _stat_of(file.parent)
        self._held: IO[str] | None = None

    def give(self) -> None:
        """Says so, unless another service does."""
        at_home = _stat_of(self._file.parent) == self._folder is not None
        lost = at_home and _stat_of(self._file) is None
        if self._held is not None and (lost or self._is_anothers()):
            # Somebody deleted it; or of two that began at once, or the library was moved and there
            # is another one.
            self._held.close()
            self._held = None
        if self._held is None and at_home:
            with contextlib.suppress(OSError):
                self._held = _write(self._file, self._about)

    def take_back(self) -> None:
        """Says so no longer."""
        if self._held is not None:
            if not self._is_anothers():
                with contextlib.suppress(OSError):
                    self._file.unlink()
            self._held.close()

    def _is_anothers(self) -> bool:
        assert self._held is not None
        there = _stat_of(self._file)
        return there is not None and there != _identity(os.fstat(self._held.fileno()))


def _stat_of(path: Path) -> tuple[int, int] | None:
    try:
        return _identity(path.stat())
    except OSError:
        return None


def _identity(said: os.stat_result) -> tuple[int, int]:
    return said.st_dev, said.st_ino


def _write(file: Path, about: Announcement) -> IO[str] | None:
    if fcntl is None or find(file.parent) is not None:
        return None
    # Locked and whole before it bears its name, and from the start for its owner alone.
    fresh = file.with_name(f"{file.name}.{os.urandom(4).hex()}.new")
    try:
        number = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        held = os.fdopen(number, "w", encoding="utf-8")
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        json.dump(asdict(about), held)
        held.flush()
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)
    return held


def find(library: Path) -> Announcement | None:
    """The service that runs now, here, for this library, in this version; None if there is none.

    Only one of the same user counts: who else can write into the folder could name any address.
    """
    if fcntl is None:
        return None
    try:
        with (library / FILE_NAME).open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return None
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                about = Announcement(**json.loads(file.read(_MAX_BYTES)))
            else:
                return None  # nobody holds it: who wrote it is gone
        here = str(library.resolve())
    except (OSError, ValueError, TypeError):
        return None
    known = (mmsearch.__version__, here, platform.node())
    return about if (about.version, about.library, about.machine) == known else None
