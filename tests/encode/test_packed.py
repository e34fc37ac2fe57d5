"""Layers as oneDNN has them, against torch's own in the same precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_models import MakeModel
from torch import nn

from mmsearch.encode import load_encoder, openclip
from mmsearch.encode.packed import Packed, can_pack

pytestmark = pytest.mark.skipif(not can_pack(), reason="no oneDNN bfloat16 on this CPU")


@pytest.mark.parametrize("rows", [(1,), (11,), (3, 50), (32, 50)])
@pytest.mark.parametrize("gelu", [None, "none", "tanh"])
def test_one_layer(rows: tuple[int, ...], gelu: str | None) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 96).to(torch.bfloat16)
    x = (3 * torch.randn(*rows, 64)).to(torch.bfloat16)
    with torch.inference_mode():
        found = Packed(linear, gelu)(x)
        right = nn.functional.linear(x.float(), linear.weight.float(), linear.bias.float())
        if gelu is not None:
            right = nn.functional.gelu(right, approximate=gelu)
    assert found.shape == right.shape
    assert found.dtype == torch.bfloat16
    # One rounding to eight bits.
    assert bool(((found.float() - right).abs() <= 2.0**-8 * right.abs() + 1e-3).all())


def test_one_layer_without_bias() -> None:
    linear = nn.Linear(8, 4, bias=False).to(torch.bfloat16)
    x = torch.randn(2, 8).to(torch.bfloat16)
    with torch.inference_mode():
        assert torch.allclose(Packed(linear)(x).float(), linear(x).float(), atol=0.02)


@pytest.mark.parametrize("kind", ["vit", "quick", "custom"])
def test_a_whole_model(make_model: MakeModel, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"local-dir:{make_model(kind)}"
    ours: Any = load_encoder(name, device="cpu", dtype="bf16")
    packed = [type(module) for module in ours._model.modules()].count(Packed)
    monkeypatch.setattr(openclip, "can_pack", lambda: False)
    plain: Any = load_encoder(name, device="cpu", dtype="bf16")
    assert not any(isinstance(module, Packed) for module in plain._model.modules())
    # Of each block the four layers, of its attention's first one in the last block two.
    blocks = len(ours._model.visual.transformer.resblocks)
    blocks += len(ours._tower.transformer.resblocks)
    assert packed == 4 * blocks + 2
    size = ours.image_size
    batch = np.random.default_rng(0).integers(0, 256, (4, 3, size, size), dtype=np.uint8)
    texts = ["a dog", "two cats on a roof", "rain " * 60]
    exact: Any = load_encoder(name, device="cpu", dtype="fp32")
    for encode, given in (("encode_images", batch), ("encode_texts", texts)):
        found, right = (getattr(one, encode)(given) for one in (ours, exact))
        assert (found * right).sum(axis=1).min() > 0.999
