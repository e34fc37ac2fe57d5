from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import MakeModel

from mmsearch.encode import load_encoder, load_text_encoder, weights
from mmsearch.encode.bpe import ClipTokenizer
from mmsearch.encode.packed import can_pack
from mmsearch.encode.text_tower import NumpyTextEncoder
from mmsearch.errors import ModelUnavailableError, SpaceMismatchError
from mmsearch.types import Space

TEXTS = [
    "a red kite over a beach",
    "A photo of the Eiffel Tower at night, 1999.",
    "",
    "   \t\n ",
    "word " * 300,
    "antidisestablishmentarianism" * 20,
    "海边的红色风筝",
    "赤い凧と白い犬。",
    "a 🐕 and a 👩‍👩‍👧 🎈",
    "&lt;b&gt;caf&eacute;&lt;/b&gt; &amp;amp; more",
    "sch\u00f6n, na\u00efve \u2014 \u201cquoted\u201d \u2026",
    "l\u2019\u00e9t\u00e9 it's we'll I'd they're",
    "brokenâ€™s mojibake",
    "<start_of_text> inside <end_of_text> of it <END_OF_TEXT>",
    "\ud800 lone surrogate",
    "\x00\x1b[31mred\x1b[0m",
    "هلال فوق البحر",
    "x_y-z+1=2 #tag @me 100% $5 (brackets) [x] {y} ~^`|\\/",
    "aaaaaaaaaaaaaaaaaaaa aaab aba",
]


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_tokens_are_those_of_open_clip(clean: str) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    theirs = SimpleTokenizer(context_length=77, clean=clean)
    np.testing.assert_array_equal(
        ClipTokenizer(context_length=77, clean=clean)(TEXTS), theirs(TEXTS).numpy()
    )


@given(st.lists(st.text(max_size=60), max_size=3), st.integers(2, 20))
@settings(max_examples=150, deadline=None)
def test_tokens_of_any_text_are_those_of_open_clip(texts: list[str], context_length: int) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    theirs = SimpleTokenizer.__call__(_their_tokenizer(), texts, context_length)
    np.testing.assert_array_equal(ClipTokenizer(context_length)(texts), theirs.numpy())


@given(st.text(st.characters(max_codepoint=127), max_size=80))
@settings(max_examples=300, deadline=None)
def test_tokens_of_any_ascii_text_are_those_of_open_clip(text: str) -> None:
    """Most such texts take a shorter way."""
    from open_clip.tokenizer import SimpleTokenizer

    theirs = SimpleTokenizer.__call__(_their_tokenizer(), [text], 77)
    np.testing.assert_array_equal(ClipTokenizer()([text]), theirs.numpy())


def _their_tokenizer() -> object:
    import open_clip.tokenizer

    return open_clip.tokenizer._tokenizer


