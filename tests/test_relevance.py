"""Relevance: what it keeps and what it cuts, and that no model's cosines are built into it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mmsearch import generic
from mmsearch.backgrounds import Backgrounds
from mmsearch.encode import Encoder, load_encoder
from mmsearch.index.flat import FlatIndex
from mmsearch.relevance import DEFAULT_THRESHOLD, PATIENCE, Background, joined, kept
from mmsearch.types import Modality, Space

POSTCARDS = Path(__file__).parents[1] / "data" / "postcards"

Vectors = NDArray[np.float32]

DIM = 32
MODALITIES: tuple[Modality, ...] = ("image", "text")


def unit(x: np.ndarray) -> Vectors:
    return np.ascontiguousarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def made_up(n: int, seed: int = 0, dim: int = DIM) -> Vectors:
    return unit(np.random.default_rng(seed).standard_normal((n, dim)))


def background(pictures: int, texts: int = 0) -> Background:
    return Background(made_up(pictures, 1), made_up(texts, 2), made_up(60, 3))


@pytest.mark.parametrize("asked", MODALITIES)
@pytest.mark.parametrize("found", MODALITIES)
@pytest.mark.parametrize("pictures", [0, 1, 2, 50])
@pytest.mark.parametrize("texts", [0, 1, 2, 50])
def test_it_is_a_number_between_0_and_1_however_small_the_library(
    pictures: int, texts: int, asked: Modality, found: Modality
) -> None:
    of = background(pictures, texts)
    query = made_up(1, 9)
    hits = np.concatenate([query, query, -query, made_up(4, 8)])
    for some in (hits[:0], hits[:1], hits):
        relevance = of.relevance(query, some, asked=asked, found=found, n_items=len(some))
        assert relevance.shape == (len(some),)
        assert relevance.dtype == np.float64
        assert np.isfinite(relevance).all()
        assert ((relevance >= 0) & (relevance <= 1)).all()


@pytest.mark.parametrize("asked", MODALITIES)
@pytest.mark.parametrize("found", MODALITIES)
def test_a_library_of_one_vector_over_and_over_has_a_relevance(
    asked: Modality, found: Modality
) -> None:
    same = np.repeat(made_up(1, 4), 40, axis=0)
    of = Background(same, same, same)
    relevance = of.relevance(same[:1], same[:5], asked=asked, found=found, n_items=40)
    assert np.isfinite(relevance).all()
    assert len(set(relevance)) == 1


def test_of_two_hits_that_differ_in_the_score_alone_the_higher_is_the_more_relevant() -> None:
    """The part of a hit that the query sees, and no caption and no other picture does, grows."""
    of = background(200)
    query = np.zeros((1, DIM), np.float32)
    query[0, 0] = 1
    for found in MODALITIES:
        steps = [unit(made_up(1, 5) + share * query) for share in (0.0, 0.5, 1.0, 2.0, 4.0)]
        hits = np.concatenate(steps)
        relevance = of.relevance(query, hits, asked=found, found=found, n_items=200)
        assert (np.diff(relevance) > 0).all()
        relevance = of.relevance(query, hits, asked="text", found="image", n_items=200)
        assert (np.diff(relevance) > 0).all()


def cone(n: int, seed: int, middle: int) -> Vectors:
    """Vectors around one direction, as a model's pictures are, and its texts around another."""
    return unit(made_up(1, middle) + 0.8 * made_up(n, seed))


