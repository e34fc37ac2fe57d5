"""Questions asked together are answered as they are one by one, each for itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from mmsearch.errors import (
    DecodeError,
    MmsearchError,
    NotFoundError,
    QueryError,
    SpaceMismatchError,
    StoreError,
)
from mmsearch.index import flat, scan
from mmsearch.library import Library
from mmsearch.query import Question, Term
from mmsearch.types import Answer, Modality

WORDS = ["red", "two green circles", "a yellow star above a blue one", "postcard", "nothing at all"]


def question(text: str, **options: Any) -> Question:
    return Question((Term(text=text),), **({"k": 7} | options))


def mixed(dim: int) -> list[Question]:
    return [
        *(question(text) for text in WORDS),
        question("postcard", k=3, offset=4),
        question("red", min_relevance=0.4),
        question("red", words=False, exact=True),
        question("blue", where=None, diversity=0.5),
        question("blue", k=40),
        Question((Term(text="red"), Term(text="star", weight=-0.5)), k=5),
        Question((Term(image_id=1), Term(text="night", weight=0.3)), k=5),
        Question((Term(vector=tuple(np.eye(dim)[3])),), k=5),
    ]


@pytest.fixture(autouse=True)
def _any_index_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "LARGE", 1)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_as_one_by_one_to_the_bit(postcard_library: Library, modality: Modality) -> None:
    assert postcard_library.space is not None
    asked = mixed(postcard_library.space.dim)
    postcard_library.keep_texts([t.text for one in asked for t in one.terms if t.text is not None])
    ask: Any = postcard_library.ask if modality == "image" else postcard_library.ask_texts
    alone = [ask(one) for one in asked]
    assert any(answer.hits for answer in alone)
    assert postcard_library.ask_many(modality, asked) == alone
    assert postcard_library.ask_many(modality, asked[::-1]) == alone[::-1]
    assert postcard_library.ask_many(modality, []) == []


def test_what_is_wrong_with_one_is_told_to_that_one(postcard_library: Library) -> None:
    good = question("red")
    asked = [
        good,
        Question((Term(image_id=10**9),)),
        Question((Term(text="red"), Term(text="red", weight=-1))),
        good,
    ]
    answers = postcard_library.ask_many("image", asked)
    assert isinstance(answers[1], NotFoundError)
    assert isinstance(answers[2], QueryError)
    assert answers[0] == answers[3] == postcard_library.ask(good)
    grouped = postcard_library.ask_many("text", [question("red", group=True), good])
    assert isinstance(grouped[0], QueryError)
    assert isinstance(grouped[1], Answer)


@pytest.mark.parametrize("wrong", ["a picture", "words"])
def test_what_fails_is_tried_once(
    postcard_library: Library, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that does not stop decoding takes all its time each time."""
    tries: list[int] = []

    def fails(*_: Any) -> Any:
        tries.append(1)
        raise DecodeError("a.jpg", "no picture") if wrong == "a picture" else StoreError("gone")

    if wrong == "a picture":
        monkeypatch.setattr(postcard_library._encoding, "query", fails)
    else:
        monkeypatch.setattr(postcard_library.catalog.words, "named", fails)
    with pytest.raises(DecodeError if wrong == "a picture" else StoreError):
        postcard_library.ask(question("red"))
    assert len(tries) == 1


def test_searches_that_move_to_another_model_meanwhile(
    postcard_library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again, in the space that searches use now."""
    asked, moved = question("red"), []
    right = postcard_library.ask(asked)
    answering, opened = postcard_library._answering, postcard_library._opened
    prepared, need = answering._prepared, opened.need

    def of_another_space(*given: Any) -> Any:
        found = prepared(*given)
        if moved:
            return found
        moved.append(1)
        return replace(found, space=replace(found.space, fingerprint="0" * 64))

    def in_another_space() -> Any:
        id_, space = need()
        return (id_, space) if moved else (id_ + 1, space)

    monkeypatch.setattr(answering, "_prepared", of_another_space)
    monkeypatch.setattr(opened, "need", in_another_space)
    assert postcard_library.ask_many("image", [asked, asked]) == [right, right]
    # Where nothing moved, it is told.
    moved.clear()
    monkeypatch.setattr(opened, "need", need)
    assert isinstance(postcard_library.ask_many("image", [asked])[0], SpaceMismatchError)


def test_searches_that_move_while_a_question_waits_for_the_indexes(
    postcard_library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the other space's background would be made of the indexes of this one."""
    asked = question("red")
    right = postcard_library.ask(asked)
    answering, opened = postcard_library._answering, postcard_library._opened
    prepared, searching, here = answering._prepared, opened.searching, opened.need()
    elsewhere = here[0] + 1, replace(here[1], fingerprint="0" * 64)
    tries: list[int] = []

    def preparing(*given: Any) -> Any:
        tries.append(1)
        return prepared(*given)

    def waiting() -> Any:
        if len(tries) == 1:
            opened._active = elsewhere
        return searching()

    def need() -> Any:
        if opened._active == elsewhere:  # and back, so that there are indexes to search
            opened._active = here
            return elsewhere
        return here

    monkeypatch.setattr(answering, "_prepared", preparing)
    monkeypatch.setattr(opened, "searching", waiting)
    monkeypatch.setattr(opened, "need", need)
    assert postcard_library.ask(asked) == right
    assert len(tries) == 2


def test_an_empty_library_is_told_to_all(tmp_path: Any) -> None:
    from mmsearch.store import CatalogWriter

    CatalogWriter(tmp_path / "catalog.db").close()
    with Library(tmp_path, device="cpu") as library:
        answers = library.ask_many("image", [question("red"), question("blue")])
    assert [type(answer).__name__ for answer in answers] == ["IndexMissingError"] * 2
    assert all(isinstance(answer, MmsearchError) for answer in answers)


def test_records_of_all_are_looked_up_at_once(postcard_library: Library) -> None:
    asked = [question(text, words=False) for text in WORDS]
    postcard_library.ask_many("image", asked)
    engine = postcard_library.catalog.engine

    def statements(questions: list[Question]) -> int:
        seen: list[str] = []

        def note(_c: Any, _u: Any, statement: str, *_: Any) -> None:
            seen.append(statement)

        event.listen(engine, "before_cursor_execute", note)
        try:
            postcard_library.ask_many("image", questions)
        finally:
            event.remove(engine, "before_cursor_execute", note)
        return len(seen)

    assert statements(asked) == statements(asked[:1])


def test_vectors_of_all_are_compared_at_once(
    postcard_library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    on_cpu = flat._on_cpu

    def noted(parts: Any, xq: Any, **how: Any) -> Any:
        compared.append(len(xq))
        return on_cpu(parts, xq, **how)

    monkeypatch.setattr(flat, "_on_cpu", noted)
    asked = [question(text, words=False) for text in WORDS]
    postcard_library.ask_many("image", asked)
    assert compared == [len(asked)]
