"""Calls that may never return, made in threads that nobody has to wait for.

What reads untrusted bytes runs in libraries that cannot be interrupted. A thread that is stuck in
one is given up: its call counts as failed, another thread takes its place, and since all of them
are daemons the process can end without it. (It cannot be ended: whoever gives up too many of them
is refused more.)
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from mmsearch.errors import DecodeTimeoutError, OverloadedError, bare

T = TypeVar("T")

_GRACE_S = 1.0


class Task(Generic[T]):
    """A call on its way through Workers; the call itself may tell what it is at."""

    def __init__(self, workers: Workers, call: Callable[[Task[T]], T], source: str) -> None:
        self._workers = workers
        self._call = call
        self._source = source
        self._during = "decode"
        self._since: float | None = None  # None: not begun, or over
        self._suspected: float | None = None
        self._outcome: tuple[list[T], BaseException | None] | None = None
        self.is_awaited = False

    def stage(self, during: str) -> None:
        """From here on the call is doing this ("decode"), and has all its seconds for it."""
        # Without the lock: should the call be given up at this very moment, nobody asks again.
        self._during = during
        self._since, self._suspected = time.monotonic(), None

    def result(self) -> T:
        """Waits for the call. Raises what it raised, or DecodeTimeoutError."""
        value, error = self._workers.wait_for(self)
        if error is not None:
            raise error
        return value[0]

    # --- for Workers ----------------------------------------------------------------------------

    @property
    def outcome(self) -> tuple[list[T], BaseException | None] | None:
        """[value] or an error; None while there is none."""
        return self._outcome

    def begin(self) -> None:
        self._since = time.monotonic()

    def run(self) -> tuple[list[T], BaseException | None]:
        try:
            return [self._call(self)], None
        except BaseException as exc:  # noqa: BLE001 -- raised where the result is asked for
            return [], bare(exc)

    def end(self, outcome: tuple[list[T], BaseException | None]) -> None:
        self._since, self._outcome = None, outcome

    def overdue_in(self, seconds: float) -> float:
        """Seconds until the call is given up; 0 or less: now.

        A call found over its time is given a moment more: the whole process may have been stopped
        (Ctrl-Z) while it could have run.
        """
        if self._since is None:
            return seconds
        now = time.monotonic()
        left = self._since + seconds - now
        if left > 0:
            return left
        if self._suspected is None:
            self._suspected = now
        return self._suspected + min(_GRACE_S, seconds) - now

    def overtime(self, seconds: float) -> DecodeTimeoutError:
        return DecodeTimeoutError(self._source, self._during, seconds)


class Workers:
    """Up to `threads` daemon threads that run calls, each for at most `seconds`, first come first.

    Threads start when there is work and end when there is none, so nothing is left to close but
    what was not waited for.
    """

    def __init__(self, threads: int, seconds: float, *, name: str, max_stuck: int) -> None:
        """max_stuck: threads given up and still not back, from which on `is_full`."""
        self.changed = threading.Condition()
        self._threads = threads
        self._seconds = seconds
        self._name = name
        self._max_stuck = max_stuck
        self._queue: deque[Task[Any]] = deque()
        self._running: dict[Task[Any], None] = {}
        self._alive = 0
        self._stuck: set[Task[Any]] = set()

    def __len__(self) -> int:
        """How many threads there are at most."""
        return self._threads

    @property
    def is_full(self) -> bool:
        """Whether so many calls are stuck that more should not be made."""
        return len(self._stuck) >= self._max_stuck

    def submit(self, call: Callable[[Task[T]], T], source: str) -> Task[T]:
        """A call to be made as soon as a thread is free; it is given its own Task.

        source: names what it works on, should it take too long.
        """
        task: Task[T] = Task(self, call, source)
        with self.changed:
            self._queue.append(task)
            self._start()
        return task

    def run(self, call: Callable[[], T], source: str) -> T:
        """Makes a call and waits for it. Raises DecodeTimeoutError, and OverloadedError when so
        many calls are stuck that no more are made."""
        if self.is_full:
            raise OverloadedError(
                f"{self._max_stuck} pictures do not stop decoding, so no more are taken: "
                "start the service again"
            )
        return self.submit(lambda task: call(), source).result()

    def drain(self) -> None:
        """Drops the calls that have not begun; waits for the others, each for its time at most."""
        with self.changed:
            self._queue.clear()
            while self._running:
                self._give_up_overdue()
                if self._running:
                    self.changed.wait(self._next_look())

    def wait_for(self, task: Task[T]) -> tuple[list[T], BaseException | None]:
        """The task's outcome once there is one; gives up what has taken too long meanwhile."""
        with self.changed:
            task.is_awaited = True
            while task.outcome is None:
                self._give_up_overdue()
                if task.outcome is None:
                    self.changed.wait(self._next_look())
            return task.outcome

    def _start(self) -> None:
        if self._queue and self._alive < self._threads:
            self._alive += 1
            threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self.changed:
                if not self._queue:
                    self._alive -= 1
                    return
                task = self._queue.popleft()
                task.begin()
                self._running[task] = None
            outcome = task.run()
            with self.changed:
                if task in self._stuck:  # given up meanwhile: another thread has this one's place
                    self._stuck.discard(task)
                    return
                del self._running[task]
                task.end(outcome)
                if task.is_awaited or not self._running:
                    self.changed.notify_all()

    def _give_up_overdue(self) -> None:
        for task in [t for t in self._running if t.overdue_in(self._seconds) <= 0]:
            del self._running[task]
            self._stuck.add(task)
            self._alive -= 1
            task.end(([], task.overtime(self._seconds)))
            self._start()
            self.changed.notify_all()

    def _next_look(self) -> float:
        return max(0.001, min((t.overdue_in(self._seconds) for t in self._running), default=1.0))
