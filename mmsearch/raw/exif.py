"""Where raw files have their EXIF and XMP: in their own directories, most of them being TIFFs."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import IO, Any

from PIL import ExifTags, Image

from mmsearch.raw.boxes import Box, blocks, boxes

Opener = Callable[[bytes], IO[bytes]]

_XMP = 700  # the tag of XMP in a TIFF
# uuid boxes of a CR3: Canon's, within `moov`, and Adobe's for XMP.
_CANON = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")
_ADOBE = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
# What a CR3 has as TIFFs of their own: the first directory, and those within it.
_MAIN, _WITHIN = b"CMT1", {b"CMT2": ExifTags.IFD.Exif, b"CMT4": ExifTags.IFD.GPSInfo}
_MAX_BLOCK = 4 << 20
_DAMAGE = (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, struct.error)


class _Gathered(Image.Exif):
    """EXIF whose inner directories lie elsewhere."""

    def __init__(self, within: dict[int, dict[int, Any]]) -> None:
        super().__init__()
        self._within = within

    def get_ifd(self, tag: int) -> dict[int, Any]:
        return self._within.get(tag) or super().get_ifd(tag)


def read_blocks(data: bytes, kind: str, opened: Opener) -> tuple[Image.Exif | None, bytes | None]:
    """The EXIF and the packet of XMP of a raw file of this kind; None where there is none, or it is
    broken.

    opened: gives bytes out as a file, in what bounds the caller likes.
    """
    if kind == "CR3":
        return _of_cr3(data, opened)
    if kind == "MRW":
        found = next((block for block in blocks(data) if block.kind == b"\0TTW"), None)
        return (None, None) if found is None else _of_tiff(data[found.start : found.end], opened)
    if kind in ("RAF", "CRW"):
        return None, None
    return _of_tiff(data, opened)


def of_libraw(block: bytes, opened: Opener) -> Image.Exif | None:
    """The EXIF that LibRaw composes, whose DateTime is when the picture was taken."""
    exif = _loaded(Image.Exif(), block, opened)
    taken = "" if exif is None else exif.get(ExifTags.Base.DateTime, "")
    if not isinstance(taken, str) or taken.startswith("1970:"):  # its zero
        taken = ""
    own = {int(ExifTags.IFD.Exif): {int(ExifTags.Base.DateTimeOriginal): taken}}
    return _loaded(_Gathered(own), block, opened)


def _of_tiff(data: bytes, opened: Opener) -> tuple[Image.Exif | None, bytes | None]:
    if data[2:4] not in (b"*\0", b"\0*"):  # Olympus and Panasonic have numbers of their own there
        data = data[:2] + (b"*\0" if data[:2] == b"II" else b"\0*") + data[4:]
    exif = _loaded(Image.Exif(), data, opened)
    packet = None if exif is None else exif.get(_XMP)
    return exif, packet if isinstance(packet, bytes) else None


def _loaded(exif: Image.Exif, data: bytes, opened: Opener) -> Image.Exif | None:
    try:
        exif.load_from_fp(opened(data))
    except _DAMAGE:
        return None
    return exif


def _of_cr3(data: bytes, opened: Opener) -> tuple[Image.Exif | None, bytes | None]:
    outer = list(boxes(data, 0, len(data)))
    packet = next((_content(data, box) for box in outer if box.kind == _ADOBE), None)
    inner: dict[bytes, bytes] = {}
    for moov in (box for box in outer if box.kind == b"moov"):
        for canon in boxes(data, moov.start, min(moov.end, len(data))):
            if canon.kind == _CANON:
                parts = boxes(data, canon.start, min(canon.end, len(data)))
                inner |= {part.kind: _content(data, part) for part in parts}
    within = {}
    for name, tag in _WITHIN.items():
        found = _loaded(Image.Exif(), inner.get(name, b""), opened)
        if found is not None:
            within[int(tag)] = dict(found)
    return _loaded(_Gathered(within), inner.get(_MAIN, b""), opened), packet


def _content(data: bytes, box: Box) -> bytes:
    return data[box.start : min(box.end, box.start + _MAX_BLOCK)]
