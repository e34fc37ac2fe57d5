"""Vectors, brute force to compare with, and a machine that does everything in any order."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mmsearch.index.flat import FlatIndex
from mmsearch.types import Space

DIM = 20
SPACE = Space("some/model", DIM, "0123456789abcdef" * 4, "as it is")
OTHER = Space("other/model", DIM, "fedcba9876543210" * 4, "as it is")


def unit(n: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def filled(n: int = 300, seed: int = 0) -> tuple[FlatIndex, np.ndarray, np.ndarray]:
    """An index, the ids and the float16 vectors in it; ids have gaps and are in no order."""
    ids = np.random.default_rng(seed + 1).permutation(10 * n)[:n].astype(np.int64)
    xb = unit(n, seed=seed).astype(np.float16)
    index = FlatIndex(SPACE, "image", origin="here")
    index.add(n, ids, xb)
    return index, ids, xb


def brute(
    xq: np.ndarray, ids: np.ndarray, xb: np.ndarray, k: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(scores, ids) of the k nearest of each query, equal scores by id."""
    products = xq @ xb.astype(np.float32).T
    orders = [np.lexsort((ids, -row))[:k] for row in products]
    return [(row[order], ids[order]) for row, order in zip(products, orders, strict=True)]


def check(index: FlatIndex, xq: np.ndarray, ids: np.ndarray, xb: np.ndarray, k: int) -> None:
    found = index.search(xq, k)
    for one, (scores, expected) in zip(found, brute(xq, ids, xb, k), strict=True):
        assert one.scores.dtype == np.float32
        assert one.ids.dtype == np.int64
        assert np.abs(one.scores - scores).max(initial=0) < 1e-3
        assert one.ids.tolist() == expected.tolist()


def catch_up(
    index: FlatIndex, hidden: np.ndarray, catalog: dict[int, np.ndarray], last_seq: int = 0
) -> list[int]:
    """What a library does at each commit; returns which contents the index was lacking."""
    lacking = index.lacking(hidden)
    back = np.array([id_ for id_ in lacking.tolist() if id_ in catalog], np.int64)
    if len(back):
        index.restore(back, np.stack([catalog[id_] for id_ in back.tolist()]))
    index.hide(hidden)
    return lacking.tolist()


class AnyOrder(RuleBasedStateMachine):
    """Whatever is done in whatever order, searches are those of brute force."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.index = self.made(FlatIndex(SPACE, "image", origin="here"))
        self.catalog: dict[int, np.ndarray] = {}
        self.arrived: list[int] = []  # by seq; some come twice
        self.hidden: set[int] = set()
        self.saved = 0

    def made(self, index: FlatIndex) -> FlatIndex:
        """For machines that search in another way."""
        return index

    def _arrive(self, ids: np.ndarray, rows: np.ndarray) -> None:
        self.catalog.update(zip(ids.tolist(), rows, strict=True))
        self.arrived += ids.tolist()

    def _catch_up(self) -> None:
        new = self.arrived[self.index.last_seq :]
        if new:
            ids = np.array(list(dict.fromkeys(new)), np.int64)
            rows = np.stack([self.catalog[id_] for id_ in ids.tolist()])
            self.index.add(len(self.arrived), ids, rows)
        catch_up(self.index, np.array(sorted(self.hidden), np.int64), self.catalog)

    @rule(n=st.integers(1, 40), seed=st.integers(0, 20), twice=st.booleans(), low=st.booleans())
    def add(self, n: int, seed: int, twice: bool, low: bool) -> None:
        rows = unit(n, seed=seed).astype(np.float16)
        rows = np.concatenate([rows, rows]) if twice else rows
        ids = np.arange(len(self.arrived), len(self.arrived) + len(rows)) * 3 + 1
        self._arrive(-1 - ids + 10_000 if low else ids + 10_000, rows)
        self._catch_up()

    @rule(data=st.data())
    def embed_anew(self, data: st.DataObject) -> None:
        """Contents that were forgotten, and come again."""
        if self.catalog:
            some = data.draw(st.lists(st.sampled_from(sorted(self.catalog)), unique=True))
            if some:
                rows = unit(len(some), seed=len(self.arrived)).astype(np.float16)
                self._arrive(np.array(some), rows)
                self._catch_up()

    @rule(data=st.data())
    def hide(self, data: st.DataObject) -> None:
        some = data.draw(st.lists(st.sampled_from([*sorted(self.catalog), 5, 2]), max_size=30))
        self.hidden = set(some)
        self._catch_up()

    @rule()
    def save(self) -> None:
        self.index.save(Path(self.folder.name))
        self.saved = len(self.arrived)

    @rule()
    def load(self) -> None:
        loaded = FlatIndex.load(Path(self.folder.name), SPACE, "image", origin="here")
        self.index = self.made(loaded)
        assert self.index.last_seq == self.saved
        self._catch_up()

    @invariant()
    def finds_what_brute_force_finds(self) -> None:
        there = [id_ for id_ in self.catalog if id_ not in self.hidden]
        rows = [self.catalog[id_] for id_ in there]
        xb = np.stack(rows) if rows else np.empty((0, DIM), np.float16)
        assert len(self.index) == len(there)
        check(self.index, unit(2, seed=99), np.array(there, np.int64), xb, 7)

    def teardown(self) -> None:
        self.folder.cleanup()
