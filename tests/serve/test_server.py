"""The real thing: a process that listens, answers, and ends when told to."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from serve_library import SERVE, draw, encoded, is_problem

from mmsearch.errors import ServiceError
from mmsearch.serve.guard import MAX_JSON_BYTES
from mmsearch.serve.server import address_of, bind


@pytest.fixture
def served(library_folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(library_folder), "0"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process, process.stdout.readline().strip()
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_told_to_stop(
    served: tuple[subprocess.Popen[str], str], stop: signal.Signals
) -> None:
    process, url = served
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
    with httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert len(client.get("/v1/search", params={"q": "a kite", "k": 3}).json()["hits"]) == 3
        assert client.get("/readyz").status_code == 200
        assert "server" not in client.get("/").headers
        assert client.head("/").content == b""
    process.send_signal(stop)
    assert process.wait(60) == 0
    assert process.stdout is not None
    assert process.stdout.read() == "ended\n"


def test_a_stop_lets_what_is_in_flight_end(served: tuple[subprocess.Popen[str], str]) -> None:
    process, url = served
    picture = encoded(draw("teal", "line", (57, 61)))
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="p.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + picture + b"\r\n--b--\r\n"
    )
    head = (
        "POST /v1/search/image HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()

    def eventually(true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not true():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with httpx.Client(base_url=url, timeout=60) as client, ExitStack() as later:
        assert client.get("/v1/search?q=warm").status_code == 200
        # Not before, or its head may come too late on a busy machine.
        here = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        raw = later.enter_context(socket.create_connection(here, timeout=60))
        raw.sendall(head + body[:20])
        in_progress = "mmsearch_http_requests_in_progress 2.0"
        eventually(lambda: in_progress in client.get("/metrics").text)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: client.get("/readyz").status_code == 503)
        refused = is_problem(client.get("/v1/search?q=late"), 503)
        assert refused["type"] == "urn:mmsearch:problem:stopping"
        assert process.poll() is None
        raw.sendall(body[20:])
        answer = b""
        while received := raw.recv(10_000):
            answer += received
    assert answer.startswith(b"HTTP/1.1 200")
    assert process.wait(60) == 0
    assert process.stdout is not None
    assert process.stdout.read() == "ended\n"


#: Pictures without end in one file, and little patience.
_LONG_ANSWERS = """
import mmsearch.serve.server as server
import mmsearch.serve.zip as zips

async def zipped(*_):
    while True:
        yield bytes(1 << 20)

server.SHUTDOWN_S = 6
zips._zipped = zipped
"""


def test_a_stop_cuts_off_what_takes_too_long(library_folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _LONG_ANSWERS + SERVE, str(library_folder), "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            found = httpx.get(f"{url}/v1/search?q=a+kite", timeout=60).json()["hits"]
            here = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
            with (
                socket.create_connection(here, timeout=60) as slow,
                socket.create_connection(here, timeout=60) as unasked,
            ):
                query = f"ids={found[0]['id']}"
                slow.sendall(
                    f"GET /v1/images.zip?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
                )
                assert slow.recv(15) == b"HTTP/1.1 200 OK"
                unasked.sendall(
                    b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
                    b"Content-Type: application/json\r\n\r\n{"
                )
                while "in_progress 3.0" not in httpx.get(f"{url}/metrics", timeout=60).text:
                    time.sleep(0.1)
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                assert unasked.recv(12) == b"HTTP/1.1 503"
                took = time.monotonic() - began
                out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "ended\n")
    assert 5 < took < 11  # not twice as long
    assert len(err.splitlines()) <= 1, err


#: A model that takes this long to load, all of it in torch.
_SLOW = """
import time
from mmsearch.library import Library

def warm(self, *, texts_only=False):
    import torch
    many = torch.ones(1000, 1000)
    until = time.monotonic() + {seconds}
    print("loading", flush=True)
    while time.monotonic() < until:
        torch.mm(many, many)
    print("loaded", flush=True)

Library.warm = warm
"""
_COMMAND = """
import sys
from mmsearch.cli import main

sys.argv = ["mmsearch", "--library", sys.argv[1], "serve", "--port", sys.argv[2], "--device", "cpu"]
main()
"""


@pytest.mark.parametrize(
    ("program", "seconds", "printed"),
    [(SERVE, 3, "loaded\n"), (_COMMAND, 3600, "")],
    ids=["in Python, once it is loaded", "the command, at once"],
)
def test_a_stop_while_the_model_loads_is_an_ordinary_end(
    library_folder: Path, program: str, seconds: int, printed: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _SLOW.format(seconds=seconds) + program, str(library_folder), "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            while process.stdout.readline() != "loading\n":
                pass
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert "terminate" not in err
    assert out.replace("ended\n", "") == printed


def test_an_upload_past_the_limit_ends_the_connection(
    served: tuple[subprocess.Popen[str], str],
) -> None:
    _, url = served
    port = int(url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
        raw.sendall(
            b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: application/json\r\n\r\n"
        )
        # The end of the body never comes; the answer does, and with it the connection's end.
        size = MAX_JSON_BYTES + 1
        raw.sendall(b"%x\r\n" % size + b"x" * size)
        answer = b""
        while received := raw.recv(10_000):
            answer += received
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()


def test_a_port_in_use_is_told_so() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=f"port {port}.*in use.*--port") as caught:
            bind("127.0.0.1", port)
    assert (caught.value.host, caught.value.port) == ("127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.1", "x" * 70, "a\0b"])
def test_a_host_that_is_not_ours(host: str) -> None:
    with pytest.raises(ServiceError):
        bind(host, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may take any port")
def test_a_port_that_is_not_allowed() -> None:
    with pytest.raises(ServiceError, match="ermission"):
        bind("127.0.0.1", 80)


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "localhost"),
        ("0.0.0.0", "127.0.0.1"),
        ("::1", "[::1]"),
        ("[::1]", "[::1]"),
    ],
)
def test_the_address_shown(host: str, shown: str) -> None:
    try:
        listener = bind(host, 0)
    except ServiceError as exc:
        pytest.skip(str(exc))
    with listener:
        assert address_of(listener, host) == f"http://{shown}:{listener.getsockname()[1]}"


def test_two_colons_are_all_addresses_those_of_ipv4_too() -> None:
    try:
        listener = bind("::", 0)
    except ServiceError as exc:
        pytest.skip(str(exc))
    with listener:
        port = listener.getsockname()[1]
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, port), timeout=20).close()
