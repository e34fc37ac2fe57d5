"""Questions are sums of weighted parts: how they are written, and what they add up to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from collection import Indexed, encoded
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.cli import cli
from mmsearch.encode import load_encoder, load_text_encoder
from mmsearch.errors import NotFoundError, QueryError
from mmsearch.library import Library
from mmsearch.query import MAX_TERMS, Question, Term, parse_query, parse_terms, split_weight


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        ("beach", [("beach", 1)]),
        ("a red kite", [("a red kite", 1)]),
        ("beach + 0.5:sunset - people", [("beach", 1), ("sunset", 0.5), ("people", -1)]),
        ("2:old car - .5:red paint", [("old car", 2), ("red paint", -0.5)]),
        ("+ beach + sea", [("beach", 1), ("sea", 1)]),
        ("beach - 2:people", [("beach", 1), ("people", -2)]),
        # What only looks like signs and weights.
        ("3:10 to Yuma", [("3:10 to Yuma", 1)]),
        ("x-ray c++", [("x-ray c++", 1)]),
        ("-20 degrees", [("-20 degrees", 1)]),
        ("at 12: lunch", [("at 12: lunch", 1)]),
        # What a backslash makes only look like them.
        (r"Paris \- Eiffel Tower", [("Paris - Eiffel Tower", 1)]),
        (r"\- a list item + .5:\+ \\-", [("- a list item", 1), (r"+ \-", 0.5)]),
        (r"\2:old car - \\.5:x", [("2:old car", 1), (r"\.5:x", -1)]),
        (r"C:\x \-20 a\- \3:10", [(r"C:\x \-20 a\- \3:10", 1)]),
    ],
)
def test_parts_are_typed(typed: str, parts: list[tuple[str, float]]) -> None:
    assert [(term.text, term.weight) for term in parse_terms(typed.split(" "))] == parts
    assert [(term.text, term.weight) for term in parse_query(typed)] == parts


@pytest.mark.parametrize("typed", ["beach +", "+ - beach", "beach - ", "a + + b"])
def test_a_sign_without_words(typed: str) -> None:
    with pytest.raises(QueryError, match="no words after"):
        parse_terms(typed.split())


@pytest.mark.parametrize("blank", ["", " ", "\t \n"])
def test_blanks_are_no_words_after_a_sign(blank: str) -> None:
    with pytest.raises(QueryError, match="no words to search for"):
        parse_query(blank)
    assert parse_terms([blank]) == []
    assert parse_terms([blank, "-", "people"]) == [Term(text="people", weight=-1)]


def test_whole_numbers_of_any_kind() -> None:
    asked = Question((Term(image_id=np.int64(7)),), k=np.uint8(3), offset=np.int32(2))
    given = [asked.terms[0].image_id, asked.k, asked.offset]
    assert given == [7, 3, 2]
    assert {type(number) for number in given} == {int}


@pytest.mark.parametrize("wrong", ["3", None, 1.5, np.float64(3), [3], np.arange(2)])
def test_what_is_no_whole_number(wrong: Any) -> None:
    for name in ("k", "offset"):
        with pytest.raises(QueryError, match=f"{name} is a whole number, not"):
            Question((Term("x"),), **{name: wrong})
    with pytest.raises(QueryError):
        Term(image_id=wrong)


@given(st.text(max_size=50))
def test_any_line_is_understood_or_refused(line: str) -> None:
    try:
        terms = parse_query(line)
    except QueryError:
        return
    assert all(term.text and term.text.strip() and term.weight for term in terms)


def test_weights() -> None:
    assert split_weight("0.5:sunset") == (0.5, "sunset")
    assert split_weight("sunset") == (1.0, "sunset")
    assert split_weight("1:2:3") == (1.0, "1:2:3")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Term(),
        lambda: Term(text="x", image_id=1),
        lambda: Term(text="  "),
        lambda: Term(text="x", weight=0),
        lambda: Term(text="x", weight=float("nan")),
        lambda: Term(text="x", weight=float("inf")),
        lambda: Term(text="x", weight=101),
        lambda: Question(()),
        lambda: Question((Term(text="x", weight=-1),)),
        lambda: Question((Term(text="x"),) * (MAX_TERMS + 1)),
        lambda: Question((Term(text="x"),), k=0),
        lambda: Question((Term(text="x"),), offset=-1),
        lambda: Question((Term(text="x"),), min_relevance=1.5),
        lambda: Question((Term(text="x"),), diversity=1),
        lambda: Question((Term(text="x"),), min_relevance=float("nan")),
        lambda: Question((Term(text="x"),), min_score=float("nan")),
        lambda: Question((Term(text="x"),), min_score=float("inf")),
        lambda: Question((Term(text="x"),), min_score=1.5),
        lambda: Question((Term(text="x"),), min_score=float("-inf")),
    ],
)
def test_what_makes_no_sense(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(QueryError):
        wrong()


def plain(*terms: Term, k: int = 20) -> Question:
    return Question(terms, k=k, words=False, expand=False)


def test_a_question_is_the_sum_of_its_parts(
    postcard_library: Library, postcards: Indexed, model: str, tmp_path: Path
) -> None:
    library = postcard_library
    texts = load_text_encoder(model)
    new = tmp_path / "new.png"
    new.write_bytes(encoded(5))
    asked = sorted(postcards.pictures.glob("*.jpg"))[3]
    known = library.search(image=asked, k=1)[0].image.id
    space = library.catalog.active_space()
    assert space is not None
    stored = library.catalog.vectors.get(space[0], known)
    assert stored is not None
    encoder = load_encoder(model, device="cpu")
    from mmsearch.decode import decode

    pixels = decode(encoded(5), source="", min_side=2 * encoder.image_size).pixels
    seen = encoder.encode_images(encoder.preprocess(pixels)[None])
    beach, people = texts.encode_texts(["beach"]), texts.encode_texts(["people"])
    total = beach + 0.5 * stored - 0.75 * people + 2 * seen
    total /= np.linalg.norm(total)
    terms = (
        Term(text=" beach "),
        Term(image_id=known, weight=0.5),
        Term(text="people", weight=-0.75),
        Term(image=new, weight=2),
    )
    ids, vectors = next(iter(library.catalog.vectors.of(space[0], range(1, 10_000))))
    images = set(library.catalog.image_records(ids.tolist())) - {known}
    scores = {
        int(id_): float(vector @ total[0])
        for id_, vector in zip(ids, vectors.astype(np.float32), strict=True)
        if int(id_) in images
    }
    want = sorted(scores, key=lambda id_: (-scores[id_], id_))[:20]
    answer = library.ask(plain(*terms))
    assert [hit.image.id for hit in answer.hits] == want
    assert [hit.score for hit in answer.hits] == pytest.approx([scores[i] for i in want], abs=1e-3)
    # Order and rescaling of the parts are of no matter.
    double = [
        Term(term.text, term.image, term.image_id, term.weight * 2) for term in reversed(terms)
    ]
    assert [hit.image.id for hit in library.ask(plain(*double)).hits] == want


def test_parts_that_cancel_out(postcard_library: Library) -> None:
    with pytest.raises(QueryError, match="cancel"):
        postcard_library.ask(plain(Term(text="sea"), Term(text="sea", weight=-1)))
    with pytest.raises(NotFoundError):
        postcard_library.ask(plain(Term(image_id=10**9)))


def test_the_terminal_asks_the_same(postcard_library: Library, postcards: Indexed) -> None:
    picture = sorted(postcards.pictures.glob("*.jpg"))[7]
    like, unlike = (hit.image.id for hit in postcard_library.search("a house", k=2))
    typed = ["search", "--json", "-k", "7", "--all", "--no-words", "--no-expand"]
    typed += ["-l", str(postcard_library.path), "beach", "at", "night", "+", "0.5:kite", "-", "sea"]
    typed += ["-i", f"0.25:{picture}", "-i", f"-0.5:{picture}"]
    typed += ["--like", f"0.5:{like}", "--unlike", str(unlike), "--unlike", f".25:{unlike}"]
    done = CliRunner().invoke(cli, typed, catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    terms = (
        Term(text="beach at night"),
        Term(text="kite", weight=0.5),
        Term(text="sea", weight=-1),
        Term(image=picture, weight=-0.25),
        Term(image_id=like, weight=0.5),
        Term(image_id=unlike, weight=-1.25),
    )
    said = json.loads(done.stdout)
    found = postcard_library.ask(plain(*terms, k=7)).hits
    assert [hit["id"] for hit in said["hits"]] == [hit.image.id for hit in found]
    assert [part["weight"] for part in said["parts"]] == [1, 0.5, -1, 0.25, -0.5, 0.5, -1, -0.25]
    assert not {like, unlike} & {hit["id"] for hit in said["hits"]}


def test_bad_parts_are_told_in_the_terminal(postcards: Indexed) -> None:
    for typed, says in (
        (["beach", "+"], "no words after"),
        (["-", "people"], "what to look for"),
        ([" "], "no words to search for"),
        (["kite", "--min-score", "nan"], "a least score is a number"),
        (["x", "-i", "0.5:nowhere.jpg"], "nowhere.jpg"),
        (["x", "-i", "-nowhere.jpg"], "nowhere.jpg"),
        (["--like", "one"], "'one' is neither the id of a picture"),
        (["--like", "x:1"], "'x:1' is neither"),
        (["--like", "0:1"], "and not 0"),
    ):
        done = CliRunner().invoke(cli, ["search", "-l", str(postcards.path), *typed])
        assert done.exit_code != 0
        assert says in f"{done.stderr} {done.exception}"
