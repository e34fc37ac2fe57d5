"""Requests that mean harm, byte by byte, to a real process: none gets through, none stops it.

What is tried here stands in a table in deploy/service.md. Who may ask at all (keys, hosts, origins)
is in test_access.py and test_guard.py.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import socket
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_library import draw, encoded

#: The service with limits that a test need not wait for.
SERVE = """
import sys
import mmsearch
from mmsearch.serve import guard, run, wire
from mmsearch.settings import Settings

wire.Wire.max_head_s = 1.0
wire.Wire.max_stall_s = wire.Wire.max_rest_s = 1.0
wire.Wire.max_connections = 40
guard.Guard.body_still_s = 1.0
with mmsearch.open(sys.argv[1], device="cpu") as library:
    settings = Settings(max_upload_bytes=1 << 20)
    run(library, settings, port=0, on_ready=lambda url: print(url, flush=True))
print("ended", flush=True)
"""
_WAIT_S = 60


class Victim:
    """The service, and what it said."""

    def __init__(self, library: Path, log: Path) -> None:
        self.log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(library)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "MMSEARCH_KEYS_FILE": str(log.parent / "keys.json")},
            )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rpartition(":")[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=_WAIT_S)

    def send(self, *pieces: bytes, close: bool = False) -> bytes:
        """All that comes back for these bytes, until the connection ends."""
        with self.connect() as raw:
            try:
                for piece in pieces:
                    raw.sendall(piece)
                if close:
                    raw.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has ended the connection already
            return everything(raw)

    def ask(self, method: str, path: str, body: bytes = b"", *headers: str) -> tuple[int, bytes]:
        """The status and the body of one request on a connection of its own."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
        if body or method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        answer = self.send(head + body)
        return status(answer), answer.partition(b"\r\n\r\n")[2]

    def post_json(self, path: str, body: bytes) -> tuple[int, bytes]:
        return self.ask("POST", path, body, "Content-Type: application/json")

    def post_picture(self, data: bytes) -> int:
        form = (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
            + data
            + b"\r\n--b--\r\n"
        )
        kind = "Content-Type: multipart/form-data; boundary=b"
        return self.ask("POST", "/v1/captions", form, kind)[0]

    def peers(self, raw: socket.socket) -> bool:
        """Whether the service still has its end of a connection."""
        ours = f":{raw.getsockname()[1]:04X}"
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        # What no process holds any more has no inode.
        return any(
            fields[2].endswith(ours) and fields[9] != "0" for fields in map(str.split, lines)
        )

    def is_well(self) -> bool:
        return self.process.poll() is None and self.ask("GET", "/healthz")[0] == 200


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


def everything(raw: socket.socket) -> bytes:
    answer = b""
    try:
        while received := raw.recv(1 << 16):
            answer += received
    except ConnectionResetError:
        pass
    return answer


