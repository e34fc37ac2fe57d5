"""The nine skies, and what falls from them; the land below is in `lands`.

Everything here draws from the backdrop's own random stream, so the same scene without its things
has the same backdrop. The one exception is `free_x`: sun, moon and lightning keep to a third of the
picture where no thing of the scene flies, so that none of them is hidden.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mmsearch.postcards.palette import RGB, Light, jittered, lit, mix

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Sky:
    """A sky's gradient (top, middle, horizon) and the light it casts on the land and on things."""

    stops: tuple[RGB, RGB, RGB]
    land: Light
    things: Light


_DAY: Light = (1.0, 1.0, 1.0)

#: Things are dimmed far less than the land: their colour must stay nameable.
SKY_LOOKS: dict[str, Sky] = {
    "clear": Sky(((52, 132, 222), (112, 180, 240), (190, 226, 248)), _DAY, _DAY),
    "cloudy": Sky(
        ((150, 164, 182), (178, 190, 204), (212, 220, 228)), (0.9, 0.92, 0.95), (0.98,) * 3
    ),
    "sunset": Sky(
        ((84, 62, 140), (232, 104, 96), (255, 198, 104)), (0.96, 0.8, 0.74), (1.0, 0.96, 0.94)
    ),
    "stars": Sky(((8, 12, 44), (20, 28, 76), (52, 62, 124)), (0.42, 0.47, 0.66), (0.95, 0.96, 1.0)),
    "moon": Sky(((18, 30, 78), (42, 62, 122), (98, 118, 172)), (0.54, 0.6, 0.8), (0.95, 0.96, 1.0)),
    "storm": Sky(
        ((40, 42, 58), (68, 70, 88), (116, 118, 132)), (0.6, 0.63, 0.7), (0.95, 0.95, 0.98)
    ),
    "rainbow": Sky(((104, 168, 226), (158, 204, 238), (226, 238, 244)), _DAY, _DAY),
    "snowfall": Sky(((158, 176, 202), (190, 204, 222), (226, 232, 240)), (0.92, 0.95, 1.0), _DAY),
    "rain": Sky(
        ((84, 104, 130), (120, 138, 158), (168, 182, 194)), (0.72, 0.78, 0.83), (0.97, 0.98, 1.0)
    ),
}


class Canvas:
    """The whole picture in unit coordinates, y down; every colour is dimmed by the land's light."""

    __slots__ = ("draw", "image", "light", "side")

    def __init__(self, image: Image.Image, light: Light = _DAY) -> None:
        self.image = image
        self.draw = ImageDraw.Draw(image)
        self.side = image.width
        self.light = light

    def poly(self, colour: RGB, points: list[Point]) -> None:
        s = self.side
        self.draw.polygon([(x * s, y * s) for x, y in points], lit(colour, self.light))

    def rect(self, colour: RGB, x0: float, y0: float, x1: float, y1: float) -> None:
        s = self.side
        self.draw.rectangle(
            (x0 * s, y0 * s, max(x0, x1) * s, max(y0, y1) * s), lit(colour, self.light)
        )

    def oval(self, colour: RGB, cx: float, cy: float, rx: float, ry: float) -> None:
        s = self.side
        box = ((cx - rx) * s, (cy - ry) * s, (cx + rx) * s, (cy + ry) * s)
        self.draw.ellipse(box, lit(colour, self.light))

    def line(self, colour: RGB, width: float, points: list[Point]) -> None:
        s = self.side
        self.draw.line(
            [(x * s, y * s) for x, y in points], lit(colour, self.light), max(1, round(width * s))
        )


def gradient(side: int, stops: list[tuple[float, RGB]]) -> Image.Image:
    """A vertical gradient, side x side; stops are (y in 0..1, colour), y ascending."""
    ys = [y for y, _ in stops]
    at = (np.arange(side, dtype=np.float32) + 0.5) / side
    column = np.stack([np.interp(at, ys, [c[k] for _, c in stops]) for k in range(3)], axis=-1)
    pixels: NDArray[np.uint8] = np.repeat(column.astype(np.uint8)[:, None, :], side, axis=1)
    return Image.fromarray(pixels)


def sky_stops(name: str, rng: random.Random, horizon: float) -> list[tuple[float, RGB]]:
    """The stops of a sky's gradient down to the horizon, varied a little."""
    top, middle, low = (jittered(c, rng, 0.02, 0.08) for c in SKY_LOOKS[name].stops)
    return [(0.0, top), (horizon * rng.uniform(0.45, 0.65), middle), (horizon, low)]


