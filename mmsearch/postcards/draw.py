"""From a scene to its picture.

The picture is drawn at `supersample` times its size and averaged down. Three random streams feed
it, all seeded by the scene: the backdrop's, the grain's, and one for each group of things; so a
group can be taken out of a scene without moving anything else.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from mmsearch.postcards import (
    shapes_animals,
    shapes_buildings,
    shapes_nature,
    shapes_sky,
    shapes_vehicles,
    shapes_water,
)
from mmsearch.postcards.backdrop import (
    SKY_LOOKS,
    Canvas,
    gradient,
    paint_fall,
    paint_sky,
    sky_stops,
)
from mmsearch.postcards.lands import HORIZONS, ground_stops, paint_land
from mmsearch.postcards.palette import RGB, Light, Tones, shade, tones, tones_of
from mmsearch.postcards.pen import Pen
from mmsearch.postcards.scene import KINDS, PLACES, Layer, Place, Scene, Thing

Shape = Callable[[Pen, Tones, random.Random], None]
#: a foot's x and y and a scale, before depth and facing are settled
Rough = tuple[float, float, float]

#: kind → (width, height) in its own units, and how it is drawn
SHAPES: dict[str, tuple[float, float, Shape]] = {
    "balloon": (0.92, 1.2, shapes_sky.balloon),
    "kite": (0.86, 1.28, shapes_sky.kite),
    "bird": (1.4, 0.98, shapes_sky.bird),
    "airplane": (1.58, 0.76, shapes_sky.airplane),
    "butterfly": (1.12, 0.98, shapes_sky.butterfly),
    "house": (1.14, 1.1, shapes_buildings.house),
    "castle": (1.2, 1.22, shapes_buildings.castle),
    "church": (1.1, 1.42, shapes_buildings.church),
    "lighthouse": (0.58, 1.44, shapes_buildings.lighthouse),
    "windmill": (1.16, 1.4, shapes_buildings.windmill),
    "tent": (1.28, 0.92, shapes_buildings.tent),
    "car": (1.3, 0.64, shapes_vehicles.car),
    "bus": (1.3, 0.76, shapes_vehicles.bus),
    "bicycle": (1.3, 0.8, shapes_vehicles.bicycle),
    "tractor": (1.24, 0.96, shapes_vehicles.tractor),
    "umbrella": (1.14, 1.1, shapes_vehicles.umbrella),
    "bench": (1.32, 0.74, shapes_vehicles.bench),
    "tree": (1.06, 1.26, shapes_nature.tree),
    "palm": (1.2, 1.3, shapes_nature.palm),
    "pine": (0.92, 1.4, shapes_nature.pine),
    "cactus": (0.86, 1.2, shapes_nature.cactus),
    "flower": (0.84, 1.24, shapes_nature.flower),
    "mushroom": (1.06, 0.98, shapes_nature.mushroom),
    "campfire": (1.0, 1.0, shapes_nature.campfire),
    "snowman": (0.9, 1.22, shapes_nature.snowman),
    "person": (0.86, 1.36, shapes_nature.person),
    "cat": (1.06, 1.06, shapes_animals.cat),
    "dog": (1.34, 1.0, shapes_animals.dog),
    "horse": (1.26, 1.22, shapes_animals.horse),
    "cow": (1.44, 1.04, shapes_animals.cow),
    "sheep": (1.12, 0.88, shapes_animals.sheep),
    "sailboat": (1.12, 1.28, shapes_water.sailboat),
    "rowboat": (1.32, 0.7, shapes_water.rowboat),
    "whale": (1.36, 0.82, shapes_water.whale),
    "duck": (1.24, 0.88, shapes_water.duck),
    "bridge": (1.36, 0.74, shapes_water.bridge),
}

#: place → left and right edge
ZONES: dict[Place, tuple[float, float]] = {
    "left": (0.01, 0.335),
    "middle": (0.3375, 0.6625),
    "right": (0.665, 0.99),
}
#: the side, in pictures, of a thing one unit wide and one high, when 1, 2, 3 or 4 share a zone
_SIDES = {
    "small": (0.104, 0.098, 0.094, 0.09),
    "large": (0.204, 0.186, 0.169, 0.156),
}


@dataclass(frozen=True, slots=True)
class Spot:
    """Where one instance stands: its foot (x, y in 0..1, y down), pictures per unit, and facing."""

    x: float
    y: float
    scale: float
    mirror: bool


def spots(thing: Thing, land: str, rng: random.Random) -> list[Spot]:
    """Places for the instances of a group within its zone, hardly overlapping, far ones first.

    Of several arrangements, random or in staggered rows, the one with the least overlap is kept.
    """
    width, height, _ = SHAPES[thing.kind]
    left, right = ZONES[thing.place]
    # Equal area: a bench is wide and low, a lighthouse high and narrow, yet both are "large".
    scale = _SIDES[thing.size][thing.count - 1] / (width * height) ** 0.5
    scale = min(scale, (right - left) / width / 1.1)
    scales = [scale * rng.uniform(0.9, 1.1) for _ in range(thing.count)]
    best: list[Rough] = []
    least = float("inf")
    for attempt in range(8):
        if attempt == 4:  # a crowded shore: a little smaller beats hidden
            scales = [s * 0.88 for s in scales]
        placed: list[Rough] = []
        worst = 0.0
        for i, s in enumerate(scales):
            x0, x1, y0, y1 = _room(thing, land, s)
            if attempt % 4 == 3:  # in rows, left and right by turns
                down = (i + rng.uniform(-0.15, 0.15)) / max(1, thing.count - 1)
                across = (0.0, 1.0)[i % 2] + rng.uniform(-0.1, 0.1)
                tries = [(min(1.0, max(0.0, across)), min(1.0, max(0.0, down)))]
            else:
                tries = [(rng.random(), rng.random()) for _ in range(14)]
            spot, overlap = (x0, y0, s), float("inf")
            for across, down in tries:
                trial = (x0 + (x1 - x0) * across, y0 + (y1 - y0) * down, s)
                share = _overlap(trial, placed, width, height)
                if share < overlap:
                    spot, overlap = trial, share
                    if share == 0.0:
                        break
            placed.append(spot)
            worst = max(worst, overlap)
        if worst < least:
            least, best = worst, placed
        if least < 0.08:
            break
    best.sort(key=lambda spot: spot[1])
    return [Spot(x, y, s, rng.random() < 0.5) for x, y, s in best]


def _room(thing: Thing, land: str, s: float) -> tuple[float, float, float, float]:
    """The x0, x1, y0, y1 between which a thing of scale s may have its foot."""
    width, height, _ = SHAPES[thing.kind]
    layer = KINDS[thing.kind].layer
    left, right = ZONES[thing.place]
    tall = s * height
    shore = land in ("beach", "lake")
    if layer == "sky":
        y0, y1 = 0.03 + tall, max(0.42, 0.05 + tall)
    elif layer == "water":
        y0, y1 = (max(0.55, 0.475 + 0.4 * tall), 0.765) if shore else (0.61, 0.95)
    else:
        y0, y1 = (0.84, 0.985) if shore else (0.7, 0.97)
    return left + s * width / 2, right - s * width / 2, y0, y1


def _overlap(spot: Rough, placed: list[Rough], width: float, height: float) -> float:
    """The largest overlap of a thing's box with those placed, as a share of the smaller box."""
    x, y, s = spot
    worst = 0.0
    for xb, yb, sb in placed:
        dx = 0.53 * (s + sb) * width - abs(x - xb)
        dy = min(y, yb) - max(y - s * height, yb - sb * height)
        if dx > 0 and dy > 0:
            worst = max(worst, dx * dy / (min(s, sb) ** 2 * width * height))
    return worst


