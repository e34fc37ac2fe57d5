"""What .xmp files tell of the pictures that they lie beside: those of Lightroom, darktable,
digiKam, Immich and whatever else follows the standard (ISO 16684-1)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from mmsearch import xmp
from mmsearch.metadata import worth
from mmsearch.told import Details, Told, distinct

MAX_BYTES = xmp.MAX_PACKET_BYTES

_CREATED = xmp.PHOTOSHOP + "DateCreated"
_DATE = re.compile(
    r"(\d{4})(?:[-:](\d\d)(?:[-:](\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,]\d+)?)?)?)?)?"
    r"\s*(?:Z|[+-]\d\d:?\d\d)?"
)
_COORDINATE = re.compile(r"(\d{1,3})(?:,(\d{1,2}(?:\.\d+)?))?(?:,(\d{1,2}(?:\.\d+)?))?([NSEW])")


class NotReadableError(Exception):
    """It is no XMP; the message says why."""


def read(data: bytes) -> Told:
    """What it tells. Raises NotReadableError."""
    if len(data) > MAX_BYTES:
        raise NotReadableError(f"larger than {MAX_BYTES >> 20} MB")
    if not data.strip(b"\0 \r\n\t"):
        raise NotReadableError("empty file")
    try:
        said = xmp.parse(data)
    except xmp.DAMAGE as exc:
        raise NotReadableError("broken, or not XMP") from exc
    taken = [_date(said, name) for name in (xmp.EXIF + "DateTimeOriginal", _CREATED)]
    whole = next((found[0] for found in taken if found and found[1]), None)
    # When it was made is for a scan not when it was taken, and a year alone says less than a day.
    others = [*taken, _date(said, xmp.XMP + "CreateDate")]
    return Told(
        over=Details(
            title=_text(said, xmp.DC + "title"),
            description=_text(said, xmp.DC + "description")
            or _text(said, xmp.TIFF + "ImageDescription"),
            keywords=distinct(_keywords(said)),
            taken_at=whole,
            place=_place(said),
        ),
        gaps=Details(taken_at=next((found[0] for found in others if found), None)),
    )


def _text(said: xmp.Packet, name: str) -> str | None:
    return next((text for text in map(worth, said.values(name)) if text), None)


def _keywords(said: xmp.Packet) -> Iterator[str]:
    yield from said.values(xmp.DC + "subject")
    yield from said.values(xmp.IPTC_EXT + "PersonInImage")
    # Of "Places|France|Paris" the last: the others say what kind of word it is.
    for name, mark in (
        (xmp.LIGHTROOM + "hierarchicalSubject", "|"),
        (xmp.DIGIKAM + "TagsList", "/"),
    ):
        for path in said.values(name):
            first, _, _ = path.partition(mark)
            if first != "darktable":  # what it notes for itself
                yield path.rpartition(mark)[2]


def _date(said: xmp.Packet, name: str) -> tuple[datetime, bool] | None:
    """The local time that a property tells, and whether it tells the day at least."""
    for text in said.values(name):
        found = _DATE.fullmatch(text.strip())
        if found is None:
            continue
        year, month, day, hour, minute, second = (int(part or 0) for part in found.groups())
        try:
            moment = datetime(year, month or 1, day or 1, hour, minute, second)
        except ValueError:  # 0000-00-00 of a clock never set
            continue
        return moment, day > 0
    return None


def _place(said: xmp.Packet) -> tuple[float, float] | None:
    latitude = _degrees(said, xmp.EXIF + "GPSLatitude", "NS", 90)
    longitude = _degrees(said, xmp.EXIF + "GPSLongitude", "EW", 180)
    if latitude is None or longitude is None:
        return None
    # Exactly 0, 0 is what receivers without a fix write.
    return None if latitude == longitude == 0 else (latitude, longitude)


def _degrees(said: xmp.Packet, name: str, signs: str, limit: float) -> float | None:
    """ "48,12.34N" or "48,12,20N" in degrees (XMP, part 2, GPSCoordinate)."""
    for text in said.values(name):
        found = _COORDINATE.fullmatch(text.strip().upper())
        if found is None or found[4] not in signs:
            continue
        degrees = int(found[1]) + float(found[2] or 0) / 60 + float(found[3] or 0) / 3600
        if degrees <= limit:
            return -degrees if found[4] == signs[1] else degrees
    return None
