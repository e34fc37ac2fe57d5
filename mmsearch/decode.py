"""Bytes of a picture file to upright RGB pixels, within limits; the one place pictures are decoded.

JPEG goes through simplejpeg, which can scale while it decodes; everything else, and JPEGs that
simplejpeg will not read, through Pillow. Whatever is wrong with the bytes leaves as DecodeError
with a reason for people.
"""

from __future__ import annotations

import io
import math
import threading
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from mmsearch.errors import DecodeError, DecodeTimeoutError
from mmsearch.metadata import Metadata, orientation, read_metadata
from mmsearch.structure import check, check_size, jpeg_metadata_is_sane
from mmsearch.types import DEFAULT_LIMITS, DecodeLimits, PictureInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmsearch.types import Pixels

IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp",
    ".tif", ".tiff", ".avif", ".heic", ".heif", ".hif",
})  # fmt: skip
"""Endings of the names of pictures, lower case. What a file is, its first bytes decide."""

# This module is the owner of Pillow's process-wide limit. Every picture is checked against
# DecodeLimits.max_pixels before it is loaded; a second limit would only forbid or warn in between.
Image.MAX_IMAGE_PIXELS = None

# Imported by name: Image.init() is not thread-safe, and would read far more formats.
_PLUGINS = (
    AvifImagePlugin, BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin,
    TiffImagePlugin, WebPImagePlugin,
)  # fmt: skip

# TIFF, HEIF and AVIF tell their size for certain only when they are unpacked; a PNG may say what it
# has to say after its pixels.
_ALL_IN_HEADER = (["JPEG"], ["WEBP"], ["GIF"], ["BMP"])
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_UNREADABLE = "broken, or a variant of its format that mmsearch cannot read"
_BAND_PIXELS = 1 << 20
_PILLOW_MODULES = r"(PIL|pillow_heif)\."
_heif_lock = threading.Lock()
_heif_ready = False


@dataclass(frozen=True, slots=True)
class Picture:
    """`pixels`: (height, width, 3) uint8 RGB, upright, C-contiguous, alpha composed on white.

    `info` has the upright size of the file; `pixels` may be smaller (see decode).
    """

    pixels: Pixels
    info: PictureInfo


def decode(
    data: bytes,
    *,
    source: str,
    limits: DecodeLimits = DEFAULT_LIMITS,
    min_side: int | None = None,
) -> Picture:
    """Decode the first frame of a picture; `source` names it in errors.

    min_side: the pixels may be fewer than the file's as long as the shorter side stays at least
        this long; None for full size. JPEG alone is scaled while it is decoded, by 1/2, 1/4 or 1/8
        (its blocks are cosines, of which the lowest are enough). Of the others none can: PNG, GIF
        and TIFF hold rows that are unpacked one from the other; libheif decodes whole pictures of
        HEVC and AV1, which predict blocks from their neighbours (the thumbnails in such files are
        of 160 to 512 pixels, and of other processing); libwebp scales only what it has decoded,
        and Pillow reads through its interface for animations, which does not even offer that.

    Raises DecodeError (empty, truncated, broken, not a picture), ImageTooLargeError,
    DecodeTimeoutError. The last is a courtesy: time is looked at where the decoder asks for bytes,
    and not all do; who must not wait forever calls this through mmsearch.watchdog.
    """
    try:
        return _decode(data, source, limits, min_side)
    except DecodeError:
        raise
    # Decoders of untrusted bytes raise anything: OSError, ValueError, SyntaxError, struct.error,
    # KeyError, MemoryError, zlib.error, RuntimeError, EOFError, AssertionError have all been seen.
    except Exception as exc:
        raise DecodeError(source, _reason(exc)) from exc


def read_info(data: bytes, *, source: str, limits: DecodeLimits = DEFAULT_LIMITS) -> PictureInfo:
    """What decode() says of a picture, from its header where that is enough; pixels stay packed.

    Raises what decode() raises, but for damage that only its pixels would show.
    """
    if _formats(data)[:1] not in _ALL_IN_HEADER:
        return decode(data, source=source, limits=limits, min_side=1).info
    try:
        return _read_info(data, source, limits)
    except DecodeError:
        raise
    except Exception as exc:  # as in decode()
        raise DecodeError(source, _reason(exc)) from exc


def _read_info(data: bytes, source: str, limits: DecodeLimits) -> PictureInfo:
    formats = _formats(data)
    check(formats[0], data, source, limits)
    if formats == ["JPEG"] and not jpeg_metadata_is_sane(data, source):
        return decode(data, source=source, limits=limits, min_side=1).info
    _silence_pillow()
    try:
        image = Image.open(_Guarded(data, source, limits.max_seconds), formats=formats)
    except UnidentifiedImageError:
        return decode(data, source=source, limits=limits, min_side=1).info
    width, height = image.size
    check_size(width, height, source, limits)
    if orientation(image) >= 5:
        width, height = height, width
    return _info(formats[0], width, height, read_metadata(image))


