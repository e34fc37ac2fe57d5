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
    """Within, other processes of this user find the service with `find`.

    Does nothing where the folder cannot be written, where another service of the library has said
    so first, or where the system has no such locks.
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
    file = library / FILE_NAME
    held = None
    with contextlib.suppress(OSError):
        held = _write(file, about)
    try:
        yield
    finally:
        if held is not None:
            with contextlib.suppress(OSError):
                # Where the library was moved, another one may be there by now, and its service.
                if os.path.samestat(os.fstat(held.fileno()), file.stat()):
                    file.unlink()
            held.close()


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
