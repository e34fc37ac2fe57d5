"""From questions to answers: many that are asked together, or one.

Each is prepared (its vector, the contents it allows, what its words name), all are compared with
the vectors at once, each is ranked by itself, and the records of all are looked up together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmsearch import prompts
from mmsearch.blas import one_thread
from mmsearch.duplicates import THRESHOLD
from mmsearch.errors import MmsearchError, NotFoundError, QueryError, SpaceMismatchError, bare
from mmsearch.fusion import MOST_NAMED
from mmsearch.queryencoder import QueryEncoder, same_space
from mmsearch.search import Ranked, Ranking, first_depth, image_hits, nearest_for, text_hits
from mmsearch.stages import stage
from mmsearch.types import Answer, ImageHit, Modality, Space, TextHit

if TYPE_CHECKING:
    from mmsearch.opened import Opened
    from mmsearch.query import Question
    from mmsearch.queryencoder import QueryVector
    from mmsearch.store import Catalog
    from mmsearch.store.words import Ranked as Named
    from mmsearch.types import Vectors

#: Questions that look at more of the nearest are not compared together with others; most look at
#: no more than this.
_COMPARED_DEEP = 2000
_MOST_LOOK_AT = 200


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A question, and all that is found out before vectors are compared.

    only: the contents that may answer. named: those that its words name. captions: of everyday, see
    mmsearch.opened.
    """

    space: Space
    question: Question
    query: QueryVector
    only: NDArray[np.int64] | None
    named: Named | None
    captions: Vectors | None


#: What answers a question, and the pictures of the library that it looks for.
_Found = tuple[Ranked, frozenset[int]]


class Answering:
    """Answers questions about what is open of a library. Thread-safe."""

    def __init__(self, catalog: Catalog, encoding: QueryEncoder, opened: Opened) -> None:
        self._catalog = catalog
        self._encoding = encoding
        self._opened = opened

    def answers(
        self, modality: Modality, questions: Sequence[Question]
    ) -> list[Answer[Any] | MmsearchError]:
        """The pictures or texts that answer each of these questions, or why there are none.

        Less work than one by one, and the same to the bit.
        """
        with one_thread():  # judging and ranking are small products too
            try:
                active = self._opened.need()
                prepared = [self._tried(modality, one) for one in questions]
                self._compare(modality, [one for one in prepared if isinstance(one, _Prepared)])
                found = [
                    self._found(modality, question, one, active)
                    for question, one in zip(questions, prepared, strict=True)
                ]
                good = [one for one in found if not isinstance(one, MmsearchError)]
                hits = iter(self._hits(modality, good))
            except MmsearchError as exc:  # of the library, not of one question
                return [bare(exc)] * len(questions)
        return [
            one
            if isinstance(one, MmsearchError)
            else Answer(
                next(hits), one[0].allowed, one[0].cut, question.where is not None, one[0].nearest
            )
            for one, question in zip(found, questions, strict=True)
        ]

    def _hits(
        self, modality: Modality, found: Sequence[_Found]
    ) -> Sequence[tuple[ImageHit, ...]] | Sequence[tuple[TextHit, ...]]:
        with stage("records"):
            if modality == "text":
                return text_hits(self._catalog, found)
            return image_hits(self._catalog, [ranked for ranked, _ in found])

    def _tried(self, modality: Modality, question: Question) -> _Prepared | MmsearchError:
        """The question prepared, or why it cannot be."""
        try:
            return self._prepared(modality, question)
        except MmsearchError as exc:
            return bare(exc)

    def _found(
        self,
        modality: Modality,
        question: Question,
        prepared: _Prepared | MmsearchError,
        active: tuple[int, Space],
    ) -> _Found | MmsearchError:
        """What answers, or why nothing does; looked for again where searches moved to another space
        since it was prepared in `active`."""
        while True:
            try:
                if isinstance(prepared, MmsearchError):
                    raise prepared
                return self._ranked(modality, prepared)
            except (SpaceMismatchError, NotFoundError) as exc:
                now = self._opened.need()
                if now == active:
                    return bare(exc)
                active, prepared = now, self._tried(modality, question)
            except MmsearchError as exc:
                return bare(exc)

    def _prepared(self, modality: Modality, question: Question) -> _Prepared:
        if modality == "text" and question.group:
            raise QueryError("only pictures can be grouped: texts that are the same come once")
        # As the catalog was last taken in.
        space_id, space = self._opened.known or self._opened.need()
        with stage("query"):
            expand = expansion(question)
            query = self._encoding.query(space_id, space, question.terms, expand)
            captions = self._opened.captions(space)
        where = question.where
        with stage("words"):
            only = None if where is None else self._catalog.select(where, modality)
            named = None
            if question.words and question.texts:
                words = " ".join(question.texts)
                named = self._catalog.words.named(words, MOST_NAMED, only, modality)
        return _Prepared(space, question, query, only, named, captions)

    def _compare(self, modality: Modality, prepared: Sequence[_Prepared]) -> None:
        """Compares questions that are about to be ranked with all vectors, in one go.

        Each then finds the same, only sooner.
        """
        if len(prepared) < 2:
            return
        deep: dict[bool, list[tuple[Vectors, int]]] = {False: [], True: []}
        index = self._opened.index(modality)
        for one in prepared:
            first = first_depth(one.question, cuts=one.question.min_relevance > 0)
            depth = nearest_for(first, one.question, one.named)
            if one.only is None and depth <= _COMPARED_DEEP and one.space == index.space:
                # Most look at few of the nearest: not at as many as the deepest one.
                deep[depth > _MOST_LOOK_AT].append((one.query.vector, depth))
        with stage("compare"), self._opened.searching():
            for some in deep.values():
                if some:
                    vectors = np.concatenate([vector for vector, _ in some])
                    index.search_ahead(vectors, max(depth for _, depth in some))

    def _ranked(self, modality: Modality, prepared: _Prepared) -> _Found:
        with stage("search"):
            index = self._opened.index(modality)
            # All of them now: none can be opened while others search.
            pictures, texts = self._opened.index("image"), self._opened.index("text")
            with self._opened.searching():
                same_space(prepared.space, index.space)
                # What relevance is told by is that of the active space, which may have changed
                # while this waited for others.
                same_space((self._opened.known or self._opened.need())[1], index.space)
                background = None
                if prepared.captions is not None:
                    background = self._opened.background(pictures, texts, prepared.captions)
                ranking = Ranking(
                    index,
                    prepared.query,
                    prepared.question,
                    only=prepared.only,
                    named=prepared.named,
                    background=background,
                    alike=THRESHOLD,
                )
                return ranking.page(), prepared.query.about


def expansion(question: Question) -> Callable[[str], Sequence[str]] | None:
    """The sentences that words of a question are put into; None leaves them as they are."""
    return prompts.expand if question.expand else None
