"""The page: filters with counts, and how weak answers are left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browsing import ALBUM, CAMERAS, SAID, Open, shoot, shown_ids

import mmsearch

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from mmsearch.library import Library


@pytest.fixture(scope="module")
def library_served(album: Path) -> Path:
    return album


@pytest.fixture(scope="module")
def weak_too() -> bool:
    return False


@pytest.fixture(scope="module")
def opened(album: Path) -> Iterator[Library]:
    with mmsearch.open(album, device="cpu") as library:
        yield library


def chosen(page: Page) -> list[str]:
    return page.locator(".choice[aria-pressed=true] span").all_inner_texts()


def counts(page: Page, group: str) -> dict[str, int]:
    choices = page.locator(f"[aria-labelledby=group-{group}] .choice")
    names = choices.locator("span").all_inner_texts()
    return dict(zip(names, map(int, choices.locator("small").all_inner_texts()), strict=True))


def choose(page: Page, name: str) -> None:
    page.locator(f".choice:has(span:text-is('{name}'))").click()
    page.wait_for_selector("#grid:not(.stale)")


def passes(page: Page, n: int) -> None:
    page.wait_for_selector(f".passes:text-is('{n} of {ALBUM} pictures pass')")


def test_choices_and_their_counts(open_page: Open, opened: Library) -> None:
    page = open_page("/?q=a+house&all=1")
    page.wait_for_selector(SAID)
    page.get_by_role("button", name="Filters").click()
    page.wait_for_selector(".choice")
    facets = opened.facets()
    assert counts(page, "years") == {one.value: one.count for one in facets.years}
    assert counts(page, "cameras") == {one.value: one.count for one in facets.cameras}
    # All postcards are square: nothing to choose there.
    assert page.locator("#group-orientations").count() == 0
    choose(page, "2019")
    passes(page, 20)
    page.wait_for_url("**/?q=a+house&where=taken%3A2019")
    # The other years can still be chosen, and count as before; all else follows.
    assert counts(page, "years") == {one.value: one.count for one in facets.years}
    narrower = opened.facets("taken:2019")
    assert counts(page, "cameras") == {one.value: one.count for one in narrower.cameras}
    choose(page, "2020")
    passes(page, 40)
    choose(page, CAMERAS[0])
    where = f'(taken:2019 or taken:2020) and camera:"{CAMERAS[0]}"'
    allowed = opened.facets(where).total
    passes(page, allowed)
    assert page.locator("#where").input_value() == where
    assert chosen(page) == ["2019", "2020", CAMERAS[0]]
    assert page.locator("#filters-count").inner_text() == "3"
    shoot(page, "filters")
    # What is found is the same, all and nothing else.
    known = {hit.image.id for hit in opened.search("a house", k=100, where=where)}
    page.goto(page.url + "&all=1")
    page.wait_for_selector(SAID)
    assert set(shown_ids(page)) == known
    assert len(known) == allowed
    # Each part can be taken away by itself.
    page.get_by_role("button", name="Remove 2019 or 2020").click()
    page.wait_for_url(f"**/?q=a+house&where=camera%3A%22{CAMERAS[0].replace(' ', '+')}%22")
    page.go_back()
    page.wait_for_selector(".pill:has-text('2019 or 2020')")


def test_months_of_a_year(open_page: Open) -> None:
    page = open_page("/?where=taken%3A2019")
    page.get_by_role("button", name="Filters").click()
    page.wait_for_selector("#group-months")
    before = counts(page, "months")
    assert sum(before.values()) == 20
    month, n = next(iter(before.items()))
    choose(page, month)
    passes(page, n)
    assert chosen(page) == [month]
    choose(page, month)
    page.wait_for_url("**/")


def test_a_filter_by_hand(open_page: Open, opened: Library) -> None:
    page = open_page("/?q=a+house&all=1")
    page.wait_for_selector(SAID)
    page.get_by_role("button", name="Filters").click()
    field = page.locator("#where")
    field.fill("taken:2019 forma:png")
    field.press("Enter")
    page.wait_for_selector("#where-problem:has-text('Did you mean \"format\"')")
    assert field.get_attribute("aria-invalid") == "true"
    assert "where" not in page.url
    where = "not (taken:2019 or format:png) path:**/*1*"
    field.fill(where)
    field.press("Enter")
    page.wait_for_url("**/?q=a+house&where=not**")
    assert page.locator("#where-problem").is_hidden()
    passes(page, opened.facets(where).total)
    # A choice joins what was written, and leaves it as it is.
    choose(page, CAMERAS[1])
    passes(page, opened.facets(f"{where} camera:{CAMERAS[1]}").total)
    page.locator(".sum .quiet").click()
    page.wait_for_url("**/?q=a+house")


def test_counts_that_come_late_do_not_hide_what_is_wrong(open_page: Open) -> None:
    page = open_page("/?q=a+house&all=1")
    page.wait_for_selector(SAID)
    late: list[Any] = []  # the counts of the filter in use, held back
    page.route("**/v1/facets?*", lambda route: late.append(route), times=1)
    page.get_by_role("button", name="Filters").click()
    field = page.locator("#where")
    field.fill("forma:png")
    field.press("Enter")
    page.wait_for_selector("#where-problem:has-text('Did you mean \"format\"')")
    assert page.locator(".choice").count() == 0
    late[0].continue_()
    page.wait_for_selector(".choice >> nth=0")
    assert page.locator("#where-problem").is_visible()
    assert field.get_attribute("aria-invalid") == "true"
    choose(page, CAMERAS[1])
    page.wait_for_selector("#where-problem", state="hidden")


def test_filters_without_a_question(open_page: Open, opened: Library) -> None:
    page = open_page("/?where=taken%3A2020+format%3Apng")
    page.wait_for_selector("#said:has-text('5 pictures')")
    page.wait_for_selector(".tile.shown")
    known = opened.search("x", k=99, where="taken:2020 format:png")
    assert {hit.image.id for hit in known} == set(shown_ids(page))
    page = open_page("/?where=taken%3A1950")
    page.get_by_role("button", name="Take the filters off").click()
    page.wait_for_url("**/")
    page.wait_for_selector(".tile.shown")


def test_any_filter_is_kept_whole(open_page: Open, opened: Library) -> None:
    """Whatever is written, choosing and taking back a choice leaves its meaning."""
    written = [
        "",
        "taken:2019",
        "taken:2019 or camera:Holga",
        'camera:"Brownie 2" taken:2020 taken:2020-01..2020-06',
        "not taken:2019 and (format:png or path:**/postcard-00*)",
        "(camera:Holga or camera:Lomo*) has:date",
        r'path:"**/post\"card (1)*" or path:**/postcard-000[1-9].*',
        "not not format:png",
    ]
    page = open_page("/")
    results: list[list[str]] = page.evaluate(
        """async (filters) => {
          const { has, toggle } = await import("/assets/where.js");
          return filters.map((where) => {
            const more = toggle(where, "format:JPEG");
            if (!has(more, "format:JPEG")) throw new Error(more);
            return [more, toggle(more, "format:JPEG")];
          });
        }""",
        written,
    )

    def found(where: str) -> set[Any]:
        hits = opened.search("x", k=ALBUM, where=where)
        return {hit.image.id for hit in hits}

    for where, (more, back) in zip(written, results, strict=True):
        assert found(back) == found(where), (where, back)
        assert found(more) == found(f"({where}) format:jpeg" if where else "format:jpeg"), more


def test_nothing_matches(open_page: Open, opened: Library) -> None:
    """What matches too weakly is not shown unasked, and looks weak when it is."""
    page = open_page("/")
    page.wait_for_selector(".tile.shown")
    answer = {"allowed": ALBUM, "cut": 60, "hits": [], "took_ms": 3, "k": 60, "offset": 0}
    asked: list[Any] = []

    def few(route: Any) -> None:
        least = route.request.post_data_json.get("min_relevance")
        if least is None:  # the start's, of which another page may be on its way
            route.continue_()
            return
        asked.append(least)
        if least:
            route.fulfill(json=answer)
            return
        told = route.fetch().json()
        for n, hit in enumerate(told["hits"]):
            hit["relevance"] = 0.4 / (n + 1)
        route.fulfill(json=told)

    page.route("**/v1/search", few)
    page.locator("#words").fill("a printed circuit")
    page.wait_for_selector("#note:has-text('Nothing in this library matches')")
    shoot(page, "nothing")
    page.get_by_role("button", name="Show what comes nearest").click()
    page.wait_for_url("**/?q=a+printed+circuit&all=1")
    page.wait_for_selector(".tile.shown")
    assert asked[:2] == [0.5, 0]
    tiles = page.locator(".tile")
    power = "tile => Number(tile.style.getPropertyValue('--power'))"
    assert tiles.first.evaluate(power) == 0.4
    assert tiles.nth(1).evaluate(power) == 0.2
    assert tiles.first.locator(".score").text_content() == "40 %"
    shoot(page, "weak")


def test_what_is_left_is_offered(open_page: Open) -> None:
    page = open_page("/")
    page.wait_for_selector(".tile.shown")

    def some(route: Any) -> None:
        asked = route.request.post_data_json
        told = route.fetch(post_data=asked | {"min_relevance": 0}).json()
        if asked.get("min_relevance"):  # the start asks without one
            told |= {"hits": told["hits"][:7], "cut": 53}
        for hit in told["hits"]:
            hit["relevance"] = 0.9
        route.fulfill(json=told)

    page.route("**/v1/search", some)
    page.locator("#words").fill("a kite")
    page.wait_for_selector(f"#said:text-is('7 pictures of {ALBUM}, the nearest first')")
    page.get_by_role("button", name="Show it all the same").click()
    page.wait_for_selector(f"#said:text-is('{ALBUM} pictures, the nearest first')")
    page.go_back()
    page.wait_for_selector("#said:has-text('7 pictures')")
    page.wait_for_selector("#tail:has-text('matches less surely')")