def _pixel(image: Image.Image, x: float, y: float) -> RGB:
    side = image.width
    value = image.getpixel((min(side - 1, max(0, int(x))), min(side - 1, max(0, int(y)))))
    assert isinstance(value, tuple)
    return (int(value[0]), int(value[1]), int(value[2]))


def _foot(
    image: Image.Image, draw: ImageDraw.ImageDraw, spot: Spot, width: float, layer: Layer
) -> None:
    """The contact shadow of a thing on the ground, or the ripple under one on the water."""
    side = image.width
    x, y = spot.x * side, spot.y * side
    under = _pixel(image, x, y)
    a, b = spot.scale * width * 0.46 * side, max(1.0, spot.scale * 0.055 * side)
    draw.ellipse((x - a, y - b, x + a, y + b), shade(under, 0.74 if layer == "ground" else 0.8))


def _draw_group(
    image: Image.Image, draw: ImageDraw.ImageDraw, thing: Thing, scene: Scene, light: Light
) -> list[tuple[float, Callable[[], None]]]:
    """The group's instances as (y of the foot, how to draw it)."""
    rng = random.Random(
        f"postcard-thing/{scene.seed}/{thing.kind}/{thing.colour}/{thing.count}/{thing.size}"
    )
    width, _, shape = SHAPES[thing.kind]
    layer = KINDS[thing.kind].layer
    side = image.width
    shades = (
        tones(thing.colour, rng, light)
        if thing.colour is not None
        else tones_of("green", (80, 150, 80))
    )
    jobs: list[tuple[float, Callable[[], None]]] = []
    for spot in spots(thing, scene.land, rng):

        def job(spot: Spot = spot) -> None:
            if layer != "sky":
                _foot(image, draw, spot, width, layer)
            pen = Pen(
                draw, spot.x * side, spot.y * side, spot.scale * side, spot.mirror, shades.ink
            )
            shape(pen, shades, rng)
            if layer == "water":
                _waterline(draw, spot, width, side)

        jobs.append((spot.y, job))
    return jobs


