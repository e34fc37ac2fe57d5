"""XMP packets, inside pictures and in files of their own: the texts of their properties."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

MAX_PACKET_BYTES = 4 << 20
"""Largest packet that is looked at."""

#: What `parse` raises for what is no packet.
DAMAGE = (ParseError, DefusedXmlException, ValueError, LookupError, RecursionError)

DC = "{http://purl.org/dc/elements/1.1/}"
EXIF = "{http://ns.adobe.com/exif/1.0/}"
TIFF = "{http://ns.adobe.com/tiff/1.0/}"
PHOTOSHOP = "{http://ns.adobe.com/photoshop/1.0/}"
XMP = "{http://ns.adobe.com/xap/1.0/}"
LIGHTROOM = "{http://ns.adobe.com/lightroom/1.0/}"
DIGIKAM = "{http://www.digikam.org/ns/1.0/}"
IPTC_EXT = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"

#: What stands around a packet, or pads it.
_PADDING = b"\0 \r\n\t"
# The first two letters of XML in UTF-16, where no mark tells the order of the bytes.
_UTF_16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"} | {
    f"<{second}".encode(code): code for second in "?x!r" for code in ("utf-16-le", "utf-16-be")
}
# Its first mark may hold bytes that are no text, and must not stand before "<?xml".
_XPACKET = re.compile(rb"<\?xpacket\b[^>]*\?>\s*")

_DATE = re.compile(
    r"(\d{4})(?:[-:](\d\d)(?:[-:](\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,]\d+)?)?)?)?)?"
    r"\s*(?:Z|[+-]\d\d:?\d\d)?"
)
_COORDINATE = re.compile(r"(\d{1,3})(?:,(\d{1,2}(?:\.\d+)?))?(?:,(\d{1,2}(?:\.\d+)?))?([NSEW])")


class Packet:
    """What a packet says of the picture that it is of.

    What is said there of other pictures (Photoshop keeps all that it knew of those put together,
    in xmpMM:Pantry) is passed over: only the outermost descriptions count.
    """

    def __init__(self, root: Element) -> None:
        found = [each for rdf in root.iter(f"{_RDF}RDF") for each in rdf.iterfind(_DESCRIPTION)]
        self._about = found or list(root.iter(_DESCRIPTION))

    def values(self, name: str) -> Iterator[str]:
        """The texts of a property ("{namespace}name"), that of the default language first."""
        for description in self._about:
            attribute = description.get(name)
            if attribute:
                yield attribute
        for description in self._about:
            for element in description.iterfind(name):
                # In a list and nowhere deeper (XMP, part 1, C.2.4).
                items = list(element.iterfind(f"*/{_RDF}li")) if len(element) else []
                items.sort(key=lambda item: item.get(_LANG, "x-default") != "x-default")
                yield from (text for item in items or [element] if (text := _text(item)))

    def keywords(self) -> Iterator[str]:
        """Subjects, people, and of words in a hierarchy the last."""
        yield from self.values(DC + "subject")
        yield from self.values(IPTC_EXT + "PersonInImage")
        # Of "Places|France|Paris" the last: the others say what kind of word it is.
        for name, mark in ((LIGHTROOM + "hierarchicalSubject", "|"), (DIGIKAM + "TagsList", "/")):
            for path in self.values(name):
                first, _, _ = path.partition(mark)
                if first != "darktable":  # what it notes for itself
                    yield path.rpartition(mark)[2]

    def taken_at(self) -> tuple[datetime | None, datetime | None]:
        """When the picture was taken, in local time without zone: as it is said to the day at
        least; and as far as it is known otherwise."""
        said = [self._date(name) for name in (EXIF + "DateTimeOriginal", PHOTOSHOP + "DateCreated")]
        whole = next((found[0] for found in said if found and found[1]), None)
        # When it was made is for a scan not when it was taken, and a year alone says less than a
        # day.
        others = [*said, self._date(XMP + "CreateDate")]
        return whole, next((found[0] for found in others if found), None)

    def _date(self, name: str) -> tuple[datetime, bool] | None:
        """The time that a property tells, and whether it tells the day at least."""
        for text in self.values(name):
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

    def place(self) -> tuple[float, float] | None:
        """Latitude and longitude in degrees."""
        latitude = self._degrees(EXIF + "GPSLatitude", "NS", 90)
        longitude = self._degrees(EXIF + "GPSLongitude", "EW", 180)
        if latitude is None or longitude is None:
            return None
        # Exactly 0, 0 is what receivers without a fix write.
        return None if latitude == longitude == 0 else (latitude, longitude)

    def _degrees(self, name: str, signs: str, limit: float) -> float | None:
        """ "48,12.34N" or "48,12,20N" in degrees (XMP, part 2, GPSCoordinate)."""
        for text in self.values(name):
            found = _COORDINATE.fullmatch(text.strip().upper())
            if found is None or found[4] not in signs:
                continue
            degrees = int(found[1]) + float(found[2] or 0) / 60 + float(found[3] or 0) / 3600
            if degrees <= limit:
                return -degrees if found[4] == signs[1] else degrees
        return None


_DESCRIPTION = f"{_RDF}Description"


def parse(packet: bytes) -> Packet:
    """Raises one of DAMAGE."""
    return Packet(defusedxml.ElementTree.fromstring(_in_utf8(packet)))


def _in_utf8(packet: bytes) -> bytes | str:
    """What is between the marks of a packet; text where it was UTF-16, whatever it declares."""
    code = _UTF_16.get(packet[:2]) or _UTF_16.get(packet[:4])
    if code is not None:
        text = packet[: len(packet) & ~1].decode(code)
        return _bare(text.encode()).decode()
    return _bare(packet)


def _bare(packet: bytes) -> bytes:
    packet = packet.strip(_PADDING).removeprefix(b"\xef\xbb\xbf").lstrip(_PADDING)
    mark = _XPACKET.match(packet)
    return packet if mark is None else packet[mark.end() :]


def _text(element: Element) -> str | None:
    """The text of a property, or of an item; also where more is said about it (rdf:value)."""
    if not len(element) or (element.text and not element.text.isspace()):
        return element.text
    for path in (f"{_RDF}value", f"{_DESCRIPTION}/{_RDF}value"):
        value = element.findtext(path)
        if value:
            return value
    return element.text
