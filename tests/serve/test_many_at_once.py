"""Many questions at once, over a real library: batched, bounded, dropped with their clients."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from serve_library import BASE_URL, draw, encoded, is_problem

from mmsearch.library import Library
from mmsearch.query import Question, Term
from mmsearch.serve import create_app
from mmsearch.serve.service import Service
from mmsearch.settings import Settings

DEADLINE_S = 60
MANY = 12


def question(text: str) -> Question:
    return Question((Term(text=text),), k=10)


def sample(service: Service, name: str, **labels: str) -> float:
    return service.metrics.registry.get_sample_value(name, labels) or 0.0


async def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


@asynccontextmanager
async def busy_model(service: Service) -> AsyncIterator[threading.Event]:
    """The model's thread is at work until the event is set, at the latest at the end."""
    began, may_end = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        may_end.wait(DEADLINE_S)

    working = asyncio.create_task(service.infer(work))
    await asyncio.to_thread(began.wait, DEADLINE_S)
    try:
        yield may_end
    finally:
        may_end.set()
        await working


@pytest.fixture
def service(library: Library, settings: Settings) -> Iterator[Service]:
    made = Service(library, settings)
    yield made
    made.close()


def test_questions_go_through_the_model_together(service: Service, library: Library) -> None:
    asked = [question(f"together {n} {'word ' * n}") for n in range(MANY)]
    asked.append(asked[0])  # by two at once

    async def main() -> list[tuple[tuple[int, float], ...]]:
        async with busy_model(service) as may_end:
            tasks = [asyncio.create_task(service.answer(library.ask, one)) for one in asked]
            await until(lambda: len(service.batcher) == len(asked))
            may_end.set()
            answers = [(await task)[0] for task in tasks]
        return [tuple((hit.image.id, hit.score) for hit in answer.hits) for answer in answers]

    together = asyncio.run(main())
    service.close()
    assert sample(service, "mmsearch_encode_batch_size_count", modality="text") == 1
    assert sample(service, "mmsearch_encode_batch_size_sum", modality="text") == len(asked)
    # Each got its own answer: what it would have been alone, up to rounding.
    for one, hits in zip(asked, together, strict=True):
        with Library(library.path, device="cpu") as fresh:
            alone = [(hit.image.id, hit.score) for hit in fresh.ask(one).hits]
        scores = dict(alone)
        assert hits, one
        for (id_, score), (other, _) in zip(hits, alone, strict=True):
            assert abs(score - scores[id_]) < 1e-6
            assert id_ == other or abs(scores[id_] - scores[other]) < 1e-6
    assert len(set(together)) == len(asked) - 1


def test_pictures_go_through_the_model_together(service: Service, library: Library) -> None:
    files = [encoded(draw("lime", "line", (60 + n, 50))) for n in range(4)]

    async def main() -> None:
        pictures = [await service.picture(data) for data in files]
        asked = [Question((Term(image=picture),), k=3) for picture in pictures]
        async with busy_model(service) as may_end:
            tasks = [asyncio.create_task(service.answer(library.ask, one)) for one in asked]
            await until(lambda: len(service.batcher) == len(asked))
            may_end.set()
            for task in tasks:
                assert (await task)[0].hits
        # The next page of the same picture: neither decoded nor encoded again.
        async with busy_model(service):
            again = await service.picture(files[0])
            assert again.pixels is None
            next_page = Question((Term(image=again),), k=3, offset=3)
            assert (await service.answer(library.ask, next_page))[0].hits

    asyncio.run(main())
    service.close()
    assert sample(service, "mmsearch_encode_batch_size_sum", modality="image") == 4
    assert sample(service, "mmsearch_encode_batch_size_count", modality="image") == 1