def _waterline(draw: ImageDraw.ImageDraw, spot: Spot, width: float, side: int) -> None:
    """A pale line of foam where a hull meets the water."""
    x, y, half = spot.x * side, spot.y * side, spot.scale * width * 0.42 * side
    draw.line((x - half, y, x + half, y), (214, 236, 244), max(1, round(0.03 * spot.scale * side)))


def draw(scene: Scene, size: int = 256, *, supersample: int = 2) -> Image.Image:
    """The picture of a scene: RGB, size x size pixels, the same for the same arguments."""
    side = size * supersample
    look = SKY_LOOKS[scene.sky]
    rng = random.Random(f"postcard-backdrop/{scene.seed}/{scene.sky}/{scene.land}")
    horizon = rng.uniform(*HORIZONS[scene.land])
    zones = [0.17, 0.5, 0.83]
    rng.shuffle(zones)
    flown = {PLACES.index(t.place) for t in scene.things if KINDS[t.kind].layer == "sky"}
    free = next((z for z in zones if int(z * 3) not in flown), zones[0])

    sky = sky_stops(scene.sky, rng, horizon)
    ground = [(y, _dim(c, look.land)) for y, c in ground_stops(scene.land, rng, horizon)]
    image = gradient(side, sky)
    canvas = Canvas(image)
    paint_sky(canvas, scene.sky, rng, horizon, free)
    # The setting sun and the rainbow end at the horizon.
    edge = int(horizon * side)
    image.paste(gradient(side, ground).crop((0, edge, side, side)), (0, edge))
    canvas.light = look.land
    paint_land(canvas, scene.land, rng, horizon)

    jobs: list[tuple[float, Callable[[], None]]] = []
    for thing in scene.things:
        jobs += _draw_group(image, canvas.draw, thing, scene, look.things)
    for _, job in sorted(jobs, key=lambda j: j[0]):
        job()

    canvas.light = (1.0, 1.0, 1.0)
    paint_fall(canvas, scene.sky, rng)
    if supersample > 1:
        image = image.reduce(supersample)
    return _develop(image, scene.seed)


def _dim(colour: RGB, light: Light) -> RGB:
    return (int(colour[0] * light[0]), int(colour[1] * light[1]), int(colour[2] * light[2]))


def _develop(image: Image.Image, seed: int) -> Image.Image:
    """A slight tint, exposure and grain, so that exact colours give nothing away."""
    rng = np.random.default_rng(seed)
    tint = rng.uniform(0.965, 1.035, 3).astype(np.float32) * np.float32(rng.uniform(0.96, 1.05))
    grain = np.float32(rng.uniform(1.0, 3.6))
    pixels = np.asarray(image, dtype=np.float32) * tint
    pixels += rng.standard_normal((*pixels.shape[:2], 1), dtype=np.float32) * grain
    np.clip(pixels, 0, 255, out=pixels)
    return Image.fromarray(pixels.astype(np.uint8))


def encode_jpeg(image: Image.Image, seed: int) -> bytes:
    """The picture as a JPEG of a quality (70 to 95) that depends on the seed."""
    quality = random.Random(f"postcard-jpeg/{seed}").randint(70, 95)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
