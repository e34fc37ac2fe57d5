"""Comparing queries with many vectors in half precision, on all cores: one query, or many at once.

FAISS's own search takes one thread for a query, and reads all vectors again for each. Here its
scanners are called for pieces of an index; and many queries are multiplied with a block of vectors
while that is in the cache. What a product finds is compared by a scanner again, so that a score is
the same to the bit whichever way it was found.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mmsearch.blas import one_thread
from mmsearch.index import halves, products, threads
from mmsearch.index.crew import ALIGNED, in_pieces
from mmsearch.index.products import Way

#: Scores (nq, k) float32, and positions (nq, k) int64, -1 for none.
Found = tuple[NDArray[np.float32], NDArray[np.int64]]
#: The same of one query, (k,) each.
_Nearest = tuple[NDArray[np.float32], NDArray[np.int64]]

_IP = faiss.METRIC_INNER_PRODUCT
#: Bytes of vectors that are worth another thread's while: some 0.4 ms of work.
_LEAST_BYTES = 1 << 23
#: From so many vectors on products are quicker.
LARGE = 4096
#: Vectors at some positions that are copied and scanned at once, and queries that are multiplied.
_BLOCK = 2048
_QUERIES = 256
#: Scores that are kept: 64 MB in single precision, and as much again while they are put together.
_SCORES = 1 << 24
#: One score in so many is looked at to find how high those are that are wanted.
_STRIDE = 32


def worth_multiplying(queries: int, vectors: int) -> bool:
    """Whether so many queries are better multiplied with so many vectors than scanned for."""
    return vectors >= LARGE and queries >= products.quickest().many


def nearest(
    rows: NDArray[np.float16],
    xq: NDArray[np.float32],
    k: int,
    bitmap: NDArray[np.uint8] | None = None,
) -> Found:
    """The k nearest of each query (nq, dim) among vectors (n, dim), which are not copied.

    bitmap: which of them may be found, the lowest bit of a byte first; None for all.
    """
    found = [_nearest(rows, query, k, bitmap) for query in xq]
    return np.stack([scores for scores, _ in found]), np.stack([places for _, places in found])


def _nearest(
    rows: NDArray[np.float16],
    query: NDArray[np.float32],
    k: int,
    bitmap: NDArray[np.uint8] | None,
) -> _Nearest:
    def scanned(start: int, stop: int) -> _Nearest:
        selector: Any = None
        if bitmap is not None:
            bits = bitmap[start // ALIGNED : -(-stop // ALIGNED)]
            selector = faiss.IDSelectorBitmap(stop - start, faiss.swig_ptr(bits))
        scores, places = _none(k)
        with _scanner(query, selector) as scanner:
            _scan(scanner, rows[start:stop], None, scores, places)
        places[places >= 0] += start
        return scores, places

    least = -(-_LEAST_BYTES // rows.shape[1] // 2 // ALIGNED) * ALIGNED
    found = in_pieces(len(rows), scanned, least=least, most=1 << 40)
    return _best(
        np.concatenate([scores for scores, _ in found]),
        np.concatenate([places for _, places in found]),
        k,
    )


def compared(
    rows: NDArray[np.float16], places: NDArray[np.int64], query: NDArray[np.float32], k: int
) -> _Nearest:
    """The k nearest of a query (dim,) among the vectors at some positions: (k,), and which."""
    scores, found = _none(k)
    with _scanner(query, None, named=True) as scanner:
        for start in range(0, len(places), _BLOCK):
            some = places[start : start + _BLOCK]
            _scan(scanner, halves.taken(rows, some), some, scores, found)
    return scores, found


def multiplied(
    rows: NDArray[np.float16],
    xq: NDArray[np.float32],
    k: int,
    places: NDArray[np.int64] | None = None,
) -> Found:
    """As `nearest`, of many queries; among the vectors at some positions (m,), ascending, if given.

    Vectors and queries have unit norm, or less.
    """
    with one_thread():  # each piece is a thread's
        found = [
            one
            for start in range(0, len(xq), _QUERIES)
            for one in _multiplied(rows, xq[start : start + _QUERIES], k, places)
        ]
    return np.stack([true for true, _ in found]), np.stack([at for _, at in found])


def _multiplied(
    rows: NDArray[np.float16],
    xq: NDArray[np.float32],
    k: int,
    places: NDArray[np.int64] | None,
) -> list[_Nearest]:
    n = len(rows) if places is None else len(places)
    way = products.quickest()
    queries = way.prepared(xq)
    at_once = max(way.piece, _SCORES // len(xq) // way.piece * way.piece)

    def some(first: int, start: int, stop: int) -> NDArray[Any]:
        found = _products(way, rows, places, queries, first + start, first + stop)
        return found[: len(xq)]

    parts = []
    for first in range(0, n, at_once):
        size = min(at_once, n - first)
        # Not by name: they would be kept until the next ones are there.
        parts.append(
            (
                first,
                *likely(
                    np.concatenate(
                        in_pieces(size, partial(some, first), least=way.piece, most=way.piece),
                        axis=1,
                    ),
                    k,
                    way,
                    way.rounding(rows.shape[1]),
                ),
            )
        )
    return _exactly(rows, xq, k, places, parts, way.rounding(rows.shape[1]))


def _products(
    way: Way,
    rows: NDArray[np.float16],
    places: NDArray[np.int64] | None,
    queries: Any,
    start: int,
    stop: int,
) -> NDArray[Any]:
    """(nq, stop - start): the scores of queries with some of the vectors; of those at some of the
    positions, if given."""
    scores = np.empty((len(queries), stop - start), way.dtype)
    scratch = way.scratch(min(way.block, stop - start), rows.shape[1])
    # Damaged vectors may hold infinities: what is found among them is looked at again.
    with threads.one_thread(), np.errstate(invalid="ignore"):
        for first in range(start, stop, way.block):
            last = min(first + way.block, stop)
            block = rows[first:last] if places is None else halves.taken(rows, places[first:last])
            way.multiply(queries, block, scores[:, first - start : last - start], scratch)
    return scores


#: Where a part of the vectors begins; for each query the places in it that reach a bound; the
#: bounds (nq,).
_Part = tuple[int, list[NDArray[np.int64]], NDArray[np.float32]]


def _exactly(
    rows: NDArray[np.float16],
    xq: NDArray[np.float32],
    k: int,
    places: NDArray[np.int64] | None,
    parts: list[_Part],
    rounding: float,
) -> list[_Nearest]:
    """The k nearest of each query, by a scanner, out of those that are likely."""
    n = len(rows) if places is None else len(places)

    def some(start: int, stop: int) -> list[_Nearest]:
        exact = []
        for number in range(start, stop):
            near = np.concatenate([first + at[number] for first, at, _ in parts])
            bound = np.max([bounds[number] for _, _, bounds in parts])  # NaN if one is
            at = near if places is None else places[near]
            true = compared(rows, at, xq[number], k) if len(at) < n else None
            if true is None or not true[0].min() > bound + rounding:  # as near as those left out
                true = _alone(rows, xq[number], k, places)
            exact.append(true)
        return exact

    return [one for found in in_pieces(len(xq), some, least=8, most=8) for one in found]


def likely(
    scores: NDArray[Any], k: int, way: Way, rounding: float
) -> tuple[list[NDArray[np.int64]], NDArray[np.float32]]:
    """Of the scores (nq, n) of a way: for each query the places of those that reach a bound, most
    often some more than k even if each is off by `rounding`, and the bounds (nq,)."""
    rank = -(-3 * k // (2 * _STRIDE)) + 6
    every = np.arange(scores.shape[1])
    if rank >= len(every[::_STRIDE]):
        return [every] * len(scores), np.full(len(scores), -np.inf, np.float32)
    sampled = np.partition(scores[:, ::_STRIDE], -rank, axis=1)[:, -rank]
    bounds = way.numbers(sampled) - np.float32(rounding)
    usable = (bounds > 0) | (scores.dtype == np.float32)  # bits of negative ones are not ordered
    least = way.scores(np.where(usable, bounds, np.float32(1)))
    places = [
        np.flatnonzero(row >= bound) if use else every
        for row, bound, use in zip(scores, least, usable, strict=True)
    ]
    return places, np.where(usable, way.numbers(least), np.float32(-np.inf))


def _alone(
    rows: NDArray[np.float16],
    query: NDArray[np.float32],
    k: int,
    places: NDArray[np.int64] | None,
) -> _Nearest:
    return _nearest(rows, query, k, None) if places is None else compared(rows, places, query, k)


def _none(k: int) -> _Nearest:
    """What a scanner begins with."""
    return np.full(k, -np.inf, np.float32), np.full(k, -1, np.int64)


def _best(scores: NDArray[np.float32], places: NDArray[np.int64], k: int) -> _Nearest:
    """The k best (k,) of some (n,), in no certain order."""
    if k >= len(scores):
        return scores, places
    best = np.argpartition(-scores, k - 1)[:k]
    return scores[best], places[best]


@contextmanager
def _scanner(query: NDArray[np.float32], selector: Any, *, named: bool = False) -> Iterator[Any]:
    """FAISS's scanner for a query (dim,). named: ids are given with the vectors."""
    model: Any = faiss.ScalarQuantizer(len(query), faiss.ScalarQuantizer.QT_fp16)
    scanner = model.select_InvertedListScanner(_IP, None, not named, selector, False)
    try:
        scanner.list_no = 0
        scanner.set_query(faiss.swig_ptr(query))
        yield scanner
    finally:
        # FAISS's wrapper gives it away, and forgets to say so (1.15.1).
        if not scanner.thisown:
            scanner.__swig_destroy__(scanner)


def _scan(
    scanner: Any,
    rows: NDArray[np.float16],
    ids: NDArray[np.int64] | None,
    scores: NDArray[np.float32],
    places: NDArray[np.int64],
) -> None:
    """Takes what is near of vectors (n, dim) into the nearest so far (k,), a heap."""
    scanner.scan_codes(
        len(rows),
        faiss.swig_ptr(rows.view(np.uint8)),
        None if ids is None else faiss.swig_ptr(ids),
        faiss.swig_ptr(scores),
        faiss.swig_ptr(places),
        len(scores),
    )
