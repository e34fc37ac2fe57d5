"""Which files beside pictures tell of which, by their names; and what they may hold."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from indexer.beside import packets, takeout
from indexer.beside.names import beside
from indexer.beside.said import said_in
from mmsearch.told import Told

LONG = "00000PORTRAIT_00000_BURST20180703145712345_COVER"  # 48 characters
CUT = LONG[:46]


def google(name: str, said: dict[str, object]) -> Told | None:
    """What Takeout's file tells of the picture with this name."""
    found = said_in("a.json", json.dumps(said).encode())
    return None if found is None else found.of(name)


@pytest.mark.parametrize(
    ("pictures", "files", "expected"),
    [
        # .xmp
        (["a.jpg"], ["a.jpg.xmp"], {"a.jpg": ("a.jpg.xmp",)}),
        (["a.jpg"], ["a.xmp"], {"a.jpg": ("a.xmp",)}),
        (["IMG.JPG"], ["img.xmp"], {"IMG.JPG": ("img.xmp",)}),
        (["IMG.JPG"], ["IMG.jpg.XMP"], {"IMG.JPG": ("IMG.jpg.XMP",)}),
        (["a.jpg", "a.heic"], ["a.xmp"], {"a.jpg": ("a.xmp",), "a.heic": ("a.xmp",)}),
        (["a.jpg"], ["a.xmp", "a.jpg.xmp"], {"a.jpg": ("a.jpg.xmp", "a.xmp")}),
        (["a.jpg", "A.jpg"], ["a.jpg.xmp"], {"a.jpg": ("a.jpg.xmp",)}),
        (["a.jpg", "A.JPG"], ["a.xmp", "A.xmp"], {"a.jpg": ("a.xmp",), "A.JPG": ("A.xmp",)}),
        (["a.jpg", "A.png"], ["a.xmp"], {"a.jpg": ("a.xmp",)}),
        (["a.jpg"], ["b.xmp", "a.png.xmp", "aa.xmp", ".xmp"], {}),
        # Takeout
        (["a.jpg"], ["a.jpg.json"], {"a.jpg": ("a.jpg.json",)}),
        (["a.jpg"], ["a.json"], {"a.jpg": ("a.json",)}),
        *(
            (["a.jpg"], [f"a.jpg.{cut}.json"], {"a.jpg": (f"a.jpg.{cut}.json",)})
            for cut in ("supplemental-metadata", "supplemental-me", "suppl", "s", "")
        ),
        (["a.jpg"], ["a.jpg.supplementary.json", "a.jpg.x.json", "b.json"], {}),
        (
            ["a.jpg", "a(1).jpg"],
            ["a.jpg.json", "a.jpg(1).json"],
            {"a.jpg": ("a.jpg.json",), "a(1).jpg": ("a.jpg(1).json",)},
        ),
        (
            ["a.jpg", "a(2).jpg"],
            ["a.jpg.supplemental-metadata(2).json"],
            {"a(2).jpg": ("a.jpg.supplemental-metadata(2).json",)},
        ),
        (["a(1).jpg"], ["a(1).jpg.json"], {"a(1).jpg": ("a(1).jpg.json",)}),
        (
            ["a-edited.jpg", "b-bearbeitet(1).jpg"],
            ["a.jpg.json", "b.jpg(1).json"],
            {"a-edited.jpg": ("a.jpg.json",), "b-bearbeitet(1).jpg": ("b.jpg(1).json",)},
        ),
        (
            ["a-edited.jpg"],
            ["a.jpg.json", "a-edited.jpg.json"],
            {"a-edited.jpg": ("a-edited.jpg.json",)},
        ),
        ([f"{LONG}.jpg"], [f"{CUT}.json"], {f"{LONG}.jpg": (f"{CUT}.json",)}),
        ([f"{LONG}(1).jpg"], [f"{CUT}(1).json"], {f"{LONG}(1).jpg": (f"{CUT}(1).json",)}),
        ([f"{LONG}.jpg", f"{LONG}R.jpg"], [f"{CUT}.json"], {}),
        ([f"{LONG}.jpg"], [f"{CUT[:40]}.json"], {}),
        (
            [f"{LONG}.jpg", f"{LONG}-edited.jpg"],
            [f"{CUT}.json"],
            {f"{LONG}.jpg": (f"{CUT}.json",), f"{LONG}-edited.jpg": (f"{CUT}.json",)},
        ),
        ([f"{LONG}-edited.jpg"], [f"{CUT}.json"], {f"{LONG}-edited.jpg": (f"{CUT}.json",)}),
        (
            [f"{'x' * 40}-edited.jpg", f"{'x' * 40}-egg.jpg"],
            [f"{'x' * 40}.jpg.s.json"],
            {f"{'x' * 40}-edited.jpg": (f"{'x' * 40}.jpg.s.json",)},
        ),
        # To 46 characters, or to as many bytes.
        ([f"{'é' * 50}.jpg"], [f"{'é' * 46}.json"], {f"{'é' * 50}.jpg": (f"{'é' * 46}.json",)}),
        ([f"{'é' * 50}.jpg"], [f"{'é' * 23}.json"], {f"{'é' * 50}.jpg": (f"{'é' * 23}.json",)}),
        ([f"{'é' * 50}.jpg"], [f"{'é' * 45}.json", f"{'é' * 22}.json"], {}),
        # Accents within a letter and by themselves, as on macOS.
        (["caf\xe9.jpg"], ["cafe\u0301.jpg.xmp"], {"caf\xe9.jpg": ("cafe\u0301.jpg.xmp",)}),
        (["CAFE\u0301.jpg"], ["caf\xe9.xmp"], {"CAFE\u0301.jpg": ("caf\xe9.xmp",)}),
        (["caf\xe9.jpg"], ["cafe\u0301.jpg.json"], {"caf\xe9.jpg": ("cafe\u0301.jpg.json",)}),
        (
            [f"e\u0301{LONG}.jpg"],
            [f"e\u0301{LONG[:45]}.json"],
            {f"e\u0301{LONG}.jpg": (f"e\u0301{LONG[:45]}.json",)},
        ),
        (
            ["caf\xe9.jpg", "cafe\u0301.jpg"],
            ["caf\xe9.jpg.xmp"],
            {"caf\xe9.jpg": ("caf\xe9.jpg.xmp",)},
        ),
        # Bytes that are no text.
        (["\udce9.jpg"], ["\udce9.jpg.xmp"], {"\udce9.jpg": ("\udce9.jpg.xmp",)}),
    ],
)
def test_names(pictures: list[str], files: list[str], expected: dict[str, tuple[str, ...]]) -> None:
    assert beside(pictures, files) == expected
    assert beside(pictures[::-1], files[::-1]) == expected


