"""Files on their way to clients: whole, in part, not at all, to slow ones, while they change."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import os
import random
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from serve_library import SERVE, draw, encoded, is_problem
from starlette.testclient import TestClient

from mmsearch.errors import DecodeError
from mmsearch.files import PIECE_BYTES, FileInPieces, find_first
from mmsearch.library import Library
from mmsearch.serve import downloads
from mmsearch.serve.keys import Keys
from mmsearch.store.catalog import FileLocation
from mmsearch.types import DecodeLimits

LIMITS = DecodeLimits()
#: Of each of the large pictures; far more than the buffers of the system hold.
LARGE = 24 << 20


# --- parts, and what is not sent at all -----------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-9", slice(0, 10)),
        ("bytes=10-", slice(10, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=5-999999999", slice(5, None)),
        ("bytes=-999999999", slice(0, None)),
        ("Bytes = 3 - 3", slice(3, 4)),
    ],
)
def test_a_part(client: TestClient, ids: dict[str, int], asked: str, part: slice) -> None:
    url = f"/v1/images/{ids['scan.tiff']}/file"
    whole = client.get(url)
    assert whole.headers["accept-ranges"] == "bytes"
    answer = client.get(url, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == whole.content[part]
    start, stop, _ = part.indices(len(whole.content))
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(whole.content)}"
    assert answer.headers["content-length"] == str(stop - start)
    for name in ("etag", "content-type", "content-security-policy", "cache-control"):
        assert answer.headers[name] == whole.headers[name]


@pytest.mark.parametrize(
    "asked", ["bytes=", "bytes=-", "bytes=9-5", "bytes=0-1,5-6", "rows=0-5", "bytes=a-b", "x"]
)
def test_what_is_no_part_is_the_whole(client: TestClient, ids: dict[str, int], asked: str) -> None:
    answer = client.get(f"/v1/images/{ids['scan.tiff']}/file", headers={"Range": asked})
    assert answer.status_code == 200
    assert "content-range" not in answer.headers


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=99999999-999999999", "bytes=-0"])
def test_a_part_that_is_not_there(client: TestClient, ids: dict[str, int], asked: str) -> None:
    url = f"/v1/images/{ids['scan.tiff']}/file"
    answer = client.get(url, headers={"Range": asked})
    is_problem(answer, 416)
    assert answer.headers["content-range"] == f"bytes */{len(client.get(url).content)}"


def test_a_part_of_another_version_is_the_whole(client: TestClient, ids: dict[str, int]) -> None:
    url = f"/v1/images/{ids['scan.tiff']}/file"
    tag = client.get(url).headers["etag"]
    for version, status in [
        (tag, 206),
        ('"another"', 200),
        (f"W/{tag}", 200),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 200),
    ]:
        answer = client.get(url, headers={"Range": "bytes=0-4", "If-Range": version})
        assert answer.status_code == status


def test_who_asks_for_the_head_asks_for_no_part(client: TestClient, ids: dict[str, int]) -> None:
    """Range is of GET alone (RFC 9110, 14.2)."""
    url = f"/v1/images/{ids['scan.tiff']}/file"
    whole = client.get(url)
    for asked in ("bytes=0-9", "bytes=99999999-"):
        head = client.head(url, headers={"Range": asked})
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(whole.content))
        assert "content-range" not in head.headers


@pytest.mark.parametrize("what", ["file", "thumbnail"])
def test_what_the_browser_has_is_not_sent(
    client: TestClient, ids: dict[str, int], what: str
) -> None:
    url = f"/v1/images/{ids['scan.tiff']}/{what}"
    tag = client.get(url).headers["etag"]
    for known in (tag, f"W/{tag}", f'"x", {tag} ,"y"', "*", " * "):
        assert client.get(url, headers={"If-None-Match": known}).status_code == 304
    for other in ("", '"x"', tag.strip('"'), f'"{tag}"', f'"a{tag[1:]}'):
        assert client.get(url, headers={"If-None-Match": other}).status_code == 200
    both = {"If-None-Match": tag, "Range": "bytes=0-1"}
    assert client.get(url, headers=both).status_code == 304


# --- files in pieces ------------------------------------------------------------------------------


def test_a_file_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a"
    data = random.Random(1).randbytes(2 * PIECE_BYTES + 5)
    path.write_bytes(data)
    file = FileInPieces(path, LIMITS)
    assert (file.size, file.held) == (len(data), 0)
    assert file.read(7, PIECE_BYTES) == data[7 : 7 + PIECE_BYTES]
    path.write_bytes(data[:PIECE_BYTES])
    with pytest.raises(DecodeError, match="changed"):
        file.read(0, 10)
    small = FileInPieces(path, LIMITS)
    path.unlink()
    assert small.held == PIECE_BYTES  # was read anyway
    assert small.read(1, 10) == data[1:11]
    with pytest.raises(DecodeError, match="not found"):
        file.read(0, 10)
    with pytest.raises(DecodeError, match="not found"):
        FileInPieces(path, LIMITS)


def test_a_large_file_is_not_read_again_for_each_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only while it is the same, and not where that cannot be told."""
    path = tmp_path / "a"
    data = bytes(2 * PIECE_BYTES)
    path.write_bytes(data)
    read = 0
    sha256 = hashlib.sha256

    class Counting:
        def __init__(self) -> None:
            self._made = sha256()

        def update(self, piece: bytes) -> None:
            nonlocal read
            read += len(piece)
            self._made.update(piece)

        def hexdigest(self) -> str:
            return self._made.hexdigest()

    monkeypatch.setattr("mmsearch.files.hashlib.sha256", Counting)

    def opened() -> tuple[str, int]:
        """Its hash, and how much was read for that."""
        before = read
        file = FileInPieces(path, LIMITS)
        assert (file.size, file.held) == (len(data), 0)
        return file.digest, read - before

    first = sha256(data).hexdigest(), len(data)
    assert [opened() for _ in range(2)] == [first] * 2  # it was written just now
    later = time.time_ns() + 10_000_000_000
    monkeypatch.setattr("mmsearch.files.time", SimpleNamespace(time_ns=lambda: later))
    assert [opened() for _ in range(3)] == [first, (first[0], 0), (first[0], 0)]
    said = path.stat()
    data = b"x" * len(data)
    path.write_bytes(data)  # as large, and of the same time by what anybody can set
    os.utime(path, ns=(said.st_atime_ns, said.st_mtime_ns))
    while path.stat().st_ctime_ns == said.st_ctime_ns:
        path.chmod(0o600)
    assert opened() == (sha256(data).hexdigest(), len(data))


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(DecodeError):
            FileInPieces(path, LIMITS)
    path = tmp_path / "a"
    path.write_bytes(bytes(2 * PIECE_BYTES))
    file = FileInPieces(path, LIMITS)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DecodeError):
        file.read(0, 10)


