"""Groups of near-duplicates and re-ranking, against the definitions in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsearch import diversity
from mmsearch.diversity import group, leaders, mmr
from mmsearch.errors import QueryError
from mmsearch.index import pairs, products


def clusters(seed: int, n: int, dim: int, noise: float, kinds: int) -> np.ndarray:
    """Unit vectors (n, dim) float16 around `kinds` directions."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((kinds, dim))
    rows = centres[rng.integers(0, kinds, n)] + noise * rng.standard_normal((n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def leaders_by_hand(vectors: np.ndarray, threshold: float) -> list[int]:
    whole = vectors.astype(np.float32)
    heads: list[int] = []
    found = []
    for n in range(len(whole)):
        for head in heads:
            if np.einsum("nd,nd->n", whole[n : n + 1], whole[head : head + 1])[0] >= np.float32(
                threshold
            ):
                found.append(head)
                break
        else:
            heads.append(n)
            found.append(n)
    return found


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 120),
    dim=st.sampled_from([2, 5, 70, 130]),
    noise=st.sampled_from([0.0, 0.05, 0.3]),
    threshold=st.sampled_from([0.2, 0.8, 0.95, 0.999]),
)
def test_heads_are_those_of_the_definition(
    seed: int, n: int, dim: int, noise: float, threshold: float
) -> None:
    vectors = clusters(seed, n, dim, noise, 8)
    assert leaders(vectors, threshold).tolist() == leaders_by_hand(vectors, threshold)


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_heads_across_blocks(monkeypatch: pytest.MonkeyPatch, threshold: float) -> None:
    monkeypatch.setattr(diversity, "_ROWS", 16)
    monkeypatch.setattr(diversity, "_COLUMNS", 32)
    monkeypatch.setattr(diversity, "_PAIRS_AT_ONCE", 7)
    vectors = clusters(1, 300, 80, 0.3, 60)
    assert leaders(vectors, threshold).tolist() == leaders_by_hand(vectors, threshold)


def test_a_chain_is_cut() -> None:
    angles = np.radians(np.arange(0, 60, 10))
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    threshold = float(np.cos(np.radians(11)))
    # Each is 10 degrees from the next: without the guard all six would be one group.
    assert leaders(vectors, threshold).tolist() == [0, 0, 2, 2, 4, 4]


