"""What becomes of one picture before the model: read, hashed, decoded, resized.

The same steps whoever takes them: a thread of the indexer (indexer.load) or a process of its own
(indexer.decoder_processes).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmsearch.decode import decode
from mmsearch.errors import DecodeError, DecoderMissingError, EncodeError, os_reason
from mmsearch.filetimes import modified_ns
from mmsearch.types import DecodeLimits, PictureInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from indexer.clock import Laps
    from mmsearch.types import Pixels

#: Told "read" or "decode" when that begins; each has the limits' seconds.
Stage = Callable[[str], None]
READING, DECODING = "read", "decode"


@dataclass(frozen=True, slots=True)
class Job:
    """A picture to prepare: a file to read, or a member of an archive with its bytes at hand.

    path: relative to the source. location: absolute. size and mtime_ns: of the file, or the
    member's size and its archive's time. beside: as of `indexer.sources.FileEntry`.
    """

    path: str
    location: str
    member: str = ""
    size: int = 0
    mtime_ns: int = 0
    data: bytes | None = None
    beside: str | None = ""


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


#: What a picture says of itself, and its pixels for the model.
Seen = tuple[PictureInfo, "NDArray[np.uint8] | None"]


@dataclass(frozen=True, slots=True)
class Read:
    """The bytes of a picture, and of which file they are. job: without data."""

    job: Job
    data: bytes
    size: int
    mtime_ns: int
    hash: bytes

    def known(self, content_id: int) -> Loaded:
        """The outcome for a content that needs no encoding."""
        return Loaded(self.job, self.size, self.mtime_ns, self.hash, content_id)

    def seen(self, look_at: Callable[[], Seen]) -> Loaded:
        """The outcome of looking at it; what that raises about the picture is its failure."""
        transient = False
        try:
            info, pixels = look_at()
        except DecodeError as exc:
            # What cannot be read for want of a package is tried again by each run.
            reason, transient = exc.reason, isinstance(exc, DecoderMissingError)
        except EncodeError as exc:
            reason = str(exc)
        else:
            return Loaded(self.job, self.size, self.mtime_ns, self.hash, info=info, pixels=pixels)
        return Loaded(
            self.job, self.size, self.mtime_ns, self.hash, reason=reason, transient=transient
        )


def read(
    job: Job, data: bytes | None, limits: DecodeLimits, stage: Stage, laps: Laps
) -> Read | Loaded:
    """The bytes of a job, or why there are none. data: those at hand."""
    size, mtime_ns = job.size, job.mtime_ns
    try:
        if data is None:
            stage(READING)
            with open(job.location, "rb") as file:  # noqa: PTH123 -- names with surrogates
                # The stat of what is read, not of what the scan saw a while ago.
                stat = os.fstat(file.fileno())
                size, mtime_ns = stat.st_size, modified_ns(stat)
                if size > limits.max_bytes:
                    reason = f"larger than {limits.max_bytes / 1e6:,.0f} MB"
                    return Loaded(job, size, mtime_ns, reason=reason)
                # No more than its size: the file may be growing, or be no file any more.
                data = file.read(size)
            laps.lap("read")
    except OSError as exc:
        return Loaded(job, size, mtime_ns, reason=os_reason(exc), transient=True)
    digest = hashlib.sha256(data).digest()
    laps.lap("hash")
    return Read(job, data, size, mtime_ns, digest)


def look_at(
    got: Read,
    limits: DecodeLimits,
    stage: Stage,
    laps: Laps,
    *,
    min_side: int | None,
    preprocess: Callable[[Pixels], NDArray[np.uint8]],
) -> Seen:
    """min_side: as of `mmsearch.decode.decode`. Raises DecodeError, EncodeError."""
    stage(DECODING)
    try:
        picture = decode(got.data, source=got.job.path, limits=limits, min_side=min_side)
    finally:
        laps.lap("decode")
    pixels = preprocess(picture.pixels)
    laps.lap("resize")
    return picture.info, pixels
