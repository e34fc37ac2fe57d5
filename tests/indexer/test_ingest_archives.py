"""Pictures in archives, and the texts beside them there: read, followed and forgotten."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from collection import encoded, failures, names, run, texts, titled, unchanged, write, zip_of

from mmsearch.library import Library


def test_archives(library: Path, photos: Path, model: str) -> None:
    zip_of(photos / "z.zip", a=encoded(10), b=encoded(11), same=encoded(0))
    with tarfile.open(photos / "t.tar.gz", "w:gz") as archive:
        archive.add(photos / "1.png", "deep/down.png")
    report = run(library, photos, model=model)
    assert (report.encoded_images, report.known) == (6, 2)
    inside = ["t.tar.gz!/deep/down.png", "z.zip!/a.png", "z.zip!/b.png", "z.zip!/same.png"]
    assert [n for n in names(library) if "!/" in n] == inside
    assert unchanged(run(library))
    zip_of(photos / "z.zip", b=encoded(11), c=encoded(12))
    report = run(library)
    assert report.encoded_images == 1
    assert [n for n in names(library) if "z.zip" in n] == ["z.zip!/b.png", "z.zip!/c.png"]
    (photos / "z.zip").rename(photos / "y.zip")
    report = run(library)
    assert (report.encoded_images, report.missing) == (0, 2)
    assert [n for n in names(library) if "zip" in n] == ["y.zip!/b.png", "y.zip!/c.png"]
    (photos / "y.zip").unlink()
    run(library)
    assert not [n for n in names(library) if "zip" in n]


def shard_of(path: Path, files: dict[str, bytes], mode: str = "w") -> None:
    """A zip, or a tar as webdataset has them, with these members in this order."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return
    with tarfile.open(path, mode) as shard:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))


def test_what_was_wrong_in_archives_and_lists_is_known_again_when_they_return(
    library: Path, photos: Path, model: str
) -> None:
    shard_of(photos / "z.zip", {"a.png": encoded(10), "bad.png": b"no picture"})
    write(photos / "captions.jsonl", b'{"image": "1.png", "text": "one"}\n{broken\n')
    zip_of(photos / "whole.zip", c=encoded(11))
    run(library, photos, model=model)
    wrong, known = failures(library), names(library)
    assert len(wrong) == 2
    lent = [photos / name for name in ("z.zip", "captions.jsonl", "whole.zip")]
    for path in lent:
        path.rename(photos.with_name(path.name))
    assert run(library).missing == 2
    assert not failures(library)
    for path in lent:
        photos.with_name(path.name).rename(path)
    report = run(library)
    assert (report.encoded_images, report.returned) == (0, 1)  # what was whole is not read again
    assert failures(library) == wrong
    assert names(library) == known
    assert unchanged(run(library))


@pytest.mark.parametrize("name", ["s.tar", "s.zip", "s.tar.gz"])
def test_texts_beside_pictures_in_archives(
    library: Path, photos: Path, model: str, name: str
) -> None:
    files = {
        "000.jpg": encoded(10),
        "000.json": b"{}",
        "000.txt": "of nought \u4e2d".encode(),
        "deep/001.txt": b"before its picture",
        "deep/001.png": titled(11, "in itself"),
        "deep/001.png.txt": b"another",
        "002.txt": b"in another folder than 2",
        "deep/002.png": encoded(12),
        "README.txt": b"\xff\xfe no caption, and no complaint",
        "003.png": encoded(13),
        "003.TXT": b"\xff",
        "004.png": b"no picture",
        "004.txt": b"of no picture",
        "005.png": encoded(15),
        "005.txt": b"long " * 300_000,
    }
    mode = "w:gz" if name.endswith("gz") else "w"
    shard_of(photos / name, files, mode)
    report = run(library, photos, model=model)
    expected = {
        "000.jpg": ["of nought \u4e2d"],
        "deep/001.png": ["another", "before its picture", "in itself"],
    }
    assert written_in(library, name) == expected
    assert report.carried == 4
    failed = failures(library)
    assert failed.keys() == {f"{name}!/{bad}" for bad in ("003.TXT", "004.png", "005.txt")}
    assert failed[f"{name}!/003.TXT"] == "not UTF-8"
    assert failed[f"{name}!/005.txt"] == "too long for a text"
    assert texts(library) == sorted(
        ["of nought \u4e2d", "another", "before its picture", "in itself"]
    )
    with Library(library, device="cpu") as opened:
        hit = opened.search("x", where="has:caption path:**/000.jpg", k=1)[0]
        assert hit.captions == ("of nought \u4e2d",)
        (text,) = opened.image_captions(hit.image.id)
        assert text.source.endswith(f"{name}!/000.jpg:000.txt")
    assert unchanged(run(library))
    # What changes in the archive is followed, and so is the archive itself.
    files["000.txt"] = b"of something else"
    del files["deep/001.txt"]
    shard_of(photos / name, files, mode)
    run(library)
    expected = {"000.jpg": ["of something else"], "deep/001.png": ["another", "in itself"]}
    assert written_in(library, name) == expected
    (photos / name).rename(photos / f"moved-{name}")
    run(library)
    assert written_in(library, name) == expected
    (photos / f"moved-{name}").unlink()
    run(library)
    assert texts(library) == []


