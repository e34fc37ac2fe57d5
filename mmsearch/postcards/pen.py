"""Drawing one thing on the canvas in its own coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import ImageDraw

from mmsearch.postcards.palette import RGB

Point = tuple[float, float]
Polygon = Sequence[Point]

_CIRCLE: tuple[Point, ...] = tuple(
    (math.cos(2 * math.pi * i / 20), math.sin(2 * math.pi * i / 20)) for i in range(20)
)


def oval(cx: float, cy: float, rx: float, ry: float, turn: float = 0.0) -> list[Point]:
    """An ellipse as a polygon, rotated counter-clockwise by `turn` radians."""
    if turn == 0.0:
        return [(cx + rx * x, cy + ry * y) for x, y in _CIRCLE]
    c, s = math.cos(turn), math.sin(turn)
    return [(cx + rx * x * c - ry * y * s, cy + rx * x * s + ry * y * c) for x, y in _CIRCLE]


def rect(x0: float, y0: float, x1: float, y1: float) -> list[Point]:
    """An upright rectangle as a polygon."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def arc(
    cx: float, cy: float, rx: float, ry: float, start: float, stop: float, steps: int = 8
) -> list[Point]:
    """Points along an ellipse from angle `start` to `stop` (radians, counter-clockwise)."""
    angles = [start + (stop - start) * i / steps for i in range(steps + 1)]
    return [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]


def band(points: Sequence[Point], width: float) -> list[Point]:
    """A polyline thickened to a polygon of this width (for limbs, trunks and tails)."""
    left: list[Point] = []
    right: list[Point] = []
    last = len(points) - 1
    for i, (x, y) in enumerate(points):
        x0, y0 = points[max(0, i - 1)]
        x1, y1 = points[min(last, i + 1)]
        dx, dy = x1 - x0, y1 - y0
        half = width / 2 / (math.hypot(dx, dy) or 1.0)
        left.append((x - dy * half, y + dx * half))
        right.append((x + dy * half, y - dx * half))
    return left + right[::-1]


class Pen:
    """Draws in a thing's own frame: x to the right of its middle, y up from where it stands.

    One unit is `scale` pixels; `mirror` flips left and right.
    """

    __slots__ = ("_draw", "_scale", "_sx", "_x", "_y", "ink", "stroke")

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        x: float,
        y: float,
        scale: float,
        mirror: bool,
        ink: RGB,
    ) -> None:
        self._draw = draw
        self._x = x
        self._y = y
        self._scale = scale
        self._sx = -scale if mirror else scale
        self.ink = ink
        self.stroke = max(1.0, 0.028 * scale)

    def _pixels(self, points: Polygon) -> list[Point]:
        ox, oy, sx, s = self._x, self._y, self._sx, self._scale
        return [(ox + sx * x, oy - s * y) for x, y in points]

    def solid(self, fill: RGB, *parts: Polygon, ink: RGB | None = None) -> None:
        """A silhouette of overlapping polygons with one outline around all of them."""
        edge = self.ink if ink is None else ink
        width = round(2 * self.stroke)
        shapes = [self._pixels(part) for part in parts]
        for shape in shapes:
            self._draw.line([*shape, shape[0], shape[1]], edge, width)
        for shape in shapes:
            self._draw.polygon(shape, fill)

    def fill(self, fill: RGB, *parts: Polygon) -> None:
        """Polygons without an outline."""
        for part in parts:
            self._draw.polygon(self._pixels(part), fill)

    def dot(self, fill: RGB, cx: float, cy: float, rx: float, ry: float | None = None) -> None:
        """A filled ellipse; at least one pixel."""
        s = self._scale
        x, y = self._x + self._sx * cx, self._y - s * cy
        a, b = max(0.5, rx * s), max(0.5, (rx if ry is None else ry) * s)
        self._draw.ellipse((x - a, y - b, x + a, y + b), fill)

    def ring(self, colour: RGB, cx: float, cy: float, r: float, width: float) -> None:
        """A circle's outline, `width` wide, its outer edge at r."""
        s = self._scale
        x, y = self._x + self._sx * cx, self._y - s * cy
        a = r * s
        self._draw.ellipse(
            (x - a, y - a, x + a, y + a), outline=colour, width=max(1, round(width * s))
        )

    def line(self, colour: RGB, width: float, *points: Point) -> None:
        """A polyline, `width` in units; at least one pixel."""
        self._draw.line(self._pixels(points), colour, max(1, round(width * self._scale)))
