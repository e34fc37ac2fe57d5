"""What a postcard shows: a sky, a land, and groups of things; which queries are true of it.

A scene is pure data, drawn from a seed. Every kind appears in at most one group of a scene, so that
"two red boats left of a house" is either true or false of it and never a matter of opinion.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

Place = Literal["left", "middle", "right"]
Size = Literal["small", "large"]
Split = Literal["train", "test"]
Layer = Literal["sky", "ground", "water"]

PLACES: tuple[Place, ...] = ("left", "middle", "right")
SIZES: tuple[Size, ...] = ("small", "large")
MAX_COUNT = 4

SKIES: tuple[str, ...] = (
    "clear",
    "cloudy",
    "sunset",
    "stars",
    "moon",
    "storm",
    "rainbow",
    "snowfall",
    "rain",
)
#: land → the layers on which things can stand there
LANDS: dict[str, tuple[Layer, ...]] = {
    "sea": ("sky", "water"),
    "beach": ("sky", "ground", "water"),
    "lake": ("sky", "ground", "water"),
    "desert": ("sky", "ground"),
    "meadow": ("sky", "ground"),
    "forest": ("sky", "ground"),
    "mountains": ("sky", "ground"),
    "city": ("sky", "ground"),
    "farmland": ("sky", "ground"),
    "snowfield": ("sky", "ground"),
}
COLOURS: tuple[str, ...] = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "white",
    "black",
    "brown",
)
_BRIGHT = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
_FUR = ("white", "black", "brown", "orange")
_ALL = COLOURS


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing: where it may stand and the colours it comes in (none: it has its own)."""

    name: str
    layer: Layer
    colours: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("balloon", "sky", _BRIGHT),
        Kind("kite", "sky", _BRIGHT),
        Kind("bird", "sky", ("white", "black", "red", "blue", "yellow")),
        Kind("airplane", "sky", ("white", "red", "blue", "yellow")),
        Kind("butterfly", "sky", ("orange", "yellow", "blue", "purple", "pink", "white")),
        Kind("house", "ground", _ALL),
        Kind("castle", "ground", ("white", "brown", "pink", "black")),
        Kind("church", "ground", ("white", "brown", "red")),
        Kind("lighthouse", "ground", ("red", "white", "blue", "black")),
        Kind("windmill", "ground", ("white", "brown", "red", "blue")),
        Kind("tent", "ground", _BRIGHT),
        Kind("car", "ground", _ALL),
        Kind("bus", "ground", ("red", "yellow", "green", "blue", "white", "orange")),
        Kind("bicycle", "ground", ("red", "yellow", "green", "blue", "black", "pink")),
        Kind("tractor", "ground", ("red", "green", "blue", "yellow")),
        Kind("umbrella", "ground", _BRIGHT),
        Kind("bench", "ground", ("brown", "white", "green", "red")),
        Kind("tree", "ground", ("green", "orange", "yellow", "red", "pink")),
        Kind("palm", "ground"),
        Kind("pine", "ground"),
        Kind("cactus", "ground"),
        Kind("flower", "ground", ("red", "yellow", "blue", "purple", "pink", "white", "orange")),
        Kind("mushroom", "ground", ("red", "brown", "purple", "white")),
        Kind("campfire", "ground"),
        Kind("snowman", "ground"),
        Kind("person", "ground", _ALL),
        Kind("cat", "ground", _FUR),
        Kind("dog", "ground", _FUR),
        Kind("horse", "ground", ("white", "black", "brown")),
        Kind("cow", "ground", ("white", "black", "brown")),
        Kind("sheep", "ground", ("white", "black")),
        Kind("sailboat", "water", _BRIGHT),
        Kind("rowboat", "water", ("red", "blue", "green", "yellow", "brown", "white")),
        Kind("whale", "water", ("blue", "black", "white")),
        Kind("duck", "water", ("yellow", "white", "brown", "green")),
        Kind("bridge", "water", ("red", "white", "brown", "black")),
    )
}


