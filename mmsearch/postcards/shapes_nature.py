"""Plants, fire, snow and people: what stands on the ground and is neither built nor an animal."""

from __future__ import annotations

import math
import random
from itertools import pairwise

from mmsearch.postcards.palette import CREAM, GOLD, INK, RGB, WOOD, Tones, mix, shade
from mmsearch.postcards.pen import Pen, Point, arc, band, oval, rect

_LEAF: RGB = (66, 150, 66)
_SKINS: tuple[RGB, ...] = ((250, 214, 182), (226, 172, 128), (164, 110, 76), (112, 74, 54))
_HAIR: tuple[RGB, ...] = ((48, 36, 32), (96, 62, 38), (206, 160, 84), (120, 120, 124))


def tree(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A broad-leaved tree: a round crown on a trunk."""
    pen.solid(
        (120, 82, 52),
        [(-0.1, 0), (0.1, 0), (0.07, 0.5), (-0.07, 0.5)],
        band([(0, 0.3), (0.2, 0.52)], 0.06),
        ink=(70, 46, 30),
    )
    j = [rng.uniform(-0.03, 0.03) for _ in range(5)]
    crown = [
        oval(-0.25 + j[0], 0.64, 0.24, 0.22),
        oval(0.25 + j[1], 0.64, 0.24, 0.22),
        oval(-0.18, 0.9 + j[2], 0.24, 0.22),
        oval(0.18, 0.9 + j[3], 0.24, 0.22),
        oval(0, 1.03 + j[4], 0.22, 0.2),
        oval(0, 0.72, 0.3, 0.24),
    ]
    pen.solid(t.base, *crown)
    pen.fill(t.dark, oval(0.2, 0.58, 0.24, 0.12), oval(-0.16, 0.56, 0.2, 0.09))
    pen.fill(
        t.light,
        oval(-0.16, 0.94, 0.16, 0.12),
        oval(0.14, 1.02, 0.09, 0.07),
        oval(-0.3, 0.7, 0.1, 0.08),
    )


def palm(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A curved ringed trunk under drooping fronds, with coconuts."""
    lean = rng.uniform(0.08, 0.2)
    trunk: list[Point] = [(-lean, 0), (-lean * 0.7, 0.3), (-lean * 0.1, 0.65), (lean * 0.6, 0.95)]
    pen.solid((158, 116, 74), band(trunk, 0.12), ink=(88, 60, 38))
    for (x0, y0), (x1, y1) in pairwise(trunk):
        for f in (0.3, 0.75):
            x, y = x0 + (x1 - x0) * f, y0 + (y1 - y0) * f
            pen.line((108, 76, 48), 0.02, (x - 0.05, y), (x + 0.05, y + 0.015))
    cx, cy = trunk[-1]
    fronds = []
    for reach, drop in (
        (-0.52, -0.24),
        (-0.46, 0.08),
        (-0.2, 0.28),
        (0.2, 0.28),
        (0.44, 0.06),
        (0.46, -0.26),
    ):
        tip = (cx + reach, cy + drop)
        bend = (cx + reach * 0.55, cy + drop * 0.4 + 0.17)
        under = (cx + reach * 0.45, cy + drop * 0.4 + 0.03)
        fronds.append([(cx, cy + 0.04), bend, tip, under, (cx, cy - 0.04)])
    pen.solid((44, 150, 74), *fronds, ink=(18, 70, 40))
    for frond in fronds:
        pen.line((112, 196, 96), 0.02, (cx, cy), frond[1], frond[2])
    pen.dot((96, 62, 38), cx - 0.06, cy - 0.05, 0.06)
    pen.dot((112, 74, 46), cx + 0.07, cy - 0.06, 0.06)


def pine(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A fir of three stacked tiers."""
    pen.solid((104, 70, 46), rect(-0.07, 0, 0.07, 0.24), ink=(60, 40, 26))
    green = (26, 104 + rng.randint(-8, 8), 72)
    w = rng.uniform(0.93, 1.05)
    tiers = [
        [(-0.42 * w, 0.16), (0.42 * w, 0.16), (0.06, 0.7), (-0.06, 0.7)],
        [(-0.34 * w, 0.5), (0.34 * w, 0.5), (0.05, 1.0), (-0.05, 1.0)],
        [(-0.25 * w, 0.84), (0.25 * w, 0.84), (0, 1.36)],
    ]
    for tier in tiers:
        pen.solid(green, tier, ink=(10, 50, 40))
        (x0, y0), (x1, y1), top = tier[0], tier[1], tier[2]
        pen.fill(
            mix(green, (130, 200, 140), 0.35),
            [(x0, y0), (x0 * 0.4, y0), (top[0] - 0.04, top[1] - 0.06)],
        )
        pen.fill(shade(green, 0.78), [(x1, y1), (x1 * 0.45, y1), (top[0], top[1] - 0.1)])


def cactus(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A saguaro with two raised arms."""
    green = (92, 168, 92)
    a, b = rng.uniform(0.3, 0.42), rng.uniform(0.42, 0.56)
    body = [*arc(0, 0.98, 0.15, 0.15, 0, math.pi, 6), (-0.15, 0), (0.15, 0)]
    left = [(0, a + 0.1), (-0.32, a + 0.1), (-0.34, a + 0.42)]
    right = [(0, b), (0.3, b), (0.32, b + 0.32)]
    pen.solid(
        green,
        body,
        band([left[0], left[1]], 0.15),
        band([left[1], left[2]], 0.16),
        oval(left[2][0], left[2][1], 0.08, 0.08),
        oval(left[1][0], left[1][1], 0.08, 0.08),
        band([right[0], right[1]], 0.15),
        band([right[1], right[2]], 0.16),
        oval(right[2][0], right[2][1], 0.08, 0.08),
        oval(right[1][0], right[1][1], 0.08, 0.08),
        ink=(30, 82, 50),
    )
    pen.fill(
        (150, 208, 130),
        rect(-0.1, 0.02, -0.06, 1.04),
        band([(-0.35, a + 0.12), (-0.36, a + 0.42)], 0.03),
    )
    for x in (0.01, 0.09):
        pen.line((54, 122, 66), 0.022, (x, 0.02), (x, 1.06))
    if rng.random() < 0.5:
        pen.dot((244, 120, 160), 0, 1.13, 0.06, 0.045)


def flower(pen: Pen, t: Tones, rng: random.Random) -> None:
    """One big blossom on a leafy stem."""
    pen.fill(_LEAF, band([(0.02, 0), (-0.03, 0.35), (0, 0.8)], 0.07))
    pen.solid(
        _LEAF,
        oval(-0.17, 0.22, 0.17, 0.065, -0.5),
        oval(0.17, 0.3, 0.17, 0.065, 0.5),
        ink=(28, 86, 40),
    )
    n = rng.choice((6, 7, 8))
    turn = rng.uniform(0, 1)
    petals = []
    for i in range(n):
        angle = turn + 2 * math.pi * i / n
        petals.append(
            oval(0.21 * math.cos(angle), 0.86 + 0.21 * math.sin(angle), 0.18, 0.125, angle)
        )
    pen.solid(t.base, *petals)
    for i in range(n):
        angle = turn + 2 * math.pi * i / n
        c, s = math.cos(angle), math.sin(angle)
        pen.line(t.dark, 0.02, (0.12 * c, 0.86 + 0.12 * s), (0.28 * c, 0.86 + 0.28 * s))
    pen.dot((120, 74, 34) if t.name in ("yellow", "orange", "white") else GOLD, 0, 0.86, 0.11)


def mushroom(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A toadstool: a thick pale stem, a domed cap with spots."""
    stem = [(-0.17, 0), (0.17, 0), (0.12, 0.25), (0.14, 0.5), (-0.14, 0.5), (-0.12, 0.25)]
    pen.solid(CREAM, stem, ink=(120, 104, 84))
    pen.fill((222, 206, 178), [(0.06, 0), (0.17, 0), (0.12, 0.25), (0.14, 0.5), (0.06, 0.5)])
    pen.solid(
        t.base, [*arc(0, 0.42, 0.5, 0.52, 0, math.pi, 14), (-0.42, 0.36), (0, 0.32), (0.42, 0.36)]
    )
    pen.fill(t.dark, [(0.5, 0.42), (0.42, 0.36), (0, 0.32), (-0.42, 0.36), (-0.5, 0.42), (0, 0.4)])
    spot = (176, 150, 120) if t.name == "white" else (252, 250, 242)
    for x, y, r in (
        (-0.24, 0.62, 0.075),
        (0.04, 0.78, 0.085),
        (0.28, 0.58, 0.065),
        (-0.02, 0.54, 0.05),
    ):
        pen.dot(spot, x, y, r, r * 0.85)


def campfire(pen: Pen, t: Tones, rng: random.Random) -> None:
    """Crossed logs under flames."""
    sway = rng.uniform(-0.05, 0.05)
    pen.solid(
        (236, 74, 30),
        [
            (-0.3, 0.12),
            (-0.36, 0.4),
            (-0.22, 0.62),
            (-0.2, 0.46),
            (-0.08 + sway, 0.96),
            (0.08, 0.6),
            (0.2, 0.74),
            (0.34, 0.4),
            (0.28, 0.12),
        ],
        ink=(150, 30, 20),
    )
    pen.fill(
        (250, 150, 36),
        [
            (-0.22, 0.1),
            (-0.24, 0.34),
            (-0.12, 0.46),
            (-0.02 + sway, 0.72),
            (0.1, 0.42),
            (0.18, 0.5),
            (0.24, 0.3),
            (0.2, 0.1),
        ],
    )
    pen.fill(
        (255, 230, 96), [(-0.13, 0.1), (-0.12, 0.26), (0.0 + sway, 0.46), (0.12, 0.26), (0.12, 0.1)]
    )
    for a, b in (((-0.44, 0.02), (0.4, 0.2)), ((0.44, 0.02), (-0.4, 0.2))):
        pen.solid(WOOD, band([a, b], 0.13), ink=(62, 40, 26))
        pen.dot((214, 170, 116), a[0], a[1] + 0.01, 0.055)


def snowman(pen: Pen, t: Tones, rng: random.Random) -> None:
    """Two snowballs, a carrot, a scarf and a hat."""
    edge = (96, 112, 144)
    white, shadow = (248, 250, 253), (206, 218, 236)
    pen.line((104, 72, 48), 0.035, (-0.22, 0.5), (-0.42, 0.66))
    pen.line((104, 72, 48), 0.035, (0.22, 0.5), (0.42, 0.66))
    pen.solid(white, oval(0, 0.3, 0.33, 0.3), oval(0, 0.74, 0.23, 0.22), ink=edge)
    pen.fill(shadow, oval(0.14, 0.24, 0.16, 0.18), oval(0.1, 0.7, 0.1, 0.13))
    scarf = rng.choice(((206, 52, 52), (48, 110, 190), (60, 146, 84)))
    pen.fill(
        scarf, rect(-0.2, 0.53, 0.2, 0.61), [(0.06, 0.56), (0.18, 0.56), (0.2, 0.34), (0.1, 0.34)]
    )
    pen.solid(
        (48, 48, 56),
        rect(-0.24, 0.9, 0.24, 0.96),
        rect(-0.15, 0.94, 0.15, 1.18),
        ink=(170, 174, 184),
    )
    pen.fill(scarf, rect(-0.15, 0.96, 0.15, 1.02))
    pen.dot(INK, -0.08, 0.8, 0.032)
    pen.dot(INK, 0.1, 0.8, 0.032)
    pen.fill((244, 130, 36), [(0.0, 0.76), (0.0, 0.69), (0.26, 0.71)])
    for y in (0.42, 0.3, 0.18):
        pen.dot(INK, -0.01, y, 0.03)


def person(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A standing person in a long coat of the named colour."""
    skin, hair = rng.choice(_SKINS), rng.choice(_HAIR)
    legs = (74, 78, 96) if t.name != "black" else (150, 150, 158)
    raised = rng.random() < 0.35
    pen.solid(legs, rect(-0.15, 0.02, -0.06, 0.34), rect(0.06, 0.02, 0.15, 0.34), ink=INK)
    pen.fill(INK, rect(-0.17, 0, -0.04, 0.06), rect(0.05, 0, 0.2, 0.06))
    hand = (0.34, 1.06) if raised else (0.27, 0.46)
    elbow = (0.3, 0.82) if raised else (0.26, 0.66)
    pen.dot(skin, hand[0], hand[1], 0.06)
    pen.dot(skin, -0.27, 0.46, 0.06)
    coat: list[Point] = [
        (-0.23, 0.24),
        (0.23, 0.24),
        (0.15, 0.6),
        (0.17, 0.88),
        (0.08, 0.95),
        (-0.08, 0.95),
        (-0.17, 0.88),
        (-0.15, 0.6),
    ]
    pen.solid(
        t.base,
        coat,
        band([(-0.13, 0.86), (-0.25, 0.66), (-0.27, 0.5)], 0.12),
        band([(0.13, 0.86), elbow, hand], 0.12),
    )
    pen.fill(t.dark, [(0.06, 0.25), (0.19, 0.25), (0.14, 0.6), (0.15, 0.86), (0.07, 0.8)])
    pen.fill(t.light, [(-0.17, 0.26), (-0.1, 0.26), (-0.08, 0.86), (-0.14, 0.86)])
    pen.solid(skin, oval(0, 1.1, 0.145, 0.155), ink=shade(skin, 0.45))
    style = rng.random()
    cap = [*arc(0, 1.12, 0.165, 0.165, 0.05, math.pi - 0.05, 8)]
    if style < 0.3:
        pen.solid(t.base, cap)
        pen.dot(t.light, 0, 1.28, 0.05)
    elif style < 0.65:
        pen.fill(hair, cap, [(-0.17, 1.16), (-0.2, 0.94), (-0.1, 0.96), (-0.11, 1.14)])
    else:
        pen.fill(hair, cap)
    pen.dot(INK, 0.03, 1.1, 0.022)
    pen.dot(INK, 0.1, 1.1, 0.022)
