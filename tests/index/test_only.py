"""Searches among some contents only, against brute force on those; vectors and samples."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_oracle import DIM, SPACE, brute, check, filled, unit

from mmsearch.index import selection
from mmsearch.index.flat import FlatIndex

#: What makes small indexes go the ways of large ones.
WAYS = {
    "gathered": {},
    "dropped": {"FEW": 0, "GATHERED": 0.0, "_DROPPED": 0.0},
    "dropped, few asked for": {"FEW": 0, "GATHERED": 0.0, "_DROPPED": 0.0, "_SPARE": 1},
    "looked ahead": {"FEW": 0, "GATHERED": 0.0, "_DROPPED": 0.0, "_SMALL": 0, "_SPARE": 1},
    "selected": {"FEW": 0, "GATHERED": 0.0, "_DROPPED": 2.0},
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        take(patch, request.param)
        yield request.param


def take(patch: pytest.MonkeyPatch, way: str) -> None:
    for name, value in WAYS[way].items():
        patch.setattr(selection, name, value)


def check_only(
    index: FlatIndex, xq: np.ndarray, ids: np.ndarray, xb: np.ndarray, k: int, only: np.ndarray
) -> None:
    keep = np.isin(ids, only)
    expected = brute(xq, ids[keep], xb[keep], k)
    for one, (scores, nearest) in zip(index.search(xq, k, only=only), expected, strict=True):
        assert one.ids.dtype == np.int64
        assert one.ids.tolist() == nearest.tolist()
        assert np.abs(one.scores - scores).max(initial=0) < 1e-3


@pytest.mark.parametrize("share", [0.0, 0.003, 0.1, 0.5, 0.9, 1.0])
def test_equals_brute_force_on_those(way: str, share: float) -> None:
    index, ids, xb = filled(400)
    some = ids[np.random.default_rng(3).random(400) < share]
    only = np.unique(np.append(some, [7_777_777, -4]))  # and some that the index lacks
    for k in (1, 10, 200, 400, 5000):
        check_only(index, unit(6, seed=9), ids, xb, k, only)


@pytest.mark.parametrize("near", [True, False])
def test_those_lie_together(way: str, near: bool) -> None:
    """Near the query, or far from it, where few of the nearest of all may be found."""
    index, ids, xb = filled(400)
    xq = unit(3, seed=4)
    order = index.search(xq[:1], 400)[0].ids
    only = np.sort(order[:300] if near else order[100:])
    for k in (1, 10, 299, 300, 500):
        check_only(index, xq, ids, xb, k, only)
    index.hide(np.setdiff1d(ids, only))
    left = np.isin(ids, only)
    for k in (1, 10, 299, 300, 500):
        check(index, xq, ids[left], xb[left], k)
        check_only(index, xq, ids[left], xb[left], k, np.sort(ids))


def test_far_from_the_query_few_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look ahead sees that what may be found lies elsewhere."""
    index, ids, _ = filled(400)
    take(monkeypatch, "looked ahead")
    monkeypatch.setattr(selection, "_LOOKED_AT", 400)
    xq = unit(1, seed=4)
    order = index.search(xq, 400)[0].ids
    rows = selection_rows(index)
    for only, asked in ((order[100:], False), (ids[:300], True)):
        allowed = index._delta.among(np.sort(only))
        assert (selection._enough(rows, xq, 10, allowed) is not None) == asked


def selection_rows(index: FlatIndex) -> np.ndarray:
    from mmsearch.index.part import codes

    return codes(index._delta.index)


def test_pages_of_equal_scores(way: str) -> None:
    """Pages neither repeat nor skip contents of the same vector."""
    xb = np.repeat(unit(5), 60, axis=0).astype(np.float16)
    ids = np.random.default_rng(5).permutation(len(xb)).astype(np.int64)
    index = FlatIndex(SPACE, "text")
    index.add(300, ids, xb)
    only = np.sort(ids[np.random.default_rng(6).random(300) < 0.7])
    whole = index.search(unit(5), 300, only=only)
    for k in (1, 7, 59, 60, 61, 150):
        for one, all_of_them in zip(index.search(unit(5), k, only=only), whole, strict=True):
            assert one.ids.tolist() == all_of_them.ids[:k].tolist()
    for one in whole:
        assert len(one.ids) == len(only)
        assert np.lexsort((one.ids, -one.scores)).tolist() == list(range(len(only)))


