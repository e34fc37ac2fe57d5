"""The pictures' own files: their bytes, out of archives too, and small versions of them."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from mmsearch import archive, decode
from mmsearch.errors import DecodeError, os_reason
from mmsearch.store.catalog import FileLocation
from mmsearch.types import DecodeLimits

logger = logging.getLogger(__name__)

_SIDES = (256, 512, 1024)


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


def read_first(places: Sequence[FileLocation], limits: DecodeLimits) -> bytes:
    """The bytes at the first of these places that can be read.

    places: at least one. Raises the DecodeError of the last one when none can.
    """
    for place in places[:-1]:
        with contextlib.suppress(DecodeError):
            return _read(place, limits)
    return _read(places[-1], limits)


def _read(place: FileLocation, limits: DecodeLimits) -> bytes:
    path = Path(place.path)
    return archive.read_member(path, place.member) if place.member else read_file(path, limits)


class Thumbnails:
    """Small WebP versions of pictures in a folder, by content; deleted ones are made again."""

    def __init__(self, folder: Path, limits: DecodeLimits) -> None:
        self._folder = folder
        self._limits = limits

    def get(self, digest: str, max_side: int, read: Callable[[], bytes]) -> bytes:
        """The thumbnail of the content with this hash, upright, without metadata.

        max_side: in pixels, rounded up to 256, 512 or 1024. read: gives the picture's file, called
            only when there is no thumbnail yet. Raises DecodeError, and what `read` raises.
        """
        side = next((s for s in _SIDES if s >= max_side), _SIDES[-1])
        path = self._folder / digest[:2] / f"{digest}-{side}.webp"
        with contextlib.suppress(OSError):
            return path.read_bytes()
        data = decode.thumbnail(read(), source=digest, max_side=side, limits=self._limits)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{threading.get_ident()}.tmp")
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError as exc:
            # A full disk or a read-only library: the picture is shown all the same.
            logger.warning("thumbnail not kept: %s", exc)
        return data
