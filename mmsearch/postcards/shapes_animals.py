"""Animals on land: cat, dog, horse, cow, sheep."""

from __future__ import annotations

import random

from mmsearch.postcards.palette import INK, RGB, Tones, mix, shade
from mmsearch.postcards.pen import Pen, Point, band, oval, rect

_PINK: RGB = (244, 166, 170)


def cat(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A sitting cat: pricked ears, whiskers, a tail curled up beside it."""
    tail = band([(-0.2, 0.1), (-0.42, 0.12), (-0.46, 0.36), (-0.36, 0.54)], 0.12)
    body: list[Point] = [
        (-0.28, 0.0),
        (0.24, 0.0),
        (0.26, 0.16),
        (0.2, 0.44),
        (0.12, 0.58),
        (-0.1, 0.58),
        (-0.24, 0.36),
        (-0.32, 0.14),
    ]
    head = oval(0.04, 0.7, 0.25, 0.2)
    ears = ([(-0.2, 0.72), (-0.18, 1.02), (0.0, 0.88)], [(0.28, 0.72), (0.26, 1.02), (0.08, 0.88)])
    pen.solid(t.base, tail, body, head, *ears)
    pen.fill(
        _PINK,
        [(-0.14, 0.82), (-0.14, 0.94), (-0.06, 0.87)],
        [(0.22, 0.82), (0.22, 0.94), (0.14, 0.87)],
    )
    pen.fill(t.dark, oval(-0.14, 0.16, 0.13, 0.12))
    pen.fill(t.light, oval(0.08, 0.34, 0.09, 0.15))
    if t.name in ("orange", "brown"):
        for x in (-0.02, 0.04, 0.1):
            pen.line(t.dark, 0.03, (x, 0.82), (x, 0.88))
        for y in (0.3, 0.4):
            pen.line(t.dark, 0.03, (-0.24, y), (-0.1, y + 0.02))
    eye = (236, 214, 70) if t.name == "black" else (46, 110, 60)
    for x in (-0.06, 0.14):
        pen.dot(eye, x, 0.72, 0.05)
        pen.fill((16, 16, 18), rect(x - 0.014, 0.68, x + 0.014, 0.76))
    pen.fill(_PINK, [(0.01, 0.645), (0.07, 0.645), (0.04, 0.61)])
    for side in (-1.0, 1.0):
        pen.line(t.ink, 0.014, (0.04 + side * 0.09, 0.63), (0.04 + side * 0.34, 0.66))
        pen.line(t.ink, 0.014, (0.04 + side * 0.09, 0.61), (0.04 + side * 0.33, 0.58))


def dog(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A standing dog: hanging ears, a long muzzle, a wagging tail, a collar."""
    wag = rng.uniform(-0.06, 0.06)
    legs = [band([(x, 0.4), (x + 0.01, 0.0)], 0.12) for x in (-0.36, -0.2, 0.12, 0.27)]
    body = [
        (-0.46, 0.34),
        (-0.4, 0.56),
        (0.1, 0.58),
        (0.36, 0.62),
        (0.36, 0.38),
        (0.2, 0.28),
        (-0.14, 0.3),
        (-0.38, 0.26),
    ]
    tail = band([(-0.4, 0.5), (-0.54, 0.62), (-0.56 + wag, 0.84)], 0.09)
    neck = [(0.1, 0.54), (0.24, 0.84), (0.42, 0.74), (0.36, 0.46)]
    head = oval(0.34, 0.8, 0.17, 0.14)
    muzzle = [(0.36, 0.86), (0.6, 0.78), (0.61, 0.69), (0.36, 0.68)]
    pen.solid(t.dark, legs[1], legs[3])
    pen.solid(t.base, legs[0], legs[2], body, tail, neck, head, muzzle)
    pen.fill(t.light, oval(-0.12, 0.5, 0.22, 0.05))
    pen.solid(t.dark, [(0.2, 0.9), (0.32, 0.88), (0.3, 0.62), (0.2, 0.56), (0.14, 0.66)])
    pen.fill(
        (206, 44, 50) if t.name != "orange" else (48, 100, 190),
        band([(0.16, 0.6), (0.38, 0.58)], 0.07),
    )
    nose = (18, 18, 20) if t.name != "black" else (120, 122, 132)
    pen.dot(nose, 0.6, 0.76, 0.045)
    pen.dot(INK if t.name != "black" else (250, 250, 250), 0.41, 0.82, 0.032)
    pen.line(nose, 0.018, (0.46, 0.71), (0.58, 0.71))


def horse(pen: Pen, t: Tones, rng: random.Random) -> None:
    """Long legs, an arched neck, a mane and a flowing tail."""
    hair: RGB = {"white": (190, 186, 180), "black": (96, 96, 106)}.get(t.name, (60, 38, 26))
    step = rng.uniform(-0.05, 0.05)
    back = [
        band([(-0.26, 0.5), (-0.22 + step, 0.0)], 0.1),
        band([(0.16, 0.5), (0.14 - step, 0.0)], 0.1),
    ]
    front = [
        band([(-0.36, 0.5), (-0.4, 0.24), (-0.38 - step, 0.0)], 0.11),
        band([(0.26, 0.5), (0.3 + step, 0.0)], 0.1),
    ]
    body = oval(-0.06, 0.56, 0.38, 0.17)
    neck = [(0.12, 0.66), (0.3, 1.02), (0.44, 0.96), (0.34, 0.5)]
    head = [(0.28, 1.06), (0.4, 1.1), (0.62, 0.86), (0.58, 0.78), (0.5, 0.78), (0.36, 0.92)]
    ear = [(0.3, 1.04), (0.31, 1.18), (0.39, 1.08)]
    pen.solid(hair, band([(-0.4, 0.64), (-0.54, 0.56), (-0.56, 0.26)], 0.12), ink=shade(hair, 0.6))
    pen.solid(t.dark, *back)
    pen.solid(t.base, *front, body, neck, head, ear)
    pen.fill(t.light, oval(-0.12, 0.64, 0.24, 0.045))
    pen.solid(
        hair,
        [(0.28, 1.1), (0.2, 1.0), (0.08, 0.7), (0.16, 0.64), (0.3, 0.92)],
        ink=shade(hair, 0.6),
    )
    hoof = (50, 44, 42) if t.name != "black" else (150, 150, 158)
    for x in (-0.38 - step, -0.22 + step, 0.14 - step, 0.3 + step):
        pen.fill(hoof, rect(x - 0.055, 0, x + 0.055, 0.07))
    pen.dot(INK if t.name != "black" else (245, 245, 245), 0.42, 0.98, 0.028)
    pen.dot(mix(t.base, INK, 0.5), 0.58, 0.83, 0.022)


def cow(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A heavy barrel on short legs, patched, with horns, a pink muzzle and an udder."""
    patch: RGB = {"white": (66, 58, 58), "black": (240, 240, 236)}.get(t.name, (246, 232, 208))
    pen.line(t.ink, 0.06, (-0.5, 0.66), (-0.6, 0.5), (-0.58, 0.26))
    pen.dot(patch, -0.58, 0.24, 0.06)
    pen.solid(t.dark, rect(-0.32, 0.0, -0.2, 0.3), rect(0.12, 0.0, 0.24, 0.3))
    pen.solid(_PINK, oval(-0.2, 0.26, 0.12, 0.09), ink=(170, 90, 96))
    body = [
        (-0.54, 0.36),
        (-0.5, 0.68),
        (-0.4, 0.72),
        (0.26, 0.72),
        (0.36, 0.62),
        (0.34, 0.34),
        (0.2, 0.26),
        (-0.42, 0.26),
    ]
    pen.solid(t.base, rect(-0.47, 0.0, -0.34, 0.4), rect(0.22, 0.0, 0.34, 0.4), body)
    shift = rng.uniform(-0.06, 0.06)
    pen.fill(
        patch, oval(-0.28 + shift, 0.56, 0.13, 0.11, 0.4), oval(0.1 + shift, 0.46, 0.09, 0.1, -0.3)
    )
    pen.fill(
        shade(t.base, 0.4) if t.name != "black" else (150, 150, 156),
        *(rect(x, 0, x + 0.13, 0.06) for x in (-0.47, 0.215)),
    )
    horn = (236, 222, 190)
    for pts in (
        [(0.36, 0.84), (0.32, 1.0), (0.43, 0.88)],
        [(0.54, 0.84), (0.6, 1.0), (0.48, 0.88)],
    ):
        pen.solid(horn, pts, ink=(120, 100, 70))
    head = [(0.3, 0.84), (0.58, 0.84), (0.58, 0.6), (0.54, 0.46), (0.36, 0.46), (0.3, 0.6)]
    ears = (oval(0.26, 0.76, 0.09, 0.05, -0.3), oval(0.62, 0.76, 0.08, 0.05, 0.3))
    pen.solid(t.base, head, *ears)
    pen.fill(patch, [(0.42, 0.84), (0.5, 0.84), (0.48, 0.6), (0.42, 0.6)])
    pen.solid(_PINK, oval(0.45, 0.5, 0.12, 0.08), ink=(170, 90, 96))
    eye = INK if t.name != "black" else (250, 250, 250)
    pen.dot(eye, 0.37, 0.7, 0.028)
    pen.dot(eye, 0.53, 0.7, 0.028)


def sheep(pen: Pen, t: Tones, rng: random.Random) -> None:
    """A cloud of wool on thin legs, with a bare face."""
    face: RGB = (62, 56, 58) if t.name == "white" else (150, 144, 142)
    for x in (-0.3, -0.18, 0.12, 0.24):
        pen.fill(face, rect(x - 0.04, 0, x + 0.04, 0.3))
    wool = [oval(-0.03, 0.46, 0.36, 0.2)]
    for x, y in (
        (-0.36, 0.44),
        (-0.3, 0.62),
        (-0.12, 0.7),
        (0.08, 0.69),
        (0.25, 0.6),
        (0.3, 0.42),
        (0.16, 0.3),
        (-0.02, 0.27),
        (-0.22, 0.3),
    ):
        wool.append(oval(x + rng.uniform(-0.02, 0.02), y, 0.135, 0.125))
    pen.solid(t.base, *wool)
    for x, y in ((-0.24, 0.52), (-0.04, 0.58), (0.12, 0.48), (-0.12, 0.4)):
        pen.fill(t.dark if t.name == "white" else t.light, oval(x, y, 0.07, 0.022))
    pen.solid(
        face,
        oval(0.42, 0.56, 0.12, 0.16, 0.35),
        oval(0.3, 0.64, 0.1, 0.045, -0.4),
        ink=shade(face, 0.6),
    )
    pen.solid(t.base, oval(0.36, 0.71, 0.1, 0.07))
    pen.dot((250, 250, 250) if t.name == "white" else (20, 20, 22), 0.44, 0.6, 0.03)
