"""From a query vector to hits: compare, judge, rank, look up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmsearch.query import Question
from mmsearch.types import ImageHit, TextHit

if TYPE_CHECKING:
    from mmsearch.index.flat import FlatIndex
    from mmsearch.store import Catalog


@dataclass(frozen=True, slots=True)
class Ranked:
    """The contents that answer, best first.

    ids: (n,) int64. scores: (n,) float32 cosines. allowed: how many contents were compared.
    cut: how many of those asked for were left out as too weak.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    allowed: int
    cut: int = 0


def rank(
    index: FlatIndex,
    query: NDArray[np.float32],
    question: Question,
    only: NDArray[np.int64] | None = None,
) -> Ranked:
    """What answers a query vector (1, dim), as far as the question wants to see.

    only: the contents that may answer, strictly ascending; None allows all.
    """
    wanted = question.offset + question.k
    without = question.image_ids
    found = index.search(query, wanted + len(without))[0]
    keep = ~np.isin(found.ids, list(without)) if without else np.ones(len(found.ids), np.bool_)
    ids, scores = found.ids[keep][:wanted], found.scores[keep][:wanted]
    n = len(ids)
    if question.min_score is not None:
        n = int(np.count_nonzero(scores >= question.min_score))
    page = slice(question.offset, n)
    return Ranked(ids[page], scores[page], len(index), len(ids) - n)


def image_hits(catalog: Catalog, ranked: Ranked) -> tuple[ImageHit, ...]:
    """The pictures, with the texts written for them, in the same order."""
    ids = ranked.ids.tolist()
    records = catalog.image_records(ids)
    linked = catalog.linked_texts(ids)
    bodies = catalog.text_records(list({t for texts in linked.values() for t in texts}))
    return tuple(
        ImageHit(
            _cosine(score),
            records[id_],
            tuple(bodies[t].body for t in linked.get(id_, ()) if t in bodies),
        )
        for score, id_ in zip(ranked.scores, ids, strict=True)
        if id_ in records  # hidden between the search and the look-up
    )


def text_hits(catalog: Catalog, ranked: Ranked, about: frozenset[int]) -> tuple[TextHit, ...]:
    """The texts, in order; `linked` are those written for one of the pictures asked `about`."""
    ids = ranked.ids.tolist()
    records = catalog.text_records(ids)
    return tuple(
        TextHit(_cosine(score), records[id_], not about.isdisjoint(records[id_].image_ids))
        for score, id_ in zip(ranked.scores, ids, strict=True)
        if id_ in records
    )


def _cosine(score: np.float32) -> float:
    """The score as a cosine: rounding to float16 may leave a product a little past 1."""
    return max(-1.0, min(1.0, float(score)))
