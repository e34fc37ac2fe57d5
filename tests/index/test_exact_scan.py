"""Scans and products of many vectors, in pieces, against brute force and against each other."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_oracle import brute, unit

from mmsearch.index import crew, halves, products, scan, selection
from mmsearch.index.part import Part, codes
from mmsearch.index.products import Way
from mmsearch.index.selection import Selection

WAYS = {
    "widened by numpy": products.SINGLE,
    "widened by torch": products.SINGLE,
    "halves": products.HALF,
    "bfloat16": products.BRAIN,
}


@pytest.fixture(autouse=True, params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """Small indexes in as many pieces as large ones, and products of few, in each of the ways."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "quickest", lambda: WAYS[request.param])
        patch.setattr(halves, "has_torch", lambda: request.param != "widened by numpy")
        patch.setattr(products.Single, "piece", 32)
        patch.setattr(products.Half, "piece", 16)
        patch.setattr(products.Brain, "piece", 16)
        for one in (products.Single, products.Half, products.Brain):
            patch.setattr(one, "block", 16)
        patch.setattr(scan, "_SCORES", 500)
        patch.setattr(scan, "_STRIDE", 2)
        patch.setattr(crew, "cores", lambda: 3)
        patch.setattr(scan, "_LEAST_BYTES", 16)
        patch.setattr(scan, "_BLOCK", 16)
        patch.setattr(scan, "_QUERIES", 5)
        yield WAYS[request.param]
        crew.settle()


def made(n: int, dim: int, seed: int, *, distinct: int | None = None) -> np.ndarray:
    """Vectors (n, dim) float16 that do not begin at a multiple of two bytes, as in a file."""
    rows = unit(distinct or n, dim, seed)
    rows = rows[np.random.default_rng(seed).integers(0, len(rows), n)] if distinct else rows
    raw = np.empty(2 * n * dim + 1, np.uint8)[1:]
    raw[:] = rows.astype(np.float16).view(np.uint8).reshape(-1)
    return raw.view(np.float16).reshape(n, dim)


def ordered(found: scan.Found, k: int) -> list[list[tuple[float, int]]]:
    return [
        sorted(
            ((float(score), int(at)) for score, at in zip(*row, strict=True) if at >= 0),
            key=lambda one: (-one[0], one[1]),
        )[:k]
        for row in zip(*found, strict=True)
    ]


