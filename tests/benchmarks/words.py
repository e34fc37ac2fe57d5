"""Whether words help a search by vectors, and whether they ever spoil one: measured on postcards.

Postcards of the test split are given names and folders that say nothing of what they show
("germany/2019/IMG_2041.jpg"), and captions in wordings that most queries do not use. Of each kind
of query the share whose first answer is right is shown: by vectors alone, by words alone, and by
both fused as mmsearch.fusion does, with several weights; "named" is how many queries name anything.
With captions linked to their pictures and without; and again with half of the pictures in folders
that do say what is seen ("beach/IMG_1001.jpg"). The vectors are those of the bundled model.

    python tests/benchmarks/words.py [--pictures 1000] [--queries 200] [--seed 0]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmsearch.cli.evaluate import encode_pictures
from mmsearch.encode import load_encoder
from mmsearch.fusion import DEPTH, reciprocal_rank_fusion
from mmsearch.postcards.captions import captions, phrase, sample_query
from mmsearch.postcards.draw import draw, encode_jpeg
from mmsearch.postcards.scene import Query, Scene, sample_scene
from mmsearch.store import Catalog, CatalogWriter, ImageRow, TextRow
from mmsearch.types import PictureInfo, Space

WEIGHTS = (0.5, 1.0, 1.5, 2.0, 3.0)
COUNTRIES = ("germany", "france", "italy", "spain", "norway", "japan", "peru", "kenya", "canada")
YEARS = range(2015, 2023)
ABSURD = (
    "a circuit diagram", "spreadsheet of quarterly earnings", "x-ray of a broken wrist",
    "a plate of spaghetti", "the periodic table", "a violin on a chair", "microscope slide",
    "portrait of a bearded man", "a basketball game", "electrical substation at dawn",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A query, and which pictures answer it: (pictures,) bool."""

    text: str
    right: NDArray[np.bool_]


def path_of(n: int) -> str:
    return f"{COUNTRIES[n % 9]}/{YEARS[n // 9 % 8]}/IMG_{n + 1000:04}.jpg"


def sorted_path(n: int, scene: Scene) -> str:
    """Half of the pictures in folders that say where they are taken."""
    return f"{scene.land if n % 2 else 'unsorted'}/IMG_{n + 1000:04}.jpg"


def said_of(scene: Scene) -> list[str]:
    rng = random.Random(f"benchmark/words/{scene.seed}")
    return [*captions(scene, rng, 3, "en", "test"), *captions(scene, rng, 2, "zh", "test")]


def fill(path: Path, scenes: Sequence[Scene], paths: Sequence[str], *, linked: bool) -> None:
    """A catalog of the pictures, their content ids being 1, 2, 3, …; vectors are no part of it."""
    with closing(CatalogWriter(path)) as writer:
        space = writer.ensure_space(Space("bench", 1, "b" * 64, "none"))
        source = writer.ensure_source("/home/anna/Pictures", "folder", (), False)
        info = PictureInfo("JPEG", 128, 128)
        vector = np.ones(1, np.float32)
        images = [
            ImageRow(source, paths[n], "", 1, 1, n.to_bytes(32, "big"), info, vector)
            for n in range(len(scenes))
        ]
        bodies = [(n, body) for n, scene in enumerate(scenes) for body in said_of(scene)]
        texts = [
            TextRow(
                source, "captions.jsonl", "", str(key), "file", body,
                hashlib.sha256(body.encode()).digest(), paths[n] if linked else None, vector,
            )
            for key, (n, body) in enumerate(bodies)
        ]  # fmt: skip
        writer.commit(space, images=images)
        writer.commit(space, texts=texts)
        writer.link()


def ask(scenes: Sequence[Scene], n: int, seed: int) -> dict[str, list[Asked]]:
    rng = random.Random(f"benchmark/words/ask/{seed}")
    every = range(len(scenes))

    def of(query: Query) -> NDArray[np.bool_]:
        return np.array([query.matches(scene) for scene in scenes])

    def at(*folders: str) -> NDArray[np.bool_]:
        return np.array([set(folders) <= set(path_of(i).split("/")) for i in every])

    chosen = [rng.randrange(len(scenes)) for _ in range(n)]
    places = [path_of(i).split("/")[:2] for i in chosen]
    visual = [sample_query(scenes[i], rng, 1 + j % 4) for j, i in enumerate(chosen)]
    short = [sample_query(scenes[i], rng, 1) for i in chosen]
    return {
        "file name": [Asked(f"IMG_{i + 1000:04}", np.array(every) == i) for i in chosen],
        "file name, apart": [Asked(f"img {i + 1000:04}", np.array(every) == i) for i in chosen],
        "folder": [Asked(place[0], at(place[0])) for place in places],
        "folder + year": [Asked(" ".join(place), at(*place)) for place in places],
        "folder + what is seen": [
            Asked(f"{place[0]} {phrase(q, rng)}", at(place[0]) & of(q))
            for place, q in zip(places, short, strict=True)
        ],
        "folder + year + what is seen": [
            Asked(f"{' '.join(place)} {phrase(q, rng)}", at(*place) & of(q))
            for place, q in zip(places, short, strict=True)
        ],
        "a caption as written": [
            Asked(rng.choice(said_of(scenes[i])[:3]), np.array(every) == i) for i in chosen
        ],
        "what is seen": [Asked(phrase(q, rng), of(q)) for q in visual],
        "what is seen, rare words": [Asked(phrase(q, rng, "en", "test"), of(q)) for q in visual],
        "what is seen, in Chinese": [Asked(phrase(q, rng, "zh"), of(q)) for q in visual],
    }


