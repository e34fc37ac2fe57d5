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
        # Of each query: how many nearest were looked for, them, and how often it was asked.
        self._found: OrderedDict[bytes, tuple[int, Neighbours, int]] = OrderedDict()

    def put(self, query: NDArray[np.float32], k: int, found: Neighbours) -> None:
        """Notes the k nearest of a query (dim,), which may come several times."""
        key = query.tobytes()
        with self._lock:
            _, _, times = self._found.get(key, (0, found, 0))
            self._found[key] = k, found, times + 1
            if len(self._found) > _MOST:
                self._found.popitem(last=False)

    def take(self, query: NDArray[np.float32], k: int) -> Neighbours | None:
        """The k nearest of a query (dim,), as often as they were noted; None where so many were not
        looked for."""
        if not self._found:
            return None
        key = query.tobytes()
        with self._lock:
            asked, found, times = self._found.pop(key, (0, None, 0))
            if found is None or asked < k:
                return None
            if times > 1:
                self._found[key] = asked, found, times - 1
        return type(found)(found.scores[:k], found.ids[:k])

    def clear(self) -> None:
        """Forgets it all: the index changes."""
        with self._lock:
            self._found.clear()
