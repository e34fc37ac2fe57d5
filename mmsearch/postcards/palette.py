"""The ten named colours and their shades.

The named colours are the vocabulary of the captions, so their jitter is kept small enough that
neighbours (red, orange and brown; pink and purple) never meet, under any sky.
"""

from __future__ import annotations

import colorsys
import random
from dataclasses import dataclass

RGB = tuple[int, int, int]
Light = tuple[float, float, float]

NAMED: dict[str, RGB] = {
    "red": (216, 38, 42),
    "orange": (246, 138, 24),
    "yellow": (252, 214, 40),
    "green": (50, 160, 70),
    "blue": (40, 104, 216),
    "purple": (132, 62, 186),
    "pink": (248, 136, 188),
    "white": (247, 247, 243),
    "black": (40, 40, 46),
    "brown": (144, 86, 46),
}

#: what shade turns them into: darker orange and red must not drift into brown
_SHADED: dict[str, RGB] = {
    "red": (176, 16, 44),
    "orange": (224, 96, 8),
    "yellow": (232, 178, 16),
    "brown": (112, 62, 30),
}

SLATE: RGB = (92, 88, 98)
INK: RGB = (44, 42, 50)
WOOD: RGB = (134, 92, 56)
GLASS: RGB = (190, 224, 240)
CREAM: RGB = (248, 240, 220)
GOLD: RGB = (255, 216, 92)


@dataclass(frozen=True, slots=True)
class Tones:
    """One colour in its shades: the lit side, the shaded side, and an outline that stands out.

    `trim` is a quiet neutral that contrasts with `base` (roofs, straps, chassis).
    """

    name: str
    base: RGB
    light: RGB
    dark: RGB
    ink: RGB
    trim: RGB


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """`a` with `share` (0..1) of `b`."""
    return (
        int(a[0] + (b[0] - a[0]) * share),
        int(a[1] + (b[1] - a[1]) * share),
        int(a[2] + (b[2] - a[2]) * share),
    )


def lit(colour: RGB, light: Light) -> RGB:
    """`colour` under a light, one factor a channel."""
    return (
        min(255, int(colour[0] * light[0])),
        min(255, int(colour[1] * light[1])),
        min(255, int(colour[2] * light[2])),
    )


def shade(colour: RGB, factor: float) -> RGB:
    """`colour` made darker (factor < 1) or lighter (factor > 1, clipped)."""
    return lit(colour, (factor, factor, factor))


def jittered(colour: RGB, rng: random.Random, hue: float = 0.012, value: float = 0.06) -> RGB:
    """`colour` with a little of hue (in turns) and of lightness changed."""
    h, lightness, s = colorsys.rgb_to_hls(colour[0] / 255, colour[1] / 255, colour[2] / 255)
    lightness = min(1.0, max(0.0, lightness * (1 + rng.uniform(-value, value))))
    r, g, b = colorsys.hls_to_rgb((h + rng.uniform(-hue, hue)) % 1.0, lightness, s)
    return (int(r * 255), int(g * 255), int(b * 255))


def tones(name: str, rng: random.Random, light: Light) -> Tones:
    """The shades of a named colour under a light.

    White gets a slate outline and black a pale one, so that neither is lost against snow or night.
    """
    return tones_of(name, lit(jittered(NAMED[name], rng), light))


def tones_of(name: str, base: RGB) -> Tones:
    """The shades of any colour; `name` decides how its outline contrasts."""
    if name == "white":
        return Tones(name, base, (255, 255, 255), shade(base, 0.87), (88, 92, 106), (130, 134, 144))
    if name == "black":
        return Tones(
            name,
            base,
            mix(base, (150, 154, 168), 0.3),
            (22, 22, 26),
            (206, 208, 216),
            (150, 152, 160),
        )
    dark = mix(base, _SHADED[name], 0.6) if name in _SHADED else shade(base, 0.82)
    return Tones(name, base, mix(base, (255, 255, 255), 0.26), dark, shade(base, 0.42), SLATE)
