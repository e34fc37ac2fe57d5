"""What a picture says of itself: EXIF, IPTC, XMP and PNG text, read with Pillow.

Bad metadata never makes a picture bad: each block is read on its own, and one that is broken is
left out.
"""

from __future__ import annotations

import logging
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from PIL import ExifTags, Image, ImageFile, IptcImagePlugin

from mmsearch import xmp
from mmsearch.plaintext import clean
from mmsearch.told import MAX_KEYWORD, MAX_TEXT, distinct

logger = logging.getLogger(__name__)

MAX_BLOCK_BYTES = xmp.MAX_PACKET_BYTES
"""Largest block of EXIF or XMP that is looked at."""

# Cameras write these where a description belongs; found in Exiftool's and Flickr's lists of
# default values, and in the firmware of Huawei and Samsung phones.
_CAMERA_DEFAULTS = frozenset({
    "olympus digital camera", "minolta digital camera", "konica minolta digital camera",
    "kodak digital still camera", "ricoh digital camera", "pentax digital camera", "digital camera",
    "dcim", "samsung", "sony dsc", "sony", "nikon", "canon", "jpeg image", "exif_jpeg_picture",
    "exif_jpeg_t422", "default", "untitled", "image description", "hdr", "hdrpl", "rhdr", "sdr",
    "dav", "cav", "cof", "mde", "nor", "oznor", "oznorco", "rbt", "edf", "bsh", "fbt", "tor",
    "btfmdn", "burst", "qrf", "dig", "mmexport", "description", "picasa",
    "created with gimp",
})  # fmt: skip

# What the parsers of these blocks raise on damage; see Pillow's Exif, TiffImagePlugin and
# IptcImagePlugin.
_DAMAGE = (
    OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, AttributeError,
    OverflowError, ZeroDivisionError, RecursionError, AssertionError, struct.error,
    *xmp.DAMAGE,
)  # fmt: skip

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Metadata:
    """The fields of PictureInfo that do not come from pixels. Degrees; local time without zone."""

    taken_at: datetime | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    title: str | None = None
    description: str | None = None
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Block:
    """What one block says; of EXIF only the words."""

    title: str | None = None
    description: str | None = None
    keywords: tuple[str, ...] = ()
    taken_at: datetime | None = None
    place: tuple[float, float] | None = None


def orientation(image: Image.Image, otherwise: int = 1) -> int:
    """The EXIF orientation of an opened picture, 1 to 8; `otherwise` where there is none or a
    broken one."""
    if not _has_exif(image):
        return otherwise
    value = _tolerant(lambda: image.getexif().get(ExifTags.Base.Orientation), None)
    return value if isinstance(value, int) and 1 <= value <= 8 else otherwise


def read_metadata(image: ImageFile.ImageFile) -> Metadata:
    """The metadata of a picture opened by Pillow; never raises because of it.

    Where several blocks speak, XMP wins over IPTC, and that over EXIF and PNG text: the later
    standards are those that people's photo managers write. When and where a picture was taken EXIF
    knows best, which the camera wrote (Metadata Working Group, Guidelines 2.0, section 5).
    """
    exif: Image.Exif | None = None
    if _has_exif(image):
        exif = _tolerant(image.getexif, None)
    blocks = [
        _tolerant(lambda: _of_xmp(_packet(image)), _Block()),
        _tolerant(lambda: _of_iptc(image), _Block()),
        _tolerant(lambda: _exif_words(exif), _Block()) if exif else _Block(),
        _tolerant(lambda: _of_png(image), _Block()),
    ]
    return _together(exif, blocks)


def read_blocks(exif: Image.Exif | None, packet: bytes | None) -> Metadata:
    """The same of a file that Pillow does not open, from its EXIF and its packet of XMP."""
    blocks = [
        _tolerant(lambda: _of_xmp(packet), _Block()),
        _tolerant(lambda: _exif_words(exif), _Block()) if exif else _Block(),
    ]
    return _together(exif, blocks)


