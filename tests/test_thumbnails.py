"""Thumbnails on disk: kept, made again when torn, and not missed where nothing can be kept."""

from __future__ import annotations

import hashlib
import io
import logging
from pathlib import Path

import pytest
from collection import encoded
from PIL import Image

from mmsearch.files import Original, Thumbnails, torn_thumbnails
from mmsearch.types import DecodeLimits

DIGEST = hashlib.sha256(encoded(1)).hexdigest()


@pytest.fixture
def thumbnails(tmp_path: Path) -> Thumbnails:
    return Thumbnails(tmp_path / "thumbs", DecodeLimits())


def the_file(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "thumbs").rglob("*.webp")
    return path


def a_file() -> Original:
    return Original(encoded(1), as_indexed=True)


def fail() -> Original:
    raise AssertionError("the picture was read")


def test_one_of_another_file_is_shown_and_not_kept(tmp_path: Path, thumbnails: Thumbnails) -> None:
    small = thumbnails.get(DIGEST, 256, lambda: Original(encoded(2), as_indexed=False))
    assert not small.as_indexed
    assert not list((tmp_path / "thumbs").rglob("*.webp"))
    assert thumbnails.get(DIGEST, 256, a_file).as_indexed


def test_a_library_that_was_moved_is_not_begun_anew_in_its_old_place(tmp_path: Path) -> None:
    """Else it could not be moved back, and a backup could not be put in its place."""
    gone = tmp_path / "library"
    thumbnails = Thumbnails(gone / "thumbs", DecodeLimits())
    assert thumbnails.get(DIGEST, 256, a_file).as_indexed
    assert not gone.exists()


def test_a_whole_one_is_not_made_again(tmp_path: Path, thumbnails: Thumbnails) -> None:
    first = thumbnails.get(DIGEST, 256, a_file)
    assert thumbnails.get(DIGEST, 256, fail) == first
    assert list(torn_thumbnails(tmp_path / "thumbs")) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:1],
        lambda data: data[:12],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: bytes(len(data)),
        lambda data: b"garbage" * 100,
    ],
)
def test_a_torn_one_is_made_again(tmp_path: Path, thumbnails: Thumbnails, damage) -> None:
    first = thumbnails.get(DIGEST, 256, a_file)
    file = the_file(tmp_path)
    file.write_bytes(damage(first.data))
    assert list(torn_thumbnails(tmp_path / "thumbs")) == [file]
    assert thumbnails.get(DIGEST, 256, a_file) == first
    assert file.read_bytes() == first.data
    with Image.open(io.BytesIO(first.data)) as image:
        image.load()
    assert list(torn_thumbnails(tmp_path / "thumbs")) == []


@pytest.mark.parametrize("side", [256, 512, 1024])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_every_one_that_is_made_counts_as_whole(
    tmp_path: Path, thumbnails: Thumbnails, side: int, kind: str
) -> None:
    for seed in range(8):
        data = encoded(seed, kind)
        thumbnails.get(
            hashlib.sha256(data).hexdigest(), side, lambda data=data: Original(data, True)
        )
    assert list(torn_thumbnails(tmp_path / "thumbs")) == []


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path,
    thumbnails: Thumbnails,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert thumbnails.get(DIGEST, 256, a_file).data[:4] == b"RIFF"
    assert [f for f in (tmp_path / "thumbs").rglob("*") if f.is_file()] == []
    assert "No space left" in caplog.text


def test_a_read_only_library_is_no_reason_to_warn(
    tmp_path: Path,
    thumbnails: Thumbnails,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(self: Path, **_options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert thumbnails.get(DIGEST, 256, a_file).data[:4] == b"RIFF"
    assert [r for r in caplog.records if r.levelno > logging.DEBUG] == []
