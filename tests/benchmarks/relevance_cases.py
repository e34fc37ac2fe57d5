"""Questions with known answers, for tests/benchmarks/relevance.py.

A case is a query, the items that can be found, and which of them are right. Three sources: the
drawn postcards with the bundled model (truth from the attributes they were drawn by); made-up
models of known signal and noise, since no other trained one is at hand; changed copies of pictures.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmsearch import generic
from mmsearch.postcards.captions import phrase, sample_query
from mmsearch.postcards.draw import draw, encode_jpeg
from mmsearch.postcards.scene import Query, Scene, sample_scene

Floats = NDArray[np.float32]

#: No postcard shows them; the last few are no words at all.
ABSURD = tuple(
    """a circuit diagram|a bowl of ramen|tax form 1040|a laptop keyboard|an x-ray of a lung
two politicians shaking hands|a screenshot of a spreadsheet|sushi on a wooden plate|a brain scan
an old typewriter|a pair of running shoes|the periodic table|a wedding dress|a chess tournament
a microscope slide|a violin|a dentist at work|quarterly revenue report|a giraffe|a penguin colony
an octopus|a motorcycle race|a subway station|stock market chart|a bottle of wine|a submarine
a guitar solo|a toothbrush|the eiffel tower|a robot vacuum cleaner|an elephant in a zoo
invoice number 48213|a football stadium|a skyscraper under construction|a cup of espresso
a court hearing|a sewing machine|a hospital bed|a kangaroo|surgical instruments|a passport photo
the logo of a bank|a birthday cake|a refrigerator|x = y + 2|lorem ipsum dolor sit amet
asdf qwer zxcv|hjklm vbnop|zzzzzz|1234567890""".replace("\n", "|").split("|")
)


@dataclass(frozen=True)
class Case:
    """query (dim,); items (n, dim), `right` (n,) bool; captions (m, dim) of the same model.

    group: what is reported together. asked, found: modalities. pictures: the library's pictures
    where the items are texts.
    """

    query: Floats
    items: Floats
    right: NDArray[np.bool_]
    captions: Floats
    group: str
    asked: Any = "text"
    found: Any = "image"
    pictures: Floats | None = None
    text: str = ""


def unit(x: NDArray[Any]) -> Floats:
    norms = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.ascontiguousarray(x / np.maximum(norms, 1e-9), np.float32)


class Tiny:
    """The bundled model."""

    def __init__(self) -> None:
        from mmsearch.encode import load_encoder

        self.encoder = load_encoder("tiny", device="cpu", dtype="fp32")
        self.captions = self.texts(generic.captions())

    def texts(self, texts: Sequence[str]) -> Floats:
        parts = [self.encoder.encode_texts(texts[i : i + 64]) for i in range(0, len(texts), 64)]
        return np.concatenate(parts)

    def pictures(self, pictures: Iterator[Image.Image]) -> Floats:
        out, batch = [], []
        for picture in pictures:
            batch.append(self.encoder.preprocess(np.asarray(picture.convert("RGB"))))
            if len(batch) == 64:
                out.append(self.encoder.encode_images(np.stack(batch)))
                batch = []
        if batch:
            out.append(self.encoder.encode_images(np.stack(batch)))
        return np.concatenate(out)


@dataclass(frozen=True)
class Pool:
    """Drawn postcards with their vectors, to make libraries of."""

    scenes: list[Scene]
    vectors: Floats

    @classmethod
    def drawn(
        cls, model: Tiny, split: Any, first: int, n: int, *, cache: Path | None = None
    ) -> Pool:
        """`cache`: a folder to keep their vectors in, for the next time."""
        scenes = [sample_scene(first + i, split) for i in range(n)]
        kept = cache and cache / f"{model.encoder.space.fingerprint[:16]}-{split}-{first}-{n}.npy"
        if kept and kept.exists():
            return cls(scenes, np.load(kept))
        vectors = model.pictures(card(scene) for scene in scenes)
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.save(kept, vectors)
        return cls(scenes, vectors)


def card(scene: Scene) -> Image.Image:
    data = encode_jpeg(draw(scene, 128), scene.seed)
    return Image.open(io.BytesIO(data)).convert("RGB")


def from_text(
    model: Tiny,
    pool: Pool,
    *,
    seed: int,
    n: int,
    wording: Any,
    sizes: Sequence[int] = (1000,),
    wants: Sequence[int] = (0, 1, 10, 100),
    absurd: bool = True,
) -> list[Case]:
    """Texts asked for pictures: libraries that hold exactly so many true ones, by attributes."""
    rng, draws = random.Random(seed), np.random.default_rng(seed)
    asked: list[tuple[str, NDArray[np.int64], NDArray[np.bool_], int]] = []
    while len(asked) < n:
        want, size = wants[len(asked) % len(wants)], rng.choice(sizes)
        want = min(want, size)
        named = rng.choice(
            (1, 1, 2) if want >= 100 else (1, 2, 3) if want >= 10 else (1, 2, 2, 3, 4)
        )
        query = sample_query(rng.choice(pool.scenes), rng, named)
        right = np.array([query.matches(scene) for scene in pool.scenes])
        yes, no = np.flatnonzero(right), np.flatnonzero(~right)
        if len(yes) < want or len(no) < size - want:
            continue
        ids = np.concatenate(
            [draws.choice(yes, want, replace=False), draws.choice(no, size - want, replace=False)]
        )
        draws.shuffle(ids)
        asked.append((phrase(query, rng, "en", wording), ids, right[ids], want))
    cases = [
        Case(vector, pool.vectors[ids], right, model.captions, f"{want} true", text=text)
        for vector, (text, ids, right, want) in zip(
            model.texts([text for text, *_ in asked]), asked, strict=True
        )
    ]
    if absurd:
        for text, vector in zip(ABSURD, model.texts(ABSURD), strict=True):
            ids = draws.choice(len(pool.scenes), rng.choice(sizes), replace=False)
            none = np.zeros(len(ids), np.bool_)
            cases.append(Case(vector, pool.vectors[ids], none, model.captions, "absurd", text=text))
    return cases


def from_picture(model: Tiny, pool: Pool, *, seed: int, n: int, size: int = 1000) -> list[Case]:
    """Pictures asked for texts: captions of others, with 0, 1 or 10 true ones among them."""
    rng = random.Random(seed)
    said: list[tuple[Query, str]] = []
    for _ in range(4 * size):
        query = sample_query(rng.choice(pool.scenes), rng, rng.choice((2, 3, 4)))
        said.append((query, phrase(query, rng, "en")))
    vectors = model.texts([text for _, text in said])
    cases = []
    for i in range(n):
        want = (0, 1, 10)[i % 3]
        at = rng.randrange(len(pool.scenes))
        fits = np.array([query.matches(pool.scenes[at]) for query, _ in said])
        no = np.flatnonzero(~fits).tolist()
        more = [sample_query(pool.scenes[at], rng, 2 + j % 3) for j in range(want)]
        texts = model.texts([phrase(q, rng, "en") for q in more]) if more else vectors[:0]
        ids = rng.sample(no, size - want)
        items = np.concatenate([texts, vectors[ids]])
        others = pool.vectors[rng.sample(range(len(pool.scenes)), size)]
        right = np.arange(len(items)) < want
        cases.append(
            Case(
                pool.vectors[at], items, right, model.captions, f"{want} true",
                asked="image", found="text", pictures=others,
            )
        )  # fmt: skip
    return cases


def edits(picture: Image.Image, rng: random.Random) -> Iterator[tuple[str, Image.Image]]:
    """The same picture as others keep it."""
    picture = picture.convert("RGB")
    w, h = picture.size
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=35)
    yield "recompressed", Image.open(io.BytesIO(out.getvalue())).convert("RGB")
    cut = rng.uniform(0.06, 0.12)
    yield "cropped", picture.crop((int(cut * w), int(cut * h), int((1 - cut / 2) * w), h))
    yield "rotated", picture.rotate(rng.choice((-5, 5)), Image.Resampling.BICUBIC, expand=False)
    yield "smaller", picture.resize((max(32, w // 2), max(32, h // 2)))


def from_edits(
    model: Tiny, pool: Pool, *, seed: int, n: int, sizes: Sequence[int] = (1000,)
) -> list[Case]:
    """Pictures asked for pictures: a changed copy of one that is there, or of one that is not.

    Pictures that share much with the one asked about are left out: no one can say whether they
    should be found.
    """
    rng = random.Random(seed)
    chosen = rng.sample(range(len(pool.scenes)), n)
    names, changed = [], []
    for i, at in enumerate(chosen):
        name, picture = list(edits(card(pool.scenes[at]), rng))[i // 2 % 4]
        names.append(name)
        changed.append(picture)
    cases = []
    for i, (at, vector) in enumerate(zip(chosen, model.pictures(iter(changed)), strict=True)):
        size, scene = rng.choice(sizes), pool.scenes[at]
        far = [j for j, other in enumerate(pool.scenes) if shared(scene, other) <= 1]
        ids = rng.sample(far, min(size, len(far)))
        there = i % 2 == 0
        if there:
            ids[0] = at
        right = (np.arange(len(ids)) < 1) & there
        group = f"copy, {names[i]}" if there else "copy of nothing"
        cases.append(Case(vector, pool.vectors[ids], right, model.captions, group, asked="image"))
    return cases


def shared(a: Scene, b: Scene) -> int:
    """How much two postcards have in common: sky, land, kinds, kinds with their colour."""
    kinds = {t.kind for t in a.things} & {t.kind for t in b.things}
    coloured = {(t.kind, t.colour) for t in a.things} & {(t.kind, t.colour) for t in b.things}
    return (a.sky == b.sky) + (a.land == b.land) + len(kinds) + len(coloured)


@dataclass(frozen=True)
class Sort:
    """A made-up model: how much noise a picture and a text carry beside what they show (1: as much
    as the meaning itself), the gap between the modalities, how unevenly directions are used."""

    noise: float
    text_noise: float
    gap: float
    uneven: float
    dim: int


#: Fitted on; reported on. None is in both.
FIT_SORTS = (
    Sort(0.3, 0.3, 1.0, 0.5, 512),
    Sort(0.5, 0.4, 1.0, 0.5, 512),
    Sort(0.5, 0.3, 2.0, 1.0, 256),
    Sort(0.8, 0.5, 1.5, 0.7, 384),
    Sort(0.3, 0.5, 0.5, 0.2, 256),
)
TEST_SORTS = (
    Sort(0.4, 0.4, 1.2, 0.4, 512),
    Sort(0.6, 0.3, 0.8, 0.8, 256),
    Sort(0.4, 0.3, 3.0, 0.3, 768),
)


class MadeUp:
    """A made-up model. A picture is the direction of the sum of a few concepts, a text of those it
    names; each with noise, and shifted into its modality's corner of the space."""

    def __init__(self, seed: int, sort: Sort, concepts: int = 600) -> None:
        self.rng = np.random.default_rng(seed)
        self.sort = sort
        weights = np.arange(1, sort.dim + 1) ** (-sort.uneven / 2)
        self._weights = weights / np.sqrt((weights**2).mean())
        centres = self.rng.standard_normal((concepts // 12 + 1, sort.dim))
        own = self.rng.standard_normal((concepts, sort.dim))
        mixed = 0.6 * centres[self.rng.integers(0, len(centres), concepts)] + 0.8 * own
        self.concepts = unit(mixed * self._weights)
        self._picture_corner = unit(self.rng.standard_normal(sort.dim)) * sort.gap
        self._text_corner = unit(self.rng.standard_normal(sort.dim)) * sort.gap
        self.captions = self.texts(
            [self.some(range(concepts), int(self.rng.integers(1, 4))) for _ in range(200)]
        )

    def some(self, of: Sequence[int], n: int) -> list[int]:
        return [int(i) for i in self.rng.choice(np.asarray(of), n, replace=False)]

    def _noise(self, n: int, size: float) -> Floats:
        noise = unit(self.rng.standard_normal((n, self.sort.dim)) * self._weights) * size
        return np.asarray(noise * self.rng.uniform(0.7, 1.3, (n, 1)), np.float32)

    def pictures(self, shown: Sequence[Sequence[int]]) -> Floats:
        meant = np.stack(
            [self.rng.uniform(0.6, 1.2, len(one)) @ self.concepts[list(one)] for one in shown]
        )
        return unit(unit(meant) + self._noise(len(shown), self.sort.noise) + self._picture_corner)

    def texts(self, named: Sequence[Sequence[int]]) -> Floats:
        meant = unit(np.stack([self.concepts[list(one)].sum(axis=0) for one in named]))
        return unit(meant + self._noise(len(named), self.sort.text_noise) + self._text_corner)

    def nonsense(self) -> Floats:
        return unit(self._noise(1, 1.2) + self._text_corner)


def made_up(
    sort: Sort,
    *,
    seed: int,
    n: int,
    sizes: Sequence[int] = (1000,),
    wants: Sequence[int] = (0, 1, 10, 100),
) -> list[Case]:
    """Texts of one or two concepts asked for pictures of up to five, as `from_text` does. One
    picture in ten has one of two concepts asked for: half a match is none."""
    model = MadeUp(seed, sort)
    rng = model.rng
    cases = []
    for i in range(n):
        size = int(rng.choice(sizes))
        want = min(wants[i % len(wants)], size)
        world = model.some(range(len(model.concepts)), int(rng.choice((40, 120, 400))))
        asked = model.some(world, int(rng.integers(1, 3)))
        others = [c for c in world if c not in asked]
        shown = []
        for j in range(size):
            some = model.some(others, int(rng.integers(1, 5)))
            if j < want:
                some = asked + some[: int(rng.integers(0, 3))]
            elif len(asked) == 2 and rng.random() < 0.1:
                some[0] = asked[int(rng.integers(2))]
            shown.append(some)
        absurd = want == 0 and rng.random() < 0.4
        vector = (model.nonsense() if absurd else model.texts([asked]))[0]
        order = rng.permutation(size)
        right = (np.arange(size) < want)[order]
        group = "absurd" if absurd else f"{want} true"
        cases.append(Case(vector, model.pictures(shown)[order], right, model.captions, group))
    return cases
