"""A copy on a GPU of what can be found: the same answers, at the speed of its memory.

It follows the index: what comes is added, what is hidden is left out of searches, and when too much
of it is, the copy is made anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmsearch.index.positions import Ids, Positions
from mmsearch.index.scan import Found

if TYPE_CHECKING:
    import torch

#: The share of a copy that may be hidden before it is made anew.
_GONE_ALLOWED = 0.25


def on_device(device: str) -> torch.device | None:
    """Where a copy is searched; None where the CPU searches."""
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.device(device.split()[0]) if torch.cuda.is_available() else None


class Resident:
    """What could be found when it was made, kept in step by `add` and `show`. One thread at a time.

    Exact: `search` finds what is shown, and nothing else. Raises RuntimeError where the device has
    too little memory.
    """

    def __init__(
        self,
        dim: int,
        device: torch.device,
        room: int = 0,
        blocks: Iterable[tuple[Ids, NDArray[np.float16]]] = (),
    ) -> None:
        """Filled with blocks of content ids (n,) and vectors (n, dim); room: how many in all."""
        from mmsearch.index.ondevice import OnDevice  # brings torch

        self._rows = OnDevice(dim, device, room)
        self._positions = Positions()
        self._gone = 0
        # Which of all may be found, on the device; None until a search asks.
        self._shown: torch.Tensor | None = None
        for ids, vectors in blocks:
            self.add(ids, vectors)

    def __len__(self) -> int:
        """How many contents are shown."""
        return len(self._positions) - self._gone

    @property
    def overgrown(self) -> bool:
        """Whether so much of it is hidden that it is time to make it anew."""
        return self._gone > _GONE_ALLOWED * len(self._positions)

    def has(self, ids: Ids) -> NDArray[np.bool_]:
        """(n,) bool: which of these contents it holds, shown or not."""
        return self._positions.has(ids)

    def add(self, ids: Ids, vectors: NDArray[np.float16]) -> None:
        """Vectors (n, dim) of contents (n,); those it had of the same contents are replaced."""
        self._rows.add(vectors)
        self._positions.extend(ids)
        self._changed()

    def forget(self, ids: Ids) -> None:
        """Leaves the vectors it has of these contents out for good."""
        self._positions.forget(ids)
        self._changed()

    def show(self, ids: Ids, shown: bool) -> None:
        """Takes those of these contents that it holds into searches, or leaves them out."""
        self._positions.show(ids, shown)
        self._changed()

    def _changed(self) -> None:
        self._gone = self._positions.gone
        self._shown = None

    def search(self, xq: NDArray[np.float32], k: int, only: Ids | None = None) -> tuple[Found, int]:
        """The k nearest of each row of xq, best first; id -1 where there is none.

        only: the contents (n,), ascending, that may be found; None for all that are shown.

        Returns:
            Scores (nq, m) float32 and content ids (nq, m); and among how many these are the best.
        """
        selection = None
        there = len(self)
        if only is not None:
            allowed = self._positions.shown_of(only)
            there = int(np.count_nonzero(allowed))
            selection = self._rows.selection(allowed)
        elif self._gone:
            if self._shown is None:
                self._shown = self._rows.selection(self._positions.shown)
            selection = self._shown
        k = min(k, there)
        if k <= 0 or not len(xq):
            return (np.empty((len(xq), 0), np.float32), np.empty((len(xq), 0), np.int64)), there
        scores, at = self._rows.search(xq, k, selection)
        return (scores, np.where(at >= 0, self._positions.ids[at], -1)), there
