"""Runs of the indexer over raw files of cameras: alone, beside their JPEGs, in archives, broken."""

from __future__ import annotations

import io
import os
import sys
import time
import zipfile
from pathlib import Path

import pytest
import raws
from collection import encoded, failures, names, picture, run, texts, unchanged, write
from PIL import Image
from test_ingest_archives import shard_of

from indexer.cli import summary
from mmsearch.library import Library


def shot(seed: int, turn: int | None = None, **more: object) -> bytes:
    """A raw file with a preview."""
    image = picture(seed)
    return raws.dng(image, image, orientation=turn, **more)  # type: ignore[arg-type]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    write(root / "0.png", encoded(0))
    write(root / "1.dng", shot(1))
    write(root / "2.NEF", shot(2, make="NIKON CORPORATION", version=False))
    write(root / "3.dng", raws.dng(picture(3)))
    return root


DARKTABLE = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:subject><rdf:Seq><rdf:li>sea</rdf:li></rdf:Seq></dc:subject>
</rdf:Description></rdf:RDF></x:xmpmeta>"""


def test_they_are_found_by_what_they_show(photos: Path, library: Path, model: str) -> None:
    report = run(library, photos, model=model)
    assert (report.files, report.encoded_images, report.failed) == (4, 4, 0)
    assert unchanged(run(library))
    with Library(library, device="cpu") as lib:
        for n, name in ((1, "1.dng"), (2, "2.NEF")):
            hits = lib.search(image=encoded(n, "JPEG", quality=95), k=1)
            assert [hit.image.name for hit in hits] == [name]
            assert hits[0].score > 0.99
        # The other way around: a raw file that is asked with.
        hits = lib.search(image=photos / "2.NEF", k=1)
        assert (hits[0].image.name, hits[0].image.info.format) == ("2.NEF", "NEF")
        for query, count in (("format:raw", 3), ("format:dng", 2), ("not format:raw", 1)):
            assert len(lib.search("waves", k=9, where=query)) == count
        small = lib.thumbnail(lib.search("waves", k=1, where="format:nef")[0].image.id, 256)
    with Image.open(io.BytesIO(small)) as thumbnail:
        assert thumbnail.format == "WEBP"


def test_the_same_picture_is_read_once(photos: Path, library: Path, model: str) -> None:
    write(photos / "2.jpg", encoded(2, "JPEG"))
    write(photos / "1.txt", b"a kite")
    write(photos / "2.nef.txt", b"a boat")
    report = run(library, photos, model=model)
    assert (report.files, report.encoded_images, report.developed) == (4, 4, 1)
    assert "1 raw file passed over: the same in another format lies beside" in summary(report)
    assert names(library) == ["0.png", "1.dng", "2.jpg", "3.dng"]
    assert texts(library) == ["a boat", "a kite"]
    assert unchanged(run(library))
    # What darktable writes of the one is true of the other.
    write(photos / "2.NEF.xmp", DARKTABLE)
    assert run(library).told == 1
    with Library(library, device="cpu") as lib:
        assert [h.image.name for h in lib.search("waves", k=9, where="keyword:sea")] == ["2.jpg"]

    (photos / "2.jpg").unlink()
    assert run(library).encoded_images == 1
    assert names(library) == ["0.png", "1.dng", "2.NEF", "3.dng"]

    write(photos / "2.jpg", encoded(2, "JPEG"))
    write(photos / "1.heic", encoded(1, "JPEG"))
    report = run(library)
    assert (report.missing, report.developed) == (2, 2)
    assert names(library) == ["0.png", "1.heic", "2.jpg", "3.dng"]

    (photos / "1.heic").unlink()  # what was known needs no model
    report = run(library)
    assert (report.encoded_images, report.returned) == (0, 1)
    assert names(library) == ["0.png", "1.dng", "2.jpg", "3.dng"]
    with Library(library, device="cpu") as lib:
        hits = {hit.image.name: hit.captions for hit in lib.search("waves", k=9)}
    assert (hits["1.dng"], hits["2.jpg"]) == (("a kite",), ("a boat", "sea"))


def test_a_broken_picture_does_not_hide_its_raw_file(
    photos: Path, library: Path, model: str
) -> None:
    write(photos / "0.jpg", b"no picture")  # one without a raw file
    write(photos / "1.heic", encoded(1, "JPEG"))
    write(photos / "2.jpg", encoded(2, "JPEG")[:-900])
    write(photos / "2.txt", b"a boat")
    write(photos / "2.jpg.xmp", DARKTABLE)
    report = run(library, photos, model=model)
    assert (report.files, report.encoded_images, report.developed, report.failed) == (6, 4, 1, 2)
    assert names(library) == ["0.png", "1.heic", "2.NEF", "3.dng"]
    assert set(failures(library)) == {"0.jpg", "2.jpg"}
    with Library(library, device="cpu") as lib:
        hits = {hit.image.name: hit.captions for hit in lib.search("waves", k=9)}
        assert hits["2.NEF"] == ("a boat", "sea")
    assert unchanged(run(library))
    report = run(library, photos / "2.NEF")
    assert (report.missing, report.developed) == (0, 0)

    write(photos / "2.jpg", encoded(2, "JPEG"), at=5000)  # it was mended
    report = run(library)
    assert (report.encoded_images, report.missing, report.developed) == (1, 1, 2)
    assert names(library) == ["0.png", "1.heic", "2.jpg", "3.dng"]
    with Library(library, device="cpu") as lib:
        hits = {hit.image.name: hit.captions for hit in lib.search("waves", k=9)}
        assert hits["2.jpg"] == ("a boat", "sea")
    assert unchanged(run(library))

    write(photos / "2.jpg", b"broken again", at=6000)
    report = run(library)
    assert (report.encoded_images, report.returned, report.developed) == (0, 1, 1)
    assert names(library) == ["0.png", "1.heic", "2.NEF", "3.dng"]
    with Library(library, device="cpu") as lib:
        hits = {hit.image.name: hit.captions for hit in lib.search("waves", k=9)}
        assert hits["2.NEF"] == ("a boat", "sea")
    assert unchanged(run(library))
    (photos / "2.jpg").unlink()
    assert run(library).encoded_images == 0
    assert names(library) == ["0.png", "1.heic", "2.NEF", "3.dng"]


def test_one_of_two_pictures_is_enough_to_hide_it(photos: Path, library: Path, model: str) -> None:
    write(photos / "2.heic", b"broken")
    write(photos / "2.jpg", encoded(2, "JPEG"))
    for _ in range(2):
        run(library, photos, model=model)
        assert names(library) == ["0.png", "1.dng", "2.jpg", "3.dng"]


def test_one_that_is_named_by_itself(photos: Path, library: Path, model: str) -> None:
    write(photos / "2.jpg", encoded(2, "JPEG"))
    run(library, photos, model=model)
    report = run(library, photos / "2.NEF")
    assert (report.developed, report.missing, report.encoded_images) == (1, 0, 0)
    # Outside of any source, it is what was asked for.
    other = write(photos.parent / "other" / "photos" / "4.nef", shot(4))
    write(other.with_suffix(".jpg"), encoded(4, "JPEG"))
    assert run(library, other).encoded_images == 1
    assert names(library) == ["0.png", "1.dng", "2.jpg", "3.dng", "4.nef"]


def test_broken_ones_are_named(photos: Path, library: Path, model: str) -> None:
    whole = shot(5)
    write(photos / "cut.dng", whole[:-1000])
    write(photos / "rubbish.cr3", b"\0\0\0\x18ftypcrx " + b"\0" * 500)
    write(photos / "text.nef", b"no picture at all")
    write(photos / "empty.arw", b"")
    report = run(library, photos, model=model)
    assert (report.encoded_images, report.failed) == (4, 4)
    said = failures(library)
    assert said["cut.dng"] == "truncated"
    assert "LibRaw cannot read" in said["rubbish.cr3"] or "broken" in said["rubbish.cr3"]
    assert said["text.nef"] == "not a picture mmsearch can read"
    assert said["empty.arw"] == "empty file"
    assert unchanged(run(library))
    later = time.time() + 10
    write(photos / "cut.dng", whole)
    os.utime(photos / "cut.dng", (later, later))
    assert run(library).encoded_images == 1
    assert "cut.dng" not in failures(library)


def test_where_rawpy_is_missing_they_wait_for_it(
    photos: Path, library: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(photos / "a.zip", "w") as archive:
        archive.writestr("5.dng", shot(5))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "rawpy", None)
        report = run(library, photos, model=model)
        assert (report.encoded_images, report.failed) == (1, 4)
        said = failures(library)
        assert set(said) == {"1.dng", "2.NEF", "3.dng", "a.zip!/5.dng"}
        assert all(
            text.startswith("raw files of cameras need rawpy, which cannot be loaded (")
            and text.endswith("): pip install rawpy")
            for text in said.values()
        )
        report = run(library)
        assert (report.encoded_images, report.failed) == (0, 4)
    assert run(library).encoded_images == 4
    assert failures(library) == {}
    assert unchanged(run(library))


def test_in_an_archive(tmp_path: Path, library: Path, model: str) -> None:
    (tmp_path / "photos").mkdir()
    with zipfile.ZipFile(tmp_path / "photos" / "a.zip", "w") as archive:
        archive.writestr("1.DNG", shot(1))
        archive.writestr("2.DNG", shot(2))
        archive.writestr("2.JPG", encoded(2, "JPEG"))
    assert run(library, tmp_path / "photos", model=model).encoded_images == 2
    assert names(library) == ["a.zip!/1.DNG", "a.zip!/2.JPG"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "takeout-20251101T100000Z-001.zip"])
def test_a_broken_picture_in_an_archive_does_not_hide_its_raw_file(
    tmp_path: Path, library: Path, model: str, name: str
) -> None:
    files = {
        "in/0.jpg": encoded(0, "JPEG")[:-900],
        "in/0.NEF": shot(0),
        "in/0.jpg.txt": b"a boat",
        "in/0.jpg.xmp": DARKTABLE,
        "in/1.jpg": encoded(1, "JPEG"),
        "in/1.NEF": shot(1),
        "in/2.heic": b"broken",
        "in/2.jpg": encoded(2, "JPEG"),
        "in/2.dng": shot(2),
        "in/3.jpg": b"broken",
    }
    (tmp_path / "photos").mkdir()
    path = tmp_path / "photos" / name
    shard_of(path, files, "w:gz" if name.endswith("gz") else "w")
    report = run(library, tmp_path / "photos", model=model)
    assert (report.encoded_images, report.failed) == (3, 3)
    assert names(library) == [f"{name}!/in/{of}" for of in ("0.NEF", "1.jpg", "2.jpg")]
    assert set(failures(library)) == {f"{name}!/in/{of}" for of in ("0.jpg", "2.heic", "3.jpg")}
    with Library(library, device="cpu") as lib:
        hits = {hit.image.name: hit.captions for hit in lib.search("waves", k=9)}
        assert sorted(hits["0.NEF"]) == ["a boat", "sea"]
    assert unchanged(run(library))
    # It was mended.
    shard_of(path, files | {"in/0.jpg": encoded(0, "JPEG")}, "w:gz" if name[-2:] == "gz" else "w")
    os.utime(path, (5000, 5000))
    run(library)
    assert names(library) == [f"{name}!/in/{of}" for of in ("0.jpg", "1.jpg", "2.jpg")]
    assert unchanged(run(library))
