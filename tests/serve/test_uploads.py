"""The folder of what was sent to be kept: names, texts, backups."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pillow_heif
import pytest
import raws
from collection import encoded, picture, run
from hypothesis import given
from hypothesis import strategies as st

import mmsearch
from indexer.manage import forget_gone
from indexer.sources import kind_of
from mmsearch.backup import backup
from mmsearch.errors import DecodeError, ImageTooLargeError, StoreError
from mmsearch.library import Library
from mmsearch.serve.indexing import Desk
from mmsearch.serve.runs import Runs
from mmsearch.serve.service import Service
from mmsearch.serve.uploads import TEXTS_NAME, Uploads, _stem
from mmsearch.settings import Settings
from mmsearch.types import DEFAULT_LIMITS, DecodeLimits


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path, DEFAULT_LIMITS)


@given(st.text(max_size=300))
def test_any_name_becomes_a_plain_one(name: str) -> None:
    stem = _stem(name)
    assert stem
    assert stem[0] not in ". -"
    assert not set(stem) & set('/\\\0\n:*?"<>|')
    assert len(stem.encode()) <= 60


def test_pictures_lie_there_once_and_whole(uploads: Uploads) -> None:
    first = uploads.add_picture(encoded(1), "../a.exe")
    assert first.name.startswith("a-")
    assert first.suffix == ".png"
    assert uploads.add_picture(encoded(1), "b.jpg") == first
    other = uploads.add_picture(encoded(2, "JPEG"), "")
    assert other.suffix == ".jpg"
    assert {f.name for f in uploads.folder.iterdir()} == {first.name, other.name, TEXTS_NAME}
    assert uploads.holds(str(first))
    assert not uploads.holds(str(uploads.folder.parent / first.name))
    assert not uploads.holds(str(uploads.folder / ".." / first.name))
    uploads.remove_pictures([str(first), str(first)])
    assert not first.exists()


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("JPEG", ".jpg"),
        ("MPO", ".jpg"),
        ("PNG", ".png"),
        ("WEBP", ".webp"),
        ("GIF", ".gif"),
        ("BMP", ".bmp"),
        ("TIFF", ".tif"),
        ("AVIF", ".avif"),
        ("HEIF", ".heic"),
    ],
)
def test_every_format_that_is_read_is_kept_by_its_own_name(
    uploads: Uploads, kind: str, suffix: str
) -> None:
    pillow_heif.register_heif_opener()
    place = uploads.add_picture(encoded(1, kind), "a.picture")
    assert place.suffix == suffix
    assert kind_of(place.name) == "image"


@pytest.mark.parametrize(
    ("data", "suffix"),
    [
        (raws.dng(picture(1), picture(1)), ".dng"),
        (raws.dng(picture(1), make="NIKON CORPORATION", version=False), ".nef"),
        (raws.dng(picture(1), picture(1), make="Nobody", version=False), ".dng"),
    ],
)
def test_raw_files_are_kept_by_the_name_of_their_kind(
    uploads: Uploads, data: bytes, suffix: str
) -> None:
    place = uploads.add_picture(data, "a.picture")
    assert place.suffix == suffix
    assert place.read_bytes() == data
    assert kind_of(place.name) == "image"


def test_what_is_no_picture_leaves_nothing(uploads: Uploads, tmp_path: Path) -> None:
    with pytest.raises(DecodeError):
        uploads.add_picture(b"<svg/>", "a.svg")
    small = Uploads(tmp_path, DecodeLimits(max_pixels=100))
    with pytest.raises(ImageTooLargeError):
        small.add_picture(encoded(1), "a.png")
    assert not uploads.folder.exists()


def test_texts_are_lines_that_come_and_go(uploads: Uploads) -> None:
    file = uploads.add_text("a kite", "a.png")
    uploads.add_text("a kite", "a.png")
    uploads.add_text("a kite")
    uploads.add_text('"quoted" ünd\u2028more')
    file.write_text(file.read_text() + "not json\n[]\n")  # somebody's own
    lines = file.read_text().splitlines()
    assert [json.loads(line) for line in lines[:2]] == [
        {"text": "a kite", "image": "a.png"},
        {"text": "a kite"},
    ]
    assert uploads.remove_text("a  kite") == 2
    assert uploads.remove_text("a kite") == 0
    assert len(file.read_text().splitlines()) == 3


def test_the_texts_of_a_picture_go_by_its_name_or_path(uploads: Uploads) -> None:
    picture = str(uploads.folder / "a.png")
    for name in ("a.png", picture, "/elsewhere/a.png", "b.png", None):
        file = uploads.add_text("a kite", name)
    file.write_text(file.read_text() + "not json\n[]\n")
    assert uploads.remove_texts_of([picture]) == 2
    assert len(file.read_text().splitlines()) == 5


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "uploads").touch()
    with pytest.raises(StoreError, match="uploads cannot be written"):
        Uploads(tmp_path, DEFAULT_LIMITS).add_text("x")


def test_a_backup_holds_them_and_no_keys(tmp_path: Path, model: str) -> None:
    library = tmp_path / "library"
    kept = Uploads(library, DEFAULT_LIMITS)
    library.mkdir()
    picture = kept.add_picture(encoded(5), "five.png")
    (library / "keys.json").write_text("{}")
    run(library, kept.folder, model=model)
    backup(library, tmp_path / "copy")
    assert (tmp_path / "copy" / "uploads" / picture.name).read_bytes() == encoded(5)
    names = {f.name for f in (tmp_path / "copy").iterdir()}
    assert names == {"catalog.db", "uploads"}


def test_uploads_are_a_source_of_their_own_inside_another(tmp_path: Path, model: str) -> None:
    """A library may lie in a folder that it is read from: scans of that leave it alone."""
    photos = tmp_path / "photos"
    library = photos / "library"
    (photos / "one.png").parent.mkdir()
    (photos / "one.png").write_bytes(encoded(1))
    run(library, photos, model=model)
    kept = Uploads(library, DEFAULT_LIMITS)
    kept.add_picture(encoded(2), "two.png")
    assert run(library, kept.folder).encoded_images == 1
    again = run(library, photos)
    assert (again.missing, again.encoded_images) == (0, 0)
    assert run(library).missing == 0


def test_a_run_is_owed_where_folder_and_catalog_differ(tmp_path: Path, model: str) -> None:
    library = tmp_path / "library"
    kept = Uploads(library, DEFAULT_LIMITS)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.png").write_bytes(encoded(1))
    run(library, tmp_path / "photos", model=model)

    def owed() -> bool:
        with mmsearch.open(library, device="cpu") as opened:
            return kept.are_owed_a_run(opened.catalog)

    assert not owed()  # no folder
    first = kept.add_picture(encoded(2), "two.png")
    assert owed()
    run(library, kept.folder)
    assert not owed()
    kept.add_text("a kite", first.name)
    assert owed()
    run(library, kept.folder)
    assert not owed()
    broken = kept.folder / "broken.png"
    broken.write_bytes(b"no picture")
    assert owed()
    run(library, kept.folder)
    assert not owed()  # that it is none is known
    first.unlink()
    assert owed()
    run(library, kept.folder)
    assert owed()  # gone, but not forgotten for good
    forget_gone(library, str(kept.folder))
    run(library, kept.folder)
    assert not owed()
    for file in kept.folder.iterdir():
        file.unlink()
    assert not owed()  # a drive that is not there


def test_no_texts_are_no_failure(tmp_path: Path, model: str) -> None:
    library = tmp_path / "library"
    library.mkdir()
    kept = Uploads(library, DEFAULT_LIMITS)
    kept.add_picture(encoded(2), "two.png")
    assert run(library, kept.folder, model=model).failed == 0
    kept.add_text("a kite")
    kept.add_picture(encoded(3), "three.png")
    assert run(library, kept.folder).failed == 0
    kept.remove_text("a kite")
    assert run(library, kept.folder).failed == 0
    forget_gone(library, str(kept.folder))
    with mmsearch.open(library, device="cpu") as opened:
        assert opened.status().failed == 0
        assert not kept.are_owed_a_run(opened.catalog)


def test_a_library_that_was_moved_waits_for_its_owner(tmp_path: Path, model: str) -> None:
    before = Uploads(tmp_path / "before", DEFAULT_LIMITS)
    (tmp_path / "before").mkdir()
    before.add_picture(encoded(2), "two.png")
    run(tmp_path / "before", before.folder, model=model)
    (tmp_path / "before").rename(tmp_path / "after")
    with mmsearch.open(tmp_path / "after", device="cpu") as opened:
        assert not Uploads(tmp_path / "after", DEFAULT_LIMITS).are_owed_a_run(opened.catalog)


def test_nothing_is_read_where_the_library_is_read_only(tmp_path: Path, model: str) -> None:
    library = tmp_path / "library"
    library.mkdir()
    kept = Uploads(library, DEFAULT_LIMITS)
    kept.add_picture(encoded(2), "two.png")
    run(library, kept.folder, model=model)
    kept.add_picture(encoded(3), "three.png")
    for read_only in (True, False):
        with Library(library, device="cpu", read_only=read_only) as opened:
            settings = Settings()
            service = Service(opened, settings)
            runs = Runs(library, "cpu")

            async def main(desk: Desk) -> None:
                await desk.resume()
                assert [run.forget for run in desk.runs.queued] == [True] * (not read_only)  # noqa: B023
                await desk.runs.close()

            asyncio.run(main(Desk(service, kept, runs)))
            service.close()
