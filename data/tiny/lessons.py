"""What a training step is fed: scenes in near-identical pairs, captions true and almost true."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
from open_clip.tokenizer import SimpleTokenizer
from relevance import QueryArrays, SceneArrays, query_arrays, scene_arrays

from mmsearch.postcards.captions import (
    CHANGES,
    Language,
    attribute_count,
    full_query,
    pair_query,
    phrase,
    sample_query,
    swap,
)
from mmsearch.postcards.scene import (
    KINDS,
    LANDS,
    MAX_COUNT,
    PLACES,
    SIZES,
    SKIES,
    Query,
    Scene,
    held_out,
    sample_scene,
)
from mmsearch.postcards.words import GROUPS, SKY_GROUPS

CONTEXT_LENGTH = 77
TRUE_TEXTS = 4  # captions a scene, each with an almost-true twin
# Of the minimal pairs: colour, count, place, relation, size. Each tower's hardest come most: of
# words, which of two stands left (left to chance, also the rarest); of pictures, number and place.
TEXT_PAIRS = (1.0, 1.0, 1.5, 20.0, 0.5)
PICTURE_PAIRS = (2.0, 7.0, 6.0, 5.0, 0.5)
UNKNOWN_TOKEN = 49405  # stands in training for every token the captions never use
CHINESE_SHARE = 0.42


@dataclass(frozen=True, slots=True)
class Lesson:
    """n scenes (2i and 2i + 1 differ in one thing) and 2·n·TRUE_TEXTS captions, those of scene i in
    rows i·2·TRUE_TEXTS and on: true ones first, then their twins. tokens (m, 77) uint16. `others`:
    more scenes, which nobody describes or draws, to be told apart from these by their attributes.
    """

    scenes: list[Scene]
    scene_arrays: SceneArrays
    tokens: np.ndarray
    queries: QueryArrays
    others: SceneArrays


class LessonMaker:
    """Draws lessons from training scenes; the same seed and start give the same lessons.
    `pair_weights`: how often each change is what a minimal pair is about."""

    def __init__(self, seed: int, pair_weights: tuple[float, ...] = TEXT_PAIRS) -> None:
        self._pair_weights = pair_weights
        self._tokenizer = SimpleTokenizer(context_length=CONTEXT_LENGTH)
        self._rng = random.Random(f"lessons/{seed}")
        self._next = self._rng.randrange(1 << 40)

    def lesson(self, pairs: int, others: int = 0, *, texts: bool = True) -> Lesson:
        """2·pairs scenes with their captions, or without `texts` with the queries alone."""
        scenes: list[Scene] = []
        for _ in range(pairs):
            scene = sample_scene(self._next)
            self._next += 1
            scenes += [scene, sibling(scene, self._rng)]
        queries: list[Query] = []
        said: list[str] = []
        for scene in scenes:
            true = [self._true_query(scene, i) for i in range(TRUE_TEXTS)]
            twins = [self._twin(query, scene) for query in true]
            for query in (*true, *twins):
                queries.append(query)
                if texts:
                    language: Language = "zh" if self._rng.random() < CHINESE_SHARE else "en"
                    said.append(self._said(query, language))
        more = [sample_scene(self._next + i) for i in range(others)]
        self._next += others
        return Lesson(
            scenes,
            scene_arrays(scenes),
            self._tokens(said),
            query_arrays(queries),
            scene_arrays(more),
        )

    def _said(self, query: Query, language: Language) -> str:
        """A caption of `query`. "A with B on its right" turns round what the six patterns with "of"
        say; as one caption in four of a relation it is never learnt, as one in two it is."""
        text = phrase(query, self._rng, language)
        if query.left_of and language == "en" and self._rng.random() < 0.4:
            for _ in range(12):
                if " its " in text.lower():
                    break
                text = phrase(query, self._rng, language)
        return text

    def _true_query(self, scene: Scene, i: int) -> Query:
        rng = self._rng
        if i == 0 and rng.random() < 0.6:
            return full_query(scene, rng)
        if i <= 1:
            change = rng.choices(CHANGES[:5], self._pair_weights)[0]
            query = pair_query(scene, rng, change)
            if query is not None:
                return query
        query = sample_query(scene, rng)
        # People type "boat" and "night" as well.
        if query.sky and rng.random() < 0.15:
            group = next((g for g, skies in SKY_GROUPS.items() if query.sky in skies), query.sky)
            query = replace(query, sky=group)
        if query.things and rng.random() < 0.08:
            first = query.things[0]
            group = next((g for g, kinds in GROUPS.items() if first.kind in kinds), first.kind)
            query = replace(query, things=(replace(first, kind=group), *query.things[1:]))
        return query

    def _twin(self, query: Query, scene: Scene) -> Query:
        """`query` made false of `scene` by one change; where none can be, some other true query."""
        order = self._rng.sample(CHANGES, len(CHANGES))
        if query.left_of and self._rng.random() < 0.85:
            order.insert(0, "relation")
        elif self._rng.random() < 0.5:
            order.insert(0, self._rng.choices(CHANGES[:5], self._pair_weights)[0])
        for change in order:
            if change in ("sky", "land", "kind") and self._rng.random() < 0.5:
                continue
            try:
                twin = swap(query, scene, self._rng, change, unseen=False)
            except ValueError:
                twin = None
            if twin is not None:
                return twin
        return sample_query(scene, self._rng, max(2, attribute_count(query)))

    def _tokens(self, texts: list[str]) -> np.ndarray:
        tokens = np.zeros((len(texts), CONTEXT_LENGTH), np.uint16)
        for row, text in enumerate(texts):
            ids = self._tokenizer.encode(text)
            if self._rng.random() < 0.06:
                ids.insert(self._rng.randint(0, len(ids)), UNKNOWN_TOKEN)
            ids = [self._tokenizer.sot_token_id, *ids[: CONTEXT_LENGTH - 2]]
            ids.append(self._tokenizer.eot_token_id)
            tokens[row, : len(ids)] = ids
        return tokens


def sibling(scene: Scene, rng: random.Random) -> Scene:
    """`scene` with one thing changed (colour, count, size, kind, place, sky or land), never to a
    held-out combination; a fresh look is drawn for it, since its seed differs."""
    for _ in range(20):
        other = _changed(scene, rng)
        if other is not None and not any(
            held_out(t.kind, t.colour, other.land) for t in other.things
        ):
            # Half of the siblings share the jitter of the drawing, so that only the change differs.
            return other if rng.random() < 0.5 else replace(other, seed=rng.randrange(1 << 40))
    return replace(scene, seed=rng.randrange(1 << 40))


def _changed(scene: Scene, rng: random.Random) -> Scene | None:
    what = rng.choices(
        ("sky", "land", "colour", "count", "size", "kind", "place", "colours"),
        (1, 1, 3, 6, 1, 2, 5, 2),
    )[0]
    if what == "sky":
        return replace(scene, sky=rng.choice([s for s in SKIES if s != scene.sky]))
    if what == "land":
        layers = {KINDS[t.kind].layer for t in scene.things}
        fits = [x for x in LANDS if x != scene.land and layers <= set(LANDS[x])]
        return replace(scene, land=rng.choice(fits)) if fits else None
    if not scene.things:
        return None
    things = list(scene.things)
    i = rng.randrange(len(things))
    thing = things[i]
    kind = KINDS[thing.kind]
    if what == "colour":
        others = [c for c in kind.colours if c != thing.colour]
        if not others:
            return None
        things[i] = replace(thing, colour=rng.choice(others))
    elif what == "count":
        things[i] = replace(
            thing, count=rng.choice([n for n in range(1, MAX_COUNT + 1) if n != thing.count])
        )
    elif what == "size":
        things[i] = replace(thing, size=rng.choice([s for s in SIZES if s != thing.size]))
    elif what == "kind":
        kinds = [
            k
            for k in KINDS.values()
            if k.layer == kind.layer and all(t.kind != k.name for t in things)
        ]
        new = rng.choice(kinds)
        colour = thing.colour
        if colour not in new.colours:
            colour = rng.choice(new.colours) if new.colours else None
        things[i] = replace(thing, kind=new.name, colour=colour)
    elif what == "place":
        sky = kind.layer == "sky"
        place = rng.choice([p for p in PLACES if p != thing.place])
        for j, other in enumerate(things):
            if other.place == place and (KINDS[other.kind].layer == "sky") == sky:
                things[j] = replace(other, place=thing.place)  # the two change places
        things[i] = replace(thing, place=place)
    else:
        if len(things) < 2:
            return None
        i, j = rng.sample(range(len(things)), 2)
        a, b = things[i], things[j]
        fair = a.colour in KINDS[b.kind].colours and b.colour in KINDS[a.kind].colours
        if not fair or a.colour == b.colour:
            return None
        things[i], things[j] = replace(a, colour=b.colour), replace(b, colour=a.colour)
    return replace(scene, things=tuple(things))
