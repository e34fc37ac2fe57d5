"""mmsearch.Client and AsyncClient against a real service, and the terminal's use of one."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serve_library import SERVE, draw, encoded

from mmsearch import AsyncClient, Client, announce, filters
from mmsearch.errors import DecodeError, MmsearchError, OverloadedError, QueryError
from mmsearch.library import Library
from mmsearch.overhttp import (
    BusyError,
    KeyRefusedError,
    RemoteError,
    RemoteNotFoundError,
    UnreachableError,
)
from mmsearch.query import Question, Term
from mmsearch.serve.keys import Keys

NEW = encoded(draw("pink", "ellipse", (77, 55)))


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMSEARCH_KEYS_FILE", str(path))
        yield Keys(path).add("reader", "read")


@pytest.fixture(scope="module")
def url(library_folder: Path, key: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(library_folder), "0"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.terminate()
    process.wait()
    process.stdout.close()


@pytest.fixture(scope="module")
def remote(url: str, key: str) -> Iterator[Client]:
    with Client(url, key) as client:
        yield client


def test_the_same_answers_as_the_library(remote: Client, library: Library) -> None:
    ours = library.search("a crimson line", k=5)
    theirs = remote.search("a crimson line", k=5)
    assert [hit.image for hit in theirs] == [hit.image for hit in ours] or all(
        # Where a picture was taken the service does not tell.
        a.image.id == b.image.id and a.image.path == b.image.path
        for a, b in zip(ours, theirs, strict=True)
    )
    assert [hit.captions for hit in theirs] == [hit.captions for hit in ours]
    assert [h.score for h in theirs] == pytest.approx([h.score for h in ours], abs=1e-3)
    texts = remote.search_texts("a crimson line", k=3)
    assert [t.text for t in texts] == [t.text for t in library.search_texts("a crimson line", k=3)]


def test_pictures_as_questions(remote: Client, library: Library, tmp_path: Path) -> None:
    (tmp_path / 'a "b" ä.png').write_bytes(NEW)
    ours = [hit.image.id for hit in library.search("at night", image=NEW, k=4)]
    for given in (NEW, tmp_path / 'a "b" ä.png', str(tmp_path / 'a "b" ä.png')):
        assert [hit.image.id for hit in remote.search("at night", image=given, k=4)] == ours
    weighted = Question((Term(image=NEW), Term(image=NEW, weight=-0.5), Term(text="x")), k=3)
    assert [h.image.id for h in remote.ask(weighted).hits] == [
        h.image.id for h in library.ask(weighted).hits
    ]
    assert [h.text.id for h in remote.captions(NEW, k=3)] == [
        h.text.id for h in library.captions(NEW, k=3)
    ]
    with pytest.raises(DecodeError, match="nowhere"):
        remote.search(image=tmp_path / "nowhere.png")


def test_by_id(remote: Client, library: Library, ids: dict[str, int]) -> None:
    one = ids["gold-line.png"]
    assert remote.image(one) == library.image(one)
    assert remote.read_image(one) == library.read_image(one)
    assert remote.thumbnail(one, 256)[8:12] == b"WEBP"
    assert [h.image.id for h in remote.similar(one, k=3)] == [
        h.image.id for h in library.similar(one, k=3)
    ]
    for k in (1, 4):
        ours = library.captions_of(one, k=k)
        theirs = remote.captions_of(one, k=k)
        assert [(h.text, h.linked) for h in theirs] == [(h.text, h.linked) for h in ours]
        assert [h.score for h in theirs] == pytest.approx([h.score for h in ours], abs=1e-5)
        assert len(theirs) == k
    with pytest.raises(RemoteNotFoundError, match="no image 999999"):
        remote.captions_of(999_999)
    assert remote.similar(np.int64(one), k=np.uint8(3)) == remote.similar(one, k=3)
    assert remote.image(np.uint16(one)) == remote.image(one)
    with pytest.raises(RemoteNotFoundError, match="no image 999999") as caught:
        remote.image(999_999)
    assert (caught.value.status, caught.value.kind) == (404, "not-found")


def test_vectors_and_status(remote: Client, library: Library) -> None:
    assert remote.embed(["a kite", "b"]).dtype == np.float32
    np.testing.assert_allclose(
        remote.embed(["a kite"]), library.embed_texts(["a kite"])[1], atol=1e-3
    )
    np.testing.assert_allclose(
        remote.embed_images([NEW]), library.embed_pictures([NEW])[1], atol=1e-3
    )
    assert remote.status()["images"] == library.status().images
    assert remote.post("/v1/search", {"q": "x", "k": 1})["k"] == 1


def test_any_number_of_vectors(url: str, key: str, remote: Client, library: Library) -> None:
    space = library.space
    assert space is not None
    texts = [f"number {n % 70}" for n in range(600)] + ["long " * 390] * 150
    np.testing.assert_allclose(remote.embed(texts), library.embed_texts(texts)[1], atol=1e-3)
    pictures = [encoded(draw("pink", "ellipse", (40 + n % 3, 30))) for n in range(20)]
    np.testing.assert_allclose(
        remote.embed_images(pictures), library.embed_pictures(pictures)[1], atol=1e-3
    )
    for nothing in (remote.embed([]), remote.embed_images([])):
        assert (nothing.shape, nothing.dtype) == ((0, space.dim), np.float32)
    # A text is a text, whatever it looks like.
    texts = ["data:image/png;base64,AAAA"]
    np.testing.assert_allclose(remote.embed(texts), library.embed_texts(texts)[1], atol=1e-3)

    async def later() -> None:
        async with AsyncClient(url, key) as client:
            assert (await client.embed(f"number {n}" for n in range(300))).shape == (300, space.dim)
            assert (await client.embed_images([])).shape == (0, space.dim)

    asyncio.run(later())


def test_one_text_or_picture_is_no_list_of_them(tmp_path: Path) -> None:
    for use, one in (("embed", "kite"), ("embed_images", tmp_path), ("embed_images", NEW)):
        for error in _both("http://127.0.0.1:9", None, use, one):
            assert isinstance(error, QueryError)


def test_vectors_of_two_models_are_not_mixed() -> None:
    asked: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        items = json.loads(request.content)["input"]
        asked.append(len(items))
        row = {"embedding": base64.b64encode(np.ones(4, "<f4").tobytes()).decode()}
        body = {"data": [row] * len(items), "model": f"model {len(asked)}"}
        return httpx.Response(200, json=body)

    client = Client("http://x", transport=httpx.MockTransport(answer))
    with pytest.raises(RemoteError, match="model 1, model 2"):
        client.embed(["x"] * 257)
    assert asked == [256, 1]


def test_what_the_service_refuses(remote: Client, url: str) -> None:
    with pytest.raises(QueryError, match="k"):
        remote.search("x", k=100_000)
    with pytest.raises(KeyRefusedError, match="'reader' is for reading only"):
        remote.upload(NEW, name="x.png")
    with Client(url) as nobody, pytest.raises(KeyRefusedError, match="Bearer KEY"):
        nobody.search("x")
    with Client("http://127.0.0.1:9") as gone, pytest.raises(UnreachableError, match="Does it run"):
        gone.status()
    assert issubclass(RemoteError, MmsearchError)


def test_for_asyncio(url: str, key: str, library: Library, ids: dict[str, int]) -> None:
    async def main() -> None:
        async with AsyncClient(url, key) as remote:
            answers = await asyncio.gather(*(remote.search("a kite", k=3) for _ in range(5)))
            ours = [hit.image.id for hit in library.search("a kite", k=3)]
            assert [[hit.image.id for hit in one] for one in answers] == [ours] * 5
            assert (await remote.image(ids["gold-line.png"])).id == ids["gold-line.png"]
            assert (await remote.embed(["x"])).shape == (1, 48)
            own = await remote.captions_of(ids["gold-line.png"], k=2)
            assert [h.text.id for h in own] == [
                h.text.id for h in library.captions_of(ids["gold-line.png"], k=2)
            ]
            with pytest.raises(RemoteNotFoundError):
                await remote.image(999_999)

    asyncio.run(main())


# --- a busy service -----------------------------------------------------------------------------


def _busy(times: int, retry_after: str | None = "0.01") -> tuple[httpx.MockTransport, list[int]]:
    seen: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(1)
        if len(seen) <= times:
            headers = {} if retry_after is None else {"Retry-After": retry_after}
            return httpx.Response(503, json={"detail": "full"}, headers=headers)
        return httpx.Response(200, json={"images": 3})

    return httpx.MockTransport(answer), seen


def test_a_busy_service_is_asked_again_so_often_and_no_more() -> None:
    transport, seen = _busy(2)
    assert Client("http://x", transport=transport).status() == {"images": 3}
    assert len(seen) == 3
    transport, seen = _busy(100)
    with pytest.raises(OverloadedError, match="full") as caught:
        Client("http://x", transport=transport).status()
    assert isinstance(caught.value, BusyError)
    assert caught.value.retry_after_s == 0.01
    assert len(seen) == 5
    transport, seen = _busy(100, retry_after=None)  # says not that it will be better: a proxy, say
    with pytest.raises(BusyError):
        Client("http://x", transport=transport).status()
    assert len(seen) == 1


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"hits": 7}', b'{"hits": [{}]}'])
def test_what_answers_is_no_mmsearch(body: bytes) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body))
    with pytest.raises(UnreachableError, match="no mmsearch service"):
        Client("http://x", transport=transport).search("x")
    transport = httpx.MockTransport(lambda request: httpx.Response(502, content=body))
    with pytest.raises(RemoteError, match="502"):
        Client("http://x", transport=transport).search("x")


# --- what needs no service to be found wrong ------------------------------------------------------


def _both(url: str, key: str | None, use: str, *arguments: Any, **options: Any) -> list[Exception]:
    """The errors of the two clients."""

    def blocking() -> None:
        with Client(url, key) as client:
            getattr(client, use)(*arguments, **options)

    async def later() -> None:
        async with AsyncClient(url, key) as client:
            await getattr(client, use)(*arguments, **options)

    with pytest.raises(MmsearchError) as first:
        blocking()
    with pytest.raises(MmsearchError) as second:
        asyncio.run(later())
    assert str(first.value) == str(second.value)
    return [first.value, second.value]


@pytest.mark.parametrize(
    "where",
    [{"camera": "x"}, {}, ["x"], 7, filters.And(("has:gps",))],  # type: ignore[arg-type]
    ids=["JSON", "nothing", "a list", "a number", "a part"],
)
def test_a_filter_of_another_kind_is_told(where: Any, library: Library) -> None:
    # By a library as by the clients.
    asked = Question((Term("x"),), where=where)
    for ask in (
        lambda: library.search("x", where=where),
        lambda: library.search_texts("x", where=where),
        lambda: library.ask(asked),
        lambda: library.facets(where),
    ):
        with pytest.raises(QueryError, match="from_json"):
            ask()
    for error in _both("http://127.0.0.1:9", None, "search", "x", where=where):
        assert isinstance(error, QueryError)
        assert "from_json" in str(error)
    for error in _both("http://127.0.0.1:9", None, "ask", Question((Term("x"),), where=where)):
        assert isinstance(error, QueryError)


CALLS_BY_ID = ["similar", "captions_of", "image", "read_image", "thumbnail", "delete"]


@pytest.mark.parametrize("use", CALLS_BY_ID)
def test_what_can_be_no_id_is_told(use: str) -> None:
    for wrong in ("1", None, 1.5):
        for error in _both("http://127.0.0.1:9", None, use, wrong):
            assert isinstance(error, QueryError)
            assert "is a whole number, not" in str(error)


@pytest.mark.parametrize("wrong", ["schlüssel", "mm_\u2026", "one\ntwo", " ", ""])
def test_what_can_be_no_key_is_told_and_not_shown(wrong: str) -> None:
    for error in _both("http://127.0.0.1:9", wrong, "status"):
        assert isinstance(error, KeyRefusedError)
        assert not wrong.strip() or wrong not in str(error)


def test_a_key_as_it_stands_in_a_file(url: str, key: str) -> None:
    with Client(url, f"{key}\n") as client:
        assert client.status()["ready"] in (True, False)


@pytest.mark.parametrize(
    "wrong",
    ["http://[::1", "http://x:port", "http://a\x00b", "http://\ud800", "ftp://x", "localhost:8080",
     "/x", "", "http://"],
)  # fmt: skip
def test_what_can_be_no_address_is_told(wrong: str) -> None:
    for error in _both(wrong, None, "status"):
        assert isinstance(error, RemoteError)
        assert "no address of a service" in str(error)
    for error in _both("http://127.0.0.1:9", None, "get", "/v1/\x00"):
        assert isinstance(error, RemoteError)


def test_a_closed_client_says_so() -> None:
    closed = Client("http://127.0.0.1:9")
    closed.close()
    with pytest.raises(RemoteError, match="was closed"):
        closed.search("x")

    async def later() -> None:
        async with AsyncClient("http://127.0.0.1:9") as client:
            pass
        with pytest.raises(RemoteError, match="was closed"):
            await client.search("x")

    asyncio.run(later())


# --- the terminal -------------------------------------------------------------------------------

#: Fails where the library is opened in this process; the first argument names more that must not
#: be needed.
NO_LIBRARY = """
import sys
import time
for name in ("sqlalchemy", "torch", "pydantic", "numpy", *sys.argv.pop(1).split()):
    sys.modules[name] = None
