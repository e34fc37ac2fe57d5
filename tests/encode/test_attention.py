"""Our attention against torch's, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import MakeModel
from torch import nn

from mmsearch.encode import attention, load_encoder, placement
from mmsearch.encode.attention import Attention, by_products
from mmsearch.encode.packed import can_pack


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


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scores", [1, 4 * 9 * 9 * 3, 1 << 20])
def test_many_rows_by_products(causal: bool, scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row at a time, three, and all at once."""
    monkeypatch.setattr(attention, "_SCORES", scores)
    x = torch.randn(11, 9, 48)
    with torch.inference_mode():
        right = Attention(layer(), causal=causal)(x, x, x)[0]
        found = Attention(layer(), causal=causal, multiplies=True)(x, x, x)[0]
    assert float((found - right).abs().max()) < 1e-6


def test_products_in_half_precision_and_for_many_rows_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(1)
    projected = torch.randn(16, 20, 3 * 48)
    with torch.inference_mode():
        right = by_products(projected, 4, causal=True)
        found = by_products(projected.bfloat16(), 4, causal=True)
        assert found.dtype == torch.bfloat16
        # Weights and scores of eight bits.
        assert float((found.float() - right).abs().max()) < 0.05
        strong = projected.clone()
        strong[..., :48] *= 4  # scores of a deviation of 4
        right = by_products(strong, 4, causal=False)
        found = by_products(strong.bfloat16(), 4, causal=False).float()
        assert float((found - right).norm() / right.norm()) < 0.02
        calls: list[int] = []
        monkeypatch.setattr(
            attention, "by_products", lambda p, *_, **__: calls.append(len(p)) or p[..., :48]
        )
        ours = Attention(layer(), causal=False, multiplies=True)
        for rows in (1, 7, 8):
            x = torch.randn(rows, 9, 48)
            ours(x, x, x)
    assert calls == [8]


@pytest.mark.parametrize(
    ("flags", "products"),
    [
        ({"avx512_bf16"}, True),
        ({"avx512_bf16", "amx_bf16"}, False),
        (set(), False),
    ],
)
def test_where_products_are_quicker(
    flags: set[str], products: bool, monkeypatch: pytest.MonkeyPatch, make_model: MakeModel
) -> None:
    monkeypatch.setattr(placement, "_has", lambda ability: ability in flags)
    encoder: Any = load_encoder(f"local-dir:{make_model('vit')}", device="cpu", dtype="bf16")
    used = {m._multiplies for m in encoder._model.modules() if isinstance(m, Attention)}
    assert used == {products and can_pack()}
