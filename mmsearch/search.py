"""From a query vector to hits: compare, judge, rank, look up.

The order of what is done, and why pages fit together. The nearest vectors are fused with what words
name (mmsearch.fusion), always to the same depth; what is too weak is left out, by a rule that looks
at one hit after the other (mmsearch.relevance.kept); near-duplicates join the first hit that they
resemble, and hits are re-ranked to differ among the same first ones (mmsearch.diversity). Each step
says the same of the first hits however many follow, so a page is a slice of one list, whose
beginning alone is ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmsearch import diversity, fusion, relevance
from mmsearch.query import Question
from mmsearch.types import ImageHit, TextHit

if TYPE_CHECKING:
    from mmsearch.index.flat import FlatIndex
    from mmsearch.queryencoder import QueryVector
    from mmsearch.relevance import Background
    from mmsearch.store import Catalog
    from mmsearch.store.words import Ranked as Named

Ids = NDArray[np.int64]
Scores = NDArray[np.float32]

#: As many candidates, best first, are put into groups: as deep as pages go.
GROUPED = 10_000
#: As many hits, best first, are re-ranked to differ.
DIVERSE = 1_000
#: As many candidates are judged at least, where weak ones are left out.
_JUDGED = 200


@dataclass(frozen=True, slots=True)
class Ranked:
    """The contents that answer, best first.

    ids: (n,) int64. scores: (n,) float32 cosines. relevance: (n,), None where nothing tells it.
    similar: for each the ids of the near-duplicates that it stands for, best first.
    allowed: how many contents were compared. cut: how many more would stand here if none were left
    out as too weak (at most, where they are grouped: some would join others). nearest: the greatest
    relevance of what was left out, None where nothing was.
    """

    ids: Ids
    scores: Scores
    relevance: NDArray[np.float64] | None
    similar: tuple[tuple[int, ...], ...]
    allowed: int
    cut: int = 0
    nearest: float | None = None


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Contents that may answer, best first; (n,) each.

    shares: how much of the query's words names each. complete: there are no others.
    """

    ids: Ids
    scores: Scores
    shares: NDArray[np.float64]
    complete: bool


def first_depth(question: Question, *, cuts: bool) -> int:
    """How many candidates a question looks at first. cuts: whether weak ones are left out."""
    need = question.offset + question.k
    wanted = max(need, DIVERSE) if question.diversity else need
    if question.group:
        return max(wanted, GROUPED)
    return max(2 * wanted, _JUDGED) if cuts else wanted


def nearest_for(depth: int, question: Question, named: Named | None) -> int:
    """How many of the nearest give so many candidates. named: what the question's words name."""
    if named is not None and len(named.ids):
        # What words name takes places before the rest, so as many more are needed.
        depth = max(depth, fusion.DEPTH) + len(named.ids)
    return depth + len(question.image_ids)


