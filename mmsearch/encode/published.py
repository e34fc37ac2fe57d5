"""Published figures of models on COCO and Flickr30k, to hold one's own against.

All are zero-shot, in percent, on the test splits that papers use: 5,000 pictures of COCO, 1,000 of
Flickr30k, about five captions each. They are any-hit shares (see mmsearch.evaluate), as
CLIP_benchmark computes them (clip_benchmark/metrics/zeroshot_retrieval.py); for text → image, where
a caption has one picture, true recall is the same.

Sources, read on 2026-11-24:

- OPEN_CLIP: docs/openclip_retrieval_results.csv of github.com/mlfoundations/open_clip, commit
  f862f86cd92123615a8695ce8bcb6ecc066af452; its columns "image retr." (text → image) and "text
  retr." (image → text).
- SIGLIP2: the table of checkpoints in big_vision/configs/proj/image_text/README_siglip2.md of
  github.com/google-research/big_vision, commit 1659d4297dc62e138a9cd509e3a39855afc6d984 (the paper
  is arXiv:2502.14786). It gives recall@1 on COCO and nothing else, so nothing else is here.

What could not be read at a source is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DatasetName = Literal["coco", "flickr30k"]

#: Pictures in the test splits.
TEST_PICTURES: dict[DatasetName, int] = {"coco": 5000, "flickr30k": 1000}

OPEN_CLIP = "open_clip, docs/openclip_retrieval_results.csv"
SIGLIP2 = "big_vision, README_siglip2.md"


@dataclass(frozen=True, slots=True)
class Published:
    """Any-hit@1, @5, @10 in percent, both ways; None where the source does not say."""

    model: str
    dataset: DatasetName
    text_to_image: tuple[float | None, float | None, float | None]
    image_to_text: tuple[float | None, float | None, float | None]
    source: str


def _open_clip(model: str, flickr: tuple[float, ...], coco: tuple[float, ...]) -> list[Published]:
    """A row of the table: text → image @1, @5, @10, then image → text."""
    rows: tuple[tuple[DatasetName, tuple[float, ...]], ...]
    rows = (("flickr30k", flickr), ("coco", coco))
    return [
        Published(model, name, (row[0], row[1], row[2]), (row[3], row[4], row[5]), OPEN_CLIP)
        for name, row in rows
    ]


def _siglip2(model: str, text_to_image: float, image_to_text: float) -> list[Published]:
    both = (text_to_image, None, None), (image_to_text, None, None)
    return [Published(model, "coco", *both, SIGLIP2)]


PUBLISHED: tuple[Published, ...] = (
    *_open_clip(
        "ViT-B-32/laion2b_s34b_b79k",
        (66.78, 88.38, 93.10, 84.10, 96.20, 98.30),
        (39.34, 65.43, 75.61, 56.32, 79.84, 87.12),
    ),
    *_siglip2("ViT-B-32-SigLIP2-256/webli", 47.2, 63.7),
    *_siglip2("ViT-SO400M-16-SigLIP2-384/webli", 56.0, 71.2),
    *_open_clip(
        "ViT-B-32/openai",
        (58.78, 83.56, 90.02, 78.90, 94.90, 98.20),
        (30.44, 55.94, 66.87, 50.12, 75.00, 83.52),
    ),
    *_open_clip(
        "ViT-B-32-256/datacomp_s34b_b86k",
        (64.92, 87.22, 92.16, 84.80, 96.70, 98.50),
        (39.93, 65.43, 75.24, 57.92, 80.56, 88.10),
    ),
    *_open_clip(
        "ViT-B-16/datacomp_xl_s13b_b90k",
        (67.56, 88.34, 93.00, 85.10, 97.20, 98.40),
        (40.16, 65.95, 75.62, 57.44, 80.86, 88.30),
    ),
    *_open_clip(
        "ViT-L-14/openai",
        (64.96, 87.24, 92.04, 85.20, 97.40, 99.20),
        (36.51, 61.06, 71.13, 56.34, 79.38, 86.60),
    ),
    *_open_clip(
        "xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k",
        (64.48, 86.28, 91.68, 82.70, 96.40, 97.80),
        (37.78, 63.44, 73.48, 53.54, 77.98, 86.40),
    ),
    *_open_clip(
        "ViT-SO400M-14-SigLIP-384/webli",
        (82.96, 96.10, 98.04, 94.30, 99.70, 99.80),
        (54.21, 76.78, 84.24, 72.42, 89.98, 94.48),
    ),
)


def published(dataset: DatasetName, model: str | None = None) -> list[Published]:
    """What is published on a dataset: of one model by its canonical name, or of all."""
    return [p for p in PUBLISHED if p.dataset == dataset and model in (None, p.model)]
