"""Changing the library over HTTP: uploads, deletions, runs, and following them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from collection import encoded, run, write, write_captions
from serve_library import BASE_URL, SERVE, is_problem
from starlette.testclient import TestClient

import mmsearch
from mmsearch.library import Library
from mmsearch.serve import create_app
from mmsearch.serve.keys import Keys, keys_path
from mmsearch.serve.runs import Run, Runs
from mmsearch.settings import Settings


class Served:
    """A library of its own, served by a process, and a client with a key that may write."""

    def __init__(self, root: Path, model: str) -> None:
        self.root = root
        self.path = root / "library"
        for seed in range(3):
            write(root / "photos" / f"{seed}.png", encoded(seed))
        write_captions(root / "photos" / "captions.jsonl", [("0.png", "the first picture")])
        run(self.path, root / "photos", model=model)
        self.key = Keys(keys_path(self.path, None)).add("test", "write")
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(self.path), "0"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "MMSEARCH_DEVICE": "cpu"},
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.client = httpx.Client(
            base_url=self.url, timeout=120, headers={"Authorization": f"Bearer {self.key}"}
        )

    def close(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def restart(self) -> None:
        """Stops the service, as the system does, and starts it again."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0
        self.close()
        self.start()

    def idle(self, *, owed: bool = False) -> dict[str, Any] | None:
        """The last run, once the service is ready and none is waiting or at work; once there was
        one, where one is owed."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            ready = self.client.get("/readyz").status_code == 200
            time.sleep(0.3)  # what is owed is found out right after
            state = self.client.get("/v1/index").json()
            is_idle = ready and not state["running"] and not state["queued"]
            if is_idle and (state["last"] or not owed):
                last: dict[str, Any] | None = state["last"]
                return last
        pytest.fail("the runs did not end")

    def ids(self) -> dict[str, int]:
        """Picture ids by file name."""
        found = self.client.get("/v1/search", params={"q": "x", "k": 100, "min_relevance": 0})
        return {hit["name"]: hit["id"] for hit in found.json()["hits"]}

    def upload(self, data: bytes, name: str = "new.png", **fields: str) -> httpx.Response:
        return self.client.post(
            "/v1/images", files={"file": (name, data)}, data=fields, params={"wait": 60}
        )

    @property
    def uploads(self) -> set[str]:
        return {f.name for f in (self.path / "uploads").iterdir() if not f.name.startswith(".")}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, model: str) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("indexing"), model)
    yield made
    made.close()


def test_a_picture_is_kept_found_and_deleted_for_good(served: Served) -> None:
    data = encoded(50)
    answer = served.upload(data, "../../etc/räd kite.php", text="waves of the fiftieth kind")
    assert answer.status_code == 202
    body = answer.json()
    assert body["run"]["state"] == "done", body
    name = Path(body["path"]).name
    assert Path(body["path"]).parent == (served.path / "uploads").resolve()
    assert name.startswith("räd kite-")
    assert name.endswith(".png")
    assert Path(body["path"]).read_bytes() == data
    record = served.client.get(f"/v1/images/{body['image_id']}").json()
    assert record["name"] == name
    assert record["captions"] == ["waves of the fiftieth kind"]
    assert served.client.get(f"/v1/images/{body['image_id']}/file").content == data

    again = served.upload(data, "another name.png").json()
    assert (again["path"], again["image_id"]) == (body["path"], body["image_id"])

    served.client.get(f"/v1/images/{body['image_id']}/thumbnail")
    gone = served.client.delete(f"/v1/images/{body['image_id']}", params={"wait": 60})
    assert gone.status_code == 202
    assert gone.json()["deleted"] == [body["path"]]
    assert gone.json()["run"]["state"] == "done"
    assert served.uploads == {"captions.jsonl"}
    assert name not in served.ids()
    is_problem(served.client.get(f"/v1/images/{body['image_id']}"), 404)
    with mmsearch.open(served.path, device="cpu") as library:
        assert library.look_up(data).content_id is None  # nothing of it is left
        assert not [t for t in library.search_texts("waves", k=50) if "fiftieth" in t.text.body]


def test_a_text_is_kept_linked_and_deleted(served: Served) -> None:
    kept = served.ids()["1.png"]
    answer = served.client.post(
        "/v1/texts", json={"text": "a\nsecond\x00 look", "image_id": kept}, params={"wait": 60}
    )
    assert answer.json()["run"]["state"] == "done", answer.text
    assert served.client.get(f"/v1/images/{kept}").json()["captions"] == ["a second look"]
    found = served.client.get("/v1/texts/search", params={"q": "a second look"}).json()["hits"]
    text = next(hit for hit in found if hit["text"] == "a second look")
    gone = served.client.delete(f"/v1/texts/{text['id']}", params={"wait": 60})
    assert gone.json()["run"]["state"] == "done", gone.text
    assert served.client.get(f"/v1/images/{kept}").json()["captions"] == []
    is_problem(served.client.delete(f"/v1/texts/{text['id']}"), 404)


def test_what_is_not_known_is_told_and_nothing_is_kept(served: Served) -> None:
    ask = served.client.post
    for response in (
        ask("/v1/images", files={"file": encoded(61)}, data={"txt": "a kite"}),
        ask("/v1/texts", json={"text": "a kite", "image": 7}),
        ask("/v1/index", json={"sources": "photos"}),
    ):
        assert "there is no such field here" in is_problem(response, 422)["detail"]
    assert served.client.get("/v1/index").json()["running"] is None


def test_a_text_is_linked_to_the_one_picture_of_several_with_the_same_name(
    served: Served,
) -> None:
    folder = served.root / "album"
    names = ("Été/IMG_0001.jpg", "Noël/IMG_0001.jpg", "plain/IMG_0001.jpg", "back\\IMG_0001.jpg")
    for seed, name in enumerate(names, 60):
        write(folder / name, encoded(seed, "JPEG"))
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        archive.writestr("x/IMG_0001.jpg", encoded(70, "JPEG"))
    run(served.path, folder)
    found = served.client.get("/v1/search", params={"q": "x", "k": 100, "min_relevance": 0})
    pictures = [hit for hit in found.json()["hits"] if "IMG_0001" in hit["path"]]
    assert len(pictures) == len(names) + 1
    for wait, hit in zip([0, 0, 0, 0, 60], pictures, strict=True):
        given = {"text": f"only of {hit['path']}", "image_id": hit["id"]}
        answer = served.client.post("/v1/texts", json=given, params={"wait": wait})
        assert answer.status_code == 202, answer.text
    for hit in pictures:
        record = served.client.get(f"/v1/images/{hit['id']}").json()
        assert record["captions"] == [f"only of {hit['path']}"]


def test_a_text_that_lies_elsewhere_too_stays(served: Served) -> None:
    served.client.post("/v1/texts", json={"text": "the first picture"}, params={"wait": 60})
    found = served.client.get("/v1/texts/search", params={"q": "the first picture"}).json()["hits"]
    text = next(hit for hit in found if hit["text"] == "the first picture")
    gone = served.client.delete(f"/v1/texts/{text['id']}", params={"wait": 60})
    assert gone.json()["remaining"] == [f"{served.root / 'photos' / 'captions.jsonl'}:1"]
    is_problem(served.client.delete(f"/v1/texts/{text['id']}"), 409)


def test_what_lies_in_peoples_folders_is_never_deleted(served: Served) -> None:
    before = {p: p.read_bytes() for p in (served.root / "photos").iterdir()}
    problem = is_problem(served.client.delete(f"/v1/images/{served.ids()['0.png']}"), 409)
    assert str(served.root / "photos" / "0.png") in problem["detail"]
    found = served.client.get("/v1/texts/search", params={"q": "the first picture"}).json()["hits"]
    is_problem(served.client.delete(f"/v1/texts/{found[0]['id']}"), 409)
    assert {p: p.read_bytes() for p in (served.root / "photos").iterdir()} == before


def test_a_copy_of_what_lies_elsewhere_goes_alone(served: Served) -> None:
    data = (served.root / "photos" / "2.png").read_bytes()
    kept = served.upload(data, "copy.png").json()
    assert kept["image_id"] == served.ids()["2.png"]
    gone = served.client.delete(f"/v1/images/{kept['image_id']}", params={"wait": 60}).json()
    assert gone["remaining"] == [str(served.root / "photos" / "2.png")]
    assert served.client.get(f"/v1/images/{kept['image_id']}").json()["copies"] == []


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", encoded(1)[:-40]])
def test_what_is_no_picture_is_not_kept(served: Served, data: bytes) -> None:
    before = served.uploads
    is_problem(served.upload(data), 422)
    assert served.uploads == before


def test_an_upload_is_one_picture_and_one_text(served: Served) -> None:
    """Of several one would be kept and the others lost, though the answer says 202."""
    folder = served.path / "uploads"  # which need not be there yet
    before = set(folder.glob("*"))
    one, other = ("file", ("1.png", encoded(101))), ("file", ("2.png", encoded(102)))
    problem = is_problem(served.client.post("/v1/images", files=[one, other]), 422)
    assert problem["detail"] == "body.file: it is given 2 times: give it once"
    texts = {"text": ["a boat", "a kite"]}
    is_problem(served.client.post("/v1/images", files=[one], data=texts), 422)
    assert set(folder.glob("*")) == before


def test_only_configured_sources_are_read(served: Served) -> None:
    secret = write(served.root / "elsewhere" / "9.png", encoded(9)).parent
    for wrong in (str(secret), "..", "../elsewhere", "", 10**6, "photos\0"):
        problem = is_problem(served.client.post("/v1/index", json={"source": wrong}), 404)
        assert "photos" in problem["detail"]
    # Its path is no name of a source either.
    is_problem(served.client.post("/v1/index", json={"source": str(served.root / "photos")}), 404)


def test_a_run_reads_what_is_new_and_is_followed(served: Served) -> None:
    write(served.root / "photos" / "late.png", encoded(77))
    events: list[dict[str, Any]] = []
    listening = threading.Event()

    def follow() -> None:
        with served.client.stream("GET", "/v1/index/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    events.append(json.loads(line.removeprefix("data: ")))
                    listening.set()
                    last = events[-1]["last"]
                    if last and last["source"] == "photos" and not events[-1]["running"]:
                        return

    follower = threading.Thread(target=follow)
    follower.start()
    assert listening.wait(30)
    answer = served.client.post("/v1/index", json={"source": "photos"}, params={"wait": 60})
    assert answer.status_code == 202, answer.text
    (done,) = answer.json()
    assert done["state"] == "done"
    assert done["report"]["encoded_images"] == 1
    follower.join(60)
    assert not follower.is_alive()
    steps = {event["running"]["step"] for event in events if event["running"]}
    assert steps & {"scanning", "loading", "images"}
    assert "late.png" in served.ids()
    assert served.client.get("/v1/index").json()["last"]["state"] == "done"
    assert {s["name"] for s in served.client.get("/v1/sources").json()} >= {"photos"}


def test_a_key_that_is_revoked_follows_no_longer(served: Served) -> None:
    keys = Keys(keys_path(served.path, None))
    headers = {"Authorization": f"Bearer {keys.add('follower', 'write')}"}
    with (
        httpx.Client(base_url=served.url, timeout=60, headers=headers) as follower,
        follower.stream("GET", "/v1/index/events") as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines) == "event: index"
        assert next(lines).startswith("data: ")
        keys.revoke("follower")
        keys.add("follower", "write")  # the same name is not the same key
        served.client.post("/v1/index", json={"source": "photos"}, params={"wait": 60})
        # It may have said before that it is still there.
        assert next((line for line in lines if line and not line.startswith(":")), None) is None


def test_the_head_of_the_events_is_an_end(served: Served) -> None:
    for _ in range(2):  # the connection is good for another
        head = served.client.head("/v1/index/events", timeout=20)
        assert head.status_code == 200
        assert head.headers["content-type"].startswith("text/event-stream")
    deadline = time.monotonic() + 20
    while "mmsearch_http_requests_in_progress 1.0" not in served.client.get("/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_all_sources_are_waited_for_together(
    library: Library, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: here none comes to its end."""
    keys = Keys(tmp_path / "keys.json")
    headers = {"X-API-Key": keys.add("writer", "write")}
    sources = library.sources()[:1] * 40
    monkeypatch.setattr(Library, "sources", lambda self: sources)
    monkeypatch.setattr(Runs, "start", lambda self, name, location: Run(1, name, location))
    app = create_app(library, settings.model_copy(update={"keys_file": keys.path}))
    with TestClient(app, base_url=BASE_URL) as client:
        began = time.monotonic()
        answer = client.post("/v1/index", json={}, params={"wait": 1.5}, headers=headers)
        took = time.monotonic() - began
    assert [run["state"] for run in answer.json()] == ["queued"] * 40
    assert 1.5 <= took < 30