from mmsearch.cli import main
main()
"""


def _mmsearch(
    *arguments: str | Path, alone: bool = False, without: str = "", **environment: str
) -> str:
    start = ["-m", "mmsearch"] if alone else ["-c", NO_LIBRARY, without]
    done = subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


_FRACTION = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def _without_numbers(text: str) -> list[str]:
    """The words of a text, numbers with a point left out."""
    return _FRACTION.sub("#", text).split()


def _numbers(text: str) -> list[float]:
    return [float(number) for number in _FRACTION.findall(text)]


def test_the_terminal_uses_what_runs_here(url: str, library_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "new.png").write_bytes(NEW)
    common = ["-l", library_folder]
    for asked in (
        ["search", "a crimson line", "-k", "4"],
        ["search", "crimson", "-", "line", "--json", "-k", "4", "--all"],
        ["search", "line", "-i", tmp_path / "new.png", "--paths", "--all"],
        ["search", "--texts", "a teal line", "-k", "3"],
        ["captions", tmp_path / "new.png", "-k", "2"],
    ):
        here = _mmsearch(*common, *asked, "--no-server", alone=True)
        # What takes long to load is not loaded: the query itself takes a few milliseconds.
        slow = "http.client rich.console rich.table mmsearch.filters"
        there = _mmsearch(*common, *asked, without=slow)
        # The last digit depends on what is encoded together.
        assert _without_numbers(there) == _without_numbers(here)
        assert _numbers(there) == pytest.approx(_numbers(here), abs=2e-6)
        assert here.strip()


def test_the_terminal_uses_what_is_named(url: str, key: str, library: Library) -> None:
    asked = ["search", "a crimson line", "-k", "2", "--json", "--all"]
    ours = [hit.image.id for hit in library.search("a crimson line", k=2)]
    for found in (
        _mmsearch(*asked, "--server", url, "--key", key),
        _mmsearch(*asked, MMSEARCH_SERVER=url, MMSEARCH_KEY=key),
    ):
        assert [hit["id"] for hit in json.loads(found)["hits"]] == ours


def test_errors_of_what_is_named_are_told(url: str) -> None:
    for server, says in ((url, "Bearer KEY"), ("http://127.0.0.1:9", "Does it run")):
        done = subprocess.run(
            [sys.executable, "-m", "mmsearch", "search", "x", "--server", server],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_what_is_not_for_this_library_is_not_used(url: str, library_folder: Path) -> None:
    found = announce.find(library_folder)
    assert found is not None
    assert found.address == url
    text = (library_folder / announce.FILE_NAME).read_text()
    copy = library_folder.parent / "copy"
    copy.mkdir()
    (copy / announce.FILE_NAME).write_text(text)  # as a copy of the folder has it
    assert announce.find(copy) is None
    assert announce.find(library_folder.parent) is None


def test_a_service_says_so_while_it_runs_and_no_longer(tmp_path: Path) -> None:
    with announce.announced(tmp_path, "http://127.0.0.1:1", "secret", 0.0):
        found = announce.find(tmp_path)
        assert found is not None
        assert (found.pid, found.token) == (os.getpid(), "secret")
        assert (tmp_path / announce.FILE_NAME).stat().st_mode & 0o777 == 0o600
        with announce.announced(tmp_path, "http://127.0.0.1:2", "other", 0.0):
            assert announce.find(tmp_path) == found
        assert announce.find(tmp_path) == found
    assert announce.find(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / announce.FILE_NAME).write_text("{")  # left by a crash
    assert announce.find(tmp_path) is None
    with announce.announced(tmp_path / "nowhere", "http://127.0.0.1:1", "secret", 0.0):
        pass


def test_a_second_service_says_so_once_the_first_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announce, "_AGAIN_S", 0.01)

    def until_found(*ports: int) -> announce.Announcement:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            found = announce.find(tmp_path)
            if found is not None and int(found.address.rpartition(":")[2]) in ports:
                return found
            time.sleep(0.01)
        raise AssertionError("it does not say so")

    first, second = ExitStack(), ExitStack()
    first.enter_context(announce.announced(tmp_path, "http://127.0.0.1:1", "secret", 0.0))
    second.enter_context(announce.announced(tmp_path, "http://127.0.0.1:2", "other", 0.0))
    with second:
        with first:
            until_found(1)
        assert until_found(2).token == "other"
        with announce.announced(tmp_path, "http://127.0.0.1:3", "third", 0.0):
            until_found(2)
        # Somebody deleted what it said.
        (tmp_path / announce.FILE_NAME).unlink()
        until_found(2)
        # As where two begin at once: one of the two says so, and in the end the other.
        (tmp_path / announce.FILE_NAME).unlink()
        with announce.announced(tmp_path, "http://127.0.0.1:4", "fourth", 0.0):
            until_found(2, 4)
        until_found(2)
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_a_service_hides_no_other_one(tmp_path: Path) -> None:
    """Its library was moved, and there is another one in its place, which is served too."""
    library = tmp_path / "library"
    library.mkdir()
    first = announce.announced(library, "http://127.0.0.1:1", "secret", 0.0)
    with first:
        library.rename(tmp_path / "moved")
        library.mkdir()
        second = ExitStack()
        second.enter_context(announce.announced(library, "http://127.0.0.1:2", "other", 0.0))
    with second:
        found = announce.find(library)
        assert found is not None
        assert found.address == "http://127.0.0.1:2"
    assert announce.find(library) is None
    assert not (library / announce.FILE_NAME).exists()
