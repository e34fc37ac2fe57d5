"""Reading and decoding ahead of the model: threads prepare pictures while it encodes others."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING

from indexer.clock import PREPARING, Clock, Laps
from mmsearch.decode import decode
from mmsearch.errors import DecodeError, DecodeTimeoutError, EncodeError, os_reason
from mmsearch.types import DecodeLimits, PictureInfo
from mmsearch.watchdog import Task, Workers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encode import Encoder


@dataclass(frozen=True, slots=True)
class Job:
    """A picture to prepare: a file to read, or a member of an archive with its bytes at hand.

    path: relative to the source. location: absolute. size and mtime_ns: of the file, or the
    member's size and its archive's time.
    """

    path: str
    location: str
    member: str = ""
    size: int = 0
    mtime_ns: int = 0
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a job: a failure, a known content, or pixels for the model.

    job: without its data. pixels: (3, S, S) uint8 as the encoder's `preprocess` makes them; None
    when the content is known (`content_id`) or failed (`reason`).
    """

    job: Job
    size: int
    mtime_ns: int
    hash: bytes = b""
    content_id: int | None = None
    info: PictureInfo | None = None
    pixels: NDArray[np.uint8] | None = None
    reason: str | None = None
    transient: bool = False


#: Files being decoded in spite of having been given up, from which on no more are tried. Each may
#: hold a core and much memory, and only the end of the process ends it.
_MAX_STUCK = 16
_READING = "read"


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
    ) -> None:
        """`known` tells the content id of a hash that needs no encoding; `encoder` loads lazily.

        max_bytes: of what lies ready ahead of the model at once, prepared pictures and undecoded
            members of archives together. (What is being decoded comes on top: a picture a thread.)
        reference: decode at full size always, so that what the encoder is given is what open_clip's
            own preprocessing would be.
        clock: told of every stage.
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

    def load(
        self, jobs: Iterable[Job], ahead: int | Callable[[], int]
    ) -> Generator[Loaded, None, None]:
        """The outcome of each job, in the order of the jobs; at most `ahead` are in flight, and
        fewer where they would take more than the allowed bytes.

        A job that takes longer than the limits allow is a failure: a transient one while its file
        is read (a drive that does not answer), a lasting one while it is decoded.
        """
        workers, clock = self._workers, self._clock
        most = ahead if callable(ahead) else lambda: ahead
        flying: deque[tuple[Job, Task[Loaded] | None, int]] = deque()
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
                    yield _outcome(bare, task)
            while flying:
                bare, task, _ = flying.popleft()
                yield _outcome(bare, task)
        finally:
            workers.drain()
            after = clock.seconds
            busy = sum(after[stage] - before[stage] for stage in PREPARING)
            idle = self._threads * (perf_counter() - began) - busy
            clock.add_seconds("wait for room", max(idle, 0.0))

    def _submit(self, job: Job, bare: Job) -> Task[Loaded]:
        data = job.data
        return self._workers.submit(lambda task: self._timed(bare, data, task), job.path)

    def _timed(self, job: Job, data: bytes | None, task: Task[Loaded]) -> Loaded:
        laps = self._clock.laps(job.member or job.path)
        try:
            return self._prepare(job, data, task, laps)
        finally:
            laps.end()

    def _prepare(self, job: Job, data: bytes | None, task: Task[Loaded], laps: Laps) -> Loaded:
        size, mtime_ns = job.size, job.mtime_ns
        try:
            if data is None:
                task.stage(_READING)
                with open(job.location, "rb") as file:  # noqa: PTH123 -- names with surrogates
                    # The stat of what is read, not of what the scan saw a while ago.
                    stat = os.fstat(file.fileno())
                    size, mtime_ns = stat.st_size, stat.st_mtime_ns
                    if size > self._limits.max_bytes:
                        reason = f"larger than {self._limits.max_bytes / 1e6:,.0f} MB"
                        return Loaded(job, size, mtime_ns, reason=reason)
                    # No more than its size: the file may be growing, or be no file any more.
                    data = file.read(size)
                laps.lap("read")
        except OSError as exc:
            return Loaded(job, size, mtime_ns, reason=os_reason(exc), transient=True)
        digest = hashlib.sha256(data).digest()
        laps.lap("hash")
        content_id = self._known(digest)
        laps.lap("look up")
        if content_id is not None:
            return Loaded(job, size, mtime_ns, digest, content_id)
        try:
            info, pixels = self._look_at(job, data, task, laps)
        except DecodeError as exc:
            return Loaded(job, size, mtime_ns, digest, reason=exc.reason)
        except EncodeError as exc:
            return Loaded(job, size, mtime_ns, digest, reason=str(exc))
        return Loaded(job, size, mtime_ns, digest, info=info, pixels=pixels)

    def _look_at(
        self, job: Job, data: bytes, task: Task[Loaded], laps: Laps
    ) -> tuple[PictureInfo, NDArray[np.uint8] | None]:
        """What a picture says of itself, and its pixels for the model."""
        encoder = self._encoder()
        task.stage("decode")
        try:
            picture = decode(
                data,
                source=job.path,
                limits=self._limits,
                min_side=None if self._reference else 2 * encoder.image_size,
            )
        finally:
            laps.lap("decode")
        pixels = encoder.preprocess(picture.pixels)
        laps.lap("resize")
        self._picture_bytes = pixels.nbytes
        return picture.info, pixels


def _outcome(job: Job, task: Task[Loaded] | None) -> Loaded:
    if task is None:
        reason = f"not tried: {_MAX_STUCK} files do not stop decoding. Run the same command again"
        return Loaded(job, job.size, job.mtime_ns, reason=reason, transient=True)
    try:
        return task.result()
    except DecodeTimeoutError as exc:
        transient = exc.during == _READING
        return Loaded(job, job.size, job.mtime_ns, reason=exc.reason, transient=transient)
