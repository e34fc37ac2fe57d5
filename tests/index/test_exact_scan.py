"""Scans and products of many vectors, in pieces, against brute force and against each other."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_oracle import brute, unit

from mmsearch.index import crew, halves, scan, selection
from mmsearch.index.part import Part, codes
from mmsearch.index.selection import Selection


@pytest.fixture(autouse=True, params=["widened by numpy", "widened by torch", "halves"])
def _pieces(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small indexes in as many pieces as large ones, and products of few, in each of the ways."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(halves, "quicker", lambda: request.param == "halves")
        patch.setattr(halves, "_has_torch", lambda: request.param != "widened by numpy")
        patch.setattr(scan, "_PIECE_HALVES", 16)
        patch.setattr(scan, "_PIECE", 32)
        patch.setattr(scan, "_SCORES", 500)
        patch.setattr(scan, "_STRIDE", 2)
        patch.setattr(crew, "cores", lambda: 3)
        patch.setattr(scan, "_LEAST_BYTES", 16)
        patch.setattr(scan, "_BLOCK", 16)
        patch.setattr(scan, "_QUERIES", 5)
        yield
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


def test_a_part_that_is_damaged_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_SCORES", 5 * 224)
    products = halves.products

    def positive(rows: np.ndarray, xq: np.ndarray) -> np.ndarray:
        """Of the two signs that NaN has, the one that is ordered above all numbers."""
        found = products(rows, xq)
        return np.where(np.isnan(found), np.float16(np.nan), found)

    monkeypatch.setattr(halves, "products", positive)
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


@pytest.mark.parametrize("dim", [1, 3, 192, 512, 1024])
def test_products_in_half_precision_are_as_near_as_promised(dim: int) -> None:
    rows, xq = made(300, dim, 1), unit(9, dim, 2)
    xq[0] = rows[7] / np.linalg.norm(rows[7].astype(np.float32))
    true = xq.astype(np.float64) @ rows.astype(np.float64).T
    found = halves.products(rows, xq).astype(np.float64)
    assert np.abs(found - true).max() < halves.rounding(dim)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_likely_ones_are_all_above_a_bound(dtype: type[np.floating[Any]]) -> None:
    scores = np.random.default_rng(0).standard_normal((4, 5000)).astype(dtype)
    scores[3] = -np.abs(scores[3])  # none is positive
    for k in (1, 50, 3000):
        places, bounds = scan.likely(scores, k)
        for row, at, bound in zip(scores, places, bounds, strict=True):
            left_out = np.setdiff1d(np.arange(5000), at)
            assert not len(left_out) or row[left_out].max() < bound
    assert len(scan.likely(scores, 50)[0][0]) < 1000
    # Of halves, those that are negative are not told apart.
    assert (len(scan.likely(scores, 50)[0][3]) == 5000) is (dtype == np.float16)


def test_what_is_quicker_is_found_out() -> None:
    find_out = halves._quicker.__wrapped__
    with pytest.MonkeyPatch.context() as patch:
        for by_halves, by_wide in ((1.0, 2.0), (2.0, 1.0)):
            took = iter((by_halves, by_wide))
            patch.setattr(halves, "_seconds", lambda _, took=took: next(took))
            assert find_out() is (by_halves < by_wide)
        # Far off, as sums in half precision would be: never taken, however quick.
        took = iter((1.0, 2.0))
        patch.setattr(halves, "_seconds", lambda _: next(took))
        patch.setattr(halves, "products", lambda rows, xq: np.zeros((len(xq), len(rows))))
        assert find_out() is False


def test_vectors_outlive_their_index() -> None:
    part = Part(16)
    rows = unit(50, 16).astype(np.float16)
    part.add(np.arange(50), rows)
    kept = part.rows
    del part
    gc.collect()
    assert np.array_equal(kept, rows)
    assert len(codes(Part(16).index)) == 0
