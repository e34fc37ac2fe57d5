"""What both stages keep of themselves: progress, log, checkpoints, schedule."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclasses.dataclass
class Progress:
    """Where a stage is: enough, with the weights, to go on after a kill."""

    step: int = 0
    seconds: float = 0.0
    seen: int = 0  # texts or pictures


class Log:
    """Appends JSON lines to `path` and echoes them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, **facts: Any) -> None:
        line = json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in facts.items()})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)


def save(path: Path, **state: Any) -> None:
    """Writes under a temporary name and renames, so that a kill leaves the last one whole."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def cosine(share: float, warmup: float = 0.03) -> float:
    """Factor of the learning rate at `share` (0 to 1) of a stage."""
    if share < warmup:
        return share / warmup
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (share - warmup) / (1 - warmup)))


def groups(named: list[tuple[str, nn.Parameter]], decay: float) -> list[dict[str, Any]]:
    """AdamW groups: weight decay for matrices alone, not for embeddings, norms, biases."""
    plain = [
        p for n, p in named if p.ndim < 2 or "embedding" in n or n.endswith(("attention", ".slot"))
    ]
    ids = {id(p) for p in plain}
    return [
        {"params": [p for _, p in named if id(p) not in ids], "weight_decay": decay},
        {"params": plain, "weight_decay": 0.0},
    ]
