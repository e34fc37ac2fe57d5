"""Reciprocal rank fusion against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.fusion import fuse_named, reciprocal_rank_fusion

Ranking = list[int]
rankings = st.lists(st.lists(st.integers(0, 30), unique=True), max_size=4)


def ids_of(ranking: Ranking) -> np.ndarray:
    return np.array(ranking, np.int64)


def by_definition(given_: list[Ranking], k: int, weights: list[float]) -> dict[int, float]:
    scores: dict[int, float] = {}
    for ranking, weight in zip(given_, weights, strict=True):
        for rank, id_ in enumerate(ranking, 1):
            scores[id_] = scores.get(id_, 0.0) + weight / (k + rank)
    return scores


@given(given_=rankings, k=st.integers(0, 100), limit=st.integers(0, 40), seed=st.integers(0, 9))
def test_scores_and_order_are_those_of_the_definition(
    given_: list[Ranking], k: int, limit: int, seed: int
) -> None:
    weights = np.random.default_rng(seed).uniform(0.1, 3, len(given_)).tolist()
    expected = by_definition(given_, k, weights)
    ids, scores = reciprocal_rank_fusion(
        [ids_of(r) for r in given_], k=k, limit=limit, weights=weights
    )
    assert len(ids) == min(limit, len(expected))
    assert ids.dtype == np.int64
    assert scores.tolist() == pytest.approx([expected[int(id_)] for id_ in ids])
    assert (np.diff(scores) <= 0).all()
    left = [score for id_, score in expected.items() if id_ not in set(ids.tolist())]
    assert not len(ids) or max(left, default=0) <= scores[-1] + 1e-13


@given(given_=rankings, seed=st.integers(0, 9))
def test_the_order_of_the_rankings_changes_nothing(given_: list[Ranking], seed: int) -> None:
    forwards = reciprocal_rank_fusion([ids_of(r) for r in given_], limit=100)
    order = np.random.default_rng(seed).permutation(len(given_))
    backwards = reciprocal_rank_fusion([ids_of(given_[i]) for i in order], limit=100)
    assert forwards[0].tolist() == backwards[0].tolist()
    assert forwards[1].tolist() == backwards[1].tolist()


def test_equal_ones_are_in_order_of_id() -> None:
    ids, scores = reciprocal_rank_fusion([ids_of([7, 3]), ids_of([3, 7])], limit=9)
    assert ids.tolist() == [3, 7]
    assert scores[0] == scores[1] == pytest.approx(1 / 61 + 1 / 62)


def test_in_both_stands_before_the_first_of_one() -> None:
    ids, _ = reciprocal_rank_fusion([ids_of([1, 2, 3]), ids_of([3, 4])], limit=2)
    assert ids.tolist() == [3, 1]


def test_equals_share_a_rank_and_the_other_ranking_decides() -> None:
    named, seen = ids_of([1, 2, 3]), ids_of([9, 3, 2, 1])
    ids, scores = reciprocal_rank_fusion([named, seen], limit=9, ranks=[ids_of([1, 1, 1]), None])
    assert ids.tolist() == [3, 2, 1, 9]
    assert scores[0] == pytest.approx(1 / 61 + 1 / 62)


def test_one_ranking_stays_as_it_is() -> None:
    ids, _ = reciprocal_rank_fusion([ids_of([5, 1, 9]), ids_of([])], limit=9)
    assert ids.tolist() == [5, 1, 9]
    assert reciprocal_rank_fusion([], limit=3)[0].tolist() == []


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError):
        reciprocal_rank_fusion([ids_of([1])], limit=1, weights=[1, 2])


def test_what_is_named_stands_first_and_a_part_of_it_is_lifted() -> None:
    seen = ids_of(list(range(1, 1001)))
    one = ids_of([1])
    assert fuse_named(seen, ids_of([5000]), one, 1.0, limit=3)[0].tolist() == [5000, 1, 2]
    assert fuse_named(seen, ids_of([900]), one, 1.0, limit=1)[0].tolist() == [900]
    lifted = fuse_named(seen, ids_of([5, 900]), ids_of([1, 1]), 1 / 3, limit=1000)[0].tolist()
    assert lifted[0] == 5
    assert 1 < lifted.index(900) < 100
    assert fuse_named(seen, ids_of([]), ids_of([]), 0.0, limit=1000)[0].tolist() == seen.tolist()
