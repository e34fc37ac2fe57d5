"""Pictures prepared in processes, for models that take more than one process's Python can give.

Threads share Python's lock: on a machine with 16 cores and a GPU, which encodes 44,000 pictures a
second, 8 threads prepared 1,768 small photographs a second and 16 of them 1,334. Processes share
nothing but the pipe that their orders and answers take, and memory that their pixels are left in.
And a decoder that crashes, as native code does on bytes made for it, takes one process along
instead of the run.

One thread speaks with them, the one that calls: it gives each a few pictures ahead, so that all
have work while it has other things to do.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import selectors
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from multiprocessing import forkserver, reduction
from multiprocessing.connection import Connection
from operator import attrgetter
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.clock import Clock, Laps
from indexer.prepare import READING, Job, Loaded, Read, look_at, read
from mmsearch.encode import use_threads
from mmsearch.errors import DecodeTimeoutError, MmsearchError
from mmsearch.types import PictureInfo

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from numpy.typing import NDArray

    from mmsearch.types import DecodeLimits, Pixels

#: Pictures that a process has at once, at most; fewer where they take longer, as many as are this
#: much work: who waits for the last ones waits no longer.
_DEEPEST = 32
_SHALLOWEST = 2
_AHEAD_S = 0.1
#: How long nothing may come before it is looked whether a process is stuck.
_LOOK_S = 0.25
#: So much longer it has then: all may have been stopped meanwhile (Ctrl-Z).
_GRACE_S = 1.0
#: Processes that ended before they did anything, one after the other: there is no use in more.
_MOST_STILLBORN = 3
#: Processes that are stuck beyond being killed (a drive that does not answer).
_MAX_STUCK = 16
_END_S = 2.0
#: Cores from which on there are processes by themselves, and the most that there are.
_FEWEST_CORES = 4
_MOST = 64
#: What each process needs, imported once in the one that they are forked from.
_PRELOADED = ["torch", "mmsearch.decode", "mmsearch.encode.preprocess", "indexer.decoder_processes"]


def how_many(device: str) -> int:
    """How many processes a model on this device, as `Encoder.device` tells it, is worth; 0: none.

    On a CPU its own threads need the cores, and are slower than one process's Python.
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    worth = device.startswith("cuda") and there >= _FEWEST_CORES and can_be_had()
    return min(there - 1, _MOST) if worth else 0


def can_be_had() -> bool:
    """Whether this system has what they are made with: Linux."""
    return sys.platform == "linux" and hasattr(os, "memfd_create")


def expect(device: str) -> None:
    """Begins to import what processes need, while the model is loaded for this device ("auto"),
    where they may turn out to be worth it."""
    if can_be_had() and device != "cpu" and Path("/proc/driver/nvidia").exists():
        multiprocessing.set_forkserver_preload(_PRELOADED)
        forkserver.ensure_running()


@dataclass(frozen=True, slots=True)
class Recipe:
    """How pictures are prepared. preprocess, side: of the encoder. min_side: as of
    `mmsearch.decode.decode`."""

    preprocess: Callable[[Pixels], NDArray[np.uint8]]
    side: int
    limits: DecodeLimits
    min_side: int | None


class Prepared:
    """A job given to the processes."""

    def __init__(self, processes: DecoderProcesses, job: Job, *, asks: bool) -> None:
        self._processes = processes
        self.job: Job | None = job  # until it is done, so that its data are let go of
        self.asks = asks
        self.outcome: Loaded | None = None

    def result(self) -> Loaded:
        """What became of it, once it is there."""
        while self.outcome is None:
            self._processes.attend()
        return self.outcome


