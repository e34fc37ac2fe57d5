"""What a process does that prepares pictures: its orders, its answers, the memory that it shares.

See indexer.decoder_processes. What goes through the pipe is (what, number of the order, content).

To the process: "job", (*fields of a Job, whether to ask); "decode" or "drop", None, the answer to
what it asked. From it: "hello", None; "read", (file, spans, None), which asks whether the content
is known; "done", (file, spans, (fields of a PictureInfo or None, whether pixels were left, reason,
transient)); "error", a traceback. A file is its size in bytes, mtime in ns, and SHA-256.
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from multiprocessing import reduction
from multiprocessing.connection import Connection
from operator import attrgetter
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.clock import Laps
from indexer.prepare import DECODING, READING, Job, Loaded, Read, Stage, look_at, read
from mmsearch.encode import use_threads
from mmsearch.types import PictureInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmsearch.types import DecodeLimits, Pixels

#: Bytes of files that a process holds while it waits to hear whether they are known.
_MOST_HELD = 32 << 20
STAGES = (READING, DECODING)
# What travels as tuples of fields: to pickle instances of these takes half of all the time.
JOB_FIELDS = attrgetter(*(field.name for field in fields(Job)))
INFO_FIELDS = attrgetter(*(field.name for field in fields(PictureInfo)))


@dataclass(frozen=True, slots=True)
class Recipe:
    """How pictures are prepared. preprocess, side: of the encoder. min_side: as of
    `mmsearch.decode.decode`."""

    preprocess: Callable[[Pixels], NDArray[np.uint8]]
    side: int
    limits: DecodeLimits
    min_side: int | None


class Shared:
    """Memory that two processes have: what one of them is at, and squares of pixels."""

    def __init__(self, places: int, side: int, fd: int | None = None) -> None:
        """places: of squares of so many pixels a side. fd: of one that there is; None makes it.

        Raises OSError.
        """
        square = 3 * side * side
        size = mmap.PAGESIZE + places * square
        self._made = places, side
        self._fd = os.memfd_create("mmsearch-pixels") if fd is None else fd
        if fd is None:
            os.ftruncate(self._fd, size)
        memory = mmap.mmap(self._fd, size)  # which has a descriptor of its own
        #: The order's number or -1, the place of the stage in STAGES, since when (monotonic).
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


def _attached(places: int, side: int, fd: Any) -> Shared:
    shared = Shared(places, side, fd.detach())
    shared.close()
    return shared


def work(connection: Connection, shared: Shared, recipe: Recipe) -> None:
    """Prepares pictures until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who gives orders
    use_threads(1)
    orders: SimpleQueue[tuple[str, int, Any]] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, orders), daemon=True).start()
    mine = _Work(connection, shared, recipe)
    mine.say("hello", -1, None)
    jobs: deque[tuple[int, Any]] = deque()
    while True:
        # Answers before jobs: of what was read no more is held than has to be.
        try:
            what, number, content = orders.get(block=not (jobs and mine.has_room))
        except Empty:
            mine.begin(*jobs.popleft())
            continue
        if what == "job":
            jobs.append((number, content))
        elif what == "drop":
            mine.drop(number)
        else:
            mine.go_on(number)


class _Work:
    """What a process does of its orders, by their numbers."""

    def __init__(self, connection: Connection, shared: Shared, recipe: Recipe) -> None:
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
        *about, asks = content
        job = Job(*about)
        with self._at(number) as laps:
            bare = replace(job, data=None)
            got = read(bare, job.data, self._recipe.limits, self._stage(number), laps)
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
        info = None if loaded.info is None else INFO_FIELDS(loaded.info)
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
            self._shared.at[:] = number, STAGES.index(name), time.monotonic()

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