def test_too_large_a_file_is_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(1_000_001))
    with pytest.raises(DecodeError, match="larger than 1 MB"):
        FileInPieces(path, DecodeLimits(max_bytes=1_000_000))


def test_of_several_places_the_right_one_and_files_first(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jpg", b"right")
    (tmp_path / "b").write_bytes(b"right")
    (tmp_path / "c").write_bytes(b"other")
    member = FileLocation(str(tmp_path / "a.zip"), "a.jpg")
    right, other = FileLocation(str(tmp_path / "b"), ""), FileLocation(str(tmp_path / "c"), "")
    digest = FileInPieces(tmp_path / "b", LIMITS).digest
    found = find_first([member, other, right], LIMITS, digest)
    assert (found.read(0, 5), found.as_indexed) == (b"right", True)
    assert found._path == tmp_path / "b"
    found = find_first([other, member], LIMITS, digest)
    assert (found.read(0, 5), found.as_indexed, found.held) == (b"right", True, 5)
    found = find_first([other], LIMITS, digest)
    assert (found.read(0, 5), found.as_indexed) == (b"other", False)


# --- to slow clients, by a real service -----------------------------------------------------------


class Served:
    """A service of its own over three large pictures, one of them in an archive."""

    def __init__(self, folder: Path) -> None:
        from indexer.ingest import Options, index

        self.photos = folder / "photos"
        self.photos.mkdir()
        picture = encoded(draw("teal", "ellipse"))
        rest = random.Random(2).randbytes(LARGE)  # after the picture's end: nobody minds
        self.data = {}
        for name in ("one.png", "two.png"):
            self.data[name] = picture + name.encode() + rest
            (self.photos / name).write_bytes(self.data[name])
        self.data["packed.png"] = picture + rest
        with zipfile.ZipFile(self.photos / "a.zip", "w") as archive:
            archive.writestr("packed.png", self.data["packed.png"])
        library = folder / "library"
        index(library, [self.photos], options=Options(model="tiny", device="cpu"))
        self.keys = Keys(folder / "keys.json")
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(library), "0"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"MMSEARCH_KEYS_FILE": str(self.keys.path)},
            )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rpartition(":")[2])
        hits = json.loads(self.get("/v1/search?q=x&k=10")[1])["hits"]
        self.ids = {Path(hit["path"]).name: hit["id"] for hit in hits}

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path, headers={"Host": "localhost"} | headers)
        answer = connection.getresponse()
        try:
            return answer.status, answer.read()
        finally:
            connection.close()

    def file(self, name: str) -> str:
        return f"/v1/images/{self.ids[name]}/file"

    def slow(self, path: str, head: str = "") -> socket.socket:
        """A client that has read the head of its answer, and no more. head: of its request."""
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(60)
        raw.connect(("127.0.0.1", self.port))
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
        assert raw.recv(12) in (b"HTTP/1.1 200", b"HTTP/1.1 503")
        return raw

    def memory(self) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


