"""Small models with random weights, as folders in the form that local-dir: takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

VIT: dict[str, Any] = {
    "image_size": 32,
    "layers": 2,
    "width": 64,
    "head_width": 32,
    "patch_size": 8,
}
TEXT: dict[str, Any] = {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 64,
    "heads": 4,
    "layers": 2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    # The classic: a ViT and a causal text tower.
    "vit": {"embed_dim": 48, "vision_cfg": VIT, "text_cfg": TEXT},
    # OpenAI's activation function.
    "quick": {"embed_dim": 48, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    # open_clip's ResNet, as the bundled model has.
    "resnet": {
        "embed_dim": 48,
        "vision_cfg": {
            "image_size": 64,
            "layers": [1, 1, 1, 1],
            "width": 16,
            "head_width": 32,
            "patch_size": None,
        },
        "text_cfg": TEXT,
    },
    # A CNN of timm's.
    "cnn": {
        "embed_dim": 48,
        "vision_cfg": {
            "timm_model_name": "test_efficientnet",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": None,
            "image_size": 64,
        },
        "text_cfg": TEXT,
    },
    # The text tower in a module of its own; other norm, activation and projection.
    "custom": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": VIT,
        "text_cfg": TEXT
        | {
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"},
            "proj_bias": True,
            "context_length": 16,
        },
    },
    # Like SigLIP: every token sees all others, features from the last place.
    "bidirectional": {
        "embed_dim": 48,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": VIT,
        "text_cfg": TEXT | {"no_causal_mask": True, "pool_type": "last", "context_length": 16},
    },
}

MakeModel = Callable[..., Path]


def save_model(
    folder: Path, cfg: dict[str, Any], dtype: str, preprocess: dict[str, Any], seed: int
) -> None:
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    arguments = json.loads(json.dumps(cfg))
    kind = open_clip.CustomTextCLIP if arguments.pop("custom_text", False) else open_clip.CLIP
    model = kind(**arguments)
    # Fresh weights barely move what flows past them; make every part count.
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.02 * noise if "embedding" not in name else 0.1 * noise
    precision = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    state = {
        name: (value.to(precision) if value.is_floating_point() else value).contiguous().clone()
        for name, value in model.state_dict().items()
    }
    save_file(state, folder / "open_clip_model.safetensors")
    config = {"model_cfg": cfg, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
