"""What LibRaw says of a raw file, the preview in it, and its pixels developed."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmsearch.errors import DecodeError, DecoderMissingError, DecodeTimeoutError

if TYPE_CHECKING:
    import rawpy

    from mmsearch.types import Pixels

#: LibRaw's `flip` → the EXIF orientation that says the same (its tiff_head).
_TURNS = {0: 1, 1: 2, 2: 4, 3: 3, 4: 5, 5: 8, 6: 6, 7: 7}
_UNKNOWN = "a raw file of a kind or camera that LibRaw cannot read"
_BROKEN = "broken: its data does not decode"
#: What LibRaw calls itself in EXIF of its own.
_SIGNATURE = b"dcraw v"
_SCRIPT = Path(__file__).with_name("__main__.py")


class UnknownRawError(DecodeError):
    """LibRaw lacks the camera, or how it packs the sensor's values; the file may be whole."""

    def __init__(self, source: str, reason: str = _UNKNOWN) -> None:
        super().__init__(source, reason)


@dataclass(frozen=True, slots=True)
class Shot:
    """What is known of a raw file before it is developed.

    width, height: of the picture as the camera means it, not turned. turn: the EXIF orientation
    that makes it upright. preview: a JPEG, the largest; None where there is none. exif: what LibRaw
    itself has read of camera, time and place, as a TIFF; where the preview has none of its own.
    """

    width: int
    height: int
    turn: int
    preview: bytes | None
    exif: bytes | None


def look_at(data: bytes, source: str, *, with_preview: bool) -> Shot:
    """Reads the head of a raw file, and its preview. Raises DecodeError: LibRaw cannot, or is not
    here (DecoderMissingError).

    with_preview: not of a file that is cut off, where it would be filled up with anything.
    """
    try:
        import rawpy
    except ImportError as exc:
        raise DecoderMissingError(source, "raw files of cameras", "rawpy", str(exc)) from exc
    try:
        # Not by `imread`, which has a warning for whoever forks.
        with rawpy.RawPy() as file:
            file.open_buffer(io.BytesIO(data))
            sizes = file.sizes
            preview = None
            # None, or of a kind that it lacks:
            with contextlib.suppress(rawpy.LibRawError, NotImplementedError):
                found = file.extract_thumb() if with_preview else None
                # Those without compression are of 160 x 120 or so. (And not safe to touch: LibRaw
                # believes their size, whatever the number of their bytes.)
                if found is not None and found.format == rawpy.ThumbFormat.JPEG:
                    preview = found.data
    except rawpy.LibRawFileUnsupportedError as exc:
        raise UnknownRawError(source) from exc
    except rawpy.LibRawIOError as exc:
        raise DecodeError(source, "truncated") from exc
    except rawpy.LibRawError as exc:
        raise DecodeError(source, _BROKEN) from exc
    width, height = _size(sizes)
    exif = None
    if preview is not None:
        assert isinstance(preview, bytes)
        preview, exif = _without_libraws(preview)
    return Shot(width, height, _TURNS.get(sizes.flip, 1), preview, exif)


def _size(sizes: rawpy.ImageSizes) -> tuple[int, int]:
    """Width and height of the picture once it is developed, or as the camera crops it."""
    width, height = sizes.width, sizes.height
    if height > sizes.raw_height:
        return _size_of_tilted(sizes)
    if 0 < sizes.crop_width <= width and 0 < sizes.crop_height <= height:
        width, height = sizes.crop_width, sizes.crop_height
    # Of pixels that are no squares (Nikon D1X) there are more then.
    if 0.1 <= sizes.pixel_aspect < 1:
        height = round(height / sizes.pixel_aspect)
    elif 1 < sizes.pixel_aspect <= 10:
        width = round(width * sizes.pixel_aspect)
    return width, height


def _size_of_tilted(sizes: rawpy.ImageSizes) -> tuple[int, int]:
    """The same of a Super CCD (Fujifilm), whose rows run diagonally: LibRaw says how large a square
    it takes to hold them before they are turned by 45 degrees (its fuji_rotate)."""
    across = sizes.raw_width - 2 * sizes.left_margin
    down = sizes.raw_height - 2 * sizes.top_margin
    # Either every second pixel of a row lies in a row of its own, or every second row does.
    side, _ = min(
        ((across // 2, down), (across, down // 2)), key=lambda of: abs(sum(of) - sizes.width)
    )
    return max(1, round(side * 2**0.5)), max(1, round((sizes.height - side) * 2**0.5))


def _without_libraws(preview: bytes) -> tuple[bytes, bytes | None]:
    """A preview as the camera wrote it, and the EXIF that LibRaw put before it.

    It does so unless the preview begins with EXIF, and hides the orientation of one that has it
    further on.
    """
    end = 4 + int.from_bytes(preview[4:6], "big")
    block = preview[4:end]
    if preview[2:4] != b"\xff\xe1" or block[2:8] != b"Exif\0\0" or _SIGNATURE not in block:
        return preview, None
    return preview[:2] + preview[end:], block[8:]


def develop(
    data: bytes, source: str, *, half: bool, seconds: float, suspect: bool = False
) -> Pixels:
    """The picture from the sensor's values, (height, width, 3) uint8 sRGB, not turned.

    In a process of its own: that can be ended when it takes too long, may crash on a hostile file,
    and keeps what LibRaw has to say of broken ones from the terminal.

    half: each side half as long, several times as quick. suspect: the file may be cut off, and is
    where its last values are all the same. Raises DecodeError: UnknownRawError, DecodeTimeoutError
    among them.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",  # callers decode several pictures at a time already
    }
    how = [name for name, asked in (("half", half), ("suspect", suspect)) if asked]
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(_SCRIPT), *how],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
            env=environment,
            start_new_session=True,  # Ctrl-C lets the picture in hand be finished
        )
    except subprocess.TimeoutExpired as exc:
        raise DecodeTimeoutError(source, "decode", seconds) from exc
    told, _, pixels = done.stdout.partition(b"\n")
    match told.decode("ascii", "replace").split():
        case ["pixels", height, width] if done.returncode == 0:
            shape = int(height), int(width), 3
            if len(pixels) == shape[0] * shape[1] * 3:
                return np.frombuffer(pixels, np.uint8).reshape(shape)
        case ["error", "LibRawFileUnsupportedError" | "LibRawNotImplementedError"]:
            raise UnknownRawError(source)
        case ["error", "LibRawTooBigError" | "LibRawUnsufficientMemoryError" | "MemoryError"]:
            raise DecodeError(source, "too large for the memory of this machine")
        case ["error", "LibRawIOError"]:
            raise DecodeError(source, "truncated")
    raise DecodeError(source, _BROKEN)
