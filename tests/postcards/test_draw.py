"""The pictures keep their promises: the same scene the same picture, things where and as named."""

from __future__ import annotations

import io
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mmsearch.postcards.draw import SHAPES, draw, encode_jpeg, spots
from mmsearch.postcards.palette import NAMED
from mmsearch.postcards.samples import CAPTIONS, write_samples
from mmsearch.postcards.scene import (
    KINDS,
    LANDS,
    PLACES,
    SKIES,
    Place,
    Scene,
    Thing,
    sample_scene,
)

_LAND = {"sky": "meadow", "ground": "meadow", "water": "sea"}


def _pixels(scene: Scene, size: int = 96) -> NDArray[np.int16]:
    return np.asarray(draw(scene, size), dtype=np.int16)


def _changed(with_it: Scene, without: Scene, size: int = 96) -> NDArray[np.bool_]:
    return (np.abs(_pixels(with_it, size) - _pixels(without, size)) > 24).any(axis=-1)


def test_draw_is_deterministic_and_of_the_size_asked_for() -> None:
    scene = sample_scene(11)
    first = draw(scene, 80)
    assert (first.mode, first.size) == ("RGB", (80, 80))
    assert first.tobytes() == draw(scene, 80).tobytes()
    assert draw(scene, 64, supersample=1).size == (64, 64)
    assert first.tobytes() != draw(replace(scene, seed=12), 80).tobytes()


def test_every_kind_has_a_shape() -> None:
    assert list(SHAPES) == list(KINDS)


@pytest.mark.parametrize("sky", SKIES)
def test_skies_and_lands_all_differ(sky: str) -> None:
    pictures = [_pixels(Scene(5, sky, land, ()), 48) for land in LANDS]
    for i, a in enumerate(pictures):
        for b in pictures[:i]:
            assert np.abs(a - b).mean() > 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_changes_its_own_zone_only(kind: str) -> None:
    layer = KINDS[kind].layer
    colour = KINDS[kind].colours[0] if KINDS[kind].colours else None
    for seed, place in enumerate(PLACES):
        # A sky without sun, moon or lightning: those make way for what flies.
        bare = Scene(seed, "cloudy", _LAND[layer], ())
        full = replace(bare, things=(Thing(kind, colour, 3, "large", place),))
        columns = np.flatnonzero(_changed(full, bare).any(axis=0)) / 96
        third = PLACES.index(place) / 3
        assert columns.size
        assert columns.min() >= third - 0.015
        assert columns.max() <= third + 1 / 3 + 0.015


def test_groups_do_not_move_each_other() -> None:
    cat = Thing("cat", "orange", 2, "small", "left")
    car = Thing("car", "blue", 2, "large", "right")
    alone = _changed(Scene(3, "rain", "city", (cat,)), Scene(3, "rain", "city", ()))
    beside = _changed(Scene(3, "rain", "city", (cat, car)), Scene(3, "rain", "city", (car,)))
    assert (alone == beside).all()


@pytest.mark.parametrize("land", LANDS)
@pytest.mark.parametrize("size", ["small", "large"])
def test_instances_are_as_many_as_asked_and_hardly_overlap(land: str, size: str) -> None:
    for kind in KINDS.values():
        if kind.layer not in LANDS[land]:
            continue
        width, height, _ = SHAPES[kind.name]
        thing = Thing(kind.name, None, 4, "small" if size == "small" else "large", "middle")
        found = spots(thing, land, random.Random(kind.name))
        assert len(found) == 4
        for i, a in enumerate(found):
            for b in found[:i]:
                dx = (a.scale + b.scale) * width / 2 - abs(a.x - b.x)
                dy = min(a.y, b.y) - max(a.y - a.scale * height, b.y - b.scale * height)
                shared = max(0.0, dx) * max(0.0, dy)
                assert shared < 0.55 * min(a.scale, b.scale) ** 2 * width * height


def test_large_is_clearly_larger_than_small() -> None:
    for count in (1, 4):
        areas = []
        for size in ("small", "large"):
            thing = Thing("house", "red", count, "small" if size == "small" else "large", "middle")
            bare = Scene(1, "cloudy", "meadow", ())
            areas.append(_changed(replace(bare, things=(thing,)), bare).sum())
        assert areas[1] > 1.8 * areas[0]


def _dominant(kind: str, colour: str, sky: str, place: Place) -> str:
    """The named colour nearest to the commonest colour of the pixels a thing changes."""
    layer = KINDS[kind].layer
    bare = Scene(2, sky, _LAND[layer], ())
    full = replace(bare, things=(Thing(kind, colour, 1, "large", place),))
    changed = _changed(full, bare, 128)
    seen = _pixels(full, 128)[changed].astype(np.float32)[::2]
    named = np.array(list(NAMED.values()), dtype=np.float32)
    distances = ((seen[:, None, :] - named) ** 2).sum(axis=-1)
    seen = seen[distances.min(axis=1) < 75**2]  # a grey roof is of no named colour
    # The densest point of the colours: the fill, not outlines, tyres or shadows.
    near = ((seen[:, None, :] - seen[None, :, :]) ** 2).sum(axis=-1) < 22**2
    fill = seen[near[near.sum(axis=1).argmax()]].mean(axis=0)
    return min(NAMED, key=lambda name: float(((fill - NAMED[name]) ** 2).sum()))


@pytest.mark.parametrize("kind", [k for k in KINDS if KINDS[k].colours])
def test_a_thing_is_of_its_colour_by_day_and_night(kind: str) -> None:
    for colour in KINDS[kind].colours:
        for sky in ("cloudy", "stars", "sunset"):
            assert _dominant(kind, colour, sky, "middle") == colour, (colour, sky)


def test_encode_jpeg_round_trips() -> None:
    picture = draw(sample_scene(1), 64)
    data = encode_jpeg(picture, 1)
    assert data == encode_jpeg(picture, 1)
    with Image.open(io.BytesIO(data)) as back:
        assert (back.format, back.size, back.mode) == ("JPEG", (64, 64), "RGB")
        near = np.asarray(back, dtype=np.int16) - np.asarray(picture, dtype=np.int16)
    assert np.abs(near).mean() < 12


def test_write_samples_writes_pictures_captions_and_attributes(tmp_path: Path) -> None:
    write_samples(tmp_path / "cards", 3, start=7, size=48)
    folder = tmp_path / "cards"
    names = [f"postcard-{seed:04d}.jpg" for seed in (7, 8, 9)]
    assert sorted(p.name for p in folder.glob("*.jpg")) == names
    texts = [
        json.loads(line) for line in (folder / "captions.jsonl").read_text("utf-8").splitlines()
    ]
    assert [t["image"] for t in texts] == [name for name in names for _ in range(sum(CAPTIONS))]
    assert all(t["text"] for t in texts)
    for line, seed, name in zip(
        (folder / "attributes.jsonl").read_text("utf-8").splitlines(), (7, 8, 9), names, strict=True
    ):
        row = json.loads(line)
        things = tuple(Thing(**t) for t in row["things"])
        assert row["image"] == name
        assert Scene(row["seed"], row["sky"], row["land"], things) == sample_scene(seed, "test")
        with Image.open(folder / name) as picture:
            assert picture.size == (48, 48)
