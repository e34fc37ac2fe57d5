"""The pictures' own files: their bytes, out of archives too, and small versions of them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mmsearch import archive, decode
from mmsearch.errors import DecodeError, StoreError, os_reason
from mmsearch.store.catalog import FileLocation
from mmsearch.types import DecodeLimits
from mmsearch.watchdog import Workers

logger = logging.getLogger(__name__)

_SIDES = (256, 512, 1024)
#: "RIFF", the size of what follows, "WEBP"; see
#: https://developers.google.com/speed/webp/docs/riff_container.
_WEBP_HEAD = 12
_NOT_TO_BE_WRITTEN = (errno.EROFS, errno.EACCES, errno.EPERM)


def read_file(path: Path, limits: DecodeLimits) -> bytes:
    """The bytes of a file. Raises DecodeError when it cannot be read or is larger than allowed."""
    try:
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except OSError as exc:
        raise DecodeError(str(path), os_reason(exc)) from exc
    if len(data) > limits.max_bytes:
        raise DecodeError(str(path), f"larger than {limits.max_bytes / 1e6:,.0f} MB")
    return data


class Original(NamedTuple):
    """The bytes of a picture's file. as_indexed: they are those that the library knows; otherwise
    the file is another one by now."""

    data: bytes
    as_indexed: bool


def read_first(places: Sequence[FileLocation], limits: DecodeLimits, digest: str) -> Original:
    """The bytes at the first of these places that holds the content with this hash, or else at the
    first that can be read.

    places: at least one. digest: SHA-256 in hexadecimal. Raises the DecodeError of the first one
    when none can be read.
    """
    other: Original | None = None
    error: DecodeError | None = None
    for place in places:
        try:
            data = _read(place, limits)
        except DecodeError as exc:
            error = error or exc
            continue
        if hashlib.sha256(data).hexdigest() == digest:
            return Original(data, as_indexed=True)
        other = other or Original(data, as_indexed=False)
    if other is not None:
        return other
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
