"""Vectors in half precision: taken as they lie, and widened.

To widen them takes torch half as long as numpy: nearly all processors have an instruction for it,
which numpy does not use. torch is only used where the model has it loaded already.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from mmsearch.index.threads import one_thread

#: A float32 whose bits are those of a float16, moved to their places, is too small by this factor:
#: the exponents are biased by 127 and by 15.
_BIAS = np.float32(2.0**112)
_SIGN_AND_REST = np.int32(0x8FFFFFFF - (1 << 32))


def has_torch() -> bool:
    """Whether the model has loaded torch."""
    return "torch" in sys.modules


def widened(rows: NDArray[np.float16], wide: NDArray[np.float32]) -> NDArray[np.float32]:
    """`wide` (n, dim), with these finite numbers in it. Within `threads.one_thread`."""
    if has_torch():
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
    if not has_torch():
        return rows.astype(np.float32)
    with one_thread():
        return widened(rows, np.empty(rows.shape, np.float32))


def taken(rows: NDArray[np.float16], places: NDArray[np.int64]) -> NDArray[np.float16]:
    """A copy of the vectors at some positions."""
    # As bytes: of what is not aligned, as in a mapped file, numpy would copy everything first.
    return rows.view(np.uint8).take(places, 0).view(np.float16)
