"""A copy of what can be found in a plain flat index: one that neither selects nor removes.

That is what FAISS has on a GPU. What was hidden since is found with the rest and dropped, so as
many more neighbours are asked for; when they become too many, the copy is made anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mmsearch.index.positions import Ids, Positions
from mmsearch.index.selection import Selection

#: FAISS on a GPU returns at most this many neighbours.
MAX_K = 2048
#: The share of a copy that may be hidden before it is made anew.
_GONE_ALLOWED = 0.1
#: How many more neighbours are asked for, at least, where some are dropped.
_SPARE = 64

#: Makes an empty flat index of a dimension, by inner product.
FlatFactory = Callable[[int], Any]


def on_device(device: str) -> FlatFactory | None:
    """Makes flat indexes on a device; None where FAISS has to stay on the CPU."""
    if not device.startswith("cuda") or not getattr(faiss, "get_num_gpus", int)():
        return None
    number = int(device.partition(":")[2] or 0)

    def make(dim: int) -> Any:
        config = faiss.GpuIndexFlatConfig()
        config.useFloat16 = True
        config.device = number
        return faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), dim, config)

    return make


class Resident:
    """What could be found when it was made, kept in step by `add` and `show`. One thread at a time.

    Exact: `search` finds what is shown, and nothing else.
    """

    def __init__(self, index: Any, blocks: Iterable[tuple[Ids, NDArray[np.float16]]] = ()) -> None:
        """Fills an empty flat index with blocks of content ids (n,) and vectors (n, dim)."""
        self._index = index
        self._positions = Positions()
        self._gone = 0
        for ids, vectors in blocks:
            self.add(ids, vectors)

    def __len__(self) -> int:
        """How many contents are shown."""
        return len(self._positions) - self._gone

    def fits(self, k: int) -> bool:
        """Whether it may be asked for k neighbours; if not, it is time to make it anew."""
        return k + self._gone <= MAX_K and self._gone <= _GONE_ALLOWED * len(self._positions)

    def has(self, ids: Ids) -> NDArray[np.bool_]:
        """(n,) bool: which of these contents it holds, shown or not."""
        return self._positions.has(ids)

    def add(self, ids: Ids, vectors: NDArray[np.float16]) -> None:
        """Vectors (n, dim) of contents (n,); those it had of the same contents are replaced."""
        self._index.add(np.ascontiguousarray(vectors, np.float32))
        self._positions.extend(ids)
        self._gone = self._positions.gone

    def forget(self, ids: Ids) -> None:
        """Leaves the vectors it has of these contents out for good."""
        self._positions.forget(ids)
        self._gone = self._positions.gone

    def show(self, ids: Ids, shown: bool) -> None:
        """Takes those of these contents that it holds into searches, or leaves them out."""
        self._positions.show(ids, shown)
        self._gone = self._positions.gone

    def search(
        self, xq: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """At least the k nearest of each row of xq, unsorted; id -1 where there is none.

        k: such that `fits(k)`.
        """
        found = self._search(xq, k, k + self._gone, Selection(self._positions.shown))
        assert found is not None
        return found

    def search_among(
        self, xq: NDArray[np.float32], k: int, only: Ids
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        """The same among the contents `only` (n,), ascending; None where it cannot tell.

        More are asked for, and the others dropped: too few may be left.
        """
        selection = Selection(self._positions.shown_of(only))
        asked = math.ceil(2 * k / max(selection.share, 1e-9)) + _SPARE
        asked = min(asked, MAX_K)
        return self._search(xq, k, asked, selection) if k < asked * selection.share else None

    def _search(
        self, xq: NDArray[np.float32], k: int, asked: int, selection: Selection
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        k, asked = min(k, selection.count), min(asked, len(self._positions))
        if k <= 0:
            return np.empty((len(xq), 0), np.float32), np.empty((len(xq), 0), np.int64)
        found = selection.drop(self._index.search(xq, asked), k)
        if found is None:
            return None
        return found[0], np.where(found[1] >= 0, self._positions.ids[found[1]], -1)
