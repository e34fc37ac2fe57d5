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
import logging
import mmap
import multiprocessing
import os
import selectors
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from multiprocessing import forkserver, reduction
from multiprocessing.connection import Connection
from operator import attrgetter
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.clock import Clock, Laps
from indexer.prepare import DECODING, READING, Job, Loaded, Read, Stage, look_at, read
from mmsearch.encode import use_threads
from mmsearch.errors import DecodeTimeoutError, MmsearchError
from mmsearch.types import PictureInfo

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from numpy.typing import NDArray

    from mmsearch.types import DecodeLimits, Pixels

logger = logging.getLogger(__name__)

#: Pictures that a process has at once, at most; fewer where they take longer, as many as are this
#: much work: who waits for the last ones waits no longer.
_DEEPEST = 32
_SHALLOWEST = 2
_AHEAD_S = 0.1
#: Bytes of files that a process holds while it waits to hear whether they are known.
_MOST_HELD = 32 << 20
#: How often it is looked whether a process is stuck.
_LOOK_S = 0.25
#: So much longer it has then: all may have been stopped meanwhile (Ctrl-Z).
_GRACE_S = 1.0
#: Processes that ended before they could do anything, one after the other: more are no use.
_MOST_STILLBORN = 3
#: Processes that are stuck beyond being killed (a drive that does not answer).
_MAX_STUCK = 16
_END_S = 2.0
#: Cores from which on there are processes by themselves, and the most that there are.
_FEWEST_CORES = 4
_MOST = 32
#: How native code ends that bytes have led astray. Whatever else ends a process is no fault of the
#: picture that it was at.
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}
#: What each process needs, imported once in the one that they are forked from.
_PRELOADED = ["torch", "mmsearch.decode", "mmsearch.encode.preprocess", "indexer.decoder_processes"]


def how_many(device: str) -> int:
    """How many processes a model on this device, as `Encoder.device` tells it, is worth; 0: none.

    On a CPU its own threads need the cores, and are slower than one process's Python.
    """
    there = _cores()
    worth = device.startswith("cuda") and there >= _FEWEST_CORES and can_be_had()
    return min(there - 1, _MOST) if worth else 0


def can_be_had() -> bool:
    """Whether this system has what they are made with: Linux."""
    return sys.platform == "linux" and hasattr(os, "memfd_create")


def expect(count: int | None, device: str) -> None:
    """Begins to import what processes need, while the model is loaded for this device ("auto").

    count: of processes; None: as many as the device turns out to be worth, which may be none.
    """
    is_gpu_there = device != "cpu" and Path("/proc/driver/nvidia").exists()
    wanted = (how_many("cuda") if is_gpu_there else 0) if count is None else count
    if wanted and can_be_had():
        with contextlib.suppress(OSError):  # told when they are to start
            multiprocessing.set_forkserver_preload(_PRELOADED)
            forkserver.ensure_running()


def _cores() -> int:
    """That this process may use; of a container with a share of its machine, that share."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(there, int(quota) // int(period)))
    except (OSError, ValueError):  # none, or "max"
        return there


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
        #: Whether a process ended that had it: another one has it, and nothing else at a time.
        self.alone = False
        self.took_s = 0.0
        self.outcome: Loaded | Exception | None = None

    def result(self) -> Loaded:
        """What became of it, once it is there. Raises RuntimeError where a process says that
        something went wrong which is not the picture's fault."""
        while self.outcome is None:
            self._processes.attend()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def ends(self, outcome: Loaded | Exception) -> None:
        self.job, self.outcome = None, outcome


