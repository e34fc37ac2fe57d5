"""What many queries found that were compared at once, until each of them is searched for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mmsearch.index.flat import Neighbours

#: Queries that are waited for. One that never comes makes room for others.
_MOST = 256


class Ahead:
    """What the next searches of an index will find, as long as it does not change. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[bytes, tuple[int, Neighbours]] = OrderedDict()

    def put(self, query: NDArray[np.float32], k: int, found: Neighbours) -> None:
        """Notes the k nearest of a query (dim,)."""
        with self._lock:
            self._found[query.tobytes()] = k, found
            if len(self._found) > _MOST:
                self._found.popitem(last=False)

    def take(self, query: NDArray[np.float32], k: int) -> Neighbours | None:
        """The k nearest of a query (dim,), once; None where so many were not looked for."""
        if not self._found:
            return None
        with self._lock:
            asked, found = self._found.pop(query.tobytes(), (0, None))
        if found is None or asked < k:
            return None
        return type(found)(found.scores[:k], found.ids[:k])

    def clear(self) -> None:
        """Forgets it all: the index changes."""
        with self._lock:
            self._found.clear()
