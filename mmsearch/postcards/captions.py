"""From what a query names to words, in English and in Chinese; queries that are true of a scene.

Two *wordings* exist. "train" is what the model learns from. "test" uses sentence patterns that
training never sees and the rare words of `words`, which training meets only in captions of at most
RARE_MOST attributes. Everything is drawn from the caller's `random.Random`, so a seed fixes it.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Literal

from mmsearch.postcards import phrasing_en, phrasing_zh
from mmsearch.postcards.phrasing import Choice, Wording
from mmsearch.postcards.scene import (
    COLOURS,
    KINDS,
    LANDS,
    MAX_COUNT,
    PLACES,
    SIZES,
    SKIES,
    Query,
    Scene,
    Thing,
    ThingSpec,
    held_out,
)

Language = Literal["en", "zh"]
Change = Literal["colour", "count", "place", "relation", "size", "kind", "sky", "land"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
CHANGES: tuple[Change, ...] = (
    "colour",
    "count",
    "place",
    "relation",
    "size",
    "kind",
    "sky",
    "land",
)
#: in training, rare words appear only in captions of at most so many attributes
RARE_MOST = 2
_RARE_SHARE = 0.3

_ATOM_WEIGHTS = {
    "sky": 1.5,
    "land": 1.5,
    "kind": 3.0,
    "colour": 3.0,
    "count": 2.0,
    "size": 1.0,
    "place": 2.0,
    "left_of": 3.0,
}


def attribute_count(query: Query) -> int:
    """How many attributes a query names: sky, land, each kind with what is said of it, left-of."""
    things = sum(
        1 + sum(x is not None for x in (t.colour, t.count, t.size, t.place)) for t in query.things
    )
    return (query.sky is not None) + (query.land is not None) + things + query.left_of


def phrase(
    query: Query, rng: random.Random, language: Language = "en", wording: Wording = "train"
) -> str:
    """One caption that says exactly what `query` names; "" for a query that names nothing.

    Besides the values of `scene`, a query's kinds and sky may be the groups of `words.GROUPS` and
    `words.SKY_GROUPS` ("boat", "night").
    """
    short = attribute_count(query) <= RARE_MOST
    choice = Choice(rng, wording, rare_share=_RARE_SHARE if short else 0.0)
    if language == "zh":
        return phrasing_zh.sentence(query, choice)
    return phrasing_en.sentence(query, choice)


def captions(
    scene: Scene,
    rng: random.Random,
    n: int,
    language: Language = "en",
    wording: Wording = "train",
) -> list[str]:
    """`n` captions true of `scene`: the first a full description, the others partial ones."""
    queries = [full_query(scene, rng)] if n else []
    queries += [sample_query(scene, rng) for _ in range(n - 1)]
    return [phrase(query, rng, language, wording) for query in queries]


def sample_query(scene: Scene, rng: random.Random, attributes: int | None = None) -> Query:
    """A query true of `scene` naming `attributes` attributes (default: 1 to 4, evenly).

    A kind is always named before its colour, count, size or place. Fewer attributes come back only
    when the scene has no more to name.
    """
    wanted = rng.randint(1, 4) if attributes is None else attributes
    sky = land = left_of = False
    named: dict[int, set[str]] = {}
    for _ in range(wanted):
        atoms: list[tuple[str, int]] = []
        if not sky:
            atoms.append(("sky", -1))
        if not land:
            atoms.append(("land", -1))
        for i, thing in enumerate(scene.things):
            if i not in named:
                # A relation joins the first two kinds; a third one would come between them.
                if len(named) < 3:
                    atoms.append(("kind", i))
                continue
            for atom in ("colour", "count", "size", "place"):
                known = atom in named[i] or (atom == "colour" and thing.colour is None)
                if not known and not (atom == "place" and left_of):
                    atoms.append((atom, i))
        if not left_of and len(named) == 2 and not any("place" in named[i] for i in named):
            first, second = (scene.things[i] for i in named)
            if first.place != second.place:
                atoms.append(("left_of", -1))
        if not atoms:
            break
        atom, i = rng.choices(atoms, [_ATOM_WEIGHTS[a] for a, _ in atoms])[0]
        if atom == "sky":
            sky = True
        elif atom == "land":
            land = True
        elif atom == "left_of":
            left_of = True
        elif atom == "kind":
            named[i] = set()
        else:
            named[i].add(atom)
    order = list(named)
    if left_of:
        order[:2] = sorted(order[:2], key=lambda i: PLACES.index(scene.things[i].place))
    return Query(
        sky=scene.sky if sky else None,
        land=scene.land if land else None,
        things=tuple(_spec(scene.things[i], named[i]) for i in order),
        left_of=left_of,
    )


def full_query(scene: Scene, rng: random.Random) -> Query:
    """A query true of `scene` that names most of it: up to three groups, usually sky and land."""
    things = rng.sample(scene.things, min(len(scene.things), rng.choice((1, 2, 2, 3))))
    left_of = len(things) == 2 and things[0].place != things[1].place and rng.random() < 0.5
    if left_of:
        things.sort(key=lambda t: PLACES.index(t.place))
    chances = {"colour": 0.85, "count": 0.5, "size": 0.35, "place": 0.0 if left_of else 0.5}
    return Query(
        sky=scene.sky if rng.random() < 0.7 else None,
        land=scene.land if rng.random() < 0.7 or not things else None,
        things=tuple(_spec(t, {a for a, p in chances.items() if rng.random() < p}) for t in things),
        left_of=left_of,
    )


def pair_query(scene: Scene, rng: random.Random, change: Change) -> Query | None:
    """A query true of `scene` on which `change` can be made, as minimal pairs need; else None.

    "colour" and "relation" name two coloured groups, one left of the other, where the scene has
    them ("a red boat left of a white house"); the others name one group fully.
    """
    if change in ("sky", "land"):
        return replace(sample_query(scene, rng, 2), **{change: getattr(scene, change)})
    things = [t for t in scene.things if t.colour is not None or change != "colour"]
    pairs = [
        (a, b)
        for a in things
        for b in things
        if PLACES.index(a.place) < PLACES.index(b.place) and a.colour and b.colour
    ]
    if pairs and change in ("colour", "relation"):
        return Query(things=tuple(_spec(t, {"colour"}) for t in rng.choice(pairs)), left_of=True)
    if not things or change == "relation":
        return None
    said: set[str] = {"colour"} if change == "kind" else {"colour", change}
    return Query(things=(_spec(rng.choice(things), said),))


def swap(
    query: Query, scene: Scene, rng: random.Random, change: Change, *, unseen: bool = True
) -> Query | None:
    """`query` with one thing changed so that it is false of `scene`; None if that cannot be done.

    "colour" exchanges two colours where the query names two, else takes another colour of the
    kind. With `unseen` False no held-out combination of kind, colour and land is made up.
    """
    changed = _changed(query, scene, rng, change)
    if changed is None or changed == query or changed.matches(scene):
        return None
    if not unseen and changed.land is not None:
        for spec in changed.things:
            if spec.kind in KINDS and held_out(spec.kind, spec.colour, changed.land):
                return None
    return changed


def _spec(thing: Thing, said: set[str]) -> ThingSpec:
    return ThingSpec(
        thing.kind,
        thing.colour if "colour" in said else None,
        thing.count if "count" in said else None,
        thing.size if "size" in said else None,
        thing.place if "place" in said else None,
    )


def _changed(query: Query, scene: Scene, rng: random.Random, change: Change) -> Query | None:
    if change == "sky":
        if query.sky is None:
            return None
        return replace(query, sky=rng.choice([s for s in SKIES if s != query.sky]))
    if change == "land":
        if query.land is None:
            return None
        return replace(query, land=rng.choice([x for x in LANDS if x != query.land]))
    things = list(query.things)
    if change == "relation":
        if not query.left_of:
            return None
        things[:2] = things[1::-1]
        return replace(query, things=tuple(things))
    if change == "colour":
        coloured = [i for i, t in enumerate(things) if t.colour is not None]
        if len(coloured) >= 2 and rng.random() < 0.7:
            i, j = rng.sample(coloured, 2)
            mine, other = things[i], things[j]
            # White boats and red houses exist; a black balloon does not, so it is no fair swap.
            fair = other.colour in _colours(mine.kind) and mine.colour in _colours(other.kind)
            if fair and mine.colour != other.colour:
                things[i] = replace(mine, colour=other.colour)
                things[j] = replace(other, colour=mine.colour)
                return replace(query, things=tuple(things))
    named = [
        i for i, t in enumerate(things) if change == "kind" or getattr(t, change, None) is not None
    ]
    if not named:
        return None
    i = rng.choice(named)
    new = _other_spec(things[i], scene, rng, change)
    if new is None:
        return None
    things[i] = new
    return replace(query, things=tuple(things))


def _other_spec(
    spec: ThingSpec, scene: Scene, rng: random.Random, change: Change
) -> ThingSpec | None:
    if change == "count":
        return replace(
            spec, count=rng.choice([n for n in range(1, MAX_COUNT + 1) if n != spec.count])
        )
    if change == "place":
        return replace(spec, place=rng.choice([p for p in PLACES if p != spec.place]))
    if change == "size":
        return replace(spec, size=rng.choice([s for s in SIZES if s != spec.size]))
    if change == "colour":
        others = [c for c in _colours(spec.kind) if c != spec.colour]
        return replace(spec, colour=rng.choice(others)) if others else None
    if spec.kind not in KINDS:
        return None
    kinds = [
        k.name
        for k in KINDS.values()
        if k.layer == KINDS[spec.kind].layer
        and scene.thing(k.name) is None
        and (spec.colour is None or spec.colour in k.colours)
    ]
    return replace(spec, kind=rng.choice(kinds)) if kinds else None


def _colours(kind: str) -> tuple[str, ...]:
    return KINDS[kind].colours if kind in KINDS else COLOURS
