"""Which of many pairs of vectors are near: all that are, found among nearly as many as there are.

Nearly none is, so what counts is how soon a pair is passed over: products are made in blocks that
stay in the cache, in numbers of 16 bits where the processor multiplies those, and of a block only
the greatest is looked at unless it is near.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmsearch import blas
from mmsearch.index import threads
from mmsearch.index.crew import in_pieces
from mmsearch.index.products import SINGLE, Way, quickest_for

Ids = NDArray[np.int64]

#: With so many vectors the quickest way of all is worth finding out, and torch worth loading.
_LARGE = 100_000
#: Columns of a block, and of a piece of work for a thread, at least and at most.
_BLOCK = 1024
_LEAST, _MOST = 8 * _BLOCK, 64 * _BLOCK
#: More pairs of a block than that are no longer named one by one.
_DENSE = 0.05
#: Of vectors in half precision: how far a product with one may be from the true one.
_HALVES = 2.0**-10


def way_for(vectors: int, queries: int, dim: int) -> Way:
    """How so many vectors are best compared with each other, by so many at once."""
    return quickest_for(_BLOCK, queries, dim) if vectors >= _LARGE else SINGLE


def near(
    xq: NDArray[np.float32], rows: NDArray[np.float16], least: float, way: Way
) -> tuple[Ids, Ids, list[tuple[int, int]]]:
    """The pairs of these whose inner product is `least` > 0 or more, and a few others.

    xq: (nq, dim) and rows: (n, dim), of norms of 1 at most.

    Returns:
        The places of either, (m,), in no certain order; and ranges of rows of which too many are
        near to name them: those are not among the pairs.
    """
    dim = xq.shape[1]
    bound = least - way.rounding(dim) - _HALVES
    if bound <= 0:  # bits of negative numbers are not ordered
        way, bound = SINGLE, least - SINGLE.rounding(dim) - _HALVES
    wanted = way.scores(np.array([bound], np.float32))[0]
    queries = way.prepared(np.ascontiguousarray(xq, np.float32))

    def some(start: int, stop: int) -> list[tuple[Ids, Ids] | tuple[int, int]]:
        found: list[tuple[Ids, Ids] | tuple[int, int]] = []
        scratch = way.scratch(_BLOCK, dim)
        with threads.one_thread(), np.errstate(invalid="ignore"):
            for first in range(start, stop, _BLOCK):
                last = min(first + _BLOCK, stop)
                scores = np.empty((len(queries), last - first), way.dtype)
                way.multiply(queries, rows[first:last], scores, scratch)
                scores = scores[: len(xq)]
                if scores.max(initial=0) < wanted:
                    continue
                reach = scores >= wanted
                if np.count_nonzero(reach) > _DENSE * reach.size:
                    found.append((first, last))
                else:  # in one dimension numpy passes over what is not much sooner
                    row, column = np.divmod(np.flatnonzero(reach), last - first)
                    found.append((row, column + first))
        return found

    if not len(xq) or not len(rows):
        return np.empty(0, np.int64), np.empty(0, np.int64), []
    with blas.one_thread():  # each piece is a thread's
        blocks = [
            one for part in in_pieces(len(rows), some, least=_LEAST, most=_MOST) for one in part
        ]
    dense = [(a, b) for a, b in blocks if isinstance(a, int) and isinstance(b, int)]
    pairs = [(a, b) for a, b in blocks if isinstance(a, np.ndarray) and isinstance(b, np.ndarray)]
    none = np.empty(0, np.int64)
    return (
        np.concatenate([none, *(a for a, _ in pairs)]),
        np.concatenate([none, *(b for _, b in pairs)]),
        dense,
    )
