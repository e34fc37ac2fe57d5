"""Queries and scenes as arrays, so that the truth of every (caption, picture) pair is one product.

A group is a 0/1 row over all values of kind, colour, count, size and place; a spec is a row that is
1 on every value it allows. Their dot product is 5 exactly when the spec holds of the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

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
    ThingSpec,
)
from mmsearch.postcards.words import GROUPS, SKY_GROUPS

MOST_THINGS = 4  # groups of a scene
MOST_SPECS = 3  # groups a query names
KIND_NAMES = tuple(KINDS)
LAND_NAMES = tuple(LANDS)
_COLOURS = (*COLOURS, None)
FIELDS = (len(KIND_NAMES), len(_COLOURS), MAX_COUNT, len(SIZES), len(PLACES))
_STARTS = np.concatenate([[0], np.cumsum(FIELDS)])
THING_DIM = int(_STARTS[-1])
BACKDROP_DIM = len(SKIES) + len(LAND_NAMES)


@dataclass(frozen=True, slots=True)
class SceneArrays:
    """n scenes: backdrop (n, BACKDROP_DIM) one-hot sky and land; things (n, 4, THING_DIM) 0/1, an
    absent group all zero. uint8."""

    backdrop: np.ndarray
    things: np.ndarray


@dataclass(frozen=True, slots=True)
class QueryArrays:
    """m queries: backdrop (m, BACKDROP_DIM), specs (m, 3, THING_DIM), named (m, 3) whether the spec
    is used, left_of (m,). uint8."""

    backdrop: np.ndarray
    specs: np.ndarray
    named: np.ndarray
    left_of: np.ndarray


def joined(first: SceneArrays, second: SceneArrays) -> SceneArrays:
    """The scenes of both."""
    return SceneArrays(
        np.concatenate([first.backdrop, second.backdrop]),
        np.concatenate([first.things, second.things]),
    )


def take_scenes(arrays: SceneArrays, rows: np.ndarray) -> SceneArrays:
    """The scenes of these rows."""
    return SceneArrays(arrays.backdrop[rows], arrays.things[rows])


def take_queries(arrays: QueryArrays, rows: np.ndarray) -> QueryArrays:
    """The queries of these rows."""
    fields = (arrays.backdrop, arrays.specs, arrays.named, arrays.left_of)
    return QueryArrays(*(a[rows] for a in fields))


def scene_arrays(scenes: Sequence[Scene]) -> SceneArrays:
    backdrop = np.zeros((len(scenes), BACKDROP_DIM), np.uint8)
    things = np.zeros((len(scenes), MOST_THINGS, THING_DIM), np.uint8)
    for row, scene in enumerate(scenes):
        backdrop[row, SKIES.index(scene.sky)] = 1
        backdrop[row, len(SKIES) + LAND_NAMES.index(scene.land)] = 1
        for slot, thing in enumerate(scene.things):
            values = (
                KIND_NAMES.index(thing.kind),
                _COLOURS.index(thing.colour),
                thing.count - 1,
                SIZES.index(thing.size),
                PLACES.index(thing.place),
            )
            things[row, slot, _STARTS[:-1] + values] = 1
    return SceneArrays(backdrop, things)


def query_arrays(queries: Sequence[Query]) -> QueryArrays:
    backdrop = np.ones((len(queries), BACKDROP_DIM), np.uint8)
    specs = np.ones((len(queries), MOST_SPECS, THING_DIM), np.uint8)
    named = np.zeros((len(queries), MOST_SPECS), np.uint8)
    left_of = np.zeros(len(queries), np.uint8)
    for row, query in enumerate(queries):
        if query.sky is not None:
            backdrop[row, : len(SKIES)] = 0
            for sky in SKY_GROUPS.get(query.sky, (query.sky,)):
                backdrop[row, SKIES.index(sky)] = 1
        if query.land is not None:
            backdrop[row, len(SKIES) :] = 0
            backdrop[row, len(SKIES) + LAND_NAMES.index(query.land)] = 1
        for slot, spec in enumerate(query.things):
            named[row, slot] = 1
            _fill(specs[row, slot], spec)
        left_of[row] = query.left_of
    return QueryArrays(backdrop, specs, named, left_of)


def _fill(row: np.ndarray, spec: ThingSpec) -> None:
    allowed: list[tuple[int, list[int]]] = [
        (0, [KIND_NAMES.index(k) for k in GROUPS.get(spec.kind, (spec.kind,))])
    ]
    if spec.colour is not None:
        allowed.append((1, [_COLOURS.index(spec.colour)]))
    if spec.count is not None:
        allowed.append((2, [spec.count - 1]))
    if spec.size is not None:
        allowed.append((3, [SIZES.index(spec.size)]))
    if spec.place is not None:
        allowed.append((4, [PLACES.index(spec.place)]))
    for field, values in allowed:
        row[_STARTS[field] : _STARTS[field + 1]] = 0
        row[_STARTS[field] + np.array(values)] = 1


def relevance(queries: QueryArrays, scenes: SceneArrays, device: str = "cpu") -> torch.Tensor:
    """(m, n) bool: whether query i is true of scene j (`Query.matches`, groups included)."""

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device, torch.float32)

    m, n = len(queries.left_of), len(scenes.backdrop)
    right = (tensor(queries.backdrop) @ tensor(scenes.backdrop).T) > 1.5
    things = tensor(scenes.things).reshape(-1, THING_DIM)
    place = things[:, _STARTS[4] :] @ torch.arange(3.0, device=device)  # of absent groups: unused
    place = place.reshape(1, n, MOST_THINGS)
    lowest = highest = None
    for slot in range(MOST_SPECS):
        used = np.flatnonzero(queries.named[:, slot])
        if not len(used):
            continue
        rows = torch.from_numpy(used).to(device)
        hit = (tensor(queries.specs[used, slot]) @ things.T > 4.5).reshape(-1, n, MOST_THINGS)
        right[rows] &= hit.any(-1)
        if slot == 0:
            lowest = torch.full((m, n), 9.0, device=device)
            lowest[rows] = torch.where(hit, place, 9.0).amin(-1)
        if slot == 1:
            highest = torch.full((m, n), -9.0, device=device)
            highest[rows] = torch.where(hit, place, -9.0).amax(-1)
    if queries.left_of.any():
        assert lowest is not None
        assert highest is not None
        left = torch.from_numpy(queries.left_of).to(device).bool()
        right &= ~left[:, None] | (lowest < highest)
    return right
