"""metadata: what real files made with Pillow say of themselves, in every way."""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import JPEG, XMP, encode, read, scene
from PIL import ExifTags, Image, PngImagePlugin
from PIL.TiffImagePlugin import IFDRational

from mmsearch.decode import decode
from mmsearch.metadata import Metadata


def said(data: bytes) -> Metadata:
    info = read(data).info
    return Metadata(
        info.taken_at, info.camera, info.latitude, info.longitude, info.title, info.description,
        info.keywords,
    )  # fmt: skip


def with_exif(fill: Callable[[Image.Exif], None], kind: str = "JPEG") -> Metadata:
    exif = Image.Exif()
    fill(exif)
    for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if fields := exif.get_ifd(tag):
            exif[tag] = dict(fields)  # Pillow's TIFF writer forgets them otherwise
    return said(encode(scene(), kind, exif=exif))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_exif(kind: str) -> None:
    def fill(exif: Image.Exif) -> None:
        exif[ExifTags.Base.Make] = "Canon"
        exif[ExifTags.Base.Model] = "Canon EOS 5D"
        exif[ExifTags.Base.ImageDescription] = "A red kite over the beach"
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2019:07:14 16:05:09"
        gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
        gps[ExifTags.GPS.GPSLatitudeRef] = "S"
        gps[ExifTags.GPS.GPSLatitude] = (33.0, 51.0, 24.0)
        gps[ExifTags.GPS.GPSLongitudeRef] = "E"
        gps[ExifTags.GPS.GPSLongitude] = (151.0, 12.5, 0.0)

    found = with_exif(fill, kind)
    assert found.taken_at == datetime(2019, 7, 14, 16, 5, 9)
    assert found.camera == "Canon EOS 5D"
    assert found.description == "A red kite over the beach"
    assert found.latitude == pytest.approx(-(33 + 51 / 60 + 24 / 3600))
    assert found.longitude == pytest.approx(151 + 12.5 / 60)


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("SONY", "DSC-RX100M3", "SONY DSC-RX100M3"),
        ("NIKON CORPORATION", "NIKON D70", "NIKON D70"),
        ("Apple\0\0", " iPhone 12 ", "Apple iPhone 12"),
        ("", "X", "X"),
        ("Leica", "", "Leica"),
    ],
)
def test_camera(make: str, model: str, camera: str) -> None:
    def fill(exif: Image.Exif) -> None:
        if make:
            exif[ExifTags.Base.Make] = make
        if model:
            exif[ExifTags.Base.Model] = model

    assert with_exif(fill).camera == camera


def test_date_falls_back_and_ignores_nonsense() -> None:
    def fill(exif: Image.Exif) -> None:
        ifd = exif.get_ifd(ExifTags.IFD.Exif)
        ifd[ExifTags.Base.DateTimeOriginal] = "0000:00:00 00:00:00"
        ifd[ExifTags.Base.DateTimeDigitized] = "2001-02-03T04:05"

    assert with_exif(fill).taken_at == datetime(2001, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), ((91.0, 0.0, 0.0), (5.0, 0.0, 0.0))],
)
def test_impossible_places(latitude: tuple[float, ...], longitude: tuple[float, ...]) -> None:
    def fill(exif: Image.Exif) -> None:
        gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
        gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLongitudeRef] = "N", "W"
        gps[ExifTags.GPS.GPSLatitude], gps[ExifTags.GPS.GPSLongitude] = latitude, longitude

    found = with_exif(fill)
    assert found.latitude is None
    assert found.longitude is None


def place_of(latitude: tuple[tuple[int, int], ...]) -> float | None:
    """What is read of a picture with this latitude, in which (0, 0) is 0/0."""
    exif = Image.Exif()
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLongitudeRef] = "S", "E"
    gps[ExifTags.GPS.GPSLatitude] = tuple(IFDRational(*part) for part in latitude)
    gps[ExifTags.GPS.GPSLongitude] = (8.0, 0.0, 0.0)
    return said(encode(scene(), "JPEG", exif=exif)).latitude


