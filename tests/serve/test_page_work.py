"""The page: picking pictures out, what is known of one, signing in, and while things are read."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browsing import ALBUM, SAID, Open, Server, shoot, shown_ids, until
from serve_library import draw, encoded, save_model

import mmsearch
from mmsearch.serve.keys import Keys, keys_path
from mmsearch.store.lock import writing

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from mmsearch.library import Library


@pytest.fixture(scope="module")
def library_served(album: Path) -> Path:
    return album


@pytest.fixture(scope="module")
def opened(album: Path) -> Iterator[Library]:
    with mmsearch.open(album, device="cpu") as library:
        yield library


def what_it_says(page: Page, selector: str) -> Callable[[str], None]:
    """From now on what this says, however soon it says something else: the function that is
    returned waits until it has said a text since it was called last."""
    page.evaluate(
        """(selector) => {
          window.saidSince = [];
          const box = document.querySelector(selector);
          const note = () => window.saidSince.push(box.textContent);
          new MutationObserver(note).observe(box, { childList: true, characterData: true });
        }""",
        selector,
    )

    def said(text: str) -> None:
        until(page, f"window.saidSince.includes('{text}')")
        page.evaluate("window.saidSince.length = 0")

    return said


def test_selecting_with_the_mouse(open_page: Open, opened: Library) -> None:
    page = open_page("/?q=a+house", permissions=["clipboard-read", "clipboard-write"])
    page.wait_for_selector(SAID)
    shown = shown_ids(page)
    page.locator(".tile").first.click(modifiers=["Control"])
    page.wait_for_selector("#bar-count:text-is('1 picture selected')")
    page.locator(".tile[data-index='3']").click(modifiers=["Shift"])
    page.wait_for_selector("#bar-count:text-is('4 pictures selected')")
    page.locator(".tile[data-index='2']").hover()
    page.locator(".tile[data-index='2'] .tick").click()
    page.wait_for_selector("#bar-count:text-is('3 pictures selected')")
    assert page.locator(".tile.picked").count() == 3
    shoot(page, "selection")
    picked = [shown[0], shown[1], shown[3]]
    said = what_it_says(page, "#bar-paths")
    page.get_by_role("button", name="Copy paths").click()
    said("copied")
    paths = [opened.image(id_).path for id_ in picked]
    assert page.evaluate("navigator.clipboard.readText()").splitlines() == paths
    with page.expect_download() as begun:
        page.get_by_role("link", name="Download").click()
    assert begun.value.suggested_filename == "pictures.zip"
    with zipfile.ZipFile(begun.value.path()) as archive:
        assert archive.testzip() is None
        inside = [archive.read(name) for name in archive.namelist()]
        assert archive.namelist() == [Path(path).name for path in paths]
    assert inside == [Path(path).read_bytes() for path in paths]
    # Another question leaves what was picked out.
    page.locator("#words").fill("a boat")
    page.wait_for_url("**/?q=a+boat")
    assert page.locator("#bar-count").inner_text() == "3 pictures selected"
    page.get_by_role("button", name="More like these").click()
    page.wait_for_url(f"**/?like={','.join(map(str, picked))}")
    page.wait_for_selector("#grid:not(.stale)")
    assert not set(picked) & set(shown_ids(page))
    assert page.locator("#bar").is_hidden()


def test_copied_twice(open_page: Open) -> None:
    page = open_page("/?q=a+house", permissions=["clipboard-read", "clipboard-write"])
    page.wait_for_selector(SAID)
    page.locator(".tile").first.click(modifiers=["Control"])
    said = what_it_says(page, "#bar-paths")
    for _ in range(2):
        page.locator("#bar-paths").click()
        said("copied")
    page.wait_for_selector("#bar-paths:text-is('Copy paths')")
    # What was still to come of the first click has nothing to say.
    page.wait_for_timeout(1_700)
    assert page.locator("#bar-paths").inner_text() == "Copy paths"


def test_selecting_with_keys(open_page: Open) -> None:
    page = open_page("/?q=a+house")
    page.wait_for_selector(SAID)
    shown = shown_ids(page)
    page.locator("#words").press("ArrowDown")
    page.keyboard.press("x")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+X")
    page.wait_for_selector("#bar-count:text-is('3 pictures selected')")
    page.keyboard.press(" ")
    page.wait_for_selector("#bar-count:text-is('2 pictures selected')")
    assert page.locator(".tile.picked").first.get_attribute("aria-description") == "selected"
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[open] .facts")
    assert f"pic={shown[2]}" in page.url
    page.keyboard.press("x")
    page.wait_for_selector(".acts button:text-is('Selected')")
    page.keyboard.press("Escape")
    page.wait_for_selector("#viewer", state="hidden")
    page.wait_for_selector("#bar-count:text-is('3 pictures selected')")
    page.keyboard.press("Escape")
    page.wait_for_selector("#bar", state="hidden")
    assert page.locator(".tile.picked").count() == 0


def test_its_folder(open_page: Open, opened: Library) -> None:
    first = opened.search("a house", k=1, where="folder:2020")[0].image
    page = open_page(f"/?q=a+house&pic={first.id}")
    page.wait_for_selector("#viewer[open] .facts")
    assert page.locator(".facts .folder").inner_text() == str(Path(first.path).parent)
    page.get_by_role("button", name="in this folder").click()
    page.wait_for_selector("#said:has-text('20 pictures')")
    page.wait_for_selector(".pill:has-text('in 2020')")
    page.wait_for_selector(".tile.shown")
    there = {hit.image.id for hit in opened.search("x", k=99, where="folder:2020")}
    assert set(shown_ids(page)) == there


def test_how_fresh_it_is(open_page: Open) -> None:
    page = open_page("/")
    page.wait_for_selector(f"#holds:has-text('{ALBUM} pictures · 0 texts · tiny · read')")


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[Server]:
    """A server of a library that may be written to."""
    save_model(tmp_path / "model")
    (tmp_path / "pictures").mkdir()
    for n in range(8):
        draw(f"hsl({n * 40}, 70%, 45%)", "ellipse").save(tmp_path / "pictures" / f"{n}.png")
    command = [sys.executable, "-m", "mmsearch", "-l", str(tmp_path / "library")]
    model = f"local-dir:{tmp_path / 'model'}"
    index = [*command, "index", str(tmp_path / "pictures"), "--model", model, "--device", "cpu"]
    subprocess.run(index, check=True, capture_output=True)
    server = Server(tmp_path / "library")
    yield server
    server.stop()


def test_progress_is_seen(growing: Server, browser: Browser) -> None:
    key = Keys(keys_path(growing.library, None)).add("writer", "write")
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(growing.url)
    page.locator("#key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("#holds:has-text('8 pictures')")
    new = {"name": "new.png", "mimeType": "image/png", "buffer": encoded(draw("teal", "line"))}
    with writing(growing.library):  # so that the run is not over before it was seen
        asked = context.request.post(f"{growing.url}/v1/images", multipart={"file": new})
        assert asked.status == 202, asked.text()
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        page.wait_for_selector("#live:has-text('Reading uploads')")
        shoot(page, "live")
    page.wait_for_selector("#holds:has-text('9 pictures')", timeout=60_000)
    page.wait_for_selector("#live", state="hidden")
    context.close()


def test_a_list_from_before_the_library_changed_is_not_kept(
    growing: Server, browser: Browser, tmp_path: Path
) -> None:
    context = browser.new_context(viewport={"width": 900, "height": 300})
    page = context.new_page()
    page.goto(f"{growing.url}/?q=a+circle&all=1")
    page.wait_for_selector("#said:has-text('8 pictures')")
    page.evaluate("scrollTo(0, 200)")
    for n in range(8, 12):
        draw(f"hsl({n * 40}, 70%, 45%)", "line").save(tmp_path / "pictures" / f"{n}.png")
    command = [sys.executable, "-m", "mmsearch", "-l", str(growing.library), "index"]
    subprocess.run([*command, "--device", "cpu"], check=True, capture_output=True)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_selector("#aside button:has-text('look again')")
    page.locator("#words").fill("a line")
    page.wait_for_url("**/?q=a+line")
    page.go_back()
    page.wait_for_url("**/?q=a+circle&all=1")
    page.wait_for_selector("#said:has-text('12 pictures')")
    page.wait_for_selector("#aside:has-text('found in')")
    context.close()


def test_signing_in(growing: Server, browser: Browser) -> None:
    keys = Keys(keys_path(growing.library, None))
    key = keys.add("reader", "read")
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{growing.url}/?q=a+circle&all=1")
    page.locator("#key").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("[role=alert]:has-text('not known')")
    page.locator("#key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/?q=a+circle&all=1")
    page.wait_for_selector(".tile.shown")
    keys.revoke("reader")
    keys.add("other", "read")
    page.locator("#words").fill("a line")
    page.wait_for_selector("#banner:has-text('asks for a key')")
    page.locator("#banner-retry").click()
    page.wait_for_selector("#key")
    context.close()


def test_a_picture_that_needs_a_key_leads_to_the_sign_in(growing: Server, browser: Browser) -> None:
    keys = Keys(keys_path(growing.library, None))
    key = keys.add("reader", "read")

    def sign_in(page: Page, key: str) -> None:
        page.locator("#key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_selector(".tile.shown")

    context = browser.new_context()
    page = context.new_page()
    page.goto(growing.url)
    sign_in(page, key)
    keys.revoke("reader")
    key = keys.add("other", "read")
    page.locator(".tile").first.click()
    page.wait_for_selector("#banner:has-text('asks for a key')")
    page.wait_for_selector("#viewer-away:not([hidden])")
    assert "cannot be read" not in page.locator("#viewer-away").inner_text()
    other = context.new_page()
    other.goto(growing.url)
    sign_in(other, key)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_selector("#banner", state="hidden")
    page.wait_for_selector("#viewer-away", state="hidden")
    page.wait_for_selector("#viewer-image[src*=file]")
    context.close()


def test_what_a_key_may_not_know_is_asked_for_once(growing: Server, browser: Browser) -> None:
    key = Keys(keys_path(growing.library, None)).add("reader", "read")
    context = browser.new_context()
    page = context.new_page()
    page.goto(growing.url)
    page.locator("#key").fill(key)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("#holds:has-text('8 pictures')")
    for _ in range(2):
        with page.expect_response("**/v1/status"):
            page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        page.wait_for_timeout(300)
    assert len(wrong) == 1
    assert "403" in wrong[0]
    context.close()


def axe_script() -> str:
    package = pytest.importorskip("axe_playwright_python", reason="axe-core is not installed")
    return (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


def violations(page: Page) -> list[str]:
    """What axe, which was put into the page, finds wrong with it."""
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{one['id']}: {node['html'][:200]} {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_accessible(open_page: Open, opened: Library, scheme: str, size: tuple[int, int]) -> None:
    axe = axe_script()
    width, height = size
    options = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
    known = opened.search("a boat", k=2)
    like, unlike = (hit.image.id for hit in known)
    views = {
        "/": None,
        f"/?q=a+house+-+boat&like={like}&unlike={unlike}&where=taken:2019": "filters",
        f"/?q=a+house&all=1&pic={like}": None,
        "/?q=a+house&all=1": "selection",
        "/?view=captions": None,
        "/?where=taken:1950": None,
    }
    for address, act in views.items():
        # The policy of the page lets no script of others in, so this one does without it.
        page = open_page(address, bypass_csp=True, reduced_motion="reduce", **options)
        page.wait_for_load_state("networkidle")
        if act == "filters":
            page.get_by_role("button", name="Filters").click()
            page.wait_for_selector(".choice[aria-pressed=true]")
            page.locator("#where").fill("wrong")
            page.locator("#where").press("Enter")
            page.wait_for_selector("#where-problem:not([hidden])")
        if act == "selection":
            page.locator(".tile").first.click(modifiers=["Control"])
            page.wait_for_selector("#bar")
        page.evaluate(axe)
        told = violations(page)
        shoot(page, f"axe-{scheme}-{width}-{list(views).index(address)}")
        assert not told, "\n".join([address, *told])
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_signing_in_is_accessible(growing: Server, browser: Browser, scheme: str) -> None:
    axe = axe_script()
    Keys(keys_path(growing.library, None)).add("reader", "read")
    page = browser.new_context(bypass_csp=True, color_scheme=scheme).new_page()
    page.goto(growing.url)
    page.locator("#key").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("[role=alert]")
    page.evaluate(axe)
    shoot(page, f"axe-{scheme}-sign-in")
    assert violations(page) == []
    page.context.close()
