"""How right a model's answers about postcards are: the table of the model card, for any encoder.

Everything is drawn from the test split: other seeds than training, and scenes that hold
combinations of kind, colour and land which training never draws. A picture is right for a query
when it satisfies everything the query names (`Query.matches`), so the truth is exact and no
caption is wrongly counted as false. The module owns neither torch nor open_clip: the caller hands
it two functions.
"""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmsearch.postcards.captions import (
    Change,
    Language,
    full_query,
    pair_query,
    phrase,
    sample_query,
    swap,
)
from mmsearch.postcards.draw import draw, encode_jpeg
from mmsearch.postcards.phrasing import Wording
from mmsearch.postcards.scene import Query, Scene, sample_scene

Array = NDArray[np.float32]
EncodeImages = Callable[[list[Image.Image]], Array]
EncodeTexts = Callable[[list[str]], Array]

#: measure → (what it says, the bar; None: reported without one)
MEASURES: dict[str, tuple[str, float | None]] = {
    "top1": ("text→image: top hit right", 0.90),
    "top5": ("text→image: one right in the top 5", 0.97),
    "unseen_top1": ("text→image, templates and synonyms of no training sentence: top hit", 0.80),
    "image_to_text": ("image→text: top caption true of the picture", 0.90),
    "colour": ("minimal pairs, colour: right one scored higher", 0.85),
    "count": ("minimal pairs, count", 0.85),
    "place": ("minimal pairs, position", 0.85),
    "chinese_top1": ("text→image in Chinese: top hit right", 0.80),
    "chinese_unseen_top1": ("text→image in Chinese, templates and synonyms unseen: top hit", None),
}


@dataclass(frozen=True, slots=True)
class PostcardFigures:
    """Shares between 0 and 1, one for each of MEASURES."""

    top1: float
    top5: float
    unseen_top1: float
    image_to_text: float
    colour: float
    count: float
    place: float
    chinese_top1: float
    chinese_unseen_top1: float


@dataclass(frozen=True, slots=True)
class PostcardReport:
    """Figures of a model and of what they must be held against, and how they were taken.

    `colours`: the baseline `BagOfColours`.
    `random_weights`: the same model untrained, where the caller gave one. `images_per_s` and
    `load_s` are measured by the caller.
    """

    pictures: int
    queries: int
    size: int
    model: PostcardFigures
    colours: PostcardFigures | None = None
    random_weights: PostcardFigures | None = None
    images_per_s: float | None = None
    load_s: float | None = None

    def rows(self) -> list[tuple[str, ...]]:
        """(measure, bar, model, random weights, bag of colours), as the card prints them; "" where
        there is nothing to say."""
        out: list[tuple[str, ...]] = []
        for name, (label, bar) in MEASURES.items():
            figures = [
                "" if of is None else f"{getattr(of, name):.1%}"
                for of in (self.model, self.random_weights, self.colours)
            ]
            out.append((label, "" if bar is None else f"≥ {bar:.0%}", *figures))
        if self.images_per_s is not None:
            out.append(
                (
                    "encoding speed, decoded pictures",
                    "≥ 400 /s",
                    f"{self.images_per_s:.0f} /s",
                    "",
                    "",
                )
            )
        if self.load_s is not None:
            out.append(
                ("load time, torch already imported", "≤ 1 s", f"{self.load_s:.2f} s", "", "")
            )
        return out

    def wrong(self) -> list[str]:
        """The measures of how often it is right whose bar the model does not reach."""
        return [n for n, (_, b) in MEASURES.items() if b and getattr(self.model, n) < b]

    def missed(self) -> list[str]:
        """Those, and of speed, which is the machine's too."""
        missed = self.wrong()
        if self.images_per_s is not None and self.images_per_s < 400:
            missed.append("images_per_s")
        if self.load_s is not None and self.load_s > 1:
            missed.append("load_s")
        return missed


@dataclass(frozen=True, slots=True)
class _Pair:
    """A true caption of picture `scene` and the same caption made false by one swap."""

    scene: int
    change: Change
    true: str
    false: str


