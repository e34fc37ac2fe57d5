"""Things on the water: sailboat, rowboat, whale, duck, bridge."""

from __future__ import annotations

import math
import random

from mmsearch.postcards.palette import INK, RGB, Tones
from mmsearch.postcards.pen import Pen, Point, arc, band, oval, rect

_SPRAY: RGB = (236, 246, 252)


def sailboat(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A hull, a mast, a mainsail and a jib."""
    pen.line((96, 70, 50), 0.05, (0.0, 0.2), (0.0, 1.24))
    pen.solid(t.base, [(0.05, 0.3), (0.05, 1.18), (0.22, 0.8), (0.48, 0.34)])
    pen.fill(t.dark, [(0.05, 0.3), (0.05, 0.46), (0.42, 0.44), (0.48, 0.34)])
    pen.solid(t.light, [(-0.05, 0.34), (-0.05, 1.02), (-0.42, 0.36)])
    pen.solid(t.base, [(-0.52, 0.26), (0.54, 0.26), (0.36, 0.0), (-0.36, 0.0)])
    pen.fill(
        t.trim if t.name == "white" else (248, 248, 244),
        [(-0.49, 0.22), (0.51, 0.22), (0.49, 0.17), (-0.45, 0.17)],
    )
    pen.fill(t.dark, [(-0.4, 0.07), (0.41, 0.07), (0.36, 0.0), (-0.36, 0.0)])


def rowboat(pen: Pen, t: Tones, rng: random.Random) -> None:
    """An open boat with thwarts and a pair of oars."""
    far: list[Point] = [(-0.62, 0.46), (-0.36, 0.4), (0.36, 0.4), (0.62, 0.46)]
    pen.line((150, 110, 70), 0.05, (0.0, 0.34), (-0.34, 0.66))
    pen.solid(t.dark, [*far, (0.4, 0.3), (-0.4, 0.3)], ink=t.ink)
    pen.fill((196, 152, 104), rect(-0.26, 0.33, -0.16, 0.4), rect(0.16, 0.33, 0.26, 0.4))
    hull = [
        (-0.64, 0.48),
        (-0.4, 0.31),
        (0.4, 0.31),
        (0.64, 0.48),
        (0.5, 0.08),
        (0.38, 0.0),
        (-0.38, 0.0),
        (-0.5, 0.08),
    ]
    pen.solid(t.base, hull)
    pen.fill(
        t.light,
        [
            (-0.6, 0.43),
            (-0.4, 0.29),
            (0.4, 0.29),
            (0.6, 0.43),
            (0.58, 0.37),
            (0.4, 0.23),
            (-0.4, 0.23),
            (-0.58, 0.37),
        ],
    )
    pen.fill(t.dark, [(-0.49, 0.08), (0.49, 0.08), (0.38, 0.0), (-0.38, 0.0)])
    pen.line((150, 110, 70), 0.05, (-0.04, 0.42), (0.36, 0.02))
    pen.solid((196, 152, 104), oval(0.4, -0.01, 0.12, 0.045, -0.8), ink=(96, 66, 40))


def whale(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A round back, a raised fluke and a spout."""
    for side in (-1.0, 1.0):
        pen.line(
            _SPRAY,
            0.06,
            (0.26, 0.5),
            (0.26 + side * 0.07, 0.72),
            (0.26 + side * 0.2, 0.76),
            (0.26 + side * 0.26, 0.66),
        )
    body = [
        (-0.4, 0.3),
        (-0.2, 0.34),
        (0.0, 0.48),
        (0.26, 0.5),
        (0.5, 0.42),
        (0.6, 0.24),
        (0.56, 0.06),
        (0.36, 0.0),
        (-0.12, 0.0),
        (-0.38, 0.1),
        (-0.52, 0.3),
    ]
    tail = [
        (-0.52, 0.26),
        (-0.46, 0.46),
        (-0.3, 0.66),
        (-0.46, 0.64),
        (-0.53, 0.55),
        (-0.6, 0.66),
        (-0.68, 0.62),
        (-0.62, 0.46),
        (-0.56, 0.28),
        (-0.42, 0.2),
    ]
    pen.solid(t.base, body, tail)
    pen.fill(t.light, [(-0.1, 0.38), (0.06, 0.47), (0.3, 0.47), (0.1, 0.4)])
    belly = (222, 228, 236) if t.name != "white" else (196, 206, 222)
    pen.fill(belly, [(0.59, 0.2), (0.56, 0.06), (0.36, 0.0), (-0.06, 0.0), (0.2, 0.1)])
    pen.fill(t.dark, [(0.06, 0.2), (0.22, 0.16), (0.02, -0.02), (-0.06, 0.04)])
    eye = (255, 255, 255) if t.name != "white" else INK
    pen.dot(eye, 0.42, 0.26, 0.04)
    if t.name != "white":
        pen.dot((18, 18, 22), 0.43, 0.26, 0.022)


def duck(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A swimming duck: a raised tail, a folded wing, an orange bill."""
    bill = (244, 136, 30) if t.name != "yellow" else (232, 96, 24)
    pen.solid(bill, [(0.42, 0.7), (0.62, 0.64), (0.6, 0.57), (0.42, 0.58)], ink=(140, 66, 14))
    body: list[Point] = [
        (-0.56, 0.46),
        (-0.4, 0.36),
        (0.1, 0.38),
        (0.46, 0.32),
        (0.44, 0.12),
        (0.28, 0.0),
        (-0.28, 0.0),
        (-0.46, 0.14),
    ]
    neck = [(0.1, 0.32), (0.18, 0.62), (0.44, 0.58), (0.44, 0.22)]
    pen.solid(t.base, body, neck, oval(0.3, 0.67, 0.18, 0.17))
    pen.solid(t.dark, [(-0.36, 0.32), (0.12, 0.34), (0.16, 0.2), (0.0, 0.1), (-0.24, 0.14)])
    pen.fill(t.light, oval(0.3, 0.14, 0.1, 0.07))
    if t.name in ("green", "brown"):
        pen.fill((248, 248, 244), band([(0.14, 0.5), (0.44, 0.46)], 0.05))
    pen.dot(INK, 0.36, 0.71, 0.035)


def bridge(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A humped bridge on three open arches, with a railing."""
    top = arc(0, 0.3, 0.64, 0.28, 0.06, math.pi - 0.06, 12)
    under: list[Point] = [(-0.64, 0.0), (-0.55, 0.0)]
    for cx, rx, ry in ((-0.37, 0.16, 0.26), (0.0, 0.16, 0.4), (0.37, 0.16, 0.26)):
        under += [(cx - rx, 0.0), *arc(cx, 0.06, rx, ry - 0.02, math.pi, 0, 8), (cx + rx, 0.0)]
    under += [(0.55, 0.0), (0.64, 0.0)]
    pen.solid(t.base, top + under)
    for i in range(7):
        x = -0.54 + 0.18 * i
        y = 0.3 + 0.28 * math.sqrt(max(0.0, 1 - (x / 0.66) ** 2))
        pen.line(t.ink, 0.03, (x, y - 0.02), (x, y + 0.12))
    rail = [(x, y + 0.12) for x, y in top]
    pen.line(t.ink, 0.085, *rail)
    pen.line(t.base, 0.05, *rail)
    pen.line(t.dark, 0.04, *[(x * 0.98, y - 0.07) for x, y in top[1:-1]])
