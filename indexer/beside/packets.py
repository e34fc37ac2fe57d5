"""What .xmp files tell of the pictures that they lie beside: those of Lightroom, darktable,
digiKam, Immich and whatever else follows the standard (ISO 16684-1)."""

from __future__ import annotations

from mmsearch import xmp
from mmsearch.metadata import worth
from mmsearch.told import Details, Told, distinct

MAX_BYTES = xmp.MAX_PACKET_BYTES


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
    to_the_day, otherwise = said.taken_at()
    return Told(
        over=Details(
            title=_text(said, xmp.DC + "title"),
            description=_text(said, xmp.DC + "description")
            or _text(said, xmp.TIFF + "ImageDescription"),
            keywords=distinct(said.keywords()),
            taken_at=to_the_day,
            place=said.place(),
        ),
        gaps=Details(taken_at=otherwise),
    )


def _text(said: xmp.Packet, name: str) -> str | None:
    return next((text for text in map(worth, said.values(name)) if text), None)
