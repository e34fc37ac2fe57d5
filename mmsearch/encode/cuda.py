"""Pictures on a CUDA device: the copy of one batch beside the computing of another. And few texts.

    batch → page-locked memory ┄ copy stream ┄→ device memory → normalised, encoded → page-locked

A copy to or from page-locked memory runs by itself: the host only queues it. The batch's own way is
kept in order by events; only `finish` waits. The vectors come back to the host because the catalog
keeps them: it, and not a GPU's index, is what an indexing run fills.

Sources: "CUDA semantics" of torch's documentation, sections on streams, on page-locked memory and
on CUDA graphs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mmsearch.types import Vectors

logger = logging.getLogger(__name__)

#: From pictures (n, 3, S, S) uint8, or tokens (n, length) int64, to their vectors (n, dim) float32,
#: and whether all of them have a direction, (1,) bool; all on the device, and nothing waits for it.
Encode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

#: A recorded run is kept where it takes at most this share of the time of the usual way, and its
#: vectors have at least that cosine with the usual ones.
_WORTH = 0.97
_SAME = 0.9999
_TRIES = 3

#: Texts at once, and tokens of each, that a run is recorded for: more are filled up.
_TEXTS = (1, 8, 32)
_LENGTHS = (16, 32)


class CudaPictures:
    """Queues batches on a device and fetches their vectors. For one thread at a time."""

    def __init__(self, device: torch.device, side: int, dim: int, encode: Encode) -> None:
        self._device = device
        self._side = side
        self._dim = dim
        self._encode = encode
        self._copies = _stream(device)
        self._free: list[_Slot] = []
        self._recorded: _Recorded | None = None
        self._tried: set[int] = set()

    def start(self, batch: NDArray[np.uint8]) -> Flight:
        """Queues a batch, (n, 3, S, S) uint8 with n > 0, and does not wait for it.

        Raises torch.OutOfMemoryError; then nothing of it is queued any more.
        """
        with torch.cuda.device(self._device), torch.inference_mode():
            slot = self._slot(len(batch))
            try:
                return self._queue(slot, batch)
            except BaseException:
                # What is queued still reads and writes the slot's memory.
                torch.cuda.synchronize(self._device)
                self._free.append(slot)
                raise

    def finish(self, flight: Flight) -> tuple[Vectors, bool, float]:
        """Waits for a batch: its vectors (n, dim), whether all have a direction, and the seconds
        that the device computed."""
        slot, count = flight.slot, flight.count
        slot.computed.synchronize()
        vectors = slot.vectors[:count].numpy().copy()
        good = bool(slot.good[0])
        taken = slot.begun.elapsed_time(slot.computed) / 1000
        self._free.append(slot)
        return vectors, good, taken

    def record(self, batch: NDArray[np.uint8]) -> None:
        """Records the computing of batches of this size as one CUDA graph, once for each size.

        The host then queues one launch instead of hundreds. It is kept if it is quicker on this
        batch and gives the same vectors; whatever goes wrong leaves the usual way.
        """
        count = len(batch)
        if count in self._tried:
            return
        self._tried.add(count)
        try:
            with torch.cuda.device(self._device), torch.inference_mode():
                torch.cuda.synchronize(self._device)  # a recording in use must not go
                self._recorded = None
                pixels = torch.from_numpy(np.ascontiguousarray(batch)).to(self._device)
                self._recorded = _tried_out(self._encode, pixels)
        except RuntimeError as exc:  # what torch raises for memory, for CUDA, and for captures
            logger.info("batches of %d are not recorded: %s", count, exc)

    def _queue(self, slot: _Slot, batch: NDArray[np.uint8]) -> Flight:
        count = len(batch)
        here = torch.cuda.current_stream(self._device)
        # By torch's threads: one alone copies no faster than the device computes.
        slot.host[:count].copy_(torch.from_numpy(np.require(batch, requirements=["C", "W"])))
        with torch.cuda.stream(self._copies):
            slot.pixels[:count].copy_(slot.host[:count], non_blocking=True)
            slot.copied.record(self._copies)
        here.wait_event(slot.copied)
        slot.begun.record(here)
        recorded = self._recorded
        encode = self._encode
        if recorded is not None and recorded.count == count:
            encode = recorded
        vectors, good = encode(slot.pixels[:count])
        slot.vectors[:count].copy_(vectors, non_blocking=True)
        slot.good.copy_(good, non_blocking=True)
        slot.computed.record(here)
        return Flight(slot, count)

    def _slot(self, count: int) -> _Slot:
        """One that nothing in flight uses; two are enough for one batch beside another."""
        slot = self._free.pop() if self._free else None
        if slot is None or len(slot.host) < count:
            del slot  # before more memory is asked for
            # Of the copy stream's memory: that of another may still be in use by what is queued
            # there, for which no copy waits.
            with torch.cuda.stream(self._copies):
                return _Slot.of(count, self._side, self._dim, self._device)
        return slot


class CudaTexts:
    """Vectors of few texts at once, as of questions, by recorded runs. For one thread at a time.

    The host needs 4 ms to queue the hundreds of steps of a text tower, and the device 0.5 ms to do
    them (ViT-B-32 on an H200). So each size of batch and length of text is recorded when the first
    one comes.
    """

    def __init__(self, device: torch.device, context: int, encode: Encode) -> None:
        """context: tokens of a text, at most. encode: may be given fewer of each text."""
        self._device = device
        self._encode = encode
        self._lengths = sorted({min(length, context) for length in (*_LENGTHS, context)})
        self._recorded: dict[tuple[int, int], _Recorded | None] = {}

    def vectors(self, tokens: NDArray[np.int64]) -> tuple[Vectors, bool] | None:
        """Of texts (n, length), n > 0: (n, dim), and whether all have a direction; None where they
        are too many, or the usual way is as good."""
        n, length = tokens.shape
        if n > _TEXTS[-1] or length > self._lengths[-1]:
            return None
        rows = next(size for size in _TEXTS if n <= size)
        columns = next(size for size in self._lengths if length <= size)
        # What follows the end of a text changes nothing; texts too many are the first again.
        filled = np.zeros((rows, columns), np.int64)
        filled[:n, :length] = tokens
        filled[n:, :length] = tokens[0]
        with torch.cuda.device(self._device), torch.inference_mode():
            given = torch.from_numpy(filled)
            if (rows, columns) not in self._recorded:
                self._recorded[rows, columns] = self._record(given.to(self._device))
            recorded = self._recorded[rows, columns]
            if recorded is None:
                return None
            vectors, good = recorded(given)
            return vectors[:n].cpu().numpy(), bool(good)

    def _record(self, tokens: torch.Tensor) -> _Recorded | None:
        try:
            return _tried_out(self._encode, tokens)
        except RuntimeError as exc:  # what torch raises for memory, for CUDA, and for captures
            logger.info("texts %s are not recorded: %s", tuple(tokens.shape), exc)
            return None


@dataclass(slots=True)
class _Slot:
    """The memory of one batch on its way, and what tells how far it is.

    It is used again only after `computed` was waited for, so that no copy meets memory that is in
    use. host, vectors and good are page-locked.
    """

    host: torch.Tensor
    pixels: torch.Tensor
    vectors: torch.Tensor
    good: torch.Tensor
    copied: torch.cuda.Event
    begun: torch.cuda.Event
    computed: torch.cuda.Event

    @classmethod
    def of(cls, count: int, side: int, dim: int, device: torch.device) -> _Slot:
        shape = (count, 3, side, side)
        return cls(
            host=torch.empty(shape, dtype=torch.uint8, pin_memory=True),
            pixels=torch.empty(shape, dtype=torch.uint8, device=device),
            vectors=torch.empty((count, dim), dtype=torch.float32, pin_memory=True),
            good=torch.empty(1, dtype=torch.bool, pin_memory=True),
            copied=_event(),
            begun=_event(enable_timing=True),
            # The host sleeps while it waits: the threads that decode want its core.
            computed=_event(enable_timing=True, blocking=True),
        )


@dataclass(frozen=True, slots=True)
class Flight:
    """A batch that was started and not finished."""

    slot: _Slot
    count: int


class _Recorded:
    """The computing of inputs of one size as a CUDA graph.

    Its input and output lie where they were when it was recorded; who calls it copies the output on
    the same stream before it is called again.
    """

    def __init__(self, encode: Encode, given: torch.Tensor) -> None:
        self.count = len(given)
        self._given = given.clone()
        self._graph = torch.cuda.CUDAGraph()
        here, side = torch.cuda.current_stream(), _stream(given.device)
        side.wait_stream(here)
        # Around the recording too: where that fails, torch leaves its own stream the current one.
        with torch.cuda.stream(side):
            for _ in range(_TRIES):  # libraries make their workspaces for this stream
                encode(self._given)
            # thread_local: other threads may use the device meanwhile.
            with torch.cuda.graph(self._graph, stream=side, capture_error_mode="thread_local"):
                self._vectors, self._good = encode(self._given)
        here.wait_stream(side)

    def __call__(self, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self._given.copy_(given)
        self._graph.replay()
        return self._vectors, self._good


def _tried_out(encode: Encode, given: torch.Tensor) -> _Recorded | None:
    """A recording, if it is worth it and right; both are measured on what is given."""
    recorded = _Recorded(encode, given)
    usual_s, usual = _quickest(encode, given)
    recorded_s, vectors = _quickest(recorded, given)
    cosine = float((usual * vectors).sum(dim=1).min())
    kept = recorded_s <= _WORTH * usual_s and cosine >= _SAME
    logger.info(
        "inputs %s: %.2f ms, recorded %.2f ms, least cosine %.6f: %s",
        tuple(given.shape),
        1000 * usual_s,
        1000 * recorded_s,
        cosine,
        "recorded from now on" if kept else "not recorded",
    )
    return recorded if kept else None


def _quickest(encode: Encode, given: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The shortest of some times in seconds, and a copy of the vectors."""
    taken = []
    for _ in range(_TRIES):
        begun, ended = _event(enable_timing=True), _event(enable_timing=True)
        begun.record()
        vectors, _ = encode(given)
        ended.record()
        ended.synchronize()
        taken.append(begun.elapsed_time(ended) / 1000)
    return min(taken), vectors.clone()


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _event(*, enable_timing: bool = False, blocking: bool = False) -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing, blocking)  # type: ignore[no-untyped-call]
