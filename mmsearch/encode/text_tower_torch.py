"""The text tower of `mmsearch.encode.text_tower` by torch, for processes that have it anyway.

On a CPU that multiplies bfloat16 in hardware, in that precision, as the whole model has it there:
a question waits for the weights to be read from memory, which are half as many bytes, and many
questions for the products. Else the same weights in the same memory and the same float32
arithmetic: vectors differ by 2e-7, but ViT-B-32 takes 22 ms for a question where numpy takes 42,
and 7 ms each for 16 together where numpy takes 20 (two cores): its attention and its activation are
one step each, and products of few rows are shared between the cores.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mmsearch.encode import streams
from mmsearch.encode.attention import attend, linear
from mmsearch.encode.crowd import Threads
from mmsearch.encode.packed import Packed, can_pack
from mmsearch.encode.placement import has_bf16_units

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

#: Texts are not divided into parts of fewer tokens.
_PART_TOKENS = 64
#: What reading the weights takes, in tokens that are encoded.
_WEIGHTS = 25
#: By the names that `text_tower` gives them.
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "quick": lambda x: x * torch.sigmoid(1.702 * x),
    "none": functional.gelu,
    "tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


def in_half_precision() -> bool:
    """Whether that is quick here."""
    return has_bf16_units() and can_pack()


class TorchTower:
    """From embedded tokens to features; see `NumpyTextEncoder._forward`."""

    def __init__(
        self,
        blocks: Sequence[Any],
        final: tuple[Floats, Floats],
        *,
        heads: int,
        epsilon: float,
        activation: str,
    ) -> None:
        """blocks: of each the weights and biases of its first norm, of the attention's first and
        second layer, of its second norm, of the two layers behind that."""
        self.in_half_precision = in_half_precision()
        self._dtype = torch.bfloat16 if self.in_half_precision else torch.float32
        self._blocks = [self._block(block, activation) for block in blocks]
        self._final = _tensors(final)
        self._heads = heads
        self._epsilon = epsilon
        self._threads = Threads()

    def features(self, embedded: Floats, ends: NDArray[np.int64]) -> Floats:
        """Embedded tokens with their positions (n, length, width), and where each text ends (n,),
        to what the last norm makes of the end tokens (n, width)."""
        n, length, _ = embedded.shape
        parts = streams.parts(ends + 1, -(-_PART_TOKENS // length))
        if len(parts) < 2:
            with self._threads.chosen(_WEIGHTS + n * length):
                return self._features(embedded, ends)
        running = streams.Running(
            [partial(self._features, *_cut(embedded[part], ends[part])) for part in parts]
        )
        return np.concatenate(running.results())

    def _features(self, embedded: Floats, ends: NDArray[np.int64]) -> Floats:
        with torch.inference_mode():
            x, at = torch.from_numpy(embedded), torch.from_numpy(ends)
            for norm_1, in_projection, out_projection, norm_2, up, activate, down in self._blocks:
                # x stays in float32, where twelve blocks' sums would lose most.
                qkv = in_projection(self._norm(x, norm_1).to(self._dtype))
                # Few texts and many by the same steps: a vector should not depend on its company.
                seen = attend(qkv, self._heads, causal=True, multiplies=False)
                x = x + out_projection(seen)
                x = x + down(activate(up(self._norm(x, norm_2).to(self._dtype))))
            found: Floats = self._norm(x[torch.arange(len(x)), at], self._final).numpy()
            return found

    def _norm(self, x: torch.Tensor, parameters: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], *parameters, eps=self._epsilon)

    def _block(
        self, parameters: Sequence[tuple[Floats, Floats]], activation: str
    ) -> tuple[Any, ...]:
        """Norms as tensors, layers and the activation as functions."""
        norm_1, in_projection, out_projection, norm_2, up, down = parameters
        fused = self.in_half_precision and activation != "quick"
        return (
            _tensors(norm_1),
            self._layer(in_projection),
            self._layer(out_projection),
            _tensors(norm_2),
            self._layer(up, activation if fused else None),
            nn.Identity() if fused else ACTIVATIONS[activation],
            self._layer(down),
        )

    def _layer(self, arrays: tuple[Floats, Floats], gelu: str | None = None) -> Callable[..., Any]:
        weight, bias = (tensor.to(self._dtype) for tensor in _tensors(arrays))
        if self.in_half_precision:
            return Packed(linear(weight, bias), gelu)
        return partial(functional.linear, weight=weight, bias=bias)


def _cut(embedded: Floats, ends: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    """The same without what lies behind the end of the longest text."""
    return np.ascontiguousarray(embedded[:, : int(ends.max()) + 1]), ends


def _tensors(arrays: tuple[Floats, Floats]) -> tuple[torch.Tensor, torch.Tensor]:
    with warnings.catch_warnings():
        # They may be mapped from a file, and nothing here writes to them.
        warnings.simplefilter("ignore")
        first, second = (torch.from_numpy(array) for array in arrays)
    return first, second
