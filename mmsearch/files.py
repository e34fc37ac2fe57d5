"""The pictures' own files: their bytes, out of archives too, and small versions of them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from mmsearch import archive, decode
from mmsearch.errors import DecodeError, StoreError, os_reason
from mmsearch.store.catalog import FileLocation
from mmsearch.types import DecodeLimits
from mmsearch.watchdog import Workers

logger = logging.getLogger(__name__)

_Read = TypeVar("_Read")

#: What is in memory at once of a file that is read in pieces.
PIECE_BYTES = 256 << 10
_SIDES = (256, 512, 1024)
#: "RIFF", the size of what follows, "WEBP"; see
#: https://developers.google.com/speed/webp/docs/riff_container.
_WEBP_HEAD = 12
_NOT_TO_BE_WRITTEN = (errno.EROFS, errno.EACCES, errno.EPERM)


def read_file(path: Path, limits: DecodeLimits) -> bytes:
    """The bytes of a file. Raises DecodeError when it cannot be read or is larger than allowed."""
    with _opened(path) as file:
        data = file.read(limits.max_bytes + 1)
    _check_size(path, len(data), limits)
    return data


class Original(NamedTuple):
    """The bytes of a picture's file. as_indexed: they are those that the library knows; otherwise
    the file is another one by now."""

    data: bytes
    as_indexed: bool


class FileInPieces:
    """A picture's file that is not read whole: what lies on a drive is opened for each piece, so
    that any number of these hold neither memory nor files. What lies in an archive is in memory.

    size: in bytes. as_indexed: as `Original` has it. Its methods may be called from any thread.
    """

    def __init__(self, path: Path, limits: DecodeLimits) -> None:
        """Reads the file at `path` once, or not at all where it was lately and is the same.

        Raises DecodeError as `read_file` does.
        """
        digest = hashlib.sha256()
        self.as_indexed = True
        self._path = path
        self._data: bytes | None = b""
        with _opened(self._path) as file:
            self._version = _version(file)
            self.size = self._version[0]
            _check_size(path, self.size, limits)
            signed = _sign(file)
            known = _digests.of(path, signed) if self.size > PIECE_BYTES else None
            if known is not None:
                self.digest, self._data = known, None
                return
            seen = 0
            while piece := file.read(PIECE_BYTES):
                seen += len(piece)
                _check_size(path, seen, limits)
                digest.update(piece)
                self._data = piece if seen == len(piece) == self.size else None
            self.digest = digest.hexdigest()
            if seen == self.size > PIECE_BYTES and _sign(file) == signed:
                _digests.note(path, signed, self.digest)

    @classmethod
    def unpacked(cls, path: Path, data: bytes) -> FileInPieces:
        """The same of `data`, which `path` holds as a member."""
        file = cls.__new__(cls)
        file.as_indexed = True
        file.size = len(data)
        file.digest = hashlib.sha256(data).hexdigest()
        file._path, file._data = path, data
        return file

    @property
    def held(self) -> int:
        """How many of its bytes are in memory."""
        return 0 if self._data is None else len(self._data)

    def read(self, start: int, size: int) -> bytes:
        """So many bytes from `start` on; both within the file.

        Raises DecodeError: it cannot be read any more, or it is another one than at first.
        """
        if self._data is not None:
            return self._data[start : start + size]
        with _opened(self._path) as file:
            if _version(file) == self._version:
                file.seek(start)
                data = file.read(size)
                # Once more: what was read while it was written may be of both.
                if len(data) == size and _version(file) == self._version:
                    return data
        raise DecodeError(str(self._path), "it was changed while it was read")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, to be read. Raises DecodeError, also for what reading it within comes to."""
    try:
        with open(path, "rb", opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DecodeError(str(path), "not a file")
            yield file
    except OSError as exc:
        raise DecodeError(str(path), os_reason(exc)) from exc


def _at_once(path: str, flags: int) -> int:
    # A pipe that has come in the place of a file would be waited for until somebody writes to it.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _version(file: IO[bytes]) -> tuple[int, int, int, int]:
    """What tells a file from another one of its name, and from itself after it was written to. The
    size comes first."""
    said = os.fstat(file.fileno())
    return said.st_size, said.st_mtime_ns, said.st_ino, said.st_dev


class _Signed(NamedTuple):
    """What tells a file from itself after anything was changed about it: its version, and when that
    was, which nobody can set."""

    version: tuple[int, int, int, int]
    changed_ns: int


def _sign(file: IO[bytes]) -> _Signed:
    return _Signed(_version(file), os.fstat(file.fileno()).st_ctime_ns)


class _Digests:
    """The hashes of large files that were read whole lately: who asks for part after part of one
    does not have all of it read each time. Thread-safe."""

    _MOST = 1024
    #: A file that was written to so shortly before may be written to again at the same time by its
    #: clock, and be another one of which nothing tells.
    _RECENT_NS = 2_000_000_000

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Path, tuple[_Signed, str]] = OrderedDict()

    def of(self, path: Path, signed: _Signed) -> str | None:
        """The hash of a file, in hexadecimal, if it is known."""
        with self._lock:
            known, digest = self._known.get(path, (None, None))
            if known != signed:
                return None
            self._known.move_to_end(path)
            return digest

    def note(self, path: Path, signed: _Signed, digest: str) -> None:
        """This is the hash of a file that was the same before and after it was read."""
        if time.time_ns() - max(signed.version[1], signed.changed_ns) < self._RECENT_NS:
            return
        with self._lock:
            self._known[path] = signed, digest
            self._known.move_to_end(path)
            if len(self._known) > self._MOST:
                self._known.popitem(last=False)