@dataclass(frozen=True, slots=True)
class _Task:
    """What is asked. `right` (queries, pictures) bool; `phrased` one text a query and wording;
    `captions` one full or partial caption a picture, `fits` (captions, pictures) bool."""

    scenes: list[Scene]
    right: NDArray[np.bool_]
    phrased: dict[tuple[Language, Wording], list[str]]
    captions: list[str]
    fits: NDArray[np.bool_]
    pairs: list[_Pair]


def evaluate_postcards(
    encode_images: EncodeImages,
    encode_texts: EncodeTexts,
    *,
    pictures: int = 1000,
    queries: int = 500,
    size: int = 128,
    seed: int = 0,
    colours: bool = True,
    random_weights: tuple[EncodeImages, EncodeTexts] | None = None,
    images_per_s: float | None = None,
    load_s: float | None = None,
) -> PostcardReport:
    """The whole table for a model: `encode_images` and `encode_texts` give float32 (n, dim), unit
    norm. Pictures are drawn at `size` pixels and go through JPEG, as files do. `colours`: whether
    to build and judge the bag-of-colours baseline too (it draws 1,500 training pictures)."""
    task = _task(pictures, queries, seed)
    drawn = [_picture(scene, size) for scene in task.scenes]
    untrained = None
    if random_weights is not None:
        untrained = _figures(task, drawn, *random_weights)
    bag = BagOfColours(size) if colours else None
    return PostcardReport(
        pictures=pictures,
        queries=queries,
        size=size,
        model=_figures(task, drawn, encode_images, encode_texts),
        colours=None if bag is None else _figures(task, drawn, bag.encode_images, bag.encode_texts),
        random_weights=untrained,
        images_per_s=images_per_s,
        load_s=load_s,
    )


