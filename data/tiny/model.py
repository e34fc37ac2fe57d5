"""The architecture of `tiny`, the slot head that helps it learn, and the contrastive loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lessons import CONTEXT_LENGTH, TRUE_TEXTS
from relevance import BACKDROP_DIM
from torch import Tensor, nn
from torch.nn import functional

IMAGE_SIZE = 128
EMBED_DIM = 256
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
MODEL_CFG: dict[str, Any] = {
    "embed_dim": EMBED_DIM,
    "vision_cfg": {
        "image_size": IMAGE_SIZE,
        "layers": [1, 2, 2, 3],
        "width": 24,
        "head_width": 32,
        "patch_size": None,
    },
    "text_cfg": {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": 49408,
        "width": 128,
        "heads": 4,
        "layers": 3,
    },
}
PREPROCESS_CFG: dict[str, Any] = {
    "size": IMAGE_SIZE,
    "mean": MEAN,
    "std": STD,
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


class SlotHead(nn.Module):
    """Reads the groups off the picture tower's last map; helps training and is dropped after it.

    A group's slot is its layer (sky or below) and its place: 6 slots, each with the logits of its
    kind (or none), colour, count and size; and the logits of sky and land.
    """

    def __init__(self, channels: int, cells: int, kinds: int, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.Parameter(torch.randn(6, heads, cells) * 0.5)
        self.slot = nn.Parameter(torch.randn(6, channels) * 0.02)
        self.mix = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, channels), nn.GELU())
        self.out = nn.Linear(channels, kinds + 1 + 11 + 4 + 2)
        self.backdrop = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, BACKDROP_DIM))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(n, channels, h, w) → (n, 6, kinds + 18) and (n, BACKDROP_DIM), logits."""
        n, c = features.shape[:2]
        x = features.float().flatten(2).reshape(n, self.heads, c // self.heads, -1)
        pooled = torch.einsum("nhcl,shl->nshc", x, self.attention.softmax(-1)).reshape(n, 6, c)
        return self.out(self.mix(pooled + self.slot)), self.backdrop(x.mean(-1).reshape(n, c))


def encode_texts(clip: Any, tokens: np.ndarray, device: str, chunk: int = 512) -> Tensor:
    """(m, 77) token ids → (m, EMBED_DIM) unit norm, as `clip.encode_text` but without the padding:
    rows are sorted by length and each chunk is cut to its longest."""
    lengths = (tokens != 0).sum(1)
    # One lookup in the table of 49,408 rows, not one a chunk: its dense gradient costs 25 MB each.
    seen, local = np.unique(tokens, return_inverse=True)
    local = local.reshape(tokens.shape)
    table = clip.token_embedding(torch.from_numpy(seen.astype(np.int64)).to(device))
    ends = torch.from_numpy(lengths - 1).to(device)
    order = np.argsort(lengths, kind="stable")
    outs = []
    for start in range(0, len(order), chunk):
        rows = order[start : start + chunk]
        # Few different lengths: every new shape costs the CPU library a compilation.
        longest = min(tokens.shape[1], -(-int(lengths[rows[-1]]) // 8) * 8)
        ids = torch.from_numpy(local[rows, :longest]).to(device)
        x = functional.embedding(ids, table) + clip.positional_embedding[:longest]
        x = clip.transformer(x, attn_mask=clip.attn_mask[:longest, :longest])
        x = clip.ln_final(x[torch.arange(len(ids)), ends[rows]])  # at the end-of-text token
        outs.append(x @ clip.text_projection)
    back = torch.from_numpy(np.argsort(order, kind="stable")).to(device)
    return functional.normalize(torch.cat(outs).float()[back], dim=-1)


def contrast(logits: Tensor, right: Tensor) -> Tensor:
    """Mean over the true pairs of a row of −log p(true against all false ones of the row).

    True ones do not compete with one another. (m, n) logits, (m, n) bool → scalar; rows without a
    true or without a false entry do not count.
    """
    false = torch.logsumexp(logits.masked_fill(right, -torch.inf), dim=1, keepdim=True)
    each = functional.softplus(false - logits) * right
    count = right.sum(1)
    rows = (count > 0) & (count < right.shape[1])
    return (each.sum(1)[rows] / count[rows]).mean()


def twin_loss(logits: Tensor, right: Tensor) -> Tensor:
    """How surely each scene prefers its true captions to their almost-true twins.

    logits, right (n·2·TRUE_TEXTS, n and more): rows as in `Lesson` → scalar.
    """
    scenes = len(logits) // (2 * TRUE_TEXTS)
    own = torch.arange(len(logits), device=logits.device) // (2 * TRUE_TEXTS)
    rows = torch.arange(len(logits), device=logits.device)
    score = logits[rows, own].reshape(scenes, 2, TRUE_TEXTS)
    false = ~right[rows, own].reshape(scenes, 2, TRUE_TEXTS)[:, 1]
    return functional.softplus(score[:, 1] - score[:, 0])[false].mean()
