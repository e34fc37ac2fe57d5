"""The first layer of a vision transformer as a product, against the convolution it replaces."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_models import MakeModel
from torch import nn

from mmsearch.encode import load_encoder
from mmsearch.encode.patches import Patches, into_patches

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)


def pictures(n: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)]
)
def test_equals_the_convolution(bias: bool, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 40, 16, 16, bias=bias)
    batch = pictures(3, 48)
    with torch.inference_mode():
        right = conv.double()((batch.double() / 255 - MEAN.double()) / STD.double())
        found = Patches(conv, MEAN, STD).to(dtype)(batch)
    assert found.shape == right.shape
    assert found.dtype == dtype
    assert float((found.double() - right).norm() / right.norm()) < tolerance


def test_half_precision_is_not_less_exact_than_the_convolution() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 40, 32, 32)
    batch = pictures(4, 64)
    normalised = (batch.double() / 255 - MEAN.double()) / STD.double()
    with torch.inference_mode():
        right = conv.double()(normalised)
        ours = Patches(conv, MEAN, STD).half()(batch).double()
        usual = conv.half()(normalised.half()).double()
    assert float((ours - right).norm()) <= 1.1 * float((usual - right).norm())


@pytest.mark.parametrize("kind", ["vit", "quick", "custom", "bidirectional"])
def test_a_whole_model(make_model: MakeModel, kind: str) -> None:
    name = f"local-dir:{make_model(kind)}"
    plain: Any = load_encoder(name, device="cpu", dtype="fp32")
    ours: Any = load_encoder(name, device="cpu", dtype="fp32")
    assert into_patches(ours._model, ours.image_size, ours._mean, ours._std)
    ours._takes_bytes = True
    batch = pictures(5, ours.image_size).numpy()
    cosines = (plain.encode_images(batch) * ours.encode_images(batch)).sum(axis=1)
    assert np.abs(cosines - 1).max() < 1e-5


def test_a_transformer_of_timm() -> None:
    import timm

    torch.manual_seed(0)
    trunk = timm.create_model("test_vit", pretrained=False).eval()
    side = trunk.patch_embed.img_size[0]
    batch = pictures(2, side)
    with torch.inference_mode():
        right = trunk((batch.float() / 255 - MEAN) / STD)
        assert into_patches(SimpleNamespace(visual=trunk), side, MEAN, STD)
        found = trunk(batch)
    assert float((found - right).norm() / right.norm()) < 1e-4


@pytest.mark.parametrize("kind", ["resnet", "cnn"])
def test_other_towers_stay_as_they_are(make_model: MakeModel, kind: str) -> None:
    encoder: Any = load_encoder(f"local-dir:{make_model(kind)}", device="cpu", dtype="fp32")
    assert not into_patches(encoder._model, encoder.image_size, MEAN, STD)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 8, 16, 8),
        nn.Conv2d(3, 8, 16, 16, padding=2),
        nn.Conv2d(3, 9, 16, 16, groups=3),
        nn.Conv2d(4, 8, 16, 16),
        nn.Conv2d(3, 8, 20, 20),
    ],
)
def test_only_patches_that_tile_the_picture(conv: nn.Conv2d) -> None:
    model = SimpleNamespace(visual=nn.Module())
    model.visual.conv1 = conv
    assert not into_patches(model, 48, MEAN, STD)


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_on_a_gpu(make_model: MakeModel, dtype: str) -> None:
    name = f"local-dir:{make_model('vit')}"
    exact = load_encoder(name, device="cpu", dtype="fp32")
    ours: Any = load_encoder(name, device="cuda", dtype=dtype)
    assert ours._takes_bytes
    batch = pictures(9, exact.image_size).numpy()
    assert (exact.encode_images(batch) * ours.encode_images(batch)).sum(axis=1).min() >= 0.999
