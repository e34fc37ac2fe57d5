"""A real service behind a proxy, below a path: the page in a browser, and all other clients."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest
from browsing import PICTURES, SAID, Open, Server, until
from click.testing import CliRunner
from proxy import Proxy

from mmsearch import AsyncClient, Client
from mmsearch.cli import cli
from mmsearch.serve.keys import Keys

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PATH = "/my/photos"
#: Whether the proxy passes the path on, which the service is told of then; takes it off, and says
#: which; or takes it off and says nothing.
WAYS = {"passes": (False, False), "strips and tells": (True, True), "strips": (True, False)}


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("behind") / "keys.json"


@pytest.fixture(scope="module")
def key(key_file: Path) -> str:
    return Keys(key_file).add("laptop", "write")


@pytest.fixture(scope="module")
def proxy(gallery: Path, way: str, key: str, key_file: Path) -> Iterator[Proxy]:
    strips, tells = WAYS[way]
    behind = Server(
        gallery,
        MMSEARCH_TRUSTED_PROXIES="127.0.0.1",
        MMSEARCH_ROOT_PATH="" if strips else PATH,
        MMSEARCH_KEYS_FILE=str(key_file),
    )
    try:
        port = int(behind.url.rpartition(":")[2])
        with Proxy(port, path=PATH, strips=strips, tells=tells) as started:
            yield started
    finally:
        behind.stop()


@pytest.fixture(scope="module")
def server(proxy: Proxy) -> Proxy:
    """What `open_page` opens the pages of."""
    return proxy


@pytest.fixture(autouse=True)
def _nothing_beside_the_path(proxy: Proxy) -> Iterator[None]:
    """Whatever is asked by addresses that only work without the path comes to the proxy itself."""
    yield
    assert proxy.strayed == []


def _sign_in(page: Page, key: str) -> None:
    page.locator("#key").fill(key)
    page.locator("button").click()
    page.wait_for_selector(".tile.shown")


def _seen(page: Page, image: str) -> None:
    until(page, f"(i => i && i.complete && i.naturalWidth > 0)(document.querySelector('{image}'))")


def test_the_page(open_page: Open, proxy: Proxy, way: str, key: str) -> None:
    page = open_page("/?q=boats")
    _sign_in(page, key)
    page.wait_for_selector(SAID)
    assert page.url == f"{proxy.url}/?q=boats"
    _seen(page, ".tile.shown img")
    (cookie,) = page.context.cookies()
    assert cookie["path"] == ("/" if way == "strips" else PATH)

    page.locator("#words").fill("a red kite")
    page.wait_for_url(f"{proxy.url}/?q=a+red+kite")
    page.wait_for_selector(SAID)
    page.locator(".tile").first.click()
    page.wait_for_url("**/?q=a+red+kite&pic=*")
    _seen(page, "#viewer-image")
    with page.expect_popup() as opened:
        page.get_by_text("Open the file").click()
    opened.value.wait_for_load_state()
    assert opened.value.url.startswith(f"{proxy.url}/v1/images/")
    opened.value.close()
    page.keyboard.press("Escape")
    page.wait_for_url(f"{proxy.url}/?q=a+red+kite")

    page.locator(".tile").first.focus()
    page.keyboard.press("x")
    with page.expect_download() as download:
        page.locator("#bar-zip").click()
    assert download.value.path().read_bytes()[:2] == b"PK"
    page.locator("#bar-like").click()
    page.wait_for_url(re.compile(r"/photos/\?(.*&)?like="))
    _seen(page, "#chips img")

    page.locator("#view-captions").click()
    page.wait_for_url("**&view=captions")
    page.wait_for_selector("#captions li")
    page.locator("#home").click()
    page.wait_for_url(f"{proxy.url}/")
    page.go_back()
    page.wait_for_url("**&view=captions")
    page.reload()
    page.wait_for_selector("#captions li")


def test_the_page_without_its_slash(open_page: Open, proxy: Proxy, way: str, key: str) -> None:
    if way != "passes":
        pytest.skip("of what was stripped the service does not know the slash")
    page = open_page("?q=boats")
    assert page.url == f"{proxy.url}/?q=boats"
    _sign_in(page, key)
    assert page.url == f"{proxy.url}/?q=boats"


def test_asked_for_a_key_anywhere(browser: Browser, proxy: Proxy, key: str) -> None:
    """A link to a file, say: wrong first, then right."""
    # Not by open_page: what the browser makes of a picture alone has styles of the browser's own.
    page = browser.new_page()
    page.goto(f"{proxy.url}/v1/images/1/thumbnail?size=256")
    page.locator("#key").fill("wrong")
    page.locator("button").click()
    page.wait_for_selector("[role=alert]")
    page.locator("#key").fill(key)
    page.locator("button").click()
    page.wait_for_url(f"{proxy.url}/v1/images/1/thumbnail?size=256")
    _seen(page, "img")
    page.close()


def test_the_clients_of_python(proxy: Proxy, key: str) -> None:
    for url in (proxy.url, f"{proxy.url}/"):
        with Client(url, key) as client:
            (hit,) = client.search("boats", k=1)
            assert client.thumbnail(hit.image.id)[:2] in (b"\xff\xd8", b"RI")

    async def ask() -> str:
        async with AsyncClient(proxy.url, key) as client:
            return (await client.search("boats", k=1))[0].image.path

    # Not in this thread: playwright leaves its event loop running in it.
    with ThreadPoolExecutor(1) as elsewhere:
        assert elsewhere.submit(asyncio.run, ask()).result() == hit.image.path


@pytest.mark.parametrize("end", ["", "/"])
def test_the_terminal(proxy: Proxy, key: str, end: str) -> None:
    args = ["search", "boats", "-k", "3", "--server", proxy.url + end, "--key", key, "--json"]
    outcome = CliRunner().invoke(cli, args)
    assert outcome.exit_code == 0, outcome.output
    assert len(json.loads(outcome.stdout)["hits"]) == 3


def test_other_programs(proxy: Proxy, way: str, gallery: Path, key: str) -> None:
    knows = "" if way == "strips" else PATH
    host = f"http://{urlsplit(proxy.url).netloc}"
    with httpx.Client(base_url=proxy.url, headers={"X-API-Key": key}, timeout=60) as http:
        asked = {"text": "boats", "modality": "image", "num_images": 1, "num_result_ids": 1,
                 "indice_name": gallery.name}  # fmt: skip
        (found,) = http.post("/knn-service", json=asked).json()
        assert found["url"].startswith(f"{host}{knows}/v1/images/{found['id']}/file?v=")
        embedded = http.post("/v1/embeddings", json={"input": "boats", "model": "x"})
        assert embedded.status_code in (200, 404)
        document = http.get("/openapi.json").json()
        assert document.get("servers") == ([{"url": knows}] if knows else None)
        assert http.get("/v1/status").json()["images"] == PICTURES
        with http.stream("GET", "/v1/index/events") as events:
            assert next(events.iter_lines()).startswith(("event:", "data:", ":", "retry:"))


def test_clients_are_told_apart(proxy: Proxy) -> None:
    def status(**headers: str) -> int:
        return httpx.get(
            f"{proxy.url}/v1/status", headers={"X-API-Key": "no", **headers}
        ).status_code

    before = proxy.client
    try:
        proxy.client = "203.0.113.50"
        for _ in range(10):
            assert status() == 401
        assert status() == 429
        assert status(**{"X-Forwarded-For": "203.0.113.51"}) == 429
        proxy.client = "203.0.113.51"
        assert status() == 401
    finally:
        proxy.client = before


def test_past_the_proxy_it_still_answers_for_itself(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.behind)) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert raw.recv(12) == b"HTTP/1.1 200"