class Ranking:
    """The answer to one question, made as far as its page needs.

    Only while the index does not change.
    """

    def __init__(
        self,
        index: FlatIndex,
        query: QueryVector,
        question: Question,
        *,
        only: Ids | None = None,
        named: Named | None = None,
        background: Background | None = None,
        alike: float = 1.0,
    ) -> None:
        """only: the contents that may answer, strictly ascending; None allows all. named: those
        that words name. background: what relevance is told by; None leaves it untold. alike: the
        cosine of near-duplicates.
        """
        self._index = index
        self._query = query
        self._question = question
        self._only = only
        self._named = None if named is None or not len(named.ids) else named
        self._background = background if query.parts else None
        self._alike = alike

    def page(self) -> Ranked:
        """What the question wants to see."""
        question = self._question
        need = question.offset + question.k
        wanted = max(need, DIVERSE) if question.diversity else need
        depth = first_depth(question, cuts=self._cuts)
        while True:
            found = self._candidates(depth)
            kept, ended, judged = self._kept(found)
            heads = self._heads(found.ids[kept], wanted)
            if len(heads) >= wanted or ended or found.complete:
                break
            depth *= 2
        order = self._differing(found, kept, heads, need)
        places = kept[[group.head for group in order]] if order else kept[:0]
        page = slice(question.offset, need)
        shown = places[page]
        left_out = np.setdiff1d(np.arange(len(found.ids)), kept, assume_unique=True)
        return Ranked(
            ids=found.ids[shown],
            scores=found.scores[shown],
            relevance=judged[shown] if judged is not None else self._relevance(found, shown),
            similar=tuple(
                tuple(found.ids[kept[list(group.others)]].tolist()) for group in order[page]
            ),
            allowed=len(self._index) if self._only is None else len(self._only),
            cut=max(0, min(len(heads) + len(left_out), need) - question.offset - len(shown)),
            nearest=float(judged[left_out].max()) if judged is not None and len(left_out) else None,
        )

    @property
    def _cuts(self) -> bool:
        """Whether relevance decides about what is shown."""
        return self._question.min_relevance > 0 and self._background is not None

    @property
    def _exact(self) -> bool:
        """Whether every vector is compared: the same for all pages."""
        question = self._question
        # What looks further than an approximate index reaches, already for the first hit, would
        # only take longer with one, and find less.
        far = question.group or question.diversity > 0 or self._named is not None
        if self._cuts:
            far = far or self._index.reach < nearest_for(_JUDGED, question, None)
        return question.exact or far

    # --- candidates -----------------------------------------------------------------------------

    def _candidates(self, depth: int) -> _Candidates:
        """At least so many, or all that there are; the more there are, the same come first."""
        without = np.array(sorted(self._question.image_ids), np.int64)
        named = self._named
        asked = nearest_for(depth, self._question, named)
        found = self._index.search(self._query.vector, asked, only=self._only, exact=self._exact)[0]
        keep = ~np.isin(found.ids, without)
        ids, scores = found.ids[keep], found.scores[keep]
        complete = len(found.ids) < asked
        if named is None:
            return _Candidates(ids, scores, np.zeros(len(ids)), complete)
        return self._fused(ids, scores, named, without, complete)

    def _fused(
        self, ids: Ids, scores: Scores, named: Named, without: Ids, complete: bool
    ) -> _Candidates:
        there = ~np.isin(named.ids, without)
        of, ranks = named.ids[there], named.ranks[there]
        their_ids, vectors = self._index.vectors(of)
        has_vector = np.isin(of, their_ids)
        of, ranks = of[has_vector], ranks[has_vector]
        first, fused = fusion.fuse_named(
            ids[: fusion.DEPTH], of, ranks, named.share, limit=len(ids) + len(of)
        )
        rest = ~np.isin(ids, of)
        rest[: fusion.DEPTH] = False
        # Where the vector search found it, its score is that one, to the last digit.
        all_ids = np.concatenate([ids, their_ids])
        all_scores = np.concatenate([scores, (vectors @ self._query.vector[0]).astype(np.float32)])
        known, at = np.unique(all_ids, return_index=True)
        cosines = all_scores[at[np.searchsorted(known, first)]]
        # Equally well named ones: what they look like decides.
        order = np.lexsort((first, -cosines, -fused))
        together = np.concatenate([first[order], ids[rest]])
        return _Candidates(
            together,
            np.concatenate([cosines[order], scores[rest]]),
            np.where(np.isin(together, of), named.share, 0.0),
            complete,
        )

    # --- what is kept ---------------------------------------------------------------------------

    def _kept(self, found: _Candidates) -> tuple[Ids, bool, NDArray[np.float64] | None]:
        """The places of those that are good enough, whether none can come after them, and the
        relevance of all as far as that decided."""
        least = self._question.min_score
        places, ended = np.arange(len(found.ids)), False
        judged = self._relevance(found, places) if self._cuts else None
        if judged is not None:
            places, ended = relevance.kept(judged, self._question.min_relevance)
        if least is not None:
            weak = found.scores < least
            if self._named is None and weak.any():
                # The first weak one ends the list. What an approximate index missed may be better,
                # but comes where only some pages look.
                weak[weak.argmax() :] = True
            places = places[~weak[places]]
            # The last one is no worse than all vectors that are not looked at yet.
            ended = ended or bool(weak[-1:].any())
        return places, ended, judged

    def _relevance(self, found: _Candidates, places: Ids) -> NDArray[np.float64] | None:
        """(n,) of those at these places; what words name is as relevant as they name it, at least.

        None without a background.
        """
        background = self._background
        if background is None:
            return None
        vectors = self._vectors(found.ids[places])
        parts = [
            (
                part.weight,
                background.relevance(
                    part.vector,
                    vectors,
                    asked=part.modality,
                    found=self._index.modality,
                    n_items=len(self._index),
                ),
            )
            for part in self._query.parts
        ]
        by_vectors = parts[0][1] if len(parts) == 1 else relevance.joined(parts)
        return np.maximum(by_vectors, found.shares[places])

    def _vectors(self, ids: Ids) -> NDArray[np.float32]:
        """(n, dim), in the order of the ids, all of which can be found."""
        theirs, vectors = self._index.vectors(ids)
        order = np.argsort(theirs, kind="stable")
        return vectors[order[np.searchsorted(theirs, ids, sorter=order)]]

    # --- what comes together, and what differs --------------------------------------------------

    def _heads(self, ids: Ids, most: int) -> list[diversity.Group]:
        """By places in `ids`, so many at most; all, each alone, where nothing is to be grouped."""
        if not self._question.group or not len(ids):
            return [diversity.Group(place, ()) for place in range(len(ids))]
        return diversity.group(self._vectors(ids), self._alike, most)

    def _differing(
        self, found: _Candidates, kept: Ids, heads: list[diversity.Group], need: int
    ) -> list[diversity.Group]:
        """The heads in the order they are shown in."""
        if not self._question.diversity or not heads:
            return heads
        first = heads[:DIVERSE]
        places = kept[[group.head for group in first]]
        scores = found.scores[places]
        if self._named is not None:
            # Cosines are not what these are ordered by: only how they are ordered counts.
            scores = np.arange(len(first), 0, -1).astype(np.float32)
        picked = diversity.mmr(
            scores, self._vectors(found.ids[places]), 1 - self._question.diversity, need
        )
        return [first[place] for place in picked.tolist()] + heads[DIVERSE:]


