"""Vehicles and furniture: car, bus, bicycle, tractor, umbrella, bench."""

from __future__ import annotations

import math
import random

from mmsearch.postcards.palette import GLASS, GOLD, RGB, Tones
from mmsearch.postcards.pen import Pen, arc, band, rect

_TYRE: RGB = (40, 40, 46)
_HUB: RGB = (196, 200, 208)


def _wheel(pen: Pen, x: float, y: float, r: float, rim: RGB | None = None) -> None:
    pen.dot(rim or (100, 100, 108), x, y, r + 0.02)
    pen.dot(_TYRE, x, y, r)
    pen.dot(_HUB, x, y, r * 0.5)


def car(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A small saloon from the side."""
    cabin = [(-0.4, 0.34), (-0.3, 0.6), (0.16, 0.6), (0.36, 0.34)]
    body = [
        (-0.62, 0.12),
        (0.62, 0.12),
        (0.62, 0.28),
        (0.54, 0.36),
        (0.3, 0.4),
        (-0.56, 0.4),
        (-0.62, 0.34),
    ]
    pen.solid(t.base, cabin, body)
    pen.fill(t.light, [(-0.58, 0.38), (0.3, 0.38), (0.5, 0.34), (-0.58, 0.34)])
    pen.fill(t.dark, rect(-0.6, 0.13, 0.6, 0.19))
    pen.solid(GLASS, [(-0.3, 0.39), (-0.24, 0.54), (-0.08, 0.54), (-0.08, 0.39)], ink=t.dark)
    pen.solid(GLASS, [(-0.02, 0.39), (-0.02, 0.54), (0.13, 0.54), (0.25, 0.39)], ink=t.dark)
    pen.dot(GOLD, 0.57, 0.27, 0.05)
    _wheel(pen, -0.35, 0.13, 0.13)
    _wheel(pen, 0.36, 0.13, 0.13)


def bus(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A long bus with a row of windows."""
    pen.solid(
        t.base, [(-0.62, 0.1), (0.62, 0.1), (0.62, 0.6), (0.56, 0.72), (-0.58, 0.72), (-0.62, 0.68)]
    )
    pen.fill(t.light, rect(-0.58, 0.64, 0.54, 0.69))
    pen.fill(t.dark, rect(-0.61, 0.11, 0.61, 0.2))
    for i in range(5):
        x = -0.55 + 0.18 * i
        pen.fill((94, 122, 148), rect(x, 0.42, x + 0.135, 0.59))
        pen.fill(GLASS, [(x, 0.44), (x + 0.135, 0.56), (x + 0.135, 0.59), (x, 0.59)])
    pen.fill(GLASS, rect(0.39, 0.18, 0.47, 0.58))
    pen.fill(GLASS, rect(0.52, 0.36, 0.61, 0.6))
    stripe = t.trim if t.name == "white" else (250, 250, 244)
    pen.fill(stripe, rect(-0.61, 0.3, 0.36, 0.33))
    pen.dot(GOLD if t.name not in ("yellow", "orange") else (255, 255, 240), 0.58, 0.24, 0.04)
    _wheel(pen, -0.36, 0.11, 0.115)
    _wheel(pen, 0.3, 0.11, 0.115)


def bicycle(pen: Pen, t: Tones, rng: random.Random) -> None:
    """Two wheels and a diamond frame; rims and frame carry the colour."""
    for x in (-0.37, 0.37):
        pen.line((170, 174, 180), 0.012, (x - 0.22, 0.26), (x + 0.22, 0.26))
        pen.line((170, 174, 180), 0.012, (x, 0.04), (x, 0.48))
        pen.ring(_TYRE if t.name != "black" else t.ink, x, 0.26, 0.27, 0.1)
        pen.ring(t.base, x, 0.26, 0.25, 0.06)
    tubes = [
        band([(-0.37, 0.26), (-0.14, 0.6)], 0.075),
        band([(-0.37, 0.26), (0.0, 0.26)], 0.075),
        band([(0.0, 0.26), (-0.16, 0.68)], 0.075),
        band([(0.0, 0.26), (0.25, 0.6)], 0.075),
        band([(-0.14, 0.6), (0.24, 0.62)], 0.075),
        band([(0.37, 0.26), (0.22, 0.74)], 0.075),
    ]
    pen.solid(t.base, *tubes)
    pen.line(_TYRE, 0.06, (0.14, 0.78), (0.24, 0.76), (0.32, 0.7))
    pen.line(_TYRE, 0.08, (-0.27, 0.71), (-0.07, 0.71))
    pen.dot(_HUB, 0, 0.26, 0.05)


def tractor(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A big rear wheel, a small front one, a cab and an exhaust pipe."""
    pen.line((90, 90, 96), 0.06, (0.34, 0.5), (0.34, 0.84))
    pen.solid(t.base, rect(-0.02, 0.22, 0.6, 0.56), rect(-0.48, 0.3, 0.1, 0.56))
    pen.fill(t.light, rect(0.06, 0.5, 0.56, 0.54))
    pen.fill(t.dark, rect(0.06, 0.23, 0.58, 0.3))
    pen.solid(GLASS, [(-0.38, 0.56), (-0.34, 0.86), (0.0, 0.86), (0.06, 0.56)], ink=t.dark)
    pen.solid(t.base, rect(-0.44, 0.84, 0.06, 0.93))
    for i in range(3):
        pen.line(t.dark, 0.025, (0.36 + 0.07 * i, 0.33), (0.36 + 0.07 * i, 0.46))
    pen.dot((104, 104, 112), -0.27, 0.29, 0.31)
    pen.dot(_TYRE, -0.27, 0.29, 0.285)
    pen.dot(t.base, -0.27, 0.29, 0.16)
    pen.dot(t.dark, -0.27, 0.29, 0.06)
    _wheel(pen, 0.42, 0.15, 0.15)
    pen.dot(t.base, 0.42, 0.15, 0.08)


def umbrella(pen: Pen, t: Tones, rng: random.Random) -> None:
    """An open umbrella: a scalloped canopy on a thin stick with a hooked handle."""
    stick = (88, 66, 52)
    hook = [(0.0, 0.6), (0.0, 0.1), *arc(0.09, 0.1, 0.09, 0.09, math.pi, 2 * math.pi, 6)]
    pen.line((232, 226, 214), 0.085, *hook)
    pen.line(stick, 0.05, *hook)
    pen.line(stick, 0.045, (0, 0.98), (0, 1.08))
    edge = [(-0.54, 0.52)]
    canopy = [*arc(0, 0.52, 0.54, 0.48, 0, math.pi, 14)]
    for i in range(4):
        x = -0.405 + 0.27 * i
        edge += arc(x, 0.52, 0.135, 0.07, math.pi, 0, 4)
    pen.solid(t.base, canopy + edge)
    pen.fill(
        t.light,
        [(0, 1.0), *arc(0, 0.52, 0.54, 0.48, math.pi * 0.68, math.pi * 0.94, 4), (-0.27, 0.55)],
    )
    pen.fill(t.dark, [(0, 1.0), *arc(0, 0.52, 0.54, 0.48, math.pi * 0.3, 0.08, 4), (0.27, 0.55)])
    pen.line(t.dark, 0.02, (0, 1.0), (0, 0.56))


def bench(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A park bench: three back planks, a seat, iron legs."""
    iron = (70, 72, 80)
    for x in (-0.44, 0.44):
        pen.fill(
            iron, band([(x, 0.0), (x, 0.7)], 0.07), band([(x * 1.12, 0.0), (x * 1.06, 0.3)], 0.06)
        )
    for y in (0.38, 0.5, 0.62):
        pen.solid(t.base, rect(-0.58, y, 0.58, y + 0.09))
        pen.fill(t.light, rect(-0.58, y + 0.06, 0.58, y + 0.09))
    pen.solid(t.base, [(-0.6, 0.3), (0.6, 0.3), (0.64, 0.2), (-0.64, 0.2)])
    pen.fill(t.dark, rect(-0.63, 0.2, 0.63, 0.235))
