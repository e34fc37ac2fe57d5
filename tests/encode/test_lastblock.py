"""The last block for one token alone, against the whole block."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_models import MakeModel

from mmsearch.encode import load_encoder
from mmsearch.encode.attention import Attention
from mmsearch.encode.lastblock import FirstToken, one_token


def block(seed: int = 0) -> Any:
    from open_clip.transformer import ResidualAttentionBlock

    torch.manual_seed(seed)
    return ResidualAttentionBlock(64, 4, ls_init_value=0.3).eval()


def test_the_first_token() -> None:
    x = torch.randn(5, 9, 64)
    with torch.inference_mode():
        whole = block()(x)[:, :1]
        last = block()
        last.attn = Attention(last.attn, causal=False)
        found = FirstToken(last)(x)
    assert float((found - whole).abs().max()) < 1e-5


def test_tokens_at_different_places_under_a_causal_mask() -> None:
    x, at = torch.randn(4, 7, 64), torch.tensor([6, 0, 3, 5])
    mask = torch.full((7, 7), -torch.inf).triu(1)
    with torch.inference_mode():
        whole = block()(x, attn_mask=mask)[torch.arange(4), at]
        last = block()
        last.attn = Attention(last.attn, causal=True)
        last.attn.split()
        seen = mask[at][:, None, None]
        found = one_token(last, x, x[torch.arange(4), at].unsqueeze(1), seen).squeeze(1)
    assert float((found - whole).abs().max()) < 1e-5


@pytest.mark.parametrize("kind", ["vit", "quick", "custom"])
def test_both_towers_give_what_open_clip_gives(make_model: MakeModel, kind: str) -> None:
    import open_clip

    name = f"local-dir:{make_model(kind)}"
    ours: Any = load_encoder(name, device="cpu", dtype="fp32")
    assert ours._ends_alone
    assert isinstance(ours._model.visual.transformer.resblocks[-1], FirstToken)
    plain, _, _ = open_clip.create_model_and_transforms(name)
    plain.eval()
    size = ours.image_size
    batch = np.random.default_rng(0).integers(0, 256, (4, 3, size, size), dtype=np.uint8)
    texts = ["a dog", "two cats on a roof", "", "rain " * 60]
    with torch.inference_mode():
        x = (torch.from_numpy(batch).float() / 255 - ours._mean) / ours._std
        pictures = plain.encode_image(x, normalize=True).numpy()
        words = plain.encode_text(open_clip.get_tokenizer(name)(texts), normalize=True).numpy()
    assert np.abs(ours.encode_images(batch) - pictures).max() < 1e-5
    assert np.abs(ours.encode_texts(texts) - words).max() < 1e-5


@pytest.mark.parametrize("kind", ["resnet", "cnn"])
def test_other_image_towers_stay_as_they_are(make_model: MakeModel, kind: str) -> None:
    encoder: Any = load_encoder(f"local-dir:{make_model(kind)}", device="cpu", dtype="fp32")
    assert not any(isinstance(each, FirstToken) for each in encoder._model.modules())
