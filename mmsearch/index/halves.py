"""Vectors in half precision against many queries: multiplied as they are, or widened first.

Processors that multiply such numbers (AVX512-FP16, of Intel's from 2023 on) need not widen them:
measured with 100,000 x 512 and 32 queries on one core, 33 ms where to widen them took 87. On others
torch has the same products, and takes far longer, so both ways are tried once. To widen them takes
torch half as long as numpy: nearly all processors have an instruction for it, which numpy does not
use. torch is only used where the model has it loaded already.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mmsearch import blas
from mmsearch.index.threads import one_thread

#: A float32 whose bits are those of a float16, moved to their places, is too small by this factor:
#: the exponents are biased by 127 and by 15.
_BIAS = np.float32(2.0**112)
_SIGN_AND_REST = np.int32(0x8FFFFFFF - (1 << 32))
#: What the ways are tried with: vectors, queries, dimensions.
_TRIED = (4096, 16, 512)
_TIMES = 3


def quicker() -> bool:
    """Whether this process has such products, and they take less time than wider ones."""
    return _has_torch() and _quicker()


def _has_torch() -> bool:
    return "torch" in sys.modules


@cache
def _quicker() -> bool:
    n, nq, dim = _TRIED
    rng = np.random.default_rng(0)
    rows, xq = (rng.standard_normal((m, dim), np.float32) for m in (n, nq))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    xq /= np.linalg.norm(xq, axis=1, keepdims=True)
    halves = rows.astype(np.float16)
    with one_thread(), blas.one_thread():
        found = products(halves, xq)
        by_halves = _seconds(lambda: products(halves, xq))
        # Widening is left out: where that alone decided, little would be gained.
        by_wide = _seconds(lambda: np.matmul(xq, rows.T))
    # Sums in half precision, which some processors may make, would show.
    off = np.abs(found - xq @ halves.astype(np.float32).T).max()
    return bool(off < rounding(dim) and by_halves < by_wide)


def _seconds(work: Callable[[], object]) -> float:
    took = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)


def rounding(dim: int) -> float:
    """How far a product of unit vectors is from the true one, at most: the query and the result are
    rounded, each by 2^-11 of it, and the sums are in single precision."""
    return float(2.0**-10 + 2 * dim * 2.0**-24)


def products(rows: NDArray[np.float16], xq: NDArray[np.float32]) -> NDArray[np.float16]:
    """(nq, n): queries (nq, dim) times vectors (n, dim), each score within `rounding`."""
    import torch

    with torch.inference_mode():
        scores = torch.from_numpy(xq).half() @ torch.from_numpy(rows).T
        return np.asarray(scores.numpy())


def widened(rows: NDArray[np.float16], wide: NDArray[np.float32]) -> NDArray[np.float32]:
    """`wide` (n, dim), with these finite numbers in it. Within `threads.one_thread`."""
    if _has_torch():
        import torch

        torch.from_numpy(wide).copy_(torch.from_numpy(rows))
        return wide
    # Seven times as fast as numpy's own way.
    bits = wide.view(np.int32)
    np.copyto(bits, rows.view(np.int16))
    bits <<= 13
    bits &= _SIGN_AND_REST
    wide *= _BIAS
    return wide


def single(rows: NDArray[np.float16]) -> NDArray[np.float32]:
    """A copy (n, dim) in single precision."""
    if not _has_torch():
        return rows.astype(np.float32)
    with one_thread():
        return widened(rows, np.empty(rows.shape, np.float32))


def taken(rows: NDArray[np.float16], places: NDArray[np.int64]) -> NDArray[np.float16]:
    """A copy of the vectors at some positions."""
    # As bytes: of what is not aligned, as in a mapped file, numpy would copy everything first.
    return rows.view(np.uint8).take(places, 0).view(np.float16)
