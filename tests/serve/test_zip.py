"""Several pictures in one file."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from serve_library import is_problem
from starlette.testclient import TestClient

from mmsearch.library import Library
from mmsearch.serve import zip as zips
from mmsearch.types import ImageRecord, PictureInfo


def asked(ids: list[int]) -> str:
    return "/v1/images.zip?" + "&".join(f"ids={id_}" for id_ in ids)


def test_the_files_as_they_are(client: TestClient, library: Library, ids: dict[str, int]) -> None:
    odd = next(name for name in ids if name.startswith("räksmörgås"))
    chosen = [ids["crimson-line.png"], ids["scan.tiff"], ids[odd], ids["crimson-line.png"]]
    answer = client.get(asked(chosen))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == 'attachment; filename="pictures.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names == ["crimson-line.png", "scan.tiff", "räksmörgås _1_; x=y.jpg"]
        for id_, name in zip(chosen, names, strict=False):
            assert archive.read(name) == Path(library.image(id_).path).read_bytes()
        assert {one.compress_type for one in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.getinfo(names[2]).date_time == (2021, 6, 5, 12, 34, 56)


def test_files_that_are_away_are_told(client: TestClient, ids: dict[str, int]) -> None:
    answer = client.get(asked([ids["away.webp"], ids["scan.tiff"]]))
    assert answer.status_code == 200
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["scan.tiff", zips.MISSING]
        assert b"away.webp" in archive.read(zips.MISSING)


def test_pictures_that_were_deleted_meanwhile_are_told(
    client: TestClient, library: Library, ids: dict[str, int]
) -> None:
    answer = client.get(asked([10**9, ids["scan.tiff"], ids["away.webp"], 10**9 + 1]))
    assert answer.status_code == 200
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["scan.tiff", zips.MISSING]
        scan = Path(library.image(ids["scan.tiff"]).path)
        assert archive.read("scan.tiff") == scan.read_bytes()
        told = archive.read(zips.MISSING).decode().splitlines()
    assert told[:2] == [f"there is no image {10**9 + n} in this library" for n in (0, 1)]
    assert len(told) == 3
    assert "away.webp" in told[2]


def test_what_is_refused(
    client: TestClient, ids: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    is_problem(client.get("/v1/images.zip"), 422)
    is_problem(client.get("/v1/images.zip?ids=x"), 422)
    is_problem(client.get(asked([-1])), 422)
    is_problem(client.get(asked([10**9, 10**9 + 1])), 404)
    is_problem(client.get(asked(list(range(zips.MAX_PICTURES + 1)))), 422)
    monkeypatch.setattr(zips, "MAX_BYTES", 100)
    is_problem(client.get(asked([ids["scan.tiff"]])), 413)


def record(path: str) -> ImageRecord:
    info = PictureInfo(width=1, height=1, format="JPEG")
    return ImageRecord(id=1, path=path, bytes=1, info=info)


def test_names_are_made_unique_and_plain() -> None:
    paths = ["/a/x.jpg", "/b/X.JPG", "/c.zip!/x.jpg", "/d/x (2).jpg", "/e/..", "/f/a\tb?.png"]
    paths += [f"/g/{zips.MISSING}", "/h/.hidden"]
    assert zips.unique_names([record(path) for path in paths]) == [
        "x.jpg",
        "X (2).JPG",
        "x (3).jpg",
        "x (2) (2).jpg",
        "picture",
        "a_b_.png",
        "NOT INCLUDED (2).txt",
        "hidden",
    ]
