"""Ids of requests, log lines and metrics: true, and silent about what people look for."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from serve_library import BASE_URL, draw, encoded, is_problem
from starlette.testclient import TestClient

from mmsearch.library import Library
from mmsearch.serve import create_app, logs, watch
from mmsearch.serve.exchange import Exchange
from mmsearch.settings import Settings

SECRET = "the letters that nobody may read"


@pytest.fixture
def app(library: Library, settings: Settings) -> FastAPI:
    """One that nobody else has asked anything."""
    return create_app(library, settings)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url=BASE_URL, raise_server_exceptions=False) as started:
        yield started


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """What the service logs, in the format that the test names."""
    root, level = logging.getLogger(), logs.access.level
    before = list(root.handlers)
    stream = io.StringIO()
    logs.configure(request.param, stream)
    yield stream
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in before:
        root.addHandler(handler)
    logs.access.setLevel(level)


def numbers(client: TestClient) -> dict[str, float]:
    """Every sample of /metrics, by its name and its labels."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_an_id_for_each_request(client: TestClient) -> None:
    ids = {client.get("/healthz").headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5
    given = client.get("/v1/images/999999", headers={"X-Request-ID": "from-a-proxy.7"})
    assert given.headers["x-request-id"] == "from-a-proxy.7"
    assert is_problem(given, 404)["request_id"] == "from-a-proxy.7"
    # Also what the wall refuses has one.
    refused = client.get("/healthz", headers={"Host": "evil.example"})
    assert is_problem(refused, 421)["request_id"] == refused.headers["x-request-id"]


@pytest.mark.parametrize("odd", ["two words", "a\tb", '"', "x" * 129, "<script>", ""])
def test_an_odd_id_is_not_taken(client: TestClient, odd: str) -> None:
    answer = client.get("/healthz", headers={"X-Request-ID": odd})
    assert answer.headers["x-request-id"] != odd
    assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize("lines", ["json"], indirect=True)
def test_json_lines(client: TestClient, lines: io.StringIO) -> None:
    client.get("/v1/search", params={"q": SECRET, "k": 2}, headers={"X-Request-ID": "one"})
    client.get("/v1/images/999999/file?v=x", headers={"X-Request-ID": "two"})
    found: dict[str, dict[str, Any]] = {}
    for line in lines.getvalue().splitlines():
        about = json.loads(line)
        if about["logger"] == "mmsearch.access":
            found[about["request_id"]] = about
    first, second = found["one"], found["two"]
    assert (first["method"], first["route"], first["status"]) == ("GET", "/v1/search", 200)
    assert first["level"] == "info"
    assert first["time"].endswith("Z")
    assert first["duration_ms"] > 0
    assert first["bytes"] > 100
    assert {"search", "records"} <= set(first["stages_ms"])
    assert (second["route"], second["status"]) == ("/v1/images/{image_id}/file", 404)
    assert second["path"] == "/v1/images/999999/file"


@pytest.mark.parametrize("lines", ["text", "json"], indirect=True)
def test_no_line_tells_what_was_asked(client: TestClient, lines: io.StringIO) -> None:
    word = SECRET.split()[1]
    client.get("/v1/search", params={"q": SECRET})
    client.get("/v1/texts/search", params={"q": SECRET, "k": 0})  # not valid
    client.post("/v1/search", json={"q": SECRET, "where": f"{SECRET}:("})
    client.post("/v1/search", json={"parts": [{"text": SECRET}]})
    client.post("/v1/search", content=SECRET, headers={"Content-Type": "application/json"})
    client.post("/v1/search/image", data={"q": SECRET}, files={"file": (f"{word}.png", b"none")})
    picture = encoded(draw("teal", "line", (77, 41)))
    client.post("/v1/captions", files={"file": (f"{word}.png", picture)})
    logged = lines.getvalue()
    assert "/v1/search" in logged
    assert word not in logged
    assert "nobody" not in logged


@pytest.mark.parametrize("lines", ["text"], indirect=True)
def test_a_path_cannot_forge_a_line(client: TestClient, lines: io.StringIO) -> None:
    client.get("/nowhere%0AINFO:%20forged%1b[2J")
    assert len([line for line in lines.getvalue().splitlines() if "nowhere" in line]) == 1
    assert "\x1b" not in lines.getvalue()


def test_what_is_counted(client: TestClient, library: Library) -> None:
    assert client.get("/v1/search?q=counted once").status_code == 200
    before = numbers(client)
    for _ in range(3):
        assert client.get("/v1/search?q=counted again").status_code == 200
    hit = client.get("/v1/search?q=counted again").json()["hits"][0]["id"]
    assert client.get(f"/v1/images/{hit}").status_code == 200
    assert client.head(f"/v1/images/{hit}").status_code == 200
    assert client.get("/no/such/place").status_code == 404
    assert client.get("/v1/search").status_code == 422
    after = numbers(client)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    requests = "mmsearch_http_requests_total"
    assert grown(f"{requests} method=GET route=/v1/search status=200") == 4
    assert grown(f"{requests} method=GET route=/v1/search status=422") == 1
    assert grown(f"{requests} method=GET route=/v1/images/{{image_id}} status=200") == 1
    assert grown(f"{requests} method=HEAD route=/v1/images/{{image_id}} status=200") == 1
    assert grown(f"{requests} method=GET route=none status=404") == 1
    cache = "mmsearch_query_cache_requests_total modality=text result"
    assert grown(f"{cache}=miss") == 1
    assert grown(f"{cache}=hit") == 3
    assert grown("mmsearch_encode_batch_size_count modality=text") == 1
    stage = "mmsearch_stage_duration_seconds_count stage"
    assert [grown(f"{stage}={name}") for name in ("queue", "encode", "search", "records")] == [
        1, 1, 4, 4,
    ]  # fmt: skip
    assert grown("mmsearch_http_request_duration_seconds_count route=/v1/search") == 5
    # The one that asks for them.
    assert after["mmsearch_http_requests_in_progress"] == 1
    assert after["mmsearch_encode_queue_length"] == 0
    assert after["mmsearch_ready"] == 1
    status = library.status()
    assert after["mmsearch_library_items kind=images"] == status.images
    assert after["mmsearch_library_items kind=texts"] == status.texts
    assert after["mmsearch_library_revision"] == library.catalog.revision()
    assert after["mmsearch_index_vectors modality=image state=found"] == status.index[0].vectors
    assert after["process_resident_memory_bytes"] > 1e6


def test_names_by_convention(client: TestClient) -> None:
    families = list(text_string_to_metric_families(client.get("/metrics").text))
    ours = [family for family in families if family.name.startswith("mmsearch_")]
    assert len(ours) >= 14
    for family in ours:
        assert family.documentation, family.name
        assert not family.name.endswith(("_ms", "_milliseconds", "_mb")), family.name


def test_openmetrics_for_who_asks(client: TestClient) -> None:
    wanted = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = client.get("/metrics", headers=wanted)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_a_stop_refuses_what_comes_late(app: FastAPI, client: TestClient) -> None:
    app.state.service.stopping = True
    answer = client.get("/v1/search?q=x")
    assert is_problem(answer, 503)["type"] == "urn:mmsearch:problem:stopping"
    assert answer.headers["retry-after"]
    assert answer.headers["connection"] == "close"
    assert is_problem(client.get("/readyz"), 503)
    assert client.get("/healthz").status_code == 200
    app.state.service.stopping = False


def test_a_stop_ends_answers_without_end_and_no_others() -> None:
    async def main() -> None:
        closing, gone = asyncio.Event(), asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect", "by": "client"}

        ends, stays = (Exchange("id", receive, closing) for _ in range(2))
        for exchange in (ends, stays):
            exchange._is_whole = True  # the request has been read
        ends.is_endless = True
        waiting = asyncio.create_task(stays.receive())
        closing.set()
        async with asyncio.timeout(60):
            assert await ends.receive() == {"type": "http.disconnect"}
            assert not waiting.done()
            gone.set()
            assert (await waiting)["by"] == "client"

    asyncio.run(main())


@pytest.mark.parametrize(("pieces", "counted"), [(1, 7.0), (3, 2.0)])
def test_how_long_a_client_takes_for_a_stream_is_no_time_of_the_service(
    pieces: int,
    counted: float,
    library: Library,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files, ZIP files and events that run for hours would be what p99 tells of."""
    now = 100.0
    monkeypatch.setattr(watch, "time", SimpleNamespace(perf_counter=lambda: now))
    service = create_app(library, settings).state.service

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        nonlocal now
        now += 2
        await send({"type": "http.response.start", "status": 200, "headers": []})
        now += 5
        for n in range(pieces):
            more = n < pieces - 1
            await send({"type": "http.response.body", "body": b"x", "more_body": more})

    async def nothing(*_: Any) -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(watch.Watch(inner, service=service)(scope, nothing, nothing))
    (sample,) = [
        sample
        for metric in service.metrics.seconds.collect()
        for sample in metric.samples
        if sample.name.endswith("_sum")
    ]
    assert sample.value == counted
    service.close()
