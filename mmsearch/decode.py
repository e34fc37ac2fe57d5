"""Bytes of a picture file to upright RGB pixels, within limits; the one place pictures are decoded.

JPEG goes through simplejpeg, which can scale while it decodes; everything else, and JPEGs that
simplejpeg will not read, through Pillow. Whatever is wrong with the bytes leaves as DecodeError
with a reason for people.
"""

from __future__ import annotations

import io
import logging
import threading
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

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

from mmsearch import raw
from mmsearch.errors import DecodeError, DecoderMissingError, DecodeTimeoutError
from mmsearch.metadata import Metadata, filled, orientation, read_blocks, read_metadata
from mmsearch.pixels import to_rgb, upright
from mmsearch.raw import RAW_SUFFIXES
from mmsearch.raw.exif import of_libraw
from mmsearch.raw.exif import read_blocks as exif_of_raw
from mmsearch.structure import check, check_size, jpeg_metadata_is_sane
from mmsearch.types import DEFAULT_LIMITS, DecodeLimits, PictureInfo

if TYPE_CHECKING:
    from mmsearch.raw.libraw import Shot
    from mmsearch.types import Pixels

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp",
    ".tif", ".tiff", ".avif", ".heic", ".heif", ".hif",
}) | RAW_SUFFIXES  # fmt: skip
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
_PILLOW_MODULES = r"(PIL|pillow_heif)\."
#: A preview with so much of the length of the sides is as good as the whole.
_NEARLY = 0.9
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
    if _formats(data, source)[:1] not in _ALL_IN_HEADER:
        return decode(data, source=source, limits=limits, min_side=1).info
    try:
        return _read_info(data, source, limits)
    except DecodeError:
        raise
    except Exception as exc:  # as in decode()
        raise DecodeError(source, _reason(exc)) from exc


def _read_info(data: bytes, source: str, limits: DecodeLimits) -> PictureInfo:
    formats = _formats(data, source)
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
    formats = _formats(data, source)
    if not formats:
        raise DecodeError(source, "not a picture mmsearch can read")
    found = (
        _unpacked_raw(data, formats[0], source, limits, min_side)
        if formats[0] in raw.FORMATS
        else _unpacked(data, formats, source, limits, min_side)
    )
    return found.upright()


@dataclass(slots=True)
class _Unpacked:
    """A picture as it is stored. pixels: perhaps fewer than width x height, not turned. turn: the
    EXIF orientation, None where it has none."""

    kind: str
    pixels: Pixels
    width: int
    height: int
    turn: int | None
    said: Metadata

    def upright(self) -> Picture:
        turn = self.turn or 1
        pixels, self.pixels = self.pixels, self.pixels[:0]  # what is turned is not held twice
        width, height = (self.width, self.height)[:: -1 if turn >= 5 else 1]
        return Picture(upright(pixels, turn), _info(self.kind, width, height, self.said))


def _unpacked(
    data: bytes, formats: list[str], source: str, limits: DecodeLimits, min_side: int | None
) -> _Unpacked:
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
        pixels = to_rgb(image)
        if formats != ["JPEG"]:  # TIFF turns itself upright in load(), HEIF may correct its size
            width, height = image.size
    turn = orientation(image, 0) or None
    return _Unpacked(formats[0], pixels, width, height, turn, read_metadata(image))


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


def _formats(data: bytes, source: str) -> list[str]:
    """The Pillow formats that the first bytes allow, likeliest first, or one of raw.FORMATS; empty
    for no picture. Raises DecoderMissingError."""
    if data.startswith(b"\xff\xd8\xff"):
        return ["JPEG"]
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return ["PNG"]
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return ["WEBP"]
    if data.startswith((b"GIF87a", b"GIF89a")):
        return ["GIF"]
    raw_format = raw.kind(data)
    if raw_format is not None:
        return [raw_format]
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return ["TIFF"]
    if data[4:8] == b"ftyp":
        _register_heif(source)
        return ["AVIF", "HEIF"] if data[8:12] in (b"avif", b"avis") else ["HEIF", "AVIF"]
    # Two letters are little: the sizes of the known BMP headers tell text from a picture.
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return ["BMP"]
    return []