class DecoderProcesses:
    """Not thread-safe: all calls come from one thread."""

    def __init__(
        self,
        count: int,
        recipe: Recipe,
        known: Callable[[bytes], int | None],
        clock: Clock,
    ) -> None:
        """Starts so many processes. known: as of `indexer.load.Loader`.

        Raises OSError.
        """
        self._recipe = recipe
        self._known = known
        self._clock = clock
        self._queue: deque[Prepared] = deque()
        self._each_s = _AHEAD_S / _SHALLOWEST  # that a picture takes, about
        self._stillborn = 0
        self._looked = time.monotonic()
        self._given_up: list[BaseProcess] = []
        multiprocessing.set_forkserver_preload(_PRELOADED)
        self._members: list[_Member] = []
        # Kept, with what it watches: to make one for each look would be half of the work.
        self._selector = selectors.DefaultSelector()
        try:
            for _ in range(count):
                self._start()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._members)

    @property
    def is_full(self) -> bool:
        """Whether so many are stuck, and cannot be ended, that no more should be tried."""
        self._given_up = [one for one in self._given_up if one.is_alive()]
        return len(self._given_up) >= _MAX_STUCK

    def submit(self, job: Job, *, asks: bool) -> Prepared:
        """Has a job done. asks: whether its content may be known, which is asked before it is
        decoded."""
        order = Prepared(self, job, asks=asks)
        self._queue.append(order)
        self._feed()
        return order

    def attend(self) -> None:
        """Takes what the processes say, waiting for it, and gives them more to do.

        Raises MmsearchError when processes end as soon as they begin.
        """
        for key, _ in self._selector.select(_LOOK_S):
            self._listen(key.data)
        if time.monotonic() - self._looked >= _LOOK_S:
            self._looked = time.monotonic()
            for member in [one for one in self._members if one.is_overdue(self._recipe)]:
                self._replace(member)
        self._feed()

    def drain(self) -> None:
        """Drops what is not done; processes that are at something are ended."""
        self._queue.clear()
        for member in [one for one in self._members if one.orders]:
            self._end(member)
            self._start()

    def close(self) -> None:
        """Ends the processes."""
        for member in self._members[:]:
            self._end(member)
        self._selector.close()

    # --- one process ----------------------------------------------------------------------------

    def _start(self) -> None:
        member = _Member(self._recipe)
        self._members.append(member)
        self._selector.register(member.connection, selectors.EVENT_READ, member)

    def _end(self, member: _Member, wait_s: float = 0.0) -> str:
        """How it ended; see `_Member.kill`."""
        self._members.remove(member)
        self._selector.unregister(member.connection)
        return member.kill(wait_s)

    def _feed(self) -> None:
        depth = round(min(max(_AHEAD_S / self._each_s, _SHALLOWEST), _DEEPEST))
        while self._queue:
            member = min(self._members, key=lambda one: len(one.orders))
            if len(member.orders) >= depth:
                return
            try:
                member.give(self._queue.popleft())
            except OSError:  # it has ended
                self._replace(member)

    def _listen(self, member: _Member) -> None:
        """Takes the first that a process has said."""
        try:
            self._take(member, *member.connection.recv())
        except (EOFError, OSError):
            self._replace(member)

    def _take(self, member: _Member, what: str, number: int, content: Any) -> None:
        order = member.orders[number]
        job = order.job
        assert job is not None
        bare = job if job.data is None else replace(job, data=None)
        item = job.member or job.path
        if what == "read":
            size, mtime_ns, digest = content
            began = time.perf_counter()
            content_id = self._known(digest)
            self._clock.add([("look up", began, time.perf_counter())], item)
            if content_id is None:
                member.connection.send(("decode", number, None))
                return
            member.connection.send(("drop", number, None))
            outcome = Loaded(bare, size, mtime_ns, digest, content_id)
        else:
            (size, mtime_ns, digest), info, squared, reason, transient, spans = content
            self._clock.add(spans, item, (member.process.pid or 0, "decode process"))
            seconds = sum(ended - began for _, began, ended in spans)
            self._each_s += (seconds - self._each_s) / 16
            outcome = Loaded(
                bare,
                size,
                mtime_ns,
                digest,
                info=None if info is None else PictureInfo(*info),
                pixels=member.pixels(number) if squared else None,
                reason=reason,
                transient=transient,
            )
        self._stillborn = 0
        member.free(number)
        order.job, order.outcome = None, outcome

    def _replace(self, member: _Member) -> None:
        """Another process in the place of one that ended or is to end. What that was at is a
        failure; the rest of its orders are given again."""
        number, stage = member.at
        how = self._end(member, 0.0 if member.late else _END_S)
        if member.process.is_alive():
            self._given_up.append(member.process)
        at = member.orders.pop(number, None)
        if at is not None:
            assert at.job is not None
            at.outcome = _failed(at.job, stage, how, member.late, self._recipe.limits.max_seconds)
            at.job = None
        elif self._stillborn >= _MOST_STILLBORN:
            raise MmsearchError(
                f"the processes that decode end as soon as they begin ({how}). "
                "MMSEARCH_DECODE_PROCESSES=0 decodes without them"
            )
        else:
            self._stillborn += 1
        self._queue.extendleft(reversed(member.orders.values()))
        self._start()


