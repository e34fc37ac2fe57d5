"""open_clip without timm, transformers and torchvision: what it spares, and that nothing differs.

In processes of their own: this one has imported the whole of it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import MakeModel

from mmsearch.encode.lean import is_made_by, wants_whole

HEAVY = ("torchvision", "transformers", "timm", "open_clip", "torch._dynamo")

#: Prints what of HEAVY is imported after each model, and its vectors.
PROBE = f"""
import json, logging, sys
import numpy as np
from mmsearch.encode import load_encoder
logging.getLogger("mmsearch").addHandler(logging.StreamHandler())
logging.getLogger("mmsearch").setLevel(logging.INFO)
out = []
for name in sys.argv[1:]:
    if name == "open_clip":
        import open_clip
        from open_clip import timm_model, transform
        assert timm_model.timm.__name__ == "timm"
        assert transform.Resize.__module__ == "torchvision.transforms.transforms"
        continue
    import torch
    before = torch.get_rng_state()
    encoder = load_encoder("local-dir:" + name, device="cpu", dtype="fp32")
    assert torch.equal(torch.get_rng_state(), before), "random weights were drawn"
    size = encoder.image_size
    batch = np.random.default_rng(0).integers(0, 256, (3, 3, size, size), dtype=np.uint8)
    vectors = [*encoder.encode_images(batch), *encoder.encode_texts(["a red kite", "rain " * 50])]
    heavy = [module for module in {HEAVY!r} if module in sys.modules]
    out.append([heavy, [vector.tolist() for vector in vectors]])
print(json.dumps(out))
"""


def probed(*names: object) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *map(str, names)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    # Neither in the ordinary way nor a second time.
    assert "created" not in done.stderr
    assert "once more" not in done.stderr
    return [(set(heavy), np.array(vectors)) for heavy, vectors in json.loads(done.stdout)]


def test_models_of_open_clips_own_parts(make_model: MakeModel) -> None:
    models = [make_model(k) for k in ("vit", "quick", "resnet", "custom", "bidirectional")]
    results = probed(*models, "open_clip", *models)
    lean, whole = results[: len(models)], results[len(models) :]
    for (heavy, vectors), (_, again) in zip(lean, whole, strict=True):
        assert heavy == set()
        np.testing.assert_array_equal(vectors, again)


def test_a_model_of_timms_after_one_without(make_model: MakeModel) -> None:
    (heavy, _), (whole, after) = probed(make_model("vit"), make_model("cnn"))
    assert heavy == set()
    assert whole >= {"torchvision", "timm", "open_clip"}
    [(_, alone)] = probed(make_model("cnn"))
    np.testing.assert_array_equal(after, alone)


def test_a_tokenizer_of_transformers(make_model: MakeModel, tmp_path: Path) -> None:
    """It is imported when it is asked for, and is the real one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path / "model"
    shutil.copytree(make_model("bidirectional"), folder)
    words = {"[PAD]": 0, "[UNK]": 1, "a": 2, "red": 3, "kite": 4, "rain": 5}
    rules = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=rules, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "local"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (heavy, vectors), (_, again) = probed(folder, "open_clip", folder)
    assert heavy == {"transformers"}
    np.testing.assert_array_equal(vectors, again)


def test_an_unknown_tag_is_told_without_the_rest() -> None:
    code = (
        "import sys\n"
        "from mmsearch.encode import load_encoder\n"
        "try: load_encoder('ViT-B-32/nothing')\n"
        f"except Exception as exc: print(exc, set({HEAVY!r}) & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "laion2b_s34b_b79k" in done.stdout, done.stderr
    assert done.stdout.rstrip().endswith("set()")


def test_an_open_clip_that_cannot_be_cut_down_is_taken_whole() -> None:
    code = (
        "import sys\n"
        "from mmsearch.encode import lean\n"
        "lean._StandIn = None\n"  # whatever fails on the way
        "package = lean.open_clip()\n"
        "left = [name for name in sys.modules if name.startswith(lean._LEAN)]\n"
        "print(package.__name__, left, package.CLIP.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["open_clip", "[]", "open_clip.model"], done.stderr


def test_a_model_that_cannot_be_built_so_is_built_by_the_whole(make_model: MakeModel) -> None:
    code = (
        "import sys\n"
        "from mmsearch.encode import lean, load_encoder\n"
        "def broken(*_, **__): raise AttributeError('no such thing')\n"
        "lean.open_clip().CLIP = broken\n"
        f"encoder = load_encoder('local-dir:{make_model('vit')}', device='cpu')\n"
        "print(type(encoder._model).__module__, encoder.encode_texts(['a']).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "open_clip.model (1, 48)", done.stderr


@pytest.mark.parametrize(
    ("vision", "text", "more", "file", "whole"),
    [
        ({}, {}, {}, "model.safetensors", False),
        ({}, {"hf_tokenizer_name": "x/y"}, {}, "model.bin", False),
        ({"timm_model_name": "vit"}, {}, {}, "model.safetensors", True),
        ({}, {"hf_model_name": "bert"}, {}, "model.safetensors", True),
        ({}, {}, {"multimodal_cfg": {}}, "model.safetensors", True),
        ({}, {}, {}, "model.npz", True),
    ],
)
def test_who_needs_the_whole(
    vision: dict[str, Any], text: dict[str, Any], more: dict[str, Any], file: str, whole: bool
) -> None:
    cfg = {"vision_cfg": vision, "text_cfg": text, **more}
    assert wants_whole(cfg, Path(file)) is whole


def test_whose_class_it_is() -> None:
    from open_clip.transformer import LayerNorm
    from torch import nn

    class Mine(LayerNorm):
        pass

    assert is_made_by(LayerNorm(4), "transformer.LayerNorm")
    assert not is_made_by(LayerNorm(4), "transformer.Transformer")
    assert not is_made_by(nn.LayerNorm(4), "transformer.LayerNorm")
    assert not is_made_by(Mine(4), "transformer.LayerNorm")
