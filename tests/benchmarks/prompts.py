"""Whether prompt templates help: short queries and labels on postcards, whose truth is known.

Draws postcards that training never saw, asks for each word (and each colour and word) that names
something in them, bare and in templates, and sorts the same pictures into classes.

    python tests/benchmarks/prompts.py [--model tiny] [--pictures 1000] [--seed 0] [--out FILE]

Top hit right: the share of queries whose first picture holds what they name. Labels: the share of
pictures whose most probable land, sky, or (of pictures with one kind of thing) kind is theirs.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmsearch.encode import Encoder, load_encoder
from mmsearch.postcards.draw import draw, encode_jpeg
from mmsearch.postcards.scene import KINDS, LANDS, SKIES, Query, Scene, ThingSpec, sample_scene
from mmsearch.postcards.words import COLOUR_WORDS, LAND_WORDS, NOUNS, SKY_WORDS
from mmsearch.prompts import BARE, PHOTO, SIMPLE, expand, fill, means

#: What postcards are called by their own captions: the best that templates can fit.
OWN = (
    "a photo of a {}",
    "a picture of a {}",
    "a postcard of a {}",
    "a drawing of a {}",
    "an image of a {}",
)
WAYS = {
    "bare": BARE,
    "photo": PHOTO,
    "simple (7)": SIMPLE,
    "bare + simple": (*BARE, *SIMPLE),
    "bare + photo": (*BARE, *PHOTO),
    "own words (5)": OWN,
}

Asked = list[tuple[str, Query]]


def queries(scenes: Sequence[Scene]) -> dict[str, Asked]:
    """Words and what they mean, where some picture holds it; by the number of words."""
    found: dict[str, Asked] = {"one word": [], "two words": [], "Chinese words": []}

    def add(words: str, query: Query) -> None:
        if any(query.matches(scene) for scene in scenes):
            kind = {1: "one word", 2: "two words"}.get(len(words.split(" ")))
            if not words.isascii():
                kind = "Chinese words"
            if kind is not None and (words, query) not in found[kind]:
                found[kind].append((words, query))

    for name in KINDS:
        noun = NOUNS[name]
        for word in (*noun.common, *noun.rare, *noun.zh, *noun.zh_rare):
            add(word, Query(things=(ThingSpec(name),)))
            for colour in KINDS[name].colours:
                plain, rare, zh, _ = COLOUR_WORDS[colour]
                for said in (*plain, *rare) if word.isascii() else zh:
                    query = Query(things=(ThingSpec(name, colour),))
                    add(f"{said} {word}" if word.isascii() else said + word, query)
    for land in LANDS:
        for word in (*LAND_WORDS[land].nouns, *LAND_WORDS[land].rare_nouns):
            add(word, Query(land=land))
    for sky in SKIES:
        for word in (*SKY_WORDS[sky].nouns, *SKY_WORDS[sky].rare_nouns):
            add(word, Query(sky=sky))
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", default="tiny")
    arguments.add_argument("--pictures", type=int, default=1000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    encoder = load_encoder(options.model, device="cpu")
    first = 1_000_000 * (options.seed + 1)
    scenes = [sample_scene(first + n, "test") for n in range(options.pictures)]
    images = _encoded(encoder, scenes)

    def top1(asked: Asked, prompts: Callable[[str], Sequence[str]]) -> float:
        vectors = means(encoder.encode_texts, [prompts(words) for words, _ in asked])
        best = (vectors @ images.T).argmax(axis=1)
        return float(
            np.mean([query.matches(scenes[n]) for (_, query), n in zip(asked, best, strict=True)])
        )

    def labelled(names: dict[str, str], of: Callable[[Scene], str | None]) -> tuple[int, float]:
        kept = [n for n, scene in enumerate(scenes) if of(scene) in names]
        vectors = means(encoder.encode_texts, [fill(templates, name) for name in names.values()])
        best = (images[kept] @ vectors.T).argmax(axis=1)
        keys = list(names)
        right = [keys[b] == of(scenes[n]) for n, b in zip(kept, best, strict=True)]
        return len(kept), float(np.mean(right))

    table: dict[str, dict[str, float]] = {}
    asked = queries(scenes)
    sizes = {name: len(found) for name, found in asked.items()}
    for way, templates in WAYS.items():
        row: dict[str, float] = {}
        for name, found in asked.items():
            row[name] = top1(found, lambda words, t=templates: fill(t, words))
        row["as expand does"] = top1(
            [q for found in asked.values() for q in found],
            lambda words, t=templates: expand(words, t),
        )
        for name, names, of in (
            ("land", {k: LAND_WORDS[k].nouns[0] for k in LANDS}, lambda s: s.land),
            ("sky", {k: SKY_WORDS[k].nouns[0] for k in SKIES}, lambda s: s.sky),
            ("kind", {k: NOUNS[k].common[0] for k in KINDS}, _only_kind),
        ):
            sizes[name], row[name] = labelled(names, of)
        table[way] = row
    heads = list(next(iter(table.values())))
    print(f"{'':15}" + "".join(f"{head:>16}" for head in heads))
    print(f"{'(how many)':15}" + "".join(f"{sizes.get(head, ''):>16}" for head in heads))
    for way, row in table.items():
        print(f"{way:15}" + "".join(f"{row[head]:>16.1%}" for head in heads))
    if options.out:
        options.out.write_text(json.dumps({"sizes": sizes, "shares": table}, indent=2))


def _encoded(encoder: Encoder, scenes: Sequence[Scene]) -> np.ndarray:
    prepared = [encoder.preprocess(np.asarray(_picture(scene))) for scene in scenes]
    step = encoder.batch_size
    return np.concatenate(
        [
            encoder.encode_images(np.stack(prepared[start : start + step]))
            for start in range(0, len(prepared), step)
        ]
    )


def _only_kind(scene: Scene) -> str | None:
    return scene.things[0].kind if len(scene.things) == 1 else None


def _picture(scene: Scene, side: int = 128) -> Image.Image:
    with Image.open(io.BytesIO(encode_jpeg(draw(scene, side), scene.seed))) as image:
        return image.convert("RGB")


if __name__ == "__main__":
    main()
