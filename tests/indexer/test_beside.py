"""Files that other programs write beside pictures count as what the pictures say of themselves."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from collection import encoded, failures, run, texts, titled, unchanged, write

from indexer import manage
from mmsearch.library import CATALOG_NAME, Library
from mmsearch.store.mend import examined
from mmsearch.types import PictureInfo

# As Lightroom Classic, darktable 4 and Immich (with exiftool) write them, cut to what matters here.
LIGHTROOM = """<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0-c000">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
    xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
    xmlns:lr="http://ns.adobe.com/lightroom/1.0/"
   xmp:CreateDate="2021-08-15T18:30:12.45" photoshop:DateCreated="2021-08-14T18:30:12.45+02:00"
   exif:GPSLatitude="48,12.5N" exif:GPSLongitude="16,22.2W">
   <dc:title><rdf:Alt><rdf:li xml:lang="de">Leuchtturm</rdf:li>
     <rdf:li xml:lang="x-default">Lighthouse at dusk</rdf:li></rdf:Alt></dc:title>
   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">%s</rdf:li></rdf:Alt></dc:description>
   <dc:subject><rdf:Bag><rdf:li>coast</rdf:li><rdf:li>Brittany</rdf:li></rdf:Bag></dc:subject>
   <lr:hierarchicalSubject><rdf:Bag><rdf:li>Places|France|Brittany</rdf:li>
     <rdf:li>people|Anna</rdf:li></rdf:Bag></lr:hierarchicalSubject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""
