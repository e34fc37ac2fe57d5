"""Reading and decoding ahead of the model: threads prepare pictures while it encodes others."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

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

    pixels: (3, S, S) uint8 as the encoder's `preprocess` makes them; None when the content is
    known (`content_id`) or failed (`reason`).
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
    ) -> None:
        """`known` tells the content id of a hash that needs no encoding; `encoder` loads lazily.

        max_bytes: of undecoded data of archive members held at once.
        """
        self._encoder = encoder
        self._known = known
        self._limits = limits
        self._workers = Workers(
            threads or min(32, (os.cpu_count() or 1) + 1),
            limits.max_seconds,
            name="decode",
            max_stuck=_MAX_STUCK,
        )
        self._max_bytes = max_bytes

    def load(self, jobs: Iterable[Job], ahead: int) -> Iterator[Loaded]:
        """The outcome of each job, in the order of the jobs; at most `ahead` are in flight.

        A job that takes longer than the limits allow is a failure: a transient one while its file
        is read (a drive that does not answer), a lasting one while it is decoded.
        """
        workers = self._workers
        flying: deque[tuple[Job, Task[Loaded] | None]] = deque()
        held = 0
        try:
            for job in jobs:
                flying.append((job, None if workers.is_full else self._submit(job)))
                held += len(job.data or b"")
                while len(flying) >= ahead or held > self._max_bytes:
                    job, task = flying.popleft()
                    held -= len(job.data or b"")
                    yield _outcome(job, task)
            while flying:
                yield _outcome(*flying.popleft())
        finally:
            workers.drain()

    def _submit(self, job: Job) -> Task[Loaded]:
        return self._workers.submit(lambda task: self._prepare(job, task), job.path)

    def _prepare(self, job: Job, task: Task[Loaded]) -> Loaded:
        size, mtime_ns = job.size, job.mtime_ns
        try:
            if job.data is None:
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
            else:
                data = job.data
        except OSError as exc:
            return Loaded(job, size, mtime_ns, reason=os_reason(exc), transient=True)
        digest = hashlib.sha256(data).digest()
        content_id = self._known(digest)
        if content_id is not None:
            return Loaded(job, size, mtime_ns, digest, content_id)
        try:
            info, pixels = self._look_at(job, data, task)
        except DecodeError as exc:
            return Loaded(job, size, mtime_ns, digest, reason=exc.reason)
        except EncodeError as exc:
            return Loaded(job, size, mtime_ns, digest, reason=str(exc))
        return Loaded(job, size, mtime_ns, digest, info=info, pixels=pixels)

    def _look_at(
        self, job: Job, data: bytes, task: Task[Loaded]
    ) -> tuple[PictureInfo, NDArray[np.uint8] | None]:
        """What a picture says of itself, and its pixels for the model."""
        encoder = self._encoder()
        task.stage("decode")
        picture = decode(
            data, source=job.path, limits=self._limits, min_side=2 * encoder.image_size
        )
        return picture.info, encoder.preprocess(picture.pixels)


def _outcome(job: Job, task: Task[Loaded] | None) -> Loaded:
    if task is None:
        reason = f"not tried: {_MAX_STUCK} files do not stop decoding. Run the same command again"
        return Loaded(job, job.size, job.mtime_ns, reason=reason, transient=True)
    try:
        return task.result()
    except DecodeTimeoutError as exc:
        transient = exc.during == _READING
        return Loaded(job, job.size, job.mtime_ns, reason=exc.reason, transient=transient)