@pytest.fixture(scope="module")
def victim(library_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    made = Victim(library_folder, tmp_path_factory.mktemp("hostile") / "log")
    yield made
    made.process.terminate()
    assert made.process.wait(_WAIT_S) == 0
    assert made.process.stdout is not None
    assert made.process.stdout.read() == "ended\n"
    made.process.stdout.close()
    said = made.log.read_text(errors="replace")
    assert "Traceback" not in said, said[-3000:]


@pytest.fixture(autouse=True)
def _it_is_well_after_each(victim: Victim) -> Iterator[None]:
    yield
    assert victim.is_well()


# --- paths --------------------------------------------------------------------------------------

TRAVERSALS = [
    "/assets/../../settings.py",
    "/assets/..%2f..%2fsettings.py",
    "/assets/%2e%2e/%2e%2e/settings.py",
    "/assets/%252e%252e%252f%252e%252e%252fsettings.py",
    "/assets/....//....//settings.py",
    "/assets/..\\..\\settings.py",
    "/assets/..%5c..%5csettings.py",
    "/assets//etc/passwd",
    "/assets/%2fetc%2fpasswd",
    "/assets/app.js%00.png",
    "/assets/%c0%ae%c0%ae/settings.py",
    "/assets/.",
    "/assets/../page/index.html",
    "/../../../../etc/passwd",
    "//etc/passwd",
    "/v1/images/../../../etc/passwd",
    "/v1/images/1%2f..%2f..%2fetc%2fpasswd/file",
    "/v1/images/-1/file",
    "/v1/images/9223372036854775808/file",
    "/v1/images/1e3/file",
    "/v1/images/0x1/thumbnail",
    "/v1/images/1/file/../../../../catalog.db",
    "/catalog.db",
    "/keys.json",
    "/serve.json",
    "/uploads/captions.jsonl",
    "/.git/config",
]


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leads_out(victim: Victim, path: str) -> None:
    answered, body = victim.ask("GET", path)
    assert answered in (400, 404, 405, 422)
    assert b"root:" not in body
    assert b"class Settings" not in body


# --- what is no request, or two -----------------------------------------------------------------

HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz\r\n\r\n",  # HTTP/0.9
        b"\0" * 5000,
        b"\xff" * 5000,
        b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
        b"G\0ET / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n X: folded\r\n" + HOST + b"\r\n",
        # Two lengths, or a length and chunks: what a proxy and a service may read differently.
        b"POST /v1/search HTTP/1.1\r\n" + HOST
        + b"Content-Length: 2\r\nContent-Length: 9\r\n\r\n{}",
        b"POST /v1/search HTTP/1.1\r\n" + HOST
        + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\n" + HOST + b"Content-Length: +2\r\n\r\n{}",
        b"POST /v1/search HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999999\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/search HTTP/1.1\r\n" + HOST
        + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"POST /v1/search HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n{}",
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(victim: Victim, raw: bytes) -> None:
    answer = victim.send(raw, close=True)
    assert status(answer) in (0, 400, 405, 413, 421, 422)
    assert answer.count(b"HTTP/1.1 200") == 0


@pytest.mark.parametrize(
    ("method", "expected"),
    [("TRACE", 405), ("PUT", 405), ("PATCH", 405), ("CONNECT", 400), ("BREW", 400)],
)
def test_methods(victim: Victim, method: str, expected: int) -> None:
    assert victim.ask(method, "/v1/search")[0] in (expected, 400, 405)


def test_an_upgrade_is_not_taken(victim: Victim) -> None:
    headers = ("Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")
    answer = victim.send(
        b"GET /v1/status HTTP/1.1\r\n" + HOST + "\r\n".join(headers).encode()
        + b"\r\nConnection: Upgrade, close\r\n\r\n"
    )  # fmt: skip
    assert status(answer) != 101


# --- sizes --------------------------------------------------------------------------------------


def test_a_body_shorter_than_it_says(victim: Victim) -> None:
    head = b"POST /v1/search HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: 1000\r\n\r\n"
    assert victim.send(head + b'{"q": "x"}', close=True).count(b"200 OK") == 0


def test_a_body_longer_than_it_says(victim: Victim) -> None:
    body = b'{"q": "x"}' + b"\0" * 5000
    head = b"POST /v1/search HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: 10\r\n\r\n"
    answer = victim.send(head + body, close=True)
    assert answer.count(b"HTTP/1.1") <= 2
    assert b"200 OK" not in answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("path", ["/v1/search", "/v1/captions", "/v1/embeddings", "/knn-service",
                                  "/v1/login", "/v1/images", "/nothing"])  # fmt: skip
def test_chunks_without_end(victim: Victim, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    answer = victim.send(head.encode(), *[piece] * 64)
    # 408: whoever sends it may be held up for longer than this service waits.
    assert status(answer) in (0, 400, 401, 404, 408, 413, 422)


def test_huge_bodies_are_refused_unread(victim: Victim) -> None:
    for path in ("/v1/search", "/v1/embeddings", "/v1/images"):
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
        assert status(victim.send(head.encode())) in (401, 413)


@pytest.mark.parametrize(
    "head",
    [
        b"".join(b"X-%d: %s\r\n" % (n, b"y" * 90) for n in range(20_000)),
        b"X: " + b"y" * 2_000_000 + b"\r\n",
        b"\r\n" * 1_000_000,
    ],
    ids=["many", "long", "nothing but line ends"],
)
def test_headers_without_end(victim: Victim, head: bytes) -> None:
    start = b"" if head.startswith(b"\r\n") else b"GET /healthz HTTP/1.1\r\n" + HOST
    pieces = [head[at : at + 20_000] for at in range(0, len(head), 20_000)]
    assert status(victim.send(start, *pieces)) in (0, 400, 408, 431)


def test_a_line_without_end(victim: Victim) -> None:
    assert status(victim.send(b"GET /", *[b"a" * 20_000] * 100)) in (0, 400, 408, 414, 431)


def test_ten_thousand_requests_on_one_connection(victim: Victim) -> None:
    one = b"GET /healthz HTTP/1.1\r\n" + HOST
    last = one + b"Connection: close\r\n\r\n"
    answer = victim.send((one + b"\r\n") * 10_000 + last)
    assert answer.count(b"HTTP/1.1 200") in range(1, 10_002)


# --- what a body may hold -----------------------------------------------------------------------


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1_000_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _tiff(width: int, height: int) -> bytes:
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (278, height),
            (279, 1)]  # fmt: skip
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + rows + b"\0" * 4


def _zip_bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"\0" * 200_000_000)
    return out.getvalue()


