"""Captions say what their query names; swaps are false; the wordings keep apart."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from mmsearch.postcards.captions import (
    CHANGES,
    LANGUAGES,
    attribute_count,
    captions,
    full_query,
    pair_query,
    phrase,
    sample_query,
    swap,
)
from mmsearch.postcards.phrasing import Wording
from mmsearch.postcards.scene import KINDS, LANDS, SKIES, Query, ThingSpec, held_out, sample_scene
from mmsearch.postcards.words import (
    COLOUR_WORDS,
    GROUPS,
    LAND_WORDS,
    NOUNS,
    SIZE_WORDS,
    SKY_GROUPS,
    SKY_WORDS,
    plural,
)

SEEDS = st.integers(0, 10**9)
WORDINGS: tuple[Wording, ...] = ("train", "test")


def test_every_value_of_a_scene_has_words() -> None:
    assert set(NOUNS) == set(KINDS) | set(GROUPS)
    assert set(SKY_WORDS) == set(SKIES) | set(SKY_GROUPS)
    assert set(LAND_WORDS) == set(LANDS)
    assert set(COLOUR_WORDS) == {c for kind in KINDS.values() for c in kind.colours}
    assert set(SIZE_WORDS) == {"small", "large"}


def test_no_two_kinds_share_a_name() -> None:
    for field in ("common", "rare", "zh", "zh_rare"):
        names = [name for noun in NOUNS.values() for name in getattr(noun, field)]
        assert len(names) == len(set(names)), field


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS, attributes=st.integers(1, 4))
def test_a_sampled_query_is_true_and_names_what_was_asked(seed: int, attributes: int) -> None:
    scene = sample_scene(seed)
    query = sample_query(scene, random.Random(seed), attributes)
    assert query.matches(scene)
    assert 1 <= attribute_count(query) <= attributes
    if attributes <= 3:  # sky, land and a kind are always there to name
        assert attribute_count(query) == attributes


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS)
def test_full_and_pair_queries_are_true_and_their_swaps_false(seed: int) -> None:
    scene = sample_scene(seed)
    rng = random.Random(seed)
    assert full_query(scene, rng).matches(scene)
    for change in CHANGES:
        query = pair_query(scene, rng, change)
        if query is None:
            continue
        assert query.matches(scene)
        other = swap(query, scene, rng, change, unseen=False)
        if other is None:
            continue
        assert not other.matches(scene)
        assert attribute_count(other) == attribute_count(query)
        if other.land is not None:
            assert not any(held_out(t.kind, t.colour, other.land) for t in other.things)


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS)
def test_captions_are_the_same_for_the_same_seed_and_never_empty(seed: int) -> None:
    scene = sample_scene(seed, "test")
    for language in LANGUAGES:
        for wording in WORDINGS:
            texts = captions(scene, random.Random(seed), 5, language, wording)
            assert len(texts) == 5
            assert all(texts)
            assert texts == captions(scene, random.Random(seed), 5, language, wording)
            if language == "zh":
                assert not any(c.isascii() and c.isalpha() for text in texts for c in text)
            else:
                assert all(text.isascii() for text in texts)


@pytest.mark.parametrize("wording", WORDINGS)
def test_a_query_that_names_nothing_has_no_words(wording: Wording) -> None:
    assert phrase(Query(), random.Random(0), "en", wording) == ""
    assert phrase(Query(), random.Random(0), "zh", wording) == ""


def test_a_caption_holds_the_words_of_every_attribute() -> None:
    query = Query(
        sky="sunset",
        land="mountains",
        things=(
            ThingSpec("balloon", "red", 2, "large"),
            ThingSpec("house", "white", place="right"),
        ),
    )
    rng = random.Random(5)
    for _ in range(200):
        text = phrase(query, rng).lower()
        for words in (
            ("balloons",),
            ("red",),
            ("two", "2", "pair"),
            ("large", "big", "huge"),
            ("house", "cottage"),
            ("white",),
            ("right",),
            ("sunset", "dusk", "evening"),
            ("mountain",),
        ):
            assert any(word in text for word in words), (words, text)


def test_a_relation_reads_the_same_from_both_sides() -> None:
    boat, house = ThingSpec("sailboat", "red"), ThingSpec("house", "white")
    query = Query(things=(boat, house), left_of=True)
    swapped = replace(query, things=(house, boat))
    rng = random.Random(2)
    for wording in WORDINGS:
        said = {phrase(query, rng, "en", wording).lower() for _ in range(400)}
        other = {phrase(swapped, rng, "en", wording).lower() for _ in range(400)}
        assert not said & other
        assert any("left" in text for text in said)
        assert any("right" in text for text in said)


def test_the_test_wording_uses_patterns_and_words_that_full_training_sentences_lack() -> None:
    rng = random.Random(7)
    seen: set[str] = set()
    for seed in range(400):
        scene = sample_scene(seed)
        for _ in range(4):
            query = sample_query(scene, rng, 4)
            if attribute_count(query) > 2:
                seen.add(phrase(query, rng).lower())
    rare = {w for noun in NOUNS.values() for w in noun.rare if w.split()[-1] not in _common()}
    assert rare
    for text in seen:
        words = set(text.replace(",", " ").split())
        assert not words & {w for w in rare if " " not in w}, text
        assert not words & {plural(w) for w in rare if " " not in w}, text


def _common() -> set[str]:
    return {word for noun in NOUNS.values() for name in noun.common for word in name.split()}


def test_the_rare_words_of_the_test_wording_are_met_in_training() -> None:
    """Rare words are rare, not unknown: training meets each of their tokens in short captions."""
    tokenizer = SimpleTokenizer()
    rng = random.Random(11)
    known: set[int] = set()
    for seed in range(2500):
        scene = sample_scene(seed)
        for language in LANGUAGES:
            for attributes in (1, 2, 2, 2, 3):
                query = sample_query(scene, rng, attributes)
                known.update(tokenizer.encode(phrase(query, rng, language)))
    rare = [w for name in KINDS for w in (*NOUNS[name].rare, *NOUNS[name].zh_rare)]
    for table in (SKY_WORDS, LAND_WORDS):
        for name, words in table.items():
            if name not in SKY_GROUPS:
                rare += [*words.rare_phrases, *words.rare_nouns]
    missing = {w for w in rare if w.isascii() and not set(tokenizer.encode(w)) <= known}
    assert len(missing) <= 0.05 * len(rare), missing


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("balloon", "balloons"),
        ("butterfly", "butterflies"),
        ("palm tree", "palm trees"),
        ("snowman", "snowmen"),
        ("park bench", "park benches"),
        ("pony", "ponies"),
        ("woolly sheep", "woolly sheep"),
        ("man of snow", "men of snow"),
        ("bus", "buses"),
    ],
)
def test_plurals(noun: str, expected: str) -> None:
    assert plural(noun) == expected