class BagOfColours:
    """The baseline: how far colour statistics alone go. No positions, no shapes.

    A picture is the histogram of its colours (4 levels a channel, 64 bins, square roots). A ridge
    regression on 1,500 training pictures predicts from it which words a caption of the picture may
    hold; a text is the bag of its known words. Standardised, unit norm: the score is a cosine.
    """

    def __init__(self, size: int, train_pictures: int = 1500, ridge: float = 10.0) -> None:
        scenes = [sample_scene(10_000_000 + i) for i in range(train_pictures)]
        rng = random.Random("bag of colours")
        said = []
        for scene in scenes:
            queries = [full_query(scene, rng) for _ in range(3)]
            texts = [phrase(q, rng, lang) for q in queries for lang in ("en", "zh")]
            said.append({w for text in texts for w in _words(text)})
        counts: dict[str, int] = {}
        for words in said:
            for word in words:
                counts[word] = counts.get(word, 0) + 1
        kept = sorted(w for w, n in counts.items() if 5 <= n < train_pictures // 2)
        self._column = {word: i for i, word in enumerate(kept)}
        y = np.zeros((train_pictures, len(kept)), np.float32)
        for row, words in enumerate(said):
            y[row, [self._column[w] for w in words if w in self._column]] = 1
        x = np.stack([_histogram(_picture(scene, size)) for scene in scenes])
        self._x_mean, self._y_mean = x.mean(0), y.mean(0)
        self._y_std = y.std(0)
        x -= self._x_mean
        y = (y - self._y_mean) / self._y_std
        gram = x.T @ x + ridge / len(x) * np.eye(x.shape[1], dtype=np.float32)
        self._weights = np.linalg.solve(gram, x.T @ y)

    def encode_images(self, images: list[Image.Image]) -> Array:
        x = np.stack([_histogram(image) for image in images]) - self._x_mean
        return _unit(x @ self._weights)

    def encode_texts(self, texts: list[str]) -> Array:
        bags = np.zeros((len(texts), len(self._column)), np.float32)
        for row, text in enumerate(texts):
            bags[row, [self._column[w] for w in _words(text) if w in self._column]] = 1
        return _unit(bags)


def _words(text: str) -> list[str]:
    """English words; of Chinese, pairs of neighbouring characters and single ones."""
    if text.isascii():
        return "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return [*text, *(a + b for a, b in itertools.pairwise(text))]


def _histogram(image: Image.Image) -> Array:
    levels = np.asarray(image, dtype=np.uint8) >> 6
    bins = (levels[..., 0] * 16 + levels[..., 1] * 4 + levels[..., 2]).reshape(-1)
    counts = np.bincount(bins, minlength=64).astype(np.float32)
    shares: Array = np.sqrt(counts / counts.sum())
    return shares


def _unit(x: Array) -> Array:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.ascontiguousarray(x / np.maximum(norms, 1e-9), dtype=np.float32)


def _picture(scene: Scene, size: int) -> Image.Image:
    with Image.open(io.BytesIO(encode_jpeg(draw(scene, size), scene.seed))) as image:
        return image.convert("RGB")


def _task(pictures: int, queries: int, seed: int) -> _Task:
    first = 1_000_000 * (seed + 1)
    scenes = [sample_scene(first + i, "test") for i in range(pictures)]
    rng = random.Random(f"postcards/evaluate/{seed}")
    asked = [sample_query(rng.choice(scenes), rng, 1 + i % 4) for i in range(queries)]
    phrased: dict[tuple[Language, Wording], list[str]] = {
        (language, wording): [phrase(q, rng, language, wording) for q in asked]
        for language in ("en", "zh")
        for wording in ("train", "test")
    }
    said = [full_query(s, rng) if rng.random() < 0.5 else sample_query(s, rng) for s in scenes]
    return _Task(
        scenes=scenes,
        right=_truth(asked, scenes),
        phrased=phrased,
        captions=[phrase(q, rng) for q in said],
        fits=_truth(said, scenes),
        pairs=_pairs(scenes, rng),
    )


def _truth(queries: Sequence[Query], scenes: Sequence[Scene]) -> NDArray[np.bool_]:
    return np.array([[q.matches(s) for s in scenes] for q in queries], dtype=np.bool_)


def _pairs(scenes: list[Scene], rng: random.Random) -> list[_Pair]:
    """For colour, count and position a pair of captions for each picture that allows one. Position
    is half left-of relations, half places. Both captions of a pair share words and pattern."""
    pairs = []
    for i, scene in enumerate(scenes):
        position: Change = "relation" if i % 2 else "place"
        changes: tuple[Change, ...] = ("colour", "count", position)
        for change in changes:
            query = pair_query(scene, rng, change)
            other = None if query is None else swap(query, scene, rng, change)
            if query is None or other is None:
                continue
            # The same dice twice: the captions differ in the swapped words alone.
            dice = rng.randrange(1 << 30)
            pairs.append(
                _Pair(
                    i,
                    change,
                    phrase(query, random.Random(dice)),
                    phrase(other, random.Random(dice)),
                )
            )
    return pairs


def _figures(
    task: _Task, drawn: list[Image.Image], encode_images: EncodeImages, encode_texts: EncodeTexts
) -> PostcardFigures:
    images = encode_images(drawn)

    def hits(texts: list[str], k: int) -> float:
        scores = encode_texts(texts) @ images.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return float(np.take_along_axis(task.right, best, 1).any(1).mean())

    captions = encode_texts(task.captions)
    top = np.argmax(images @ captions.T, axis=1)
    image_to_text = float(task.fits[top, np.arange(len(images))].mean())

    true = encode_texts([p.true for p in task.pairs])
    false = encode_texts([p.false for p in task.pairs])
    own = images[[p.scene for p in task.pairs]]
    won = np.einsum("nd,nd->n", own, true) > np.einsum("nd,nd->n", own, false)

    def share(*changes: Change) -> float:
        return float(won[[p.change in changes for p in task.pairs]].mean())

    english = task.phrased["en", "train"]
    return PostcardFigures(
        top1=hits(english, 1),
        top5=hits(english, 5),
        unseen_top1=hits(task.phrased["en", "test"], 1),
        image_to_text=image_to_text,
        colour=share("colour"),
        count=share("count"),
        place=share("place", "relation"),
        chinese_top1=hits(task.phrased["zh", "train"], 1),
        chinese_unseen_top1=hits(task.phrased["zh", "test"], 1),
    )