def _failed(job: Job, stage: str, how: str, late: bool, seconds: float) -> Loaded:
    bare = replace(job, data=None)
    if late:
        reason, transient = DecodeTimeoutError("", stage, seconds).reason, stage == READING
    elif how == "killed":
        # By the system, for want of memory, as a rule: the next run may have more.
        reason, transient = "the process that decoded it was killed (out of memory?)", True
    else:
        reason, transient = f"broken: its decoder crashed ({how})", False
    return Loaded(bare, job.size, job.mtime_ns, reason=reason, transient=transient)


class _Member:
    """A process, from outside."""

    def __init__(self, recipe: Recipe) -> None:
        # Forked from one that has imported what they need, and has no threads: torch's import takes
        # more than a second, and 16 at once more memory than they share.
        context = multiprocessing.get_context("forkserver")
        self.connection: Connection
        self.connection, theirs = context.Pipe()
        self._shared = _Shared(_DEEPEST, recipe.side)
        self.process: BaseProcess = context.Process(
            target=_work, args=(theirs, self._shared, recipe), name="decode", daemon=True
        )
        with theirs, contextlib.closing(self._shared):
            self.process.start()
        self.orders: dict[int, Prepared] = {}
        self._places = list(range(_DEEPEST))
        self._suspected: tuple[int, float] | None = None
        #: Whether it was to end because it took too long.
        self.late = False

    def give(self, order: Prepared) -> None:
        """Raises OSError when the process has ended."""
        assert order.job is not None
        number = self._places.pop()
        self.orders[number] = order
        self.connection.send(("job", number, (*_JOB(order.job), order.asks)))

    def free(self, number: int) -> None:
        """An order is done: its place may be taken by another."""
        del self.orders[number]
        self._places.append(number)

    def pixels(self, number: int) -> NDArray[np.uint8]:
        """A copy of what it left of an order, (3, side, side)."""
        square: NDArray[np.uint8] = self._shared.squares[number].copy()
        return square

    @property
    def at(self) -> tuple[int, str]:
        """Which order it is at, -1 for none, and the stage."""
        number, stage, _ = self._shared.at.tolist()
        return int(number), _STAGES[int(stage)]

    def is_overdue(self, recipe: Recipe) -> bool:
        """Whether it has been at one picture for too long, twice looked at."""
        number, _, since = self._shared.at.tolist()
        now = time.monotonic()
        if number < 0 or now - since <= recipe.limits.max_seconds:
            self._suspected = None
        elif self._suspected is None or self._suspected[0] != since:
            self._suspected = since, now
        else:
            grace = min(_GRACE_S, recipe.limits.max_seconds)
            self.late = now - self._suspected[1] >= grace
        return self.late

    def kill(self, wait_s: float = 0.0) -> str:
        """Ends it; how it ended. wait_s: how long it may take to end by itself, which it is about
        to."""
        self.connection.close()
        self.process.join(wait_s)
        self.process.kill()
        self.process.join(_END_S)
        code = self.process.exitcode
        if code == -signal.SIGKILL:
            return "killed"
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