def test_another_writer_is_told(served: Served) -> None:
    from mmsearch.store.lock import writing

    with writing(served.path):
        problem = is_problem(served.client.post("/v1/index", json={}), 409)
        assert str(os.getpid()) in problem["detail"]
        assert served.client.get("/v1/index").json()["writer"] == os.getpid()
        # An upload is kept all the same, and read when the other one is done.
        answer = served.client.post("/v1/images", files={"file": ("w.png", encoded(88))})
        assert answer.json()["run"]["state"] in ("queued", "running")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if Path(answer.json()["path"]).name in served.ids():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the upload did not show")


def test_stopping_the_service_stops_the_run_and_streams(tmp_path: Path, model: str) -> None:
    made = Served(tmp_path, model)
    try:
        for seed in range(100, 400):
            write(tmp_path / "photos" / f"{seed}.png", encoded(seed))
        with made.client.stream("GET", "/v1/index/events") as stream:
            lines = stream.iter_lines()
            made.client.post("/v1/index", json={})
            for line in lines:
                if line.startswith("data: ") and json.loads(line[6:])["running"]:
                    break
            made.process.send_signal(signal.SIGTERM)
            assert not [line for line in lines if "error" in line[:5]]  # it ends by itself
        assert made.process.wait(60) == 0
        run(made.path, tmp_path / "photos")  # the lock is free, and nothing was half done
    finally:
        made.close()


