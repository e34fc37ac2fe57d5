"""Prompt templates: a short word said in several sentences, whose mean stands for it.

CLIP was trained on captions, not on single words, and the mean of several sentences about a class
is a better vector of it than the name alone (Radford et al. 2021, "Learning Transferable Visual
Models From Natural Language Supervision", section 3.1.4: +3.5 points on ImageNet for 80 templates).

Whether that holds for searches is measured by tests/benchmarks/prompts.py, on postcards that the
bundled model never saw. It does not: the first hit is right for 100 % of one-word queries either
way, for 82.9 % of two-word queries bare and 83.0 % in SIMPLE (2 x 1,000 pictures, 2,116 queries).
Chinese words in English sentences lose: 85.2 % bare, 84.0 % inside. So searches take words as they
are unless asked, and other scripts are never put into English sentences. Labels
are classes, which is what the paper measured, and lose nothing here (97.5 and 97.8 % of kinds are
right): they are put into sentences unless told otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mmsearch.errors import QueryError

if TYPE_CHECKING:
    from mmsearch.types import Vectors

#: The seven that OpenAI found to carry most of the gain of its 80 (the notebook
#: Prompt_Engineering_for_ImageNet.ipynb of the CLIP repository); open_clip has them as
#: SIMPLE_IMAGENET_TEMPLATES (open_clip/zero_shot_metadata.py).
SIMPLE: tuple[str, ...] = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
#: The one of the CLIP paper's title page.
PHOTO: tuple[str, ...] = ("a photo of a {}.",)
#: The name as it stands.
BARE: tuple[str, ...] = ("{}",)

#: By the names that --templates takes.
TEMPLATES: dict[str, tuple[str, ...]] = {"none": BARE, "photo": PHOTO, "simple": SIMPLE}

#: Longer queries say themselves what they mean.
MAX_WORDS = 3
# Words of Latin letters without accents: what English templates can take in. Words that are a
# caption already ("a kite", "photo of Anna", "sea with boats") are left alone.
_PLAIN = re.compile(r"[A-Za-z0-9]+(?:['-][A-Za-z0-9]+)*(?: [A-Za-z0-9]+(?:['-][A-Za-z0-9]+)*)*")
_OF_SENTENCES = frozenset(
    [
        "a",
        "an",
        "the",
        "this",
        "that",
        "these",
        "those",
        "some",
        "my",
        "our",
        "your",
        "his",
        "her",
        "their",
        "of",
        "in",
        "on",
        "at",
        "with",
        "without",
        "and",
        "or",
        "by",
        "from",
        "to",
        "over",
        "under",
        "near",
        "for",
        "is",
        "are",
        "photo",
        "photos",
        "picture",
        "pictures",
        "image",
        "images",
        "drawing",
        "painting",
    ]
)


def is_short(text: str) -> bool:
    """Whether a query is one to three plain English-looking words and no sentence.

    Other scripts are left as they are: no English sentence fits around them.
    """
    text = " ".join(text.split())
    words = text.lower().split(" ")
    return (
        len(words) <= MAX_WORDS
        and _PLAIN.fullmatch(text) is not None
        and not _OF_SENTENCES.intersection(words)
    )


def expand(text: str, templates: Sequence[str] = SIMPLE) -> tuple[str, ...]:
    """The sentences whose mean stands for a query: itself if it is not short."""
    text = " ".join(text.split())
    return fill(templates, text) if is_short(text) else (text,)


def fill(templates: Sequence[str], name: str) -> tuple[str, ...]:
    """The name in each of the templates."""
    return tuple(template.replace("{}", name) for template in templates)


def means(encode: Callable[[Sequence[str]], Vectors], groups: Sequence[Sequence[str]]) -> Vectors:
    """The direction of the mean of each group's sentences, all encoded in one call.

    encode: as `TextEncoder.encode_texts`. groups: n of them, none empty. Returns (n, dim) float32,
    C-contiguous, unit norm. One group of one sentence keeps that sentence's vector to the bit.

    Raises:
        QueryError: the sentences of a group cancel each other out.
    """
    import numpy as np

    sentences = list(dict.fromkeys(text for group in groups for text in group))
    row = {text: number for number, text in enumerate(sentences)}
    vectors = encode(sentences)
    out = np.empty((len(groups), vectors.shape[1]), np.float32)
    for number, group in enumerate(groups):
        if len(group) == 1:
            out[number] = vectors[row[group[0]]]
            continue
        mean = vectors[[row[text] for text in group]].mean(axis=0)
        norm = float(np.linalg.norm(mean))
        if norm < 1e-6:
            raise QueryError(f"the prompts of {group[0]!r} cancel each other out")
        out[number] = mean / norm
    return out
