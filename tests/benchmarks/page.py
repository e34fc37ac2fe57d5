"""How soon the page shows something, in a real browser: from the last key to the pictures.

Chromium opens the page of a service whose library holds many pictures (random vectors; photographs
of 12 megapixels, the same few under many names), and a question is typed, key by key. Counted is
from the last key, so the pause that the page waits for further keys is included. Some pictures
match each question; the page shows those, as it always does.

    python tests/benchmarks/page.py [--items 100000] [--work DIR] [--out FILE]

Needs playwright and Chromium, as the tests of the page do. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import Bar, Table, finish
from materials import photographs
from PIL import Image
from serve import fill, name_of, served

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))

#: "First results on the page after typing, warm": the first picture can be seen.
FIRST_MS = Bar(300, more=False)
_MATCHES = 100
_ORIGINALS = 24
_SIZE = (4000, 3000)
_KEY_MS = 60
_WARM_UP = 2

_THINGS = ("a red kite", "two boats", "an old owl", "snow", "a harbour", "pasta", "a lighthouse")
_PLACES = ("over a beach", "at night", "on the roof", "from a hill", "in a park", "by the sea")
QUESTIONS = [f"{thing} {place}" for place in _PLACES for thing in _THINGS]

#: Notes, from the last key on: when answers are in the grid, when the first of their pictures is
#: there, and when all that the window shows are.
_WATCH = """() => {
  const grid = document.getElementById("grid");
  const words = document.getElementById("words");
  const marks = (window.marks = {});
  const tiles = () => [...grid.querySelectorAll(".tile")];
  words.addEventListener("input", () => {
    for (const name of Object.keys(marks)) delete marks[name];
    marks.key = performance.now();
    marks.asked = words.value;
    marks.old = new Set(tiles().map((tile) => tile.dataset.id));
  });
  // In the next frame, by which tiles know that their pictures are there, and all that is drawn.
  const look = () => requestAnimationFrame(() => {
    if (!marks.key || marks.all !== undefined || grid.classList.contains("stale")) return;
    const fresh = tiles().filter((tile) => {
      const { top, bottom } = tile.getBoundingClientRect();
      return bottom > 0 && top < innerHeight && !marks.old.has(tile.dataset.id);
    });
    const shown = fresh.filter((tile) => tile.classList.contains("shown"));
    const now = performance.now() - marks.key;
    if (fresh.length) marks.placed ??= now;
    if (shown.length) marks.first ??= now;
    if (shown.length && shown.length === fresh.length) marks.all = now;
  });
  new MutationObserver(look).observe(grid, { childList: true, subtree: true, attributes: true });
  grid.addEventListener("load", look, { capture: true });
}"""

#: Waits until all are noted. (What playwright itself offers for this, the page's policy forbids.)
_MARKED = """async () => {
  while (window.marks.all === undefined) await new Promise((done) => setTimeout(done, 20));
  return { ...window.marks, old: null };
}"""

#: Scrolls to the end of a list, a window's half at each frame; what the frames took.
_SCROLL = """async () => {
  const grid = document.getElementById("grid");
  const frame = () => new Promise(requestAnimationFrame);
  const took = [];
  let tiles = 0, before = await frame(), rests = 0;
  while (rests < 600) {
    const top = scrollY;
    scrollBy(0, innerHeight / 2);
    const now = await frame();
    took.push(now - before);
    before = now;
    tiles = Math.max(tiles, grid.querySelectorAll(".tile").length);
    if (scrollY !== top) rests = 0;
    else if (document.getElementById("tail").textContent) break;
    else rests += 1;
  }
  const last = Math.max(...[...grid.querySelectorAll(".tile")].map((tile) => +tile.dataset.index));
  return { took, tiles, last };
}"""


def pictures(folder: Path, items: int) -> Path:
    """A folder of so many photographs of 12 megapixels: a few files under many names."""
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "originals").mkdir(parents=True)
    originals = []
    for number, path in enumerate(photographs()[:_ORIGINALS]):
        originals.append(folder / "originals" / f"{number}.jpg")
        with Image.open(path) as image:
            image.convert("RGB").resize(_SIZE, Image.Resampling.BICUBIC).save(originals[-1])
    for number in range(items):
        place = folder / name_of(number)
        place.parent.mkdir(exist_ok=True)
        os.link(originals[number % len(originals)], place)
    (folder / "complete").touch()
    return folder


def typed(page: Any, text: str) -> dict[str, float]:
    """Types a question; milliseconds from its last key."""
    page.locator("#words").fill("")
    page.wait_for_selector("body.home .tile.shown")
    page.locator("#words").press_sequentially(text, delay=_KEY_MS)
    marks = page.evaluate(_MARKED)
    assert marks["asked"] == text, marks
    return {name: marks[name] for name in ("placed", "first", "all")}


def measure(browser: Any, url: str, questions: Sequence[str]) -> list[dict[str, float]]:
    """All of them in a window that has seen nothing yet. The first two only warm up."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector(".tile.shown")
    page.evaluate(_WATCH)
    found = [typed(page, text) for text in questions]
    context.close()
    return found[_WARM_UP:]


def deep(browser: Any, url: str) -> dict[str, Any]:
    """Scrolls through all that the service lets one read."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(f"{url}/?q=pictures&all=1")
    page.wait_for_selector(".tile.shown")
    found: dict[str, Any] = page.evaluate(_SCROLL)
    page.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="How soon the page shows something")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--work", type=Path, help="keep the library and the pictures here")
    parser.add_argument("--out", type=Path, help="also write the figures, as JSON")
    options = parser.parse_args()

    from browsing import ARGUMENTS, CHROMIUM
    from playwright.sync_api import sync_playwright

    questions = QUESTIONS[: options.questions + _WARM_UP]
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        work = (options.work or Path(scratch)).absolute()
        root = pictures(work / f"pictures-{options.items}", options.items)
        library = work / f"library-page-{options.items}"
        if not library.exists():
            fill(
                library, options.items, "tiny",
                root=str(root), planted=QUESTIONS, matches=_MATCHES,
            )  # fmt: skip
        shutil.rmtree(library / "thumbs", ignore_errors=True)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        with served(library) as port:
            url = f"http://127.0.0.1:{port}"
            found = {kind: measure(browser, url, questions) for kind in ("new", "kept")}
            far = deep(browser, url)
        browser.close()
    table = Table(
        f"the page in Chromium, {options.items:,} pictures, bundled model, {os.cpu_count()} cores; "
        f"medians of {options.questions}"
    )
    for kind, about in (("kept", "thumbnails kept"), ("new", "pictures never shown before, 12 MP")):
        for mark, what in (
            ("placed", "answers in the grid"),
            ("first", "first picture seen"),
            ("all", "all pictures in the window seen"),
        ):
            value = statistics.median(one[mark] for one in found[kind])
            bar = FIRST_MS if (kind, mark) == ("kept", "first") else None
            table.add(f"last key to {what}; {about}", value, "ms", form=".0f", bar=bar)
    took = sorted(far["took"])
    table.add("pictures read by scrolling to the end", far["last"] + 1, form=",.0f")
    table.add("  tiles in the page at once, at most", far["tiles"], form=",.0f")
    table.add("  a frame, half a window further: median", statistics.median(took), "ms", form=".0f")
    table.add("  of 100 frames the fifth longest", took[int(len(took) * 0.95)], "ms", form=".0f")
    return finish([table], options.out, {"found": found})


if __name__ == "__main__":
    sys.exit(main())