def share(asked: Sequence[Asked], ranked: Sequence[NDArray[np.int64]]) -> float:
    """Of how many queries the first answer is right. Ids begin at 1."""
    hits = [
        len(ids) > 0 and bool(a.right[ids[0] - 1]) for a, ids in zip(asked, ranked, strict=True)
    ]
    return float(np.mean(hits))


def table(
    catalog: Catalog,
    asked: dict[str, list[Asked]],
    by_vectors: dict[str, list[NDArray[np.int64]]],
) -> None:
    weights = "".join(f"{weight:>7g}" for weight in WEIGHTS)
    print(f"{'':30}{'vectors':>8}{'words':>8}{'named':>8}   fused, named weighing share times")
    print(f"{'':30}{'':8}{'':8}{'':8}{weights}")
    for kind, queries in asked.items():
        words = [catalog.words.find(a.text, "image", DEPTH) for a in queries]
        named = [catalog.words.named(a.text, DEPTH) for a in queries]
        row = f"{kind:30}{share(queries, by_vectors[kind]):8.1%}{share(queries, words):8.1%}"
        row += f"{np.mean([len(n.ids) > 0 for n in named]):8.1%}"
        for weight in WEIGHTS:
            both = [
                reciprocal_rank_fusion(
                    [vectors, n.ids],
                    weights=[1, weight * n.share],
                    ranks=[None, n.ranks],
                    limit=10,
                )[0]
                for vectors, n in zip(by_vectors[kind], named, strict=True)
            ]
            row += f"{share(queries, both):7.1%}"
        print(row)
    found = sum(len(catalog.words.find(text, "image", DEPTH)) > 0 for text in ABSURD)
    called = sum(len(catalog.words.named(text, DEPTH).ids) > 0 for text in ABSURD)
    print(
        f"absurd, of {len(ABSURD)}: words find something for {found}, name something for {called}"
    )


def ranking(
    encode: Callable[[list[str]], NDArray[np.float32]], xb: NDArray[np.float32], texts: list[str]
) -> list[NDArray[np.int64]]:
    order = np.argsort(-(encode(texts) @ xb.T), axis=1, kind="stable")
    return [row[:DEPTH].astype(np.int64) + 1 for row in order]


def main() -> None:
    parser = argparse.ArgumentParser(description="Words and vectors")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    first = 1_000_000 * (options.seed + 7)
    scenes = [sample_scene(first + n, "test") for n in range(options.pictures)]
    encoder = load_encoder("tiny", device="cpu")
    drawn = []
    for scene in scenes:
        with Image.open(io.BytesIO(encode_jpeg(draw(scene, 128), scene.seed))) as image:
            drawn.append(image.convert("RGB"))
    xb = encode_pictures(encoder, drawn)
    asked = ask(scenes, options.queries, options.seed)
    by_vectors = {
        kind: ranking(encoder.encode_texts, xb, [a.text for a in queries])
        for kind, queries in asked.items()
    }
    print(f"{len(scenes):,} pictures, {options.queries} queries of a kind: first answer right")
    unsaid = [path_of(n) for n in range(len(scenes))]
    said = [sorted_path(n, scene) for n, scene in enumerate(scenes)]
    visual = {kind: queries for kind, queries in asked.items() if kind.startswith("what")}
    with tempfile.TemporaryDirectory() as folder:
        for what, paths, linked, queries in (
            ("folders by country and year, captions linked", unsaid, True, asked),
            ("folders by country and year, captions not linked", unsaid, False, asked),
            ("half in folders by land, captions linked", said, True, visual),
            ("half in folders by land, captions not linked", said, False, visual),
        ):
            path = Path(folder) / f"{what}.db"
            fill(path, scenes, paths, linked=linked)
            print(f"\n{what}")
            with closing(Catalog(path)) as catalog:
                table(catalog, queries, by_vectors)


if __name__ == "__main__":
    main()
