"""The evaluation gives 100 % to who knows the attributes, chance to who knows nothing."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmsearch.postcards.evaluate import (
    MEASURES,
    BagOfColours,
    PostcardFigures,
    PostcardReport,
    evaluate_postcards,
)

Array = NDArray[np.float32]


def _noise(key: bytes) -> Array:
    seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(64).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def _noisy_images(images: list[Image.Image]) -> Array:
    return np.stack([_noise(image.tobytes()) for image in images])


def _noisy_texts(texts: list[str]) -> Array:
    return np.stack([_noise(text.encode()) for text in texts])


def test_an_encoder_that_knows_nothing_scores_chance() -> None:
    report = evaluate_postcards(
        _noisy_images, _noisy_texts, pictures=120, queries=80, size=32, colours=False
    )
    assert report.model.top1 < 0.2
    assert report.model.image_to_text < 0.2
    for pairs in (report.model.colour, report.model.count, report.model.place):
        assert 0.3 < pairs < 0.7
    assert report.colours is None
    assert "top1" in report.missed()
    again = evaluate_postcards(
        _noisy_images, _noisy_texts, pictures=120, queries=80, size=32, colours=False
    )
    assert again == report


def test_colours_alone_beat_chance_but_not_by_much() -> None:
    bag = BagOfColours(32, train_pictures=300)
    report = evaluate_postcards(
        bag.encode_images, bag.encode_texts, pictures=150, queries=100, size=32, colours=False
    )
    assert 0.05 < report.model.top1 < 0.5
    assert report.model.count < 0.65


def test_rows_and_missed_bars() -> None:
    figures = PostcardFigures(**dict.fromkeys(MEASURES, 0.95))
    report = PostcardReport(1000, 500, 128, figures, images_per_s=350.0, load_s=0.5)
    assert report.missed() == ["top5", "images_per_s"]
    rows = report.rows()
    assert len(rows) == len(MEASURES) + 2
    assert rows[0][1:] == ("≥ 90%", "95.0%", "", "")
    assert all(len(row) == 5 for row in rows)