def _all_of(raw: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while received := raw.recv(1 << 20):
            got += received
    return got


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("downloads"))
    yield made
    made.process.terminate()
    assert made.process.wait(60) == 0
    made.process.stdout.close()
    assert "Traceback" not in made.log.read_text()
    assert "ERROR" not in made.log.read_text()


def test_large_files_come_as_they_are(served: Served) -> None:
    for name, data in served.data.items():
        path = served.file(name)
        assert served.get(path) == (200, data)
        middle = slice(300_000, 2_000_000)
        part = served.get(path, Range=f"bytes={middle.start}-{middle.stop - 1}")
        assert part == (206, data[middle])


def test_large_files_in_one_zip_file(served: Served) -> None:
    _, body = served.get("/v1/images.zip?" + "&".join(f"ids={n}" for n in served.ids.values()))
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == served.data


def test_slow_clients_take_no_memory(served: Served) -> None:
    names = ["one.png", "two.png"]
    zipped = "/v1/images.zip?" + "&".join(f"ids={served.ids[name]}" for name in names)
    before = served.memory()
    clients = [served.slow(path) for path in [*map(served.file, names), zipped] * 8]
    assert served.get("/healthz")[0] == 200
    after = served.memory()
    for client in clients:
        client.close()
    assert after - before < len(clients) * 2 * PIECE_BYTES + (40 << 20)


def test_what_is_unpacked_for_slow_clients_is_bounded(served: Served) -> None:
    most = downloads.MAX_UNPACKED_BYTES // LARGE
    clients = [served.slow(served.file("packed.png")) for _ in range(most)]
    status, body = served.get(served.file("packed.png"))
    assert status == 503
    assert "archives" in json.loads(body)["detail"]
    assert served.get(served.file("one.png")) == (200, served.data["one.png"])
    for client in clients:
        client.close()
    until = time.monotonic() + 30
    while (got := served.get(served.file("packed.png")))[0] == 503 and time.monotonic() < until:
        pass
    assert got == (200, served.data["packed.png"])


@pytest.mark.parametrize("how", ["deleted", "written", "cut"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_that_changes_meanwhile_ends_the_connection(
    served: Served, how: str, zipped: bool
) -> None:
    path, data = served.photos / "one.png", served.data["one.png"]
    id_ = served.ids["one.png"]
    said = path.stat()
    client = served.slow(f"/v1/images.zip?ids={id_}" if zipped else served.file("one.png"))
    begun = 0
    while begun < 10_000:  # more than its head: it is being sent
        begun += len(client.recv(2048))
    if how == "deleted":
        path.unlink()
    elif how == "written":
        with path.open("r+b") as file:
            file.seek(LARGE)
            file.write(b"other")
    else:
        os.truncate(path, LARGE // 2)
    try:
        got = _all_of(client)
        # Less than it says in its head, or without the chunk that ends it.
        assert len(got) < LARGE // 2
        assert not got.endswith(b"0\r\n\r\n")
        if how == "deleted":
            assert served.get(served.file("one.png"))[0] == 410
    finally:
        client.close()
        path.write_bytes(data)
        os.utime(path, ns=(said.st_atime_ns, said.st_mtime_ns))
    assert "ended before all was sent" in served.log.read_text()
    assert served.get(served.file("one.png")) == (200, data)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_key_that_is_revoked_ends_the_connection(served: Served, zipped: bool) -> None:
    id_ = served.ids["two.png"]
    path = f"/v1/images.zip?ids={id_}" if zipped else served.file("two.png")
    served.keys.add("stays", "read")
    head = f"Authorization: Bearer {served.keys.add('stolen', 'read')}\r\n"
    client = served.slow(path, head)
    begun = 0
    while begun < 10_000:
        begun += len(client.recv(2048))
    served.keys.revoke("stolen")
    try:
        got = _all_of(client)
        assert len(got) < LARGE // 2
        assert not got.endswith(b"0\r\n\r\n")
    finally:
        client.close()
        served.keys.revoke("stays")
    assert served.get(path)[0] == 200  # nobody needs one now


def test_a_library_finds_files_in_pieces(library: Library, ids: dict[str, int]) -> None:
    file = library.original_in_pieces(ids["scan.tiff"])
    assert file.as_indexed
    assert file.read(0, file.size) == library.read_image(ids["scan.tiff"])
