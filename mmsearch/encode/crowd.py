"""How many threads torch takes for what somebody waits for: all, or one where all are held up.

Threads that share a product wait for the slowest of them, and a question is sixty products. On a
crowded machine the slowest is one that is not scheduled for some milliseconds: where ten threads
wanted two cores, a text for ViT-B-32 took two of them 1.9 s and one 0.14 s; where nothing else runs
0.022 and 0.04 s. What else runs cannot be asked everywhere, least of all in a container, so what
both ways took lately is compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

#: One works alone once, after so many times, to find out what it takes.
_TRIED_AFTER = 2
#: All threads are held up when they take this many times as long as one. What that took may be a
#: while ago; so where they do, or take twice as many times as when they were quickest, one works
#: alone once, and what that takes decides.
_HELD_UP = 2.0
#: Where they are, one works alone for so long, as most of that is over soon; where they still are
#: then, for longer, and for twice as long each time that they are again, up to this.
_FIRST_PAUSE_S, _PAUSE_S, _MOST_PAUSE_S = 0.5, 5.0, 120.0
#: Before that, if one takes so much less than it did that others must have stopped.
_RELIEVED = 0.5


class Threads:
    """The choice for one kind of work. For one call at a time."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        # Seconds that a unit of work took: all threads at their best, one lately, and one at most
        # since all were held up.
        self._best = self._one = math.inf
        self._crowded = 0.0
        self._times = 0  # that all worked
        self._alone = False
        self._pause = _FIRST_PAUSE_S
        self._until = 0.0  # the end of the pause
        self._suspected: float | None = None  # what all took that seem to be held up

    @contextmanager
    def chosen(self, work: float) -> Iterator[None]:
        """Within, torch takes as many threads as are quickest for so much work, in units of which
        each takes about as long as another."""
        threads = torch.get_num_threads()
        if threads == 1:
            yield
            return
        unknown = self._one == math.inf and self._times >= _TRIED_AFTER
        alone = unknown or (self._alone and self._clock() < self._until)
        if alone:
            torch.set_num_threads(1)
        began = self._clock()
        try:
            yield
        finally:
            if alone:
                torch.set_num_threads(threads)
        ended = self._clock()
        took = (ended - began) / work
        if alone:
            self._note_one(took, ended)
        else:
            self._note_all(took, ended)

    def _note_one(self, took: float, now: float) -> None:
        if self._suspected is not None:
            self._until = now + self._pause
            self._alone = self._suspected > _HELD_UP * took
            self._suspected, self._crowded = None, 0.0
        self._one, self._crowded = took, max(took, self._crowded)
        if took < _RELIEVED * self._crowded:
            self._until = now

    def _note_all(self, took: float, now: float) -> None:
        self._best = min(self._best, took)
        self._times += 1
        if took <= _HELD_UP * min(self._one, _HELD_UP * self._best):
            self._alone, self._pause = False, _FIRST_PAUSE_S
            return
        if self._alone:
            self._pause = min(max(2 * self._pause, _PAUSE_S), _MOST_PAUSE_S)
            self._until, self._crowded = now + self._pause, 0.0
        else:
            self._alone, self._until, self._suspected = True, math.inf, took