def test_a_folder_of_very_many_takes_no_time_by_their_square() -> None:
    pictures = [f"IMG_{n}.jpg" for n in range(50_000)]
    files = [f"{name}.supplemental-metadata.json" for name in pictures]
    assert len(beside(pictures, files)) == 50_000


XMP = (
    '<x xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
    'xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
    'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"><rdf:Description {}/></x>'
)


@pytest.mark.parametrize(
    ("said", "over", "gaps"),
    [
        ("exif:DateTimeOriginal='2020-02-03T04:05:06'", datetime(2020, 2, 3, 4, 5, 6), ...),
        (
            "exif:DateTimeOriginal='2020-02-03T04:05:06.789-08:00'",
            datetime(2020, 2, 3, 4, 5, 6),
            ...,
        ),
        ("exif:DateTimeOriginal='2020-02-03T04:05Z'", datetime(2020, 2, 3, 4, 5), ...),
        ("photoshop:DateCreated='2020-02-03'", datetime(2020, 2, 3), ...),
        ("photoshop:DateCreated='1974'", None, datetime(1974, 1, 1)),
        ("photoshop:DateCreated='1974-05'", None, datetime(1974, 5, 1)),
        ("xmp:CreateDate='2020-02-03T04:05:06'", None, datetime(2020, 2, 3, 4, 5, 6)),
        (
            "exif:DateTimeOriginal='0000-00-00' photoshop:DateCreated='2020-02-03'",
            datetime(2020, 2, 3),
            ...,
        ),
        ("exif:DateTimeOriginal='2020-02-31'", None, None),
        ("exif:DateTimeOriginal='yesterday'", None, None),
        ("exif:DateTimeOriginal=''", None, None),
    ],
)
def test_dates_in_xmp(said: str, over: datetime | None, gaps: object) -> None:
    told = packets.read(XMP.format(said).encode())
    assert told.over.taken_at == over
    if gaps is not ...:
        assert told.gaps.taken_at == gaps


