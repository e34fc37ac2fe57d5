"""Short words in sentences: which queries are short, and what stands for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mmsearch import prompts
from mmsearch.errors import QueryError


class Said:
    """An encoder that remembers its calls; each text has a vector of its own."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(list(texts))
        return np.stack([vector(text) for text in texts])


def vector(text: str) -> np.ndarray:
    rng = np.random.default_rng(sum(text.encode()) * 1000 + len(text))
    v = rng.standard_normal(16).astype(np.float32)
    return v / np.linalg.norm(v)


def test_the_templates_are_those_of_open_clip() -> None:
    from open_clip.zero_shot_metadata import SIMPLE_IMAGENET_TEMPLATES

    assert prompts.fill(prompts.SIMPLE, "kite") == tuple(
        t("kite") for t in SIMPLE_IMAGENET_TEMPLATES
    )


@pytest.mark.parametrize(
    "text", ["kite", "red kite", "big red kite", "  red   kite ", "hot-air balloon"]
)
def test_short_words_are_put_into_sentences(text: str) -> None:
    assert prompts.expand(text)[3] == f"a photo of the large {' '.join(text.split())}."
    assert len(prompts.expand(text)) == 7


@pytest.mark.parametrize(
    "text",
    [
        "a kite",
        "photo of Anna",
        "kite over beach",
        "a red kite over a beach",
        "one two three four",
        "风筝",
        "красный змей",
        "café",
        "kite!",
        "IMG_2041",
    ],
)
def test_everything_else_stays_as_it_is(text: str) -> None:
    assert prompts.expand(text) == (text,)


def test_a_brace_in_a_name_is_no_template() -> None:
    assert prompts.fill(("a {} b",), "{0} {}") == ("a {0} {} b",)


def test_the_mean_is_that_of_the_definition_and_takes_one_call() -> None:
    encode = Said()
    groups = [("a", "b", "c"), ("b",), ("d", "a")]
    found = prompts.means(encode, groups)
    assert encode.calls == [["a", "b", "c", "d"]]
    for row, group in zip(found, groups, strict=True):
        total = sum(vector(text).astype(np.float64) for text in group)
        np.testing.assert_allclose(row, total / np.linalg.norm(total), atol=1e-6)
    np.testing.assert_array_equal(found[1], vector("b"))


def test_one_sentence_keeps_its_vector_to_the_bit() -> None:
    rounded = vector("b") * np.float32(1.0001)  # as a unit vector of half precision may be
    np.testing.assert_array_equal(prompts.means(lambda _: rounded[None], [("b",)])[0], rounded)


def test_sentences_that_cancel_out_are_told() -> None:
    with pytest.raises(QueryError, match="cancel"):
        prompts.means(lambda _: np.array([[1, 0], [-1, 0]], np.float32), [("a", "b")])
