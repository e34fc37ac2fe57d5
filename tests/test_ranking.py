"""Pages of a ranking against the one list that they are slices of, made by plain loops."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mmsearch import fusion, relevance
from mmsearch import search as ranking
from mmsearch.index import fast
from mmsearch.index.flat import FlatIndex
from mmsearch.query import Question, Term
from mmsearch.queryencoder import QueryPart, QueryVector
from mmsearch.relevance import Background
from mmsearch.search import Ranked, Ranking
from mmsearch.store.words import Ranked as Named
from mmsearch.types import Space

DIM = 16
ALIKE = 0.93
SPACE = Space("ranking", DIM, "a" * 64, "none")
Vectors = NDArray[np.float32]


def unit(n: int, seed: int) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((n, DIM))
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


class Collection:
    """An index of clusters of vectors around few directions, and a query among them."""

    def __init__(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        rows = unit(max(1, n // 3), seed)[rng.integers(0, max(1, n // 3), n)]
        rows = rows + 0.05 * rng.standard_normal((n, DIM)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        self.ids = np.sort(rng.choice(10 * n + 1, n, replace=False)).astype(np.int64)
        self.rows = rows.astype(np.float16)
        self.vectors = self.rows.astype(np.float32)
        self.index = FlatIndex(SPACE, "image")
        if n:
            self.index.add(n, self.ids, self.rows)
        vector = unit(1, seed + 1)
        if n:
            vector += 1.5 * self.vectors[:1]
            vector /= np.linalg.norm(vector)
        self.query = QueryVector(vector, frozenset(), (QueryPart("text", 1.0, vector),))
        self.background = Background(self.vectors, self.vectors[:0], unit(40, seed + 2))
        self.rng = rng

    def named(self, n: int, share: float) -> Named:
        """So many ids at random, some equally well named, some unknown to the index."""
        ids = self.rng.permutation(np.append(self.ids, -5))[:n].astype(np.int64)
        ranks = np.sort(self.rng.integers(1, n + 1, len(ids))).astype(np.int64)
        return Named(ids, ranks, share)

    def page(self, question: Question, named: Named | None) -> Ranked:
        return Ranking(
            self.index,
            self.query,
            question,
            named=named,
            background=self.background,
            alike=ALIKE,
        ).page()

    def whole(self, question: Question, named: Named | None) -> list[tuple[int, tuple[int, ...]]]:
        """All that is found, each with what it stands for, by the definitions."""
        scores = self.vectors @ self.query.vector[0]
        # Nearer to each other than rounding, either may come first.
        assume(np.diff(np.sort(scores)).min(initial=1) > 1e-7)
        cosine = dict(zip(self.ids.tolist(), scores.tolist(), strict=True))
        at = {id_: place for place, id_ in enumerate(self.ids.tolist())}
        order = self.ids[np.lexsort((self.ids, -scores))].tolist()
        share: dict[int, float] = {}
        if named is not None:
            points = {
                id_: Fraction(1, fusion.K + r) for r, id_ in enumerate(order[: fusion.DEPTH], 1)
            }
            for id_, rank in zip(named.ids.tolist(), named.ranks.tolist(), strict=True):
                if id_ in cosine:
                    share[id_] = named.share
                    more = Fraction(fusion.NAMED_WEIGHT * named.share) / (fusion.K + rank)
                    points[id_] = points.get(id_, 0) + more
            first = sorted(points, key=lambda id_: (-points[id_], -cosine[id_], id_))
            order = first + [id_ for id_ in order if id_ not in points]
        if question.min_relevance:
            places = [at[id_] for id_ in order]
            judged = self.background.relevance(
                self.query.vector, self.vectors[places], asked="text", found="image",
                n_items=len(order),
            )  # fmt: skip
            # Closer than rounding, which differs with what is multiplied together, either is right.
            assume(np.abs(judged - question.min_relevance).min(initial=1) > 1e-5)
            good, misses = [], 0
            for id_, value in zip(order, judged.tolist(), strict=True):
                if max(value, share.get(id_, 0.0)) >= question.min_relevance:
                    good.append(id_)
                    misses = 0
                    continue
                misses += 1
                if misses == relevance.PATIENCE:
                    break
            order = good
        if question.min_score is not None:
            order = [id_ for id_ in order if cosine[id_] >= question.min_score]
        groups: list[tuple[int, list[int]]] = []
        for id_ in order:
            row = self.vectors[at[id_]]
            joins = next(
                (g for g in groups if question.group and self.vectors[at[g[0]]] @ row >= ALIKE),
                None,
            )
            if joins is None:
                groups.append((id_, []))
            else:
                joins[1].append(id_)
        return [(head, tuple(others)) for head, others in groups]


def shown(page: Ranked) -> list[tuple[int, tuple[int, ...]]]:
    return list(zip(page.ids.tolist(), page.similar, strict=True))


#: All of it, in the order of the fused points.
PLAIN = {"min_relevance": 0.0, "min_score": None, "group": False}


@settings(max_examples=120, deadline=None)
@given(
    n=st.integers(0, 400),
    seed=st.integers(0, 1000),
    k=st.integers(1, 60),
    named=st.integers(0, 80),
    share=st.sampled_from([0.25, 0.5, 1.0]),
    options=st.fixed_dictionaries({
        "min_relevance": st.sampled_from([0.0, 0.2, 0.5, 0.9]),
        "min_score": st.sampled_from([None, None, 0.1]),
        "group": st.booleans(),
    }),
)  # fmt: skip
# Two are equally good, 1/66 + 0.375/66 and 1/64 + 0.375/72: as floats they differ.
@example(n=16, seed=81, k=1, named=16, share=0.25, options=PLAIN)
def test_pages_are_slices_of_one_list(
    n: int, seed: int, k: int, named: int, share: float, options: dict[str, Any]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (fusion, "DEPTH", 50), (relevance, "PATIENCE", 20), (ranking, "GROUPED", 64),
            (ranking, "_JUDGED", 4),
        ):  # fmt: skip
            patch.setattr(module, name, value)
        of = Collection(n, seed)
        names = of.named(named, share) if named else None
        question = Question((Term(text="x"),), k=k, **options)
        want = of.whole(question, names)
        uncut = of.whole(replace(question, min_relevance=0.0, min_score=None), names)
        for offset in (*range(0, len(want) + k, k), n - k // 2, n, n + 3):
            if offset < 0:
                continue
            page = of.page(replace(question, offset=offset), names)
            heads = [head for head, _ in want[offset : offset + k]]
            assert page.ids.tolist() == heads
            # Those that would stand here; of groups it cannot be known how the weak ones fall.
            if question.group:
                assert 0 <= page.cut <= max(0, min(k, n - offset) - len(heads))
            else:
                assert page.cut == len(uncut[offset : offset + k]) - len(heads)
            told = [page.scores.tolist(), page.relevance.tolist()]  # type: ignore[union-attr]
            assert [len(column) for column in told] == [len(heads)] * 2
            # How many near-duplicates are named depends on how far was looked; never on others.
            for (_, others), (_, some) in zip(want[offset:], shown(page), strict=False):
                assert others[: len(some)] == some
        everything = of.page(replace(question, k=1000), names)
        assert shown(everything) == want
        assert (everything.cut > 0) == (len(want) + sum(len(o) for _, o in want) < n)


def coarse(folder: Path, factory: str = "IVF1,PQ1x4fs", reach: int = fast.SHALLOW) -> Collection:
    """With an approximate index; one of so short codes misses much."""
    of = Collection(3000, 11)
    of.index.save(folder)
    of.index = FlatIndex.load(folder, SPACE, "image")
    codes = fast.learn(factory, of.rows, 0)
    fast.encode(codes, of.rows)
    of.index.fast = fast.Fast(codes, 1, 4 * reach, reach)
    return of


@pytest.mark.parametrize("weak", [False, True])
def test_pages_fit_together_where_there_is_an_approximate_index(tmp_path: Path, weak: bool) -> None:
    of = coarse(tmp_path)
    question = Question((Term(text="x"),), k=3000)
    found = of.page(question, None)
    whole = found.ids.tolist()
    exact = of.page(replace(question, exact=True), None).ids.tolist()
    assert sorted(whole) == sorted(exact)
    assert whole != exact
    if weak:  # the list ends before what was missed
        question = replace(question, min_score=float(found.scores[60]))
        whole = whole[:61]
        assert (found.scores[61:] > question.min_score).any()
    for k in (10, 70):
        shown: list[int] = []
        for offset in range(0, 280, k):
            page = of.page(replace(question, k=k, offset=offset), None)
            shown += page.ids.tolist()
        assert shown == whole[:280]


@pytest.mark.parametrize(
    "changes", [{"min_relevance": 0.5}, {"group": True}, {"diversity": 0.3}, {"words": True}]
)
def test_what_looks_far_anyway_is_exact(tmp_path: Path, changes: dict[str, Any]) -> None:
    of = coarse(tmp_path)
    named = of.named(3, 0.5) if "words" in changes else None
    question = Question((Term(text="x"),), k=10, **changes)
    page = of.page(question, named)
    assert shown(page) == shown(of.page(replace(question, exact=True), named))


def test_what_is_not_too_weak_is_found_by_an_index_that_reaches_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = coarse(tmp_path, "IVF1,PQ16x4fs", fast.DEEPEST)
    question = Question((Term(text="x"),), k=20, min_relevance=0.5)
    want = of.page(replace(question, exact=True), None)
    assert len(want.ids) > 1
    compared: list[bool] = []
    search = FlatIndex.search

    def note(self: FlatIndex, *args: Any, exact: bool = False, **options: Any) -> Any:
        compared.append(exact or args[1] > self.reach)
        return search(self, *args, exact=exact, **options)

    monkeypatch.setattr(FlatIndex, "search", note)
    page = of.page(question, None)
    assert compared == [False]
    assert (page.ids.tolist(), page.scores.tolist()) == (want.ids.tolist(), want.scores.tolist())
    assert page.relevance is not None
    assert want.relevance is not None
    assert page.relevance.tolist() == want.relevance.tolist()
    # What was measured of the ten nearest says nothing of so many.
    of.index.fast.reach = fast.SHALLOW  # type: ignore[union-attr]
    assert of.page(question, None).ids.tolist() == want.ids.tolist()
    assert compared == [False, True]


@pytest.mark.parametrize("threshold", [0.05, 0.5])
def test_pages_of_what_is_not_too_weak_fit_together(tmp_path: Path, threshold: float) -> None:
    of = coarse(tmp_path, reach=fast.DEEPEST)
    question = Question((Term(text="x"),), k=3000, min_relevance=threshold)
    whole = of.page(question, None).ids.tolist()
    assert len(whole) > 1
    for k in (10, 70):
        shown: list[int] = []
        for offset in range(0, 700, k):
            page = of.page(replace(question, k=k, offset=offset), None)
            shown += page.ids.tolist()
        assert shown == whole[:700]


def test_what_words_name_comes_first_and_is_not_left_out() -> None:
    of = Collection(300, 5)
    worst = of.ids[np.argsort(of.vectors @ of.query.vector[0])[:3]]
    named = Named(np.sort(worst), np.ones(3, np.int64), 1.0)
    question = Question((Term(text="x"),), k=4, min_relevance=0.5)
    page = of.page(question, named)
    assert sorted(page.ids.tolist()[:3]) == sorted(worst.tolist())
    assert page.relevance is not None
    assert page.relevance[:3].tolist() == [1.0, 1.0, 1.0]
    # Of equally well named ones, what they look like decides.
    assert page.scores[:3].tolist() == sorted(page.scores[:3].tolist(), reverse=True)
    # Named by a third of the words they are no answers by that alone.
    page = of.page(question, replace(named, share=1 / 3))
    assert not np.isin(worst, page.ids).any()


def test_left_out_is_told() -> None:
    of = Collection(300, 6)
    question = Question((Term(text="x"),), k=10, min_relevance=1.0)
    page = of.page(question, None)
    assert (len(page.ids), page.cut) == (0, 10)
    assert page.nearest is not None
    everything = of.page(replace(question, min_relevance=0.0, k=300), None)
    assert everything.relevance is not None
    assert page.nearest == pytest.approx(everything.relevance[: relevance.PATIENCE].max())
    assert (everything.cut, everything.nearest) == (0, None)


def test_pages_of_what_differs_fit_together() -> None:
    of = Collection(300, 7)
    question = Question((Term(text="x"),), k=60, diversity=0.5)
    together = of.page(question, None).ids.tolist()
    assert len(set(together)) == 60
    in_pages: list[int] = []
    for offset in range(0, 56, 7):
        in_pages += of.page(replace(question, k=7, offset=offset), None).ids.tolist()
    assert in_pages == together[:56]
    plain = of.page(replace(question, diversity=0.0), None).ids.tolist()
    assert together[0] == plain[0]
    assert together != plain

    def alike(ids: list[int]) -> float:
        rows = of.vectors[np.searchsorted(of.ids, ids[:20])]
        return float(np.triu(rows @ rows.T, 1).sum())

    assert alike(together) < alike(plain)
    # Past those that are re-ranked, all that is left follows.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "DIVERSE", 20)
        every = of.page(replace(question, k=300), None).ids.tolist()
    assert sorted(every) == of.ids.tolist()
    assert sorted(every[:20]) == sorted(of.page(replace(question, diversity=0, k=20), None).ids)


def test_without_a_background_nothing_is_left_out() -> None:
    of = Collection(30, 8)
    question = Question((Term(text="x"),), k=30, min_relevance=0.9)
    page = Ranking(of.index, of.query, question).page()
    assert page.relevance is None
    assert len(page.ids) == 30
    only_a_vector = replace(of.query, parts=())
    page = Ranking(of.index, only_a_vector, question, background=of.background).page()
    assert page.relevance is None
    assert len(page.ids) == 30


def test_words_and_a_picture_together_are_judged_by_both() -> None:
    of = Collection(60, 10)
    words, picture = of.query.vector, of.vectors[7:8]
    parts = (QueryPart("text", 0.5, words), QueryPart("image", 2.0, picture))
    of.query = replace(of.query, parts=parts)
    page = of.page(Question((Term(text="x"), Term(image=b"y")), k=60), None)
    rows = of.vectors[np.searchsorted(of.ids, page.ids)]
    by_words, by_picture = (
        of.background.relevance(part.vector, rows, asked=part.modality, found="image", n_items=60)
        for part in parts
    )
    expected = relevance.joined([(0.5, by_words), (2.0, by_picture)])
    np.testing.assert_allclose(page.relevance, expected, atol=1e-5)
    assert np.abs(expected - by_words).max() > 0.05
    assert np.abs(expected - by_picture).max() > 0.05


def test_what_is_asked_for_is_no_answer() -> None:
    of = Collection(50, 9)
    like = int(of.ids[0])
    named = of.named(20, 1.0)
    question = Question((Term(image_id=like), Term(text="x")), k=50)
    page = of.page(question, named)
    assert like not in page.ids
    assert len(page.ids) == 49