@pytest.fixture(params=["numpy", "torch"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a light encoder computes with: torch is loaded in the process of these tests."""
    limit = 10**9 if request.param == "numpy" else 0
    monkeypatch.setattr("mmsearch.encode.text_tower._LARGE", limit)
    monkeypatch.setattr("mmsearch.encode.text_tower_torch.in_half_precision", lambda: False)
    return str(request.param)


@pytest.mark.parametrize("stored", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("kind", ["vit", "quick", "cnn", "custom"])
def test_vectors_are_those_of_the_whole_model(
    kind: str, stored: str, make_model: MakeModel, by: str
) -> None:
    name = f"local-dir:{make_model(kind, dtype=stored)}"
    light = load_text_encoder(name)
    assert isinstance(light, NumpyTextEncoder)
    whole = load_encoder(name, device="cpu", dtype="fp32")
    assert light.space == whole.space
    found = light.encode_texts(TEXTS)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, whole.encode_texts(TEXTS), atol=5e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert light.encode_texts([]).shape == (0, light.space.dim)
    assert (light._torch is None) == (by == "numpy")


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize("length", [32, 100])
def test_weights_of_another_context_length(
    length: int, make_model: MakeModel, tmp_path: Path
) -> None:
    """open_clip stretches the places of the tokens: the beginning of them is something else."""
    folder = tmp_path / "model"
    shutil.copytree(make_model("vit"), folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["context_length"] = length
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    whole = load_encoder(f"local-dir:{folder}", device="cpu", dtype="fp32").encode_texts(TEXTS)
    query = load_text_encoder(f"local-dir:{folder}").encode_texts(TEXTS)
    assert (whole * query).sum(axis=1).min() > 0.999


def test_many_texts_keep_their_order(make_model: MakeModel) -> None:
    light = load_text_encoder(f"local-dir:{make_model('vit')}")
    texts = [f"{'very ' * (n % 11)}small dog number {n}" for n in range(100)]
    together = light.encode_texts(texts)
    for n in (0, 31, 32, 99):
        np.testing.assert_allclose(light.encode_texts([texts[n]])[0], together[n], atol=2e-6)


@pytest.mark.parametrize("kind", ["vit", "quick", "custom"])
def test_numpy_and_torch_give_the_same(
    kind: str, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.encode.text_tower_torch.in_half_precision", lambda: False)
    name = f"local-dir:{make_model(kind)}"
    by_numpy = load_text_encoder(name).encode_texts(TEXTS)
    monkeypatch.setattr("mmsearch.encode.text_tower._LARGE", 0)
    np.testing.assert_allclose(load_text_encoder(name).encode_texts(TEXTS), by_numpy, atol=1e-6)


@pytest.mark.skipif(not can_pack(), reason="no oneDNN bfloat16 on this CPU")
@pytest.mark.parametrize("kind", ["vit", "quick", "custom"])
def test_in_half_precision_by_torch(
    kind: str, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"local-dir:{make_model(kind)}"
    exact = load_text_encoder(name).encode_texts(TEXTS * 3)
    monkeypatch.setattr("mmsearch.encode.text_tower._LARGE", 0)
    monkeypatch.setattr("mmsearch.encode.text_tower_torch.in_half_precision", lambda: True)
    light = load_text_encoder(name)
    assert isinstance(light, NumpyTextEncoder)
    found = light.encode_texts(TEXTS * 3)
    assert light._torch is not None
    assert (found * exact).sum(axis=1).min() > 0.999
    alone = light.encode_texts(TEXTS[:1])
    assert float((alone * exact[:1]).sum()) > 0.999
    assert not np.array_equal(found, exact)  # it is another way


@pytest.mark.skipif(not can_pack(), reason="no oneDNN bfloat16 on this CPU")
def test_threads_that_ask_while_torch_takes_over(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights in float32 are let go of; nobody may compute without them."""
    name = f"local-dir:{make_model('vit')}"
    monkeypatch.setattr("mmsearch.encode.text_tower._LARGE", 10**9)
    exact = load_text_encoder(name).encode_texts(TEXTS)
    monkeypatch.setattr("mmsearch.encode.text_tower._LARGE", 0)
    monkeypatch.setattr("mmsearch.encode.text_tower_torch.in_half_precision", lambda: True)
    build, built = NumpyTextEncoder._by_torch, []

    def slowly(self: NumpyTextEncoder) -> Any:
        built.append(self)
        time.sleep(0.2 * len(built))  # so that a second one would begin before the first is done
        return build(self)

    monkeypatch.setattr(NumpyTextEncoder, "_by_torch", slowly)
    light = load_text_encoder(name)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(light.encode_texts, [TEXTS] * 2))
    assert len(built) == 1
    assert all((one * exact).sum(axis=1).min() > 0.999 for one in found)


def test_other_towers_fall_back_to_the_whole_model(make_model: MakeModel) -> None:
    light = load_text_encoder(f"local-dir:{make_model('bidirectional')}")
    assert not isinstance(light, NumpyTextEncoder)
    assert light.encode_texts(["a dog"]).shape == (1, light.space.dim)


def test_unknown_settings_of_a_tower_are_not_ignored(make_model: MakeModel, tmp_path: Path) -> None:
    from mmsearch.encode.text_tower import suits

    files = weights.find_light(f"local-dir:{make_model('vit')}")
    assert files is not None
    assert suits(files)
    for key, value in (
        ("no_causal_mask", True),
        ("pool_type", "last"),
        ("ls_init_value", 0.1),
        ("qk_norm", True),
        ("hf_tokenizer_name", "x"),
        ("tokenizer_kwargs", {"reduction_mask": "simple"}),
        ("something_new", 3),
    ):
        changed = dict(files.model_cfg) | {"text_cfg": files.model_cfg["text_cfg"] | {key: value}}
        assert not suits(replace(files, model_cfg=changed)), key
    assert not suits(replace(files, model_cfg=dict(files.model_cfg) | {"multimodal_cfg": {"a": 1}}))
    assert not suits(replace(files, weights=tmp_path / "open_clip_pytorch_model.bin"))


def test_a_damaged_file_is_told_by_the_whole_model(make_model: MakeModel, tmp_path: Path) -> None:
    shutil.copytree(make_model("vit"), tmp_path / "model")
    file = tmp_path / "model" / "open_clip_model.safetensors"
    content = file.read_bytes()
    for damaged in (content[:-50], content[:4], b"\xff" * 64, b""):
        file.write_bytes(damaged)
        with pytest.raises(ModelUnavailableError, match="could not be loaded"):
            load_text_encoder(f"local-dir:{tmp_path / 'model'}")


def test_the_expected_space_is_checked(make_model: MakeModel) -> None:
    name = f"local-dir:{make_model('vit')}"
    space = load_text_encoder(name).space
    load_text_encoder(name, expected=space)
    other = Space(space.name, space.dim, "0" * 64, space.preprocessing)
    with pytest.raises(SpaceMismatchError, match="000000000000"):
        load_text_encoder(name, expected=other)


def test_a_card_finds_other_models_again(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    folder = make_model("vit")
    cfg = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "Small-Card.json").write_text(json.dumps(cfg))
    open_clip.add_model_config(tmp_path / "Small-Card.json")
    file = tmp_path / "weights.safetensors"
    shutil.copy(folder / "open_clip_model.safetensors", file)
    spec = f"Small-Card:{file}"

    assert weights.find_light(spec) is None
    first = load_text_encoder(spec)  # loads the whole model, which leaves a card
    assert weights.find_light(spec) is not None
    with monkeypatch.context() as patch:
        patch.setattr("mmsearch.encode.load_encoder", None)
        second = load_text_encoder(spec)
    assert isinstance(first, NumpyTextEncoder)
    assert isinstance(second, NumpyTextEncoder)
    assert second.space == first.space
    np.testing.assert_allclose(
        second.encode_texts(TEXTS[:3]), first.encode_texts(TEXTS[:3]), atol=5e-6
    )
    # A file that changed is looked at anew.
    shutil.copy(make_model("vit", seed=1) / "open_clip_model.safetensors", file)
    os.utime(file, ns=(1, 1))
    assert weights.find_light(spec) is None
    assert load_text_encoder(spec).space.fingerprint != first.space.fingerprint


def test_a_query_imports_neither_torch_nor_open_clip(make_model: MakeModel, tmp_path: Path) -> None:
    program = (
        "import sys, json\n"
        "from mmsearch.encode import load_encoder, load_text_encoder, presets\n"
        "heavy = {'torch', 'torchvision', 'open_clip', 'timm', 'huggingface_hub', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        f"v = load_text_encoder('local-dir:{make_model('vit')}').encode_texts(['a dog'])\n"
        "assert (heavy & set(sys.modules)) == {'numpy'}, heavy & set(sys.modules)\n"
        "print(json.dumps(v.tolist()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    here = load_text_encoder(f"local-dir:{make_model('vit')}").encode_texts(["a dog"])
    np.testing.assert_allclose(np.array(json.loads(done.stdout)), here, atol=2e-6)
