"""A FAISS index in half precision, searched with some positions left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mmsearch.index.positions import Ids, Positions

_ROWS_A_BLOCK = 65_536
#: The share of a part up to which searches ask for more than they need and drop what is left out,
#: and how many more they ask for at least.
_FEW = 0.2
_SPARE = 16


def empty_index(dim: int) -> Any:
    """FAISS's 16-bit scalar quantizer by inner product: its codes are the vectors in float16."""
    index: Any = faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index.is_trained = True  # fp16 has nothing to learn
    return index


def codes(index: Any) -> NDArray[np.float16]:
    """The vectors in such an index, (n, dim) float16, not copied: good while `index` lives."""
    if not index.ntotal:
        return np.empty((0, index.d), np.float16)
    flat = faiss.rev_swig_ptr(index.codes.data(), index.ntotal * index.code_size)
    rows: NDArray[np.float16] = flat.view("<f2").reshape(index.ntotal, index.d)
    return rows


class Part:
    """Vectors, which content each is of, and which of them searches leave out."""

    def __init__(self, dim: int) -> None:
        self.index = empty_index(dim)
        self.positions = Positions()
        self._bitmap: NDArray[np.uint8] | None = None
        self.gone = 0
        self._owner: Any = None  # what must live as long as `index` does

    @classmethod
    def mapped(cls, index: Any, ids: Ids) -> Part:
        """Around a faiss.IndexIDMap as read from a file whose ids (n,) grow strictly."""
        part = cls(index.d)
        part.index = faiss.downcast_index(index.index)
        part.positions = Positions(ids)
        part._owner = index
        return part

    def __len__(self) -> int:
        """How many vectors it holds, those that searches leave out included."""
        return len(self.positions)

    def add(self, ids: Ids, vectors: NDArray[np.float16]) -> None:
        """Vectors (n, dim) of contents (n,); those it had of the same contents are replaced."""
        self.index.add_sa_codes(np.ascontiguousarray(vectors, "<f2").view(np.uint8))
        self.positions.extend(ids)
        self._select()

    def forget(self, ids: Ids) -> None:
        """Leaves the vectors it has of these contents out for good."""
        if self.positions.has(ids).any():
            self.positions.forget(ids)
            self._select()

    def show(self, ids: Ids, shown: bool) -> None:
        """Takes these contents into searches, or leaves them out."""
        if len(ids):
            self.positions.show(ids, shown)
            self._select()

    def _select(self) -> None:
        self.gone = self.positions.gone
        shown = self.positions.shown
        self._bitmap = np.packbits(shown, bitorder="little") if self.gone else None

    def vectors_of(self, ids: Ids) -> tuple[Ids, NDArray[np.float16]]:
        """Those of these contents that it holds, (n,), and their vectors, (n, dim) float16."""
        return ids[self.positions.has(ids)], codes(self.index)[self.positions.find(ids)]

    def search(
        self, xq: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """At least the k nearest of each row of xq, unsorted; id -1 where there is none."""
        k = min(k, len(self) - self.gone)
        if k <= 0:
            return np.empty((len(xq), 0), np.float32), np.empty((len(xq), 0), np.int64)
        params = None
        if self._bitmap is not None:
            found = self._asking_for_more(xq, k)
            if found is not None:
                return found
            selector = faiss.IDSelectorBitmap(len(self), faiss.swig_ptr(self._bitmap))
            make: Any = faiss.SearchParameters  # SWIG takes keywords that its types lack
            params = make(sel=selector)
        scores, positions = self.index.search(xq, k, params=params)
        return scores, np.where(positions >= 0, self.positions.ids[positions], -1)

    def _asking_for_more(
        self, xq: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        """The same without a selector, which makes FAISS a quarter slower; None if that is unsure.

        Among the nearest of all, some more than k, are k that may be found: then those are the
        nearest that may, unless what is left out lies close together, near the query.
        """
        share = self.gone / len(self)
        if share > _FEW:
            return None
        asked = min(len(self), math.ceil(k * (1 + 2 * share)) + _SPARE)
        scores, positions = self.index.search(xq, asked)
        shown = (positions >= 0) & self.positions.shown[positions]
        if (np.count_nonzero(shown, axis=1) < k).any():
            return None
        return scores, np.where(shown, self.positions.ids[positions], -1)


def merged(parts: Sequence[Part]) -> tuple[Ids, Iterator[NDArray[np.float16]]]:
    """All that can be found in parts that share no content that is shown.

    Returns:
        Content ids (n,), ascending, and their vectors in that order, in blocks (m, dim) float16.
    """
    places = [np.flatnonzero(part.positions.shown) for part in parts]
    ids = np.concatenate(
        [part.positions.ids[place] for part, place in zip(parts, places, strict=True)]
    )
    order = np.argsort(ids, kind="stable")
    of_part = np.repeat(np.arange(len(parts), dtype=np.uint8), [len(place) for place in places])
    place_of = np.concatenate(places)

    def blocks() -> Iterator[NDArray[np.float16]]:
        for start in range(0, len(order), _ROWS_A_BLOCK):
            taken = order[start : start + _ROWS_A_BLOCK]
            rows = np.empty((len(taken), parts[0].index.d), np.float16)
            for number, part in enumerate(parts):
                mine = of_part[taken] == number
                rows[mine] = codes(part.index)[place_of[taken[mine]]]
            yield rows

    return ids[order], blocks()
