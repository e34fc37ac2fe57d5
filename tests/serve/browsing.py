"""A real browser before a real server: what the tests of the page share. Its fixtures come into the
tests through conftest.py.

Needs playwright and a Chromium that is installed (Debian's package; MMSEARCH_TEST_CHROMIUM names
another). Screenshots land in MMSEARCH_TEST_SHOTS, if that is set.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from serve_library import SERVE, draw, save_model

import mmsearch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

CHROMIUM = os.environ.get("MMSEARCH_TEST_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
EXPECTED_ERRORS = re.compile(r"Failed to load resource.*(net::ERR_|status of (401|410|422|503))")
POSTCARDS = Path(__file__).parents[2] / "data" / "postcards"
PICTURES = 150
#: When it is seen, answers are.
SAID = "#said:has-text('nearest first')"


class Server:
    """`mmsearch serve` in a process of its own, which can be stopped and started again."""

    def __init__(self, library: Path, **environment: str) -> None:
        self.library = library
        self.environment = environment
        self.url = ""
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        port = self.url.rpartition(":")[2] or "0"
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(self.library), port],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.environment},
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url

    def stop(self) -> None:
        if self.process is not None:
            assert self.process.stdout is not None
            self.process.terminate()
            self.process.wait(60)
            self.process.stdout.close()
            self.process = None


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of many pictures of all shapes, one caption each."""
    from indexer.ingest import Options, index

    root = tmp_path_factory.mktemp("gallery")
    save_model(root / "model")
    (root / "pictures").mkdir()
    lines = ["image,text"]
    for n in range(PICTURES):
        size = (90 + 37 * n % 170, 90 + 53 * n % 110)
        image = draw(f"hsl({n * 7 % 360}, 70%, 45%)", ("ellipse", "rectangle", "line")[n % 3], size)
        image.save(root / "pictures" / f"picture-{n:03}.png")
        lines.append(f"picture-{n:03}.png,drawing number {n}")
    (root / "pictures" / "captions.csv").write_text("\n".join(lines))
    options = Options(model=f"local-dir:{root / 'model'}", device="cpu")
    captions = [root / "pictures" / "captions.csv"]
    index(root / "library", [root / "pictures"], captions, options=options)
    return root / "library"


#: The album's cameras, and its years.
CAMERAS = ("Brownie 2", "Holga", "Lomo LC-A")
YEARS = (2019, 2020, 2021)
ALBUM = 60


@pytest.fixture(scope="session")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of postcards, by the bundled model, with dates, cameras and folders of years."""
    from indexer.ingest import Options, index

    root = tmp_path_factory.mktemp("album")
    for n in range(ALBUM):
        year = YEARS[n % 3]
        folder = root / "pictures" / str(year)
        folder.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0110] = CAMERAS[n // 3 % 3]
        exif.get_ifd(0x8769)[0x9003] = f"{year}:{1 + n // 5 % 12:02}:05 12:00:00"
        with Image.open(POSTCARDS / f"postcard-{n:04}.jpg") as image:
            kind = "png" if n % 4 == 0 else "jpg"
            image.save(folder / f"postcard-{n:04}.{kind}", exif=exif, quality=95)
    options = Options(model="tiny", device="cpu")
    index(root / "library", [root / "pictures"], [], options=options)
    return root / "library"


@pytest.fixture(scope="module")
def library_served(gallery: Path) -> Path:
    """Which library the module's server serves; a module of tests may say another."""
    return gallery


@pytest.fixture(scope="module")
def server(library_served: Path) -> Iterator[Server]:
    started = Server(library_served)
    yield started
    started.stop()