@pytest.mark.parametrize(
    ("latitude", "longitude", "expected"),
    [
        ("48,12.5N", "16,30E", (48.20833, 16.5)),
        ("48,12,30S", "16,30,0W", (-48.20833, -16.5)),
        ("48.5N", "16.25E", None),
        ("0,0N", "0,0E", None),
        ("90,0N", "180,0W", (90.0, -180.0)),
        ("90,0.1N", "16,30E", None),
        ("48,12N", "180,0,1E", None),
        ("91,0N", "16,30E", None),
        ("48,12.5N", "", None),
        ("48,12.5E", "16,30N", None),
    ],
)
def test_places_in_xmp(latitude: str, longitude: str, expected: tuple[float, float] | None) -> None:
    said = f"exif:GPSLatitude='{latitude}' exif:GPSLongitude='{longitude}'"
    place = packets.read(XMP.format(said).encode()).over.place
    assert place == (None if expected is None else pytest.approx(expected, abs=1e-4))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0 ",
        b"<a>",
        b"<a><b></a>",
        b"\xff\xfe\x00",
        b"<?xml version='1.0' encoding='martian'?><a/>",
        b"<" * 100_000,
        b"<a>" * 100_000,
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
        b" " * (5 << 20),
    ],
)
def test_what_is_no_xmp(data: bytes) -> None:
    with pytest.raises(packets.NotReadableError):
        packets.read(data)


def test_xmp_in_other_encodings() -> None:
    text = "<?xml version='1.0' encoding='utf-16'?>" + XMP.format("exif:GPSLatitude='1,2N'")
    assert packets.read(text.encode("utf-16")) == Told()
    padded = "\n<?xml version='1.0'?>" + XMP.format("exif:DateTimeOriginal='2020-02-03'") + "\0\n"
    for data in (padded.encode(), padded[1:].encode("utf-8-sig")):
        assert packets.read(data).over.taken_at == datetime(2020, 2, 3)


@pytest.mark.parametrize(
    "said",
    [
        [],
        "title",
        3,
        None,
        {},
        {"title": "a.jpg"},
        {"title": 1, "photoTakenTime": {}},
        {"photoTakenTime": {"timestamp": "1"}},
        {"title": "a.jpg", "photoTakenTime": "2020"},
    ],
)
def test_json_of_others(said: object) -> None:
    assert takeout.read(json.dumps(said).encode()) is None


@pytest.mark.parametrize(
    ("more", "gaps"),
    [
        ({"photoTakenTime": {"timestamp": "0"}}, {"taken_at": datetime(1970, 1, 1)}),
        ({"photoTakenTime": {"timestamp": "-86400"}}, {"taken_at": datetime(1969, 12, 31)}),
        ({"photoTakenTime": {"timestamp": "9" * 30}}, {"taken_at": None}),
        ({"photoTakenTime": {"timestamp": None}}, {"taken_at": None}),
        ({"geoData": {"latitude": 1e999, "longitude": 2}}, {"place": None}),
        ({"geoData": {"latitude": float("nan"), "longitude": 2}}, {"place": None}),
        ({"geoData": {"latitude": "1", "longitude": 2}}, {"place": None}),
        ({"geoData": {"latitude": 90, "longitude": -180}}, {"place": (90.0, -180.0)}),
        ({"geoData": {"latitude": 90.01, "longitude": 2}}, {"place": None}),
        ({"geoData": {"latitude": 1, "longitude": -180.01}}, {"place": None}),
        (
            {
                "geoData": {"latitude": 1, "longitude": 2},
                "geoDataExif": {"latitude": 3.5, "longitude": 4},
            },
            {"place": (1.0, 2.0)},
        ),
        ({"geoData": {}, "people": "Anna"}, {"keywords": ()}),
        (
            {"geoData": {}, "people": [{"name": "Ann"}, {}, 3, {"name": 4}]},
            {"keywords": ("Ann",)},
        ),
    ],
)
def test_takeout_as_it_should_not_be(more: dict[str, object], gaps: dict[str, object]) -> None:
    told = google("a.jpg", {"title": "a.jpg"} | more)
    assert told is not None
    assert {name: getattr(told.gaps, name) for name in gaps} == gaps


@pytest.mark.parametrize(
    ("title", "name", "expected"),
    [
        ("IMG_1.jpg", "IMG_1.jpg", None),
        ("IMG_1.HEIC", "IMG_1(1).jpg", None),
        ("Mum & Dad.jpg", "Mum _ Dad.jpg", None),
        ("A day at the sea with all of us and the dog.jpg", "A day at the sea.jpg", ...),
        ("海辺の一日.jpg", "IMG_1.jpg", "海辺の一日"),
        ("20180703_145712_HDR_COVER.jpg", "20180703_145712.jpg", None),
        ("", "a.jpg", None),
    ],
)
def test_takeout_titles(title: str, name: str, expected: object) -> None:
    told = google(name, {"title": title, "geoData": {}})
    assert told is not None
    assert told.gaps.title == (title[:-4] if expected is ... else expected)
