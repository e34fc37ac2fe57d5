"""From a model's name to its files: configuration, weights, tokenizer.

Two ways lead there. `find` knows every kind of name, imports open_clip for the table of its tags,
and fetches from the hub what is missing. `find_light` imports neither torch nor open_clip and
never touches the network: it serves the bundled model and folders directly, and the others by the
card that `write_card` left in mmsearch's cache folder when the model was last loaded whole.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmsearch.encode import hub, presets
from mmsearch.encode.fingerprint import (
    file_digest,
    note_path,
    read_note,
    space_fingerprint,
    stamp,
    write_note,
)
from mmsearch.encode.protocol import Progress
from mmsearch.errors import ModelUnavailableError
from mmsearch.types import Space

CONFIG_NAME = "open_clip_config.json"
_MODELS = Path(__file__).parent / "models"
_CARD_VERSION = 1

#: open_clip's PreprocessCfg: what holds where a configuration is silent.
_PREPROCESS_DEFAULTS: Mapping[str, Any] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}

#: File names of weights in order of preference, as open_clip has it; safetensors before pickles.
_WEIGHT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_HUB_WEIGHT_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")

#: What a transformers tokenizer may consist of; and what every one has, which is fetched last:
#: where it is cached, the rest is.
_TOKENIZER_PARTS = (
    "config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "tokenizer.json",
)
_TOKENIZER_MARK = "tokenizer_config.json"
#: All that is needed of a text tower of transformers: its weights are in the model's.
_TOWER_CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on this disk.

    name: canonical, see `presets.resolve`. model_cfg: open_clip's (embed_dim, vision_cfg,
    text_cfg, …). preprocess_cfg: complete; `size` is the side of a square, in pixels.
    sha256: of the weights file, hex. tokenizer: folder of a transformers tokenizer, if it has one.
    tower: folder of the configuration of a text tower of transformers, where it is one of the hub;
    `find` alone tells it, who builds needs it.
    """

    name: str
    weights: Path
    sha256: str
    model_cfg: Mapping[str, Any]
    preprocess_cfg: Mapping[str, Any]
    tokenizer: Path | None = None
    tower: Path | None = None

    @property
    def space(self) -> Space:
        pre = self.preprocess_cfg
        words = f"{pre['size']} {pre['interpolation']} {pre['resize_mode']}"
        return Space(
            name=self.name,
            dim=int(self.model_cfg["embed_dim"]),
            fingerprint=space_fingerprint(self.sha256, self.model_cfg, pre),
            preprocessing=f"{words} center" if pre["resize_mode"] == "shortest" else words,
        )


def find(spec: str, on_progress: Progress | None = None) -> ModelFiles:
    """The files of a model, fetched if need be.

    spec: canonical, from `presets.resolve`. Raises ModelUnavailableError.
    """
    files = _find(spec, on_progress)
    tower = files.model_cfg["text_cfg"].get("hf_model_name")
    if not tower or Path(tower).is_dir():
        return files
    # By its name transformers would ask the hub at each start, and an error of the network would
    # look like one of the weights.
    return replace(files, tower=hub.fetch(spec, tower, [_TOWER_CONFIG]).parent)


def _find(spec: str, on_progress: Progress | None) -> ModelFiles:
    if folder := _folder(spec):
        return _from_folder(spec, folder)
    if spec.startswith(presets.HUB_PREFIX):
        repo = spec[len(presets.HUB_PREFIX) :]
        cfg, pre = _read_config(spec, hub.fetch(spec, repo, [CONFIG_NAME], on_progress))
        _need_tokenizer_library(spec, cfg)
        weights = hub.fetch(spec, repo, _HUB_WEIGHT_NAMES, on_progress)
        return _complete(spec, weights, cfg, pre)
    return _from_open_clip(spec, on_progress)


