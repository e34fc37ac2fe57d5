"""Our attention against torch's, with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmsearch.encode.attention import Attention


def layer() -> nn.MultiheadAttention:
    torch.manual_seed(0)
    return nn.MultiheadAttention(48, 4, batch_first=True).eval()


@pytest.mark.parametrize("causal", [False, True])
def test_tokens_among_themselves(causal: bool) -> None:
    x = torch.randn(5, 9, 48)
    mask = torch.full((9, 9), -torch.inf).triu(1) if causal else None
    with torch.inference_mode():
        right = layer()(x, x, x, need_weights=False, attn_mask=mask)[0]
        found = Attention(layer(), causal=causal)(x, x, x)[0]
    assert float((found - right).abs().max()) < 1e-6


@pytest.mark.parametrize("masked", [False, True])
def test_one_token_among_others(masked: bool) -> None:
    x, token = torch.randn(5, 9, 48), torch.randn(5, 1, 48)
    mask = torch.where(torch.rand(5, 1, 9) < 0.3, -torch.inf, 0.0)
    mask[..., 0] = 0
    each = mask.repeat_interleave(4, dim=0) if masked else None  # for each head, as torch's has it
    with torch.inference_mode():
        right = layer()(token, x, x, need_weights=False, attn_mask=each)[0]
        ours = mask.unsqueeze(1) if masked else None
        attention = Attention(layer(), causal=False)
        attention.split()
        found = attention(token, x, x, attn_mask=ours)[0]
    assert float((found - right).abs().max()) < 1e-6
