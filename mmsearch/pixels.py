"""A loaded picture of Pillow's, whatever its mode, as upright RGB of eight bits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmsearch.types import Pixels

_BAND_PIXELS = 1 << 20


def to_rgb(image: Image.Image) -> Pixels:
    """A loaded picture of any mode as (height, width, 3) uint8, alpha composed on white.

    Band by band: what a conversion needs besides is a few MB, whatever the size of the picture.
    """
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    mode = image.mode
    rows = max(1, _BAND_PIXELS // width)
    bands = [(top, min(top + rows, height)) for top in range(0, height, rows)]
    if mode == "I" or mode == "F" or mode.startswith("I;"):
        scale = None if mode.startswith("I;16") else _range(_band(image, *at) for at in bands)
        for top, bottom in bands:
            values = np.asarray(_band(image, top, bottom))
            pixels[top:bottom] = _eight_bits(values, mode, scale)[:, :, None]
        return pixels
    see_through = mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if mode == "RGBA" and image.format == "BMP":
        # Programs that know no alpha leave it at 0 all over.
        see_through = any(_band(image, *at).getchannel("A").getbbox() for at in bands)
    for top, bottom in bands:
        band = _band(image, top, bottom)
        if see_through:
            band = _on_white(band)
        pixels[top:bottom] = np.asarray(band if band.mode == "RGB" else band.convert("RGB"))
    return pixels


def _band(image: Image.Image, top: int, bottom: int) -> Image.Image:
    return image.crop((0, top, image.width, bottom))


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBa", "La"):
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _range(bands: Iterable[Image.Image]) -> tuple[float, float]:
    """The least and the greatest value of a picture; what is no number counts as 0."""
    low, high = math.inf, -math.inf
    for band in bands:
        values = _numbers(np.asarray(band))
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, high


def _numbers(values: NDArray[np.generic]) -> NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _eight_bits(
    values: NDArray[np.generic], mode: str, scale: tuple[float, float] | None
) -> NDArray[np.uint8]:
    """Grey values of 16 or 32 bits, or floating point, as 0 to 255.

    16 bits divide by 257. Wider modes carry no scale: within 0..1 (floating point), 0..255 and
    0..65535 they are taken to mean that, and are stretched from least to greatest otherwise.
    scale: the least and the greatest value of the whole picture, None for 16 bits.
    """
    if scale is None:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    wide, (low, high) = _numbers(values), scale
    if low < 0 or high > 65535:
        wide = (wide - low) * (255 / (high - low)) if high > low else np.zeros_like(wide)
    elif mode == "F" and high <= 1:
        wide = wide * 255
    elif high > 255:
        wide = wide / 257
    return np.rint(wide).astype(np.uint8)


def upright(pixels: Pixels, turn: int) -> Pixels:
    """Undo an EXIF orientation, 1 to 8 (EXIF 2.32, tag 0x0112)."""
    if turn in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
