"""The page, in a real browser against a real server and library: finding, looking, going back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browsing import (
    PICTURES,
    SAID,
    Open,
    Server,
    drop,
    give,
    id_of,
    ids_of,
    keep_weak,
    open_first,
    shoot,
    shown_ids,
    until,
    until_held,
)

import mmsearch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request, Route


def test_the_start_shows_the_collection(open_page: Open) -> None:
    page = open_page("/")
    page.wait_for_selector(".tile.shown")
    assert page.locator("#holds").inner_text().startswith("150 pictures · 150 texts · local-dir:")
    assert page.locator("#words").evaluate("field => field === document.activeElement")
    idea = page.locator("#aside a").first
    text = idea.inner_text()
    shoot(page, "start")
    idea.click()
    page.wait_for_selector(SAID)
    assert page.locator("#words").input_value() == text
    assert "?q=drawing" in page.url


def test_typing_shows_the_best_first(open_page: Open, gallery: Path) -> None:
    page = open_page("/")
    page.wait_for_selector(".tile.shown")
    page.locator("#words").press_sequentially("a red kite", delay=5)
    page.wait_for_url("**/?q=a+red+kite")
    page.wait_for_selector(SAID)
    assert page.locator("#said").inner_text().endswith("of 150, the nearest first")
    assert page.title() == "a red kite · mmsearch"
    shown = shown_ids(page)
    assert len(shown) > 5
    assert shown == ids_of(gallery, "a red kite", len(shown))
    # Every picture has words for those who cannot see it.
    assert page.locator(".tile img:not([alt^='drawing number'])").count() == 0
    shoot(page, "results")


def test_the_end_is_reached_by_scrolling(open_page: Open, gallery: Path) -> None:
    page = open_page("/?q=boats")
    page.wait_for_selector(SAID)
    seen = set(shown_ids(page))
    while page.locator("#tail").inner_text() != "That is all.":
        page.mouse.wheel(0, 500)
        seen |= set(shown_ids(page))
    last = page.evaluate("document.documentElement.scrollHeight")
    for top in range(0, last, 400):
        page.evaluate(
            "top => new Promise(done => { scrollTo(0, top);"
            " requestAnimationFrame(() => requestAnimationFrame(done)); })",
            top,
        )
        seen |= set(shown_ids(page))
    assert seen == set(ids_of(gallery, "boats", 1000))
    assert len(seen) == PICTURES
    # Only what is near the window is in the page.
    assert page.locator(".tile").count() < PICTURES


def test_the_end_of_what_is_there_is_the_end_of_the_way(open_page: Open) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        asked = route.request.post_data_json
        if asked["offset"] and asked["parts"][0]["text"] == "boats":  # and not the wall's
            held.append(route)
        else:
            keep_weak(route)

    page = open_page("/", viewport={"width": 600, "height": 400})
    page.wait_for_selector(".tile.shown")
    page.route("**/v1/search", hold)
    page.locator("#words").fill("boats")
    page.wait_for_selector(SAID)
    page.locator("#words").blur()
    page.keyboard.press("End")
    until(page, "scrollY > 0 && scrollY + innerHeight > document.body.scrollHeight - 2")
    end = page.evaluate("scrollY")
    until_held(page, held)
    page.unroute("**/v1/search", hold)
    for route in held:
        keep_weak(route)
    until(page, "document.body.scrollHeight > 2 * innerHeight + scrollY")
    page.wait_for_timeout(500)
    # What comes lies below: it takes nobody along.
    assert page.evaluate("scrollY") == end


def test_the_page_behind_a_picture_stays_where_it_is(open_page: Open) -> None:
    page = open_page("/?q=boats")
    page.wait_for_selector(SAID)
    page.locator(".tile").first.click()
    page.wait_for_selector("#viewer[open] .facts")
    page.mouse.move(300, 400)
    page.mouse.wheel(0, 1500)
    page.wait_for_timeout(300)
    assert page.evaluate("scrollY") == 0


def test_escape_leaves_the_words_as_they_are(open_page: Open) -> None:
    page = open_page("/")
    page.wait_for_selector(".tile.shown")
    page.locator("#words").fill("boats")
    page.wait_for_selector(SAID)
    page.keyboard.press("Escape")
    assert page.locator("#words").evaluate("field => field !== document.activeElement")
    assert page.locator("#words").input_value() == "boats"
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    assert page.locator("#words").input_value() == "boats"
    assert page.url.endswith("/?q=boats")


def test_the_address_is_the_state(open_page: Open, gallery: Path) -> None:
    first = id_of(gallery, "boats")
    page = open_page(f"/?q=boats&pic={first}")
    page.wait_for_selector("#viewer[open] .facts")
    page.wait_for_selector("#viewer-on:enabled")
    assert page.locator("#viewer-back").is_disabled()
    assert page.locator("#words").input_value() == "boats"
    page.reload()
    page.wait_for_selector("#viewer[open] .facts")
    page.keyboard.press("Escape")
    page.wait_for_selector("#viewer", state="hidden")
    page.wait_for_url("**/?q=boats")


def test_back_and_forward(open_page: Open) -> None:
    page = open_page("/?q=boats")
    page.wait_for_selector(SAID)
    before = shown_ids(page)
    page.evaluate("scrollTo(0, 300)")
    whole = page.locator(".tile").evaluate_all(
        "tiles => tiles.find(tile => tile.getBoundingClientRect().top > 100).dataset.index"
    )
    page.locator(f".tile[data-index='{whole}']").click()
    page.wait_for_selector("#viewer[open] .facts")
    opened = re.search(r"pic=(\d+)", page.url)
    assert opened
    page.get_by_role("button", name="More like this").click()
    page.wait_for_url(f"**/?like={opened[1]}")
    page.wait_for_selector(".chip")
    page.wait_for_selector(SAID)
    assert int(opened[1]) not in shown_ids(page)
    page.go_back()
    page.wait_for_selector("#viewer[open]")
    page.go_back()
    page.wait_for_selector("#viewer", state="hidden")
    assert page.url.endswith("/?q=boats")
    assert set(shown_ids(page)) >= set(before[:5])
    assert page.evaluate("scrollY") == 300
    page.go_forward()
    page.wait_for_selector("#viewer[open]")


def test_keyboard_only(open_page: Open) -> None:
    page = open_page("/?q=boats")
    page.wait_for_selector(SAID)

    def focused() -> int:
        return int(page.evaluate("document.activeElement.dataset.index ?? -1"))

    page.locator("#words").evaluate("field => field.blur()")
    page.keyboard.press("/")
    assert page.locator("#words").evaluate("field => field === document.activeElement")
    assert page.locator("#words").input_value() == "boats"
    page.keyboard.press("ArrowDown")
    assert focused() == 0
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert focused() == 2
    page.keyboard.press("ArrowLeft")
    assert focused() == 1
    page.keyboard.press("ArrowDown")
    below = focused()
    assert below > 2
    page.keyboard.press("ArrowUp")
    assert focused() == 1
    page.keyboard.press("End")
    assert focused() > 20
    page.keyboard.press("Home")
    assert focused() == 0
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[open] .facts")
    name = page.locator(".facts .name").inner_text()
    shoot(page, "viewer")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f".facts .name:not(:text-is('{name}'))")
    page.keyboard.press("Escape")
    page.wait_for_selector("#viewer", state="hidden")
    assert focused() == 1
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    assert page.locator("#words").evaluate("field => field === document.activeElement")


def test_a_picture_large(open_page: Open, gallery: Path) -> None:
    page = open_page("/?q=boats")
    page.wait_for_selector(SAID)
    page.locator(".tile").first.click()
    page.wait_for_selector("#viewer[open] .fitting li")
    best = id_of(gallery, "boats")
    with mmsearch.open(gallery, device="cpu") as library:
        record = library.image(best)
        own = library.image_captions(best)[0].body
    about = page.locator("#viewer-about")
    assert about.locator("h2").inner_text() == own
    assert about.locator(".by").first.inner_text() == "written for this picture"
    assert about.locator(".facts .name").inner_text() == Path(record.path).name
    assert f"{record.info.width} × {record.info.height}" in about.inner_text()
    assert own not in about.locator(".fitting li").all_inner_texts()
    page.wait_for_selector("#viewer-image[src*='/file']")
    about.locator(".fitting a").first.click()
    page.wait_for_selector("#viewer", state="hidden")
    page.wait_for_url("**/?q=drawing*")


def test_a_picture_given_finds_itself(open_page: Open, gallery: Path) -> None:
    with mmsearch.open(gallery, device="cpu") as library:
        record = library.search("boats", k=1)[0].image
    page = open_page("/")
    page.wait_for_selector(".tile.shown")
    give(page, Path(record.path))
    page.wait_for_url("**/?like=drop-*-1")
    page.wait_for_selector(SAID)
    assert shown_ids(page)[0] == record.id
    assert page.locator(".chip img").get_attribute("src").startswith("blob:")  # type: ignore[union-attr]
    page.locator("#words").fill("at night")
    page.wait_for_url("**/?q=at+night&like=drop-*-1")
    page.get_by_role("button", name="Remove from the search").click()
    page.wait_for_url("**/?q=at+night")
    # Its file is not in the address: after a reload the page says so.
    page.go_back()
    page.reload()
    page.wait_for_selector("#note:has-text('Drop it here once more')")
    lost = page.url
    give(page, Path(record.path))
    page.wait_for_selector(SAID)
    assert page.url != lost
    assert page.locator(".chip").count() == 1
    # Of another picture, its entry knows nothing.
    page.go_back()
    page.wait_for_selector("#note:has-text('That picture is not here any more')")
    assert page.locator(".tile").count() == 0
    page.get_by_role("button", name="Leave it out").click()
    page.wait_for_selector(SAID)
    assert page.url.endswith("/?q=at+night")


@pytest.mark.parametrize("address", ["/?q=boats&like=drop-1", "/?unlike=drop-1,drop-abc-2"])
def test_a_lost_picture_is_replaced_by_the_one_dropped(
    open_page: Open, gallery: Path, address: str
) -> None:
    known = id_of(gallery, "boats")
    with mmsearch.open(gallery, device="cpu") as library:
        path = Path(library.image(known).path)
    page = open_page(address)
    page.wait_for_selector("#note:has-text('here once more')")
    with page.expect_request("**/v1/search/image"):
        drop(page, path)
    page.wait_for_selector("#note:has-text('here once more')", state="hidden")
    assert page.locator(".chip").count() == 1
    assert page.locator(".chip .lost").count() == 0
    assert re.search(r"[?&]like=drop-\w+-1$", page.url)


def test_captions_for_a_dropped_picture(open_page: Open, gallery: Path) -> None:
    with mmsearch.open(gallery, device="cpu") as library:
        record = library.search("boats", k=1)[0].image
        best = [hit.text.body for hit in library.captions(Path(record.path), k=100)]
    page = open_page("/?view=captions")
    page.get_by_role("button", name="Drop a picture here").wait_for()
    shoot(page, "captions-invite")
    drop(page, Path(record.path))
    rows = page.locator(".texts.large .text > a")
    rows.first.wait_for()
    assert rows.all_inner_texts() == best[:20]
    assert page.locator("figure img").get_attribute("alt") == "Your picture dropped.png"
    assert page.locator("#drop").is_hidden()
    shoot(page, "captions")
    page.get_by_role("button", name="Show more").click()
    page.wait_for_selector(".texts.large li:nth-child(100)")
    assert rows.all_inner_texts() == best


def test_captions_of_a_picture_of_the_library(open_page: Open, gallery: Path) -> None:
    with mmsearch.open(gallery, device="cpu") as library:
        known = library.search("boats", k=1)[0].image.id
        own = library.image_captions(known)[0].body
    page = open_page(f"/?like={known}&view=captions")
    first = page.locator(".texts.large .text").first
    first.wait_for()
    assert first.locator("a").first.inner_text() == own
    assert first.locator(".by").inner_text() == "written for this picture"
    assert page.locator(".text.linked").count() == 1
    first.locator(".thumbs a").click()
    page.wait_for_selector("#viewer[open] .facts")
    page.keyboard.press("Escape")
    page.wait_for_url(f"**/?like={known}&view=captions")


def test_captions_are_asked_as_they_stand(open_page: Open) -> None:
    def say(route: Route) -> None:
        answer = route.fetch(post_data=route.request.post_data_json | {"min_relevance": 0})
        found = answer.json()
        for hit in found["hits"]:
            if "text" in hit:
                hit["text"] = "Paris -  Eiffel\nTower"
            else:
                hit["captions"] = ["- a list item"]
        route.fulfill(response=answer, json=found)

    def is_no_wall(request: Request) -> bool:
        """Of the start there may be another page on its way."""
        is_search = request.url.endswith("/v1/search")
        return is_search and request.post_data_json["parts"][0].get("text") != "a photo"

    page = open_page("/?q=boats&view=captions")
    page.route("**/v1/search", say)
    page.reload()
    for address, link, text in [
        ("/?q=boats&view=captions", ".texts.large .text > a", "Paris - Eiffel Tower"),
        ("/", "#aside a", "- a list item"),
    ]:
        page.goto(page.url.partition("/?")[0] + address)
        page.locator(link).first.wait_for()
        with page.expect_request(is_no_wall) as first:
            page.locator(link).first.click()
        assert first.value.post_data_json["parts"] == [{"text": text, "weight": 1}]
        page.wait_for_selector(SAID)
        # Neither the box nor the address makes another question of it.
        at = page.url
        page.locator("#words").press("Enter")
        page.locator("#words").blur()
        assert page.url == at
        assert page.locator("#pills .pill").count() == 0
        with page.expect_request(is_no_wall) as again:
            page.reload()
        assert again.value.post_data_json["parts"] == [{"text": text, "weight": 1}]


def test_the_invitation_has_its_width_again_without_a_picture(
    open_page: Open, gallery: Path
) -> None:
    page = open_page(f"/?view=captions&like={id_of(gallery, 'boats')}")
    page.wait_for_selector(".with-picture .texts")
    page.get_by_role("button", name="Remove from the search").click()
    page.wait_for_selector(".invite")
    wide = page.locator("#captions").evaluate("box => box.clientWidth")
    assert page.locator(".invite").evaluate("button => button.offsetWidth") == wide


def test_texts_for_another_question_are_seen_to_be_old(open_page: Open, gallery: Path) -> None:
    first, second = ids_of(gallery, "boats", 2)
    held: list[Route] = []
    page = open_page("/?view=captions&q=boats")
    page.wait_for_selector(".texts.large li")
    page.route("**/v1/search", lambda route: held.append(route))
    page.locator("#words").fill("kites")
    until(page, "getComputedStyle(document.querySelector('.texts')).opacity < 0.5")
    keep_weak(until_held(page, held))
    until(page, "getComputedStyle(document.querySelector('.texts')).opacity == 1")
    # Beside a picture those of another have no place.
    page = open_page(f"/?view=captions&like={first}")
    page.wait_for_selector(".with-picture .texts")
    held.clear()
    page.route("**/v1/images/*/captions*", lambda route: held.append(route))
    drop(page, second)
    page.wait_for_selector(f"figure img[src*='/{second}/']")
    assert page.locator(".texts").count() == 0
    until_held(page, held).continue_()
    page.wait_for_selector(".texts.large li")


def test_words_find_texts_in_the_second_view(open_page: Open) -> None:
    page = open_page("/?q=drawing+number+7&view=captions")
    page.wait_for_selector(".texts.large li")
    page.locator("#view-pictures").click()
    page.wait_for_url("**/?q=drawing+number+7")
    page.wait_for_selector(SAID)


def test_words_that_no_text_matches(open_page: Open) -> None:
    asked: list[float] = []

    def nothing(route: Route) -> None:
        least = route.request.post_data_json.get("min_relevance")
        if least is None:  # the wall's own question, from before the words
            route.continue_()
            return
        asked.append(least)
        document = {"hits": [], "allowed": 5, "cut": 5, "took_ms": 1, "nearest": 0.2}
        if least == 0:
            route.continue_()
        else:
            route.fulfill(json=document)

    page = open_page("/")
    page.route("**/v1/search", nothing)
    page.goto(page.url + "?view=captions&q=xyzzy")
    page.wait_for_selector("#note:has-text('Nothing in this library matches')")
    assert "5 texts were compared." in page.locator("#note").inner_text()
    page.get_by_role("button", name="Show what comes nearest").click()
    page.wait_for_url("**all=1**")
    page.wait_for_selector(".texts.large li")
    assert page.locator("#note").is_hidden()
    assert asked[-2:] == [0.5, 0]


def test_texts_that_match_less_surely_can_be_shown(open_page: Open) -> None:
    page = open_page("/")

    def few(route: Route) -> None:
        asked = route.request.post_data_json
        if not asked.get("min_relevance"):
            route.continue_()
            return
        document = route.fetch(post_data=asked | {"min_relevance": 0}).json()
        route.fulfill(json=document | {"hits": document["hits"][:2], "cut": 3})

    page.route("**/v1/search", few)
    page.goto(page.url + "?view=captions&q=boats")
    page.get_by_role("button", name="Show it all the same").click()
    page.wait_for_url("**all=1**")
    page.locator(".texts.large li").nth(19).wait_for()


def test_what_cannot_be_read_is_told(open_page: Open, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    page = open_page("/")
    page.wait_for_selector(".tile.shown")
    give(page, broken)
    page.wait_for_selector("#note:has-text('That did not work')")
    assert "not a picture" in page.locator("#note").inner_text()
    assert page.locator(".tile").count() == 0
    # What the browser cannot show is named by its kind.
    assert page.locator(".chip .lost").inner_text() == "PNG"
    page.get_by_role("button", name="Leave the picture out").click()
    page.wait_for_selector(".tile.shown")
    assert page.locator(".chip").count() == 0


def test_of_several_pictures_the_one_that_cannot_be_read_is_named(
    open_page: Open, gallery: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with mmsearch.open(gallery, device="cpu") as library:
        good = Path(library.search("boats", k=1)[0].image.path)
    page = open_page("/")
    page.wait_for_selector(".tile.shown")
    give(page, good, broken)
    page.wait_for_selector("#note:has-text('broken.png: not a picture')")
    assert page.locator("#said").inner_text() == "broken.png: not a picture mmsearch can read"
    page.get_by_role("button", name="Leave the picture out").click()
    page.wait_for_url("**/?like=drop-*-1")
    page.wait_for_selector("#note", state="hidden")
    page.wait_for_selector("#grid:not(.stale)")
    assert page.locator(".chip img").count() == 1


@pytest.mark.parametrize("view", ["pictures", "captions"])
def test_a_picture_that_left_the_library_can_be_left_out(
    browser: Browser, server: Server, gallery: Path, view: str
) -> None:
    known = id_of(gallery, "boats")
    page = browser.new_page()
    for address, left in [
        ("?like=999999", "view=captions" if view == "captions" else ""),
        (f"?like={known},999999", f"like={known}"),
    ]:
        page.goto(f"{server.url}/{address}&view={view}")
        page.wait_for_selector("#note:has-text('no image 999999')")
        page.get_by_role("button", name="Leave the picture out").click()
        page.wait_for_selector("#note", state="hidden")
        assert left in page.url
        assert "999999" not in page.url
    page.close()


def test_errors_are_said_aloud(open_page: Open) -> None:
    page = open_page("/?where=foo%3Abar")
    page.wait_for_selector("#note:has-text('That did not work')")
    said = page.locator("#said").inner_text()
    assert said
    # It is to be read below.
    assert said in page.locator("#note").inner_text()
    assert page.locator("#said").evaluate("said => said.offsetWidth") == 1
    page.get_by_role("button", name="Take the filters off").click()
    page.wait_for_selector(".tile.shown")
    assert page.locator("#said").inner_text() == ""


def test_one_picture_was_compared(open_page: Open) -> None:
    page = open_page("/")
    said = """async (n) => {
      const { noteNothing } = await import("/assets/notes.js");
      noteNothing({ what: "picture", allowed: n, onNearest: () => {}, onUnfiltered: () => {} });
      return document.querySelector("#note p").textContent;
    }"""
    assert page.evaluate(said, 1) == "1 picture passed the filters and was compared."
    assert page.evaluate(said, 2) == "2 pictures passed the filters and were compared."


def test_a_filter_that_makes_no_sense_can_be_taken_off(open_page: Open) -> None:
    page = open_page("/?where=(((")
    page.wait_for_selector("#note:has-text('not understood')")
    # It would be refused again.
    assert page.get_by_role("button", name="Try again").count() == 0
    page.get_by_role("button", name="Take the filters off").click()
    page.wait_for_selector(".tile.shown")
    assert page.locator(".pill").count() == 0


def test_a_server_that_stops_and_comes_back(open_page: Open, server: Server) -> None:
    page = open_page("/?q=boats")
    page.wait_for_selector(SAID)
    before = shown_ids(page)
    server.stop()
    page.locator("#words").fill("kites")
    page.wait_for_selector("#banner:has-text('does not answer')")
    # What was found last is still there to look at.
    assert shown_ids(page) == before
    shoot(page, "server-gone")
    retry = page.locator("#banner-retry")
    assert retry.is_visible()
    server.start()
    # Not by the mouse, for which it must be seen: the page may have gone on by itself meanwhile.
    retry.evaluate("button => button.click()")
    page.wait_for_selector("#banner", state="hidden")
    page.wait_for_selector(SAID)
    page.go_back()
    page.wait_for_url("**/?q=boats")
    page.wait_for_selector(f".tile[data-id='{before[0]}']")


def boats_without_pictures(page: Page, refuses: Callable[[int], bool]) -> Counter[str]:
    """Searches while pictures fail; how often each was asked for, which goes on being counted.

    refuses: whether a picture fails that is asked for the nth time.
    """
    asked: Counter[str] = Counter()

    def answer(route: Route) -> None:
        asked[route.request.url] += 1
        if refuses(asked[route.request.url]):
            route.abort("connectionrefused")
        else:
            route.continue_()

    start = page.url
    page.goto("about:blank")  # what the start still asks for is not counted
    page.route("**/v1/images/**", answer)
    page.goto(f"{start}?q=boats")
    page.wait_for_selector(".tile.gone")
    return asked


def test_pictures_that_failed_while_the_service_was_away_come_once_it_is_back(
    open_page: Open,
) -> None:
    is_away = True
    page = open_page("/")
    asked = boats_without_pictures(page, lambda times: is_away)
    # The service is there: what it does not give it is asked for once more, and then no longer.
    for _ in range(200):
        if set(asked.values()) == {2}:
            break
        page.wait_for_timeout(100)
    page.wait_for_timeout(1_500)
    assert page.locator(".tile.shown").count() == 0
    assert set(asked.values()) == {2}
    assert page.locator("#banner").is_hidden()
    page.route("**/v1/status", lambda route: route.abort("connectionrefused"))
    page.locator("#words").fill("kites")
    page.wait_for_selector("#banner:has-text('does not answer')")
    is_away = False
    page.unroute("**/v1/status")
    page.wait_for_selector("#banner", state="hidden")
    page.wait_for_selector(".tile.shown")
    page.wait_for_selector(".tile.gone", state="detached")


def test_a_short_absence_of_the_service_is_made_up_for(open_page: Open) -> None:
    page = open_page("/")
    boats_without_pictures(page, lambda times: times == 1)
    page.wait_for_selector(".tile.gone", state="detached")
    page.wait_for_selector(".tile.shown")
    page.locator(".tile").nth(3).click()
    until(page, "document.querySelector('#viewer-image').src.includes('file')")
    assert page.locator("#viewer-away").is_hidden()


def test_an_open_picture_and_open_filters_go_on_once_the_service_is_back(
    open_page: Open, server: Server
) -> None:
    page = open_page("/?q=boats")
    page.wait_for_selector(".tile.shown")
    other = open_page("/?q=boats")
    other.wait_for_selector(SAID)
    server.stop()
    page.locator(".tile").first.click()
    other.locator("#filters-open").click()
    page.wait_for_selector("#viewer-away:text-is('mmsearch does not answer.')")
    other.wait_for_selector("#banner:has-text('does not answer')")
    assert other.locator("#where-problem").is_hidden()
    server.start()
    page.wait_for_selector("#viewer-away", state="hidden")
    until(page, "document.querySelector('#viewer-image').src.includes('file')")
    until(page, "document.querySelector('#viewer-image').naturalWidth > 0")
    other.wait_for_selector(".choice")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(open_page: Open, scheme: str) -> None:
    page = open_page(
        "/?q=boats",
        viewport={"width": 390, "height": 844},
        is_mobile=True,
        has_touch=True,
        color_scheme=scheme,
    )
    page.wait_for_selector(SAID)
    page.wait_for_selector(".tile.shown")
    shoot(page, f"phone-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator(".tile").first.tap()
    page.wait_for_selector("#viewer[open] .facts")
    shoot(page, f"phone-viewer-{scheme}")
    page.get_by_role("button", name="Close").tap()
    page.wait_for_selector("#viewer", state="hidden")


def swipe(page: Page, x: int, y: int) -> None:
    """A finger goes so far over the picture."""
    client = page.context.new_cdp_session(page)
    for kind, part in [("touchStart", 0.0), ("touchMove", 0.5), ("touchMove", 1.0)]:
        points = [{"x": 200 + x * part, "y": 100 + y * part}]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_only_a_swipe_to_the_side_turns_the_picture(open_page: Open) -> None:
    size = {"width": 390, "height": 844}
    page = open_page("/?q=boats", viewport=size, is_mobile=True, has_touch=True)
    page.wait_for_selector(".tile.shown")
    page.locator(".tile").nth(1).tap()
    page.wait_for_selector("#viewer[open] .facts")
    at = page.url
    swipe(page, 80, 230)
    page.wait_for_timeout(300)
    assert page.url == at
    swipe(page, -120, 10)
    until(page, f"location.href !== '{at}'")


@pytest.mark.parametrize("width", [390, 800, 1000])
def test_the_arrows_of_a_picture_are_seen_in_small_windows(open_page: Open, width: int) -> None:
    page = open_page("/?q=boats", viewport={"width": width, "height": 700})
    page.wait_for_selector(".tile.shown")
    page.locator(".tile").nth(1).click()
    page.wait_for_selector("#viewer[open] .facts")
    shoot(page, f"arrows-{width}")
    look = "button => [getComputedStyle(button).backgroundColor, getComputedStyle(button).color]"
    close = page.locator("#viewer-close").evaluate(look)
    for arrow in ("#viewer-back", "#viewer-on"):
        page.mouse.move(0, 0)
        assert page.locator(arrow).evaluate(look) == close


def test_further_captions_are_no_links(open_page: Open) -> None:
    page = open_page("/")
    open_first(page, captions=["the first", "another"])
    another = page.locator("#viewer-about p:text-is('another')")
    another.wait_for()
    assert another.evaluate("text => getComputedStyle(text).textDecorationLine") == "none"


def test_the_focus_is_not_lost_with_what_had_it(open_page: Open) -> None:
    page = open_page("/?q=boats")
    page.wait_for_selector(SAID)
    page.locator(".tile").first.focus()
    page.keyboard.press("+")
    page.wait_for_selector("#grid.stale", state="detached")
    page.wait_for_selector(".chip")
    focused = "document.activeElement.id"
    until(page, f"{focused} === 'results'")
    # From there the arrows lead to the pictures, as from nowhere.
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.index") == "0"
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[open] .facts")
    page.get_by_role("button", name="Less like this").press("Enter")
    page.wait_for_selector(".chip.minus")
    until(page, f"{focused} === 'results'")
    page.locator("#filters-open").click()
    page.locator(".choice").first.press("Enter")
    page.wait_for_selector(".sum .quiet:not([hidden])")
    page.locator(".sum .quiet").press("Enter")
    until(page, f"{focused} === 'results'")
    page.goto(page.url.partition("?")[0] + "?where=taken:1950")
    page.get_by_role("button", name="Take the filters off").press("Enter")
    until(page, f"{focused} === 'results'")


def test_an_empty_library_says_what_to_do(browser: Browser, tmp_path: Path) -> None:
    from mmsearch.library import CATALOG_NAME
    from mmsearch.store import CatalogWriter

    CatalogWriter(tmp_path / CATALOG_NAME).close()
    server = Server(tmp_path)
    try:
        page = browser.new_page()
        page.goto(server.url)
        page.wait_for_selector("#note code:has-text('mmsearch index')")
        shoot(page, "empty")
        page.close()
    finally:
        server.stop()


def test_another_library_behind_the_same_address(open_page: Open) -> None:
    page = open_page("/?q=boats")
    page.wait_for_selector(SAID)
    page.locator(".tile").nth(0).locator(".tick").click(force=True)
    page.wait_for_selector("#bar-count:has-text('1 picture selected')")
    page.locator(".tile").nth(1).click()
    page.wait_for_selector("#viewer[open] .facts")
    asked = []
    page.on("request", lambda request: asked.append(request.url))

    def other(route: Route) -> None:
        # It holds as many, by the same model.
        route.fulfill(json=route.fetch().json() | {"library": "/another/library"})

    page.route("**/v1/status", other)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_selector("#viewer", state="hidden")
    page.wait_for_url("**/?q=boats")
    page.wait_for_selector("#bar", state="hidden")
    until(page, "document.querySelector('#holds').title === '/another/library'")
    page.wait_for_selector(SAID)
    assert any(url.endswith("/v1/search") for url in asked)
