"""The real download code against a small hub on loopback."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_stand_in import StandInHub, running_hub
from small_models import TEXT, VIT, MakeModel

from mmsearch.encode import hub as hub_module
from mmsearch.encode import load_encoder, load_text_encoder, weights
from mmsearch.encode.text_tower import NumpyTextEncoder
from mmsearch.errors import ModelUnavailableError

MODEL = "hf-hub:org/model"
CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache in place of the user's."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def hub(
    hub_cache: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StandInHub]:
    folder = make_model("vit")
    with running_hub() as server:
        server.files["org/model"] = {
            name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)
        }
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def everything_in(folder: Path) -> list[str]:
    """Names of weights and of unfinished files in a cache."""
    return sorted(
        path.name
        for path in folder.rglob("*")
        if path.is_file() and (path.name == WEIGHTS or "incomplete" in path.name)
    )


def test_first_use_fetches_and_the_second_asks_for_nothing(
    hub: StandInHub, make_model: MakeModel
) -> None:
    seen: list[tuple[str, int, int | None]] = []
    size = len(hub.files["org/model"][WEIGHTS])
    first = load_encoder(MODEL, device="cpu", dtype="fp32", on_progress=lambda *a: seen.append(a))
    assert hub.bodies() == [CONFIG, WEIGHTS]
    assert seen[-1] == (WEIGHTS, size, size)
    done = [at for name, at, _ in seen if name == WEIGHTS]
    assert done == sorted(done)

    second = load_encoder(MODEL, device="cpu", dtype="fp32")
    assert hub.requests == []
    assert second.space == first.space
    assert second.space.name == MODEL
    local = load_encoder(f"local-dir:{make_model('vit')}", device="cpu", dtype="fp32")
    assert local.space.fingerprint == first.space.fingerprint
    np.testing.assert_array_equal(local.encode_texts(["a"]), first.encode_texts(["a"]))


def test_hub_gone_with_cache(hub: StandInHub) -> None:
    first = load_encoder(MODEL, device="cpu", dtype="fp32")
    hub.stop()
    again = load_encoder(MODEL, device="cpu", dtype="fp32")
    assert again.space == first.space
    light = load_text_encoder(MODEL)
    assert isinstance(light, NumpyTextEncoder)
    assert light.space == first.space


def test_hub_gone_without_cache_says_what_to_do(hub: StandInHub, hub_cache: Path) -> None:
    hub.stop()
    with pytest.raises(ModelUnavailableError) as caught:
        load_encoder(MODEL, device="cpu")
    message = str(caught.value)
    for part in (hub.url, CONFIG, str(hub_cache), "local-dir:", "--model tiny"):
        assert part in message


def test_a_hub_that_does_not_answer(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "_ANSWER_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ModelUnavailableError, match="could not be fetched"):
            weights.find(MODEL)


def test_offline_mode_is_respected(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelUnavailableError, match="--model tiny"):
        weights.find(MODEL)
    assert hub.requests == []


def test_nothing_is_drawn_where_stderr_is_no_terminal(
    hub: StandInHub, capfd: pytest.CaptureFixture[str]
) -> None:
    weights.find(MODEL)
    assert hub.bodies() == [CONFIG, WEIGHTS]
    assert capfd.readouterr() == ("", "")


def test_a_download_that_breaks_off_goes_on(hub: StandInHub) -> None:
    hub.cut_after = 100_000
    load_encoder(MODEL, device="cpu")
    assert hub.bodies() == [CONFIG, WEIGHTS, WEIGHTS]


def test_a_download_that_fails_half_way_leaves_nothing_and_can_be_repeated(
    hub: StandInHub, hub_cache: Path
) -> None:
    hub.cut_after, hub.broken_after_cut = 100_000, True
    with pytest.raises(ModelUnavailableError, match=r"open_clip_model.safetensors is not in the"):
        load_encoder(MODEL, device="cpu")
    assert everything_in(hub_cache) == []
    hub.heal()
    load_encoder(MODEL, device="cpu")
    assert everything_in(hub_cache) == [WEIGHTS]


def test_a_changed_body_is_noticed_and_deleted(hub: StandInHub, hub_cache: Path) -> None:
    hub.lie = True
    with pytest.raises(ModelUnavailableError, match="arrived damaged") as caught:
        load_encoder(MODEL, device="cpu")
    assert "SHA-256" in caught.value.why
    assert everything_in(hub_cache) == []
    blobs = [path.stat().st_size for path in hub_cache.rglob("blobs/*")]
    assert max(blobs, default=0) < 100_000
    hub.heal()
    load_encoder(MODEL, device="cpu")


def test_a_file_damaged_in_the_cache_is_noticed(hub: StandInHub, hub_cache: Path) -> None:
    load_encoder(MODEL, device="cpu")
    (blob,) = (path for path in hub_cache.rglob("blobs/*") if path.stat().st_size > 100_000)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    os.utime(blob, ns=(1, 1))
    with pytest.raises(ModelUnavailableError, match="is damaged") as caught:
        load_encoder(MODEL, device="cpu")
    assert str(blob) in str(caught.value)


def test_names_that_the_hub_does_not_have(hub: StandInHub) -> None:
    with pytest.raises(ModelUnavailableError, match="has no repository org/other"):
        weights.find("hf-hub:org/other")
    del hub.files["org/model"][WEIGHTS]
    with pytest.raises(ModelUnavailableError, match=f"has none of {WEIGHTS}"):
        weights.find(MODEL)
    del hub.files["org/model"][CONFIG]
    hub.files["org/none"] = {}
    with pytest.raises(ModelUnavailableError, match=f"has none of {CONFIG}"):
        weights.find("hf-hub:org/none")


@pytest.mark.parametrize("name", ["a b/c", "-a/b", "a/b..c", "a/é"])
def test_names_that_no_repository_can_have(hub: StandInHub, name: str) -> None:
    with pytest.raises(ModelUnavailableError, match="Check the name"):
        load_text_encoder(f"hf-hub:{name}")


@pytest.fixture
def with_tower(hub: StandInHub) -> StandInHub:
    """The model's text tower is one of transformers', whose configuration the hub has."""
    import open_clip
    import torch
    from safetensors.torch import save
    from transformers import XLMRobertaConfig

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower = XLMRobertaConfig(vocab_size=49408, intermediate_size=32, **sizes)
    text = {"hf_proj_type": "linear", "hf_pooler_type": "cls_pooler", "context_length": 16}
    cfg = {"embed_dim": 48, "vision_cfg": VIT, "text_cfg": text}
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(**cfg | {"text_cfg": TEXT})
    model.text = open_clip.model.HFTextEncoder("", 48, tower, "cls_pooler", "linear")
    state = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    config = {"model_cfg": cfg | {"text_cfg": text | {"hf_model_name": "org/tower"}}}
    hub.files["org/model"] = {CONFIG: json.dumps(config).encode(), WEIGHTS: save(state)}
    hub.files["org/tower"] = {"config.json": tower.to_json_string().encode()}
    return hub


def test_a_text_tower_of_transformers_is_asked_for_once(with_tower: StandInHub) -> None:
    first = load_encoder(MODEL, device="cpu", dtype="fp32").encode_texts(["a kite"])
    assert "config.json" in with_tower.bodies()
    second = load_encoder(MODEL, device="cpu", dtype="fp32").encode_texts(["a kite"])
    assert with_tower.requests == []
    np.testing.assert_array_equal(first, second)


def test_a_text_tower_that_cannot_be_had_is_no_fault_of_the_weights(
    with_tower: StandInHub,
) -> None:
    del with_tower.files["org/tower"]
    with pytest.raises(ModelUnavailableError, match="has no repository org/tower") as caught:
        load_encoder(MODEL, device="cpu")
    assert "damaged" not in str(caught.value)


def test_safetensors_are_preferred_and_pickles_taken(
    hub: StandInHub, make_model: MakeModel
) -> None:
    import io

    import torch
    from safetensors.torch import load_file

    pickled = io.BytesIO()
    torch.save(load_file(make_model("vit") / WEIGHTS), pickled)
    files = hub.files["org/model"]
    files["open_clip_pytorch_model.bin"] = pickled.getvalue()
    assert weights.find(MODEL).weights.name == WEIGHTS
    hub.files["org/old"] = {name: content for name, content in files.items() if name != WEIGHTS}
    assert weights.find("hf-hub:org/old").weights.name == "open_clip_pytorch_model.bin"
    assert load_encoder("hf-hub:org/old", device="cpu", dtype="fp32").space.dim == 48


def test_a_pretrained_tag_comes_from_its_mirror(
    hub: StandInHub, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ARCH/TAG: open_clip's table names the repository, and the tag its preprocessing."""
    import json

    import open_clip
    from open_clip import pretrained

    cfg = json.loads((make_model("quick") / CONFIG).read_text())["model_cfg"]
    cfg.pop("quick_gelu")
    (tmp_path / "Small-Tag.json").write_text(json.dumps(cfg))
    open_clip.add_model_config(tmp_path / "Small-Tag.json")
    tag = {"hf_hub": "org/quick/", "mean": (0.5,) * 3, "std": (0.25,) * 3, "quick_gelu": True}
    table = pretrained._PRETRAINED | {"Small-Tag": {"some_tag": tag, "no_mirror": {"url": "x://y"}}}
    monkeypatch.setattr(pretrained, "_PRETRAINED", table)
    hub.files["org/quick"] = {WEIGHTS: (make_model("quick") / WEIGHTS).read_bytes()}

    encoder = load_encoder("Small-Tag/some_tag", device="cpu", dtype="fp32")
    folder = make_model("quick", preprocess={"mean": [0.5] * 3, "std": [0.25] * 3})
    local = load_encoder(f"local-dir:{folder}", device="cpu", dtype="fp32")
    assert encoder.space.fingerprint == local.space.fingerprint
    np.testing.assert_array_equal(encoder.encode_texts(["a dog"]), local.encode_texts(["a dog"]))
    with pytest.raises(ModelUnavailableError, match="not on the Hugging Face hub"):
        load_encoder("Small-Tag/no_mirror")
