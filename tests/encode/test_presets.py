from __future__ import annotations

from pathlib import Path

import pytest

from mmsearch.encode import presets
from mmsearch.encode.presets import PRESETS, resolve
from mmsearch.errors import ModelUnavailableError


def test_presets_resolve_to_what_open_clip_knows() -> None:
    from open_clip.pretrained import is_pretrained_cfg

    for preset in PRESETS.values():
        assert resolve(preset.name) == preset.spec
        if preset.spec != presets.BUNDLED:
            arch, tag, file = presets.split(preset.spec)
            assert file is None
            assert tag is not None
            assert is_pretrained_cfg(arch, tag)


def test_preset_figures_are_those_of_the_configurations() -> None:
    import open_clip

    for preset in PRESETS.values():
        if preset.spec == presets.BUNDLED:
            continue
        cfg = open_clip.get_model_config(presets.split(preset.spec)[0])
        assert preset.dim == cfg["embed_dim"]
        assert preset.image_size == cfg["vision_cfg"]["image_size"]


def test_resolving_twice_changes_nothing(tmp_path: Path) -> None:
    for name in (*PRESETS, "hf-hub:org/name", f"local-dir:{tmp_path}", f"ViT-B-32:{tmp_path}/x.pt"):
        assert resolve(resolve(name)) == resolve(name)


def test_relative_paths_and_home_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("local-dir:model") == f"local-dir:{tmp_path / 'model'}"
    assert resolve("local-dir:~/model") == f"local-dir:{tmp_path / 'model'}"
    assert resolve("ViT-B-32:w.safetensors") == f"ViT-B-32:{tmp_path / 'w.safetensors'}"
    assert presets.split(resolve("ViT-B-32/openai:w.pt")) == (
        "ViT-B-32",
        "openai",
        tmp_path / "w.pt",
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("defualt", "default"),
        ("vit-b-32", "ViT-B-32/TAG"),
        ("ViT-B32/openai", "ViT-B-32/TAG"),
        ("multilingul", "multilingual"),
        ("zzzzzzzz", "hf-hub:ORG/NAME"),
        ("", "hf-hub:ORG/NAME"),
    ],
)
def test_an_unknown_name_says_what_is_near_and_what_to_do(name: str, hint: str) -> None:
    with pytest.raises(ModelUnavailableError, match=r"no model has this name") as caught:
        resolve(name)
    assert hint in str(caught.value)
    assert "tiny" in caught.value.remedy


def test_a_folder_without_prefix_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError) as caught:
        resolve(str(tmp_path))
    assert f"local-dir:{tmp_path}" in str(caught.value)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32/"])
def test_an_architecture_without_weights_is_refused(name: str) -> None:
    with pytest.raises(ModelUnavailableError, match="a model without weights is refused"):
        resolve(name)


@pytest.mark.parametrize("name", ["hf-hub:", "hf-hub:name", "hf-hub:a/b/c", "local-dir:"])
def test_half_a_name_is_refused(name: str) -> None:
    with pytest.raises(ModelUnavailableError):
        resolve(name)