def test_a_place_without_seconds_or_minutes_is_one() -> None:
    assert place_of(((33, 1), (51, 1), (24, 1))) == pytest.approx(-(33 + 51 / 60 + 24 / 3600))
    assert place_of(((33, 1), (51, 1), (0, 0))) == pytest.approx(-(33 + 51 / 60))
    assert place_of(((33, 1), (0, 0), (0, 0))) == pytest.approx(-33)
    assert place_of(((0, 0), (51, 1), (24, 1))) is None
    assert place_of(((0, 0), (0, 0), (0, 0))) is None


@pytest.mark.parametrize(
    "default", ["OLYMPUS DIGITAL CAMERA         ", "DCIM", "SAMSUNG", "SONY DSC", " ", "hdrpl"]
)
def test_what_cameras_write_by_themselves_is_dropped(default: str) -> None:
    def fill(exif: Image.Exif) -> None:
        exif[ExifTags.Base.ImageDescription] = default

    assert with_exif(fill).description is None


def test_windows_fields_and_utf8_in_ascii() -> None:
    def fill(exif: Image.Exif) -> None:
        exif[ExifTags.Base.XPTitle] = "Grüße\0".encode("utf-16-le")
        exif[ExifTags.Base.XPKeywords] = "kite; beach;Kite;\0".encode("utf-16-le")
        exif[ExifTags.Base.ImageDescription] = "Zürich am See".encode()

    found = with_exif(fill)
    assert found.title == "Grüße"
    assert found.keywords == ("kite", "beach")
    assert found.description == "Zürich am See"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_xmp(kind: str) -> None:
    options: dict[str, Any] = {"xmp": XMP.encode()}
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP)
        options = {"pnginfo": info}
    elif kind == "TIFF":
        options = {"tiffinfo": {700: XMP.encode()}}
    found = said(encode(scene(), kind, **options))
    assert found.title == "Kite"
    assert found.description == "A kite & a beach"
    assert found.keywords == ("kite", "Nordsee")


#: What a scan has that was dated and placed by hand, in a hierarchy of words.
BY_HAND = XMP.replace(
    "<dc:title>",
    """<exif:DateTimeOriginal xmlns:exif="http://ns.adobe.com/exif/1.0/">1968-07-14T15:30
</exif:DateTimeOriginal><exif:GPSLatitude xmlns:exif="http://ns.adobe.com/exif/1.0/">53,30N
</exif:GPSLatitude><exif:GPSLongitude xmlns:exif="http://ns.adobe.com/exif/1.0/">8,15,36E
</exif:GPSLongitude><xmp:CreateDate xmlns:xmp="http://ns.adobe.com/xap/1.0/">2011-01-02T03:04:05
</xmp:CreateDate><ext:PersonInImage xmlns:ext="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><rdf:Bag>
<rdf:li>Ada</rdf:li></rdf:Bag></ext:PersonInImage>
<lr:hierarchicalSubject xmlns:lr="http://ns.adobe.com/lightroom/1.0/"><rdf:Bag>
<rdf:li>Places|Norderney</rdf:li></rdf:Bag></lr:hierarchicalSubject><dc:title>""",
)


def test_xmp_tells_when_and_where_and_who() -> None:
    found = said(encode(scene(), "JPEG", xmp=BY_HAND.encode()))
    assert found.taken_at == datetime(1968, 7, 14, 15, 30)
    assert (found.latitude, found.longitude) == (53.5, 8.26)
    assert found.keywords == ("kite", "Nordsee", "Ada", "Norderney")
    # What is known to the day counts more than when the file was made, which counts for want of it.
    made = BY_HAND.replace("1968-07-14T15:30", "0000-00-00")
    assert said(encode(scene(), "JPEG", xmp=made.encode())).taken_at == datetime(
        2011, 1, 2, 3, 4, 5
    )
    year = BY_HAND.replace("1968-07-14T15:30", "1968")
    assert said(encode(scene(), "JPEG", xmp=year.encode())).taken_at == datetime(1968, 1, 1)


