"""Results that differ: near-duplicates put together, and re-ranking that avoids repetition.

How paging composes. `leaders` decides about each item by those before it alone: what it says of the
first n items does not change when more follow. So, for a list of candidates in an order that is
stable (by score, then by id), the heads among the candidates are the answers, in their order, and a
page is a slice of the heads. Which others are attached to a head does depend on how many candidates
are looked at: look at the same number for every page (10,000, as deep as pages go).

`mmr` picks one item after the other, each by what was picked before: asking for more gives the same
beginning. A page is a slice of the order, found with the same candidates for every page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import QueryError

if TYPE_CHECKING:
    from mmsearch.index.products import Way

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
#: Told heads and items, by their places, and their cosines, (m,) each: which pairs are alike, (m,).
Alike = Callable[[Ids, Ids, Floats], NDArray[np.bool_]]

#: The share of dimensions kept for the first look, at most.
_FIRST_LOOK = 64
_SAMPLE = 8192
_ROWS = 512
_COLUMNS = 8192
_PAIRS_AT_ONCE = 16_384
#: So few heads are compared whole: finding the directions of most variance would take longer.
_FEW_HEADS = 2000
#: Of a product in float32 against one in float64.
_ROUNDING = 1e-5


def leaders(
    vectors: NDArray[Any], threshold: float, *, alike: Alike | None = None, heads: int | None = None
) -> Ids:
    """Which item each of a list belongs to, the best first: itself, if it is a head.

    Going down the list, an item joins the first head before it that it is alike to, and is a head
    itself if there is none. So all members of a group are alike to its head, which is the best of
    them; chains, of which each link resembles the next and the ends nothing, are cut.

    vectors: (n, dim) float32 or float16, unit norm, best item first. threshold: the cosine from
    which on two are alike. alike: decides instead about pairs that reach the threshold. heads: as
    many heads are wanted, with all their members; of the rest nothing is told (each belongs to
    itself), and less is compared: n x heads pairs, not n x n.

    Exact, and quick where few are alike: vectors are compared by their parts in the directions of
    most variance first, which with the lengths of what is left bounds the cosine (Cauchy-Schwarz);
    and in half the precision before that (mmsearch.index.pairs).
    Memory: about 400 bytes an item beside the vectors.

    Returns:
        (n,) int64 places in the list.
    """
    from mmsearch.index import pairs  # lists of a library need no index

    n = len(vectors)
    found = np.arange(n, dtype=np.int64)
    if not n:
        return found
    most = n if heads is None else heads
    look = vectors.astype(np.float32) if most <= min(_FEW_HEADS, n // 4) else _short(vectors)
    way = pairs.way_for(n, _ROWS, look.shape[1])
    #: Places of the heads so far, and what the first look needs of them.
    firsts = np.empty(n, np.int64)
    short = np.empty(look.shape, np.float16)
    count = 0
    for start in range(0, n, _ROWS):
        rows = np.arange(start, min(start + _ROWS, n), dtype=np.int64)
        item, head = _pairs(vectors, look, rows, firsts[:count], short[:count], threshold, way)
        chosen = _firsts(item, head, vectors, threshold, alike)
        found[list(chosen)] = list(chosen.values())
        if count == most:
            continue
        # Among those of the block that no earlier head takes, one after the other.
        free = np.array([row for row in rows.tolist() if row not in chosen], np.int64)
        its = look[free].astype(np.float16)
        item, head = _pairs(vectors, look, free, free, its, threshold, way)
        later = item > head
        item, head = _judged(item[later], head[later], vectors, threshold, alike)
        taken: set[int] = set()
        for one, other in zip(item.tolist(), head.tolist(), strict=True):
            # In the order of items, then of heads: all before `one` are decided.
            if one not in taken and other not in taken:
                taken.add(one)
                found[one] = other
        new = np.array([row for row in free.tolist() if row not in taken], np.int64)
        new = new[: most - count]
        firsts[count : count + len(new)] = new
        short[count : count + len(new)] = look[new]
        count += len(new)
    return found


def _short(vectors: NDArray[Any]) -> Floats:
    """Few numbers for each vector, whose products are never below the cosines.

    The parts in the directions of most variance, and the length of the rest.
    """
    dim = vectors.shape[1]
    step = max(1, len(vectors) // _SAMPLE)
    sample = vectors[::step][:_SAMPLE].astype(np.float32)
    kept = min(_FIRST_LOOK, dim)
    _, axes = np.linalg.eigh(sample.T @ sample)
    axes = np.ascontiguousarray(axes[:, -kept:], np.float32)
    out = np.empty((len(vectors), kept + 1), np.float32)
    for start in range(0, len(vectors), _COLUMNS):
        part = vectors[start : start + _COLUMNS].astype(np.float32)
        first = part @ axes
        rest = np.einsum("nd,nd->n", part, part) - np.einsum("nd,nd->n", first, first)
        out[start : start + len(part), :kept] = first
        out[start : start + len(part), kept] = np.sqrt(np.maximum(rest, 0) + _ROUNDING)
    return out


def _pairs(
    vectors: NDArray[Any],
    look: Floats,
    rows: Ids,
    heads: Ids,
    short: NDArray[np.float16],
    threshold: float,
    way: Way,
) -> tuple[Ids, Ids]:
    """Pairs of these rows and these heads that may reach the threshold, ordered by row, head.

    short: the first look at the heads, in their order.
    """
    from mmsearch.index import pairs

    least = threshold - _ROUNDING
    row, column, dense = pairs.near(look[rows], short, least, way)
    items, others = [rows[row]], [heads[column]]
    # What else is near in half precision is passed over as soon.
    keep = np.concatenate(
        [
            np.einsum("nd,nd->n", look[items[0][part]], look[others[0][part]]) >= least
            for part in _parts(len(row))
        ]
    )
    items[0], others[0] = items[0][keep], others[0][keep]
    for start, stop in dense:  # comparing all is quicker
        columns = heads[start:stop]
        whole = vectors[rows].astype(np.float32) @ vectors[columns].astype(np.float32).T
        row, column = np.nonzero(whole >= least)
        items.append(rows[row])
        others.append(columns[column])
    item, head = np.concatenate(items), np.concatenate(others)
    order = np.lexsort((head, item))
    return item[order], head[order]


def _parts(n: int) -> list[slice]:
    """0 to n in parts that are looked at together; at least one, be it empty."""
    return [slice(start, start + _PAIRS_AT_ONCE) for start in range(0, max(1, n), _PAIRS_AT_ONCE)]


def _judged(
    item: Ids, head: Ids, vectors: NDArray[Any], threshold: float, alike: Alike | None
) -> tuple[Ids, Ids]:
    """Those of the pairs that are alike, in the same order."""
    keep = np.empty(len(item), np.bool_)
    for part in _parts(len(item)):
        cosines = np.einsum(
            "nd,nd->n",
            vectors[item[part]].astype(np.float32),
            vectors[head[part]].astype(np.float32),
        )
        keep[part] = cosines >= np.float32(threshold)
        if alike is not None and keep[part].any():
            which = np.flatnonzero(keep[part]) + part.start
            keep[which] = alike(head[which], item[which], cosines[which - part.start])
    return item[keep], head[keep]


def _firsts(
    item: Ids, head: Ids, vectors: NDArray[Any], threshold: float, alike: Alike | None
) -> dict[int, int]:
    """For each item of the pairs the first head that it is alike to."""
    item, head = _judged(item, head, vectors, threshold, alike)
    ones, first = np.unique(item, return_index=True)
    return dict(zip(ones.tolist(), head[first].tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Group:
    """An answer that stands for several: `head` scored best, `others` are near-duplicates of it.

    Places in the list of candidates, the best first.
    """

    head: int
    others: tuple[int, ...]


def group(vectors: NDArray[Any], threshold: float, most: int | None = None) -> list[Group]:
    """The candidates, best first, as groups of near-duplicates, in the order of their heads.

    vectors: (n, dim) of the candidates, in the order of their scores. See the module on paging.
    most: the first so many groups, which are the same as without it.
    """
    found = leaders(vectors, threshold, heads=most)
    others: dict[int, list[int]] = {}
    for place, head in enumerate(found.tolist()):
        if head not in others and len(others) == most:
            continue
        members = others.setdefault(head, [])
        if place != head:
            members.append(place)
    return [Group(head, tuple(members)) for head, members in others.items()]


def mmr(
    scores: Floats,
    vectors: NDArray[Any],
    weight: float,
    limit: int,
) -> Ids:
    """Maximal marginal relevance: candidates re-ranked so that each adds something new.

    Next comes the one with the greatest `weight` x score - (1 - weight) x the greatest cosine to
    those already picked (Carbonell and Goldstein 1998, "The Use of MMR, Diversity-Based Reranking
    for Reordering Documents and Producing Summaries", SIGIR); of equals the one that comes first.
    The first is the one with the best score.

    scores: (n,) float32. vectors: (n, dim) unit norm. weight: their lambda, 1 ranks by score alone,
    0 by difference alone. limit: how many to pick, all if there are fewer; takes limit x n x dim
    steps.

    Scores and cosines are each stretched so that those of the candidates run from 0 to 1. Cosines
    between words and pictures lie closer together than those between pictures (0.2 to 0.35 against
    0.4 to 1), and without it a weight would mean another thing for each model and query.

    Returns:
        (min(limit, n),) int64 places in the list of candidates.

    Raises:
        QueryError: weight is not between 0 and 1.
    """
    if not 0 <= weight <= 1:
        raise QueryError(f"the weight of relevance is between 0 and 1, not {weight:g}")
    n = len(scores)
    if not n:
        return np.empty(0, np.int64)
    whole = np.ascontiguousarray(vectors, np.float32)
    gains = scores.astype(np.float64)
    gains = _stretched(gains, float(gains.min()), float(gains.max()))
    best = int(np.argmax(gains))
    # Of all pairs it would take n x n; the best candidate against the others tells enough.
    low = float((whole @ whole[best]).min())
    picked = np.empty(min(limit, n), np.int64)
    left = np.ones(n, np.bool_)
    nearest = np.full(n, -np.inf)
    for place in range(len(picked)):
        picked[place] = best
        left[best] = False
        cosines = (whole @ whole[best]).astype(np.float64)
        np.maximum(nearest, _stretched(cosines, low, 1.0), out=nearest)
        value = np.where(left, weight * gains - (1 - weight) * nearest, -np.inf)
        best = int(np.argmax(value))
    return picked


def _stretched(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return (values - low) / (high - low) if high > low else np.zeros_like(values)