class DecoderProcesses:
    """Not thread-safe: all calls come from one thread."""

    def __init__(
        self,
        count: int,
        recipe: Recipe,
        known: Callable[[bytes], int | None],
        clock: Clock,
    ) -> None:
        """Starts the first of so many processes; the others as there is work for them. known: as of
        `indexer.load.Loader`.

        Raises MmsearchError when none can be started.
        """
        if count < 1:
            raise ValueError(f"{count} processes cannot decode anything")
        if not can_be_had():
            raise MmsearchError(
                "processes that decode need Linux: leave MMSEARCH_DECODE_PROCESSES away, or set it "
                "to 0"
            )
        self._count = count
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
            self._fill(1)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """How many there are at most."""
        return self._count

    @property
    def is_full(self) -> bool:
        """Whether so many are stuck, and cannot be ended, that no more should be tried."""
        self._given_up = [one for one in self._given_up if one.is_alive()]
        return len(self._given_up) >= _MAX_STUCK

    def submit(self, job: Job, *, asks: bool) -> Prepared:
        """Has a job done. asks: whether its content may be known, which is asked before it is
        decoded. Raises MmsearchError when no process can be had."""
        order = Prepared(self, job, asks=asks)
        self._queue.append(order)
        self._feed()
        return order

    def attend(self) -> None:
        """Takes what the processes say, waiting for it, and gives them more to do.

        Raises MmsearchError when no process can be had, or all end as soon as they begin.
        """
        for key, _ in self._selector.select(_LOOK_S):
            self._listen(key.data)
        if time.monotonic() - self._looked >= _LOOK_S:
            self._looked = time.monotonic()
            for member in self._members[:]:
                # Each looked at just before: to end another one may have taken a while.
                if member.is_overdue(self._recipe.limits.max_seconds):
                    self._replace(member, late=True)
        self._feed()

    def drain(self) -> None:
        """Drops what is not done; processes that are at something are ended."""
        self._queue.clear()
        for member in [one for one in self._members if one.orders]:
            self._end(member)

    def close(self) -> None:
        """Ends the processes."""
        for member in self._members[:]:
            self._end(member)
        self._selector.close()

    # --- one process ----------------------------------------------------------------------------

    def _fill(self, orders: int) -> None:
        """Starts those that are missing for so many orders; where that fails, those that there are
        must do."""
        while len(self._members) < min(self._count, orders):
            try:
                member = _Member(self._recipe)
            except (OSError, EOFError) as exc:  # the second: the one that forks them has ended
                if not self._members:
                    raise MmsearchError(
                        f"no process that decodes can be started ({exc or 'it ended'}). "
                        "MMSEARCH_DECODE_PROCESSES=0 decodes without them"
                    ) from exc
                logger.warning("%d processes decode, no more: %s", len(self._members), exc)
                self._count = len(self._members)
                return
            self._members.append(member)
            self._selector.register(member.connection, selectors.EVENT_READ, member)

    def _end(self, member: _Member, wait_s: float = 0.0) -> int | None:
        """Its exit code; see `_Member.kill`."""
        self._members.remove(member)
        self._selector.unregister(member.connection)
        code = member.kill(wait_s)
        if code is None:
            self._given_up.append(member.process)
        return code

    def _feed(self) -> None:
        if len(self._members) < self._count:
            self._fill(len(self._queue) + sum(len(one.orders) for one in self._members))
        depth = round(min(max(_AHEAD_S / self._each_s, _SHALLOWEST), _DEEPEST))
        while self._queue:
            member = min(self._members, key=lambda one: one.load)
            if member.load >= (1 if self._queue[0].alone else depth):
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
        self._stillborn = 0
        if what == "hello":
            member.has_begun = True
            return
        order = member.orders[number]
        job = order.job
        assert job is not None
        bare = job if job.data is None else replace(job, data=None)
        if what == "error":
            member.free(number)
            order.ends(RuntimeError(f"preparing {bare.path} failed:\n{content}"))
            return
        (size, mtime_ns, digest), spans, more = content
        item = job.member or job.path
        self._clock.add(spans, item, (member.process.pid or 0, "decode process"))
        order.took_s += sum(ended - began for _, began, ended in spans)
        if what == "read":
            began = time.perf_counter()
            content_id = self._known(digest)
            self._clock.add([("look up", began, time.perf_counter())], item)
            if content_id is None:
                member.connection.send(("decode", number, None))
                return
            member.connection.send(("drop", number, None))
            outcome = Loaded(bare, size, mtime_ns, digest, content_id)
        else:
            info, squared, reason, transient = more
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
        self._each_s += (order.took_s - self._each_s) / 16
        member.free(number)
        order.ends(outcome)

    def _replace(self, member: _Member, *, late: bool = False) -> None:
        """Another process in the place of one that ended, or is to end because it is late.

        Its orders are given again. What it was at is given alone: only what ends a process by
        itself has failed. (What one picture breaks in memory may end the process at the next.)
        """
        code = self._end(member, 0.0 if late else _END_S)
        number, stage, since = member.at
        at = member.orders.get(number)
        if late:
            # By now it may be at another one.
            suspects = [at] if at is not None and since == member.suspected else []
        elif not member.has_begun:
            suspects = []
            self._stillborn += 1
            if self._stillborn >= _MOST_STILLBORN:
                raise MmsearchError(
                    f"the processes that decode end as soon as they begin ({_how(code)}). "
                    "MMSEARCH_DECODE_PROCESSES=0 decodes without them; a script of your own has to "
                    'ask for them below `if __name__ == "__main__":`'
                )
        else:
            suspects = list(member.orders.values()) if at is None else [at]
        limit_s = self._recipe.limits.max_seconds
        for order in suspects:
            if late or (order.alone and len(member.orders) == 1):
                assert order.job is not None
                order.ends(_failed(order.job, stage, code, limit_s if late else None))
            order.alone = True
        again = [order for order in member.orders.values() if order.outcome is None]
        self._queue.extendleft(reversed(again))
        self._fill(len(self._queue))


