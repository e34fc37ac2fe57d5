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
import multiprocessing
import os
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.clock import Clock
from indexer.decoder_member import END_S, MOST_ORDERS, Member
from indexer.decoder_work import Recipe
from indexer.prepare import DECODING, READING, Job, Loaded
from mmsearch.cores import allowed
from mmsearch.errors import DecodeTimeoutError, MmsearchError
from mmsearch.types import PictureInfo

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

logger = logging.getLogger(__name__)

#: Pictures that a process has at once, at least, and fewer than it may where they take longer: as
#: many as are this much work, since who waits for the last ones waits no longer.
_SHALLOWEST = 2
_AHEAD_S = 0.1
#: How often it is looked whether a process is stuck.
_LOOK_S = 0.25
#: Processes that ended before they could do anything, one after the other: more are no use.
_MOST_STILLBORN = 3
#: Cores from which on there are processes by themselves, and the most that there are.
_FEWEST_CORES = 4
_MOST = 32
#: How native code ends that bytes have led astray. Whatever else ends a process is no fault of the
#: picture that it was at.
_CRASHES = {
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE")
    if hasattr(signal, name)  # Windows imports this too, and has no SIGBUS
}
#: What each process needs, imported once in the one that they are forked from.
_PRELOADED = ["torch", "mmsearch.decode", "mmsearch.encode.preprocess", "indexer.decoder_work"]


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
    there = allowed()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(there, int(quota) // int(period)))
    except (OSError, ValueError):  # none, or "max"
        return there


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
        *,
        max_stuck: int,
    ) -> None:
        """Starts the first of so many processes; the others as there is work for them.

        known, clock: as of `indexer.load.Loader`. max_stuck: processes that are stuck beyond being
        killed (a drive that does not answer), from which on `is_full`.

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
        self._max_stuck = max_stuck
        self._recipe = recipe
        self._known = known
        self._clock = clock
        self._queue: deque[Prepared] = deque()
        self._each_s = _AHEAD_S / _SHALLOWEST  # that a picture takes, about
        self._stillborn = 0
        self._looked = time.monotonic()
        self._given_up: list[BaseProcess] = []
        multiprocessing.set_forkserver_preload(_PRELOADED)
        self._members: list[Member] = []
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
        return len(self._given_up) >= self._max_stuck

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
                member = Member(self._recipe)
            except (OSError, EOFError) as exc:  # the second: the one that forks them has ended
                if not self._members:
                    raise MmsearchError(
                        f"no process that decodes can be started ({exc or 'it ended'}). "
                        "MMSEARCH_DECODE_PROCESSES=0 decodes without them"
                    ) from exc
                logger.warning(
                    "of the processes that decode only %d could be started: %s",
                    len(self._members),
                    exc,
                )
                self._count = len(self._members)
                return
            self._members.append(member)
            self._selector.register(member.connection, selectors.EVENT_READ, member)

    def _end(self, member: Member, wait_s: float = 0.0) -> int | None:
        """Its exit code; see `Member.kill`."""
        self._members.remove(member)
        self._selector.unregister(member.connection)
        code = member.kill(wait_s)
        if code is None:
            self._given_up.append(member.process)
        return code

    def _feed(self) -> None:
        if len(self._members) < self._count:
            self._fill(len(self._queue) + sum(len(one.orders) for one in self._members))
        depth = round(min(max(_AHEAD_S / self._each_s, _SHALLOWEST), MOST_ORDERS))
        while self._queue:
            member = min(self._members, key=lambda one: one.load)
            if member.load >= (1 if self._queue[0].alone else depth):
                return
            order = self._queue.popleft()
            try:
                member.give(order)
            except OSError:  # it has ended
                if order not in member.orders.values():
                    self._queue.appendleft(order)
                self._replace(member)

    def _listen(self, member: Member) -> None:
        """Takes the first that a process has said."""
        try:
            self._take(member, *member.connection.recv())
        except (EOFError, OSError):
            self._replace(member)

    def _take(self, member: Member, what: str, number: int, content: Any) -> None:
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

    def _replace(self, member: Member, *, late: bool = False) -> None:
        """Another process in the place of one that ended, or is to end because it is late.

        Its orders are given again. What it was at is given alone: only what ends a process by
        itself has failed. (What one picture breaks in memory may end the process at the next.)
        """
        code = self._end(member, 0.0 if late else END_S)
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
    elif code == -getattr(signal, "SIGKILL", 9):
        # By the system, for want of memory, as a rule: the next run may have more.
        reason, transient = "the process that decoded it was killed (out of memory?)", True
    else:
        reason, transient = f"the process that decoded it ended ({_how(code)})", True
    return Loaded(bare, job.size, job.mtime_ns, reason=reason, transient=transient)


def _how(code: int | None) -> str:
    if code is None:
        return "stuck"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