def test_vectors_that_many_ask_for_are_made_together(library: Library, settings: Settings) -> None:
    app = create_app(library, settings)
    service: Service = app.state.service
    texts = [[f"vector {n}", f"another {n}"] for n in range(5)]
    pictures = [encoded(draw("navy", "ellipse", (60 + n, 50))) for n in range(3)]

    async def main() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client:

            def ask(given: list[str]) -> asyncio.Task[httpx.Response]:
                return asyncio.create_task(client.post("/v1/embeddings", json={"input": given}))

            await ask(["the first one loads"])
            async with busy_model(service) as may_end:
                asked = [ask(given) for given in texts]
                await until(lambda: len(service.batcher) == len(asked))
                may_end.set()
                answers = [await task for task in asked]
            shown = [f"data:image/png;base64,{base64.b64encode(p).decode()}" for p in pictures]
            for one in pictures:
                await service.picture(one)  # decoded once, so that they come at once below
            tasks = [ask([one]) for one in shown]
            return answers + [await task for task in tasks]

    answers = asyncio.run(main())
    service.close()
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert sample(service, "mmsearch_encode_batch_size_count", modality="text") == 2
    assert sample(service, "mmsearch_encode_batch_size_sum", modality="text") == 1 + 10
    for given, answer in zip(texts, answers, strict=False):
        found = [one["embedding"] for one in answer.json()["data"]]
        np.testing.assert_allclose(found, library.embed_texts(given)[1], atol=1e-5)
    for picture, answer in zip(pictures, answers[len(texts) :], strict=True):
        (found,) = (one["embedding"] for one in answer.json()["data"])
        np.testing.assert_allclose(found, library.embed_pictures([picture])[1][0], atol=1e-3)


def test_what_was_asked_before_does_not_wait_for_the_model(
    service: Service, library: Library
) -> None:
    async def main() -> None:
        known = question("asked before")
        first, _ = await service.answer(library.ask, known)
        async with busy_model(service):
            again, _ = await service.answer(library.ask, known)
        assert again == first

    asyncio.run(main())


def test_a_full_queue_is_a_503(library: Library, settings: Settings) -> None:
    app = create_app(library, settings.model_copy(update={"max_queue": 1}))
    service: Service = app.state.service

    async def main() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client:
            async with busy_model(service) as may_end:
                waits = asyncio.create_task(client.get("/v1/search?q=waits for the model"))
                await until(lambda: len(service.batcher) == 1)
                refused = await client.get("/v1/search?q=one too many")
                may_end.set()
                assert (await waits).status_code == 200
            problem = is_problem(refused, 503)
            assert problem["type"] == "urn:mmsearch:problem:overloaded"
            assert "MMSEARCH_MAX_QUEUE" in problem["detail"]
            assert int(refused.headers["retry-after"]) >= 1
            assert (await client.get("/v1/search?q=one too many")).status_code == 200

    asyncio.run(main())
    assert sample(service, "mmsearch_overloaded_total") == 1
    service.close()


@contextmanager
def listening(app: FastAPI) -> Iterator[tuple[int, asyncio.AbstractEventLoop]]:
    """A real server in a thread: its port and its loop."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
    loop = asyncio.new_event_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=loop.run_until_complete, args=(server.serve([listener]),))
        serving.start()
        try:
            yield listener.getsockname()[1], loop
        finally:
            server.should_exit = True
            serving.join(DEADLINE_S)
            loop.close()


def test_a_client_that_hangs_up_is_dropped(library: Library, settings: Settings) -> None:
    app = create_app(library, settings)
    service: Service = app.state.service
    with listening(app) as (port, loop):

        async def main() -> None:
            async with busy_model(service):
                connection = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
                connection.sendall(
                    b"GET /v1/search?q=never+read HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
                )
                await until(lambda: len(service.batcher) == 1)
                connection.close()
                gone = {"method": "GET", "route": "/v1/search", "status": "499"}
                await until(lambda: sample(service, "mmsearch_http_requests_total", **gone) == 1)
            # The next one finds the queue without it.
            await service.answer(library.ask, question("somebody else"))

        asyncio.run_coroutine_threadsafe(main(), loop).result(DEADLINE_S)
    assert sample(service, "mmsearch_encode_dropped_total") == 1
    assert library.lacking(question("never read"))[0] == ["never read"]
    assert library.lacking(question("somebody else"))[0] == []