_digests = _Digests()


def _check_size(path: Path, size: int, limits: DecodeLimits) -> None:
    if size > limits.max_bytes:
        raise DecodeError(str(path), f"larger than {limits.max_bytes / 1e6:,.0f} MB")


def read_first(places: Sequence[FileLocation], limits: DecodeLimits, digest: str) -> Original:
    """The bytes at the first of these places that holds the content with this hash, or else at the
    first that can be read.

    places: at least one. digest: SHA-256 in hexadecimal. Raises the DecodeError of the first one
    when none can be read.
    """

    def read(place: FileLocation) -> tuple[bytes, str]:
        data = _read(place, limits)
        return data, hashlib.sha256(data).hexdigest()

    return Original(*_first(places, read, digest))


def find_first(places: Sequence[FileLocation], limits: DecodeLimits, digest: str) -> FileInPieces:
    """The same, to be read in pieces; files before members of archives."""

    def look(place: FileLocation) -> tuple[FileInPieces, str]:
        path = Path(place.path)
        if place.member:
            found = FileInPieces.unpacked(path, archive.read_member(path, place.member))
        else:
            found = FileInPieces(path, limits)
        return found, found.digest

    files_first = sorted(places, key=lambda place: bool(place.member))
    found, as_indexed = _first(files_first, look, digest)
    found.as_indexed = as_indexed
    return found


def _first(
    places: Sequence[FileLocation], read: Callable[[FileLocation], tuple[_Read, str]], digest: str
) -> tuple[_Read, bool]:
    """What `read` gives of the right place, and whether it has the hash `digest`. `read` gives the
    hash of what it has read, too."""
    other: list[_Read] = []
    error: DecodeError | None = None
    for place in places:
        try:
            found, of_found = read(place)
        except DecodeError as exc:
            error = error or exc
            continue
        if of_found == digest:
            return found, True
        other = other or [found]
    if other:
        return other[0], False
    assert error is not None
    raise error


def _read(place: FileLocation, limits: DecodeLimits) -> bytes:
    path = Path(place.path)
    return archive.read_member(path, place.member) if place.member else read_file(path, limits)


class Thumbnails:
    """Small WebP versions of pictures in a folder, by content; deleted ones are made again.

    They are written without fsync, which would cost more than most of the decoding: a power cut may
    leave one torn, and that is noticed when it is read.
    """

    def __init__(self, folder: Path, limits: DecodeLimits, workers: Workers | None = None) -> None:
        """workers: make the thumbnails, so that none is waited for longer than they allow."""
        self._folder = folder
        self._limits = limits
        self._workers = workers or Workers(
            1, limits.max_seconds, name="mmsearch-thumbnail", max_stuck=1
        )

    def get(self, digest: str, max_side: int, read: Callable[[], Original]) -> Original:
        """The thumbnail of the content with this hash, upright, without metadata.

        max_side: in pixels, rounded up to 256, 512 or 1024. read: gives the picture's file, called
            only when there is no whole thumbnail yet; where that is another one by now, so is the
            thumbnail, which is not kept. Raises DecodeError, and what `read` raises.
        """
        side = next((s for s in _SIDES if s >= max_side), _SIDES[-1])
        path = self._folder / digest[:2] / f"{digest}-{side}.webp"
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            if _is_whole(data[:_WEBP_HEAD], len(data)):
                return Original(data, as_indexed=True)
            logger.warning("%s is not whole: made again", path)

        def make() -> Original:
            data, as_indexed = read()
            small = decode.thumbnail(data, source=digest, max_side=side, limits=self._limits)
            return Original(small, as_indexed)

        made = self._workers.run(make, digest)
        if made.as_indexed:
            self._keep(path, made.data)
        return made

    def _keep(self, path: Path, data: bytes) -> None:
        try:
            # Not the library's own: one that was moved is not begun anew in its old place.
            self._folder.mkdir(exist_ok=True)
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_suffix(f".{threading.get_ident()}.tmp")
            try:
                temporary.write_bytes(data)
                temporary.replace(path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as exc:
            # The picture is shown all the same. That a read-only library keeps none is no news.
            level = logging.DEBUG if exc.errno in _NOT_TO_BE_WRITTEN else logging.WARNING
            logger.log(level, "thumbnail not kept: %s", exc)


def delete_thumbnails(folder: Path, digests: Iterable[str]) -> None:
    """Deletes the thumbnails of the contents with these hashes; there need not be any.

    Raises:
        StoreError: one could not be deleted. Who promised that it goes must not go on.
    """
    for digest in digests:
        for side in _SIDES:
            path = folder / digest[:2] / f"{digest}-{side}.webp"
            try:
                path.unlink(missing_ok=True)
            except OSError as exc:
                raise StoreError(f"{path} could not be deleted: {os_reason(exc)}") from exc


def torn_thumbnails(folder: Path) -> Iterator[Path]:
    """The thumbnails in the folder that are not whole."""
    for path in sorted(folder.glob("??/*.webp")):
        try:
            with path.open("rb") as file:
                if not _is_whole(file.read(_WEBP_HEAD), path.stat().st_size):
                    yield path
        except FileNotFoundError:
            continue
        except OSError:
            yield path


def _is_whole(head: bytes, size: int) -> bool:
    """Whether a WebP file that begins with `head` has the size that it says it has."""
    says = int.from_bytes(head[4:8], "little") + 8
    return head[:4] == b"RIFF" and head[8:] == b"WEBP" and size == says
