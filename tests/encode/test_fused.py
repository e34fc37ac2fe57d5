"""Linear layers with their GELU in one, against the two by themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_models import MakeModel
from torch import nn

from mmsearch.encode import load_encoder
from mmsearch.encode.fused import LinearGelu, fuse_gelu


def test_one_layer() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(32, 64)
    x = 3 * torch.randn(5, 7, 32)
    with torch.inference_mode():
        found, right = LinearGelu(linear)(x), nn.GELU()(linear(x))
    assert found.shape == right.shape
    assert float((found - right).abs().max()) < 1e-3


@pytest.mark.parametrize(("kind", "layers"), [("vit", 4), ("custom", 4), ("quick", 0)])
def test_a_whole_model(make_model: MakeModel, kind: str, layers: int) -> None:
    """Of both towers; OpenAI's own activation is another function."""
    name = f"local-dir:{make_model(kind)}"
    plain: Any = load_encoder(name, device="cpu", dtype="fp32")
    ours: Any = load_encoder(name, device="cpu", dtype="fp32")
    assert fuse_gelu(ours._model) == layers
    size = ours.image_size
    batch = np.random.default_rng(0).integers(0, 256, (4, 3, size, size), dtype=np.uint8)
    texts = ["a dog", "two cats on a roof"]
    for mine, right in (
        (ours.encode_images(batch), plain.encode_images(batch)),
        (ours.encode_texts(texts), plain.encode_texts(texts)),
    ):
        assert (mine * right).sum(axis=1).min() > 0.99999


def test_a_transformer_of_timm() -> None:
    import timm

    torch.manual_seed(0)
    trunk = timm.create_model("test_vit", pretrained=False).eval()
    side = trunk.patch_embed.img_size[0]
    batch = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        right = trunk(batch)
        assert fuse_gelu(trunk) == len(trunk.blocks)
        found = trunk(batch)
    assert float((found - right).norm() / right.norm()) < 1e-3
