"""How well right answers are ranked, from vectors and lists of what is relevant; numpy alone.

Two measures go by the name of recall@k, and both are given, each under its own:

- *true recall@k*: the share of a query's relevant items that is among its first k, averaged over
  the queries. A picture with five captions reaches at most 1/5 at k = 1.
- *any-hit@k*: the share of the queries with at least one relevant item among the first k. This is
  what papers on CLIP print as recall@k (CLIP_benchmark, zeroshot_retrieval.py, says so).

Where a query has one relevant item the two are the same.

Ties go against the model: among equal scores every irrelevant item stands before every relevant
one. So the order of the items tells nothing, and a model that gives everything the same vector
gets the worst figures there are, not the best. Scores are computed in double precision; those
within TIE of each other are equal, which catches equal vectors whatever order their products are
summed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import QueryError

TIE = 1e-9
"""Scores closer than this are equal. Double precision errs by 1e-15, neighbouring float16 unit
vectors differ by 1e-7."""
KS = (1, 5, 10)
_QUERIES_A_BLOCK = 1024
_ITEMS_A_BLOCK = 8192
_COUNTED = 16
"""Queries with more relevant items than that sort the scores instead of counting for each item: a
library may have one caption ("OLYMPUS DIGITAL CAMERA") on all its pictures."""

Matrix = NDArray[np.floating[Any]]
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where the relevant items of each query stand, from 1.

    places: (pairs,) int64, those of one query together and ascending. starts: (queries,) int64,
    where in `places` a query begins. corpus: how many items were ranked. Every query has at least
    one relevant item.
    """

    places: Ids
    starts: Ids
    corpus: int

    @property
    def first(self) -> Ids:
        """The place of the best relevant item of each query, (queries,)."""
        return self.places[self.starts]

    def true_recall(self, k: int) -> float:
        """The share of a query's relevant items within the first k, averaged over the queries."""
        found = np.add.reduceat((self.places <= k).astype(np.float64), self.starts)
        counts = np.diff(np.append(self.starts, len(self.places)))
        return float(np.mean(found / counts))

    def any_hit(self, k: int) -> float:
        """The share of the queries with a relevant item within the first k."""
        return float(np.mean(self.first <= k))


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one direction. Shares in [0, 1]; k → share; ranks from 1.

    queries: those that have a relevant item; relevant: how many such pairs. median_rank,
    mean_rank, mrr: of the best relevant item of each query; mrr is the mean of 1 / rank.
    """

    queries: int
    corpus: int
    relevant: int
    true_recall: dict[int, float]
    any_hit: dict[int, float]
    median_rank: float
    mean_rank: float
    mrr: float


@dataclass(frozen=True, slots=True)
class IndexFigures:
    """An index against the exact search of the same vectors.

    recall: the share of the k exact neighbours that the index finds, averaged over the queries.
    Times are milliseconds a query, asked one by one: the median and the 95th percentile.
    """

    queries: int
    k: int
    recall: float
    median_ms: float
    p95_ms: float
    exact_median_ms: float
    exact_p95_ms: float


def rank(queries: Matrix, corpus: Matrix, relevant: Sequence[Sequence[int]]) -> Ranks:
    """Ranks the corpus for every query and says where the relevant items stand.

    queries: (nq, dim), corpus: (n, dim); any float type, compared by inner product. relevant: for
    each query the rows of the corpus that are right, each once; queries without any are left out.

    Memory: two blocks in double precision, about 150 MB at 512 dimensions, whatever nq and n.
    Time: nq x n x dim products, and for each query n comparisons for every relevant item, or, with
    many of those, n log n.

    Raises:
        QueryError: no query has a relevant item, a row is out of range or named twice, or the
            vectors are of different dimensions.
    """
    if len(queries) != len(relevant) or queries.shape[1:] != corpus.shape[1:]:
        raise QueryError(
            f"{queries.shape} queries with {len(relevant)} lists of right answers do not go with "
            f"a corpus of {corpus.shape}"
        )
    rows = np.array([row for row, items in enumerate(relevant) if len(items)], np.int64)
    if not len(rows):
        raise QueryError("nothing to measure: no query has a right answer in the corpus")
    lists = [np.asarray(relevant[row], np.int64) for row in rows]
    for items in lists:
        if items.min() < 0 or items.max() >= len(corpus) or len(np.unique(items)) < len(items):
            raise QueryError("a right answer is not in the corpus, or is named twice")
    places = [
        place
        for start in range(0, len(rows), _QUERIES_A_BLOCK)
        for place in _places(
            queries[rows[start : start + _QUERIES_A_BLOCK]].astype(np.float64),
            corpus,
            lists[start : start + _QUERIES_A_BLOCK],
        )
    ]
    counts = np.array([len(items) for items in lists], np.int64)
    starts = np.cumsum(counts) - counts
    return Ranks(np.concatenate(places), starts, len(corpus))


def _places(queries: NDArray[np.float64], corpus: Matrix, relevant: list[Ids]) -> list[Ids]:
    """The places of the relevant items of each query of a block, ascending."""
    # Scores of the relevant items, best first.
    right = [
        -np.sort(-(corpus[items].astype(np.float64) @ query))
        for query, items in zip(queries, relevant, strict=True)
    ]
    above = [np.zeros(len(items), np.int64) for items in relevant]
    counts = np.array([len(items) for items in relevant])
    for start in range(0, len(corpus), _ITEMS_A_BLOCK):
        scores = queries @ corpus[start : start + _ITEMS_A_BLOCK].astype(np.float64).T
        for nth in range(min(_COUNTED, int(counts.max()))):
            having = np.flatnonzero((counts > nth) & (counts <= _COUNTED))
            part = scores if len(having) == len(scores) else scores[having]
            bars = np.array([right[row][nth] for row in having])[:, None] - TIE
            for row, count in zip(having, np.count_nonzero(part >= bars, axis=1), strict=True):
                above[row][nth] += count
        for row in np.flatnonzero(counts > _COUNTED):
            above[row] += _at_least(np.sort(scores[row]), right[row] - TIE)
    # Of those at or above, the relevant ones are no rivals: the n-th of them stands n-th.
    return [
        count - _at_least(mine[::-1], mine - TIE) + np.arange(1, len(mine) + 1)
        for count, mine in zip(above, right, strict=True)
    ]


def _at_least(ascending: NDArray[np.float64], bars: NDArray[np.float64]) -> Ids:
    """How many of the values reach each bar."""
    return len(ascending) - np.searchsorted(ascending, bars, side="left")


def figures(ranks: Ranks, ks: Sequence[int] = KS) -> Figures:
    """The figures that these ranks make."""
    first = ranks.first
    return Figures(
        queries=len(first),
        corpus=ranks.corpus,
        relevant=len(ranks.places),
        true_recall={k: ranks.true_recall(k) for k in ks},
        any_hit={k: ranks.any_hit(k) for k in ks},
        median_rank=float(np.median(first)),
        mean_rank=float(np.mean(first)),
        mrr=float(np.mean(1 / first)),
    )


def turned(relevant: Sequence[Sequence[int]], corpus: int) -> list[list[int]]:
    """The same relevance asked from the other side: for each of `corpus` items its queries."""
    other: list[list[int]] = [[] for _ in range(corpus)]
    for query, items in enumerate(relevant):
        for item in items:
            other[item].append(query)
    return other


#: Ids of the k nearest of one query (1, dim), best first.
Search = Callable[[NDArray[np.float32], int], Ids]


def measure_index(
    search: Search, exact: Search, queries: NDArray[np.float32], *, k: int = 10
) -> IndexFigures:
    """How much of the exact answers an index finds, and how long each takes.

    queries: (nq, dim) float32, nq > 0; asked one by one, each the one way and then the other,
    after one that is not counted.
    """
    taken, exactly, shares = [], [], []
    search(queries[:1], k)
    exact(queries[:1], k)
    for row in range(len(queries)):
        query = queries[row : row + 1]
        started = perf_counter()
        found = search(query, k)
        between = perf_counter()
        wanted = exact(query, k)
        exactly.append(perf_counter() - between)
        taken.append(between - started)
        shares.append(len(np.intersect1d(found, wanted)) / max(1, len(wanted)))
    return IndexFigures(
        queries=len(queries),
        k=k,
        recall=float(np.mean(shares)),
        median_ms=1e3 * float(np.median(taken)),
        p95_ms=1e3 * float(np.percentile(taken, 95)),
        exact_median_ms=1e3 * float(np.median(exactly)),
        exact_p95_ms=1e3 * float(np.percentile(exactly, 95)),
    )
