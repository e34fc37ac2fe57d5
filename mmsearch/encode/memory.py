"""Memory of GPUs, as far as torch runs on them already."""

from __future__ import annotations

import sys
from collections.abc import Mapping


def gpu_memory() -> dict[str, Mapping[str, int]]:
    """Bytes by state (total, free, allocated, reserved) for each CUDA device, "cuda:0" and on.

    Empty where torch is not loaded, or has not touched a GPU: asking would take memory there.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    found: dict[str, Mapping[str, int]] = {}
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        found[f"cuda:{number}"] = {
            "total": total,
            "free": free,
            "allocated": torch.cuda.memory_allocated(number),
            "reserved": torch.cuda.memory_reserved(number),
        }
    return found