def test_only_so_many_texts_of_an_archive_are_kept(
    library: Path, photos: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.text_stage._MAX_BESIDE", 1000)
    texts_of = {f"{n}.txt": b"of it" for n in range(5)}
    shard_of(photos / "s.tar", {"0.png": encoded(10), "1.png": encoded(11)} | texts_of)
    shard_of(photos / "t.tar", texts_of)  # no business of ours
    run(library, photos, model=model)
    assert written_in(library, "s.tar") == {"0.png": ["of it"], "1.png": ["of it"]}
    assert failures(library) == {"s.tar": "3 texts in it left out: more than can be kept"}


def written_in(library: Path, name: str) -> dict[str, list[str]]:
    """What is written for the pictures of an archive, by member."""
    with Library(library, device="cpu") as opened:
        hits = opened.search("x", where=f"path:**/*{name}!/**", k=100)
        return {
            hit.image.path.partition("!/")[2]: sorted(hit.captions) for hit in hits if hit.captions
        }


def test_what_is_at_one_place_twice(library: Path, photos: Path, model: str) -> None:
    with zipfile.ZipFile(photos / "z.zip", "w") as archive:
        for name, seed in (("a.png", 10), ("./a.png", 11)):
            archive.writestr(name, encoded(seed))
    notes = [{"id": 7, "caption": "a first text"}, {"id": 7, "caption": "a second text"}]
    (photos / "captions.json").write_text(json.dumps({"annotations": notes}))
    report = run(library, photos, model=model)
    assert (report.encoded_images, report.texts, report.failed) == (5, 2, 0)
    assert texts(library) == ["a first text", "a second text"]
    with Library(library, device="cpu") as opened:
        assert not opened.catalog.hidden("image").size
        hits = {Path(hit.image.path).name: hit.image.id for hit in opened.search("x", k=20)}
        assert opened.read_image(hits["a.png"]) == encoded(11)
        assert len(hits) == opened.status().images == 5
    assert unchanged(run(library))


def test_archive_that_breaks_and_is_mended(library: Path, photos: Path, model: str) -> None:
    zip_of(photos / "z.zip", a=titled(10, "of a"), b=b"no picture")
    whole = (photos / "z.zip").read_bytes()
    os.utime(photos / "z.zip", (1000, 1000))
    run(library, photos, model=model)
    assert list(failures(library)) == ["z.zip!/b.png"]
    assert texts(library) == ["of a"]
    write(photos / "z.zip", b"PK\x03\x04", at=2000)
    run(library)
    assert list(failures(library)) == ["z.zip"]
    assert texts(library) == []
    assert unchanged(run(library))
    write(photos / "z.zip", whole, at=1000)
    run(library)
    assert list(failures(library)) == ["z.zip!/b.png"]
    assert "z.zip!/a.png" in names(library)
    assert texts(library) == ["of a"]


@pytest.mark.parametrize("name", ["takeout.zip", "takeout.tgz"])
def test_what_other_programs_write_beside_pictures_in_archives(
    library: Path, photos: Path, model: str, name: str
) -> None:
    taken = {"photoTakenTime": {"timestamp": "1500000000"}}

    def google(title: str, description: str) -> bytes:
        return json.dumps({"title": title, "description": description} | taken).encode()

    files = {
        "T/Photos/a.jpg.supplemental-metadata.json": google("a.jpg", "harbour at noon"),
        "T/Photos/a.jpg": titled(10, "in itself"),
        "T/Other/b.png": encoded(11),
        "T/Other/b.xmp": b"<r:RDF xmlns:r='http://www.w3.org/1999/02/22-rdf-syntax-ns#' "
        b"xmlns:dc='http://purl.org/dc/elements/1.1/'><r:Description dc:subject='kites'/></r:RDF>",
        "T/Other/b.png.txt": b"a caption",
        "T/Other/a.jpg.json": google("a.jpg", "of no picture here"),
        "T/Other/c.png": encoded(12),
        "T/Other/c.png.xmp": b"<broken",
        "T/Other/d.png": encoded(13),
        "T/Other/d.png.json": b'{"caption": "another program\'s"}',
        "T/Other/d.json": b"[" * 2_000_000,
    }
    shard_of(photos / name, files, "w:gz" if name.endswith("gz") else "w")
    report = run(library, photos, model=model)
    assert written_in(library, name) == {
        "T/Photos/a.jpg": ["harbour at noon"],
        "T/Other/b.png": ["a caption", "kites"],
    }
    assert report.carried == 3
    assert failures(library) == {f"{name}!/T/Other/c.png.xmp": "broken, or not XMP"}
    with Library(library, device="cpu") as opened:
        (hit,) = opened.search("x", where="keyword:kites", k=5)
        assert hit.image.name == "b.png"
        (hit,) = opened.search("x", where="taken:2017", k=5)
        assert hit.image.info.description == "harbour at noon"
    assert unchanged(run(library))
    # The same picture outside says what it says itself, until the archive comes to it.
    write(photos / "a.jpg", titled(10, "in itself"))
    run(library)
    assert texts(library).count("in itself") == 1
    (photos / name).unlink()
    run(library)
    assert texts(library) == ["in itself"]
    with Library(library, device="cpu") as opened:
        (hit,) = opened.search("x", where="path:**/a.jpg", k=5)
        assert (hit.image.info.description, hit.image.info.taken_at) == ("in itself", None)