def image_hits(catalog: Catalog, found: Sequence[Ranked]) -> list[tuple[ImageHit, ...]]:
    """For each answer its pictures, with the texts written for them, in the same order."""
    ids = _all_ids(found)
    records = catalog.image_records(ids)
    written = catalog.linked_bodies(ids)
    return [
        tuple(
            ImageHit(
                _cosine(ranked.scores[place]),
                records[id_],
                written.get(id_, ()),
                _told(ranked, place),
                ranked.similar[place],
            )
            for place, id_ in enumerate(ranked.ids.tolist())
            if id_ in records  # hidden between the search and the look-up
        )
        for ranked in found
    ]


def text_hits(
    catalog: Catalog, found: Sequence[tuple[Ranked, frozenset[int]]]
) -> list[tuple[TextHit, ...]]:
    """For each answer its texts, in order; `linked` are those written for one of the pictures that
    the question is about."""
    records = catalog.text_records(_all_ids([ranked for ranked, _ in found]))
    return [
        tuple(
            TextHit(
                _cosine(ranked.scores[place]),
                records[id_],
                not about.isdisjoint(records[id_].image_ids),
                _told(ranked, place),
            )
            for place, id_ in enumerate(ranked.ids.tolist())
            if id_ in records
        )
        for ranked, about in found
    ]


def _all_ids(found: Sequence[Ranked]) -> list[int]:
    return list(dict.fromkeys(id_ for ranked in found for id_ in ranked.ids.tolist()))


def _told(ranked: Ranked, place: int) -> float | None:
    return None if ranked.relevance is None else float(ranked.relevance[place])


def _cosine(score: np.float32) -> float:
    """The score as a cosine: rounding to float16 may leave a product a little past 1."""
    return max(-1.0, min(1.0, float(score)))