@given(
    way=st.sampled_from(sorted(WAYS)),
    base=st.integers(0, 80),
    delta=st.integers(0, 40),
    k=st.integers(1, 130),
    seed=st.integers(0, 1000),
    share=st.floats(0, 1),
    hidden=st.floats(0, 1),
    distinct=st.integers(1, 60),
)
@settings(max_examples=150, deadline=None)
def test_any_base_delta_hidden_and_ties(
    way: str, base: int, delta: int, k: int, seed: int, share: float, hidden: float, distinct: int
) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.permutation(400)[: base + delta].astype(np.int64)
    # Vectors of one coordinate: equal ones score the same to the bit, whoever computes it.
    xb = np.zeros((len(ids), DIM), np.float16)
    xb[:, 0] = rng.integers(1, distinct + 1, len(ids)) / 64
    xq = np.zeros((2, DIM), np.float32)
    xq[:, 0] = [1, -0.5]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        take(patch, way)
        index = FlatIndex(SPACE, "image")
        if base:
            index.add(base, ids[:base], xb[:base])
        index.save(Path(folder))
        index = FlatIndex.load(Path(folder), SPACE, "image")
        if delta:
            index.add(base + delta, ids[base:], xb[base:])
        gone = np.sort(ids[rng.random(len(ids)) < hidden])
        index.hide(gone)
        keep = ~np.isin(ids, gone)
        only = np.flatnonzero(rng.random(400) < share)
        check_only(index, xq, ids[keep], xb[keep], k, only)


def test_ids_far_apart() -> None:
    """No table of all ids there might be is made."""
    index = FlatIndex(SPACE, "image")
    ids, xb = np.arange(300) * 10**13, unit(300).astype(np.float16)
    index.add(300, ids, xb)
    check_only(index, unit(3, seed=1), ids, xb, 20, ids[::2])
    check_only(index, unit(3, seed=1), ids, xb, 20, ids[:3])


def test_of_a_content_with_two_vectors_the_newer_one_is_found(way: str) -> None:
    index, ids, xb = filled(50)
    anew = unit(4, seed=70).astype(np.float16)
    index.add(60, ids[:4], anew)
    rows = np.concatenate([anew, xb[4:]])
    check_only(index, unit(5, seed=6), ids, rows, 60, np.sort(ids[2:40]))


def test_exact_is_the_same_where_all_are_compared_anyway() -> None:
    index, _, _ = filled()
    xq = unit(3, seed=1)
    for one, other in zip(index.search(xq, 9, exact=True), index.search(xq, 9), strict=True):
        assert np.array_equal(one.ids, other.ids)


def test_vectors_and_samples(tmp_path: Path) -> None:
    index, ids, xb = filled()
    index.save(tmp_path)
    index = FlatIndex.load(tmp_path, SPACE, "image", origin="here")
    more, vectors = np.array([90_001, 90_000]), unit(2, seed=5).astype(np.float16)
    index.add(302, more, vectors)
    index.hide(np.array([ids[3]]))
    asked = np.array([ids[7], 123_456, 90_001, ids[3], ids[2]])
    found, rows = index.vectors(asked)
    assert rows.dtype == np.float32
    expected = {int(ids[7]): xb[7], 90_001: vectors[0], int(ids[2]): xb[2]}
    assert sorted(found.tolist()) == sorted(expected)
    for id_, row in zip(found.tolist(), rows, strict=True):
        assert np.array_equal(row, expected[id_].astype(np.float32))

    there = np.setdiff1d(np.concatenate([ids, more]), ids[3])
    assert np.array_equal(index.ids(), there)
    some, rows = index.sample(40, 1)
    assert len(some) == 40
    assert np.isin(some, there).all()
    assert (np.diff(some) > 0).all()
    one_by_one = [index.vectors(np.array([id_]))[1][0] for id_ in some.tolist()]
    assert np.array_equal(rows, np.stack(one_by_one))
    assert not np.array_equal(index.sample(40, 2)[0], some)
    index.save(tmp_path)
    again = FlatIndex.load(tmp_path, SPACE, "image", origin="here")
    assert np.array_equal(again.sample(40, 1)[0], some)  # however they came there
    assert np.array_equal(again.sample(9999, 1)[0], there)
    assert [len(a) for a in FlatIndex(SPACE, "text").sample(5, 1)] == [0, 0]
