"""One ranking out of several: reciprocal rank fusion, and what of words is fused with vectors.

A search for pictures by text fuses two rankings: the nearest vectors, and the pictures that the
words *name* (`Catalog.words.named`): by file name, folder, tag, title, keyword, camera or day.
Words that stand in captions alone are not fused, because vectors rank by what is seen better than
words do: on 1,000 postcards with linked captions (tests/benchmarks/words.py, first answer right)
vectors alone reach 93 % for descriptions, words alone 42 %, and the two fused with equal weight
81 %. So a query that names nothing is answered by vectors alone, to the last rank. What words name
comes first when all of the query is named ("IMG_2041": 100 %, by vectors 0.5 %), and is lifted
where a part is ("germany 2019 two red kites": 92 %, by vectors 4 %).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

#: What Cormack, Clarke and Büttcher found best, and that little depends on it.
K = 60
#: How many of the nearest vectors are fused; those after them follow as they are.
DEPTH = 1000
#: What being named by the whole query weighs, against 1 for what is seen; less than 1.0 would let
#: the nearest vector stand before "IMG_2041", and more than 1.5 helps little.
NAMED_WEIGHT = 1.5
#: How many of what words name are fused. All, as long as words are looked up at all.
MOST_NAMED = 10_000
#: After the point; what differs by less is equal.
_DIGITS = 14


def fuse_named(
    seen: Ids, named: Ids, ranks: Ids, share: float, *, limit: int
) -> tuple[Ids, NDArray[np.float64]]:
    """Fuses the nearest vectors with what words name; returns as reciprocal_rank_fusion does.

    seen: ids of the nearest vectors, best first, as many as there are up to DEPTH, whatever page is
    asked for: then pages fit together. named, ranks, share: from `Catalog.words.named`; the less of
    the query names the pictures, the less that weighs. Equally well named ones share a rank, so
    what they look like decides between them.
    """
    return reciprocal_rank_fusion(
        [seen, named], limit=limit, weights=[1.0, NAMED_WEIGHT * share], ranks=[None, ranks]
    )


def reciprocal_rank_fusion(
    rankings: Sequence[Ids],
    *,
    k: int = K,
    limit: int,
    weights: Sequence[float] | None = None,
    ranks: Sequence[Ids | None] | None = None,
) -> tuple[Ids, NDArray[np.float64]]:
    """Fuses rankings: what stands high in one, and better in several, comes first.

    The score of an item is the sum, over the rankings that hold it, of weight / (k + rank), the
    first rank being 1 (G. V. Cormack, C. L. A. Clarke, S. Büttcher, Reciprocal Rank Fusion
    outperforms Condorcet and individual Rank Learning Methods, SIGIR 2009). Scores of the rankings
    themselves, which have no scale in common, play no part.

    rankings: ids best first, (n,) int64, each id at most once. limit: how many are returned.
    weights: one a ranking, by default 1. ranks: (n,) for a ranking in which some are equal, in
    place of 1, 2, 3, …; None for the others.

    Returns:
        (m,) ids and their scores, best first; equal ones in order of id.

    Raises:
        ValueError: the sequences do not fit together.
    """
    if weights is None:
        weights = [1.0] * len(rankings)
    if ranks is None:
        ranks = [None] * len(rankings)
    parts = [
        weight / (k + (np.arange(1, len(ids) + 1) if of is None else of))
        for ids, weight, of in zip(rankings, weights, ranks, strict=True)
    ]
    if not parts:
        return np.empty(0, np.int64), np.empty(0)
    ids, at = np.unique(np.concatenate(rankings), return_inverse=True)
    # Each ranking's part for itself, the largest first: in which order the rankings are given must
    # not decide, by rounding, between equals. Nor may what sums lose: 1/66 + 0.375/66 is
    # 1/64 + 0.375/72, but not in floats.
    table = np.zeros((len(parts), len(ids)))
    start = 0
    for row, part in zip(table, parts, strict=True):
        row[at[start : start + len(part)]] = part
        start += len(part)
    scores = np.round(np.sort(table, axis=0)[::-1].sum(axis=0), _DIGITS)
    order = np.lexsort((ids, -scores))[:limit]
    return ids[order].astype(np.int64), scores[order]
