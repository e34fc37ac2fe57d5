"""What cosines are multiplied by before a softmax: learned, the same by either way of loading."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from small_models import MakeModel

from mmsearch.encode import load_encoder, load_text_encoder
from mmsearch.encode.protocol import DEFAULT_LOGIT_SCALE
from mmsearch.encode.text_tower import NumpyTextEncoder


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_it_is_the_one_in_the_file(make_model: MakeModel, dtype: str, tmp_path: Path) -> None:
    folder = make_model("vit", dtype=dtype)
    state = load_file(folder / "open_clip_model.safetensors")
    state["logit_scale"][...] = 3.5
    (tmp_path / "model").mkdir()
    save_file(state, tmp_path / "model" / "open_clip_model.safetensors")
    config = (folder / "open_clip_config.json").read_text()
    (tmp_path / "model" / "open_clip_config.json").write_text(config)
    name = f"local-dir:{tmp_path / 'model'}"
    light = load_text_encoder(name)
    assert isinstance(light, NumpyTextEncoder)
    assert light.logit_scale == pytest.approx(math.exp(3.5), rel=1e-6)
    for precision in ("fp32", "bf16"):
        whole = load_encoder(name, device="cpu", dtype=precision)
        assert whole.logit_scale == pytest.approx(math.exp(3.5), rel=1e-6)


def test_a_file_without_one_has_the_usual_one(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("vit")
    state = load_file(folder / "open_clip_model.safetensors")
    del state["logit_scale"]
    (tmp_path / "model").mkdir()
    save_file(state, tmp_path / "model" / "open_clip_model.safetensors")
    config = (folder / "open_clip_config.json").read_text()
    (tmp_path / "model" / "open_clip_config.json").write_text(config)
    assert load_text_encoder(f"local-dir:{tmp_path / 'model'}").logit_scale == DEFAULT_LOGIT_SCALE
