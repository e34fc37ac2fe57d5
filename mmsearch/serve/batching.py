"""A thread and the queue before it: what waits together is run together.

An idle thread takes what comes at once, and while it works the next batch gathers by itself; so one
question alone waits for nothing, and many at once share the cost of a pass through the model, or of
a look through the vectors and the catalog.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mmsearch.errors import OverloadedError, bare

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Turns of an event loop from the result of a future to the last byte of an answer, or more.
_STEPS = 10
_NEVER = sys.maxsize
#: Said to whoever asks too late.
STOPPING = "the service is stopping; ask again when it is back"

#: Runs a batch: items in, as many results out, in the same order.
Run = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(eq=False, slots=True)
class _Job:
    """Something to run, for who awaits `future`. Jobs of the same `run` and name go together."""

    name: str
    run: Run
    item: Any
    size: int
    alone: bool
    future: asyncio.Future[Any]
    queued: float = field(default_factory=time.perf_counter)

    def goes_with(self, other: _Job) -> bool:
        return not (self.alone or other.alone) and self.name == other.name and self.run == other.run


class Batcher:
    """A thread and a bounded queue of what it is to do. Jobs of a kind keep their order.

    The thread starts with the first job.
    """

    def __init__(
        self,
        *,
        max_batch: int,
        max_wait_ms: float = 0.0,
        max_queue: int,
        name: str = "model",
        on_batch: Callable[[Sequence[float]], None] | None = None,
        on_dropped: Callable[[int], None] | None = None,
    ) -> None:
        """max_batch: sizes that a batch adds up to, at most, unless one job alone is larger.

        max_wait_ms: how long a thread that has just run a batch of several waits for each job that
            is to make the next one as large. One that is idle for longer than the batch took runs
            what comes at once.
        max_queue: jobs that may wait; one more is refused.
        name: what they wait for, in the refusal.
        on_batch: told, of each batch, how many seconds each of its jobs was in the queue.
        on_dropped: told how many jobs nobody awaited any more.
        """
        self._max_batch = max_batch
        self._max_wait_s = max_wait_ms / 1000
        self._max_queue = max_queue
        self._on_batch = on_batch
        self._on_dropped = on_dropped
        self._queue: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        # So many jobs wake the thread, while it waits: not each one, which would have to wait for
        # the interpreter's lock only to wait on.
        self._wake_at = _NEVER
        # How many jobs the last batch had; 0 after idling for longer than a batch is waited for.
        self._last = 0
        self._took = 0.0
        self._running = 0
        # Batches whose answers the event loop has not sent yet.
        self._unsent = 0
        self._name = name
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """How many jobs wait, those included that nobody awaits any more."""
        return len(self._queue)

    @property
    def load(self) -> int:
        """How many jobs wait, or are being run."""
        return len(self._queue) + self._running

    def submit(
        self,
        name: str,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        item: Item,
        size: int = 1,
    ) -> asyncio.Future[Result]:
        """Runs an item together with others of this name and `run`. From an event loop only.

        Cancelling the future takes the job out of the queue, if it is still there.
        Raises OverloadedError when the queue is full.
        """
        return self._put(name, run, item, size, alone=False)

    def call(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        """Runs something by itself in the thread. Otherwise as `submit`."""

        def run(_: Sequence[None]) -> Sequence[Result]:
            return [work()]

        return self._put("call", run, None, 1, alone=True)

    def _put(
        self, name: str, run: Run, item: Any, size: int, *, alone: bool
    ) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        job = _Job(name, run, item, size, alone, future)
        with self._changed:
            if self._closed:
                raise OverloadedError(STOPPING)
            if len(self._queue) >= self._max_queue:
                self._forget_the_cancelled()
            if len(self._queue) >= self._max_queue:
                raise OverloadedError(
                    f"{len(self._queue)} questions are waiting for the {self._name} already; ask "
                    "again in a moment (MMSEARCH_MAX_QUEUE lets more wait)"
                )
            self._queue.append(job)
            if self._thread is None:
                name = f"mmsearch-{self._name}"
                self._thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._thread.start()
            if len(self._queue) >= self._wake_at:
                self._wake()
        return future

    def close(self) -> None:
        """Ends the thread after the batch in flight; what still waits is refused."""
        with self._changed:
            self._closed = True
            left, self._queue = list(self._queue), deque()
            self._wake()
        stopping = OverloadedError(STOPPING)
        self._answer([(job, None, stopping) for job in left])

    def join(self, seconds: float | None = None) -> bool:
        """Waits for the thread to end after `close`; False when it has not in so many seconds."""
        thread = self._thread
        if thread is None:
            return True
        thread.join(seconds)
        return not thread.is_alive()

    # --- the thread -----------------------------------------------------------------------------

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            if batch:
                self._run(batch)
            del batch  # or what was sent would be kept until something else is to be done

    def _next(self) -> list[_Job] | None:
        """The next batch, empty where all of it was given up meanwhile; None at the end."""
        with self._changed:
            while not self._queue:
                if self._closed:
                    return None
                # Who was answered reads it first: that may take as long as the answers took.
                lately = max(self._max_wait_s, self._took) if self._last > 1 else None
                if not self._wait(lately, jobs=1):
                    self._last = 0
            if self._max_wait_s and self._last > 1 and not self._queue[0].alone:
                wanted = min(self._last, self._max_batch)
                until = time.perf_counter() + self._took
                while not self._closed and (here := len(self._queue)) < wanted:
                    if self._wait(self._max_wait_s, jobs=wanted) or len(self._queue) > here:
                        continue
                    if not self._unsent or time.perf_counter() > until:
                        break
            self._forget_the_cancelled()
            if not self._queue:
                return []
            return self._take()

    def _wait(self, seconds: float | None, *, jobs: int) -> bool:
        """Until so many jobs are there, or something else is new; False after these seconds."""
        self._wake_at = jobs
        woken = self._changed.wait(seconds)
        self._wake_at = _NEVER
        return woken

    def _take(self) -> list[_Job]:
        batch = [self._queue.popleft()]
        size = batch[0].size
        left: deque[_Job] = deque()
        while self._queue and size < self._max_batch:
            job = self._queue.popleft()
            if job.goes_with(batch[0]) and size + job.size <= self._max_batch:
                batch.append(job)
                size += job.size
            else:
                left.append(job)
        left.extend(self._queue)
        self._queue = left
        self._last = len(batch)
        return batch

    def _forget_the_cancelled(self) -> None:
        alive = deque(job for job in self._queue if not job.future.cancelled())
        dropped = len(self._queue) - len(alive)
        if dropped:
            self._queue = alive
            if self._on_dropped is not None:
                self._on_dropped(dropped)

    def _run(self, batch: list[_Job]) -> None:
        began, self._running = time.perf_counter(), len(batch)
        outcomes = _outcomes(batch)
        self._took, self._running = time.perf_counter() - began, 0
        # Before the answers go out: who has an answer finds it in the metrics.
        if self._on_batch is not None and not batch[0].alone:
            self._on_batch([began - job.queued for job in batch])
        self._answer(outcomes)

    def _answer(self, outcomes: Sequence[_Outcome]) -> None:
        loops = dict.fromkeys(job.future.get_loop() for job, _, _ in outcomes)
        for loop in loops:
            theirs = [outcome for outcome in outcomes if outcome[0].future.get_loop() is loop]
            with self._changed:
                self._unsent += 1
            try:
                loop.call_soon_threadsafe(self._deliver, theirs)
            except RuntimeError:  # it is closed: nobody is left who waits
                with self._changed:
                    self._unsent -= 1

    def _deliver(self, outcomes: Sequence[_Outcome]) -> None:
        for job, result, error in outcomes:
            if job.future.cancelled():
                continue
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)
        self._sent(_STEPS)

    def _sent(self, steps: int) -> None:
        """Notes, after so many turns of the loop, that who was answered can ask again."""
        if steps:
            asyncio.get_running_loop().call_soon(self._sent, steps - 1)
            return
        with self._changed:
            self._unsent -= 1
            if not self._unsent and self._wake_at != _NEVER:
                self._wake()

    def _wake(self) -> None:
        self._wake_at = _NEVER
        self._changed.notify()


_Outcome = tuple[_Job, Any, BaseException | None]


def _outcomes(batch: Sequence[_Job]) -> list[_Outcome]:
    """What each job comes to; where a batch fails, each is tried alone: it is the fault of one."""
    try:
        results = batch[0].run([job.item for job in batch])
        return [(job, result, None) for job, result in zip(batch, results, strict=True)]
    except Exception as exc:  # noqa: BLE001 -- raised again where it is awaited
        if len(batch) > 1:
            return [outcome for job in batch for outcome in _outcomes([job])]
        return [(batch[0], None, bare(exc))]
