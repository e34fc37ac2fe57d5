"""The ten lands. Each fills the picture below the horizon, and nothing on them can be counted."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from mmsearch.postcards.backdrop import Canvas, Point
from mmsearch.postcards.palette import RGB, jittered, mix, shade

#: land → range of heights (y down, 0..1) of its horizon
HORIZONS: dict[str, tuple[float, float]] = {
    "sea": (0.44, 0.5),
    "beach": (0.42, 0.46),
    "lake": (0.44, 0.47),
    "desert": (0.5, 0.56),
    "meadow": (0.5, 0.58),
    "forest": (0.54, 0.6),
    "mountains": (0.54, 0.6),
    "city": (0.54, 0.6),
    "farmland": (0.48, 0.54),
    "snowfield": (0.5, 0.58),
}

#: land → (far, near) colours of the ground below the horizon
_GROUNDS: dict[str, tuple[RGB, RGB]] = {
    "sea": ((64, 140, 196), (18, 78, 140)),
    "beach": ((44, 138, 196), (92, 196, 206)),
    "lake": ((112, 166, 92), (110, 168, 72)),
    "desert": ((236, 190, 122), (222, 160, 88)),
    "meadow": ((150, 204, 104), (96, 170, 66)),
    "forest": ((70, 110, 62), (88, 104, 56)),
    "mountains": ((134, 152, 112), (112, 132, 92)),
    "city": ((150, 152, 158), (118, 120, 128)),
    "farmland": ((204, 190, 104), (176, 160, 78)),
    "snowfield": ((222, 232, 246), (246, 249, 254)),
}


def ground_stops(land: str, rng: random.Random, horizon: float) -> list[tuple[float, RGB]]:
    """The stops of the ground's gradient from the horizon to the lower edge."""
    far, near = (jittered(c, rng, 0.018, 0.07) for c in _GROUNDS[land])
    return [(horizon + 0.001, far), (1.0, near)]


def _ridge(
    rng: random.Random, y: float, height: float, waves: float, steps: int = 22
) -> list[Point]:
    """A soft hill line across the picture, closed below."""
    a, b = rng.uniform(0, 6.3), rng.uniform(0, 6.3)
    line = [
        (
            i / steps,
            y
            - height
            * (
                0.5
                + 0.32 * math.sin(a + waves * 6.3 * i / steps)
                + 0.18 * math.sin(b + waves * 14 * i / steps)
            ),
        )
        for i in range(steps + 1)
    ]
    return [*line, (1.0, 1.0), (0.0, 1.0)]


def _waves(
    c: Canvas, rng: random.Random, n: int, y0: float, y1: float, colours: tuple[RGB, ...]
) -> None:
    for _ in range(n):
        f = rng.random()
        x, y, w = rng.uniform(-0.05, 1.0), y0 + (y1 - y0) * f, 0.03 + 0.06 * f
        c.line(
            rng.choice(colours), 0.004 + 0.003 * f, [(x, y), (x + w * 0.5, y - 0.006), (x + w, y)]
        )


def _sea(c: Canvas, rng: random.Random, h: float) -> None:
    _waves(c, rng, 44, h + 0.02, 0.98, ((120, 186, 224), (176, 218, 238), (30, 96, 158)))


def _beach(c: Canvas, rng: random.Random, h: float) -> None:
    _waves(c, rng, 20, h + 0.02, 0.74, ((140, 208, 226), (208, 238, 242)))
    sand = jittered((244, 218, 160), rng, 0.012, 0.03)
    a = rng.uniform(0, 6.3)

    def shore(lift: float) -> list[Point]:
        line = [
            (
                i / 20,
                0.792 - lift + 0.012 * math.sin(a + i * 0.7) + 0.006 * math.sin(2 * a + i * 1.7),
            )
            for i in range(21)
        ]
        return [*line, (1.0, 1.0), (0.0, 1.0)]

    c.poly((250, 253, 252), shore(0.018))
    c.poly(shade(sand, 0.86), shore(0.002))
    c.poly(sand, shore(-0.018))
    for _ in range(40):
        c.oval(
            shade(sand, rng.choice((0.85, 0.92, 1.05))),
            rng.random(),
            rng.uniform(0.86, 1),
            0.004,
            0.003,
        )


