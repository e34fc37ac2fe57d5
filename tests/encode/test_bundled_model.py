"""The model that comes with mmsearch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from mmsearch.encode import load_encoder, load_text_encoder, weights
from mmsearch.encode.presets import PRESETS
from mmsearch.encode.text_tower import NumpyTextEncoder

ROOT = Path(__file__).parents[2]
TEXTS = ["a red boat on a lake at night", "", "two dogs", "海边的红色风筝", "tree " * 100]


def test_its_figures_are_those_of_the_table() -> None:
    preset = PRESETS["tiny"]
    files = weights.find("tiny")
    assert files.name == "tiny"
    assert files.space.dim == preset.dim
    assert files.preprocess_cfg["size"] == preset.image_size
    assert files.weights.suffix == ".safetensors"
    assert (files.weights.parent / "README.md").is_file()


def test_it_loads_without_torch_in_a_program_of_its_own(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from mmsearch.encode import load_text_encoder\n"
        f"v = load_text_encoder('tiny').encode_texts({TEXTS!r})\n"
        "heavy = {'torch', 'torchvision', 'open_clip', 'timm', 'huggingface_hub'}\n"
        "bad = heavy & set(sys.modules)\n"
        "assert not bad, bad\n"
        "import json; print(json.dumps(v.tolist()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = np.array(json.loads(done.stdout))
    whole = load_encoder("tiny", device="cpu", dtype="fp32").encode_texts(TEXTS)
    np.testing.assert_allclose(found, whole, atol=5e-6)


def test_its_vectors_are_those_of_open_clip() -> None:
    import open_clip
    import torch

    folder = weights.find("tiny").weights.parent
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (4, 6, 9, 3), dtype=np.uint8)
    pictures = [block.repeat(31, axis=0).repeat(27, axis=1) for block in blocks]
    with torch.inference_mode():
        stack = torch.stack([transform(Image.fromarray(picture)) for picture in pictures])
        expected = model.encode_image(stack, normalize=True).numpy()
    for dtype, reference, least in (
        ("fp32", True, 0.999999),
        ("fp32", False, 0.999),
        ("bf16", False, 0.998),
    ):
        encoder = load_encoder("tiny", device="cpu", dtype=dtype, reference=reference)
        batch = np.stack([encoder.preprocess(picture) for picture in pictures])
        cosines = (encoder.encode_images(batch) * expected).sum(axis=1)
        assert (cosines >= least).all(), (dtype, reference, cosines)


def test_its_light_text_tower_is_the_numpy_one() -> None:
    light = load_text_encoder("tiny")
    assert isinstance(light, NumpyTextEncoder)
    assert light.space == load_encoder("tiny", device="cpu").space


def test_its_vectors_in_bf16_are_near_those_in_fp32() -> None:
    exact, quick = (load_encoder("tiny", device="cpu", dtype=dtype) for dtype in ("fp32", "bf16"))
    files = sorted((ROOT / "data" / "postcards").glob("*.jpg"))[:16]
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    batch = np.stack([exact.preprocess(picture) for picture in pictures])
    for one, other in (
        (exact.encode_images(batch), quick.encode_images(batch)),
        (exact.encode_texts(TEXTS), quick.encode_texts(TEXTS)),
    ):
        assert ((one * other).sum(axis=1) >= 0.999).all()
