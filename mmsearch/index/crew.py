"""Work in pieces, shared between the thread that wants it done and threads that have time.

A query whose work is split between threads waits for the slowest of them; on a busy machine one
that is not scheduled for 20 to 40 ms. Here nobody has to be waited for. The thread that wants the
work done begins with it. Helpers take pieces of it while there are fewer searches than cores, so
that many searches at once run on a thread each. And what a helper has begun, and does not finish in
the time that it takes, is done again by the thread that wants it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import Generic, TypeVar

import faiss

from mmsearch.cores import allowed

T = TypeVar("T")

#: Pieces begin and end at multiples of this, so that a bitmap can be cut there.
ALIGNED = 8

_lock = threading.Lock()
_limit = 1 << 16
_at_work = 0  # threads that do pieces, of any work
_helping: set[Future[None]] = set()


@cache
def _cores() -> int:
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return max(1, min(allowed(), int(told) if told.isdecimal() else 1 << 16))


def cores() -> int:
    """How many threads may work at once: the cores this process may use, or OMP_NUM_THREADS; or as
    many as `limit` allows."""
    return min(_cores(), _limit)


def limit(threads: int) -> None:
    """From now on no more threads work at once: for a process beside others that do the same."""
    global _limit
    _limit = threads


@cache
def _helpers() -> ThreadPoolExecutor:
    # The number of FAISS's own threads is each thread's own affair.
    return ThreadPoolExecutor(
        max(1, _cores() - 1),
        "mmsearch-index",
        initializer=faiss.omp_set_num_threads,
        initargs=(1,),
    )


def _alone() -> None:
    """In a process that was forked: threads do not come along."""
    global _lock, _at_work
    _lock, _at_work = threading.Lock(), 0
    _helping.clear()
    _helpers.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_alone)


def in_pieces(n: int, work: Callable[[int, int], T], *, least: int, most: int) -> list[T]:
    """What `work(start, stop)` gives for each of the ranges that 0 to n is cut into, in order.

    It is called in several threads at once, and may be for the same range: it must change nothing.
    What it raises is raised. least, most: the size of a piece, both multiples of ALIGNED; with no
    more than `least` all is done here.
    """
    global _at_work
    job = _Job(n, work, least, most)
    with _lock:
        _at_work += 1
        wanted = min(cores() - _at_work, (n - 1) // least)
    try:
        first = job.claim()
        for _ in range(wanted):
            try:
                helper = _helpers().submit(_help, job)
            except RuntimeError:  # the interpreter is about to end
                break
            _helping.add(helper)
            helper.add_done_callback(_helping.discard)
        return job.run(first)
    finally:
        with _lock:
            _at_work -= 1


def settle() -> None:
    """Waits for what helpers are still at, and nobody waits for: before what they read changes."""
    wait(_helping.copy())


def _help(job: _Job[T]) -> None:
    """Does pieces of a job while there are some, and nobody else needs the core."""
    global _at_work
    with _lock:
        if _at_work >= cores():
            return
        _at_work += 1
    try:
        while _at_work <= cores() and (piece := job.claim(helping=True)) is not None:
            job.do(*piece)
    finally:
        with _lock:
            _at_work -= 1


class _Job(Generic[T]):
    def __init__(self, n: int, work: Callable[[int, int], T], least: int, most: int) -> None:
        self._n, self._work, self._least, self._most = n, work, least, most
        self._next = 0
        self._lock = threading.Lock()
        self._done: dict[int, T] = {}
        self._helped: dict[int, int] = {}  # what helpers have begun: start, stop
        self._idle = threading.Event()  # set once they have finished it all, and there is no more

    def claim(self, *, helping: bool = False) -> tuple[int, int] | None:
        """The next piece; None where there is none. The fewer are left, the smaller they are."""
        with self._lock:
            start, left = self._next, self._n - self._next
            if left <= 0:
                return None
            size = min(max(left // (2 * cores()), self._least), self._most)
            stop = start + -(-size // ALIGNED) * ALIGNED
            # No crumbs.
            stop = self._n if self._n - stop < self._least // 2 else stop
            self._next = stop
            if helping:
                self._helped[start] = stop
            return start, stop

    def do(self, start: int, stop: int) -> None:
        found = self._work(start, stop)
        with self._lock:
            self._done.setdefault(start, found)
            self._helped.pop(start, None)
            if not self._helped and self._next >= self._n:
                self._idle.set()

    def run(self, piece: tuple[int, int] | None) -> list[T]:
        began, mine = time.perf_counter(), 0
        while piece is not None:
            self.do(*piece)
            mine += piece[1] - piece[0]
            piece = self.claim()
        with self._lock:
            helped = dict(self._helped)
        if helped:
            a_piece = max(stop - start for start, stop in helped.items())
            self._idle.wait((time.perf_counter() - began) * a_piece / mine)
            for start, stop in helped.items():
                if start not in self._done:
                    self.do(start, stop)
        return [self._done[start] for start in sorted(self._done)]