def _lake(c: Canvas, rng: random.Random, h: float) -> None:
    c.poly(jittered((120, 158, 150), rng), _ridge(rng, h + 0.01, 0.12, 0.8))
    c.poly(jittered((86, 140, 92), rng), _ridge(rng, h + 0.04, 0.07, 1.3))
    c.poly(jittered((126, 178, 88), rng), _ridge(rng, h + 0.07, 0.02, 1.0))
    for i in range(34):  # a fringe of far bushes
        c.oval(
            shade((70, 122, 76), rng.uniform(0.9, 1.1)),
            i / 33,
            h + 0.055,
            0.022,
            rng.uniform(0.008, 0.018),
        )
    water = jittered((82, 150, 190), rng, 0.02)
    top, low = h + 0.07, 0.805
    a = rng.uniform(0, 6.3)
    far = [(i / 16, top + 0.01 * math.sin(a + i * 0.6)) for i in range(17)]
    near = [
        (i / 16, low + 0.014 * math.sin(a + i * 0.5) - 0.05 * abs(i / 8 - 1) ** 3)
        for i in range(16, -1, -1)
    ]
    c.poly((196, 186, 130), [(x, y - 0.006) for x, y in far] + [(x, y + 0.014) for x, y in near])
    c.poly(water, far + near)
    c.poly(mix(water, (40, 90, 110), 0.4), far + [(x, y + 0.025) for x, y in far[::-1]])
    _waves(c, rng, 16, top + 0.05, 0.74, ((150, 200, 222), (190, 222, 234)))
    for _ in range(16):  # reeds on the near bank
        x, y = rng.choice((rng.uniform(0, 0.3), rng.uniform(0.7, 1))), rng.uniform(0.8, 0.83)
        c.line(
            (92, 132, 56),
            0.005,
            [(x, y), (x + rng.uniform(-0.01, 0.01), y - rng.uniform(0.03, 0.06))],
        )
    _tufts(c, rng, 14, 0.88, (92, 150, 60))


def _tufts(c: Canvas, rng: random.Random, n: int, y0: float, colour: RGB) -> None:
    for _ in range(n):
        x, y = rng.random(), rng.uniform(y0, 1.0)
        h = 0.012 + 0.014 * (y - y0) / (1.01 - y0)
        c.line(
            shade(colour, rng.uniform(0.8, 1.1)),
            0.004,
            [(x - h * 0.5, y - h), (x, y), (x + h * 0.5, y - h)],
        )


def _desert(c: Canvas, rng: random.Random, h: float) -> None:
    mesa = jittered((204, 122, 86), rng)
    for _ in range(rng.randint(1, 3)):
        x, w, top = rng.uniform(0, 1), rng.uniform(0.06, 0.14), h - rng.uniform(0.05, 0.11)
        c.poly(
            mesa,
            [
                (x - w * 1.4, h + 0.02),
                (x - w, h - 0.03),
                (x - w * 0.8, top),
                (x + w * 0.7, top),
                (x + w, h - 0.02),
                (x + w * 1.5, h + 0.02),
            ],
        )
        c.line(shade(mesa, 0.85), 0.006, [(x - w * 0.85, top + 0.025), (x + w * 0.75, top + 0.025)])
    for k in range(3):
        y = h + 0.02 + k * 0.13
        sand = jittered(mix((240, 198, 130), (226, 166, 92), k / 2), rng, 0.01, 0.03)
        x = rng.uniform(0.1, 0.9)
        peak = y - rng.uniform(0.02, 0.07)
        c.poly(
            sand,
            [
                (0, y + 0.04),
                (x * 0.5, y),
                (x, peak),
                ((1 + x) / 2, y + 0.01),
                (1, y + 0.03),
                (1, 1),
                (0, 1),
            ],
        )
        c.poly(
            shade(sand, 0.88),
            [(x, peak), ((1 + x) / 2, y + 0.01), (1, y + 0.03), (1, y + 0.1), (x + 0.1, y + 0.07)],
        )
    for _ in range(26):
        x, y, w = rng.random(), rng.uniform(h + 0.1, 1), rng.uniform(0.04, 0.1)
        c.line(
            (208, 148, 84),
            0.004,
            [(x, y), (x + w * 0.33, y - 0.006), (x + w * 0.66, y + 0.004), (x + w, y - 0.002)],
        )