def filled(said: Metadata, more: Metadata) -> Metadata:
    """`said`, and what it is silent about as `more` has it; a place is taken as a whole."""
    place = said if said.latitude is not None else more
    return Metadata(
        taken_at=said.taken_at or more.taken_at,
        camera=said.camera or more.camera,
        latitude=place.latitude,
        longitude=place.longitude,
        title=said.title or more.title,
        description=said.description or more.description,
        keywords=said.keywords or more.keywords,
    )


def _together(exif: Image.Exif | None, blocks: Sequence[_Block]) -> Metadata:
    place = _tolerant(lambda: _place(exif), None) if exif else None
    place = place or next((b.place for b in blocks if b.place), None)
    taken_at = _tolerant(lambda: _taken_at(exif), None) if exif else None
    return Metadata(
        taken_at=taken_at or next((b.taken_at for b in blocks if b.taken_at), None),
        camera=_tolerant(lambda: _camera(exif), None) if exif else None,
        latitude=place[0] if place else None,
        longitude=place[1] if place else None,
        title=next((b.title for b in blocks if b.title), None),
        description=next((b.description for b in blocks if b.description), None),
        keywords=distinct(keyword for b in blocks for keyword in b.keywords),
    )


def _has_exif(image: Image.Image) -> bool:
    # Image.getexif() costs as much as opening the file: only where there is something to read.
    if len(image.info.get("exif") or b"") > MAX_BLOCK_BYTES:
        return False
    return bool(
        image.info.get("exif")
        or "Raw profile type exif" in image.info
        or hasattr(image, "tag_v2")
        or image.info.get("xmp")
        or image.info.get("XML:com.adobe.xmp")
    )


def _tolerant(read: Callable[[], _T], otherwise: _T) -> _T:
    try:
        return read()
    except _DAMAGE as exc:
        logger.debug("metadata left out: %r", exc)
        return otherwise


# -- EXIF ----------------------------------------------------------------------------------------


def _taken_at(exif: Image.Exif) -> datetime | None:
    ifd = exif.get_ifd(ExifTags.IFD.Exif)
    for tag in (ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTimeDigitized):
        taken = _date(ifd.get(tag))
        if taken:
            return taken
    return None


def _date(value: object) -> datetime | None:
    text = _text(value) or ""
    match = re.match(r"(\d{4})[:/-](\d\d)[:/-](\d\d)[ T](\d\d):(\d\d)(?::(\d\d))?", text)
    if match is None:
        return None
    try:
        return datetime(*(int(part or 0) for part in match.groups()))  # type: ignore[arg-type]
    except ValueError:  # 0000:00:00 of a clock never set, the 31st of June
        return None


def _camera(exif: Image.Exif) -> str | None:
    make = _text(exif.get(ExifTags.Base.Make)) or ""
    model = _text(exif.get(ExifTags.Base.Model)) or ""
    # "Canon" + "Canon EOS 5D", "NIKON CORPORATION" + "NIKON D70": the model says it all.
    doubled = bool(make) and model.casefold().startswith(make.split()[0].casefold())
    name = model if doubled else f"{make} {model}".strip()
    return name[:MAX_KEYWORD] or None


def _place(exif: Image.Exif) -> tuple[float, float] | None:
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    latitude = _degrees(gps, ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, "S", 90)
    longitude = _degrees(gps, ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, "W", 180)
    if latitude is None or longitude is None:
        return None
    # Exactly 0, 0 is what receivers without a fix write.
    return None if latitude == longitude == 0 else (latitude, longitude)


def _degrees(
    gps: Mapping[int, object], tag: int, ref_tag: int, negative: str, limit: float
) -> float | None:
    value = gps.get(tag)
    parts = value if isinstance(value, tuple | list) else (value,)
    if value is None or not 1 <= len(parts) <= 3:
        return None
    whole, *less = (float(part) for part in parts)
    # Receivers that have no seconds to tell may write 0/0.
    finer = (
        part / float(60**power) for power, part in enumerate(less, start=1) if math.isfinite(part)
    )
    degrees = whole + sum(finer)
    if not math.isfinite(degrees) or abs(degrees) > limit:
        return None
    ref = (_text(gps.get(ref_tag)) or "").upper()
    return -degrees if ref.startswith(negative) else degrees


