"""Reading and decoding ahead of the model: threads, or processes, prepare pictures while it encodes
others."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

from indexer.clock import PREPARING, Clock, Laps
from indexer.prepare import READING, Job, Loaded, Read, Seen, Stage, look_at, read
from mmsearch.errors import DecodeTimeoutError, MmsearchError
from mmsearch.types import DecodeLimits
from mmsearch.watchdog import Task, Workers

if TYPE_CHECKING:
    from indexer.decoder_processes import DecoderProcesses, Prepared
    from mmsearch.encode import Encoder


logger = logging.getLogger(__name__)

#: Files being decoded in spite of having been given up, from which on no more are tried. Each may
#: hold a core and much memory, and only the end of the process ends it.
_MAX_STUCK = 16


class Loader:
    """Turns jobs into what the model eats, a bounded number of them ahead, in order."""

    def __init__(
        self,
        encoder: Callable[[], Encoder],
        known: Callable[[bytes], int | None],
        *,
        limits: DecodeLimits,
        threads: int | None = None,
        max_bytes: int = 256 << 20,
        reference: bool = False,
        clock: Clock | None = None,
        processes: int | None = 0,
        knows_any: Callable[[], bool] = lambda: True,
    ) -> None:
        """`known` tells the content id of a hash that needs no encoding; `encoder` loads lazily.

        max_bytes: of what lies ready ahead of the model at once, prepared pictures and undecoded
            members of archives together. (What is being decoded comes on top: a picture a thread.)
        reference: decode at full size always, so that what the encoder is given is what open_clip's
            own preprocessing would be.
        clock: told of every stage.
        processes: that prepare pictures instead of threads; None: as many as the encoder's device
            is worth. See `indexer.decoder_processes`.
        knows_any: whether `known` knows anything; if not, processes need not ask.
        """
        self._encoder = encoder
        self._known = known
        self._limits = limits
        self._threads = threads or min(32, (os.cpu_count() or 1) + 1)
        self._workers = Workers(
            self._threads, limits.max_seconds, name="decode", max_stuck=_MAX_STUCK
        )
        self._max_bytes = max_bytes
        self._picture_bytes = 0  # of a prepared picture, once there was one
        self._reference = reference
        self._clock = clock or Clock()
        self._wanted = processes
        self._knows_any = knows_any
        self._processes: DecoderProcesses | None = None

    def close(self) -> None:
        """Ends processes that prepare pictures."""
        if self._processes is not None:
            self._processes.close()
            self._processes = None

    def load(
        self, jobs: Iterable[Job], ahead: int | Callable[[], int]
    ) -> Generator[Loaded, None, None]:
        """The outcome of each job, in the order of the jobs; at most `ahead` are in flight, and
        fewer where they would take more than the allowed bytes.

        A job that takes longer than the limits allow is a failure: a transient one while its file
        is read (a drive that does not answer), a lasting one while it is decoded.
        """
        processes, clock = self._in_processes(), self._clock
        workers = self._workers if processes is None else processes
        most = ahead if callable(ahead) else lambda: ahead
        flying: deque[tuple[Job, Task[Loaded] | Prepared | None, int]] = deque()
        held = 0
        began, before = perf_counter(), clock.seconds
        try:
            for job in jobs:
                bare = job if job.data is None else replace(job, data=None)
                weight = len(job.data or b"") + self._picture_bytes
                flying.append((bare, None if workers.is_full else self._submit(job, bare), weight))
                held += weight
                while len(flying) >= most() or held > self._max_bytes:
                    bare, task, weight = flying.popleft()
                    held -= weight
                    yield self._outcome(bare, task)
            while flying:
                bare, task, _ = flying.popleft()
                yield self._outcome(bare, task)
        finally:
            workers.drain()
            after = clock.seconds
            busy = sum(after[stage] - before[stage] for stage in PREPARING)
            idle = len(workers) * (perf_counter() - began) - busy
            clock.add_seconds("wait for room", max(idle, 0.0))

    def _in_processes(self) -> DecoderProcesses | None:
        """The processes, started with the first pictures; None where threads do the work."""
        if self._processes is None and self._wanted != 0:
            from indexer.decoder_processes import DecoderProcesses, how_many
            from indexer.decoder_work import Recipe

            encoder = self._encoder()
            count = how_many(encoder.device) if self._wanted is None else self._wanted
            if not count:
                self._wanted = 0
                return None
            recipe = Recipe(
                encoder.preprocess, encoder.image_size, self._limits, self._min_side(encoder)
            )
            try:
                self._processes = DecoderProcesses(
                    count, recipe, self._known, self._clock, max_stuck=_MAX_STUCK
                )
            except MmsearchError as exc:
                if self._wanted is not None:  # somebody asked for them
                    raise
                logger.warning("threads prepare the pictures, no processes: %s", exc)
                self._wanted = 0
        return self._processes

    def _min_side(self, encoder: Encoder) -> int | None:
        return None if self._reference else 2 * encoder.image_size

    def _submit(self, job: Job, bare: Job) -> Task[Loaded] | Prepared:
        if self._processes is not None:
            return self._processes.submit(job, asks=self._knows_any())
        data = job.data
        return self._workers.submit(lambda task: self._timed(bare, data, task), job.path)

    def _timed(self, job: Job, data: bytes | None, task: Task[Loaded]) -> Loaded:
        laps = self._clock.laps(job.member or job.path)
        try:
            return self._prepare(job, data, task, laps)
        finally:
            laps.end()

    def _prepare(self, job: Job, data: bytes | None, task: Task[Loaded], laps: Laps) -> Loaded:
        got = read(job, data, self._limits, task.stage, laps)
        if isinstance(got, Loaded):
            return got
        content_id = self._known(got.hash)
        laps.lap("look up")
        if content_id is not None:
            return got.known(content_id)
        return got.seen(lambda: self._look_at(got, task.stage, laps))

    def _look_at(self, got: Read, stage: Stage, laps: Laps) -> Seen:
        """What a picture says of itself, and its pixels for the model."""
        encoder = self._encoder()
        return look_at(
            got,
            self._limits,
            stage,
            laps,
            min_side=self._min_side(encoder),
            preprocess=encoder.preprocess,
        )

    def _outcome(self, job: Job, task: Task[Loaded] | Prepared | None) -> Loaded:
        if task is None:
            reason = (
                f"not tried: {_MAX_STUCK} files do not stop decoding. Run the same command again"
            )
            return Loaded(job, job.size, job.mtime_ns, reason=reason, transient=True)
        try:
            loaded = task.result()
        except DecodeTimeoutError as exc:
            transient = exc.during == READING
            return Loaded(job, job.size, job.mtime_ns, reason=exc.reason, transient=transient)
        if loaded.pixels is not None:
            self._picture_bytes = loaded.pixels.nbytes
        return loaded