DARKTABLE = """<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:exif="http://ns.adobe.com/exif/1.0/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:lr="http://ns.adobe.com/lightroom/1.0/" xmlns:darktable="http://darktable.sf.net/"
   exif:DateTimeOriginal="2019:06:01 12:00:00.000" xmp:Rating="1" darktable:xmp_version="5">
   <dc:subject><rdf:Seq><rdf:li>%s</rdf:li></rdf:Seq></dc:subject>
   <lr:hierarchicalSubject><rdf:Seq><rdf:li>darktable|exported</rdf:li></rdf:Seq>
   </lr:hierarchicalSubject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""
IMMICH = """<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>
<x:xmpmeta xmlns:x='adobe:ns:meta/' x:xmptk='Image::ExifTool 12.96'>
<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>
 <rdf:Description rdf:about='' xmlns:digiKam='http://www.digikam.org/ns/1.0/'>
  <digiKam:TagsList><rdf:Seq><rdf:li>animals/dog</rdf:li></rdf:Seq></digiKam:TagsList>
 </rdf:Description>
 <rdf:Description rdf:about='' xmlns:exif='http://ns.adobe.com/exif/1.0/'>
  <exif:GPSLatitude>33,52.05S</exif:GPSLatitude>
  <exif:GPSLongitude>151,12,30E</exif:GPSLongitude>
 </rdf:Description>
 <rdf:Description rdf:about='' xmlns:tiff='http://ns.adobe.com/tiff/1.0/'>
  <tiff:ImageDescription><rdf:Alt><rdf:li xml:lang='x-default'>our dog</rdf:li></rdf:Alt>
  </tiff:ImageDescription>
 </rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end='w'?>"""


def lightroom(description: str = "waves & rocks") -> bytes:
    return (LIGHTROOM % description.replace("&", "&amp;")).encode()


def darktable(keyword: str = "mountain") -> bytes:
    return (DARKTABLE % keyword).encode()


def takeout(title: str, description: str = "", **more: Any) -> bytes:
    """As Google Takeout writes it."""
    nowhere = {
        "latitude": 0.0,
        "longitude": 0.0,
        "altitude": 0.0,
        "latitudeSpan": 0.0,
        "longitudeSpan": 0.0,
    }
    said = {
        "title": title,
        "description": description,
        "imageViews": "3",
        "creationTime": {"timestamp": "1600000000", "formatted": "13.09.2020, 12:26:40 UTC"},
        "photoTakenTime": {"timestamp": "1500000000", "formatted": "14.07.2017, 02:40:00 UTC"},
        "geoData": nowhere,
        "geoDataExif": nowhere,
        "url": "https://photos.google.com/photo/AF1QipN",
        "googlePhotosOrigin": {"mobileUpload": {"deviceType": "ANDROID_PHONE"}},
    }
    return json.dumps(said | more, indent=2).encode()


def known(library: Path) -> dict[str, PictureInfo]:
    """What is known of each picture, by the name of its file, copies too."""
    with Library(library, device="cpu") as lib:
        return {
            Path(path).name: hit.image.info
            for hit in lib.search("waves", k=1000)
            for path in (hit.image.path, *hit.image.copies)
        }


def captions(library: Path) -> dict[str, tuple[str, ...]]:
    with Library(library, device="cpu") as lib:
        return {
            Path(path).name: tuple(sorted(hit.captions))
            for hit in lib.search("waves", k=1000)
            for path in (hit.image.path, *hit.image.copies)
        }


def passing(library: Path, where: str) -> list[str]:
    with Library(library, device="cpu") as lib:
        hits = lib.search("waves", k=1000, where=where)
        return sorted(Path(hit.image.path).name for hit in hits)


@pytest.fixture
def no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture is opened."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a picture was read")

    monkeypatch.setattr("indexer.prepare.read", refuse)
    monkeypatch.setattr("indexer.load.read", refuse)


# --- one after the other --------------------------------------------------------------------------


def test_lightroom(library: Path, photos: Path, model: str) -> None:
    write(photos / "0.XMP", lightroom())
    report = run(library, photos, model=model)
    assert (report.encoded_images, report.carried, report.failed) == (4, 3, 0)
    info = known(library)["0.png"]
    assert (info.title, info.description) == ("Lighthouse at dusk", "waves & rocks")
    assert info.keywords == ("coast", "Brittany", "Anna")
    assert info.taken_at == datetime(2021, 8, 14, 18, 30, 12)
    assert info.latitude == pytest.approx(48 + 12.5 / 60)
    assert info.longitude == pytest.approx(-16 - 22.2 / 60)
    assert captions(library)["0.png"] == (
        "Lighthouse at dusk",
        "coast, Brittany, Anna",
        "waves & rocks",
    )
    assert texts(library) == ["Lighthouse at dusk", "coast, Brittany, Anna", "waves & rocks"]
    for where in ("keyword:anna", "taken:2021-08", "has:gps", "has:caption", "near:48.2,-16.4,20"):
        assert passing(library, where) == ["0.png"], where
    assert unchanged(run(library))


def test_darktable_and_immich(library: Path, photos: Path, model: str) -> None:
    write(photos / "0.png.xmp", darktable())
    write(photos / "1.png.xmp", IMMICH.encode())
    run(library, photos, model=model)
    here = known(library)
    assert here["0.png"].keywords == ("mountain",)
    assert here["0.png"].taken_at == datetime(2019, 6, 1, 12)
    assert here["1.png"].keywords == ("dog",)
    assert here["1.png"].description == "our dog"
    assert here["1.png"].latitude == pytest.approx(-33 - 52.05 / 60)
    assert here["1.png"].longitude == pytest.approx(151 + 12.5 / 60)


def test_takeout_fills_gaps(library: Path, photos: Path, model: str) -> None:
    write(
        photos / "0.png.supplemental-metadata.json",
        takeout(
            "0.png",
            "harbour at noon",
            people=[{"name": "Anna"}, {"name": "Bob"}],
            geoData={"latitude": 48.5, "longitude": 2.25, "altitude": 7.0},
        ),
    )
    write(photos / "IMG_1.jpg", encoded(20, "JPEG"))
    write(photos / "IMG_1(1).jpg", encoded(21, "JPEG"))
    write(photos / "IMG_1-edited.jpg", encoded(22, "JPEG"))
    write(photos / "IMG_1.jpg.json", takeout("IMG_1.jpg", "the first"))
    write(photos / "IMG_1.jpg(1).json", takeout("IMG_1.jpg", "the second"))
    run(library, photos, model=model)
    here = known(library)
    info = here["0.png"]
    assert (info.title, info.description) == (None, "harbour at noon")
    assert info.keywords == ("Anna", "Bob")
    assert info.taken_at == datetime(2017, 7, 14, 2, 40)
    assert (info.latitude, info.longitude) == (48.5, 2.25)
    assert here["IMG_1.jpg"].description == here["IMG_1-edited.jpg"].description == "the first"
    assert here["IMG_1(1).jpg"].description == "the second"
    assert here["IMG_1.jpg"].latitude is None
    assert here["1.png"].taken_at is None


def test_what_counts_more(library: Path, photos: Path, model: str) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x010E] = "what the camera's owner wrote"
    exif.get_ifd(0x8769)[0x9003] = "2010:01:02 03:04:05"
    write(photos / "a.jpg", encoded(20, "JPEG", exif=exif))
    write(photos / "b.jpg", encoded(21, "JPEG", exif=exif))
    write(photos / "a.jpg.json", takeout("Our trip to the sea.jpg", "from Google"))
    write(photos / "b.jpg.json", takeout("b.jpg", "from Google"))
    write(photos / "b.xmp", lightroom("from Lightroom"))
    run(library, photos, model=model)
    here = known(library)
    assert here["a.jpg"].title == "Our trip to the sea"
    assert here["a.jpg"].description == "from Google"
    assert here["a.jpg"].taken_at == datetime(2010, 1, 2, 3, 4, 5)
    assert here["b.jpg"].description == "from Lightroom"
    assert here["b.jpg"].taken_at == datetime(2021, 8, 14, 18, 30, 12)
    assert texts(library).count("what the camera's owner wrote") == 0
    (photos / "a.jpg.json").unlink()
    (photos / "b.xmp").unlink()
    (photos / "b.jpg.json").unlink()
    run(library)
    for info in (known(library)[name] for name in ("a.jpg", "b.jpg")):
        assert (info.title, info.description) == (None, "what the camera's owner wrote")
        assert info.taken_at == datetime(2010, 1, 2, 3, 4, 5)
        assert (info.keywords, info.latitude) == ((), None)
    assert texts(library) == ["what the camera's owner wrote"]


# --- for years ------------------------------------------------------------------------------------


def test_they_come_change_and_go_and_no_picture_is_read(
    library: Path, photos: Path, model: str, request: pytest.FixtureRequest
) -> None:
    run(library, photos, model=model)
    request.getfixturevalue("no_pixels")
    write(photos / "0.xmp", lightroom("one"))
    report = run(library)
    assert (report.told, report.carried, report.encoded_texts, report.known) == (1, 3, 3, 0)
    assert report.changed
    assert known(library)["0.png"].description == "one"
    assert unchanged(run(library))
    write(photos / "0.xmp", lightroom("another"), at=5000)
    report = run(library)
    assert (report.told, report.encoded_texts) == (1, 1)
    assert known(library)["0.png"].description == "another"
    assert "one" not in texts(library)
    (photos / "0.xmp").unlink()
    report = run(library)
    assert (report.told, report.carried, report.encoded_texts) == (1, 0, 0)
    assert known(library)["0.png"].description is None
    assert texts(library) == []
    assert passing(library, "has:gps or has:keyword or has:date") == []
    assert unchanged(run(library))


def test_nothing_to_encode_needs_no_model(
    library: Path, photos: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(library, photos, model=model)

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("indexer.models.load_encoder", refuse, raising=False)
    monkeypatch.setattr("mmsearch.encode.load_encoder", refuse)
    write(photos / "0.png.json", takeout("0.png"))
    assert run(library).told == 1
    assert known(library)["0.png"].taken_at == datetime(2017, 7, 14, 2, 40)


def test_a_reader_that_stays_open_sees_it(library: Path, photos: Path, model: str) -> None:
    run(library, photos, model=model)
    with Library(library, device="cpu") as lib:
        filters = ("has:gps", "taken:2021", "keyword:coast")
        for one in filters:
            assert lib.search("waves", where=one) == []
        write(photos / "0.xmp", lightroom())
        run(library)
        for one in filters:
            assert [hit.image.name for hit in lib.search("waves", where=one)] == ["0.png"]
        (photos / "0.xmp").unlink()
        run(library)
        for one in filters:
            assert lib.search("waves", where=one) == []


def test_renamed_and_moved_with_and_without(library: Path, photos: Path, model: str) -> None:
    write(photos / "0.xmp", lightroom())
    run(library, photos, model=model)
    (photos / "in").mkdir()
    for name in ("0.png", "0.xmp"):
        (photos / name).rename(photos / "in" / name)
    report = run(library)
    assert (report.encoded_images, report.encoded_texts) == (0, 0)
    assert known(library)["0.png"].title == "Lighthouse at dusk"
    (photos / "in" / "0.png").rename(photos / "new.png")
    run(library)
    assert known(library)["new.png"].title is None
    (photos / "in" / "0.xmp").rename(photos / "1.xmp")
    run(library)
    assert known(library)["1.png"].title == "Lighthouse at dusk"
    assert known(library)["new.png"].title is None


def test_copies_with_different_files_beside_them(library: Path, photos: Path, model: str) -> None:
    """Details are kept for the content: the same come out whatever came first."""
    write(photos / "a.png", encoded(0))
    write(photos / "0.png.xmp", darktable("from nought"))
    write(photos / "a.png.xmp", darktable("from a"))
    run(library, photos, model=model)
    assert known(library)["0.png"].keywords == ("from nought", "from a")
    assert captions(library)["0.png"] == ("from a", "from nought")
    (photos / "0.png").unlink()
    run(library)
    assert known(library)["a.png"].keywords == ("from a",)
    assert captions(library)["a.png"] == ("from a",)
    write(photos / "0.png", encoded(0))
    run(library)
    assert known(library)["a.png"].keywords == ("from nought", "from a")
    (photos / "a.png.xmp").unlink()
    run(library)
    assert known(library)["a.png"].keywords == ("from nought",)


def test_a_picture_that_changes_keeps_what_lies_beside_it(
    library: Path, photos: Path, model: str
) -> None:
    write(photos / "0.jpg", titled(0, "its own words"))
    write(photos / "0.jpg.xmp", darktable())
    (photos / "0.png").unlink()
    run(library, photos, model=model)
    write(photos / "0.jpg", titled(1, "others"), at=5000)
    run(library)
    info = known(library)["0.jpg"]
    assert (info.description, info.keywords) == ("others", ("mountain",))


def test_broken_ones_are_told_and_tried_again_when_they_change(
    library: Path, photos: Path, model: str
) -> None:
    write(photos / "0.xmp", b"<x:xmpmeta")
    write(photos / "1.png.json", takeout("1.png")[:-9])
    write(photos / "2.png.xmp", darktable())
    write(photos / "2.xmp", b"")
    report = run(library, photos, model=model)
    assert (report.encoded_images, report.failed) == (4, 3)
    assert failures(library) == {
        "0.png:0.xmp": "broken, or not XMP",
        "1.png:1.png.json": "broken: not the JSON that Google Takeout writes",
        "2.png:2.xmp": "empty file",
    }
    assert known(library)["2.png"].keywords == ("mountain",)
    assert unchanged(run(library))
    assert len(failures(library)) == 3
    write(photos / "0.xmp", lightroom(), at=5000)
    (photos / "2.xmp").unlink()
    run(library)
    assert list(failures(library)) == ["1.png:1.png.json"]
    assert known(library)["0.png"].title == "Lighthouse at dusk"
    # With the picture they go, and come back.
    (photos / "1.png").rename(photos.parent / "1.png")
    run(library)
    assert failures(library) == {}
    (photos.parent / "1.png").rename(photos / "1.png")
    run(library)
    assert list(failures(library)) == ["1.png:1.png.json"]
    write(photos / "1.png", b"no picture any more", at=6000)
    run(library)
    assert list(failures(library)) == ["1.png"]


def test_one_that_is_closed_for_a_while_loses_nothing(
    library: Path, photos: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(photos / "0.xmp", lightroom("one"))
    run(library, photos, model=model)
    write(photos / "0.xmp", lightroom("two"), at=5000)
    write(photos / "1.xmp", lightroom("of another"))
    real = open

    def closed(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).endswith(".xmp"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", closed)
        write(photos / "3.xmp", lightroom("of a new one"))
        write(photos / "3.png", encoded(33), at=7000)
        run(library)
        assert known(library)["0.png"].description == "one"
        assert sorted(failures(library)) == ["0.png:0.xmp", "1.png:1.xmp", "3.png:3.xmp"]
    run(library)
    assert failures(library) == {}
    assert known(library)["0.png"].description == "two"
    assert known(library)["3.png"].description == "of a new one"
    assert unchanged(run(library))


def test_other_programs_files_are_left_alone(library: Path, photos: Path, model: str) -> None:
    write(photos / "0.json", json.dumps({"shapes": [], "imagePath": "0.png"}).encode())
    write(photos / "1.png.json", b"[1, 2")
    write(photos / "2.json", b"{" * 100_000)
    write(photos / "3.png.json", b" " * (2 << 20) + takeout("3.png", "too far"))
    write(photos / "stray.xmp", b"whatever")
    write(photos / "stray.jpg.json", takeout("stray.jpg", "no picture here"))
    report = run(library, photos, model=model)
    assert (report.failed, report.skipped, report.texts, report.carried) == (0, 0, 0, 0)
    assert unchanged(run(library))


def test_left_out_by_patterns(library: Path, photos: Path, model: str) -> None:
    write(photos / "0.xmp", lightroom())
    run(library, photos, model=model)
    run(library, photos, exclude=("*.xmp",))
    assert known(library)["0.png"].title is None
    run(library, photos, exclude=("",))
    assert known(library)["0.png"].title == "Lighthouse at dusk"


def test_a_picture_named_by_itself_in_a_known_folder(
    library: Path, photos: Path, model: str
) -> None:
    run(library, photos, model=model)
    write(photos / "new.png", encoded(50))
    write(photos / "new.png.xmp", darktable())
    run(library, photos / "new.png")
    assert known(library)["new.png"].keywords == ("mountain",)
    assert unchanged(run(library))


def test_a_new_model_takes_them_along(library: Path, photos: Path, model: str, tmp_path) -> None:
    from collection import save_model

    write(photos / "0.xmp", lightroom())
    run(library, photos, model=model)
    before = captions(library)
    run(library, model=save_model(tmp_path / "other", seed=5))
    assert captions(library) == before
    assert known(library)["0.png"].title == "Lighthouse at dusk"


def test_sources_that_go(library: Path, photos: Path, model: str, tmp_path: Path) -> None:
    write(photos / "0.xmp", lightroom("in the one"))
    more = tmp_path / "more"
    write(more / "same.png", encoded(0))
    write(more / "same.png.xmp", darktable())
    run(library, photos, more, model=model)
    assert known(library)["same.png"].keywords == ("coast", "Brittany", "Anna", "mountain")
    manage.remove_source(library, "photos")
    assert known(library)["same.png"].keywords == ("mountain",)
    assert known(library)["same.png"].title is None
    data = (library / CATALOG_NAME).read_bytes()
    for secret in (b"in the one", b"Brittany"):
        assert secret not in data


def test_the_doctor(library: Path, photos: Path, model: str) -> None:
    write(photos / "0.xmp", lightroom())
    run(library, photos, model=model)
    path = library / CATALOG_NAME
    with examined(path) as (check, _):
        assert check.unsettled() == ([], [])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER details_image_changed")
        connection.execute("UPDATE picture SET title = 'wrong' WHERE title IS NOT NULL")
        connection.commit()
    with examined(path) as (check, mender):
        ids, triggers = check.unsettled()
        assert (len(ids), triggers) == (1, ["details_image_changed"])
        mender.settle_details()
        assert check.unsettled() == ([], [])
    assert known(library)["0.png"].title == "Lighthouse at dusk"


def test_a_library_of_before_picks_them_up(library: Path, photos: Path, model: str) -> None:
    """One that was migrated knows nothing of what lies beside its pictures."""
    write(photos / "0.xmp", lightroom())
    (photos / "0.xmp").rename(photos.parent / "0.xmp")
    run(library, photos, model=model)
    with closing(sqlite3.connect(library / CATALOG_NAME)) as connection:
        connection.execute("UPDATE image SET beside = NULL")
        connection.commit()
    assert unchanged(run(library))
    (photos.parent / "0.xmp").rename(photos / "0.xmp")
    assert run(library).told == 1


def test_odd_names(library: Path, photos: Path, model: str) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    write(photos / name, encoded(30))
    write(photos / f"{name}.xmp", darktable())
    run(library, photos, model=model)
    assert ("mountain",) in {info.keywords for info in known(library).values()}
    write(photos / f"{name}.xmp", b"<", at=5000)
    run(library)
    assert len(failures(library)) == 1
    assert unchanged(run(library))


def test_pictures_that_processes_prepare(library: Path, photos: Path, model: str) -> None:
    write(photos / "0.png.xmp", darktable())
    assert run(library, photos, model=model, decode_processes=1).encoded_images == 4
    assert known(library)["0.png"].keywords == ("mountain",)
    assert unchanged(run(library))