def _meadow(c: Canvas, rng: random.Random, h: float) -> None:
    c.poly(jittered((134, 190, 130), rng), _ridge(rng, h + 0.02, 0.1, 0.7))
    c.poly(jittered((136, 198, 96), rng), _ridge(rng, h + 0.09, 0.09, 0.9))
    c.poly(jittered((112, 184, 76), rng), _ridge(rng, h + 0.22, 0.08, 0.6))
    _tufts(c, rng, 30, h + 0.1, (80, 150, 56))
    for _ in range(50):
        tone = rng.choice(((255, 255, 250), (252, 226, 100), (240, 150, 190), (190, 140, 226)))
        y = rng.uniform(h + 0.08, 1)
        c.oval(tone, rng.random(), y, 0.004, 0.004)


def _forest(c: Canvas, rng: random.Random, h: float) -> None:
    # Silhouettes merge into a wall; paler behind, darker before, and no trunks to count.
    walls: tuple[tuple[RGB, float], ...] = (
        ((132, 166, 150), 0.27),
        ((80, 128, 100), 0.21),
        ((44, 88, 64), 0.15),
    )
    for k, (base, tall) in enumerate(walls):
        tone = jittered(base, rng)
        y = h + 0.02 * k
        points: list[Point] = [(-0.05, y + 0.03)]
        x = -0.05
        while x < 1.02:
            w = rng.uniform(0.055, 0.085)
            t = tall * rng.uniform(0.7, 1.05)
            if rng.random() < 0.35:
                points += [
                    (
                        x + w * (0.5 - 0.5 * math.cos(0.45 * i)),
                        y - t * (0.55 + 0.25 * math.sin(0.45 * i)),
                    )
                    for i in range(8)
                ]
            else:
                points += [
                    (x, y - t * 0.4),
                    (x + w * 0.3, y - t * 0.64),
                    (x + w * 0.2, y - t * 0.64),
                    (x + w * 0.5, y - t),
                    (x + w * 0.8, y - t * 0.64),
                    (x + w * 0.7, y - t * 0.64),
                    (x + w, y - t * 0.4),
                ]
            x += w * 0.92
        c.poly(tone, [*points, (1.05, y + 0.03)])
    c.poly(jittered((82, 122, 66), rng), _ridge(rng, h + 0.06, 0.03, 1.2))
    _tufts(c, rng, 40, h + 0.06, (56, 104, 52))
    for _ in range(24):
        c.oval(
            rng.choice(((112, 92, 58), (124, 108, 62), (64, 96, 52))),
            rng.random(),
            rng.uniform(h + 0.08, 1),
            0.012,
            0.005,
        )


def _mountains(c: Canvas, rng: random.Random, h: float) -> None:
    rock = jittered((124, 132, 156), rng, 0.03)
    for x in sorted(
        (
            rng.uniform(-0.05, 0.25),
            rng.uniform(0.3, 0.5),
            rng.uniform(0.55, 0.75),
            rng.uniform(0.85, 1.05),
        ),
        key=lambda _: rng.random(),
    ):
        top, w = rng.uniform(0.17, 0.32), rng.uniform(0.24, 0.34)
        tone = shade(rock, rng.uniform(0.9, 1.1))
        c.poly(tone, [(x - w, h + 0.02), (x, top), (x + w, h + 0.02)])
        c.poly(
            shade(tone, 0.8),
            [
                (x, top),
                (x + w, h + 0.02),
                (x + w * 0.2, h + 0.02),
                (x - w * 0.06, top + (h - top) * 0.45),
            ],
        )
        d = (h - top) * 0.34
        s = w * 0.34
        c.poly(
            (248, 250, 254),
            [
                (x, top),
                (x + s, top + d),
                (x + s * 0.45, top + d * 0.75),
                (x + s * 0.1, top + d * 1.15),
                (x - s * 0.35, top + d * 0.8),
                (x - s, top + d),
            ],
        )
    c.poly(jittered((118, 146, 118), rng), _ridge(rng, h + 0.04, 0.06, 1.1))
    c.poly(jittered((134, 154, 106), rng), _ridge(rng, h + 0.13, 0.05, 0.8))
    for _ in range(22):
        x, y, r = rng.random(), rng.uniform(h + 0.08, 1), rng.uniform(0.006, 0.014)
        c.poly(
            (138, 138, 142),
            [(x - r, y), (x - r * 0.4, y - r), (x + r * 0.6, y - r * 0.8), (x + r, y)],
        )
    _tufts(c, rng, 16, h + 0.1, (100, 128, 80))