def _failed(job: Job, stage: str, code: int | None, late_s: float | None) -> Loaded:
    """The outcome of a job at which a process ended, or was ended after so many seconds."""
    bare = replace(job, data=None)
    if late_s is not None:
        reason, transient = DecodeTimeoutError("", stage, late_s).reason, stage == READING
    elif stage == DECODING and code is not None and -code in _CRASHES:
        reason, transient = f"broken: its decoder crashed ({_how(code)})", False
    elif code == -signal.SIGKILL:
        # By the system, for want of memory, as a rule: the next run may have more.
        reason, transient = "the process that decoded it was killed (out of memory?)", True
    else:
        reason, transient = f"the process that decoded it ended ({_how(code)})", True
    return Loaded(bare, job.size, job.mtime_ns, reason=reason, transient=transient)


def _how(code: int | None) -> str:
    if code is None:
        return "stuck"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


class _Member:
    """A process, from outside."""

    def __init__(self, recipe: Recipe) -> None:
        """Raises OSError, EOFError."""
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
        #: Whether it was heard of.
        self.has_begun = False
        self.orders: dict[int, Prepared] = {}
        self._has_one_alone = False
        self._places = list(range(_DEEPEST))
        #: Since when it was at what it was at when it was first found overdue, and when that was.
        self.suspected = 0.0
        self._suspected_at = 0.0

    @property
    def load(self) -> int:
        """How many orders it has; all that it may have, where it has one that is alone."""
        return _DEEPEST if self._has_one_alone and self.orders else len(self.orders)

    def give(self, order: Prepared) -> None:
        """Raises OSError when the process has ended."""
        assert order.job is not None
        number = self._places.pop()
        self.orders[number] = order
        self._has_one_alone = order.alone
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
    def at(self) -> tuple[int, str, float]:
        """Which order it is at, -1 for none, at which stage, and since when (monotonic)."""
        number, stage, since = self._shared.at.tolist()
        return int(number), _STAGES[int(stage)], since

    def is_overdue(self, seconds: float) -> bool:
        """Whether it has been at one stage of a picture for too long, twice looked at."""
        number, _, since = self.at
        now = time.monotonic()
        if number < 0 or now - since <= seconds:
            return False
        if self.suspected != since:
            self.suspected, self._suspected_at = since, now
        return now - self._suspected_at >= min(_GRACE_S, seconds)

    def kill(self, wait_s: float = 0.0) -> int | None:
        """Ends it; its exit code, None where it cannot be ended. wait_s: how long it may take to
        end by itself, which it is about to."""
        self.connection.close()
        self.process.join(wait_s)
        self.process.kill()
        self.process.join(_END_S)
        return self.process.exitcode