def find_light(spec: str) -> ModelFiles | None:
    """The files of a model without torch, open_clip and network; None when that cannot be told."""
    if folder := _folder(spec):
        return _from_folder(spec, folder)
    card = read_note(note_path("models", spec))
    if card.get("version") != _CARD_VERSION or card.get("open_clip") != _open_clip_version():
        return None
    try:
        weights = Path(card["weights"])
        if stamp(weights) != card["stamp"]:
            return None
        tokenizer = card["tokenizer"]
        return ModelFiles(
            spec,
            weights,
            card["sha256"],
            card["model_cfg"],
            card["preprocess_cfg"],
            Path(tokenizer) if tokenizer else None,
        )
    except (KeyError, TypeError, OSError):
        return None


def write_card(files: ModelFiles) -> None:
    """Leave a note with which `find_light` finds this model. Not needed for folders."""
    if _folder(files.name):
        return
    card = {
        "version": _CARD_VERSION,
        "open_clip": _open_clip_version(),
        "weights": str(files.weights),
        "stamp": stamp(files.weights),
        "sha256": files.sha256,
        "model_cfg": dict(files.model_cfg),
        "preprocess_cfg": dict(files.preprocess_cfg),
        "tokenizer": str(files.tokenizer) if files.tokenizer else None,
    }
    write_note(note_path("models", files.name), card)


def _folder(spec: str) -> Path | None:
    if spec == presets.BUNDLED:
        return _MODELS / presets.BUNDLED
    if spec.startswith(presets.DIR_PREFIX):
        return Path(spec[len(presets.DIR_PREFIX) :])
    return None


def _from_folder(spec: str, folder: Path) -> ModelFiles:
    bundled = spec == presets.BUNDLED
    if not folder.is_dir():
        raise ModelUnavailableError(
            spec,
            f"there is no folder {folder}",
            "Install mmsearch again" if bundled else "Check the path",
        )
    cfg, pre = _read_config(spec, folder / CONFIG_NAME)
    _need_tokenizer_library(spec, cfg)
    weights = _weights_in(folder)
    if weights is None:
        raise ModelUnavailableError(
            spec,
            f"{folder} holds no weights, and a model without weights is refused",
            f"Put them there as {_WEIGHT_NAMES[0]}",
        )
    tokenizer = folder if cfg["text_cfg"].get("hf_tokenizer_name") else None
    return ModelFiles(spec, weights, file_digest(weights), cfg, pre, tokenizer)


def _weights_in(folder: Path) -> Path | None:
    """The weights file in a folder, by open_clip's order of preference."""
    for name in _WEIGHT_NAMES:
        if (folder / name).is_file():
            return folder / name
    for pattern in ("*.safetensors", "*.bin", "*.pth"):
        if others := sorted(folder.glob(pattern)):
            return others[0]
    return None


