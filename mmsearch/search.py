"""From a query vector to hits: combine, compare, look up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import QueryError
from mmsearch.types import ImageHit, TextHit

if TYPE_CHECKING:
    from mmsearch.index.flat import FlatIndex, Neighbours
    from mmsearch.store import Catalog


def combine(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """One query (1, dim) of unit norm out of several, each (1, dim): the direction of their sum.

    Raises:
        QueryError: there are none, or they cancel out.
    """
    if not vectors:
        raise QueryError("say what to look for: some words, a picture, or both")
    if len(vectors) == 1:
        return vectors[0]
    total = np.sum(vectors, axis=0, dtype=np.float32)
    norm = float(np.linalg.norm(total))
    if norm < 1e-6:
        raise QueryError("the parts of the query cancel each other out")
    return np.ascontiguousarray(total / norm, dtype=np.float32)


def nearest(
    index: FlatIndex, query: NDArray[np.float32], k: int, offset: int = 0, *, without: int = -1
) -> Neighbours:
    """Neighbours `offset` to `offset + k` of a query (1, dim); `without` is a content to leave out.

    Raises:
        QueryError: k or offset make no sense.
    """
    if k < 1:
        raise QueryError(f"k must be at least 1, not {k}")
    if offset < 0:
        raise QueryError(f"offset must not be negative, not {offset}")
    found = index.search(query, k + offset + (without >= 0))[0]
    keep = found.ids != without
    return type(found)(
        found.scores[keep][offset : offset + k], found.ids[keep][offset : offset + k]
    )


def image_hits(catalog: Catalog, found: Neighbours) -> list[ImageHit]:
    """The pictures of these neighbours, with the texts written for them, in the same order."""
    ids = found.ids.tolist()
    records = catalog.image_records(ids)
    linked = catalog.linked_texts(ids)
    bodies = catalog.text_records(list({t for texts in linked.values() for t in texts}))
    return [
        ImageHit(
            _cosine(score),
            records[id_],
            tuple(bodies[t].body for t in linked.get(id_, ()) if t in bodies),
        )
        for score, id_ in zip(found.scores, ids, strict=True)
        if id_ in records  # hidden between the search and the look-up
    ]


def text_hits(catalog: Catalog, found: Neighbours, *, image_id: int | None = None) -> list[TextHit]:
    """The texts of these neighbours, in order; `linked` are those written for `image_id`."""
    ids = found.ids.tolist()
    records = catalog.text_records(ids)
    return [
        TextHit(
            _cosine(score),
            records[id_],
            image_id is not None and image_id in records[id_].image_ids,
        )
        for score, id_ in zip(found.scores, ids, strict=True)
        if id_ in records
    ]


def _cosine(score: np.float32) -> float:
    """The score as a cosine: rounding to float16 may leave a product a little past 1."""
    return max(-1.0, min(1.0, float(score)))
