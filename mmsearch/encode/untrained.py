"""The same model before it learned anything: the baseline that figures are held against."""

from __future__ import annotations

import json
from pathlib import Path

from mmsearch.encode import presets, weights


def write_untrained(model: str, folder: Path, *, seed: int = 0) -> None:
    """Writes a model of the same architecture with random weights into `folder`, for local-dir:.

    Raises ModelUnavailableError as `load_encoder` does.
    """
    import torch
    from open_clip.factory import create_model
    from safetensors.torch import save_file

    files = weights.find(presets.resolve(model))
    folder.mkdir(parents=True, exist_ok=True)
    about = {"model_cfg": dict(files.model_cfg), "preprocess_cfg": dict(files.preprocess_cfg)}
    (folder / weights.CONFIG_NAME).write_text(json.dumps(about), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = create_model(f"local-dir:{folder}", load_weights=False)
    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
