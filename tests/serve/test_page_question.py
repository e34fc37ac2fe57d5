"""The page: questions of several parts, in words and in pictures."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browsing import (
    POSTCARDS,
    SAID,
    Open,
    drop,
    give,
    open_first,
    paste,
    shoot,
    shown_ids,
    until,
)

import mmsearch
from mmsearch.errors import QueryError
from mmsearch.query import Question, Term, least_relevance, parse_query

if TYPE_CHECKING:
    from playwright.sync_api import Route

    from mmsearch.library import Library


@pytest.fixture(scope="module")
def library_served(album: Path) -> Path:
    return album


@pytest.fixture(scope="module")
def opened(album: Path) -> Iterator[Library]:
    with mmsearch.open(album, device="cpu") as library:
        yield library


def best(library: Library, *terms: Term, n: int, relevance: float = 0.0) -> list[int]:
    question = Question(terms, k=n, min_relevance=relevance)
    return [hit.image.id for hit in library.ask(question).hits]


def lines() -> list[str]:
    """Lines as people type them, and as nobody does."""
    wrote = random.Random(7)
    pieces = ["beach", "0.5:sunset", ".5:x", "+", "-", "3:10", " ", "  ", "2:", "at", "c++", "-20"]
    pieces += ["\\", "\\-", "\\+", "\\2:x"]
    typed = [" ".join(wrote.choices(pieces, k=wrote.randint(1, 7))) for _ in range(400)]
    return [*typed, "3:10 to Yuma", "x-ray c++", "-20 degrees", "at 12: lunch", "1.25:a - 2:b c"]


def understood(line: str) -> list[list[object]] | None:
    try:
        return [[term.text, term.weight] for term in parse_query(line)]
    except QueryError:
        return None


def test_the_page_reads_a_line_as_the_terminal_does(open_page: Open) -> None:
    page = open_page("/")
    asked = lines()
    read = page.evaluate(
        """async (lines) => {
          const { Unclear, parseQuery, writeQuery } = await import("/assets/question.js");
          return lines.map((line) => {
            try {
              const terms = parseQuery(line);
              const again = parseQuery(writeQuery(terms));
              const pairs = (of) => JSON.stringify(of.map(({ text, weight }) => [text, weight]));
              return pairs(terms) === pairs(again) ? JSON.parse(pairs(terms)) : "not the same";
            } catch (error) {
              if (!(error instanceof Unclear)) throw error;
              return null;
            }
          });
        }""",
        asked,
    )
    assert read == [understood(line) for line in asked]
    assert None in read
    assert any(pairs and len(pairs) > 2 for pairs in read)


def test_any_words_can_be_asked_as_they_stand(open_page: Open) -> None:
    page = open_page("/")
    texts = [*lines(), "Paris - Eiffel Tower", "- a list item", "a list -", "+", "2:old car"]
    texts = [text for text in texts if text.strip()]
    read = page.evaluate(
        """async (texts) => {
          const { asLine, asWords, parseQuery } = await import("/assets/question.js");
          return texts.map((text) => parseQuery(asLine(asWords(text))));
        }""",
        texts,
    )
    for text, terms in zip(texts, read, strict=True):
        assert terms == [{"text": " ".join(text.split()), "weight": 1}]


def test_the_right_postcard_comes_first(open_page: Open, opened: Library) -> None:
    page = open_page("/")
    page.wait_for_selector(".tile.shown")
    page.locator("#words").press_sequentially("a rainbow over a city", delay=5)
    page.wait_for_selector(SAID)
    first = page.locator(".tile").first
    number = int(opened.image(int(first.get_attribute("data-id") or 0)).path[-8:-4])
    truths = (POSTCARDS / "attributes.jsonl").read_text().splitlines()
    truth = json.loads(truths[number])
    assert (truth["sky"], truth["land"]) == ("rainbow", "city")
    shoot(page, "postcards")


def test_signed_words(open_page: Open, opened: Library) -> None:
    page = open_page("/")
    page.wait_for_selector(".tile.shown")
    page.locator("#words").fill("a beach + 0.5:rainbow - boats")
    page.wait_for_url("**/?q=a+beach+%2B+0.5%3Arainbow+-+boats")
    page.wait_for_selector(SAID)
    terms = (Term("a beach"), Term("rainbow", weight=0.5), Term("boats", weight=-1))
    shown = shown_ids(page)
    assert shown == best(opened, *terms, n=len(shown))
    pills = page.locator("#pills .pill")
    assert [text.strip() for text in pills.all_inner_texts()] == [
        "a beach",
        "+ 0.5 × rainbow",
        "− boats",
    ]
    page.get_by_role("button", name="Remove − boats").click()
    page.wait_for_url("**/?q=a+beach+%2B+0.5%3Arainbow")
    assert pills.count() == 2


def test_a_sign_that_waits_for_its_words(open_page: Open) -> None:
    page = open_page("/?q=a+beach")
    page.wait_for_selector(SAID)
    before = shown_ids(page)
    page.locator("#words").press("End")
    page.locator("#words").press_sequentially(" -")
    page.locator("#words").press_sequentially(" ")
    page.wait_for_selector("#said:has-text('no words after')")
    assert shown_ids(page) == before
    page.locator("#words").press_sequentially("boats")
    page.wait_for_selector(SAID)
    page.goto(page.url.partition("?")[0] + "?q=a+beach+%2B")
    page.wait_for_selector("#note:has-text('no words after')")


def test_more_and_less_like_pictures(open_page: Open, opened: Library) -> None:
    page = open_page("/?q=a+house")
    page.wait_for_selector(SAID)
    first, second, third = shown_ids(page)[:3]
    drop(page, second, x=100)
    page.wait_for_url(f"**/?q=a+house&like={second}")
    drop(page, third, x=1200)
    page.wait_for_url(f"**/?q=a+house&like={second}&unlike={third}")
    page.wait_for_selector(".chip.minus")
    page.wait_for_selector(f"{SAID} >> nth=0")
    page.wait_for_selector("#grid:not(.stale)")
    terms = (Term("a house"), Term(image_id=second), Term(image_id=third, weight=-1))
    shown = shown_ids(page)
    assert shown == best(opened, *terms, n=len(shown))
    shoot(page, "parts")
    # The left half and Alt: less like it.
    drop(page, first, x=100, alt=True)
    page.wait_for_url(f"**/?q=a+house&like={second}&unlike={third},{first}")
    # Its sign turns it over, its cross takes it away.
    page.locator(".chip.minus .sign").first.click()
    page.wait_for_url(f"**/?q=a+house&like={second},{third}&unlike={first}")
    page.locator(".chip").first.hover()
    page.locator(".chip .off").first.click()
    page.wait_for_url(f"**/?q=a+house&like={third}&unlike={first}")
    page.reload()
    page.wait_for_selector(SAID)
    assert page.locator(".chip").count() == 2
    until(page, "document.querySelector('.chip img').naturalWidth > 0")
    page.locator("#words").fill("")
    page.wait_for_url(f"**/?like={third}&unlike={first}")
    page.locator("#words").press("Backspace")
    page.wait_for_url(f"**/?like={third}")


def test_what_a_drop_will_do_is_told_over_an_open_picture(open_page: Open) -> None:
    page = open_page("/?q=a+house")
    page.wait_for_selector(SAID)
    page.locator(".tile").first.click()
    page.wait_for_selector("#viewer[open] .facts")
    over = """() => {
      const moved = new DataTransfer();
      moved.items.add(new File([new Uint8Array(3)], "one.png", { type: "image/png" }));
      const options = { dataTransfer: moved, bubbles: true, cancelable: true, clientX: 1000 };
      document.getElementById("viewer-about").dispatchEvent(new DragEvent("dragover", options));
    }"""
    page.evaluate(over)
    assert page.locator("#drop").is_visible()
    # A picture that is open covers all but what was opened above it.
    assert page.locator("#drop").evaluate("drop => drop.matches(':popover-open')")
    shoot(page, "drop-over-picture")
    assert page.locator("#drop").get_attribute("data-side") == "minus"
    drop(page, POSTCARDS / "postcard-0003.jpg", x=1000)
    page.wait_for_url("**/?q=a+house&unlike=drop-*-1")
    assert page.locator("#drop").is_hidden()
    assert page.locator("#viewer").is_hidden()


def test_parts_by_keyboard(open_page: Open) -> None:
    page = open_page("/?q=a+house")
    page.wait_for_selector(SAID)
    first, second = shown_ids(page)[:2]
    page.locator("#words").press("ArrowDown")
    page.keyboard.press("+")
    page.wait_for_url(f"**/?q=a+house&like={first}")
    page.wait_for_selector("#grid:not(.stale)")
    now = shown_ids(page)
    assert first not in now
    page.locator("#words").press("ArrowDown")
    page.keyboard.press("-")
    page.wait_for_url(f"**/?q=a+house&like={first}&unlike={now[0]}")
    page.wait_for_selector("#grid:not(.stale)")
    page.locator("#words").press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[open] .facts")
    page.get_by_role("button", name="Less like this").click()
    page.wait_for_selector(".chip.minus >> nth=1")
    assert page.locator("#viewer").is_hidden()
    assert second


def test_own_pictures_with_signs(open_page: Open, opened: Library) -> None:
    files = [POSTCARDS / f"postcard-{n:04}.jpg" for n in (10, 14, 42)]
    page = open_page("/?q=a+house")
    page.wait_for_selector(SAID)
    give(page, *files[:2])
    page.wait_for_url("**/?q=a+house&like=drop-*-1,drop-*-2")
    drop(page, files[2], x=1100)
    page.wait_for_url("**/?q=a+house&like=drop-*-1,drop-*-2&unlike=drop-*-3")
    page.wait_for_selector(".chip.minus")
    page.wait_for_selector("#grid:not(.stale)")
    terms = [
        Term(image=file, weight=weight) for file, weight in zip(files, (1, 1, -1), strict=True)
    ]
    shown = shown_ids(page)
    assert len(shown) == 2  # they are in the album too
    assert shown == best(opened, Term("a house"), *terms, n=60, relevance=0.5)


def test_a_picture_pasted_and_words(open_page: Open, opened: Library) -> None:
    file = Path(opened.search("a house", k=1)[0].image.path)
    page = open_page("/?q=a+house")
    page.wait_for_selector(SAID)
    paste(page, file)
    page.wait_for_url("**/?q=a+house&like=drop-*-1")
    page.wait_for_selector("#grid:not(.stale)")
    page.wait_for_selector(SAID)
    shown = shown_ids(page)
    assert shown == best(opened, Term("a house"), Term(image=file), n=len(shown))


def test_what_is_too_weak_is_left_out_as_in_the_terminal(open_page: Open) -> None:
    page = open_page("/")
    asked: list[float] = []

    def note(route: Route) -> None:
        least = route.request.post_data_json.get("min_relevance")
        if least is not None:  # the wall asks without one
            asked.append(least)
        route.fallback()

    def least(address: str) -> float:
        page.goto("about:blank")
        asked.clear()
        page.goto(server + address)
        page.wait_for_selector(SAID)
        return asked[-1]

    server = page.url.rstrip("/")
    page.route("**/v1/search", note)
    near, far = Term(image_id=3), Term(image_id=5, weight=-1)
    for address, terms in (
        ("/?q=a+boat", parse_query("a boat")),
        ("/?q=a+boat+-+sea&like=3", [*parse_query("a boat - sea"), near]),
        ("/?like=3,5&q=-+sea", [*parse_query("- sea"), near]),
        ("/?like=3&unlike=5", [near, far]),
    ):
        assert least(address) == least_relevance(terms), address
    assert least("/?q=a+boat&all=1") == least("/?unlike=5") == 0


def test_pictures_alone_find_the_nearest(open_page: Open, opened: Library) -> None:
    page = open_page("/?like=1")
    page.unroute("**/v1/search")
    page.reload()
    page.wait_for_selector(".tile.shown")
    assert page.locator("#said").inner_text() == "59 pictures, the nearest first"
    # The nearest look like what was asked for, however sure that is.
    strengths = page.locator(".tile").evaluate_all(
        "tiles => tiles.map((tile) => Number(tile.style.getPropertyValue('--power')))"
    )
    assert strengths[0] == 1
    assert strengths[1] > 0.5
    assert page.locator("#tail").inner_text() == "That is all."
    assert shown_ids(page) == best(opened, Term(image_id=1), n=len(shown_ids(page)))


def test_only_what_is_avoided(open_page: Open, opened: Library) -> None:
    known = opened.search("a boat", k=1)[0].image.id
    page = open_page(f"/?unlike={known}")
    page.wait_for_selector(SAID)
    assert known not in shown_ids(page)
    assert page.locator(".chip.minus").count() == 1


@pytest.mark.parametrize(
    "address", ["/?like=drop-x,,1e9,-4&unlike=%00&pic=abc&all=2", "/?where=%28", "/?q=%2B+-"]
)
def test_addresses_that_make_no_sense(open_page: Open, address: str) -> None:
    page = open_page(address)
    page.wait_for_selector(".tile.shown, #note h2")


def test_long_and_many_captions_do_not_push_the_buttons_away(open_page: Open) -> None:
    texts = ["a word " * 500, *(f"caption {n}" for n in range(300))]

    page = open_page("/")
    open_first(page, captions=texts, path="/photos/a\u202egpj.jpg")
    button = page.get_by_role("button", name="More like this")
    button.wait_for()
    box = button.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < page.evaluate("innerHeight")
    # All is there when it is asked for, and the keyboard is not lost with the button.
    about = page.locator("#viewer-about")
    for name in ("… all of it", "295 more"):
        about.get_by_role("button", name=name).press("Enter")
        assert page.evaluate("document.activeElement.id") == "viewer-about"
    assert about.locator("h2").inner_text().strip() == texts[0].strip()
    assert about.locator(".further").all_inner_texts() == texts[1:]
    # A name that turns its letters around does not turn around what stands beside it.
    name, beside = (
        about.locator(f".facts {part}").first.bounding_box() for part in (".name", "button")
    )
    assert name is not None
    assert beside is not None
    assert name["x"] + name["width"] <= beside["x"]


def test_the_page_tells_no_time_of_what_was_not_found(open_page: Open) -> None:
    page = open_page("/?q=boats&where=taken:1950")
    page.get_by_role("button", name="Take the filters off").wait_for()
    assert page.locator("#aside").inner_text() == ""