def thumbnail(
    data: bytes, *, source: str, max_side: int = 512, limits: DecodeLimits = DEFAULT_LIMITS
) -> bytes:
    """An upright WebP whose longer side is at most `max_side`, without any metadata.

    Raises what decode() raises.
    """
    pixels = decode(data, source=source, limits=limits, min_side=max_side).pixels
    image = Image.fromarray(pixels)
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=82, method=2)
    return out.getvalue()


def _decode(data: bytes, source: str, limits: DecodeLimits, min_side: int | None) -> Picture:
    if not data:
        raise DecodeError(source, "empty file")
    if len(data) > limits.max_bytes:
        raise DecodeError(
            source,
            f"{len(data) / 1e6:,.0f} MB is more than the limit of {limits.max_bytes / 1e6:,.0f} MB "
            "(MMSEARCH_MAX_FILE_BYTES raises it)",
        )
    formats = _formats(data)
    if not formats:
        raise DecodeError(source, "not a picture mmsearch can read")
    check(formats[0], data, source, limits)
    if formats == ["JPEG"] and not jpeg_metadata_is_sane(data, source):
        picture = _bare_jpeg(data, source, limits, min_side)
        if picture is None:
            raise DecodeError(source, _UNREADABLE)
        return picture
    _silence_pillow()
    try:
        # A JPEG is read once, from front to back, and its parts have been counted.
        file = io.BytesIO(data) if formats == ["JPEG"] else None
        image = Image.open(file or _Guarded(data, source, limits.max_seconds), formats=formats)
    except UnidentifiedImageError as exc:
        picture = _bare_jpeg(data, source, limits, min_side) if formats == ["JPEG"] else None
        if picture is None:
            raise DecodeError(source, _reason(exc)) from exc
        return picture
    width, height = image.size
    check_size(width, height, source, limits)

    pixels = _jpeg_pixels(data, min_side) if formats == ["JPEG"] else None
    if pixels is None:
        if min_side is not None and formats == ["JPEG"]:
            image.draft(None, (min_side, min_side))
        image.load()
        pixels = _rgb(image)
        if formats != ["JPEG"]:  # TIFF turns itself upright in load(), HEIF may correct its size
            width, height = image.size
    turn = orientation(image)
    said = read_metadata(image)
    del image  # its pixels, before those of the result are copied
    pixels = _upright(pixels, turn)
    if turn >= 5:
        width, height = height, width
    return Picture(pixels, _info(formats[0], width, height, said))


class _Guarded(io.BytesIO):
    """The bytes of a picture, given out for a limited time and a limited number of times over.

    A file may have its decoder go back and forth in it without end, or name the same bytes as many
    parts of itself.
    """

    def __init__(self, data: bytes, source: str, seconds: float) -> None:
        super().__init__(data)
        self._source = source
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._left = 4 * len(data) + (16 << 20)

    def read(self, size: int | None = -1, /) -> bytes:
        if time.monotonic() > self._end:
            raise DecodeTimeoutError(self._source, "decode", self._seconds)
        data = super().read(size)
        self._left -= len(data)
        if self._left < 0:
            raise DecodeError(self._source, "broken: its parts overlap")
        return data


def _info(kind: str, width: int, height: int, said: Metadata) -> PictureInfo:
    return PictureInfo(
        format=kind,
        width=width,
        height=height,
        taken_at=said.taken_at,
        camera=said.camera,
        latitude=said.latitude,
        longitude=said.longitude,
        title=said.title,
        description=said.description,
        keywords=said.keywords,
    )


def _formats(data: bytes) -> list[str]:
    """The Pillow formats that the first bytes allow, likeliest first; empty for no picture."""
    if data.startswith(b"\xff\xd8\xff"):
        return ["JPEG"]
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return ["PNG"]
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return ["WEBP"]
    if data.startswith((b"GIF87a", b"GIF89a")):
        return ["GIF"]
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return ["TIFF"]
    if data[4:8] == b"ftyp":
        _register_heif()
        return ["AVIF", "HEIF"] if data[8:12] in (b"avif", b"avis") else ["HEIF", "AVIF"]
    # Two letters are little: the sizes of the known BMP headers tell text from a picture.
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return ["BMP"]
    return []


def _register_heif() -> None:
    # Imported at the first HEIC, since it brings a whole video decoder with it.
    global _heif_ready
    with _heif_lock:
        if not _heif_ready:
            import pillow_heif

            # One thread: callers decode several pictures at a time already.
            pillow_heif.register_heif_opener(
                thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
            )
            _heif_ready = True


def _silence_pillow() -> None:
    """Keep Pillow's warnings about broken metadata from being printed, or raised under -W error.

    catch_warnings is not thread-safe in Python 3.11, so nothing is put back: one rule, for the
    modules of Pillow alone, is kept at the head of the list.
    """
    rule = warnings.filters[0] if warnings.filters else None
    if rule is None or getattr(rule[3], "pattern", "") != _PILLOW_MODULES:
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES)


