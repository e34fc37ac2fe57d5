"""Processes that answer: the same answers, whatever becomes of the processes."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from serve_library import BASE_URL, SERVE, draw, encoded, is_problem
from starlette.testclient import TestClient

from mmsearch import errors
from mmsearch.errors import MmsearchError, OverloadedError
from mmsearch.index import crew
from mmsearch.library import Library
from mmsearch.query import Question, Term
from mmsearch.queryencoder import Kept
from mmsearch.serve import create_app, workers
from mmsearch.serve.batching import Batcher
from mmsearch.serve.service import Service, _Asked
from mmsearch.serve.worker import Order, _Worker
from mmsearch.serve.workers import Worker, Workers
from mmsearch.settings import Settings

DEADLINE_S = 60


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def app(library: Library, settings: Settings) -> FastAPI:
    return create_app(library, settings.model_copy(update={"workers": 2}))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url=BASE_URL, raise_server_exceptions=False) as started:
        eventually(lambda: started.get("/readyz").status_code == 200)
        yield started


@pytest.fixture
def service(app: FastAPI, client: TestClient) -> Service:
    made: Service = app.state.service
    assert made.workers.ready
    return made


def of(service: Service, name: str, **labels: str) -> float:
    return service.metrics.registry.get_sample_value(name, labels) or 0.0


# --- the same answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["/v1/search", "/v1/texts/search"])
def test_answers_are_those_of_the_library(
    client: TestClient, library: Library, service: Service, where: str
) -> None:
    words = f"a teal ellipse, asked at {where}"
    before = of(service, "mmsearch_encode_batch_size_sum", modality="text")
    found = client.get(where, params={"q": words, "k": 7}).json()
    # By a worker, which has told what it did.
    assert of(service, "mmsearch_encode_batch_size_sum", modality="text") == before + 1
    expected = library.search(words, k=7) if where == "/v1/search" else []
    if where == "/v1/texts/search":
        assert [hit["id"] for hit in found["hits"]] == [
            hit.text.id for hit in library.search_texts(words, k=7)
        ]
    else:
        assert [hit["id"] for hit in found["hits"]] == [hit.image.id for hit in expected]
        assert [hit["captions"] for hit in found["hits"]] == [list(h.captions) for h in expected]
        scores = [hit["score"] for hit in found["hits"]]
        np.testing.assert_allclose(scores, [hit.score for hit in expected], atol=1e-4)
    assert found["model"] == library.model


def test_what_a_worker_encoded_is_kept_for_all(client: TestClient, service: Service) -> None:
    def encoded_texts() -> float:
        return of(service, "mmsearch_encode_batch_size_sum", modality="text")

    first = client.get("/v1/search", params={"q": "kept for all"}).json()
    assert service.library.kept_texts(["kept for all"]).vectors
    before = encoded_texts()
    question = Question((Term(text="kept for all"),), k=20)
    for worker in service.workers._members:  # also by the one that did not encode it
        (said,) = service._of_worker(worker, [_Asked("image", question, None, [])])
        assert [hit.image.id for hit in said[0].hits] == [hit["id"] for hit in first["hits"]]
        (vectors,) = service._vectors_of_worker(worker, [["kept for all"]])
        assert vectors[1].shape == (1, service.library.space.dim)
    assert encoded_texts() == before
    answer = client.post("/v1/embeddings", json={"input": ["kept for all", "and a new one"]})
    assert len(answer.json()["data"]) == 2
    assert encoded_texts() == before + 1


def test_vectors_are_those_of_the_library(client: TestClient, library: Library) -> None:
    texts = ["a boat", "two boats", "a boat"]
    answer = client.post("/v1/embeddings", json={"input": texts}).json()
    found = [one["embedding"] for one in answer["data"]]
    np.testing.assert_allclose(found, library.embed_texts(texts)[1], atol=1e-5)


def test_pictures_and_long_questions_are_answered_as_before(
    client: TestClient, ids: dict[str, int]
) -> None:
    picture = {"file": ("a.png", encoded(draw("teal", "ellipse")), "image/png")}
    assert client.post("/v1/search/image", files=picture, data={"q": "x"}).json()["hits"]
    some = client.get("/v1/search", params={"q": "x", "exact": True, "k": 3}).json()
    assert len(some["hits"]) == 3
    alike = client.get(f"/v1/images/{ids['gold-line.png']}/similar").json()
    assert len(alike["hits"]) > 3


def test_errors_are_those_of_the_library(client: TestClient) -> None:
    problem = is_problem(client.get("/v1/images/999999/similar"), 404)
    assert problem["detail"] == "there is no image 999999 in this library"
    parts = [{"text": "a"}, {"text": "a", "weight": -1}]
    problem = is_problem(client.post("/v1/search", json={"parts": parts}), 422)
    assert "cancel" in problem["detail"]


def test_metrics_tell_of_workers(client: TestClient, service: Service) -> None:
    said = client.get("/metrics").text
    assert "mmsearch_workers 2.0" in said
    for pid in service.workers.pids if sys.platform == "linux" else []:
        assert f'mmsearch_worker_resident_memory_bytes{{pid="{pid}"}}' in said
        assert f'mmsearch_worker_cpu_seconds_total{{pid="{pid}"}}' in said
    before = of(service, "mmsearch_stage_duration_seconds_count", stage="search")
    client.get("/v1/search", params={"q": "how long"})
    assert of(service, "mmsearch_stage_duration_seconds_count", stage="search") > before


# --- processes that end ---------------------------------------------------------------------------


def test_a_worker_that_is_killed_is_replaced(
    client: TestClient, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    killed = service.workers.pids
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not service.workers.pids)
    for number in range(4):
        answer = client.get("/v1/search", params={"q": f"after the end {number}"})
        assert len(answer.json()["hits"]) == 20
    assert "killed; memory may have run out" in caplog.text
    assert service.workers.pids
    assert not set(service.workers.pids) & set(killed)


def _ends(connection: Connection, path: Path) -> None:
    connection.recv()
    os._exit(3)


def _fails(connection: Connection, path: Path) -> None:
    from mmsearch.serve.worker import Reply

    while True:
        connection.recv()
        record = logging.makeLogRecord({"name": "x", "levelno": 40, "msg": f"said of {path}"})
        connection.send(Reply(error=OverloadedError("not now"), records=[record]))


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[[Callable[..., None]], Worker]]:
    all_of_them: list[Worker] = []
    with pytest.MonkeyPatch.context() as patch:

        def make(target: Callable[..., None]) -> Worker:
            patch.setattr(workers, "work", target)
            batcher = Batcher(max_batch=4, max_queue=4)
            all_of_them.append(Worker(tmp_path, batcher, lambda _: 1))
            return all_of_them[-1]

        yield make
        for one in all_of_them:
            one.close()


def test_one_that_ends_each_time(
    made: Callable[..., Worker], caplog: pytest.LogCaptureFixture
) -> None:
    worker = made(_ends)
    with pytest.raises(MmsearchError, match="twice"):
        worker.call("warm")
    assert caplog.text.count("a worker ended (with code 3)") == 2
    worker.close()
    assert worker.pid is None


def test_what_it_says(made: Callable[..., Worker], caplog: pytest.LogCaptureFixture) -> None:
    worker = made(_fails)
    for _ in range(2):
        with pytest.raises(OverloadedError, match="not now"):
            worker.call("warm")
    assert caplog.text.count("said of") == 2
    first = worker.pid
    assert first is not None
    worker.close()
    assert worker.pid is None
    with pytest.raises(OverloadedError, match="stopping"):
        worker.call("warm")


def test_no_process_to_be_had(made: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    worker = made(_fails)
    monkeypatch.setattr(workers.SpawnProcess, "start", start)
    with pytest.raises(OverloadedError, match="temporarily"):
        worker.call("warm")


def _children(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(one) for thread in threads for one in (thread / "children").read_text().split()]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
@pytest.mark.parametrize("early", [False, True], ids=["ready", "starting"])
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_they_end_with_the_service(library_folder: Path, stop: signal.Signals, early: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(library_folder), "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"MMSEARCH_WORKERS": "2"},
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not early:
                with httpx.Client(base_url=url) as client:
                    eventually(lambda: client.get("/readyz").status_code == 200)
                    assert client.get("/v1/search", params={"q": "x"}).status_code == 200
            eventually(lambda: len(_children(process.pid)) >= 3)  # and what looks after them
            children = _children(process.pid)
            if stop == signal.SIGKILL:
                process.send_signal(stop)
            else:
                os.killpg(process.pid, stop)  # as a terminal does, and systemd
            out, said = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    # Python says so itself where the other end is gone before it has begun.
    assert not said or (early and stop == signal.SIGKILL)
    assert out == ("" if stop == signal.SIGKILL else "ended\n")
    eventually(lambda: not any(map(_runs, children)))


def test_one_that_is_being_started_is_ended(made: Callable[..., Worker]) -> None:
    worker = made(_fails)

    def call() -> None:
        with pytest.raises(MmsearchError):
            worker.call("warm")

    calling = threading.Thread(target=call)
    calling.start()
    eventually(lambda: worker._lock.locked() or not calling.is_alive())
    worker.close()
    calling.join(DEADLINE_S)
    assert not calling.is_alive()
    assert worker.pid is None


def test_what_a_worker_does(library_folder: Path) -> None:
    """The same as in its process, here."""
    import torch

    threads = torch.get_num_threads()
    worker = _Worker(library_folder)
    try:
        worker.do(Order("warm", 1))
        assert (crew.cores(), torch.get_num_threads()) == (1, 1)
        reply = worker.do(Order("embed", 1, texts=["a", "b", "a"]))
        assert reply.encoded == 2
        assert reply.made is not None
        assert set(reply.made.vectors) == {"a", "b"}
        assert worker.do(Order("embed", 1, texts=["a"])).encoded == 0
        question = Question((Term(text="c"),), k=3)
        reply = worker.do(Order("answer", 1, questions=[question, question]))
        assert reply.encoded == 1
        assert len(reply.result) == 2
        assert reply.stages["search"] > 0
        kept = worker._library.kept_texts(["a"])
        assert np.array_equal(kept.vectors["a"], worker._library.embed_texts(["a"])[1])
        other = np.roll(kept.vectors["a"], 1)
        told = Kept(kept.fingerprint, {"told": other})
        reply = worker.do(Order("embed", 1, texts=["told"], kept=told))
        assert reply.encoded == 0
        assert np.array_equal(reply.result[1], other)
    finally:
        worker._library.close()
        gc.unfreeze()
        crew.limit(1 << 16)
        torch.set_num_threads(threads)


def test_the_service_does_not_bring_faiss_before_torch() -> None:
    """Whichever comes first brings the OpenMP runtime, and torch suffers more from the other's."""
    code = "import sys, mmsearch.serve.app, mmsearch.serve.server; print('faiss' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- when there are none --------------------------------------------------------------------------