def test_who_decides_is_asked_about_pairs_in_reach_only() -> None:
    vectors = clusters(2, 100, 20, 0.2, 5)
    asked: list[tuple[int, int]] = []

    def odd(heads: np.ndarray, items: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        asked.extend(zip(heads.tolist(), items.tolist(), strict=True))
        exact = np.einsum(
            "nd,nd->n", vectors[heads].astype(np.float32), vectors[items].astype(np.float32)
        )
        np.testing.assert_array_equal(cosines, exact)
        assert (cosines >= np.float32(0.8)).all()
        return (heads + items) % 2 == 1

    found = leaders(vectors, 0.8, alike=odd)
    assert asked
    heads = [n for n in range(100) if found[n] == n]
    whole = vectors.astype(np.float32) @ vectors.astype(np.float32).T
    for n in range(100):
        fits = [h for h in heads if h < n and (h + n) % 2 == 1 and whole[h, n] >= 0.8]
        assert found[n] == (fits[0] if fits else n)


def test_more_candidates_change_nothing_of_the_heads_before() -> None:
    vectors = clusters(3, 600, 40, 0.25, 40)
    whole = leaders(vectors, 0.9)
    for n in (1, 50, 511, 513, 599):
        np.testing.assert_array_equal(leaders(vectors[:n], 0.9), whole[:n])


@pytest.mark.parametrize("few", [0, 2000])
@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_the_first_groups_are_the_same_where_only_those_are_wanted(
    monkeypatch: pytest.MonkeyPatch, threshold: float, few: int
) -> None:
    monkeypatch.setattr(diversity, "_ROWS", 16)
    monkeypatch.setattr(diversity, "_FEW_HEADS", few)
    vectors = clusters(1, 300, 80, 0.3, 60)
    whole = group(vectors, threshold)
    assert len(whole) > 20
    assert sum(bool(one.others) for one in whole[:20]) > 2
    for most in (1, 2, 16, 17, 20, len(whole), len(whole) + 5):
        assert group(vectors, threshold, most) == whole[:most]
    assert group(vectors[:0], threshold, 3) == []


def test_whose_cosine_is_the_threshold_is_alike() -> None:
    vectors = np.eye(2, dtype=np.float32)[[0, 1, 0, 1]]
    assert leaders(vectors, 1.0).tolist() == [0, 1, 0, 1]


def test_groups_keep_order_and_everything() -> None:
    vectors = clusters(4, 200, 40, 0.2, 30)
    groups = group(vectors, 0.9)
    heads = [one.head for one in groups]
    assert heads == sorted(heads)
    everything = sorted(n for one in groups for n in (one.head, *one.others))
    assert everything == list(range(200))
    found = leaders_by_hand(vectors, 0.9)
    for one in groups:
        assert list(one.others) == [n for n in range(200) if found[n] == one.head != n]


def mmr_by_hand(scores: np.ndarray, vectors: np.ndarray, weight: float) -> list[int]:
    whole = vectors.astype(np.float64)
    scores = (scores - scores.min()) / (scores.max() - scores.min())
    # The candidates' own scale: 0 is the least cosine to the best of them.
    low = (whole @ whole[np.argmax(scores)]).min()
    picked: list[int] = []
    while len(picked) < len(scores):
        best, value = -1, -np.inf
        for n in range(len(scores)):
            if n in picked:
                continue
            nearest = max((float(whole[n] @ whole[m] - low) / (1 - low) for m in picked), default=0)
            now = float(scores[n]) if not picked else (
                weight * float(scores[n]) - (1 - weight) * nearest
            )  # fmt: skip
            if now > value + 1e-9:
                best, value = n, now
        picked.append(best)
    return picked


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_mmr_is_that_of_the_definition(weight: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = clusters(seed, 40, 30, 0.4, 6).astype(np.float32)
    scores = rng.uniform(0.1, 0.4, 40).astype(np.float32)
    found = mmr(scores, vectors, weight, 50)
    assert found.tolist() == mmr_by_hand(scores, vectors, weight)
    for limit in (0, 1, 7):
        np.testing.assert_array_equal(mmr(scores, vectors, weight, limit), found[:limit])


def test_weight_1_is_the_order_of_scores_and_less_shows_more_kinds() -> None:
    kinds = np.repeat(np.arange(5), 20)
    rng = np.random.default_rng(5)
    rows = np.eye(5)[kinds] + 0.05 * rng.standard_normal((100, 5))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    scores = (0.35 - 0.02 * kinds + 0.001 * rng.standard_normal(100)).astype(np.float32)
    by_score = np.argsort(-scores, kind="stable")
    np.testing.assert_array_equal(mmr(scores, vectors, 1.0, 100), by_score)
    assert set(kinds[mmr(scores, vectors, 1.0, 5)]) == {0}
    assert set(kinds[mmr(scores, vectors, 0.4, 5)]) == set(range(5))
    # Scores of another range, as other models have, mean the same.
    np.testing.assert_array_equal(
        mmr(scores, vectors, 0.5, 100), mmr((scores - 0.2) * 4, vectors, 0.5, 100)
    )


def test_mmr_of_nothing_of_one_and_of_nonsense() -> None:
    assert mmr(np.empty(0, np.float32), np.empty((0, 3), np.float32), 0.5, 5).tolist() == []
    one = np.ones((1, 1), np.float32)
    assert mmr(one[0], one, 0.5, 5).tolist() == [0]
    with pytest.raises(QueryError, match="between 0 and 1"):
        mmr(one[0], one, 1.5, 5)


@pytest.mark.parametrize("way", [products.SINGLE, products.BRAIN, products.HALF])
@pytest.mark.parametrize("threshold", [0.3, 0.85, 0.94])
def test_no_way_to_multiply_changes_the_heads(
    monkeypatch: pytest.MonkeyPatch, way: products.Way, threshold: float
) -> None:
    """Numbers of 16 bits only tell what is to be looked at; torch has these everywhere."""
    vectors = clusters(7, 700, 96, 0.25, 60)
    want = leaders(vectors, threshold)
    monkeypatch.setattr(pairs, "way_for", lambda *_: way)
    monkeypatch.setattr(diversity, "_ROWS", 64)
    monkeypatch.setattr(pairs, "_BLOCK", 32)
    assert leaders(vectors, threshold).tolist() == want.tolist()
    assert len(set(want.tolist())) in range(2, 700)


@pytest.mark.parametrize("way", [products.SINGLE, products.BRAIN, products.HALF])
def test_all_that_are_near_are_among_the_pairs(way: products.Way) -> None:
    vectors = clusters(8, 500, 65, 0.5, 12)
    xq = vectors[:40].astype(np.float32)
    least = 0.9
    row, column, dense = pairs.near(xq, vectors, least, way)
    named = set(zip(row.tolist(), column.tolist(), strict=True))
    true = xq.astype(np.float64) @ vectors.T.astype(np.float64)
    for a, b in zip(*np.nonzero(true >= least), strict=True):
        assert (a, b) in named or any(start <= b < stop for start, stop in dense)
    # What is clearly not near is not named.
    assert all(true[a, b] > least - 0.05 for a, b in named)


def test_large_libraries_are_compared_the_quickest_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by blocks as they are: what is quick for few queries may be slow for many."""
    tried: list[tuple[int, ...]] = []

    def quickest(*shape: int) -> products.Way:
        tried.append(shape)
        return products.BRAIN

    monkeypatch.setattr(pairs, "quickest_for", quickest)
    assert pairs.way_for(1000, 512, 65) is products.SINGLE
    assert pairs.way_for(pairs._LARGE, 512, 65) is products.BRAIN
    assert tried == [(pairs._BLOCK, 512, 65)]
    monkeypatch.undo()
    assert pairs.way_for(pairs._LARGE, 64, 65) in (products.SINGLE, products.BRAIN, products.HALF)
