"""Which device and precision a model runs in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mmsearch.encode.lean import is_made_by
from mmsearch.errors import EncodeError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The torch device of that name; "auto" is CUDA, else Apple's MPS, else the CPU.

    Raises EncodeError when this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available():
            name = "mps"
        else:
            name = "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise EncodeError(f"there is no kind of device named {name!r}: cuda, mps or cpu") from exc
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise EncodeError(
                f"device {name} was asked for, but torch {torch.__version__} sees {count} CUDA "
                "devices here; --device auto takes what there is"
            )
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise EncodeError("device mps was asked for, but is not available; use --device auto")
    if device.type not in ("cpu", "mps"):
        raise EncodeError(f"device {name!r} is not supported: cuda, mps or cpu")
    return device


def describe_device(device: torch.device) -> str:
    """For people: "cuda:0 (NVIDIA H200)", "mps", "cpu"."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return device.type


def choose_dtype(name: str, device: torch.device, model: Any) -> str:
    """One of `DTYPES` for this model there. Raises EncodeError for an unknown name.

    On a CPU with bf16 units "auto" is bf16 for every kind of image tower. Measured, images/s at
    112 × 112, batch 16, one Zen 4 core, torch 2.15, `channels` = channels_last:

        tower                    fp32   fp32 channels   bf16   bf16 channels
        mobilenetv4_conv_small    630             743    986            1414
        resnet18                  141             192    253             365
        convnext_atto             501             513    622             632
        fastvit_t8                167             216    208             359
        vit_tiny_patch16          159             158    438             446

    Always `.to(bfloat16)`: autocast is slower than fp32 there.
    """
    if name in DTYPES:
        return name
    if name != "auto":
        raise EncodeError(f"there is no dtype {name!r}: auto, {', '.join(DTYPES)}")
    if device.type == "cuda":
        return _on_cuda(device, model)
    return "bf16" if device.type == "cpu" and has_bf16_units() else "fp32"


def _on_cuda(device: torch.device, model: Any) -> str:
    # The classic CLIP towers were trained and published for fp16, the more exact of the two.
    # SigLIP and others were trained in bf16 and may leave the range of fp16.
    if is_made_by(model, "model.CLIP") or torch.cuda.get_device_capability(device) < (8, 0):
        return "fp16"
    return "bf16"


def has_bf16_units() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; without, bf16 is slower than fp32."""
    return _has("avx512_bf16") or _has("amx_bf16")


def prefers_products() -> bool:
    """Whether attention in bfloat16 is quicker by `attention.by_products`: with AVX-512's, but not
    with AMX, for which torch's own is written. Without either it would be 40 to 100 times slower.
    """
    return _has("avx512_bf16") and not _has("amx_bf16")


def _has(ability: str) -> bool:
    """Whether this CPU has what Linux lists by this name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        ask = getattr(torch.cpu, "get_capabilities", None)
        return bool(ask is not None and ask().get(ability))
    return ability in next((line for line in lines if line.startswith("flags")), "").split()