@dataclass(frozen=True, slots=True)
class Thing:
    """One group: `count` things of one kind, colour and size, standing together in one place.

    `colour` is None exactly for the kinds without colours of their own to choose.
    """

    kind: str
    colour: str | None
    count: int
    size: Size
    place: Place


@dataclass(frozen=True, slots=True)
class Scene:
    """The attributes of one postcard; the picture and its captions follow from it and its seed."""

    seed: int
    sky: str
    land: str
    things: tuple[Thing, ...]

    def thing(self, kind: str) -> Thing | None:
        return next((t for t in self.things if t.kind == kind), None)


@dataclass(frozen=True, slots=True)
class ThingSpec:
    """What a query says of one kind; None leaves it open (`count` None: at least one)."""

    kind: str
    colour: str | None = None
    count: int | None = None
    size: Size | None = None
    place: Place | None = None

    def matches(self, thing: Thing) -> bool:
        return (
            self.kind == thing.kind
            and self.colour in (None, thing.colour)
            and self.count in (None, thing.count)
            and self.size in (None, thing.size)
            and self.place in (None, thing.place)
        )


@dataclass(frozen=True, slots=True)
class Query:
    """A conjunction. With `left_of`, things[0] stands left of things[1] (compared by place)."""

    sky: str | None = None
    land: str | None = None
    things: tuple[ThingSpec, ...] = ()
    left_of: bool = False

    def matches(self, scene: Scene) -> bool:
        """True when the scene satisfies everything the query names."""
        if self.sky not in (None, scene.sky) or self.land not in (None, scene.land):
            return False
        found = [scene.thing(spec.kind) for spec in self.things]
        for spec, thing in zip(self.things, found, strict=True):
            if thing is None or not spec.matches(thing):
                return False
        if self.left_of:
            first, second = found[0], found[1]
            assert first is not None
            assert second is not None
            return PLACES.index(first.place) < PLACES.index(second.place)
        return True


def held_out(kind: str, colour: str | None, land: str) -> bool:
    """Whether training must never draw this combination (about one in ten, by hash, for ever)."""
    digest = hashlib.sha256(f"{kind}/{colour}/{land}".encode()).digest()
    return digest[0] < 26


def sample_scene(seed: int, split: Split = "train") -> Scene:
    """The scene of `seed`. The two splits never share a scene seed's stream.

    In "train" no thing is a held-out (kind, colour, land) combination; in "test" at least one is,
    whenever the land has one to offer.
    """
    rng = random.Random(f"postcard/{split}/{seed}")
    sky = rng.choice(SKIES)
    land = rng.choice(tuple(LANDS))
    things: list[Thing] = []
    taken: set[tuple[Layer, Place]] = set()
    wanted = rng.choices((1, 2, 3, 4), weights=(2, 4, 4, 2))[0]
    for _ in range(40):
        if len(things) == wanted:
            break
        layer = rng.choice(LANDS[land])
        if layer == "sky" and sum(KINDS[t.kind].layer == "sky" for t in things) == 2:
            continue
        place = rng.choice(PLACES)
        # Ground and water share the lower half of the picture: one group a place there.
        slot: tuple[Layer, Place] = ("sky" if layer == "sky" else "ground", place)
        if slot in taken:
            continue
        kind = rng.choice([k for k in KINDS.values() if k.layer == layer])
        if any(t.kind == kind.name for t in things):
            continue
        colour = rng.choice(kind.colours) if kind.colours else None
        unseen = held_out(kind.name, colour, land)
        if split == "train" and unseen:
            continue
        needs_one = split == "test" and not any(held_out(t.kind, t.colour, land) for t in things)
        if needs_one and len(things) == wanted - 1 and not unseen:
            continue
        taken.add(slot)
        things.append(Thing(kind.name, colour, rng.randint(1, MAX_COUNT), rng.choice(SIZES), place))
    return Scene(seed, sky, land, tuple(things))