def _register_heif(source: str) -> None:
    # Imported at the first HEIC, since it brings a whole video decoder with it.
    global _heif_ready
    with _heif_lock:
        if not _heif_ready:
            try:
                import pillow_heif
            except ImportError as exc:
                raise DecoderMissingError(source, "HEIC files", "pillow-heif", str(exc)) from exc
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
) -> _Unpacked | None:
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
    return _Unpacked("JPEG", pixels, int(width), int(height), None, Metadata())


# -- raw files -----------------------------------------------------------------------------------


def _unpacked_raw(
    data: bytes, kind: str, source: str, limits: DecodeLimits, min_side: int | None
) -> _Unpacked:
    """A raw file by the preview that the camera made, where that is large enough, or developed.

    The preview has all that was taken, in the camera's own colours, and costs a tenth. Should
    developing fail (a compression that LibRaw lacks), a small one is better than none.
    """
    from mmsearch.raw import libraw

    if raw.is_cut(data, kind):
        raise DecodeError(source, "truncated")
    seems_cut = raw.seems_cut(data, kind)
    shot = libraw.look_at(data, source, with_preview=not seems_cut)
    width, height = shot.width, shot.height
    check_size(width, height, source, limits)
    shorter = min(width, height)
    wanted = min(shorter * _NEARLY, shorter if min_side is None else min_side)
    preview = _preview(shot, source, limits, min_side)
    pixels = None
    _silence_pillow()
    if preview is None or min(preview.width, preview.height) < wanted:
        half = min_side is not None and shorter // 2 >= min_side
        try:
            pixels = libraw.develop(
                data, source, half=half, seconds=limits.max_seconds, suspect=seems_cut
            )
        except libraw.UnknownRawError:
            if seems_cut:  # nothing tells whether it is
                shot = libraw.look_at(data, source, with_preview=True)
                preview = _preview(shot, source, limits, min_side)
            if preview is None:
                raise
        except DecodeError as exc:
            if seems_cut and not isinstance(exc, DecodeTimeoutError):
                raise DecodeError(source, "truncated") from exc
            if preview is None:
                raise

    def opened(part: bytes) -> _Guarded:
        return _Guarded(part, source, limits.max_seconds)

    said = read_blocks(*exif_of_raw(data, kind, opened))
    if preview is not None:
        said = filled(said, preview.said)
    if shot.exif is not None:
        said = filled(said, read_blocks(of_libraw(shot.exif, opened), None))
    if shot.turn >= 5:
        width, height = height, width
    turn = shot.turn
    if preview is not None:
        its = _turn_of(preview, shot)
        if pixels is None:
            pixels, turn = preview.pixels, its
        across, down = (preview.width, preview.height)[:: -1 if its >= 5 else 1]
        # LibRaw counts some pixels of the rim that the camera leaves out, or the other way around.
        if all(_NEARLY <= a / b <= 1 / _NEARLY for a, b in ((across, width), (down, height))):
            width, height = across, down
    assert pixels is not None
    return _Unpacked(kind, upright(pixels, turn), width, height, None, said)


def _preview(
    shot: Shot, source: str, limits: DecodeLimits, min_side: int | None
) -> _Unpacked | None:
    if shot.preview is None or _formats(shot.preview, source) != ["JPEG"]:
        return None
    try:
        return _unpacked(shot.preview, ["JPEG"], source, limits, min_side)
    except DecodeTimeoutError:
        raise
    except Exception:  # as in decode(); what the sensor saw may be whole
        logger.debug("%s: its preview is broken", source, exc_info=True)
        return None


def _turn_of(preview: _Unpacked, shot: Shot) -> int:
    """What makes the preview upright: its own orientation, or the file's, or it is so already.

    Some say in the preview how it is stored, some only in the file, and some programs turn previews
    and leave the orientation as it was: that shows where it would lie across the picture.
    """
    tall = (shot.height > shot.width) != (shot.turn >= 5)
    for turn in (preview.turn, shot.turn, 1):
        if turn is not None and ((preview.height > preview.width) != (turn >= 5)) == tall:
            return turn
    return shot.turn


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
