"""Pictures to the square that a model looks at.

Two ways compute the same geometry. The reference is open_clip's own, by Pillow. The fast one
resizes with torch's 8-bit bicubic kernel, about three times as fast; it differs by rounding only
(mean absolute difference 0.004 of 255 on photographs, cosine of the vectors 1.0000).

Very long, thin pictures take a third way. Resizing the shorter side of a 4000 × 10 picture to 224
makes a row of 89,600 pixels of which 224 are kept, and 100,000 × 1 would need gigabytes; so there
only what is kept is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmsearch.errors import EncodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmsearch.types import Pixels

    Square = NDArray[np.uint8]

#: A picture whose resized form would have more pixels than this many squares is resized in part.
_MAX_SQUARES = 32


@dataclass(frozen=True, slots=True)
class Preprocessor:
    """Makes pictures ready for a model. Thread-safe, and can be sent to another process.

    Called with (height, width, 3) uint8 it returns (3, size, size) uint8, C-contiguous; it raises
    EncodeError for anything else. mode, fill: as open_clip's `resize_mode`, `fill_color`.
    reference: by Pillow, exactly as open_clip does, instead of by torch.
    """

    size: int
    mode: str
    bicubic: bool
    fill: int
    reference: bool

    def __call__(self, pixels: Pixels) -> Square:
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise EncodeError(
                f"a picture must be (height, width, 3) uint8, this is {pixels.shape} {pixels.dtype}"
            )
        size = self.size
        height, width = pixels.shape[:2]
        new_height, new_width = resized(height, width, size, self.mode)
        if self.mode == "shortest" and new_height * new_width > _MAX_SQUARES * size * size:
            return _resize_kept_part(pixels, new_height, new_width, size, self.bicubic)
        resize = _resize_pillow if self.reference else _resize_torch
        picture = resize(pixels, new_height, new_width, self.bicubic)
        if picture.shape[:2] != (size, size):
            picture = _crop_or_pad(picture, size, self.fill)
        return np.ascontiguousarray(picture.transpose(2, 0, 1))


def preprocessor(cfg: Mapping[str, Any], *, reference: bool) -> Preprocessor:
    """The one of a model, by its complete configuration, see `weights.ModelFiles`."""
    return Preprocessor(
        size=int(cfg["size"]),
        mode=str(cfg["resize_mode"]),
        bicubic=cfg["interpolation"] == "bicubic",
        fill=int(cfg["fill_color"]),
        reference=reference,
    )


def resized(height: int, width: int, size: int, mode: str) -> tuple[int, int]:
    """Height and width after the resize and before the crop, rounded as open_clip rounds.

    "shortest": torchvision's Resize(size); "longest": open_clip's ResizeKeepRatio(longest=1), but
    never less than a pixel; "squash": both sides become `size`.
    """
    if mode == "squash":
        return size, size
    if mode == "longest":
        ratio = max(height, width) / size
        return max(round(height / ratio), 1), max(round(width / ratio), 1)
    short, long = sorted((height, width))
    new_long = int(size * long / short)
    return (size, new_long) if height <= width else (new_long, size)


def _resize_pillow(pixels: Pixels, height: int, width: int, bicubic: bool) -> Pixels:
    from PIL import Image

    if pixels.shape[:2] == (height, width):
        return pixels
    method = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize((width, height), method))


def _resize_torch(pixels: Pixels, height: int, width: int, bicubic: bool) -> Pixels:
    import torch

    if pixels.shape[:2] == (height, width):
        return pixels
    if not pixels.flags.writeable or not pixels.flags.c_contiguous:
        pixels = pixels.copy()  # torch warns of read-only memory; nothing here writes to it
    # A (1, 3, H, W) view whose memory is "channels last", for which torch has an 8-bit kernel.
    # That kernel stays in this thread, so that several decoding threads do not get in each
    # other's way.
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    with torch.inference_mode():
        picture = torch.nn.functional.interpolate(
            picture,
            size=(height, width),
            mode="bicubic" if bicubic else "bilinear",
            antialias=True,
        )
    square: Pixels = picture[0].permute(1, 2, 0).numpy()
    return square


def _crop_or_pad(picture: Pixels, size: int, fill: int) -> Pixels:
    """The middle, as open_clip's CenterCrop (never smaller) and CenterCropOrPad do."""
    height, width = picture.shape[:2]
    if height < size or width < size:
        tall, wide = max(size - height, 0), max(size - width, 0)
        picture = np.pad(
            picture,
            ((tall // 2, (tall + 1) // 2), (wide // 2, (wide + 1) // 2), (0, 0)),
            constant_values=fill,
        )
        height, width = picture.shape[:2]
    # round() to even, as there.
    top, left = round((height - size) / 2), round((width - size) / 2)
    return picture[top : top + size, left : left + size]


def _resize_kept_part(pixels: Pixels, height: int, width: int, size: int, bicubic: bool) -> Square:
    """Resize to (height, width) and crop the middle, computing only what the crop keeps.

    Pillow's algorithm: a horizontal and a vertical pass, each with the antialiased kernel, rounded
    to 8 bits in between.
    """
    top, left = round((height - size) / 2), round((width - size) / 2)
    first_row, rows = _kernel(pixels.shape[0], height, top, size, bicubic)
    first_column, columns = _kernel(pixels.shape[1], width, left, size, bicubic)
    part = pixels[
        first_row : first_row + rows.shape[1], first_column : first_column + columns.shape[1]
    ]
    across = _to_bytes(np.einsum("sw,hwc->hsc", columns, part.astype(np.float32), optimize=True))
    down: Square = _to_bytes(
        np.einsum("th,hsc->cts", rows, across.astype(np.float32), optimize=True)
    )
    return np.ascontiguousarray(down)


def _to_bytes(values: NDArray[np.float32]) -> Square:
    rounded: Square = np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)
    return rounded


def _kernel(
    old: int, new: int, first: int, count: int, bicubic: bool
) -> tuple[int, NDArray[np.float32]]:
    """Weights of a resize from `old` to `new` samples for outputs first … first + count - 1.

    Returns the first input needed and a (count, inputs) matrix whose rows sum to 1. Source:
    Pillow's Resample.c, precompute_coeffs (bicubic with a = -0.5).
    """
    scale = old / new
    stretch = max(scale, 1.0)
    support = (2.0 if bicubic else 1.0) * stretch
    centre = (np.arange(first, first + count) + 0.5) * scale
    low = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    high = np.minimum((centre + support + 0.5).astype(np.int64), old)
    begin, end = int(low.min()), int(high.max())
    inputs = np.arange(begin, end)
    x = np.abs((inputs[None, :] - centre[:, None] + 0.5) / stretch)
    if bicubic:
        near = (1.5 * x - 2.5) * x * x + 1.0
        far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
        weights = np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
    else:
        weights = np.maximum(1.0 - x, 0.0)
    weights[(inputs[None, :] < low[:, None]) | (inputs[None, :] >= high[:, None])] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    return begin, weights.astype(np.float32)