def _read_config(spec: str, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and preprocessing configuration out of an open_clip_config.json."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        cfg = content["model_cfg"]
        if not isinstance(cfg["embed_dim"], int) or not isinstance(cfg["text_cfg"], dict):
            raise TypeError("embed_dim is a whole number, text_cfg an object")
        return cfg, _preprocess_cfg(spec, cfg, content.get("preprocess_cfg") or {})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
        why = f"{type(exc).__name__}: {exc}"
        raise ModelUnavailableError(
            spec,
            f"{path} is not a readable open_clip configuration ({why})",
            "It wants a JSON object with model_cfg (embed_dim, vision_cfg, text_cfg) and "
            "preprocess_cfg, as open_clip's push_to_hf_hub writes it",
        ) from exc


def _preprocess_cfg(
    spec: str, cfg: Mapping[str, Any], overlay: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole preprocessing. As in open_clip, the size is always that of the image tower."""
    size = cfg["vision_cfg"].get("image_size", 224)
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) != 1:
        raise ModelUnavailableError(
            spec, f"it looks at pictures of {size} pixels", "Only square inputs are supported"
        )
    merged = dict(_PREPROCESS_DEFAULTS)
    merged |= {key: overlay[key] for key in merged if overlay.get(key) is not None}
    for key in ("mean", "std"):
        value = merged[key]
        channels = value if isinstance(value, list | tuple) else [value] * 3
        merged[key] = [float(channel) for channel in channels]
        if len(channels) != 3:
            raise ValueError(f"{key} is of {len(channels)} channels")
    merged["fill_color"] = int(merged["fill_color"])
    if merged["resize_mode"] not in ("shortest", "longest", "squash"):
        raise ValueError(f"resize_mode is {merged['resize_mode']!r}")
    # open_clip's "random" means bicubic outside training.
    merged["interpolation"] = "bilinear" if merged["interpolation"] == "bilinear" else "bicubic"
    return merged | {"size": int(sides.pop())}


def _from_open_clip(spec: str, on_progress: Progress | None) -> ModelFiles:
    """ARCH/TAG, ARCH:FILE and ARCH/TAG:FILE."""
    arch, tag, file = presets.split(spec)
    from mmsearch.encode.lean import open_clip  # torch with it, so only here

    package = open_clip()
    cfg = package.get_model_config(arch)
    if cfg is None:
        raise ModelUnavailableError(spec, f"open_clip has no architecture {arch}", "Check the name")
    of_tag: dict[str, Any] = package.get_pretrained_cfg(arch, tag) if tag else {}
    if tag and not of_tag:
        tags = ", ".join(package.list_pretrained_tags_by_model(arch))
        raise ModelUnavailableError(
            spec, f"open_clip has no weights {tag} for {arch}", f"It has: {tags or 'none'}"
        )
    if of_tag.get("quick_gelu"):
        # open_clip only warns here, and computes with another activation than was trained with.
        cfg["quick_gelu"] = True
    _need_tokenizer_library(spec, cfg)
    pre = _preprocess_cfg(spec, cfg, of_tag)
    if file is None:
        return _complete(spec, _fetch_tag(spec, of_tag, on_progress), cfg, pre)
    if not file.is_file():
        raise ModelUnavailableError(spec, f"there is no file {file}", "Check the path")
    return _complete(spec, file, cfg, pre)


def _fetch_tag(spec: str, of_tag: Mapping[str, Any], on_progress: Progress | None) -> Path:
    place = str(of_tag.get("hf_hub") or "")
    if not place:  # all tags of open_clip 3 have a mirror on the hub
        raise ModelUnavailableError(
            spec,
            "these weights are not on the Hugging Face hub",
            f"Download {of_tag.get('url')} and name the file: {spec}:/path/to/file",
        )
    repo, name = os.path.split(place)
    if not name:
        return hub.fetch(spec, repo, _HUB_WEIGHT_NAMES, on_progress)
    safer = f"{name.rpartition('.')[0]}.safetensors"
    names = [name] if name == safer else [safer, name]
    return hub.fetch(spec, repo, names, on_progress)


def _complete(
    spec: str, weights: Path, cfg: Mapping[str, Any], pre: Mapping[str, Any]
) -> ModelFiles:
    repo = cfg["text_cfg"].get("hf_tokenizer_name")
    tokenizer = _fetch_tokenizer(spec, repo) if repo else None
    digest = hub.verify_cached(spec, weights)
    return ModelFiles(spec, weights, digest, deepcopy(dict(cfg)), pre, tokenizer)


def _fetch_tokenizer(spec: str, repo: str) -> Path:
    """The folder of a repository's tokenizer in the hub's cache."""
    if found := hub.cached(repo, _TOKENIZER_MARK):
        return found.parent
    for part in _TOKENIZER_PARTS:
        hub.fetch_optional(spec, repo, part)
    return hub.fetch(spec, repo, [_TOKENIZER_MARK]).parent


def _need_tokenizer_library(spec: str, cfg: Mapping[str, Any]) -> None:
    """Say what is missing before gigabytes are fetched rather than after."""
    text_cfg = cfg["text_cfg"]
    wants = text_cfg.get("hf_tokenizer_name") or text_cfg.get("hf_model_name")
    if wants and importlib.util.find_spec("transformers") is None:
        raise ModelUnavailableError(
            spec,
            "its tokenizer needs the package transformers, which is not installed",
            "pip install transformers",
        )


def _open_clip_version() -> str:
    """What tells one open_clip from another: its configurations may differ."""
    try:
        return (presets.open_clip_folder() / "version.py").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
