"""Attention of open_clip's blocks as one product over all rows, without torch's MultiheadAttention.

That one hands its first layer the tokens before the batch, which is not how they lie in memory; for
such an input torch multiplies text by text and copies the weights for each: half of the time of
captions on a CPU. Here the rows stay as they are. The result is the same but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    """In place of a block's `nn.MultiheadAttention` over (n, tokens, width), with its weights."""

    def __init__(self, attention: nn.MultiheadAttention, *, causal: bool) -> None:
        """causal: each token sees only those before it and itself, where no mask says otherwise."""
        super().__init__()
        self.num_heads = attention.num_heads
        self.in_proj: Any = _linear(attention.in_proj_weight, attention.in_proj_bias)
        self.out_proj: Any = attention.out_proj
        self._causal = causal
        # In place of `in_proj`: of the tokens asking, and of those asked.
        self.parts: Any = None

    def split(self) -> None:
        """From now on the tokens asking are never those asked."""
        width = self.in_proj.in_features
        weight, bias = self.in_proj.weight, self.in_proj.bias
        self.parts = nn.ModuleList(
            [_linear(weight[:width], bias[:width]), _linear(weight[width:], bias[width:])]
        )
        del self.in_proj

    def replace_linears(self, make: Callable[[nn.Linear], nn.Module]) -> None:
        """Puts what `make` makes of each of its layers in its place."""
        if self.parts is None:
            self.in_proj = make(self.in_proj)
        else:
            self.parts = nn.ModuleList([make(part) for part in self.parts])
        self.out_proj = make(self.out_proj)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        """What the tokens asking, (n, asking, width), make of others, key (n, tokens, width), which
        is value: (n, asking, width), and None as torch's has it where no weights are asked for.

        attn_mask: added to the attention of every head, (n, 1, asking, tokens).
        """
        assert key is value
        assert not need_weights
        n, asking, width = query.shape
        if self.parts is None:
            assert query is key
            q, k, v = self.in_proj(query).chunk(3, dim=-1)
        else:
            q = self.parts[0](query)
            k, v = self.parts[1](key).chunk(2, dim=-1)
        seen = functional.scaled_dot_product_attention(
            self._by_head(q),
            self._by_head(k),
            self._by_head(v),
            attn_mask=attn_mask,
            is_causal=self._causal and attn_mask is None,
        )
        return self.out_proj(seen.transpose(1, 2).reshape(n, asking, width)), None

    def _by_head(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, width = x.shape
        return x.view(n, tokens, self.num_heads, width // self.num_heads).transpose(1, 2)


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """The layer with these weights, not copied."""
    made = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    made.weight = nn.Parameter(weight.detach(), requires_grad=False)
    made.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return made


def replace_attention(transformer: Any, *, causal: bool) -> None:
    """In all blocks of an open_clip transformer that `lastblock.is_plain` knows."""
    for block in transformer.resblocks:
        block.attn = Attention(block.attn, causal=causal)