@pytest.mark.parametrize(
    ("pictures", "asked", "found", "expected"),
    [
        (3, "image", "image", [0.0433, 0.2199, 0.6075]),
        (3, "image", "text", [0.1075, 0.9150, 0.9997]),
        (3, "text", "image", [0.3738, 0.8498, 0.9858]),
        (3, "text", "text", [0.0746, 0.5464, 0.9620]),
        (400, "image", "image", [0.0136, 0.1756, 0.7401]),
        (400, "image", "text", [0.1267, 0.8851, 0.9993]),
        (400, "text", "image", [0.1135, 0.4663, 0.8763]),
        (400, "text", "text", [0.0403, 0.4592, 0.9450]),
    ],
)
def test_the_numbers_are_those_that_the_weights_were_fitted_to(
    pictures: int, asked: Modality, found: Modality, expected: list[float]
) -> None:
    """Who changes what is measured has to fit and measure again: tests/benchmarks/relevance.py."""
    middles = {"image": 50, "text": 60}
    of = Background(
        cone(pictures, 1, middles["image"]),
        cone(pictures // 2, 2, middles["text"]),
        cone(60, 3, middles["text"]),
    )
    query, near = cone(1, 9, middles[asked]), cone(3, 8, middles[found])[:1]
    hits = np.concatenate([unit(near + share * query) for share in (0.1, 0.3, 0.6)])
    relevance = of.relevance(query, hits, asked=asked, found=found, n_items=5000)
    assert relevance == pytest.approx(expected, abs=2e-3)


def test_more_items_make_the_same_hit_less_of_a_wonder() -> None:
    of, query, hits = background(200), made_up(1, 6), made_up(5, 7)
    few = of.relevance(query, hits, asked="text", found="image", n_items=1_000)
    many = of.relevance(query, hits, asked="text", found="image", n_items=1_000_000)
    assert (many < few).all()


def test_scores_may_be_shifted_and_stretched() -> None:
    """A model with a gap between the modalities has other cosines; relevance is the same.

    With `gap` in directions of their own, all scores of texts with pictures become a*s + b.
    """
    texts, pictures, captions = made_up(5, 11), made_up(300, 12), made_up(60, 13)

    def shifted(x: Vectors, gap: float, side: float) -> Vectors:
        corner = np.zeros((len(x), 2), np.float32)
        corner[:, 0] = gap
        corner[:, 1] = side * gap / 2
        return unit(np.concatenate([x, corner], axis=1))

    def relevance(gap: float) -> np.ndarray:
        t, p, c = shifted(texts, gap, 1), shifted(pictures, gap, -1), shifted(captions, gap, 1)
        of = Background(p, c[:0], c)
        rows = [of.relevance(t[i : i + 1], p, asked="text", found="image", n_items=300)
                for i in range(len(t))]  # fmt: skip
        return np.stack(rows)

    plain = relevance(0.0)
    assert plain.max() > 0.01
    assert np.ptp(plain) > 0.01
    for gap in (0.5, 2.0):
        assert relevance(gap) == pytest.approx(plain, abs=2e-3)


def test_parts_of_a_query_must_all_be_matched() -> None:
    both = joined([(1.0, np.array([0.9, 0.9])), (1.0, np.array([0.9, 0.001]))])
    assert both[0] == pytest.approx(0.9)
    assert both[1] < DEFAULT_THRESHOLD
    heavy = joined([(9.0, np.array([0.9])), (1.0, np.array([0.2]))])
    assert heavy[0] > joined([(1.0, np.array([0.9])), (1.0, np.array([0.2]))])[0]
    assert np.isfinite(joined([(1.0, np.array([0.0])), (2.0, np.array([1.0]))])).all()


def test_the_list_ends_after_many_misses_wherever_pages_begin() -> None:
    relevance = np.zeros(PATIENCE * 4)
    relevance[[0, 3, PATIENCE]] = 0.9
    relevance[PATIENCE * 3] = 0.9
    places, ended = kept(relevance)
    assert places.tolist() == [0, 3, PATIENCE]
    assert ended
    # Of a shorter list as much is known, and that more may come.
    places, ended = kept(relevance[:PATIENCE])
    assert places.tolist() == [0, 3]
    assert not ended
    assert kept(np.zeros(0))[0].tolist() == []
    places, ended = kept(relevance, 0.0)
    assert (len(places), ended) == (len(relevance), False)
    places, ended = kept(np.full(7, DEFAULT_THRESHOLD))
    assert (len(places), ended) == (7, False)


# --- the bundled model ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return load_encoder("tiny", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def cards(tiny: Encoder) -> Vectors:
    """The pictures of the sample collection, in the order of attributes.jsonl."""
    pixels = []
    for one in attributes():
        with Image.open(POSTCARDS / one["image"]) as file:
            pixels.append(tiny.preprocess(np.asarray(file.convert("RGB"))))
    return tiny.encode_images(np.stack(pixels))


def attributes() -> list[dict]:
    lines = (POSTCARDS / "attributes.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def answers(tiny: Encoder, of: Background, cards: Vectors, words: str) -> list[int]:
    query = tiny.encode_texts([words])
    order = np.argsort(-(cards @ query[0]), kind="stable")
    relevance = of.relevance(query, cards[order], asked="text", found="image", n_items=len(cards))
    places, _ = kept(relevance)
    return [int(i) for i in order[places]]


ABSURD = ("a circuit diagram", "a bowl of ramen", "tax form 1040", "qwer asdf zxcv", "a violin",
          "an x-ray of a lung", "a laptop keyboard", "sushi on a wooden plate", "a giraffe",
          "quarterly revenue report", "a dentist at work", "a subway station")  # fmt: skip


def test_absurd_queries_find_nothing(tiny: Encoder, cards: Vectors) -> None:
    of = Background(cards, cards[:0], tiny.encode_texts(generic.captions()))
    empty = [not answers(tiny, of, cards, words) for words in ABSURD]
    assert sum(empty) >= 0.9 * len(ABSURD)


def test_true_queries_find_what_is_there(tiny: Encoder, cards: Vectors) -> None:
    of = Background(cards, cards[:0], tiny.encode_texts(generic.captions()))
    kinds = ("lighthouse", "tent", "snowman", "cactus", "castle", "whale", "windmill", "umbrella")
    recalls, precisions = [], []
    for kind in kinds:
        right = {i for i, one in enumerate(attributes())
                 if any(thing["kind"] == kind for thing in one["things"])}  # fmt: skip
        assert right
        found = answers(tiny, of, cards, f"a picture of a {kind}")
        recalls.append(len(right & set(found)) / len(right))
        precisions.append(len(right & set(found)) / max(1, len(found)))
    assert np.mean(recalls) >= 0.5
    assert np.mean(precisions) >= 0.8


def test_a_picture_finds_itself_and_a_stranger_nothing(tiny: Encoder, cards: Vectors) -> None:
    captions = tiny.encode_texts(generic.captions())
    of = Background(cards[:150], cards[:0], captions)
    for at in range(0, 150, 10):
        itself = of.relevance(
            cards[at : at + 1], cards[at : at + 1], asked="image", found="image", n_items=150
        )
        assert itself[0] > 0.9
    noise = np.random.default_rng(0).integers(0, 255, (1, 3, 128, 128), dtype=np.uint8)
    stranger = tiny.encode_images(noise)
    relevance = of.relevance(stranger, cards[:150], asked="image", found="image", n_items=150)
    assert not len(kept(relevance)[0])


def test_captions_of_a_picture_are_found_and_others_are_not(tiny: Encoder, cards: Vectors) -> None:
    lines = (POSTCARDS / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    said = [json.loads(line) for line in lines]
    texts = tiny.encode_texts([one["text"] for one in said])
    of = Background(cards, texts, tiny.encode_texts(generic.captions()))
    own, others = [], []
    for at, one in list(enumerate(attributes()))[:40]:
        relevance = of.relevance(
            cards[at : at + 1], texts, asked="image", found="text", n_items=len(texts)
        )
        mine = np.array([caption["image"] == one["image"] for caption in said])
        own.append((relevance[mine] >= DEFAULT_THRESHOLD).mean())
        others.append((relevance[~mine] >= DEFAULT_THRESHOLD).mean())
    assert np.mean(own) > 0.3
    assert np.mean(others) < 0.05


# --- kept in the library --------------------------------------------------------------------------


SPACE = Space("made up", DIM, "f" * 64, "none")


class Encoding:
    """Encodes texts as anything; counts them."""

    def __init__(self, seed: int = 0, dim: int = DIM) -> None:
        self.seed = seed
        self.dim = dim
        self.texts = 0

    def __call__(self, texts: Sequence[str]) -> Vectors:
        self.texts += len(texts)
        return made_up(len(texts), self.seed + self.texts, self.dim)


def index(modality: Modality, n: int) -> FlatIndex:
    filled = FlatIndex(SPACE, modality)
    if n:
        filled.add(n, np.arange(1, n + 1), made_up(n, 5).astype(np.float16))
    return filled


def test_captions_are_encoded_once_for_a_library(tmp_path: Path) -> None:
    encoding = Encoding()
    first = Backgrounds(tmp_path, SPACE).captions(encoding)
    assert first.shape == (len(generic.captions()), DIM)
    again = Backgrounds(tmp_path, SPACE)
    assert np.array_equal(again.captions(encoding), first)
    assert again.captions(encoding) is again.captions(encoding)
    assert encoding.texts == len(generic.captions())


@pytest.mark.parametrize(
    "what", ["other captions", "cut short", "empty", "grown", "a flipped bit", "other dimension"]
)
def test_kept_captions_that_do_not_fit_are_made_anew(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = SPACE
    Backgrounds(tmp_path, space).captions(Encoding())
    [path] = tmp_path.iterdir()
    if what == "other captions":
        others = generic.captions()[::-1]
        monkeypatch.setattr(generic, "captions", lambda: others)
    elif what == "cut short":
        path.write_bytes(path.read_bytes()[: -4 * DIM])
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "grown":
        path.write_bytes(path.read_bytes() + b"\0" * 4 * DIM)
    elif what == "a flipped bit":
        data = bytearray(path.read_bytes())
        data[random.Random(3).randrange(len(data))] ^= 1
        path.write_bytes(data)
    else:
        space = replace(SPACE, dim=DIM + 1)
    encoding = Encoding(seed=7, dim=space.dim)
    made = Backgrounds(tmp_path, space).captions(encoding)
    assert encoding.texts == len(generic.captions())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert np.array_equal(Backgrounds(tmp_path, space).captions(encoding), made)
    assert encoding.texts == len(generic.captions())


def test_what_a_killed_process_left_of_the_captions_is_cleared_away(tmp_path: Path) -> None:
    Backgrounds(tmp_path, SPACE).captions(Encoding())
    [path] = tmp_path.iterdir()
    path.rename(path.with_suffix(".123456.tmp"))
    Backgrounds(tmp_path, SPACE).captions(Encoding())
    assert list(tmp_path.iterdir()) == [path]


def test_a_library_that_cannot_be_written_to_keeps_them_in_memory(tmp_path: Path) -> None:
    encoding = Encoding()
    backgrounds = Backgrounds(tmp_path, SPACE, keep=False)
    backgrounds.captions(encoding)
    backgrounds.captions(encoding)
    assert encoding.texts == len(generic.captions())
    assert not list(tmp_path.iterdir())
    file = tmp_path / "file"
    file.touch()
    assert len(Backgrounds(file, SPACE).captions(encoding))


def test_the_background_follows_the_library(tmp_path: Path) -> None:
    backgrounds = Backgrounds(tmp_path, SPACE)
    captions = backgrounds.captions(Encoding())
    texts = index("text", 0)
    small = backgrounds.get(index("image", 5), texts, captions)
    assert len(small.pictures) == 5
    assert backgrounds.get(index("image", 5), texts, captions) is small
    grown = backgrounds.get(index("image", 6), texts, captions)
    assert len(grown.pictures) == 6
    large = backgrounds.get(index("image", 3000), texts, captions)
    assert len(large.pictures) == 1000
    assert backgrounds.get(index("image", 3100), texts, captions) is large
    assert backgrounds.get(index("image", 3400), texts, captions) is not large
    shrunk = backgrounds.get(index("image", 2000), texts, captions)
    assert shrunk is not large
    other = Backgrounds(tmp_path, SPACE).get(index("image", 2000), texts, captions)
    assert np.array_equal(other.pictures, shrunk.pictures)


def exchange(of: FlatIndex, ids: range) -> None:
    """Hides contents, and adds as many others."""
    hidden = np.union1d(np.setdiff1d(np.arange(1, of.last_seq + 1), of.ids()), ids)
    came = np.arange(of.last_seq + 1, of.last_seq + 1 + len(ids))
    of.add(int(came[-1]), came, made_up(len(ids), int(came[-1])).astype(np.float16))
    of.hide(hidden)


def test_the_background_follows_what_is_exchanged_for_as_many(tmp_path: Path) -> None:
    captions = made_up(40, 3)
    for n, in_part in ((30, 1), (3000, 50)):
        backgrounds = Backgrounds(tmp_path, SPACE)
        pictures, texts = index("image", n), index("text", n)
        first = backgrounds.get(pictures, texts, captions)
        exchange(pictures, range(1, in_part + 1))
        second = backgrounds.get(pictures, texts, captions)
        assert (second is first) == (n > 1000)  # a sample of all is one of exactly all
        exchange(pictures, range(in_part + 1, n + 1))
        third = backgrounds.get(pictures, texts, captions)
        fresh = Backgrounds(tmp_path, SPACE).get(pictures, texts, captions)
        assert np.array_equal(third.pictures, fresh.pictures)
        assert not np.array_equal(third.pictures, second.pictures)
        exchange(texts, range(1, n + 1))
        assert backgrounds.get(pictures, texts, captions) is not third


def test_a_large_library_is_sampled_again_when_a_tenth_came_or_went(tmp_path: Path) -> None:
    """However small the steps, and not at each of them."""
    captions = made_up(40, 3)
    backgrounds = Backgrounds(tmp_path, SPACE)
    pictures, texts = index("image", 4000), index("text", 0)
    made = [backgrounds.get(pictures, texts, captions)]
    for start in range(1, 1600, 20):
        exchange(pictures, range(start, start + 20))
        made.append(backgrounds.get(pictures, texts, captions))
    assert 5 <= len({id(one) for one in made}) <= 10  # 1600 went, 1600 came
    # What is hidden for a while is no change.
    kept, hidden = made[-1], np.setdiff1d(np.arange(1, 5601), pictures.ids())
    for some in (pictures.ids()[:100], pictures.ids()[100:200]):
        pictures.hide(np.union1d(hidden, some))
        backgrounds.get(pictures, texts, captions)
        pictures.hide(hidden)
    assert backgrounds.get(pictures, texts, captions) is kept


def test_an_unchanged_library_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = made_up(40, 3)
    backgrounds = Backgrounds(tmp_path, SPACE)
    pictures, texts = index("image", 3000), index("text", 5)
    made = backgrounds.get(pictures, texts, captions)
    exchange(pictures, range(1, 5))
    counted: list[int] = []
    count = FlatIndex.count
    monkeypatch.setattr(
        FlatIndex, "count", lambda self, ids: counted.append(len(ids)) or count(self, ids)
    )
    for _ in range(3):
        assert backgrounds.get(pictures, texts, captions) is made
    assert counted == [1000]  # once after the change
    # Read anew, it holds the same.
    assert backgrounds.get(pictures, index("text", 5), captions) is made


def test_generic_captions() -> None:
    captions = generic.captions()
    assert len(captions) >= 100
    assert len(set(captions)) == len(captions)
    assert all(caption == caption.strip() for caption in captions)