_STAGES = ("read", "decode")
# What travels as tuples of fields: to pickle instances of these takes half of all the time.
_JOB = attrgetter(*(field.name for field in fields(Job)))
_INFO = attrgetter(*(field.name for field in fields(PictureInfo)))


class _Shared:
    """Memory that two processes have: what one of them is at, and squares of pixels."""

    def __init__(self, places: int, side: int, fd: int | None = None) -> None:
        square = 3 * side * side
        size = mmap.PAGESIZE + places * square
        self._made = places, side
        self._fd = os.memfd_create("mmsearch-pixels") if fd is None else fd
        if fd is None:
            os.ftruncate(self._fd, size)
        memory = mmap.mmap(self._fd, size)  # which has a descriptor of its own
        #: The order's number or -1, the place of the stage in _STAGES, since when (monotonic).
        self.at: NDArray[np.float64] = np.frombuffer(memory, np.float64, 3)
        if fd is None:
            self.at[0] = -1
        #: (places, 3, side, side) uint8.
        self.squares: NDArray[np.uint8] = np.frombuffer(
            memory, np.uint8, places * square, mmap.PAGESIZE
        ).reshape(places, 3, side, side)

    def close(self) -> None:
        """It stays in memory; it can be sent to no other process any more."""
        os.close(self._fd)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (*self._made, reduction.DupFd(self._fd))


def _attached(places: int, side: int, fd: Any) -> _Shared:
    shared = _Shared(places, side, fd.detach())
    shared.close()
    return shared


# --- inside a process -----------------------------------------------------------------------------


def _work(connection: Connection, shared: _Shared, recipe: Recipe) -> None:
    """Prepares pictures until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who gives orders
    use_threads(1)
    orders: SimpleQueue[tuple[str, int, Any]] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, orders), daemon=True).start()
    reading: dict[int, tuple[Read, Laps]] = {}
    with contextlib.suppress(OSError):  # nobody is there any more
        while True:
            what, number, content = orders.get()
            if what == "drop":
                del reading[number]
                continue
            shared.at[:] = number, 0, time.monotonic()

            def stage(name: str, number: int = number) -> None:
                shared.at[:] = number, _STAGES.index(name), time.monotonic()

            if what == "job":
                *about, data, asks = content
                laps = Laps()
                got = read(Job(*about), data, recipe.limits, stage, laps)
                if isinstance(got, Read) and asks:
                    reading[number] = got, laps
                    shared.at[0] = -1
                    connection.send(("read", number, (got.size, got.mtime_ns, got.hash)))
                    continue
            else:
                got, laps = reading.pop(number)
                laps.go_on()
            loaded = got if isinstance(got, Loaded) else _seen(got, recipe, stage, laps)
            if loaded.pixels is not None:
                shared.squares[number] = loaded.pixels
            shared.at[0] = -1
            answer = (
                (loaded.size, loaded.mtime_ns, loaded.hash),
                None if loaded.info is None else _INFO(loaded.info),
                loaded.pixels is not None,
                loaded.reason,
                loaded.transient,
                laps.spans,
            )
            connection.send(("done", number, answer))


def _seen(got: Read, recipe: Recipe, stage: Callable[[str], None], laps: Laps) -> Loaded:
    return got.seen(
        lambda: look_at(
            got,
            recipe.limits,
            stage,
            laps,
            min_side=recipe.min_side,
            preprocess=recipe.preprocess,
        )
    )


def _receive(connection: Connection, orders: SimpleQueue[tuple[str, int, Any]]) -> None:
    """Takes orders from the pipe, so that who gives them never waits for a picture."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            orders.put(connection.recv())
    # Whatever it is at: nobody wants it any more, and it may never end.
    os._exit(0)