def _cloud(
    c: Canvas, rng: random.Random, x: float, y: float, w: float, colour: RGB, under: RGB
) -> None:
    """Puffs on a flat base, `w` wide, with a shaded underside."""
    puffs = []
    n = rng.randint(3, 5)
    for i in range(n):
        f = (i + 0.5) / n - 0.5
        r = w * (0.24 - 0.22 * abs(f)) * rng.uniform(0.85, 1.15)
        puffs.append((x + f * w * 0.8, y - r * 0.35, r))
    for px, py, r in puffs:
        c.oval(under, px, py + 0.012, r * 1.05, r * 0.8)
    for px, py, r in puffs:
        c.oval(colour, px, py - r * 0.12, r, r * 0.72)


def paint_sky(c: Canvas, name: str, rng: random.Random, horizon: float, free_x: float) -> None:
    """What the sky holds above the gradient: sun, clouds, stars, moon, lightning, a rainbow."""
    x = min(0.93, max(0.07, free_x + rng.uniform(-0.08, 0.08)))
    y = rng.uniform(0.1, 0.18)
    if name == "clear":
        _sun(c, x, y, rng.uniform(0.055, 0.07))
    elif name == "cloudy":
        for i in range(9):
            tone = rng.randint(-10, 8)
            white = (236 + tone, 239 + tone, 243 + tone)
            cx = (i * 0.37 + rng.uniform(0, 0.2)) % 1.1 - 0.05
            _cloud(
                c,
                rng,
                cx,
                rng.uniform(0.04, horizon - 0.1),
                rng.uniform(0.26, 0.46),
                white,
                (172, 182, 196),
            )
    elif name == "sunset":
        _sunset(c, rng, horizon, free_x)
    elif name == "stars":
        _stars(c, rng, 90, horizon)
    elif name == "moon":
        _stars(c, rng, 16, horizon)
        _moon(c, rng, x, y + 0.02)
    elif name == "storm":
        for i in range(8):
            tone = rng.randint(-8, 10)
            cx = (i * 0.37 + rng.uniform(0, 0.2)) % 1.1 - 0.05
            _cloud(
                c,
                rng,
                cx,
                rng.uniform(0.0, 0.22),
                rng.uniform(0.34, 0.5),
                (72 + tone, 74 + tone, 92 + tone),
                (44, 46, 60),
            )
        _lightning(c, rng, x, horizon)
    elif name == "rainbow":
        _rainbow(c, rng, horizon)
    elif name in ("rain", "snowfall"):
        base: RGB = (116, 132, 152) if name == "rain" else (206, 216, 230)
        under = mix(base, (60, 72, 96), 0.3)
        for i in range(5):
            cx = (i * 0.37 + rng.uniform(0, 0.2)) % 1.1 - 0.05
            _cloud(c, rng, cx, rng.uniform(-0.02, 0.08), rng.uniform(0.36, 0.5), base, under)


def _pixel(c: Canvas, x: float, y: float) -> RGB:
    value = c.image.getpixel((min(c.side - 1, int(x * c.side)), min(c.side - 1, int(y * c.side))))
    assert isinstance(value, tuple)
    return (int(value[0]), int(value[1]), int(value[2]))


def _sun(c: Canvas, x: float, y: float, r: float) -> None:
    pale = _pixel(c, x, y)
    for k, share in ((1.75, 0.18), (1.45, 0.4), (1.2, 0.7)):
        c.oval(mix(pale, (255, 244, 190), share), x, y, r * k, r * k)
    c.oval((255, 232, 110), x, y, r, r)


def _sunset(c: Canvas, rng: random.Random, horizon: float, x: float) -> None:
    x = min(0.9, max(0.1, x + rng.uniform(-0.1, 0.1)))
    r = rng.uniform(0.075, 0.1)
    y = horizon - r * rng.uniform(0.2, 0.7)
    for k, share in ((2.3, 0.3), (1.7, 0.55), (1.3, 0.8)):
        c.oval(mix((250, 150, 96), (255, 226, 130), share), x, y, r * k, r * k)
    c.oval((255, 240, 170), x, y, r, r)
    for _ in range(rng.randint(3, 6)):
        cy = rng.uniform(0.05, horizon * 0.75)
        cx, w = rng.uniform(0, 1), rng.uniform(0.12, 0.3)
        tone = rng.choice(((150, 80, 140), (226, 116, 124), (250, 150, 120)))
        c.poly(
            tone,
            [
                (cx - w, cy),
                (cx - w * 0.4, cy - 0.012),
                (cx + w * 0.5, cy - 0.01),
                (cx + w, cy + 0.004),
                (cx + w * 0.2, cy + 0.012),
            ],
        )


