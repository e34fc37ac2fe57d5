"""Measuring: the figures against the definitions, and the index against exact search."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from mmsearch import evaluate
from mmsearch.encode import presets, published
from mmsearch.errors import QueryError
from mmsearch.evaluate import Figures, figures, measure_index, rank, turned

Matrix = NDArray[np.float32]


def unit(x: NDArray[np.floating]) -> Matrix:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def by_definition(
    queries: Matrix, corpus: Matrix, relevant: Sequence[Sequence[int]]
) -> dict[str, float]:
    """The figures from full rankings in plain Python, one number at a time."""
    recalls: dict[int, list[float]] = {k: [] for k in (1, 5, 10)}
    hits: dict[int, list[float]] = {k: [] for k in (1, 5, 10)}
    best: list[int] = []
    for query, right in zip(queries.tolist(), relevant, strict=True):
        if not right:
            continue
        scores = [
            math.fsum(a * b for a, b in zip(query, item, strict=True)) for item in corpus.tolist()
        ]
        # Equal scores: what is wrong comes first. (Sums of this many terms err by less than 1e-12.)
        ranking = sorted(
            range(len(corpus)), key=lambda item: (-round(scores[item], 9), item in right)
        )
        for k in recalls:
            found = sum(item in right for item in ranking[:k])
            recalls[k].append(found / len(right))
            hits[k].append(1.0 if found else 0.0)
        best.append(1 + next(place for place, item in enumerate(ranking) if item in right))
    return {
        **{f"recall {k}": statistics.fmean(r) for k, r in recalls.items()},
        **{f"hit {k}": statistics.fmean(h) for k, h in hits.items()},
        "median": statistics.median(best),
        "mean": statistics.fmean(best),
        "mrr": statistics.fmean(1 / place for place in best),
    }


def flat(of: Figures) -> dict[str, float]:
    return {
        **{f"recall {k}": share for k, share in of.true_recall.items()},
        **{f"hit {k}": share for k, share in of.any_hit.items()},
        "median": of.median_rank,
        "mean": of.mean_rank,
        "mrr": of.mrr,
    }


def captions(rng: np.random.Generator, pictures: int, most: int) -> list[list[int]]:
    """For each picture the rows of its captions: none, or up to `most`, in no order."""
    counts = rng.integers(0, most + 1, pictures)
    rows = rng.permutation(int(counts.sum()))
    ends = np.cumsum(counts)
    return [rows[end - n : end].tolist() for end, n in zip(ends, counts, strict=True)]


@pytest.mark.parametrize("most", [6, 40], ids=["few answers", "up to forty answers"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ties", [False, True], ids=["all differ", "many are equal"])
def test_figures_are_those_of_the_definition(
    seed: int, ties: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks smaller than the data, so that their seams are looked at too.
    monkeypatch.setattr(evaluate, "_QUERIES_A_BLOCK", 7)
    monkeypatch.setattr(evaluate, "_ITEMS_A_BLOCK", 11)
    rng = np.random.default_rng(seed)
    to_texts = captions(rng, pictures=40, most=most)
    texts = unit(rng.normal(size=(sum(map(len, to_texts)), 8)))
    images = unit(rng.normal(size=(40, 8)))
    for picture, rows in enumerate(to_texts):
        texts[rows] = unit(texts[rows] + images[picture])
    if ties:
        # A handful of directions, with many vectors in each: most scores are shared.
        few = unit(rng.normal(size=(5, 8)))
        texts, images = few[rng.integers(0, 5, len(texts))], few[rng.integers(0, 5, len(images))]
    to_images = turned(to_texts, len(texts))
    for queries, corpus, relevant in ((texts, images, to_images), (images, texts, to_texts)):
        found = figures(rank(queries, corpus, relevant))
        assert flat(found) == pytest.approx(by_definition(queries, corpus, relevant), abs=1e-6)
        assert found.queries == sum(map(bool, relevant))
        assert (found.corpus, found.relevant) == (len(corpus), sum(map(len, relevant)))


def test_a_model_that_tells_nothing_apart_gets_the_worst_figures_whatever_the_order() -> None:
    same = np.tile(unit(np.ones((1, 16))), (20, 1))
    for truth in (range(20), reversed(range(20))):
        found = figures(rank(same, same, [[row] for row in truth]))
        assert (found.median_rank, found.any_hit[10], found.mrr) == (20, 0, pytest.approx(1 / 20))


def test_true_recall_and_any_hit_differ_where_there_are_several_right_answers() -> None:
    corpus = np.eye(12, dtype=np.float32)
    query = unit(np.arange(12, 0, -1, dtype=np.float32)[None])  # ranks rows 0, 1, 2, ...
    found = figures(rank(query, corpus, [[0, 3, 11]]))
    assert found.any_hit == {1: 1, 5: 1, 10: 1}
    assert found.true_recall == pytest.approx({1: 1 / 3, 5: 2 / 3, 10: 2 / 3})
    assert (found.median_rank, found.mrr) == (1, 1)


def test_half_precision_is_ranked_as_it_is() -> None:
    rng = np.random.default_rng(0)
    texts, images = unit(rng.normal(size=(30, 8))), unit(rng.normal(size=(30, 8)))
    relevant = [[row] for row in range(30)]
    stored = figures(rank(texts.astype(np.float16), images.astype(np.float16), relevant))
    rounded = (x.astype(np.float16).astype(np.float32) for x in (texts, images))
    assert stored == figures(rank(*rounded, relevant))


@pytest.mark.parametrize("relevant", [[[], []], [[0], [5]], [[0, 0], [1]], [[0]], [[-1], [0]]])
def test_truth_that_makes_no_sense_is_refused(relevant: list[list[int]]) -> None:
    with pytest.raises(QueryError):
        rank(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), relevant)


def test_an_index_is_held_against_the_exact_answer() -> None:
    exact = np.arange(10)
    half = np.array([0, 2, 4, 6, 8, 10, 12, 14, 16, 18])
    queries = np.eye(4, dtype=np.float32)
    asked: list[int] = []

    def search(query: Matrix, k: int) -> NDArray[np.int64]:
        asked.append(int(query.argmax()))
        return half[:k] if len(asked) % 2 else exact[:k]

    found = measure_index(search, lambda query, k: exact[:k], queries)
    assert (found.queries, found.k) == (4, 10)
    assert found.recall == pytest.approx(0.75)  # all of them, then half, ...
    assert asked == [0, 0, 1, 2, 3]
    assert 0 < found.median_ms <= found.p95_ms


def test_published_figures_are_shares_of_known_models_that_grow_with_k() -> None:
    presets_with_figures = {p.spec for p in presets.PRESETS.values() if p.recall is not None}
    assert presets_with_figures <= {one.model for one in published.PUBLISHED}
    for one in published.PUBLISHED:
        assert presets.resolve(one.model) == one.model
        assert one.source
        for row in (one.text_to_image, one.image_to_text):
            shares = [share for share in row if share is not None]
            assert shares == sorted(shares)
            assert all(20 < share < 100 for share in shares)


def test_the_presets_say_what_is_published() -> None:
    for preset in presets.PRESETS.values():
        for one in published.published("coco", preset.spec):
            assert one.text_to_image[0] == pytest.approx(preset.recall, abs=0.05)
