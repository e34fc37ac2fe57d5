"""XMP packets, inside pictures and in files of their own: the texts of their properties."""

from __future__ import annotations

from collections.abc import Iterator
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


def parse(packet: bytes) -> Element:
    """A packet's root. Raises one of DAMAGE."""
    root: Element = defusedxml.ElementTree.fromstring(packet)
    return root


def values(root: Element, name: str) -> Iterator[str]:
    """The texts of a property ("{namespace}name"), that of the default language first."""
    for holder in root.iter(f"{_RDF}Description"):
        attribute = holder.get(name)
        if attribute:
            yield attribute
    for element in root.iter(name):
        # In a list and nowhere deeper (XMP, part 1, C.2.4): elements within elements of the same
        # name would be gone through again and again.
        items = list(element.iterfind(f"*/{_RDF}li"))
        items.sort(key=lambda item: item.get(_LANG, "x-default") != "x-default")
        if not items and element.text:
            yield element.text
        for item in items:
            if item.text:
                yield item.text
