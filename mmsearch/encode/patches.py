"""The first layer of a vision transformer as one matrix product over whole pictures of bytes.

cuDNN computes a convolution whose steps are as wide as its kernel without tensor cores: on an H100
that took a quarter of ViT-B-32. Its patches do not overlap, so that it is a product of the patches,
laid out as rows, with the kernels. The product takes the bytes, less a whole number near the mean:
both half precisions hold those exactly. The normalisation (x / 255 - mean) / std is in its weights:

    w · ((x / 255 - mean) / std) + b  =  w / (255 std) · (x - c)  +  b + w · (c / 255 - mean) / std
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

#: The weights would be too small for fp16's normal range without it; a power of two is exact.
_SCALE = 64.0


class Patches(nn.Module):
    """In place of the convolution: pictures (n, 3, S, S) uint8, not normalised, to features
    (n, width, S / patch, S / patch)."""

    def __init__(self, conv: nn.Conv2d, mean: torch.Tensor, std: torch.Tensor) -> None:
        """conv: that layer, in any precision, best in its weights' own. mean, std: (1, 3, 1, 1)."""
        super().__init__()
        kernels = conv.weight.detach().double()
        mean, std = mean.double(), std.double()
        centre = (mean * 255).round()
        bias = (kernels * ((centre / 255 - mean) / std)).sum(dim=(1, 2, 3))
        if conv.bias is not None:
            bias += conv.bias.detach().double()
        width, _, self._patch, _ = kernels.shape
        weights = (kernels * (_SCALE / 255 / std)).reshape(width, -1)
        self.weight = nn.Parameter(weights.float(), requires_grad=False)
        self.bias = nn.Parameter(bias.float(), requires_grad=False)
        self.centre = nn.Parameter(centre.float().view(1, 1, 1, 3, 1, 1), requires_grad=False)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        n, colours, side, _ = batch.shape
        patch, grid = self._patch, side // self._patch
        tiles = batch.view(n, colours, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
        rows = torch.empty(tiles.shape, dtype=self.weight.dtype, device=batch.device)
        torch.sub(tiles, self.centre, out=rows)
        found = torch.addmm(
            self.bias, rows.view(n * grid * grid, -1), self.weight.t(), alpha=1 / _SCALE
        )
        return found.view(n, grid, grid, -1).permute(0, 3, 1, 2)


def into_patches(model: Any, side: int, mean: torch.Tensor, std: torch.Tensor) -> bool:
    """Puts `Patches` in the place of a vision transformer's first layer; whether there is such.

    Before the model is put into another precision. side: the pictures' width in pixels.
    """
    for holder in model.visual.modules():
        for name in ("conv1", "proj"):  # open_clip's own transformers, and timm's
            conv = getattr(holder, name, None)
            if isinstance(conv, nn.Conv2d) and _is_patches(conv, side):
                setattr(holder, name, Patches(conv, mean, std))
                return True
    return False


def _is_patches(conv: nn.Conv2d, side: int) -> bool:
    return (
        conv.in_channels == 3
        and conv.kernel_size == conv.stride
        and conv.kernel_size[0] == conv.kernel_size[1]
        and side % conv.kernel_size[0] == 0
        and conv.padding in ((0, 0), "valid")
        and conv.dilation == (1, 1)
        and conv.groups == 1
    )
