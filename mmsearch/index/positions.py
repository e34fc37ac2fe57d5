"""Which content lies at which position of a FAISS index, and which of them may be found."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

#: A table of ids may have this many times as many entries as there are ids.
_TABLE = 16


def ascending(ids: Ids) -> bool:
    """Whether ids (n,) grow strictly."""
    return bool((ids[1:] > ids[:-1]).all())


def among(ids: Ids, those: Ids) -> NDArray[np.bool_]:
    """(n,) bool: which of `ids` (n,) are in `those` (m,), which grow strictly."""
    if not len(those) or not len(ids):
        return np.zeros(len(ids), np.bool_)
    if len(ids) > len(those) // 16:
        return np.isin(ids, those)  # by a table, if that is not too large
    near = those[np.minimum(np.searchsorted(those, ids), len(those) - 1)]
    return np.equal(near, ids)


def _in_table(ids: Ids, those: Ids) -> NDArray[np.bool_]:
    """As `among`, for many of both: by a table of all ids there might be, where that is small."""
    if not len(those) or not len(ids):
        return np.zeros(len(ids), np.bool_)
    low, high = int(min(ids.min(), those[0])), int(max(ids.max(), those[-1]))
    if high - low >= _TABLE * (len(ids) + len(those)):
        return among(ids, those)
    table = np.zeros(high - low + 1, np.bool_)
    table[those - low] = True
    found: NDArray[np.bool_] = table[ids - low]
    return found


class Positions:
    """The content ids of an index that only grows, by position, and which positions are shown.

    An id has one position. The one that it had before (`forget`, `extend` with the same id) stays
    in the index, and is never shown again.
    """

    def __init__(self, ids: Ids | None = None) -> None:
        """With the ids (n,) of positions 0 to n - 1, growing strictly; all are shown."""
        self.ids: Ids = np.empty(0, np.int64) if ids is None else ids
        self.shown: NDArray[np.bool_] = np.ones(len(self.ids), np.bool_)
        # Ids in order, and where each is; None while the order of ids is that of positions.
        self._sorted = self.ids
        self._where: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def gone(self) -> int:
        """How many positions are not shown."""
        return len(self.ids) - int(np.count_nonzero(self.shown))

    def has(self, ids: Ids) -> NDArray[np.bool_]:
        """(n,) bool: which of these ids have a position."""
        return among(ids, self._sorted)

    def find(self, ids: Ids) -> NDArray[np.int64]:
        """The positions of those of these ids that have one, in the order asked."""
        return self.locate(ids)[1]

    def locate(self, ids: Ids) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which of these ids have a position, (n,) bool, and the positions of those, in order."""
        if not len(self._sorted):
            return np.zeros(len(ids), np.bool_), np.empty(0, np.int64)
        at = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
        there: NDArray[np.bool_] = self._sorted[at] == ids
        found = at[there]
        return there, found if self._where is None else self._where[found]

    def shown_of(self, only: Ids) -> NDArray[np.bool_]:
        """(n,) bool: which positions are shown, of those whose ids are in `only`, ascending."""
        if len(only) <= len(self) // 64:
            allowed = np.zeros(len(self), np.bool_)
            allowed[self.find(only)] = True
        else:
            allowed = _in_table(self.ids, only)
        allowed &= self.shown
        return allowed

    def extend(self, ids: Ids) -> None:
        """Ids (n,), none of them twice, for the n next positions; all are shown."""
        if not len(ids):
            return
        in_order = self._where is None and ascending(ids)
        in_order = in_order and (not len(self.ids) or bool(ids[0] > self.ids[-1]))
        if not in_order:
            self.forget(ids)
            order = np.argsort(ids, kind="stable")
            at = np.searchsorted(self._sorted, ids[order])
            self._where = np.insert(self._places(), at, order + len(self.ids))
            self._sorted = np.insert(self._sorted, at, ids[order])
        self.ids = np.concatenate([self.ids, ids])
        self.shown = np.concatenate([self.shown, np.ones(len(ids), np.bool_)])
        if in_order:
            self._sorted = self.ids

    def forget(self, ids: Ids) -> None:
        """The positions of these ids are shown no more, whatever becomes of the ids."""
        ids = ids[self.has(ids)]
        if len(ids):
            self.shown[self.find(ids)] = False
            at = np.searchsorted(self._sorted, ids)
            self._where = np.delete(self._places(), at)
            self._sorted = np.delete(self._sorted, at)

    def _places(self) -> NDArray[np.int64]:
        return np.arange(len(self.ids)) if self._where is None else self._where

    def show(self, ids: Ids, shown: bool) -> None:
        """Shows or hides those of these ids that have a position."""
        self.shown[self.find(ids)] = shown