@given(
    n=st.integers(1, 400),
    dim=st.sampled_from([1, 3, 16, 33]),
    k=st.integers(1, 40),
    nq=st.integers(1, 12),
    share=st.sampled_from([0.1, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=120, deadline=None)
def test_all_ways_find_the_same(n: int, dim: int, k: int, nq: int, share: float, seed: int) -> None:
    rows, xq = made(n, dim, seed), unit(nq, dim, seed + 1)
    allowed = np.random.default_rng(seed).random(n) < share
    chosen = Selection(allowed)
    k = min(k, chosen.count)
    if not k:
        return
    by_scan = scan.nearest(rows, xq, k, chosen.bitmap)
    by_product = scan.multiplied(rows, xq, k, chosen.places)
    by_copy = selection.compared(rows, chosen.places, xq, k)
    worst = []
    for one, expected in zip(
        ordered(by_scan, k), brute(xq, chosen.places, rows[chosen.places], k), strict=True
    ):
        assert np.abs([score for score, _ in one] - expected[0]).max() < 1e-5
        worst.append(one[-1][0])
    for other in (by_product, by_copy):
        for one, two, least in zip(ordered(by_scan, k), ordered(other, k), worst, strict=True):
            # To the bit; of those that score as much as the last, any.
            assert [score for score, _ in one] == [score for score, _ in two]
            assert {at for score, at in one if score > least} == {
                at for score, at in two if score > least
            }
    if chosen.everything:
        assert ordered(scan.nearest(rows, xq, k), k) == ordered(by_scan, k)
        scores, _ = scan.multiplied(rows, xq, k)
        assert [[score for score, _ in one] for one in ordered(by_scan, k)] == [
            sorted(row, reverse=True) for row in scores.tolist()
        ]


@pytest.mark.parametrize("distinct", [1, 3])
def test_products_of_many_equal_vectors(distinct: int) -> None:
    """More are as near as the last one than are asked for."""
    rows, xq = made(300, 16, 1, distinct=distinct), unit(6, 16, 2)
    for k in (1, 20):
        scores, places = scan.multiplied(rows, xq, k)
        expected = scan.nearest(rows, xq, k)[0]
        assert np.array_equal(np.sort(scores, axis=1), np.sort(expected, axis=1))
        assert all(len(set(row)) == k for row in places.tolist())


@pytest.mark.parametrize("first", [0, 224], ids=["one part", "two parts"])
def test_what_a_sample_misleads_about_is_found_all_the_same(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the last part all that is sampled is near: the bound is above some of the best."""
    monkeypatch.setattr(scan, "_STRIDE", 8)
    monkeypatch.setattr(scan, "_SCORES", 6 * 224)
    alone, again = scan._alone, 0

    def counted(*given: Any) -> Any:
        nonlocal again
        again += 1
        return alone(*given)

    monkeypatch.setattr(scan, "_alone", counted)
    n = first + 224
    rows, xq = unit(n, 16, 1), unit(6, 16, 2)
    near = np.arange(n)[first::8]
    far = np.setdiff1d(np.arange(n), near)
    rows[near] *= np.sign(rows[near] @ xq[0])[:, None]
    rows[far] -= 2 * np.clip(rows[far] @ xq[0], 0, None)[:, None] * xq[0]
    halves_ = rows.astype(np.float16)
    scores, _ = scan.multiplied(halves_, xq, 20)
    expected = np.sort(scan.nearest(halves_, xq, 20)[0], axis=1)
    assert np.array_equal(np.sort(scores, axis=1), expected)
    assert again


def test_a_part_that_is_damaged_hides_nothing(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_SCORES", 5 * 224)
    multiply = type(way).multiply

    def positive(self: Way, queries: Any, rows: np.ndarray, scores: np.ndarray, *_: Any) -> None:
        """Of the two signs that NaN has, the one that is ordered above all numbers."""
        multiply(self, queries, rows, scores, *_)
        scores[np.isnan(self.numbers(scores))] = 0x7FFF if way.dtype is np.int16 else np.nan

    monkeypatch.setattr(type(way), "multiply", positive)
    rows, xq = made(448, 16, 1).copy(), unit(5, 16, 2)
    rows[224:][::2] = np.nan  # what is sampled of the second part
    rows[225 : 225 + 2 * len(xq) : 2] = xq.astype(np.float16)
    found, _ = scan.multiplied(rows, xq, 5)
    assert np.array_equal(np.sort(found, axis=1), np.sort(scan.nearest(rows, xq, 5)[0], axis=1))
    assert found.max(axis=1).min() > 0.99


def test_every_finite_number_is_widened_exactly() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)].reshape(-1, 8)
    wide = halves.widened(every, np.empty(every.shape, np.float32))
    assert np.array_equal(wide.view(np.int32), every.astype(np.float32).view(np.int32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_damaged_vectors_cost_nothing_else(bad: float) -> None:
    rows, xq = made(200, 16, 1), unit(6, 16, 2)
    rows = rows.copy()
    rows[::3] = np.nan if np.isnan(bad) else rows[::3]
    rows[1::3, 0] = bad
    good = np.flatnonzero(np.isfinite(rows).all(axis=1))
    for found in (scan.nearest(rows, xq, 120), scan.multiplied(rows, xq, 120)):
        for row in found[1]:
            assert len(np.unique(row[row >= 0])) == np.count_nonzero(row >= 0)
            if np.isnan(bad):
                assert set(row[row >= 0].tolist()) == set(good.tolist())


def product(way: Way, rows: np.ndarray, xq: np.ndarray) -> np.ndarray:
    queries = way.prepared(xq)
    scores = np.empty((len(queries), len(rows) + 2), way.dtype)
    way.multiply(queries, rows, scores[:, 1:-1], way.scratch(*rows.shape))
    return way.numbers(scores)[: len(xq), 1:-1].astype(np.float64)


@pytest.mark.parametrize("dim", [1, 3, 192, 512, 1024])
def test_products_are_as_near_as_promised(dim: int, way: Way) -> None:
    rows, xq = made(300, dim, 1).copy(), unit(9, dim, 2)
    rows[5] *= np.float16(1e-5)  # no normal numbers, most of them
    xq[0] = rows[7] / np.linalg.norm(rows[7].astype(np.float32))
    true = xq.astype(np.float64) @ rows.astype(np.float64).T
    assert np.abs(product(way, rows, xq) - true).max() < way.rounding(dim)


def test_every_finite_number_is_multiplied_as_near_as_promised(way: Way) -> None:
    """Vectors of one number and nothing else, by themselves: whatever bits a half may have."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    rows = every[np.abs(every) <= 1].reshape(-1, 1)
    xq = np.array([[1], [-1], [0.3], [1e-6]], np.float32)
    true = xq.astype(np.float64) @ rows.astype(np.float64).T
    assert np.abs(product(way, rows, xq) - true).max() < way.rounding(1)


def test_likely_ones_are_all_above_a_bound(way: Way) -> None:
    numbers = np.random.default_rng(0).standard_normal((4, 5000)).astype(np.float32) / 3
    numbers[3] = -np.abs(numbers[3])  # none is positive
    scores = np.array([[way.scores(abs(row))] for row in numbers])[:, 0]
    scores = np.where(
        numbers < 0, scores | np.int16(-0x8000) if way.dtype is np.int16 else -scores, scores
    )
    rounding = way.rounding(512)
    for k in (1, 50, 3000):
        places, bounds = scan.likely(scores, k, way, rounding)
        for row, at, bound in zip(way.numbers(scores), places, bounds, strict=True):
            left_out = np.setdiff1d(np.arange(5000), at)
            assert not len(left_out) or row[left_out].max() < bound
            # Even if the scores are off by as much as they may be.
            assert np.count_nonzero(row[at] > bound + rounding) >= min(k, 5000)
    assert len(scan.likely(scores, 50, way, rounding)[0][0]) < 1000
    # Of the bits of numbers, those that are negative are not told apart.
    everything = len(scan.likely(scores, 50, way, rounding)[0][3]) == 5000
    assert everything is (way.dtype == np.int16)


@pytest.mark.parametrize(
    "seconds", [(1.0, 2.0, 3.0), (2.0, 1.0, 3.0), (3.0, 2.0, 1.0)], ids=["single", "half", "brain"]
)
def test_what_is_quickest_is_found_out(
    seconds: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    took = iter(seconds * 2)

    def tried(work: Callable[[], object], _: float) -> float:
        work()
        return next(took)

    monkeypatch.setattr(products, "_seconds", tried)
    find_out = products._quickest.__wrapped__
    ways = [products.SINGLE, products.HALF, products.BRAIN]
    assert find_out(*products._TRIED) is ways[seconds.index(1.0)]
    # Far off, as sums in half precision would be: never taken, however quick.
    for way in (products.Half, products.Brain):
        monkeypatch.setattr(way, "multiply", lambda *given: given[3].fill(0))
    assert find_out(*products._TRIED) is products.SINGLE


def test_a_hopeless_way_is_tried_once() -> None:
    tried = []

    def slow() -> None:
        tried.append(1)
        until = time.thread_time() + 0.01
        while time.thread_time() < until:
            pass

    assert products._seconds(slow, 0.001) >= 0.01
    assert len(tried) == 1
    products._seconds(slow, np.inf)
    assert len(tried) == 1 + products._TIMES


def test_vectors_outlive_their_index() -> None:
    part = Part(16)
    rows = unit(50, 16).astype(np.float16)
    part.add(np.arange(50), rows)
    kept = part.rows
    del part
    gc.collect()
    assert np.array_equal(kept, rows)
    assert len(codes(Part(16).index)) == 0
