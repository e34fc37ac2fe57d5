"""Queries multiplied with many vectors in half precision: the ways there are, the quickest here.

All processors multiply in single precision, for which vectors are widened. Some multiply numbers of
16 bits: those of AVX512-FP16 (of Intel's from 2023 on) halves as they are; those of AVX512-BF16 and
AMX (AMD's from 2022, Intel's from 2020 and 2023 on) bfloat16, which halves are made by shifting
their bits. 24 queries with 100,000 x 512 on a core of an AMD EPYC of 2022: 63 ms in single
precision, of which 10 are widening; 27 in bfloat16, of which 8 are shifting. torch has all of these
products on every processor, and takes far longer where there is no instruction for them, so they
are tried once. torch is only used where the model has it loaded already.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache, partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mmsearch import blas
from mmsearch.index import halves
from mmsearch.index.threads import one_thread

#: The ways are tried with so many vectors, queries, dimensions, and so many times.
_TRIED = (4096, 16, 512)
_TIMES = 3
#: OpenBLAS is slow with what is left of queries when they are taken four by four: 15 take a sixth
#: longer than 16 do, 31 a tenth longer than 32, 7 a quarter longer than 8.
_TOGETHER = 4
#: A bfloat16 with the bits of a float16, moved to their places, is too small by this factor: the
#: exponents are biased by 127 and by 15.
_BIAS = 2.0**112
_SIGN_AND_REST = np.int16(0x8FFF - (1 << 16))


class Way(ABC):
    """Multiplies queries with vectors; both have unit norm, or less."""

    #: From so many queries on it takes less time than to scan the vectors for each.
    many: ClassVar[int]
    #: Vectors that are best multiplied at once, and that are worth a thread's while.
    block: ClassVar[int]
    piece: ClassVar[int]
    #: Scores are of this type: numbers, or the bits of numbers of 16 bits, as integers, which are
    #: ordered as the numbers are while those are not negative. numpy compares such integers much
    #: faster than halves.
    dtype: ClassVar[type[np.float32 | np.int16]]

    @abstractmethod
    def prepared(self, xq: NDArray[np.float32]) -> Any:
        """Queries (nq, dim) as `multiply` takes them; as many rows of scores, or some more."""

    @abstractmethod
    def scratch(self, rows: int, dim: int) -> Any:
        """What `multiply` takes for so many vectors at most. To be used again: memory that was not
        used before takes longer to get than what is done in it."""

    @abstractmethod
    def multiply(
        self, queries: Any, rows: NDArray[np.float16], scores: NDArray[Any], scratch: Any
    ) -> None:
        """The products with vectors (n, dim), into `scores` (nq, n). Within one thread."""

    @abstractmethod
    def rounding(self, dim: int) -> float:
        """How far a score is from the true one, at most."""

    @abstractmethod
    def numbers(self, scores: NDArray[Any]) -> NDArray[np.float32]:
        """What scores stand for."""

    @abstractmethod
    def scores(self, numbers: NDArray[np.float32]) -> NDArray[Any]:
        """Positive numbers as scores, rounded."""


class Single(Way):
    """Vectors are widened, a block at a time, while it is in the cache."""

    many = 5
    block = 2048  # 4 MB of float32 at 512 dimensions
    piece = 8192
    dtype = np.float32

    def prepared(self, xq: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.pad(xq, ((0, -len(xq) % _TOGETHER), (0, 0)))

    def scratch(self, rows: int, dim: int) -> NDArray[np.float32]:
        return np.empty((rows, dim), np.float32)

    def multiply(
        self, queries: Any, rows: NDArray[np.float16], scores: NDArray[Any], scratch: Any
    ) -> None:
        np.matmul(queries, halves.widened(rows, scratch[: len(rows)]).T, out=scores)

    def rounding(self, dim: int) -> float:
        # However products are summed up: twice n u of Higham, Accuracy and Stability of Numerical
        # Algorithms (2002), section 3.1.
        return 2 * dim * 2.0**-24

    def numbers(self, scores: NDArray[Any]) -> NDArray[np.float32]:
        return scores

    def scores(self, numbers: NDArray[np.float32]) -> NDArray[Any]:
        return numbers


class Half(Way):
    """Halves as they are; sums are in single precision."""

    many = 4
    block = piece = 16_384
    dtype = np.int16

    def prepared(self, xq: NDArray[np.float32]) -> Any:
        import torch

        return torch.from_numpy(xq).half()

    def scratch(self, rows: int, dim: int) -> None:
        return None

    def multiply(
        self, queries: Any, rows: NDArray[np.float16], scores: NDArray[Any], scratch: Any
    ) -> None:
        import torch

        with torch.inference_mode():
            out = torch.from_numpy(scores).view(torch.float16)
            torch.mm(queries, torch.from_numpy(rows).T, out=out)

    def rounding(self, dim: int) -> float:
        # The query and the result are rounded, each by 2^-11 of it.
        return 2.0**-10 + 2 * dim * 2.0**-24

    def numbers(self, scores: NDArray[Any]) -> NDArray[np.float32]:
        return scores.view(np.float16).astype(np.float32)

    def scores(self, numbers: NDArray[np.float32]) -> NDArray[Any]:
        return numbers.astype(np.float16).view(np.int16)


class Brain(Way):
    """Halves made bfloat16, which has three bits less behind the point; sums are in single
    precision."""

    many = 5
    block = 2048
    piece = 16_384
    dtype = np.int16

    def prepared(self, xq: NDArray[np.float32]) -> Any:
        import torch

        return torch.from_numpy(xq * np.float32(_BIAS)).bfloat16()

    def scratch(self, rows: int, dim: int) -> NDArray[np.int16]:
        return np.empty((rows, dim), np.int16)

    def multiply(
        self, queries: Any, rows: NDArray[np.float16], scores: NDArray[Any], scratch: Any
    ) -> None:
        import torch

        bits = scratch[: len(rows)]
        # As bytes: what is not aligned, as in a mapped file, numpy would take piece by piece.
        bits.view(np.uint8)[...] = rows.view(np.uint8)
        bits += 4  # to the nearest: of negative ones, too, all but the sign is what they measure
        bits >>= 3
        bits &= _SIGN_AND_REST
        with torch.inference_mode():
            out = torch.from_numpy(scores).view(torch.bfloat16)
            torch.mm(queries, torch.from_numpy(bits).view(torch.bfloat16).T, out=out)

    def rounding(self, dim: int) -> float:
        # Vectors, the query and the result are rounded, each by 2^-8 of it at most. Numbers below
        # 2^-14 may count as none: a vector of such has no larger norm than the second term.
        return 3 * 2.0**-8 + 2.0**-16 + math.sqrt(dim) * 2.0**-14 + 2 * dim * 2.0**-24

    def numbers(self, scores: NDArray[Any]) -> NDArray[np.float32]:
        return (scores.astype(np.int32) << 16).view(np.float32)

    def scores(self, numbers: NDArray[np.float32]) -> NDArray[Any]:
        return (numbers.view(np.int32) >> 16).astype(np.int16)


SINGLE, HALF, BRAIN = Single(), Half(), Brain()


def quickest() -> Way:
    """The way that takes least time in this process."""
    return _quickest(*_TRIED) if halves.has_torch() else SINGLE


def quickest_for(vectors: int, queries: int, dim: int) -> Way:
    """The same for so many at once, which may be another one; of all ways there are, be it that
    torch has to be loaded first, for a second."""
    import torch  # noqa: F401

    return _quickest(vectors, queries, dim)


@cache
def _quickest(n: int, nq: int, dim: int) -> Way:
    rng = np.random.default_rng(0)
    rows, xq = (rng.standard_normal((m, dim), np.float32) for m in (n, nq))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    xq /= np.linalg.norm(xq, axis=1, keepdims=True)
    stored = rows.astype(np.float16)
    true = xq @ stored.astype(np.float32).T
    best: Way = SINGLE
    least = np.inf
    with one_thread(), blas.one_thread():
        for way in (SINGLE, HALF, BRAIN):
            queries = way.prepared(xq)
            scores, scratch = np.empty((nq, n), way.dtype), way.scratch(n, dim)
            took = _seconds(partial(way.multiply, queries, stored, scores, scratch), least)
            # Sums in less than single precision, which some processors may make, would show.
            off = np.abs(way.numbers(scores) - true).max()
            if off < way.rounding(dim) and took < least:
                best, least = way, took
    return best


def _seconds(work: Callable[[], object], least: float) -> float:
    """What it takes at best; not tried again where that is hopeless beside the `least` known."""
    best = np.inf
    for _ in range(_TIMES):
        began = time.thread_time()  # others may want the core
        work()
        best = min(best, time.thread_time() - began)
        if best > 4 * least:
            break
    return best