def test_the_camera_knows_best_when_and_where() -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2019:07:14 16:05:09"
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLatitude] = "S", (10.0, 0.0, 0.0)
    gps[ExifTags.GPS.GPSLongitudeRef], gps[ExifTags.GPS.GPSLongitude] = "W", (20.0, 0.0, 0.0)
    found = said(encode(scene(), "JPEG", exif=exif, xmp=BY_HAND.encode()))
    assert found.taken_at == datetime(2019, 7, 14, 16, 5, 9)
    assert (found.latitude, found.longitude) == (-10, -20)


@pytest.mark.parametrize(
    ("fields", "taken_at"),
    [
        ([(55, b"19680714"), (60, b"153000+0100")], datetime(1968, 7, 14, 15, 30)),
        ([(55, b"19680714")], datetime(1968, 7, 14)),
        ([(55, b"19680714"), (60, b"1530")], datetime(1968, 7, 14)),
        ([(55, b"19680000")], None),
        ([(60, b"153000+0100")], None),
        ([(55, b"19681399"), (60, b"996199")], None),
    ],
)
def test_iptc_tells_when(fields: list[tuple[int, bytes]], taken_at: datetime | None) -> None:
    found = said(iptc((5, b"Kite"), *fields))
    assert (found.title, found.taken_at) == ("Kite", taken_at)


def iptc(*fields: tuple[int, bytes]) -> bytes:
    """A JPEG with an IPTC block (IIM 4.2, record 2) in its Photoshop segment."""
    body = b"".join(b"\x1c\x02" + bytes([n]) + struct.pack(">H", len(v)) + v for n, v in fields)
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(body)) + body + b"\0" * (len(body) % 2)
    segment = b"Photoshop 3.0\0" + resource
    return JPEG[:2] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + JPEG[2:]


def test_iptc() -> None:
    found = said(
        iptc(
            (5, b"Kite"),
            (25, b"beach"),
            (25, "Dünen".encode()),
            (120, "Über See".encode("latin-1")),
        )
    )
    assert found.title == "Kite"
    assert found.description == "Über See"
    assert found.keywords == ("beach", "Dünen")
    assert said(iptc((25, b"one"))).keywords == ("one",)


def test_png_text() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "Kite")
    info.add_text("Description", "over  the\nbeach")
    found = said(encode(scene(), "PNG", pnginfo=info))
    assert (found.title, found.description) == ("Kite", "over the beach")


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
     b"Exif\0\0II*\0\xff\xff\xff\xff",
     b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\xff\xff\xff\xf0\0\0\0\0"],
)  # fmt: skip
def test_bad_exif_never_makes_a_picture_bad(exif: bytes) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        picture = read(encode(scene(), kind, exif=exif))
        assert picture.info.taken_at is None


@pytest.mark.parametrize(
    "xmp",
    [b"<x:xmpmeta", b"<a>" * 5000, b"\xff\xfe\0", b"not xml at all <",
     b'<!DOCTYPE a [<!ENTITY b "cc"><!ENTITY d "&b;&b;">]><a>&d;</a>'],
)  # fmt: skip
def test_bad_xmp_never_makes_a_picture_bad(xmp: bytes) -> None:
    found = said(encode(scene(), "JPEG", xmp=xmp))
    assert found == Metadata()


def test_bad_iptc_never_makes_a_picture_bad() -> None:
    whole = iptc((5, b"Kite"), (120, b"caption"))
    at = whole.index(b"\x1c\x02\x78")
    assert read(whole[:at] + b"\x99" + whole[at + 1 :]).info.width == 120
    read(whole[: at + 3] + b"\xff\xff" + whole[at + 5 :])


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_any_exif_bytes(block: bytes) -> None:
    data = encode(scene(16, 16), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08" + block)
    assert decode(data, source="x").pixels.shape == (16, 16, 3)
