"""Which positions of an index a search may find, and the quickest exact way to search only those.

Measured at 1M x 512 on one core, where FAISS compares everything in 52 ms (60 ms for the 10,000
nearest): with its bitmap selector 2 ms for one position in a thousand, 6 ms for one in a hundred,
31 ms for a tenth, 84 ms for half, 97 ms for seven in ten (it works by fours only without one);
turning ids into positions takes 0.6 to 1.6 ms. So for many positions more neighbours are asked for,
and those that may not be found are dropped: the 1,000 nearest cost what the 10 nearest do. All of
these ways are shared between the cores alike.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mmsearch.index import scan
from mmsearch.index.scan import Found

#: Up to so many, or this share of an index, vectors are gathered and compared on their own.
FEW = 1000
GATHERED = 0.004
#: From this share on, all are compared and the others dropped, if a look ahead says that this will
#: do.
_DROPPED = 0.25
#: More neighbours than this share of an index are not asked for: keeping them takes the time that
#: leaving out the selector saves. Few may always be asked for.
_ASKED = 0.02
_SPARE = 64
#: The look ahead compares this many vectors, and asks how many of the nearest may be found. Not
#: worth it where an index is small, or where next to nothing is left out.
_LOOKED_AT = 2048
_NEAREST = 40
_SMALL = 100_000
_NEXT_TO_NOTHING = 0.01
#: If it is fewer than this share, FAISS's selector is quicker than being wrong.
_LIKELY = 0.1


class Selection:
    """Positions of an index of n vectors that may be found."""

    def __init__(self, allowed: NDArray[np.bool_], count: int | None = None) -> None:
        """allowed: (n,) bool, not to be changed while this lives. count: how many are true."""
        self.allowed = allowed
        self.count = int(np.count_nonzero(allowed)) if count is None else count

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return self.count == len(self.allowed)

    @property
    def share(self) -> float:
        """Which part of the index may be found, from 0 to 1."""
        return self.count / max(1, len(self.allowed))

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """The positions (count,), ascending."""
        return np.flatnonzero(self.allowed)

    @cached_property
    def bitmap(self) -> NDArray[np.uint8]:
        """A bit for each position, the lowest of a byte first."""
        return np.packbits(self.allowed, bitorder="little")

    @cached_property
    def selector(self) -> Any:
        """For FAISS, to find only these."""
        bitmap = self.bitmap
        selector: Any = faiss.IDSelectorBitmap(len(self.allowed), faiss.swig_ptr(bitmap))
        selector.pointed_at = bitmap  # which it does not keep alive
        return selector

    def drop(self, found: Found, k: int) -> Found | None:
        """What was found at positions, -1 for what may not be; None where fewer than k are left."""
        scores, places = found
        kept = (places >= 0) & self.allowed[places]
        if (np.count_nonzero(kept, axis=1) < k).any():
            return None
        return scores, np.where(kept, places, -1)


def search(
    rows: NDArray[np.float16], xq: NDArray[np.float32], k: int, selection: Selection
) -> Found:
    """At least the k nearest of each query (nq, dim) of what is selected of vectors (n, dim).

    Returns:
        Scores and positions (nq, m), unsorted; -1 for none.
    """
    if scan.worth_multiplying(len(xq), selection.count):
        return scan.multiplied(rows, xq, k, None if selection.everything else selection.places)
    if selection.everything:
        return scan.nearest(rows, xq, k)
    if selection.count <= max(FEW, GATHERED * len(rows)):
        return compared(rows, selection.places, xq, k)
    asked = _enough(rows, xq, k, selection)
    if asked is not None:
        found = selection.drop(scan.nearest(rows, xq, asked), k)
        if found is not None:
            return found
    return scan.nearest(rows, xq, k, selection.bitmap)


def compared(
    rows: NDArray[np.float16], places: NDArray[np.int64], xq: NDArray[np.float32], k: int
) -> Found:
    """The k nearest of each query (nq, dim) among the vectors at some positions."""
    found = [scan.compared(rows, places, query, k) for query in xq]
    return np.stack([scores for scores, _ in found]), np.stack([at for _, at in found])


def _enough(
    rows: NDArray[np.float16], xq: NDArray[np.float32], k: int, selection: Selection
) -> int | None:
    """How many neighbours to ask for so that k of them are likely selected; None: do not."""
    share, n = selection.share, len(rows)
    if share < _DROPPED:
        return None
    if n >= _SMALL and 1 - share > _NEXT_TO_NOTHING:
        # What is selected may lie together, far from the query.
        looked_at = np.linspace(0, n - 1, _LOOKED_AT).astype(np.int64)
        _, nearest = compared(rows, looked_at, xq, _NEAREST)
        share = min(share, float(selection.allowed[nearest].mean(axis=1).min()))
        if share < _LIKELY:
            return None
    asked = min(n, math.ceil(k * (1 + 2 * (1 - share) / share)) + _SPARE)
    return asked if asked <= max(1000, _ASKED * n) else None
