"""The outer wall: hosts, origins, sizes, headers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from serve_library import BASE_URL, is_problem
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from mmsearch.library import Library
from mmsearch.serve import create_app, guard
from mmsearch.serve.guard import (
    FORM_OVERHEAD_BYTES,
    MAX_JSON_BYTES,
    PAGE_POLICY,
    SECURITY_HEADERS,
    Guard,
    is_loopback,
)
from mmsearch.settings import Settings

OWN = ["localhost", "127.0.0.1", "[::1]", "localhost:8080", "127.0.0.1:1", "[::1]:65535"]
FOREIGN = [
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.1@evil.example",
    "192.168.1.7",
    "[::2]",
    "[::1",
    "",
]


@pytest.mark.parametrize("host", [*OWN, "LOCALHOST:8080"])
def test_loopback_names_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/search?q=x", "/assets/app.js", "/nothing"])
def test_other_names_are_not(client: TestClient, host: str, path: str) -> None:
    problem = is_problem(client.get(path, headers={"Host": host}), 421)
    assert "--host" in problem["detail"]


def test_a_path_makes_no_log_line_of_its_own(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    is_problem(client.get("/a%0AERROR:%20forged%1B[31m", headers={"Host": "evil.example"}), 421)
    (refused,) = [r.getMessage() for r in caplog.records if "refused" in r.getMessage()]
    assert refused.startswith("GET /a%0AERROR:%20forged%1B%5B31m refused: ")


def test_beyond_loopback_names_are_not_known(library: Library, settings: Settings) -> None:
    app = create_app(library, settings.model_copy(update={"host": "0.0.0.0"}))
    with TestClient(app, base_url="http://photos.lan:8080") as client:
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.7", False),
        ("photos.lan", False),
        ("", False),
    ],
)
def test_what_is_loopback(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


FOREIGN_POST: list[dict[str, str]] = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:9999"},
    {"Origin": "http://localhost"},
    {"Origin": "http://["},
    {"Origin": "http://a]b"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
]


@pytest.mark.parametrize("headers", FOREIGN_POST)
@pytest.mark.parametrize("path", ["/v1/search", "/v1/search/image", "/v1/captions"])
def test_other_sites_cannot_post(client: TestClient, path: str, headers: dict[str, str]) -> None:
    is_problem(client.post(path, files={"file": b"x"}, headers=headers), 403)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": BASE_URL},
        {"Origin": BASE_URL, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_the_page_and_programs_can_post(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/v1/search", json={"q": "x"}, headers=headers).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_may_link_but_not_look(client: TestClient, site: str) -> None:
    url = "/v1/search?q=x"
    for mode in ("no-cors", "cors"):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
        is_problem(client.get(url, headers=headers), 403)
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    assert client.get("/?q=x", headers=headers).status_code == 200


@pytest.mark.parametrize("given", ["gzip", "GZIP", "br, gzip", "zstd", "x", "identity, gzip"])
def test_packed_bodies_are_refused_in_words(client: TestClient, given: str) -> None:
    """They would be read as what they are not, and unpacking them is what bombs are for."""
    body, kind = b'{"q": "kite"}', {"Content-Type": "application/json"}
    answer = client.post("/v1/search", content=body, headers=kind | {"Content-Encoding": given})
    assert "Content-Encoding" in is_problem(answer, 415)["detail"]
    for plain in ("identity", " Identity ", ""):
        headers = kind | {"Content-Encoding": plain}
        assert client.post("/v1/search", content=body, headers=headers).status_code == 200


def test_no_site_is_let_in_by_cors(client: TestClient) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    response = client.options("/v1/search", headers=headers)
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_no_answer_leads_to_an_address_of_its_own_making(client: TestClient) -> None:
    """It would begin with http, also behind a proxy that speaks TLS, and end as the Host says."""
    for path in ("/v1/status/", "/v1/search/", "/healthz/"):
        is_problem(client.get(path, follow_redirects=False), 404)


PATHS = [
    "/",
    "/assets/app.js",
    "/healthz",
    "/v1/status",
    "/v1/search?q=x",
    "/nothing",
    "/v1/search",
]


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_carries_the_headers(client: TestClient, path: str) -> None:
    response = client.get(path)
    for name, value in SECURITY_HEADERS.items():
        assert response.headers.get_list(name) == [value]
    assert "server" not in response.headers
    assert response.headers["cache-control"] in ("no-store", "no-cache")


def test_the_page_may_load_nothing_from_elsewhere() -> None:
    directives = dict(part.strip().split(" ", 1) for part in PAGE_POLICY.split(";"))
    assert directives.pop("default-src") == "'none'"
    assert directives.pop("img-src") == "'self' blob: data:"
    for name in ("script-src", "style-src", "connect-src"):
        assert directives.pop(name) == "'self'"
    assert set(directives.values()) == {"'none'"}
    assert set(directives) == {"base-uri", "form-action", "frame-ancestors"}


# ---- sizes, over a service of one route that reads all it gets ----------------------------------


async def _swallow(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def _fail(request: Request) -> Response:
    raise RuntimeError("the password is hunter2")


@pytest.fixture
def swallower() -> Iterator[TestClient]:
    app = Starlette(
        routes=[Route("/", _swallow, methods=["POST"]), Route("/fail", _fail)],
        middleware=[Middleware(Guard, bound_to="127.0.0.1", max_upload_bytes=1000)],
    )
    with TestClient(app, base_url=BASE_URL, raise_server_exceptions=False) as client:
        yield client


FORM = {"Content-Type": "multipart/form-data; boundary=b"}
FORM_LIMIT = 1000 + FORM_OVERHEAD_BYTES


@pytest.mark.parametrize(("headers", "limit"), [({}, MAX_JSON_BYTES), (FORM, FORM_LIMIT)])
def test_bodies_are_read_up_to_the_limit(
    swallower: TestClient, headers: dict[str, str], limit: int
) -> None:
    response = swallower.post("/", content=b"x" * limit, headers=headers)
    assert response.text == str(limit)
    response = swallower.post("/", content=b"x" * (limit + 1), headers=headers)
    assert response.status_code == 413
    assert response.headers["connection"] == "close"


Message = dict[str, Any]


def _exchange(
    app: Callable[..., Awaitable[None]],
    headers: list[tuple[bytes, bytes]],
    pieces: int,
    every_s: float = 0.0,
) -> tuple[int, int]:
    """Post `pieces` pieces of 1,000 bytes. Returns the status and how many pieces were taken."""
    taken = 0
    statuses: list[int] = []

    async def receive() -> Message:
        nonlocal taken
        await anyio.sleep(every_s)
        taken += 1
        return {"type": "http.request", "body": b"x" * 1000, "more_body": taken < pieces}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/captions",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), *headers],
    }
    anyio.run(app, scope, receive, send)
    return statuses[0], taken


FORM_HEADER = (b"content-type", b"multipart/form-data; boundary=b")


def test_an_endless_upload_is_cut_off(app: FastAPI, settings: Settings) -> None:
    limit = settings.max_upload_bytes + FORM_OVERHEAD_BYTES
    status, taken = _exchange(app, [FORM_HEADER], 1_000_000)
    # Malformed from the first byte on, so the form parser may give up even earlier.
    assert status in (400, 413)
    assert taken <= limit // 1000 + 1


def test_an_endless_file_is_cut_off() -> None:
    app = Starlette(routes=[Route("/v1/captions", _swallow, methods=["POST"])])
    guard = Guard(app, bound_to="::1", max_upload_bytes=100_000)
    status, taken = _exchange(guard, [FORM_HEADER], 1_000_000)
    assert status == 413
    assert taken == (100_000 + FORM_OVERHEAD_BYTES) // 1000 + 1


def test_a_body_that_comes_slowly_for_ever_is_cut_off() -> None:
    """It never stands still for long, but fewer bytes a second come than must."""
    app = Starlette(routes=[Route("/v1/captions", _swallow, methods=["POST"])])
    guard = Guard(app, bound_to="::1", max_upload_bytes=100_000)
    guard.body_still_s, guard.body_bytes_per_s = 0.4, 1 << 20
    status, taken = _exchange(guard, [FORM_HEADER], 30, every_s=0.1)
    assert status == 408
    assert taken < 10


def test_a_declared_length_is_believed_when_it_is_too_much() -> None:
    app = Starlette(routes=[Route("/v1/captions", _swallow, methods=["POST"])])
    guard = Guard(app, bound_to="::1", max_upload_bytes=100_000)
    for declared in (b"999999999", b"9" * 400):
        assert _exchange(guard, [FORM_HEADER, (b"content-length", declared)], 10) == (413, 0)
    for lie in (b"0", b"-5", b"ten"):
        assert _exchange(guard, [FORM_HEADER, (b"content-length", lie)], 10**6)[0] == 413


@pytest.mark.parametrize("value", [b"1,", b"[],", b"[", b'{"a":', b"{},"])
def test_json_of_very_many_values_is_not_read(value: bytes) -> None:
    """Reading it would take seconds in which nobody else is answered, and gigabytes."""
    wall = Guard(
        Starlette(routes=[Route("/v1/embeddings", _swallow, methods=["POST"])]),
        bound_to="127.0.0.1",
        max_upload_bytes=64 << 20,
    )
    with TestClient(wall, base_url=BASE_URL) as client:
        many = b'{"input":[' + value * guard.MAX_JSON_VALUES
        answer = client.post("/v1/embeddings", content=many)
        assert (answer.status_code, "values" in answer.text) == (413, True)
        text = b'{"input":["' + b"as many words, as 2,048 texts have, " * 110_000 + b'"]}'
        assert client.post("/v1/embeddings", content=text).text == str(len(text))


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/v1/embeddings", (b"content-type", b"application/json")), ("/v1/captions", FORM_HEADER)],
    ids=["json", "form"],
)
def test_large_bodies_are_in_memory_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch, path: str, kind: tuple[bytes, bytes]
) -> None:
    """However many clients send them, as slowly as they may."""
    monkeypatch.setattr(guard, "MAX_HELD_BYTES", 3 * MAX_JSON_BYTES)
    app = Starlette(routes=[Route(path, _swallow, methods=["POST"])])
    wall = Guard(app, bound_to="127.0.0.1", max_upload_bytes=1 << 20)
    statuses: list[int] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def post(size: int, ended: anyio.Event) -> None:
        sent = 0

        async def receive() -> Message:
            nonlocal sent
            if sent == size:
                await ended.wait()
                return {"type": "http.request", "body": b"", "more_body": False}
            sent += 1 << 10
            return {"type": "http.request", "body": b"x" * (1 << 10), "more_body": True}

        headers = [(b"host", b"localhost"), kind]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        await wall(scope | {"query_string": b""}, receive, send)

    async def main() -> None:
        for _ in range(2):  # what was refused or has ended is not counted
            ended = anyio.Event()
            async with anyio.create_task_group() as group:
                group.start_soon(post, 2 * MAX_JSON_BYTES, ended)
                for _ in range(20):  # small ones are no matter
                    group.start_soon(post, MAX_JSON_BYTES, ended)
                await anyio.wait_all_tasks_blocked()
                assert statuses == []
                await post(2 * MAX_JSON_BYTES, ended)
                assert statuses == [503]
                ended.set()
            assert statuses == [503, *[200] * 21]
            statuses.clear()
        ended.set()
        await post(5 * MAX_JSON_BYTES, ended)  # alone it is let in
        assert statuses == [200]

    anyio.run(main)


def test_what_fails_inside_is_not_told(
    swallower: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    problem = is_problem(swallower.get("/fail"), 500)
    assert "hunter2" not in json.dumps(problem)
    assert "hunter2" in caplog.text
    assert swallower.get("/fail").headers["content-security-policy"] == PAGE_POLICY
