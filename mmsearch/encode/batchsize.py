"""How many inputs at once: found while a run goes on, by what its own batches take."""

from __future__ import annotations

#: Batches of one size before it is judged, by the quickest: the first of a size is slow (kernels
#: are chosen and memory is had), and other work on the machine can only make one slower.
_TRIES = 3
#: So much faster must twice the size be, or it is not worth its memory.
_GAIN = 1.05


class BatchSize:
    """Grows by doubling while that makes inputs a second more; shrinks when memory is short.

    Deterministic: it is told what batches took, and reads no clock. Batches of other sizes (the
    last of a source, the few pictures of a question) tell it nothing.
    """

    def __init__(self, first: int, most: int) -> None:
        """first: where to begin. most: never more than this."""
        self._size = self._best = min(first, most)
        self._most = most
        self._best_rate = 0.0
        self._taken: list[float] = []
        self._settled = False

    @property
    def size(self) -> int:
        """What the next batch should be."""
        return self._size

    @property
    def most(self) -> int:
        """What memory is known not to hold more than, or the limit from the start."""
        return self._most

    @property
    def settled(self) -> bool:
        """Whether `size` stays, as long as memory lasts."""
        return self._settled

    def took(self, count: int, seconds: float) -> None:
        """A batch of `count` was encoded in that time."""
        if self._settled or count != self._size or seconds <= 0:
            return
        self._taken.append(seconds)
        if len(self._taken) < _TRIES:
            return
        rate = count / min(self._taken)
        self._taken.clear()
        if rate < _GAIN * self._best_rate:
            self._size, self._settled = self._best, True
            return
        self._best, self._best_rate = self._size, rate
        if 2 * self._size > self._most:
            self._settled = True
        else:
            self._size *= 2

    def too_large(self, count: int) -> None:
        """Memory did not hold `count`, which is more than one: half of that at most from now on."""
        self._most = min(self._most, count // 2)
        self._size = min(self._size, self._most)
        self._settled = True
        self._taken.clear()
