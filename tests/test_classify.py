"""Zero-shot classification against the softmax written out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mmsearch import prompts
from mmsearch.classify import (
    BACKGROUND,
    Classifier,
    Guess,
    Label,
    Tally,
    checked,
    parse_labels,
    read_labels,
)
from mmsearch.errors import MmsearchError, QueryError, SourceError

LABELS = (Label("cat"), Label("dog", ("a dog", "a puppy")), Label("风筝"))


def vector(text: str) -> np.ndarray:
    rng = np.random.default_rng(abs(hash_of(text)))
    v = rng.standard_normal(24)
    return (v / np.linalg.norm(v)).astype(np.float32)


def hash_of(text: str) -> int:
    return int.from_bytes(text.encode()[:8], "big") + len(text)


def encode(texts: Sequence[str]) -> np.ndarray:
    return np.stack([vector(text) for text in texts])


def mean(texts: Sequence[str]) -> np.ndarray:
    total = sum(vector(text).astype(np.float64) for text in texts)
    return total / np.linalg.norm(total)


STANDS_FOR = [
    mean([template.replace("{}", "cat") for template in prompts.SIMPLE]),
    mean(["a dog", "a puppy"]),
    vector("风筝"),
]


def test_probabilities_are_the_softmax_of_scaled_cosines() -> None:
    classifier = Classifier.make(LABELS, encode, scale=30.0)
    items = encode(["one", "two", "three", "four"])
    shares, cosines = classifier.judge(items)
    for row, item in enumerate(items):
        scores = [float(np.dot(item, v)) for v in STANDS_FOR]
        total = sum(math.exp(30 * score) for score in scores)
        np.testing.assert_allclose(cosines[row], scores, atol=1e-6)
        np.testing.assert_allclose(
            shares[row], [math.exp(30 * score) / total for score in scores], atol=1e-5
        )
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)


def test_several_at_once_each_stand_against_the_background() -> None:
    classifier = Classifier.make(LABELS, encode, scale=30.0, multi=True)
    item = vector("an item")
    behind = float(np.dot(item, mean(BACKGROUND)))
    shares, _ = classifier.judge(item[None])
    for share, stands in zip(shares[0], STANDS_FOR, strict=True):
        a, b = math.exp(30 * float(np.dot(item, stands))), math.exp(30 * behind)
        assert share == pytest.approx(a / (a + b), abs=1e-5)


@pytest.mark.parametrize("multi", [False, True])
def test_a_huge_scale_overflows_nowhere(multi: bool) -> None:
    classifier = Classifier.make(LABELS, encode, scale=1e6, multi=multi)
    shares, _ = classifier.judge(encode(["x", "y"]))
    assert np.isfinite(shares).all()
    assert ((shares >= 0) & (shares <= 1)).all()


def test_guesses_are_ordered_even_where_probabilities_round_to_one() -> None:
    classifier = Classifier(
        ["far", "near", "nearest"],
        np.array([[0, 1], [0.8, 0.6], [1, 0]], np.float32),
        scale=1e5,
        background=np.array([[-1, 0]], np.float32),
    )
    guesses = classifier.guesses(np.array([[1, 0]], np.float32), 2)[0]
    assert [guess.label for guess in guesses] == ["nearest", "near"]
    assert [guess.probability for guess in guesses] == [1, 1]


def test_labels_are_read_with_their_prompts(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("\ufeff# things\ncat\n\n  dog\ta dog | a puppy\nhot  air balloon\n", "utf-8")
    assert read_labels(path) == (
        Label("cat"),
        Label("dog", ("a dog", "a puppy")),
        Label("hot air balloon"),
    )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "no labels"),
        (["", "# only"], "no labels"),
        (["cat", "cat "], "twice"),
        (["kite", "KITE"], "twice"),
        (["\ta prompt without a name"], "cannot be a tag"),
        (["x" * 201], "cannot be a tag"),
        (["cat\t" + "y" * 2001], "longer"),
        (["cat\t" + "|".join(map(str, range(101)))], "more than 100"),
        ([str(n) for n in range(10_001)], "10,001 labels"),
    ],
)
def test_what_cannot_be_labels_is_told(lines: list[str], said: str) -> None:
    with pytest.raises(MmsearchError, match=said):
        parse_labels(lines)


def test_a_file_that_cannot_be_labels(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not found"):
        read_labels(tmp_path / "none.txt")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00c")
    with pytest.raises(SourceError, match="UTF-8"):
        read_labels(tmp_path / "bad.txt")
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(QueryError, match=r"empty\.txt: there are no labels"):
        read_labels(tmp_path / "empty.txt")


def test_accuracy_top_5_and_confusion_are_counted() -> None:
    names = [str(n) for n in range(8)]
    rng = np.random.default_rng(3)
    truths = [*(str(n) for n in rng.integers(0, 8, 200)), "none of them"]
    ranked = [rng.permutation(names).tolist() for _ in truths]
    tally = Tally(names)
    for truth, order in zip(truths, ranked, strict=True):
        tally.add(truth, [Guess(name, 0.1, 0.0) for name in order[:5]])
    found = tally.assess()
    assert found is not None
    pairs = list(zip(truths, ranked, strict=True))[:-1]
    assert (found.items, found.unknown) == (200, 1)
    assert found.accuracy == sum(t == order[0] for t, order in pairs) / 200
    assert found.top5 == sum(t in order[:5] for t, order in pairs) / 200
    for truth in names:
        assert found.by_label[truth][0] == truths.count(truth)
        for guess in names:
            times = sum((t, order[0]) == (truth, guess) for t, order in pairs)
            assert found.confusion.get((truth, guess), 0) == times
    assert Tally(names).assess() is None


def test_the_truth_is_told_from_labels_as_labels_are_from_each_other() -> None:
    tally = Tally(["Kite", "caf\u00e9 noir"])
    for truth in ("kite", "KITE", "cafe\u0301  Noir", "kites"):
        tally.add(truth, [Guess("Kite", 0.9, 0.3), Guess("caf\u00e9 noir", 0.1, 0.2)])
    found = tally.assess()
    assert found is not None
    assert (found.items, found.unknown, found.accuracy) == (3, 1, 2 / 3)
    assert found.by_label == {"Kite": (2, 2), "caf\u00e9 noir": (1, 0)}


def test_names_are_cleaned_as_tags_are() -> None:
    assert checked([Label("  hot   air ")]) == (Label("hot air"),)
