"""Buildings: house, castle, church, lighthouse, windmill, tent."""

from __future__ import annotations

import math
import random

from mmsearch.postcards.palette import CREAM, GLASS, GOLD, INK, SLATE, WOOD, Tones, shade
from mmsearch.postcards.pen import Pen, Point, oval, rect


def house(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A cottage: coloured walls, a slate roof, a chimney, a door and two windows."""
    pen.solid(t.dark, rect(0.2, 0.7, 0.33, 1.04))
    pen.solid(t.base, [(-0.45, 0), (0.45, 0), (0.45, 0.62), (0, 1.0), (-0.45, 0.62)])
    pen.fill(t.dark, [(0.2, 0), (0.45, 0), (0.45, 0.62), (0.2, 0.8)])
    roof = t.trim
    pen.solid(
        roof,
        [(-0.56, 0.56), (-0.5, 0.5), (0, 0.92), (0.5, 0.5), (0.56, 0.56), (0, 1.06)],
        ink=shade(roof, 0.6),
    )
    pen.solid(WOOD if t.name != "brown" else CREAM, rect(-0.1, 0, 0.1, 0.36), ink=INK)
    pane = GOLD if rng.random() < 0.35 and t.name != "yellow" else GLASS
    frame = SLATE if t.name in ("white", "yellow") else (250, 250, 246)
    for x in (-0.29, 0.29):
        pen.solid(pane, rect(x - 0.08, 0.26, x + 0.08, 0.46), ink=frame)
    pen.dot(frame, 0, 0.64, 0.075)


def castle(pen: Pen, t: Tones, rng: random.Random) -> None:
    """Battlements, two round towers, a keep with a flag, and a gate."""
    pen.line(INK, 0.03, (0, 0.9), (0, 1.2))
    flag = (216, 60, 60) if t.name != "pink" else (70, 110, 210)
    pen.fill(flag, [(0, 1.2), (0.22, 1.13), (0, 1.05)])

    def battlement(x0: float, x1: float, top: float, teeth: int) -> list[Point]:
        step = (x1 - x0) / (2 * teeth - 1)
        points: list[Point] = [(x0, 0.0)]
        for i in range(2 * teeth - 1):
            y = top if i % 2 == 0 else top - 0.1
            points += [(x0 + i * step, y), (x0 + (i + 1) * step, y)]
        return [*points, (x1, 0.0)]

    pen.solid(t.base, battlement(-0.2, 0.2, 0.98, 3))
    pen.solid(t.base, battlement(-0.3, 0.3, 0.6, 4))
    pen.solid(t.base, battlement(-0.58, -0.28, 0.86, 3), battlement(0.28, 0.58, 0.86, 3))
    pen.fill(
        t.dark, rect(0.48, 0, 0.58, 0.76), rect(-0.38, 0, -0.28, 0.76), rect(0.12, 0.6, 0.2, 0.86)
    )
    pen.fill(t.light, rect(-0.58, 0, -0.52, 0.76), rect(0.28, 0, 0.34, 0.76))
    hole = INK if t.name != "black" else GOLD
    for x, y in ((-0.43, 0.56), (0.43, 0.56), (0.0, 0.74), (-0.43, 0.26), (0.43, 0.26)):
        pen.fill(hole, rect(x - 0.035, y - 0.06, x + 0.035, y + 0.08))
    pen.fill(
        WOOD if t.name != "brown" else INK, rect(-0.13, 0, 0.13, 0.22), oval(0, 0.22, 0.13, 0.14)
    )


def church(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A nave with a long roof and a tower whose spire carries a cross."""
    roof = t.trim
    pen.solid(t.base, rect(-0.12, 0, 0.48, 0.48))
    pen.solid(
        roof, [(-0.12, 0.47), (0.54, 0.47), (0.46, 0.66), (-0.12, 0.66)], ink=shade(roof, 0.6)
    )
    pen.solid(t.base, rect(-0.44, 0, -0.08, 0.82))
    pen.fill(t.dark, rect(-0.15, 0, -0.08, 0.8), rect(0.43, 0, 0.48, 0.46))
    pen.solid(roof, [(-0.48, 0.82), (-0.04, 0.82), (-0.26, 1.2)], ink=shade(roof, 0.6))
    cross = GOLD if t.name != "white" else (200, 150, 40)
    pen.line(cross, 0.045, (-0.26, 1.18), (-0.26, 1.4))
    pen.line(cross, 0.045, (-0.34, 1.31), (-0.18, 1.31))
    pane = GLASS if t.name != "white" else (120, 140, 164)
    for x in (0.03, 0.2, 0.37):
        pen.fill(pane, rect(x - 0.04, 0.15, x + 0.04, 0.26), oval(x, 0.26, 0.04, 0.05))
    pen.fill(INK, rect(-0.34, 0, -0.18, 0.2), oval(-0.26, 0.2, 0.08, 0.08))
    pen.dot((250, 250, 244), -0.26, 0.64, 0.09)
    pen.line(INK, 0.02, (-0.26, 0.7), (-0.26, 0.64), (-0.21, 0.64))


def lighthouse(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A tapering banded tower with a lit lantern under a cap."""

    def half(y: float) -> float:
        return 0.27 - 0.12 * y

    def stripe(y0: float, y1: float) -> list[Point]:
        return [(-half(y0), y0), (half(y0), y0), (half(y1), y1), (-half(y1), y1)]

    pen.solid(t.base, stripe(0, 1.0))
    other = (206, 206, 210) if t.name == "white" else (250, 250, 246)
    pen.fill(other, stripe(0.26, 0.38), stripe(0.66, 0.78))
    pen.fill(t.dark, [(0.12, 0), (half(0), 0), (half(0.24), 0.24), (0.1, 0.24)])
    pen.fill(t.dark, [(0.1, 0.38), (half(0.38), 0.38), (half(0.64), 0.64), (0.08, 0.64)])
    pen.solid(t.base, rect(-0.2, 1.0, 0.2, 1.06))
    pen.solid(GOLD, rect(-0.11, 1.06, 0.11, 1.24), ink=INK)
    pen.solid(t.base, [(-0.17, 1.24), (0.17, 1.24), (0, 1.42)])
    pen.fill(INK, rect(-0.06, 0, 0.06, 0.16))
    pen.fill(INK, rect(-0.035, 0.48, 0.035, 0.58))


def windmill(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A tapering mill with a cap and four latticed sails."""
    pen.solid(t.base, [(-0.4, 0), (0.4, 0), (0.25, 0.84), (-0.25, 0.84)])
    pen.fill(t.dark, [(0.2, 0), (0.4, 0), (0.25, 0.84), (0.12, 0.84)])
    pen.solid(
        t.trim, [(-0.3, 0.8), (0.3, 0.8), (0.15, 1.02), (-0.15, 1.02)], ink=shade(t.trim, 0.6)
    )
    pen.fill(INK, rect(-0.08, 0, 0.08, 0.22))
    pen.fill(GLASS if t.name != "white" else SLATE, rect(-0.06, 0.44, 0.06, 0.56))
    turn = rng.uniform(0.2, 1.3)
    hub = (0.0, 0.84)
    for k in range(4):
        a = turn + k * math.pi / 2
        c, s = math.cos(a), math.sin(a)

        def at(r: float, w: float, c: float = c, s: float = s) -> Point:
            return (hub[0] + r * c - w * s, hub[1] + r * s + w * c)

        pen.solid(
            CREAM, [at(0.14, 0), at(0.54, 0), at(0.54, 0.12), at(0.14, 0.12)], ink=(110, 84, 62)
        )
        pen.line((150, 120, 92), 0.02, at(0.28, 0), at(0.28, 0.12))
        pen.line((150, 120, 92), 0.02, at(0.42, 0), at(0.42, 0.12))
        pen.line((96, 70, 50), 0.04, hub, at(0.55, 0))
    pen.dot(INK, hub[0], hub[1], 0.05)


def tent(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A ridge tent seen from its open end."""
    pen.line(WOOD, 0.035, (-0.25, 0.72), (-0.08, 0.9))
    pen.solid(t.dark, [(-0.16, 0.8), (0.36, 0.8), (0.62, 0.0), (0.2, 0.0)])
    pen.solid(t.base, [(-0.16, 0.82), (0.26, 0.0), (-0.6, 0.0)])
    pen.fill(t.base, [(-0.12, 0.78), (0.34, 0.78), (0.46, 0.4), (0.05, 0.4)])
    pen.fill(t.light, [(-0.16, 0.82), (-0.42, 0.0), (-0.6, 0.0)])
    pen.fill(INK if t.name != "black" else SLATE, [(-0.16, 0.56), (-0.02, 0.0), (-0.3, 0.0)])
    pen.fill(t.light, [(-0.16, 0.56), (-0.3, 0.0), (-0.36, 0.0)])
