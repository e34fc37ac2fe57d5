"""Questions that wait for a thread are compared by the first that gets one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import pytest

from mmsearch.query import Question, Term
from mmsearch.serve.together import LEAST, Together
from mmsearch.types import Modality

DEADLINE_S = 30


def question(number: int) -> Question:
    return Question((Term(text=str(number)),))


class Compared:
    """What was compared at once."""

    def __init__(self) -> None:
        self.batches: list[tuple[Modality, list[str | None]]] = []

    def __call__(self, modality: Modality, questions: Sequence[Question]) -> None:
        self.batches.append((modality, [one.terms[0].text for one in questions]))


def entered(
    stack: ExitStack, together: Together, numbers: range, modality: Modality = "image"
) -> list[Callable[[], None]]:
    return [stack.enter_context(together.waiting(modality, question(n))) for n in numbers]


def test_the_first_takes_those_behind_it() -> None:
    compared = Compared()
    together = Together(compared, most=LEAST + 2)
    with ExitStack() as stack:
        begin = entered(stack, together, range(LEAST + 5))
        begin[0]()
        assert compared.batches == [("image", [str(n) for n in range(LEAST + 2)])]
        for each in begin[1:]:  # three are left: too few
            each()
        assert len(compared.batches) == 1


def test_few_are_asked_one_by_one() -> None:
    compared = Compared()
    together = Together(compared, most=32)
    with ExitStack() as stack:
        for begin in entered(stack, together, range(LEAST - 1)):
            begin()
    assert compared.batches == []


def test_pictures_and_texts_apart() -> None:
    compared = Compared()
    together = Together(compared, most=32)
    with ExitStack() as stack:
        pictures = entered(stack, together, range(LEAST))
        texts = entered(stack, together, range(LEAST), "text")
        for begin in (*texts, *pictures):
            begin()
    assert [modality for modality, _ in compared.batches] == ["text", "image"]


def test_who_is_gone_is_not_compared() -> None:
    compared = Compared()
    together = Together(compared, most=32)
    with ExitStack() as stack:
        with ExitStack() as gone:
            entered(gone, together, range(100, 120))
        begin = entered(stack, together, range(LEAST))
        begin[0]()
    assert compared.batches == [("image", [str(n) for n in range(LEAST)])]


@pytest.mark.parametrize("fails", [False, True])
def test_the_others_wait_for_the_one_that_compares(fails: bool) -> None:
    began, may_end = threading.Event(), threading.Event()

    def compare(modality: Modality, questions: Sequence[Question]) -> None:
        began.set()
        assert may_end.wait(DEADLINE_S)
        if fails:
            raise RuntimeError("the disk is gone")

    together = Together(compare, most=32)
    order: list[str] = []

    def first(begin: Callable[[], None]) -> None:
        try:
            begin()
        except RuntimeError:
            assert fails

    def second(begin: Callable[[], None]) -> None:
        begin()
        order.append("second")

    with ExitStack() as stack:
        begin = entered(stack, together, range(LEAST))
        threads = [threading.Thread(target=first, args=(begin[0],))]
        threads[0].start()
        assert began.wait(DEADLINE_S)
        threads.append(threading.Thread(target=second, args=(begin[1],)))
        threads[1].start()
        order.append("comparing")
        may_end.set()
        for thread in threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
    assert order == ["comparing", "second"]