def test_what_was_owed_when_the_service_stopped_is_done_when_it_starts(
    tmp_path: Path, model: str
) -> None:
    from mmsearch.store.lock import writing

    made = Served(tmp_path, model)
    try:
        kept = made.upload(encoded(90), "kept.png", text="of the ninetieth kind").json()
        deleted = made.upload(encoded(91), "deleted.png", text="of the next kind").json()
        assert (kept["run"]["state"], deleted["run"]["state"]) == ("done", "done")
        with writing(made.path):  # so that no run can be done before the service stops
            assert made.client.delete(f"/v1/images/{deleted['image_id']}").status_code == 202
            late = made.client.post("/v1/images", files={"file": ("late.png", encoded(92))})
            assert late.status_code == 202
            made.process.send_signal(signal.SIGTERM)
            assert made.process.wait(60) == 0
        made.close()
        made.start()
        last = made.idle(owed=True)
        assert last is not None
        assert (last["source"], last["state"]) == ("uploads", "done"), last
        is_problem(made.client.get(f"/v1/images/{deleted['image_id']}"), 404)
        names = made.ids()
        assert Path(late.json()["path"]).name in names
        assert Path(kept["path"]).name in names
        with mmsearch.open(made.path, device="cpu") as library:
            assert library.look_up(encoded(91)).content_id is None
        made.restart()
        made.idle()
        made.restart()
        assert made.idle() is None  # nothing is owed
    finally:
        made.close()