def _stars(c: Canvas, rng: random.Random, n: int, horizon: float) -> None:
    for _ in range(n):
        x, y = rng.random(), rng.random() * horizon
        r = rng.choice((0.003, 0.004, 0.006))
        tone = rng.choice(((255, 255, 246), (214, 226, 255), (255, 240, 206)))
        if r > 0.005:
            c.line(tone, 0.003, [(x - 0.012, y), (x + 0.012, y)])
            c.line(tone, 0.003, [(x, y - 0.012), (x, y + 0.012)])
        c.oval(tone, x, y, r, r)


def _moon(c: Canvas, rng: random.Random, x: float, y: float) -> None:
    r = rng.uniform(0.065, 0.085)
    night = _pixel(c, x, y)
    pale: RGB = (250, 246, 222)
    for k, share in ((1.6, 0.08), (1.3, 0.17)):
        c.oval(mix(night, pale, share), x, y, r * k, r * k)
    if rng.random() < 0.5:
        side = rng.choice((-1, 1))
        outer = [(x + r * math.cos(a * 0.26), y + r * math.sin(a * 0.26)) for a in range(-6, 7)]
        inner = [
            (x + r * 0.45 * math.cos(a * 0.26), y + r * math.sin(a * 0.26))
            for a in range(6, -7, -1)
        ]
        c.poly(pale, [(x + side * (px - x), py) for px, py in outer + inner])
    else:
        c.oval(pale, x, y, r, r)
        for fx, fy, fr in (
            (-0.35, -0.2, 0.22),
            (0.3, 0.25, 0.26),
            (0.2, -0.45, 0.14),
            (-0.2, 0.45, 0.16),
        ):
            c.oval((222, 216, 190), x + fx * r, y + fy * r, fr * r, fr * r)


def _lightning(c: Canvas, rng: random.Random, x: float, horizon: float) -> None:
    for k in range(rng.randint(1, 2)):
        px, py = x + 0.09 * k, 0.14
        points = [(px, py)]
        while py < horizon - 0.02:
            py += rng.uniform(0.05, 0.09)
            px += rng.choice((-1, 1)) * rng.uniform(0.015, 0.04)
            points.append((px, min(py, horizon)))
        c.line((176, 160, 232), 0.02, points)
        c.line((255, 250, 206), 0.009, points)


def _rainbow(c: Canvas, rng: random.Random, horizon: float) -> None:
    s = c.side
    cx, cy = rng.uniform(0.35, 0.65), horizon + rng.uniform(0.0, 0.06)
    outer = rng.uniform(0.44, 0.5)
    thick = rng.uniform(0.018, 0.024)
    bands: tuple[RGB, ...] = (
        (240, 92, 92),
        (250, 164, 80),
        (252, 228, 108),
        (120, 206, 128),
        (104, 168, 240),
        (168, 124, 220),
    )
    for i, colour in enumerate(bands):
        r = outer - i * thick
        box = ((cx - r) * s, (cy - r * 0.92) * s, (cx + r) * s, (cy + r * 0.92) * s)
        c.draw.arc(box, 180, 360, lit(colour, c.light), math.ceil(thick * s) + 1)
    for x in (cx - outer, cx + outer):
        _cloud(c, rng, x, horizon - rng.uniform(0.04, 0.14), 0.26, (250, 252, 254), (214, 224, 236))


def paint_fall(c: Canvas, name: str, rng: random.Random) -> None:
    """Rain or snow over everything, thin enough to see all things through it."""
    if name == "rain":
        slant = rng.uniform(-0.02, 0.03)
        for _ in range(70):
            x, y = rng.uniform(-0.02, 1.02), rng.uniform(-0.05, 1.0)
            length = rng.uniform(0.03, 0.06)
            c.line((206, 220, 234), 0.003, [(x, y), (x + slant, y + length)])
    elif name == "snowfall":
        for _ in range(80):
            r = rng.choice((0.004, 0.006, 0.008))
            c.oval((255, 255, 255), rng.random(), rng.random(), r, r)
