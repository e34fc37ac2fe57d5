"""Processes that answer questions, so that a service takes more than one core's worth of Python.

In one process all Python shares one lock: HTTP, words, ranking and records together take 4 ms a
question, during which the model's threads wait for each other. With workers the service's own
process speaks HTTP and hands each batch of questions to the worker that has least to do.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

from mmsearch.errors import MmsearchError, OverloadedError
from mmsearch.serve.batching import STOPPING, Batcher, Run
from mmsearch.serve.worker import STOPS, Order, Reply, What, work

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

#: What a worker may take to end.
_END_S = 5.0
#: How often an order is given before its worker's end is told as its failure.
_TRIES = 2


class Worker:
    """A process, from outside, and the queue of what it is to do."""

    def __init__(self, path: Path, batcher: Batcher, threads: Callable[[int], int]) -> None:
        """threads: told how many workers more are at work, says how many threads one may use."""
        self.batcher = batcher
        self._path = path
        self._threads = threads
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()  # held by who waits for the process
        self._closed = False

    def call(self, what: What, **given: Any) -> Reply:
        """What comes of an order; see `mmsearch.serve.worker`. In the queue's thread. A process
        that has ended is started again, and given the order once more.

        Raises what the worker says is wrong; OverloadedError when no process can be had.
        """
        threads = self._threads(1)
        try:
            with self._lock:
                for _ in range(_TRIES):
                    reply = self._tried(Order(what, threads, **given))
                    if reply is not None:
                        return _good(reply)
        finally:
            self._threads(-1)
        raise MmsearchError("the process that was to answer has ended, twice; the log says how")

    def _tried(self, order: Order) -> Reply | None:
        """None where the process ended."""
        process, connection = self._running()
        try:
            if self._closed:
                raise EOFError
            connection.send(order)
            reply: Reply = connection.recv()
        except (EOFError, OSError) as exc:
            connection.close()
            self._connection = None
            how = _ended(process)
            if self._closed:
                raise OverloadedError(STOPPING) from exc
            log.error("a worker ended (%s)", how)
            return None
        return reply

    def _running(self) -> tuple[SpawnProcess, Connection]:
        if self._process is not None and self._connection is not None:
            return self._process, self._connection
        if self._closed:
            raise OverloadedError(STOPPING)
        context = multiprocessing.get_context("spawn")  # threads and OpenMP do not survive a fork
        try:
            connection, theirs = context.Pipe()
            process = context.Process(
                target=work, args=(theirs, self._path), name="mmsearch worker", daemon=True
            )
            with theirs, _without_stop_signals():
                process.start()
        except OSError as exc:
            raise OverloadedError(f"no worker could be started: {exc.strerror}") from exc
        self._process, self._connection = process, connection
        return process, connection

    @property
    def pid(self) -> int | None:
        """The number of its process, while one is there."""
        process = self._process
        return process.pid if process is not None and process.is_alive() else None

    def let_go(self) -> None:
        """Asks the process to end, and does not wait for it; in the middle of an order it is
        killed, as it changes nothing."""
        self._closed = True
        self.batcher.close()
        if self._lock.acquire(blocking=False):
            try:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
            finally:
                self._lock.release()
        elif self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Ends the process."""
        self.let_go()
        # Whoever is just starting one ends it.
        if self._lock.acquire(timeout=_END_S):
            self._lock.release()
        if self._process is not None:
            _ended(self._process)


class Workers:
    """The workers of a service. Its calls come from the event loop's thread."""

    def __init__(self, path: Path, batchers: Sequence[Batcher]) -> None:
        """path: of the library. batchers: the queues of the workers, one each."""
        self._lock = threading.Lock()
        self._busy = 0
        self._members = [Worker(path, batcher, self._threads) for batcher in batchers]
        self._runs: dict[tuple[Worker, Any], Run] = {}
        #: Whether they have loaded what they need.
        self.ready = False

    def __len__(self) -> int:
        """How many jobs wait for them."""
        return sum(len(one.batcher) for one in self._members)

    @property
    def pids(self) -> list[int]:
        """The numbers of their processes."""
        return [pid for one in self._members if (pid := one.pid) is not None]

    async def start(self) -> None:
        """Starts them, and returns when they have loaded what they need. Raises what keeps one
        from it; then none is left."""
        loading = [one.batcher.call(partial(one.call, "warm")) for one in self._members]
        for outcome in await asyncio.gather(*loading, return_exceptions=True):
            if isinstance(outcome, BaseException):
                await asyncio.to_thread(self.close)
                raise outcome
        self.ready = True

    def submit(
        self,
        name: str,
        run: Callable[[Worker, Sequence[Item]], Sequence[Result]],
        item: Item,
        size: int = 1,
    ) -> asyncio.Future[Result]:
        """As `Batcher.submit`, for the worker that has least to do; it is the first argument."""
        worker = min(self._members, key=lambda one: one.batcher.load)
        # The same one each time: jobs go together whose function is the same.
        of_it = self._runs.setdefault((worker, run), partial(run, worker))
        return worker.batcher.submit(name, of_it, item, size)

    def close(self) -> None:
        """Ends their processes."""
        for one in self._members:
            one.let_go()
        for one in self._members:
            one.close()

    def _threads(self, more: int) -> int:
        """Notes that so many more are at work; how many threads each of them should take."""
        from mmsearch.index.crew import cores  # not before torch: see Library.warm

        with self._lock:
            self._busy += more
            return max(1, cores() // max(1, self._busy))


def _good(reply: Reply) -> Reply:
    for record in reply.records:
        logging.getLogger(record.name).handle(record)
    if reply.error is not None:
        raise reply.error
    return reply


@contextmanager
def _without_stop_signals() -> Iterator[None]:
    """Within, a process is started that begins with Ctrl-C and SIGTERM held back: they go to all
    processes of a terminal or a unit, and the service ends its workers itself."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # What multiprocessing starts with the first process; it would let these signals through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ended(process: SpawnProcess) -> str:
    """Sees to it that a process ends that was let go of; how it did."""
    process.join(_END_S)
    if process.is_alive():
        process.kill()
        process.join()
    code = process.exitcode
    if code == -getattr(signal, "SIGKILL", 9):  # Windows has no such name
        return "killed; memory may have run out"
    return f"by signal {-code}" if code is not None and code < 0 else f"with code {code}"