# Not for the whole session: playwright leaves its event loop running in this thread.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="THE PAGE IS NOT TESTED: playwright is not installed"
    )
    if CHROMIUM is None:
        pytest.skip("THE PAGE IS NOT TESTED: no Chromium (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


Open = Callable[..., "Page"]


def keep_weak(route: Route) -> None:
    """Lets a search find what matches weakly too: a model of random weights knows nothing else, and
    few pictures match well what a test happens to ask. Not one with files: Chromium does not tell
    what it sends there."""
    asked = route.request.post_data_json
    route.continue_(post_data=asked | {"min_relevance": 0})


@pytest.fixture(scope="module")
def weak_too() -> bool:
    """Whether searches keep what matches weakly; a module of tests may say otherwise."""
    return True


@pytest.fixture
def open_page(browser: Browser, server: Server, weak_too: bool) -> Iterator[Open]:
    """open_page(address, **context options): a page that must stay free of errors."""
    contexts = []
    wrong: list[str] = []

    def open_(address: str = "/", **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        # Also what the content security policy has stopped is said there.
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        if weak_too:
            page.route("**/v1/search", keep_weak)
        page.goto(server.url + address)
        return page

    yield open_
    for context in contexts:
        for page in context.pages:
            # What is still being asked is of no interest any more.
            page.unroute_all(behavior="ignoreErrors")
        context.close()
    # What the browser itself says of a refused or unanswered request is not the page's doing.
    unexpected = [text for text in wrong if not EXPECTED_ERRORS.search(text)]
    assert not unexpected, unexpected


def shoot(page: Page, name: str) -> None:
    folder = os.environ.get("MMSEARCH_TEST_SHOTS")
    if folder:
        page.wait_for_load_state("networkidle")
        page.screenshot(path=Path(folder) / f"{name}.png")


def shown_ids(page: Page) -> list[int]:
    tiles = page.locator(".tile").evaluate_all(
        "tiles => tiles.map(tile => [Number(tile.dataset.index), Number(tile.dataset.id)])"
    )
    return [id_ for _, id_ in sorted(tiles)]


def open_first(page: Page, **said: Any) -> None:
    """Asks for boats and opens the first picture; of all that are found the service says this."""

    def say(route: Route) -> None:
        answer = route.fetch(post_data=route.request.post_data_json | {"min_relevance": 0})
        found = answer.json()
        for hit in found["hits"]:
            hit.update(said)
        route.fulfill(response=answer, json=found)

    page.wait_for_selector(".tile.shown")
    page.route("**/v1/search", say)
    page.locator("#words").fill("boats")
    page.wait_for_selector(SAID)
    page.locator(".tile").first.click()


def until(page: Page, condition: str) -> None:
    """Waits for what is true in the page, whose policy lets playwright's own way not in."""
    for _ in range(300):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {condition}")


def until_held(page: Page, held: list[Route]) -> Route:
    """The last of the requests that a test holds back, once there is one: what the page does shows
    at once, what it asks comes here a little later."""
    for _ in range(600):
        if held:
            return held[-1]
        page.wait_for_timeout(50)
    raise AssertionError("nothing was asked")


def id_of(library: Path, query: str, rank: int = 0) -> int:
    with mmsearch.open(library, device="cpu") as opened:
        return opened.search(query, k=rank + 1)[rank].image.id


def ids_of(library: Path, query: str, k: int) -> list[int]:
    with mmsearch.open(library, device="cpu") as opened:
        return [hit.image.id for hit in opened.search(query, k=k)]


def give(page: Page, *paths: Path) -> None:
    """Choose pictures of one's own."""
    page.locator("#file").set_input_files(list(paths))


_PASTE = """([bytes]) => {
  const held = new DataTransfer();
  held.items.add(new File([new Uint8Array(bytes)], "pasted.png", { type: "image/png" }));
  const options = { clipboardData: held, bubbles: true, cancelable: true };
  document.activeElement.dispatchEvent(new ClipboardEvent("paste", options));
}"""


def paste(page: Page, picture: Path) -> None:
    """Paste a picture where the focus is."""
    page.evaluate(_PASTE, [list(picture.read_bytes())])


_DROP = """([bytes, name, id, x, altKey]) => {
  const moved = new DataTransfer();
  if (id) moved.setData("text/x-mmsearch-id", id);
  else moved.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  for (const kind of ["dragover", "drop"]) {
    const event = new DragEvent(kind, {
      dataTransfer: moved, bubbles: true, cancelable: true, clientX: x, clientY: 300, altKey,
    });
    document.body.dispatchEvent(event);
  }
}"""


def drop(page: Page, what: Path | int, *, x: int = 100, alt: bool = False) -> None:
    """Let go of a file, or of a picture of the library, at this place of the window."""
    is_file = isinstance(what, Path)
    data = list(what.read_bytes()) if isinstance(what, Path) else []
    name = "dropped.png" if is_file else ""
    page.evaluate(_DROP, [data, name, "" if is_file else str(what), x, alt])
