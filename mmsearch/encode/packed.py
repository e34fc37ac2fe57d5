"""Linear layers of transformers as oneDNN multiplies them best, on CPUs in bfloat16.

torch's own layer has oneDNN rearrange the weights at each call, and computes the GELU after it by
itself. Here weights are rearranged once, and the GELU is part of the product, in single precision.
Measured on two cores with AMX: 32 pictures through ViT-B-32 take 258 to 277 ms instead of 284 to
345, one text, which waits for the weights to be read from memory, as long as before.

The operators are those that torch.compile makes of such layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mmsearch.encode.lastblock import FirstToken


class Packed(nn.Module):
    """act(x W' + b) for x (..., in) to (..., out), both bfloat16; act is a GELU or nothing.

    Raises RuntimeError where `can_pack` says no.
    """

    def __init__(self, linear: nn.Linear, gelu: str | None = None) -> None:
        """linear: in bfloat16. gelu: `approximate` of the GELU; None for no activation."""
        super().__init__()
        with torch.no_grad():
            # No parameter: it is opaque, and stays where and what it is.
            self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach()
        self._activation = ("none", "") if gelu is None else ("gelu", gelu)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind, algorithm = self._activation
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, kind, [], algorithm
        )
        return found


def can_pack() -> bool:
    """Whether torch has these operators here, and oneDNN bfloat16 on this CPU."""
    operators = torch.ops.mkldnn
    return (
        bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        and hasattr(operators, "_reorder_linear_weight")
        and hasattr(operators, "_linear_pointwise")
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def pack(transformer: Any) -> None:
    """Replaces the layers of an open_clip transformer that has our `Attention`, in bfloat16."""
    for each in transformer.resblocks:
        block = each.block if isinstance(each, FirstToken) else each
        block.attn.replace_linears(Packed)
        mlp = block.mlp
        # Other activations stay: that of OpenAI's own weights is none of oneDNN's.
        gelu = mlp.gelu.approximate if type(mlp.gelu) is nn.GELU else None
        mlp.c_fc = Packed(mlp.c_fc, gelu)
        if gelu is not None:
            mlp.gelu = nn.Identity()
        mlp.c_proj = Packed(mlp.c_proj)
