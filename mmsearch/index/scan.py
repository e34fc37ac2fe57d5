"""Comparing queries with many vectors in half precision, on all cores: one query, or many at once.

FAISS's own search takes one thread for a query, and reads all vectors again for each. Here its
scanners are called for pieces of an index; and many queries are multiplied with a block of vectors
while that is in the cache. What a product finds is compared by a scanner again, so that a score is
the same to the bit whichever way it was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mmsearch.index import halves
from mmsearch.index.crew import ALIGNED, in_pieces

#: Scores (nq, k) float32, and positions (nq, k) int64, -1 for none.
Found = tuple[NDArray[np.float32], NDArray[np.int64]]

_IP = faiss.METRIC_INNER_PRODUCT
#: Bytes of vectors that are worth another thread's while: some 0.4 ms of work.
_LEAST_BYTES = 1 << 23
#: From so many queries on, and so many vectors, products are quicker; fewer where they need not be
#: widened.
MANY, MANY_HALVES = 8, 4
LARGE = 4096
#: Vectors that are multiplied at once, and queries: 8 MB of float32 at 512 dimensions.
_BLOCK = 4096
_QUERIES = 256
#: The same in half precision, and the scores of all vectors that are kept: 64 MB.
_BLOCK_HALVES = 16_384
_SCORES = 1 << 25
#: So many more than asked for are taken from a product, whose rounding is another.
_SPARE = 16
#: A float32 whose bits are those of a float16, moved to their places, is too small by this factor:
#: the exponents are biased by 127 and by 15.
_BIAS = np.float32(2.0**112)
_SIGN_AND_REST = np.int32(0x8FFFFFFF - (1 << 32))

# FAISS leaves products of less than so many numbers of queries to a loop: by default, all that are
# made here.
faiss.cvar.distance_compute_blas_threshold = 1024


def worth_multiplying(queries: int, vectors: int) -> bool:
    """Whether so many queries are better multiplied with so many vectors than scanned for."""
    return vectors >= LARGE and queries >= (MANY_HALVES if halves.quicker() else MANY)


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
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    def scanned(start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
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
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k nearest of a query (dim,) among the vectors at some positions: (k,), and which."""
    scores, found = _none(k)
    with _scanner(query, None, named=True) as scanner:
        for start in range(0, len(places), _BLOCK):
            some = places[start : start + _BLOCK]
            _scan(scanner, _taken(rows, some), some, scores, found)
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
    if places is None and halves.quicker():
        multiply, at_once = _halved, max(1, min(_QUERIES, _SCORES // max(1, len(rows))))
    else:
        multiply, at_once = partial(_widely, places=places), _QUERIES
    parts = [multiply(rows, xq[start : start + at_once], k) for start in range(0, len(xq), at_once)]
    return np.concatenate([scores for scores, _ in parts]), np.concatenate([at for _, at in parts])


def _halved(rows: NDArray[np.float16], xq: NDArray[np.float32], k: int) -> Found:
    def product(start: int, stop: int) -> NDArray[np.float16]:
        return halves.products(rows[start:stop], xq)

    blocks = in_pieces(len(rows), product, least=_BLOCK_HALVES, most=_BLOCK_HALVES)
    near, bounds = halves.likely(np.concatenate(blocks, axis=1), k)
    rounding = halves.rounding(rows.shape[1])

    def exactly(start: int, stop: int) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        exact = []
        for query, at, bound in zip(
            xq[start:stop], near[start:stop], bounds[start:stop], strict=True
        ):
            true = compared(rows, at, query, k)
            if len(at) < len(rows) and not true[0].min() > bound + rounding:
                true = _nearest(rows, query, k, None)
            exact.append(true)
        return exact

    return _joined(len(xq), exactly)


def _joined(
    nq: int, exactly: Callable[[int, int], list[tuple[NDArray[np.float32], NDArray[np.int64]]]]
) -> Found:
    """What `exactly` finds for queries, a few at once."""
    exact = [one for some in in_pieces(nq, exactly, least=8, most=8) for one in some]
    return np.stack([true for true, _ in exact]), np.stack([at for _, at in exact])


def _widely(
    rows: NDArray[np.float16],
    xq: NDArray[np.float32],
    k: int,
    places: NDArray[np.int64] | None,
) -> Found:
    n = len(rows) if places is None else len(places)
    asked = min(n, k + _SPARE)

    def product(start: int, stop: int) -> Found:
        some = rows[start:stop] if places is None else _taken(rows, places[start:stop])
        scores, found = faiss.knn(xq, _widened(some), min(asked, stop - start), _IP)
        return scores, found + start

    blocks = in_pieces(n, product, least=_BLOCK, most=_BLOCK)
    scores = np.concatenate([scores for scores, _ in blocks], axis=1)
    found = np.concatenate([found for _, found in blocks], axis=1)
    # Products of unit vectors differ by at most so much, however they are summed up: twice n u of
    # Higham, Accuracy and Stability of Numerical Algorithms (2002), section 3.1.
    rounding = 2 * rows.shape[1] * 2.0**-24

    def exactly(start: int, stop: int) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        exact = []
        for query, of, at in zip(
            xq[start:stop], scores[start:stop], found[start:stop], strict=True
        ):
            of, near = _best(of, at, asked)
            near = np.sort(near if places is None else places[near])
            true = compared(rows, near, query, k)
            if asked < n and not of.min() < true[0].min() - rounding:  # as near as many others
                true = _alone(rows, query, k, places)
            exact.append(true)
        return exact

    return _joined(len(xq), exactly)


def _alone(
    rows: NDArray[np.float16],
    query: NDArray[np.float32],
    k: int,
    places: NDArray[np.int64] | None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return _nearest(rows, query, k, None) if places is None else compared(rows, places, query, k)


def _taken(rows: NDArray[np.float16], places: NDArray[np.int64]) -> NDArray[np.float16]:
    """A copy of the vectors at some positions."""
    # As bytes: of what is not aligned, as in a mapped file, numpy would copy everything first.
    return rows.view(np.uint8).take(places, 0).view(np.float16)


def _widened(rows: NDArray[np.float16]) -> NDArray[np.float32]:
    """Finite numbers in float32; seven times as fast as numpy's own way."""
    wide = np.empty(rows.shape, np.float32)
    bits = wide.view(np.int32)
    np.copyto(bits, rows.view(np.int16))
    bits <<= 13
    bits &= _SIGN_AND_REST
    wide *= _BIAS
    return wide


def _none(k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What a scanner begins with."""
    return np.full(k, -np.inf, np.float32), np.full(k, -1, np.int64)


def _best(
    scores: NDArray[np.float32], places: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
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
