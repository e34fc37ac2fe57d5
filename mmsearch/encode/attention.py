"""Attention of open_clip's blocks as one product over all rows, without torch's MultiheadAttention.

That one hands its first layer the tokens before the batch, which is not how they lie in memory; for
such an input torch multiplies text by text and copies the weights for each: half of the time of
captions on a CPU. Here the rows stay as they are. The result is the same but for the order of sums.

torch's attention itself multiplies small parts of one head at a time, which does not keep CPUs busy
that multiply bfloat16 by AVX-512. All heads of a few rows at once, whose scores fit the cache, take
two thirds to half of the time there (two cores: 64 pictures of 65 tokens 9 instead of 21 ms, 32 of
197 tokens 25 instead of 48), the less the more tokens there are. Scores are rounded to bfloat16
then, too: what comes out is off by 0.4 to 1 % instead of 0.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

#: Scores that are computed at once, of all heads together: 2 MB, or those of one row.
_SCORES = 1 << 20
#: With fewer rows torch's attention is as quick.
_ROWS = 8


class Attention(nn.Module):
    """In place of a block's `nn.MultiheadAttention` over (n, tokens, width), with its weights."""

    def __init__(
        self, attention: nn.MultiheadAttention, *, causal: bool, multiplies: bool = False
    ) -> None:
        """causal: each token sees only those before it and itself, unless `split`.

        multiplies: by `by_products`, where rows are many.
        """
        super().__init__()
        self.num_heads = attention.num_heads
        self.in_proj: Any = linear(attention.in_proj_weight, attention.in_proj_bias)
        self.out_proj: Any = attention.out_proj
        self._causal = causal
        # In place of `in_proj`: of the tokens asking, and of those asked.
        self.parts: Any = None
        self._multiplies = multiplies

    def split(self) -> None:
        """From now on the tokens asking are never those asked."""
        width = self.in_proj.in_features
        weight, bias = self.in_proj.weight, self.in_proj.bias
        self.parts = nn.ModuleList(
            [linear(weight[:width], bias[:width]), linear(weight[width:], bias[width:])]
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

        attn_mask: added to the attention of every head, (n, 1, asking, tokens); of tokens that are
            not those asked.
        """
        assert key is value
        assert not need_weights
        if self.parts is None:
            assert query is key
            assert attn_mask is None
            projected = self.in_proj(query)
            seen = attend(
                projected, self.num_heads, causal=self._causal, multiplies=self._multiplies
            )
            return self.out_proj(seen), None
        q = self.parts[0](query)
        k, v = self.parts[1](key).chunk(2, dim=-1)
        seen = functional.scaled_dot_product_attention(
            self._by_head(q), self._by_head(k), self._by_head(v), attn_mask=attn_mask
        )
        return self.out_proj(seen.transpose(1, 2).reshape(query.shape)), None

    def _by_head(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, width = x.shape
        return x.view(n, tokens, self.num_heads, width // self.num_heads).transpose(1, 2)


def attend(projected: torch.Tensor, heads: int, *, causal: bool, multiplies: bool) -> torch.Tensor:
    """softmax(Q K' / sqrt(size)) V of each head, (n, tokens, width), of queries, keys and values
    that lie beside each other, (n, tokens, 3 width), in their dtype.

    causal, multiplies: see `Attention`.
    """
    n, tokens, _ = projected.shape
    if multiplies and n >= _ROWS:
        return by_products(projected, heads, causal=causal)
    q, k, v = projected.view(n, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    seen = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return seen.transpose(1, 2).reshape(n, tokens, -1)


def by_products(projected: torch.Tensor, heads: int, *, causal: bool) -> torch.Tensor:
    """What `attend` returns, of the same shapes, for many rows; the scores, too, in that dtype."""
    n, tokens, _ = projected.shape
    parts = projected.view(n, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    size = parts.shape[-1]
    mask = projected.new_empty(1)  # not looked at where beta is 0
    if causal:
        mask = projected.new_full((tokens, tokens), float("-inf")).triu_(1)
    seen = projected.new_empty(n, tokens, heads, size)
    rows = max(1, _SCORES // (heads * tokens * tokens))
    for first in range(0, n, rows):
        q, k, v = parts[:, first : first + rows].reshape(3, -1, tokens, size)
        scores = torch.baddbmm(
            mask, q, k.transpose(1, 2), beta=1 if causal else 0, alpha=size**-0.5
        )
        some = torch.bmm(scores.softmax(dim=-1), v)
        seen[first : first + rows] = some.view(-1, heads, tokens, size).transpose(1, 2)
    return seen.view(n, tokens, heads * size)


def linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """The layer with these weights, not copied."""
    made = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    made.weight = nn.Parameter(weight.detach(), requires_grad=False)
    made.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return made


def replace_attention(transformer: Any, *, causal: bool, multiplies: bool) -> None:
    """In all blocks of an open_clip transformer that `lastblock.is_plain` knows."""
    for block in transformer.resblocks:
        block.attn = Attention(block.attn, causal=causal, multiplies=multiplies)
