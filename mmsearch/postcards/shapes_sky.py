"""Things in the sky: balloon, kite, bird, airplane, butterfly."""

from __future__ import annotations

import math
import random

from mmsearch.postcards.palette import CREAM, GLASS, GOLD, INK, SLATE, WOOD, Tones, mix, shade
from mmsearch.postcards.pen import Pen, arc, band, oval, rect


def balloon(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A hot-air balloon: a striped envelope and a basket."""
    pen.line(INK, 0.02, (-0.17, 0.36), (-0.1, 0.16))
    pen.line(INK, 0.02, (0.17, 0.36), (0.1, 0.16))
    envelope = [*arc(0, 0.72, 0.45, 0.45, -0.45, math.pi + 0.45, 16), (-0.13, 0.26), (0.13, 0.26)]
    pen.solid(t.base, envelope)
    pen.fill(t.light, oval(-0.2, 0.76, 0.11, 0.34, 0.12))
    pen.fill(t.dark, oval(0.29, 0.74, 0.09, 0.3, -0.18))
    pen.fill(
        t.trim if t.name == "white" else CREAM,
        [(-0.42, 0.6), (0.42, 0.6), (0.38, 0.52), (-0.38, 0.52)],
    )
    pen.solid(WOOD, rect(-0.11, 0, 0.11, 0.15), ink=shade(WOOD, 0.5))


def kite(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A diamond with crossed spars and a tail of bows."""
    lean = rng.uniform(0.05, 0.2)
    tail = [(0.02 + lean * 0.2 * i + 0.08 * math.sin(i * 1.9), 0.42 - 0.14 * i) for i in range(4)]
    pen.line(t.ink if t.name != "white" else SLATE, 0.035, (0, 0.45), *tail)
    for x, y in tail[1:]:
        pen.solid(
            t.base,
            [(x - 0.1, y + 0.06), (x - 0.1, y - 0.06), (x + 0.1, y + 0.06), (x + 0.1, y - 0.06)],
        )
    top, right, bottom, left = (0.06, 1.25), (0.42, 0.92), (0.0, 0.4), (-0.36, 0.98)
    mid = (0.05, 0.95)
    pen.solid(t.base, [top, right, bottom, left])
    pen.fill(t.light, [top, left, mid])
    pen.fill(t.dark, [right, bottom, mid])
    pen.line(t.ink, 0.025, left, right)
    pen.line(t.ink, 0.025, top, bottom)


def bird(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A bird in flight, wings raised."""
    lift = rng.uniform(-0.06, 0.06)
    far = [(-0.02, 0.4), (0.2, 0.44), (0.3, 0.82 + lift), (0.12, 0.7)]
    pen.solid(t.dark, far)
    pen.solid(
        GOLD if t.name != "yellow" else (240, 130, 40), [(0.52, 0.42), (0.68, 0.36), (0.52, 0.33)]
    )
    body = oval(0.04, 0.32, 0.34, 0.15, 0.12)
    head = oval(0.42, 0.4, 0.14, 0.13)
    tail = [(-0.2, 0.34), (-0.62, 0.36), (-0.56, 0.24), (-0.62, 0.14), (-0.2, 0.22)]
    wing = [(-0.2, 0.34), (0.16, 0.38), (0.0, 0.66 + lift), (-0.3, 0.9 + lift), (-0.36, 0.62)]
    pen.solid(t.base, body, head, tail)
    pen.solid(t.base, wing)
    pen.fill(t.light, [(-0.12, 0.42), (0.04, 0.44), (-0.24, 0.8 + lift)])
    pen.dot(INK if t.name != "black" else (255, 255, 255), 0.46, 0.43, 0.035)


def airplane(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A passenger plane from the side, climbing a little."""
    pen.solid(t.dark, [(0.08, 0.42), (0.2, 0.42), (-0.04, 0.62), (-0.14, 0.62)])
    fin = [(-0.62, 0.4), (-0.4, 0.4), (-0.56, 0.72), (-0.68, 0.72)]
    hull = [(-0.66, 0.4), *arc(0.4, 0.33, 0.26, 0.13, math.pi / 2, -math.pi / 2, 8), (-0.3, 0.2)]
    pen.solid(t.base, hull, fin)
    pen.fill(t.light, [(-0.6, 0.4), (0.4, 0.45), (0.5, 0.41), (-0.5, 0.36)])
    pen.solid(GLASS, [(0.46, 0.42), (0.58, 0.38), (0.6, 0.34), (0.46, 0.35)])
    window = SLATE if t.name == "white" else (244, 248, 252)
    for i in range(5):
        pen.dot(window, -0.26 + 0.14 * i, 0.36, 0.035)
    pen.solid(t.dark, [(-0.06, 0.3), (0.2, 0.3), (-0.18, 0.02), (-0.32, 0.02)])
    pen.solid(t.base, [(-0.6, 0.42), (-0.44, 0.4), (-0.7, 0.28), (-0.78, 0.3)])


def butterfly(pen: Pen, t: Tones, rng: random.Random) -> None:
    """Four wings spread around a dark body."""
    spread = rng.uniform(0.92, 1.04)
    for side in (-1.0, 1.0):
        upper = [
            (0.03 * side, 0.44),
            (0.16 * side, 0.8),
            (0.4 * side * spread, 0.94),
            (0.54 * side * spread, 0.84),
            (0.5 * side * spread, 0.58),
            (0.3 * side, 0.42),
        ]
        lower = [
            (0.03 * side, 0.46),
            (0.32 * side, 0.42),
            (0.42 * side * spread, 0.26),
            (0.34 * side, 0.06),
            (0.16 * side, 0.08),
        ]
        pen.solid(t.base, upper, lower, ink=INK)
        pen.fill(
            t.light,
            [(0.1 * side, 0.5), (0.22 * side, 0.76), (0.34 * side, 0.72), (0.28 * side, 0.5)],
        )
        pen.fill(t.dark, [(0.06 * side, 0.42), (0.26 * side, 0.38), (0.24 * side, 0.18)])
        spot = mix(t.base, INK, 0.75) if t.name != "white" else SLATE
        pen.dot(spot, 0.43 * side * spread, 0.78, 0.05)
        pen.dot(spot, 0.3 * side, 0.18, 0.04)
        pen.line(INK, 0.025, (0.0, 0.7), (0.12 * side, 0.94))
    pen.fill(INK, band([(0, 0.12), (0, 0.45), (0, 0.76)], 0.1))