def _stub(library: Library, settings: Settings, **changed: Any) -> Service:
    class Changed:
        def __getattr__(self, name: str) -> Any:
            return changed.get(name) or getattr(library, name)

    return Service(cast(Library, Changed()), settings.model_copy(update={"workers": 2}))


def test_on_a_gpu_one_process_answers(
    library: Library, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    service = _stub(library, settings, loaded_device="cuda:0 (NVIDIA H200)")
    asyncio.run(service.warm())
    assert service.state == "ready"
    assert not service.workers.ready
    assert service.workers.pids == []
    assert "on cuda:0 (NVIDIA H200) one process answers" in caplog.text
    service.close()


def test_without_workers_the_service_answers(
    library: Library,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(workers, "work", _fails)
    service = _stub(library, settings)
    asyncio.run(service.warm())
    assert service.state == "ready"
    assert not service.workers.ready
    assert "this process answers: not now" in caplog.text
    assert service.workers.pids == []
    service.close()


# --- what they share ------------------------------------------------------------------------------


def test_the_one_with_least_to_do_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(crew, "cores", lambda: 5)
    pool = Workers(tmp_path, [Batcher(max_batch=4, max_queue=9) for _ in range(3)])
    asked: list[Worker] = []

    def run(worker: Worker, items: list[int]) -> list[Any]:
        asked.extend([worker] * len(items))
        return items

    async def main() -> None:
        # Nothing runs until the loop is left: each next one goes to another.
        jobs = [pool.submit("x", run, n) for n in range(6)]
        assert await asyncio.gather(*jobs) == list(range(6))

    for one in pool._members:  # not yet at work: what is asked waits
        monkeypatch.setattr(one.batcher, "_thread", SimpleNamespace())
    threads = [pool._threads(1) for _ in range(3)] + [pool._threads(-1) for _ in range(3)]
    assert threads == [5, 2, 1, 2, 5, 5]

    async def waiting() -> None:
        for n in range(6):
            pool.submit("x", run, n)
        assert [len(one.batcher) for one in pool._members] == [2, 2, 2]
        assert len(pool) == 6

    asyncio.run(waiting())
    pool.close()
    assert asked == []

    pool = Workers(tmp_path, [Batcher(max_batch=4, max_queue=9) for _ in range(2)])
    asyncio.run(main())
    assert len(asked) == 6
    pool.close()


@pytest.mark.parametrize(
    "error",
    [
        errors.NotFoundError("image", 7),
        errors.ImageTooLargeError("a.png", 10, 5),
        errors.DecodeTimeoutError("a.png", "decode", 5.0),
        errors.ModelUnavailableError("m", "offline", "Put it there."),
        errors.LibraryLockedError("/x", None),
        errors.SpaceMismatchError("a", "b"),
        errors.UnknownNameError("source", "x", ["a", "b"]),
        errors.ServiceError("host", 80, "taken"),
        errors.QueryError("plain"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_pass_between_processes(error: MmsearchError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