# -- JPEG ----------------------------------------------------------------------------------------


def _jpeg_pixels(data: bytes, min_side: int | None) -> Pixels | None:
    """Pixels by simplejpeg, not turned; None where Pillow should try. Raises for lost data."""
    side = min_side or 0

    def read(*, strict: bool) -> Pixels:
        # Scaling by less than 2 costs more than it saves.
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_height=side, min_width=side, min_factor=2 if side else 1, strict=strict
        )
        return pixels

    try:
        return read(strict=True)
    except ValueError as exc:
        # "Premature end of JPEG file", "premature end of data segment": rows are missing or
        # invented, and Pillow would fill them with grey if an end marker follows.
        said = str(exc).lower()
        if "premature end" in said or "corrupt jpeg data: bad" in said:
            raise
        if "extraneous bytes before marker 0xd9" in said:  # sloppy cameras pad before the end
            return read(strict=False)
        return None


def _bare_jpeg(
    data: bytes, source: str, limits: DecodeLimits, min_side: int | None
) -> Picture | None:
    """A JPEG whose metadata Pillow stumbles over (a cut ICC profile will do), by simplejpeg alone;
    None if that cannot read it either."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False)
        check_size(int(width), int(height), source, limits)
        pixels = _jpeg_pixels(data, min_side)
    except ValueError:
        return None
    if pixels is None:
        return None
    return Picture(pixels, _info("JPEG", int(width), int(height), Metadata()))


# -- pixels --------------------------------------------------------------------------------------


def _rgb(image: Image.Image) -> Pixels:
    """A loaded picture of any mode as (height, width, 3) uint8, alpha composed on white.

    Band by band: what a conversion needs besides is a few MB, whatever the size of the picture.
    """
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    mode = image.mode
    rows = max(1, _BAND_PIXELS // width)
    bands = [(top, min(top + rows, height)) for top in range(0, height, rows)]
    if mode == "I" or mode == "F" or mode.startswith("I;"):
        scale = None if mode.startswith("I;16") else _range(_band(image, *at) for at in bands)
        for top, bottom in bands:
            values = np.asarray(_band(image, top, bottom))
            pixels[top:bottom] = _eight_bits(values, mode, scale)[:, :, None]
        return pixels
    see_through = mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if mode == "RGBA" and image.format == "BMP":
        # Programs that know no alpha leave it at 0 all over.
        see_through = any(_band(image, *at).getchannel("A").getbbox() for at in bands)
    for top, bottom in bands:
        band = _band(image, top, bottom)
        if see_through:
            band = _on_white(band)
        pixels[top:bottom] = np.asarray(band if band.mode == "RGB" else band.convert("RGB"))
    return pixels


def _band(image: Image.Image, top: int, bottom: int) -> Image.Image:
    return image.crop((0, top, image.width, bottom))


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBa", "La"):
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _range(bands: Iterable[Image.Image]) -> tuple[float, float]:
    """The least and the greatest value of a picture; what is no number counts as 0."""
    low, high = math.inf, -math.inf
    for band in bands:
        values = _numbers(np.asarray(band))
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, high


def _numbers(values: NDArray[np.generic]) -> NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _eight_bits(
    values: NDArray[np.generic], mode: str, scale: tuple[float, float] | None
) -> NDArray[np.uint8]:
    """Grey values of 16 or 32 bits, or floating point, as 0 to 255.

    16 bits divide by 257. Wider modes carry no scale: within 0..1 (floating point), 0..255 and
    0..65535 they are taken to mean that, and are stretched from least to greatest otherwise.
    scale: the least and the greatest value of the whole picture, None for 16 bits.
    """
    if scale is None:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    wide, (low, high) = _numbers(values), scale
    if low < 0 or high > 65535:
        wide = (wide - low) * (255 / (high - low)) if high > low else np.zeros_like(wide)
    elif mode == "F" and high <= 1:
        wide = wide * 255
    elif high > 255:
        wide = wide / 257
    return np.rint(wide).astype(np.uint8)


def _upright(pixels: Pixels, turn: int) -> Pixels:
    """Undo an EXIF orientation, 1 to 8 (EXIF 2.32, tag 0x0112)."""
    if turn in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


# -- reasons -------------------------------------------------------------------------------------


def _reason(exc: Exception) -> str:
    """What went wrong, in words for people."""
    said = " ".join(str(exc).lower().split()).removesuffix(" when reading image file")
    if isinstance(exc, MemoryError):
        return "too large for the memory of this machine"
    if isinstance(exc, UnidentifiedImageError):
        return _UNREADABLE
    if any(word in said for word in ("truncated", "premature", "end of file", "unexpected end")):
        return "truncated"
    if isinstance(exc, EOFError) or "eof" in said or "not enough data" in said:
        return "truncated"
    if not any(c.isalpha() for c in said) or said in (
        "broken data stream",
        "cannot load this image",
        "decoder error -2",
    ):
        return "broken: its data does not decode"
    return f"broken ({said[:120]})"
