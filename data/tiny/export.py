"""Writes a model folder that open_clip loads by `local-dir:`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from lessons import UNKNOWN_TOKEN
from model import MODEL_CFG, PREPROCESS_CFG
from safetensors.torch import save_file

WEIGHTS = "open_clip_model.safetensors"


def export(clip: Any, folder: Path) -> str:
    """fp16 weights and config of `clip` into `folder`, each renamed into place; → sha256 of the
    weights. Tokens no caption used get the embedding of UNKNOWN_TOKEN, which training met in
    their place."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().clone() for k, v in clip.state_dict().items()}
    used = clip.used_tokens
    table = state["token_embedding.weight"]
    table[~used] = table[UNKNOWN_TOKEN].clone()
    half = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
    # A batch norm counts its batches for training alone.
    half = {
        k: v if v.ndim or v.is_floating_point() else torch.zeros_like(v) for k, v in half.items()
    }
    weights = folder / (WEIGHTS + ".tmp")
    save_file(half, weights, metadata={"format": "pt"})
    config = folder / "open_clip_config.json.tmp"
    config.write_text(
        json.dumps({"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG}, indent=2) + "\n"
    )
    config.replace(folder / "open_clip_config.json")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    weights.chmod(0o644)  # safetensors writes for the owner alone
    weights.replace(folder / WEIGHTS)
    return digest
