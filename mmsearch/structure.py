"""What a picture's file is made of, looked at before its decoder sees it.

Some decoders set memory aside, or go through the file, for as much as it claims before they can be
asked for the size of the picture; some read past damage. What this looks at takes time in
proportion to the file, and no memory.
"""

from __future__ import annotations

import struct
import zlib

from mmsearch.errors import DecodeError, ImageTooLargeError
from mmsearch.types import DecodeLimits

#: Chunks of a PNG, segments of a JPEG's head, strips of a TIFF, blocks of a GIF before its first
#: frame. The decoders keep something of each; a picture of a gigabyte has a tenth as many.
MAX_PARTS = 250_000
#: Of a JPEG; each is a pass over all pixels. Programs write up to a dozen.
MAX_SCANS = 100
#: Of EXIF in a JPEG, which Pillow puts together from its segments in quadratic time.
MAX_EXIF_BYTES = 4 << 20

_TIFF_PARTS = (273, 279, 324, 325)  # StripOffsets, StripByteCounts, TileOffsets, TileByteCounts
_TOO_MANY = f"broken: it has more than {MAX_PARTS:,} parts"


def check_size(width: int, height: int, source: str, limits: DecodeLimits) -> None:
    """Raises DecodeError: no pixels; ImageTooLargeError."""
    if width < 1 or height < 1:
        raise DecodeError(source, f"it has no pixels ({width} x {height})")
    if width * height > limits.max_pixels:
        raise ImageTooLargeError(source, width * height, limits.max_pixels)


def check(kind: str, data: bytes, source: str, limits: DecodeLimits) -> None:
    """What can be told of a file of this format (Pillow's name) from its structure alone.

    Raises DecodeError: truncated, a sum that is wrong, too many parts; ImageTooLargeError.
    """
    if kind == "PNG":
        _check_png(data, source, limits)
    elif kind == "WEBP":
        if len(data) < 8 + int.from_bytes(data[4:8], "little"):
            raise DecodeError(source, "truncated")
        check_size(*_webp_size(data), source, limits)
    elif kind == "GIF":
        check_size(*_gif_size(data, source), source, limits)
    elif kind == "TIFF":
        _check_tiff(data, source)


def _check_png(data: bytes, source: str, limits: DecodeLimits) -> None:
    """Check the sum of every chunk. Pillow skips those of the pixels, and reads on past damage."""
    at, view = 8, memoryview(data)
    for _ in range(MAX_PARTS):
        if at + 12 > len(data):
            raise DecodeError(source, "truncated")
        length = int.from_bytes(view[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(data):
            raise DecodeError(source, "truncated")
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise DecodeError(source, "broken: a checksum does not match")
        kind = bytes(view[at + 4 : at + 8])
        if kind == b"IHDR" and length >= 8:
            width, height = (int.from_bytes(view[at + i : at + i + 4], "big") for i in (8, 12))
            check_size(width, height, source, limits)
        if kind == b"IEND":
            return
        at = end + 4
    raise DecodeError(source, _TOO_MANY)


def _webp_size(data: bytes) -> tuple[int, int]:
    """Of the canvas, by the first chunk (RFC 9649); (1, 1) where it is none that has a size: such a
    file does not open."""
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X":
        width, height = (int.from_bytes(body[i : i + 3], "little") + 1 for i in (4, 7))
    elif kind == b"VP8 ":
        width, height = (int.from_bytes(body[i : i + 2], "little") & 0x3FFF for i in (6, 8))
    elif kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        return 1, 1
    return width, height


def _gif_size(data: bytes, source: str) -> tuple[int, int]:
    """Of the screen, or of the first frame where that reaches beyond it (GIF89a, 18 and 20).

    Takes the way that Pillow takes through blocks that are not as they should be: who finds another
    frame first than Pillow does has checked nothing.
    """
    if len(data) < 13:
        raise DecodeError(source, "truncated")
    width, height = struct.unpack_from("<HH", data, 6)
    at, parts = 13 + _table(data[10]), 0

    def skip_block() -> bool:
        """One block of an extension's data; False for the empty one at the end."""
        nonlocal at, parts
        length = data[at] if at < len(data) else 0
        at += 1 + length
        parts += 1
        if parts > MAX_PARTS:
            raise DecodeError(source, _TOO_MANY)
        return length > 0

    while at < len(data) and data[at] != 0x3B:
        mark, at, parts = data[at], at + 1, parts + 1
        if mark == 0x2C and at + 8 <= len(data):
            left, top, across, down = struct.unpack_from("<HHHH", data, at)
            return max(width, left + across), max(height, top + down)
        if mark == 0x21 and at < len(data):
            label, at = data[at], at + 1
            name = data[at + 1 : at + 12]
            more = skip_block()
            if label == 0xFE:
                while more:
                    more = skip_block()
                continue
            if label == 0xFF and more and name == b"NETSCAPE2.0":
                skip_block()
            while skip_block():
                pass
        if parts > MAX_PARTS:
            raise DecodeError(source, _TOO_MANY)
    return width, height


def _table(flags: int) -> int:
    """Bytes of the colour table that such a descriptor announces."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _check_tiff(data: bytes, source: str) -> None:
    """The first directory: Pillow makes objects of each strip's place before it counts them."""
    order = "<" if data.startswith(b"II") else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    try:
        at = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
        count = struct.unpack_from(order + ("Q" if big else "H"), data, at)[0]
        at += 8 if big else 2
        if count > MAX_PARTS:
            raise DecodeError(source, _TOO_MANY)
        entry = struct.Struct(order + ("HHQ8x" if big else "HHI4x"))
        for number in range(count):
            tag, _, values = entry.unpack_from(data, at + number * entry.size)
            if tag in _TIFF_PARTS and values > MAX_PARTS:
                raise DecodeError(source, _TOO_MANY)
    except struct.error:
        return  # what is cut off there, Pillow says


def jpeg_metadata_is_sane(data: bytes, source: str) -> bool:
    """Whether Pillow can read the head of a JPEG in good time.

    Raises DecodeError: more scans than any program writes (after libjpeg-turbo's advice, "Two
    issues with the JPEG standard").
    """
    at, exif, components, is_progressive = 2, 0, 0, False
    for _ in range(MAX_PARTS):
        at = data.find(b"\xff", at)
        mark = data[at + 1] if 0 <= at < len(data) - 1 else 0xD9
        if mark == 0xFF:
            at += 1
            continue
        if mark in (0xDA, 0xD9):
            # All components at once, and not bit by bit: there is but one scan.
            if mark == 0xDA and (is_progressive or data[at + 4 : at + 5] != bytes([components])):
                _check_scans(data, at, source)
            return exif <= MAX_EXIF_BYTES
        if mark in (0x00, 0x01) or 0xD0 <= mark <= 0xD8:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if mark in _FRAMES and at + 9 < len(data):
            components, is_progressive = data[at + 9], mark & 2 != 0
        if mark == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            exif += length
        at += 2 + max(length, 2)
    return False


# T.81, table B.1. Bit 1 tells the progressive ones (and the lossless, which nobody reads).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _check_scans(data: bytes, start: int, source: str) -> None:
    end = data.find(b"\xff\xd9", start)
    if data.count(b"\xff\xda", start, end if end >= 0 else len(data)) > MAX_SCANS:
        raise DecodeError(source, f"broken: it has more than {MAX_SCANS} scans")
