"""A FAISS index in half precision, searched with some positions left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mmsearch.index import halves
from mmsearch.index.crew import in_pieces, settle
from mmsearch.index.fast import Fast
from mmsearch.index.positions import Ids, Positions
from mmsearch.index.scan import Found, compared
from mmsearch.index.selection import Selection, search

_ROWS_A_BLOCK = 65_536
#: Queries that an approximate index answers at once in one thread.
_QUERIES = 16


def empty_index(dim: int) -> Any:
    """FAISS's 16-bit scalar quantizer by inner product: its codes are the vectors in float16."""
    index: Any = faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index.is_trained = True  # fp16 has nothing to learn
    return index


class _Memory:
    """What numpy takes an array from, and keeps while there are views of it."""

    def __init__(self, index: Any, owner: Any) -> None:
        self._kept = index, owner
        flat = faiss.rev_swig_ptr(index.codes.data(), index.ntotal * index.code_size)
        rows = flat.view("<f2").reshape(index.ntotal, index.d)
        self.__array_interface__ = rows.__array_interface__


def codes(index: Any, owner: Any = None) -> NDArray[np.float16]:
    """The vectors in such an index, (n, dim) float16, not copied: good until it changes.

    owner: what must live as long as `index` does.
    """
    if not index.ntotal:
        return np.empty((0, index.d), np.float16)
    return np.asarray(_Memory(index, owner))


class Part:
    """Vectors, which content each is of, and which of them searches leave out."""

    def __init__(self, dim: int) -> None:
        self.index = empty_index(dim)
        self.positions = Positions()
        self.gone = 0
        self._shown = Selection(self.positions.shown)
        #: The approximate index that searches begin with.
        self.fast: Fast | None = None
        self._owner: Any = None  # what must live as long as `index` does

    @classmethod
    def mapped(cls, index: Any, ids: Ids) -> Part:
        """Around a faiss.IndexIDMap as read from a file whose ids (n,) grow strictly."""
        part = cls(index.d)
        part.index = faiss.downcast_index(index.index)
        part.positions = Positions(ids)
        part._owner = index
        part._select()
        return part

    def __len__(self) -> int:
        """How many vectors it holds, those that searches leave out included."""
        return len(self.positions)

    def add(self, ids: Ids, vectors: NDArray[np.float16]) -> None:
        """Vectors (n, dim) of contents (n,); those it had of the same contents are replaced."""
        settle()  # what reads these vectors, and nobody waits for
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
        # A copy: a search that goes on meanwhile keeps to what it began with.
        self._shown = Selection(self.positions.shown.copy(), len(self) - self.gone)

    def vectors_of(self, ids: Ids) -> tuple[Ids, NDArray[np.float16]]:
        """Those of these contents that it holds, (n,), and their vectors, (n, dim) float16."""
        there, places = self.positions.locate(ids)
        return ids[there], halves.taken(self.rows, places)

    def visible(self, ids: Ids) -> tuple[Ids, NDArray[np.float16]]:
        """The same of those that are shown."""
        there, places = self.positions.locate(ids)
        shown = self.positions.shown[places]
        return ids[there][shown], halves.taken(self.rows, places[shown])

    def among(self, only: Ids | None) -> Selection:
        """What searches may find: what is shown, of these contents (n,), ascending, if given."""
        return self._shown if only is None else Selection(self.positions.shown_of(only))

    def deepest(self, selection: Selection) -> int:
        """How many of the nearest of these are looked for among candidates; 0 where all are
        compared."""
        return self.fast.deepest if self.fast is not None and self.fast.suits(selection) else 0

    def search(
        self,
        xq: NDArray[np.float32],
        k: int,
        selection: Selection | None = None,
        *,
        exact: bool = False,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """At least the k nearest of each row of xq, unsorted; content -1 where there is none.

        selection: see `among`; None for all that is shown. exact: leave `fast` alone. Else those
        that are not among its candidates are not found, and the first `deepest` are to be used.
        """
        selection = selection or self._shown
        k = min(k, selection.count)
        if k <= 0:
            return np.empty((len(xq), 0), np.float32), np.empty((len(xq), 0), np.int64)
        found = None
        if self.fast is not None and not exact and self.fast.suits(selection):
            found = self._approximately(self.fast, xq, k, selection)
        scores, places = found or search(self.rows, xq, k, selection)
        return scores, np.where(places >= 0, self.positions.ids[places], -1)

    def _approximately(
        self, fast: Fast, xq: NDArray[np.float32], k: int, selection: Selection
    ) -> Found | None:
        """What is nearest of the candidates; None where they are too few for any k."""
        rows = self.rows

        def some(start: int, stop: int) -> Found | None:
            found = []
            for query, near in zip(
                xq[start:stop], fast.near(xq[start:stop], selection), strict=True
            ):
                places = np.sort(near[near >= 0])  # as memory is read best
                if len(places) < fast.deepest:
                    return None
                found.append(compared(rows, places, query, k))
            return np.stack([one for one, _ in found]), np.stack([at for _, at in found])

        found = in_pieces(len(xq), some, least=_QUERIES, most=_QUERIES)
        whole = [one for one in found if one is not None]
        if len(whole) < len(found):
            return None
        return np.concatenate([one for one, _ in whole]), np.concatenate([at for _, at in whole])

    @property
    def rows(self) -> NDArray[np.float16]:
        """The vectors (n, dim) by position, not copied: good until `add`."""
        return codes(self.index, self._owner)


def in_parts(
    parts: Sequence[tuple[Part, Selection]], xq: NDArray[np.float32], k: int, exact: bool
) -> Found:
    """At least the k nearest, unsorted; of those as near as the k-th, any. -1 where none."""
    found = [part.search(xq, k, selection, exact=exact) for part, selection in parts]
    return (
        np.concatenate([scores for scores, _ in found], axis=1),
        np.concatenate([ids for _, ids in found], axis=1),
    )


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
                rows[mine] = part.rows[place_of[taken[mine]]]
            yield rows

    return ids[order], blocks()
