"""Packets of XMP as programs write them, and as they should not be."""

from __future__ import annotations

import time

import pytest

from mmsearch import xmp

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
SPACES = (
    f'xmlns:rdf="{RDF}" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    'xmlns:q="http://example.org/q/" xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"'
)

DEFAULT = "<rdf:li xml:lang='x-default'>a</rdf:li>"


def packet(inner: str, attributes: str = "") -> str:
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/" {SPACES}><rdf:RDF>'
        f'<rdf:Description rdf:about="" {attributes}>{inner}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    )


def titles(data: str | bytes) -> list[str]:
    parsed = xmp.parse(data.encode() if isinstance(data, str) else data)
    return [text for text in parsed.values(xmp.DC + "title") if text.strip()]


def bag(*items: str) -> str:
    return f"<dc:title><rdf:Bag>{''.join(items)}</rdf:Bag></dc:title>"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (packet("", "dc:title='a'"), ["a"]),
        (packet("<dc:title>a</dc:title>"), ["a"]),
        (packet(bag("<rdf:li>a</rdf:li>", "<rdf:li>b</rdf:li>")), ["a", "b"]),
        (packet(bag("<rdf:li><![CDATA[a & b]]></rdf:li>")), ["a & b"]),
        (packet(bag("<rdf:li xml:lang='de'>b</rdf:li>", "<rdf:li>a</rdf:li>")), ["a", "b"]),
        (packet(bag("<rdf:li xml:lang='de'>b</rdf:li>", DEFAULT)), ["a", "b"]),
        (packet("").replace("</rdf:RDF>", "<rdf:Description dc:title='b'/></rdf:RDF>"), ["b"]),
        (packet("<z:title xmlns:z='http://purl.org/dc/elements/1.1/'>a</z:title>"), ["a"]),
        (packet("<dc:title xmlns:dc='http://example.org/other/'>a</dc:title>"), []),
        # What more is said about a text (XMP, part 1, 7.8).
        (
            packet("<dc:title rdf:parseType='Resource'><q:x>b</q:x><rdf:value>a</rdf:value>"
                   "</dc:title>"),
            ["a"],
        ),
        (
            packet(bag("<rdf:li>\n<rdf:Description><rdf:value>a</rdf:value><q:x>b</q:x>"
                       "</rdf:Description></rdf:li>", "<rdf:li>b</rdf:li>")),
            ["a", "b"],
        ),
        (packet("<dc:title> </dc:title>"), []),
        (f"<x {SPACES}><rdf:Description dc:title='a'/></x>", ["a"]),
        (f"<rdf:RDF {SPACES}><rdf:Description dc:title='a'/></rdf:RDF>", ["a"]),
    ],
)  # fmt: skip
def test_the_texts_of_a_property(data: str, expected: list[str]) -> None:
    assert titles(data) == expected


def test_what_is_said_of_other_pictures_is_passed_over() -> None:
    """Photoshop keeps what it knew of those that were put together."""
    other = "<rdf:li><rdf:Description dc:title='of another'><dc:title>too</dc:title>"
    pantry = f"<xmpMM:Pantry><rdf:Bag>{other}</rdf:Description></rdf:li></rdf:Bag></xmpMM:Pantry>"
    assert titles(packet(pantry)) == []
    assert titles(packet(f"{pantry}<dc:title>own</dc:title>")) == ["own"]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("code", ["utf-8", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "head",
    [
        "",
        "<?xml version='1.0'?>",
        "<?xml version='1.0' encoding='{}'?>",
        "<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>",
        "<?xpacket begin='' id='x'?>\n<?xml version='1.0' encoding='{}'?>",
    ],
)
@pytest.mark.parametrize("padding", ["", "\n \n", "\0\0\0"])
def test_encodings_and_what_stands_around(mark: str, code: str, head: str, padding: str) -> None:
    text = mark + head.format(code.upper()[:6].strip("-")) + packet("", "dc:title='Möwe 鴎'")
    assert titles((text + "<?xpacket end='w'?>" + padding).encode(code)) == ["Möwe 鴎"]
    if code == "utf-8":
        assert titles((padding + text).encode()) == ["Möwe 鴎"]


def test_a_mark_of_bytes_that_are_no_text() -> None:
    """As F-Spot wrote it."""
    assert titles(b"<?xpacket begin=\"\x1a\" id='x'?>" + packet("", "dc:title='a'").encode()) == [
        "a"
    ]


@pytest.mark.parametrize(
    "inner",
    [
        "<dc:title>" * 100_000 + "</dc:title>" * 100_000,
        "<dc:title><rdf:Bag>" * 40_000 + "</rdf:Bag></dc:title>" * 40_000,
        "<rdf:Description>" * 60_000 + "</rdf:Description>" * 60_000,
        f"<rdf:RDF>{'<rdf:Description/>' * 9}" * 10_000 + "</rdf:RDF>" * 10_000,
        bag("<rdf:li/>" * 300_000),
        "<dc:title/>" * 300_000,
        bag(f"<rdf:li>{'a' * 3_000_000}</rdf:li>"),
    ],
)
def test_hostile_ones_take_no_time_by_their_square(inner: str) -> None:
    began = time.process_time()
    list(xmp.parse(packet(inner).encode()).values(xmp.DC + "title"))
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0\0", b"\xff\xfe", b"\xff\xfe\0", b"<\0?", b"\xfe\xff\xd8\0", b"<?xpacket", b"<a>",
        b"<?xpacket begin='" * 100_000,
        b"<!DOCTYPE a [<!ENTITY b 'c'><!ENTITY d '&b;&b;'>]><a>&d;</a>",
        b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
        b"<?xml version='1.0' encoding='utf-16'?><a/>",
        "<a>\ud800</a>".encode("utf-16-le", "surrogatepass"),
    ],
)  # fmt: skip
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(xmp.DAMAGE):
        xmp.parse(data)
