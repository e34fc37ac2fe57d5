"""The last block of a transformer for the one token that becomes the vector.

All other tokens of that block are thrown away by CLIP's towers: they take the class token of a
picture, the end token of a text. The attention still looks at all of them. Of twelve blocks that
saves a fifteenth of the work, with the same result but for the order of sums.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mmsearch.encode.attention import Attention
from mmsearch.encode.lean import is_made_by


class FirstToken(nn.Module):
    """In place of a block: (n, tokens, width) to what becomes of the first one (n, 1, width)."""

    def __init__(self, block: Any) -> None:
        """block: with our `Attention`."""
        super().__init__()
        self.block = block
        block.attn.split()

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None) -> torch.Tensor:
        return one_token(self.block, x, x[:, :1], attn_mask)


def one_token(
    block: Any, x: torch.Tensor, token: torch.Tensor, attn_mask: torch.Tensor | None
) -> torch.Tensor:
    """What an open_clip block makes of one token of each row, (n, 1, width), among all of its row,
    x (n, tokens, width). attn_mask: as our `Attention` takes it, which the block has, split."""
    seen = block.ln_1(x)
    asking = block.ln_1(token)
    attended = block.attn(asking, seen, seen, need_weights=False, attn_mask=attn_mask)[0]
    token = token + block.ls_1(attended)
    found: torch.Tensor = token + block.ls_2(block.mlp(block.ln_2(token)))
    return found


def is_plain(transformer: Any) -> bool:
    """Whether these are open_clip's usual blocks, in the order that `one_token` knows."""
    return (
        is_made_by(transformer, "transformer.Transformer")
        and transformer.batch_first
        and len(transformer.resblocks) > 0
        and all(
            is_made_by(block, "transformer.ResidualAttentionBlock")
            and not hasattr(block, "ln_1_kv")
            and (isinstance(block.attn, Attention) or block.attn.in_proj_bias is not None)
            for block in transformer.resblocks
        )
    )


def pools_first_token(model: Any) -> bool:
    """Has the last block of the image tower, which has our `Attention`, compute the class token
    alone, where that is what the tower takes; whether it is."""
    visual = model.visual
    if (
        not is_made_by(visual, "transformer.VisionTransformer")
        or visual.attn_pool is not None
        or visual.pool_type != "tok"
        or visual.output_tokens
        or not is_plain(visual.transformer)
    ):
        return False
    blocks = visual.transformer.resblocks
    blocks[-1] = FirstToken(blocks[-1])
    return True