_STAGES = (READING, DECODING)
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
    work = _Work(connection, shared, recipe)
    work.say("hello", -1, None)
    jobs: deque[tuple[int, Any]] = deque()
    while True:
        # Answers before jobs: of what was read no more is held than has to be.
        try:
            what, number, content = orders.get(block=not (jobs and work.has_room))
        except Empty:
            work.begin(*jobs.popleft())
            continue
        if what == "job":
            jobs.append((number, content))
        elif what == "drop":
            work.drop(number)
        else:
            work.go_on(number)


class _Work:
    """What a process does of its orders, by their numbers."""

    def __init__(self, connection: Connection, shared: _Shared, recipe: Recipe) -> None:
        self._connection = connection
        self._shared = shared
        self._recipe = recipe
        self._read: dict[int, Read] = {}

    def say(self, what: str, number: int, content: Any) -> None:
        try:
            self._connection.send((what, number, content))
        except OSError:  # nobody is there any more
            os._exit(0)

    @property
    def has_room(self) -> bool:
        """Whether more may be read while the answers to what was read are not there."""
        return sum(len(got.data) for got in self._read.values()) < _MOST_HELD

    def begin(self, number: int, content: Any) -> None:
        """Reads a picture, and asks whether it is known or goes on."""
        *about, data, asks = content
        with self._at(number) as laps:
            got = read(Job(*about), data, self._recipe.limits, self._stage(number), laps)
            if isinstance(got, Loaded):
                self._done(number, got, laps)
            elif asks:
                self._read[number] = got
                self._shared.at[0] = -1
                self.say("read", number, (_file(got), laps.spans, None))
            else:
                self._finish(number, got, laps)

    def drop(self, number: int) -> None:
        """What was read is known."""
        del self._read[number]

    def go_on(self, number: int) -> None:
        """Decodes what was read."""
        with self._at(number) as laps:
            self._finish(number, self._read.pop(number), laps)

    def _finish(self, number: int, got: Read, laps: Laps) -> None:
        recipe = self._recipe
        seen = partial(
            look_at,
            got,
            recipe.limits,
            self._stage(number),
            laps,
            min_side=recipe.min_side,
            preprocess=recipe.preprocess,
        )
        self._done(number, got.seen(seen), laps)

    def _done(self, number: int, loaded: Loaded, laps: Laps) -> None:
        if loaded.pixels is not None:
            self._shared.squares[number] = loaded.pixels
        info = None if loaded.info is None else _INFO(loaded.info)
        more = (info, loaded.pixels is not None, loaded.reason, loaded.transient)
        self._shared.at[0] = -1
        self.say("done", number, (_file(loaded), laps.spans, more))

    @contextmanager
    def _at(self, number: int) -> Iterator[Laps]:
        """Within, it is at this order; what goes wrong is told."""
        self._stage(number)(READING)
        try:
            yield Laps()
        except Exception:  # noqa: BLE001 -- raised where the outcome is asked for
            self._shared.at[0] = -1
            self.say("error", number, traceback.format_exc())

    def _stage(self, number: int) -> Stage:
        def stage(name: str) -> None:
            self._shared.at[:] = number, _STAGES.index(name), time.monotonic()

        return stage


def _file(of: Read | Loaded) -> tuple[int, int, bytes]:
    return of.size, of.mtime_ns, of.hash


def _receive(connection: Connection, orders: SimpleQueue[tuple[str, int, Any]]) -> None:
    """Takes orders from the pipe, so that who gives them never waits for a picture."""
    try:
        while True:
            orders.put(connection.recv())
    except (EOFError, OSError):
        pass  # nobody wants anything any more
    finally:
        # Whatever it is at: that may never end. And without orders there is nothing to do.
        os._exit(1)
