"""The bytes of an archive, given out within limits of time and of what headers may take."""

from __future__ import annotations

import io
import lzma
import time
from typing import IO

_CHUNK = 1 << 20
_MAX_XZ_MEMORY = 256 << 20  # xz -9 takes 65 MiB to unpack
_MAX_HEADER = 4 << 20  # of one member, all its parts


class RefusedError(Exception):
    """A limit was met; the message is the reason.

    whole: nothing more is read of the archive. late: the limit of time, which a slow drive meets
    too.
    """

    def __init__(self, reason: str, *, whole: bool = False, late: bool = False) -> None:
        super().__init__(reason)
        self.whole = whole
        self.late = late


class ArchiveStream(io.RawIOBase):
    """A file to read forward, seekable or not; where it is not, seeking reads on.

    Raises RefusedError when reading goes back where it cannot, when a header takes more bytes than
    any real one, and when too long a time passes in here between two calls of restart().
    """

    def __init__(self, file: IO[bytes], *, seekable: bool) -> None:
        super().__init__()
        self._file = file
        self._seekable = seekable
        self._at = 0
        self._seconds = float("inf")
        self._since = time.monotonic()
        self._header_left: int | None = None
        self._ahead = b""  # read from the file, not yet given out

    def restart(self) -> None:
        """The time counts from now."""
        self._since = time.monotonic()

    def expect_header(self, seconds: float | None = None) -> None:
        """What is read next is a member's header. seconds: sets the limit of time."""
        self._header_left = _MAX_HEADER
        if seconds is not None:
            self._seconds = seconds

    def expect_data(self) -> None:
        """What is read next is a member's content."""
        self._header_left = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise RefusedError("broken: a header of impossible length")
        if self._header_left is not None:
            self._header_left -= size
            if self._header_left < 0:
                raise RefusedError("broken: a header of impossible length")
        return self._read(size)

    def peek_ahead(self, size: int) -> bytes:
        """What read() of so much would give; it is still to be read."""
        ahead = self._ahead = self._ahead + self._read_on(size - len(self._ahead))
        return ahead[:size]

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence != io.SEEK_SET or offset < 0:
            raise RefusedError("broken: a header of impossible length")
        if self._seekable:
            self._look_at_the_clock()
            self._ahead = b""
            self._at = self._file.seek(offset)
            return self._at
        if offset < self._at:
            raise RefusedError("broken: a header of impossible length")
        while self._at < offset and self._read(min(offset - self._at, _CHUNK)):
            pass
        return self._at

    def _read(self, size: int) -> bytes:
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        data += self._read_on(size - len(data))
        self._at += len(data)
        return data

    def _read_on(self, size: int) -> bytes:
        self._look_at_the_clock()
        return self._file.read(size) if size > 0 else b""

    def _look_at_the_clock(self) -> None:
        if time.monotonic() - self._since > self._seconds:
            raise RefusedError(
                f"more than {self._seconds:g} s of reading without coming to another picture",
                late=True,
            )


def xz_stream(file: IO[bytes]) -> IO[bytes]:
    """What an .xz file holds. LZMAFile would take as much memory as the file says it needs."""
    return io.BufferedReader(_Xz(file), _CHUNK)


class _Xz(io.RawIOBase):
    """One or more xz streams, unpacked within _MAX_XZ_MEMORY. Raises LZMAError, EOFError."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self._unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_XZ_MEMORY)
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = b""
        while not data and not self._ended:
            if self._unpacker.eof:
                # What follows is another stream, padding, or nothing.
                rest = (self._unpacker.unused_data or self._file.read(_CHUNK)).lstrip(b"\0")
                if not rest:
                    self._ended = True
                    break
                self._unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_XZ_MEMORY)
                data = self._unpacker.decompress(rest, len(buffer))
            elif self._unpacker.needs_input:
                packed = self._file.read(_CHUNK)
                if not packed:
                    raise EOFError("truncated")
                data = self._unpacker.decompress(packed, len(buffer))
            else:
                data = self._unpacker.decompress(b"", len(buffer))
        buffer[: len(data)] = data
        return len(data)
