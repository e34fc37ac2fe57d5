"""Uploads and thumbnails that do not stop decoding: answered in time, and they hold up nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_library import BASE_URL, draw, encoded, is_problem
from starlette.testclient import TestClient

import mmsearch
from mmsearch import decode as decode_module
from mmsearch.decode import Picture
from mmsearch.errors import DecodeError
from mmsearch.files import Original
from mmsearch.library import Library
from mmsearch.serve import create_app
from mmsearch.serve.keys import Keys
from mmsearch.serve.service import FILE_THREADS, Service
from mmsearch.serve.uploads import Uploads
from mmsearch.settings import Settings
from mmsearch.types import DecodeLimits

HOSTILE = encoded(draw("black", "line", (31, 37)), "BMP")
#: Enough for any other picture, also on a machine that has a lot to do.
SECONDS = 0.5


@pytest.fixture
def hasty(library_folder: Path) -> Iterator[Library]:
    """The library, opened by someone who does not wait."""
    limits = DecodeLimits(max_seconds=SECONDS)
    with mmsearch.open(library_folder, device="cpu", limits=limits) as opened:
        yield opened


@pytest.fixture
def client(hasty: Library, settings: Settings) -> Iterator[TestClient]:
    app = create_app(hasty, settings)
    with TestClient(app, base_url=BASE_URL, raise_server_exceptions=False) as started:
        assert started.get("/v1/search?q=x").status_code == 200  # the model is there
        yield started


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Decoding of HOSTILE waits for this event, which comes after the test."""
    release, real = threading.Event(), decode_module._decode

    def waiting(data: bytes, *args: Any) -> Picture:
        if data == HOSTILE:
            release.wait()
        return real(data, *args)

    monkeypatch.setattr(decode_module, "_decode", waiting)
    yield release
    release.set()


def test_an_upload_that_hangs_is_a_problem(client: TestClient, stuck: threading.Event) -> None:
    for route in ("/v1/search/image", "/v1/captions"):
        problem = is_problem(client.post(route, files={"file": HOSTILE}), 422)
        assert problem["type"] == "urn:mmsearch:problem:decode-timeout"
        assert f"took longer than {SECONDS} s to decode" in problem["detail"]
    fine = encoded(draw("teal", "line", (50, 60)))
    assert client.post("/v1/search/image", files={"file": fine}).status_code == 200


def test_more_and_more_of_them_are_refused(client: TestClient, stuck: threading.Event) -> None:
    post = lambda: client.post("/v1/search/image", files={"file": HOSTILE})  # noqa: E731
    assert [post().status_code for _ in range(6)] == [422] * 4 + [503] * 2
    problem = is_problem(post(), 503)
    assert "do not stop decoding" in problem["detail"]
    # Everything that decodes nothing goes on.
    hits = client.get("/v1/search?q=x&k=1").json()["hits"]
    assert len(hits) == 1
    assert client.get("/healthz").status_code == 200


def test_searches_are_answered_while_one_hangs(
    library_folder: Path, settings: Settings, stuck: threading.Event
) -> None:
    """With all the time that a user gives: the search is answered before the upload is."""
    limits = DecodeLimits(max_seconds=3600)
    with mmsearch.open(library_folder, device="cpu", limits=limits) as patient:
        app = create_app(patient, settings)
        with TestClient(app, base_url=BASE_URL) as client:
            answers: list[int] = []

            def upload() -> None:
                answer = client.post("/v1/search/image", files={"file": HOSTILE})
                answers.append(answer.status_code)

            uploading = threading.Thread(target=upload)
            uploading.start()
            assert client.get("/v1/search?q=x").status_code == 200
            assert answers == []
            stuck.set()
            uploading.join()
            assert answers == [200]


def test_pictures_that_are_to_be_kept_hold_up_no_others(
    library: Library, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are decoded first, which takes its time."""
    release = threading.Event()

    def add(self: Uploads, data: bytes, name: str) -> Path:
        release.wait(60)
        raise DecodeError("the picture", "none")

    monkeypatch.setattr(Uploads, "add_picture", add)
    keys = Keys(tmp_path / "keys.json")
    headers = {"X-API-Key": keys.add("writer", "write")}
    app = create_app(library, settings.model_copy(update={"keys_file": keys.path}))
    service: Service = app.state.service
    known = library.search("x", k=1)[0].image.id
    statuses: list[int] = []
    with TestClient(app, base_url=BASE_URL, headers=headers) as client:

        def upload() -> None:
            answer = client.post("/v1/images", files={"file": HOSTILE})
            statuses.append(answer.status_code)

        uploading = [threading.Thread(target=upload) for _ in range(FILE_THREADS)]
        try:
            for one in uploading:
                one.start()
            until = time.monotonic() + 30
            while service._files._running + service._uploads._running < FILE_THREADS:
                assert time.monotonic() < until
                time.sleep(0.01)
            assert client.get(f"/v1/images/{known}").status_code == 200
            assert statuses == []
        finally:
            release.set()
            for one in uploading:
                one.join()
    assert statuses == [422] * FILE_THREADS


def test_a_thumbnail_that_hangs(
    client: TestClient, stuck: threading.Event, hasty: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = client.get("/v1/search?q=x&k=1").json()["hits"][0]["id"]
    monkeypatch.setattr(
        "mmsearch.files.read_first", lambda places, limits, digest: Original(HOSTILE, True)
    )
    monkeypatch.setattr("mmsearch.library.THUMBS_FOLDER", "no thumbnails here")
    problem = is_problem(client.get(f"/v1/images/{known}/thumbnail"), 410)
    assert f"took longer than {SECONDS} s" in problem["detail"]