def _city(c: Canvas, rng: random.Random, h: float) -> None:
    lamp = c.light[0] < 0.7
    for k in range(2):
        x = -0.03
        while x < 1.0:
            w = rng.uniform(0.06, 0.11)
            top = h - (rng.uniform(0.16, 0.34) if k == 0 else rng.uniform(0.06, 0.2))
            tone = jittered(((150, 164, 186), (104, 116, 142))[k], rng, 0.03, 0.1)
            c.rect(tone, x, top, x + w, h + 0.02)
            if rng.random() < 0.25:
                c.line(tone, 0.006, [(x + w / 2, top), (x + w / 2, top - 0.04)])
            pane: RGB = (255, 226, 130) if lamp else shade(tone, 1.25)
            if lamp:
                pane = (255, 255, 190)
            rows = int((h - top) / 0.034)
            for row in range(rows):
                wy = top + 0.012 + row * 0.034
                for col in range(3):
                    if rng.random() < 0.62:
                        wx = x + w * (0.16 + 0.27 * col)
                        c.rect(pane, wx, wy, wx + w * 0.13, wy + 0.013)
            x += w + rng.choice((0.0, 0.0, 0.012))
    y = h + 0.02
    c.rect((186, 188, 192), 0, y, 1, y + 0.05)
    c.line((140, 142, 148), 0.005, [(0, y + 0.05), (1, y + 0.05)])
    road = 0.78 + rng.uniform(-0.03, 0.03)
    for i in range(7):
        x = i * 0.16 + rng.uniform(-0.01, 0.01)
        c.rect((222, 222, 216), x, road, x + 0.08, road + 0.011)
    for _ in range(30):
        c.oval((112, 114, 122), rng.random(), rng.uniform(y + 0.07, 1), 0.006, 0.002)


def _farmland(c: Canvas, rng: random.Random, h: float) -> None:
    c.poly(jittered((142, 178, 112), rng), _ridge(rng, h + 0.02, 0.07, 0.8))
    crops: tuple[RGB, ...] = (
        (228, 196, 88),
        (156, 186, 84),
        (198, 162, 92),
        (122, 166, 76),
        (222, 210, 120),
        (166, 126, 82),
    )
    vx = rng.uniform(0.3, 0.7)
    x = -1.3
    last = -1
    while x < 2.3:  # strips of crops that meet at the horizon
        w = rng.uniform(0.34, 0.55)
        pick = rng.randrange(len(crops))
        pick = (pick + 1) % len(crops) if pick == last else pick
        last = pick
        tone = jittered(crops[pick], rng, 0.01, 0.04)
        a, b = vx + (x - vx) * 0.22, vx + (x + w - vx) * 0.22
        c.poly(tone, [(a, h + 0.02), (b, h + 0.02), (x + w, 1.0), (x, 1.0)])
        for i in range(1, 6):
            f = i / 6
            c.line(shade(tone, 0.86), 0.005, [(a + (b - a) * f, h + 0.02), (x + w * f, 1.0)])
        x += w
    for i in range(16):  # a far fence
        c.line((120, 92, 64), 0.005, [(i / 15, h + 0.045), (i / 15, h + 0.015)])
    c.line((120, 92, 64), 0.004, [(0, h + 0.025), (1, h + 0.025)])


def _snowfield(c: Canvas, rng: random.Random, h: float) -> None:
    c.poly(jittered((196, 212, 236), rng), _ridge(rng, h + 0.03, 0.1, 0.7))
    c.poly((218, 229, 245), _ridge(rng, h + 0.09, 0.07, 0.9))
    c.poly((233, 240, 250), _ridge(rng, h + 0.2, 0.07, 0.6))
    c.poly((245, 248, 253), _ridge(rng, h + 0.34, 0.06, 0.8))
    for _ in range(14):
        x, y, w = rng.random(), rng.uniform(h + 0.1, 1), rng.uniform(0.05, 0.13)
        c.poly((212, 224, 243), [(x - w, y), (x, y - 0.006), (x + w, y), (x, y + 0.008)])
    for _ in range(30):
        c.oval((255, 255, 255), rng.random(), rng.uniform(h + 0.05, 1), 0.003, 0.003)


_PAINTERS: dict[str, Callable[[Canvas, random.Random, float], None]] = {
    "sea": _sea,
    "beach": _beach,
    "lake": _lake,
    "desert": _desert,
    "meadow": _meadow,
    "forest": _forest,
    "mountains": _mountains,
    "city": _city,
    "farmland": _farmland,
    "snowfield": _snowfield,
}


def paint_land(c: Canvas, land: str, rng: random.Random, horizon: float) -> None:
    """Draw a land over its gradient."""
    _PAINTERS[land](c, rng, horizon)