SVG = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>
<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script>
<image href="file:///etc/passwd"/><text>&b;</text></svg>"""

BOMBS = {
    "png of 3.6 gigapixels": lambda: _png(60_000, 60_000),
    "png of 4 gigapixels in a row": lambda: _png(2**31 - 1, 2),
    "tiff of 4 gigapixels": lambda: _tiff(65_000, 65_000),
    "tiff that points at itself": lambda: b"II*\0\x08\0\0\0\x01\0" + b"\xff" * 12 + b"\x08\0\0\0",
    "zip": _zip_bomb,
    "svg": lambda: SVG,
    "html": lambda: b"<!doctype html><script>alert(1)</script>",
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
    "gif header": lambda: b"GIF89a\xff\xff\xff\xff\xf7\0\0" + b"\0" * 800,
    "half a picture": lambda: encoded(draw("navy", "line"))[:-60],
    "random": lambda: os.urandom(1000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(victim: Victim, name: str) -> None:
    assert victim.post_picture(BOMBS[name]()) in (413, 422)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 60_000,
        b'{"a":' * 12_000,
        b'{"q": "x", "k": 1' + b"0" * 5000 + b"}",
        b'{"q": "x", "k": 1e999}',
        b'{"q": "x", "min_score": NaN}',
        b'{"parts": [{"text": "x", "weight": 1e400}]}',
        b'{"q": "\xff\xfe"}',
        b'\xef\xbb\xbf{"q": }',
        b'{"q": "x"',
        b'"x"',
        b"null",
        b"",
        gzip.compress(b'{"q": "x"}', mtime=0),
        b'{"where": "' + b"(" * 9_000 + b'"}',
        b'{"q": "x", "where": {"and": ' + b'[{"and": ' * 3_000 + b"}",
        json.dumps({"like": [1] * 5000}).encode(),
    ],
)
def test_odd_json(victim: Victim, body: bytes) -> None:
    assert victim.post_json("/v1/search", body)[0] in (400, 404, 413, 422)


ODD_TEXTS = ["\\u0000", "a\\u0000b", "\\ud800", "\\udfff\\ud800", "\\ufffe", "\\u202e", "x" * 2000,
             "' OR 1=1 --", "\\u0301" * 500, "${jndi:ldap://x}", "{{7*7}}", "%s%n"]  # fmt: skip


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_odd_words_are_words(victim: Victim, text: str) -> None:
    answered, body = victim.post_json("/v1/search", b'{"q": "%s"}' % text.encode())
    assert answered in (200, 422), body
    json.loads(body.decode("utf-8"))
    answered, body = victim.post_json("/v1/embeddings", b'{"input": "%s"}' % text.encode())
    assert answered in (200, 422), body


@pytest.mark.parametrize("query", ["q=%ff", "q=%00", "q=%ed%a0%80", "q=x&k=%31%30", "q=x&q=y",
                                   "q", "%", "q=%u0041", "q=x&k=" + "9" * 3000])  # fmt: skip
def test_odd_addresses(victim: Victim, query: str) -> None:
    assert victim.ask("GET", f"/v1/search?{query}")[0] in (200, 400, 422)


@pytest.mark.parametrize(
    "kind",
    ["multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=b",
     f"multipart/form-data; boundary={'b' * 10_000}",
     "multipart/form-data; boundary=b; charset=\xff",
     "application/x-www-form-urlencoded", "text/plain", ""],
)  # fmt: skip
def test_odd_forms(victim: Victim, kind: str) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n'
    answered, _ = victim.ask("POST", "/v1/captions", body, f"Content-Type: {kind}")
    assert answered in (400, 413, 422)


def test_a_form_of_ten_thousand_parts(victim: Victim) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n'
    kind = "Content-Type: multipart/form-data; boundary=b"
    answered, _ = victim.ask("POST", "/v1/captions", part * 10_000 + b"--b--\r\n", kind)
    assert answered in (400, 413, 422)


# --- slow ---------------------------------------------------------------------------------------


def test_slow_heads_hold_nobody_up(victim: Victim) -> None:
    """Slow loris: many connections, each with a request that never ends."""
    slow = [victim.connect() for _ in range(30)]
    try:
        for raw in slow:
            raw.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST)
        ended: list[bytes] = []
        deadline = time.monotonic() + _WAIT_S
        while len(ended) < len(slow) and time.monotonic() < deadline:
            assert victim.is_well()
            for raw in slow:
                try:
                    raw.sendall(b"X: y\r\n")  # a little now and then, as it does
                except OSError:
                    ended.append(b"")
        assert len(ended) >= len(slow)
    finally:
        for raw in slow:
            raw.close()


def test_a_slow_head_is_told_so(victim: Victim) -> None:
    with victim.connect() as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert status(everything(raw)) == 408
    with victim.connect() as raw:  # not even a first byte
        assert status(everything(raw)) == 408


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/search HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: 100\r\n\r\n{",
        b"POST /v1/captions HTTP/1.1\r\n" + HOST
        + b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n--b\r\n",
        b"POST /v1/login HTTP/1.1\r\n" + HOST
        + b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\nkey=",
    ],
    ids=["json", "form", "login"],
)  # fmt: skip
def test_a_slow_body_is_not_waited_for(victim: Victim, head: bytes) -> None:
    with victim.connect() as raw:
        raw.sendall(head)
        assert status(everything(raw)) in (400, 408)


def test_who_takes_no_answer_is_left(victim: Victim) -> None:
    """Many large answers are asked for and none is read: the connection ends by itself."""
    with victim.connect() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(0.2)
        one = b"GET /assets/app.js HTTP/1.1\r\n" + HOST + b"\r\n"
        with contextlib.suppress(OSError):  # until no more goes in
            while True:
                raw.sendall(one * 50)
        deadline = time.monotonic() + _WAIT_S
        # Not seen from here: a system may hold back what it has to say to who takes nothing.
        while victim.peers(raw) and time.monotonic() < deadline:
            assert victim.is_well()
        assert not victim.peers(raw)


def test_more_connections_than_there_may_be(victim: Victim) -> None:
    """Those at rest give way: whoever comes with a request is answered."""
    idle = [victim.connect() for _ in range(150)]
    try:
        for _ in range(20):
            assert victim.is_well()
    finally:
        for raw in idle:
            raw.close()


def test_one_client_does_not_take_all_connections(victim: Victim) -> None:
    """Also where none of its own is at rest: whoever comes from elsewhere is answered."""
    greedy: list[socket.socket] = []
    try:
        for _ in range(40):
            greedy.append(raw := victim.connect())
            raw.sendall(b"GET /v1/index/events HTTP/1.1\r\n" + HOST + b"\r\n")
            assert status(raw.recv(20)) == 200
        for _ in range(3):
            with socket.create_connection(
                ("127.0.0.1", victim.port), _WAIT_S, source_address=("127.0.0.2", 0)
            ) as other:
                other.sendall(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
                assert status(everything(other)) == 200
            with victim.connect() as raw:  # in the place that is free
                raw.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
                assert status(raw.recv(20)) == 200
    finally:
        for raw in greedy:
            raw.close()


def test_clients_that_vanish(victim: Victim) -> None:
    for _ in range(100):
        with victim.connect() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.sendall(b"GET /v1/search?q=gone HTTP/1.1\r\n" + HOST + b"\r\n")


def test_it_has_not_grown(victim: Victim) -> None:
    """After all of the above, which pytest runs in this order."""
    text = Path(f"/proc/{victim.process.pid}/status").read_text()
    resident = int(text.split("VmRSS:")[1].split()[0])
    assert resident < 2_000_000, f"{resident} kB"
