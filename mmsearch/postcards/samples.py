"""A folder of postcards: pictures, captions, and the attributes both were made from."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmsearch.postcards.captions import captions
from mmsearch.postcards.draw import draw, encode_jpeg
from mmsearch.postcards.scene import Scene, Split, sample_scene

#: captions an image: English, Chinese
CAPTIONS = (3, 2)
#: samples are few and meant to be looked at: smoother edges than training needs
SUPERSAMPLE = 3


def write_samples(
    folder: Path, n: int, *, split: Split = "test", start: int = 0, size: int = 256
) -> None:
    """Write the postcards of seeds `start` to `start + n - 1`, size x size pixels, into `folder`.

    postcard-0000.jpg and so on, numbered by seed; `captions.jsonl` with an object {image, text} a
    line, several an image; `attributes.jsonl` with {image, seed, split, sky, land, things} a line.
    Files of these names are overwritten. Raises OSError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "captions.jsonl").open("w", encoding="utf-8") as texts,
        (folder / "attributes.jsonl").open("w", encoding="utf-8") as facts,
    ):
        for seed in range(start, start + n):
            scene = sample_scene(seed, split)
            name = f"postcard-{seed:04d}.jpg"
            picture = draw(scene, size, supersample=SUPERSAMPLE)
            (folder / name).write_bytes(encode_jpeg(picture, seed))
            for text in _texts(scene, split):
                texts.write(json.dumps({"image": name, "text": text}, ensure_ascii=False) + "\n")
            facts.write(json.dumps(_attributes(name, scene, split)) + "\n")


def _texts(scene: Scene, split: Split) -> Iterator[str]:
    rng = random.Random(f"postcard-samples/{split}/{scene.seed}")
    english, chinese = CAPTIONS
    yield from captions(scene, rng, english, "en", split)
    yield from captions(scene, rng, chinese, "zh", split)


def _attributes(name: str, scene: Scene, split: Split) -> dict[str, Any]:
    return {
        "image": name,
        "seed": scene.seed,
        "split": split,
        "sky": scene.sky,
        "land": scene.land,
        "things": [asdict(thing) for thing in scene.things],
    }