def _exif_words(exif: Image.Exif) -> _Block:
    keywords = _wide(exif.get(ExifTags.Base.XPKeywords)) or ""
    return _Block(
        title=worth(_wide(exif.get(ExifTags.Base.XPTitle))),
        description=worth(_text(exif.get(ExifTags.Base.ImageDescription)))
        or worth(_wide(exif.get(ExifTags.Base.XPSubject)))
        or worth(_wide(exif.get(ExifTags.Base.XPComment))),
        keywords=tuple(re.split(r"[;,]", keywords)),
    )


def _wide(value: object) -> str | None:
    # The XP tags of Windows hold UTF-16LE as bytes; Pillow gives bytes or a tuple of them.
    if isinstance(value, tuple):
        value = bytes(value)
    if not isinstance(value, bytes):
        return _text(value)
    return clean(value.decode("utf-16-le", "ignore").split("\0", 1)[0])


# -- XMP, IPTC, PNG ------------------------------------------------------------------------------


def _packet(image: Image.Image) -> object:
    return image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")


def _of_xmp(packet: object) -> _Block:
    if isinstance(packet, str):
        packet = packet.encode()
    if not isinstance(packet, bytes) or len(packet) > MAX_BLOCK_BYTES or b"<" not in packet:
        return _Block()
    said = xmp.parse(packet)
    title = list(said.values(xmp.DC + "title"))
    description = list(said.values(xmp.DC + "description"))
    to_the_day, otherwise = said.taken_at()
    return _Block(
        title=worth(title[0]) if title else None,
        description=worth(description[0]) if description else None,
        keywords=tuple(said.keywords()),
        taken_at=to_the_day or otherwise,
        place=said.place(),
    )


def _of_iptc(image: ImageFile.ImageFile) -> _Block:
    if "photoshop" not in image.info and not hasattr(image, "tag_v2"):
        return _Block()
    fields = IptcImagePlugin.getiptcinfo(image) or {}

    def values(record: int) -> list[str]:  # numbers of record 2, IIM 4.2
        found = fields.get((2, record))
        several: list[bytes] | list[bytes | None]
        several = found if isinstance(found, list) else [found]
        return [text for text in map(_text, several) if text]

    titles = values(5) or values(105)
    captions = values(120)
    return _Block(
        title=worth(titles[0]) if titles else None,
        description=worth(captions[0]) if captions else None,
        keywords=tuple(values(25)),
        taken_at=_iptc_date(values(55), values(60)),
    )


def _iptc_date(days: Sequence[str], times: Sequence[str]) -> datetime | None:
    """ "20190801" and "143000+0200" (IIM 4.2, 2:55 and 2:60); the parts of a day may be 00."""
    day = next(iter(days), "")
    time = next(iter(times), "")[:6]
    try:
        return datetime.strptime(day + (time if len(time) == 6 else "000000"), "%Y%m%d%H%M%S")
    except ValueError:
        return None


def _of_png(image: Image.Image) -> _Block:
    if image.format != "PNG":
        return _Block()
    return _Block(
        title=worth(_text(image.info.get("Title"))),
        description=worth(_text(image.info.get("Description"))),
    )


# -- words ---------------------------------------------------------------------------------------


def _text(value: object) -> str | None:
    """A field as text. EXIF says ASCII and means whatever the camera had: UTF-8, else Latin-1."""
    if isinstance(value, str):
        try:  # Pillow reads EXIF strings as Latin-1
            value = value.encode("latin-1")
        except UnicodeEncodeError:
            return clean(str(value).split("\0", 1)[0]) or None
    if not isinstance(value, bytes):
        return None
    value = value.split(b"\0", 1)[0]
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = value.decode("cp1252", "replace")
    return clean(text) or None


def worth(text: str | None) -> str | None:
    """`text` cleaned and cut, None for what a camera writes by itself."""
    text = clean(text or "")[:MAX_TEXT]
    return None if text.casefold() in _CAMERA_DEFAULTS else text or None
