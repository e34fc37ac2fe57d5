"""Exact search against brute force over the same float16 vectors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mmsearch.errors import SpaceMismatchError, VectorIndexError
from mmsearch.index import manifest
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


@pytest.mark.parametrize("k", [1, 10, 299, 300, 5000])
def test_equals_brute_force(k: int) -> None:
    index, ids, xb = filled()
    check(index, unit(50, seed=9), ids, xb, k)


@pytest.mark.parametrize("dim", [1, 7, 64, 513])
def test_any_dimension(dim: int) -> None:
    space = Space("m", dim, "f" * 64, "")
    xb = unit(100, dim).astype(np.float16)
    index = FlatIndex(space, "text")
    index.add(100, np.arange(100), xb)
    xq = unit(5, dim, seed=3)
    for one, (scores, _) in zip(
        index.search(xq, 10), brute(xq, np.arange(100), xb, 10), strict=True
    ):
        assert np.abs(one.scores - scores).max() < 1e-3


def test_hidden_contents_are_not_found_and_do_not_cost_results() -> None:
    index, ids, xb = filled()
    xq = unit(8, seed=4)
    best = np.concatenate([one.ids for one in index.search(xq, 10)])
    index.hide(best)
    keep = ~np.isin(ids, best)
    assert len(index) == keep.sum()
    check(index, xq, ids[keep], xb[keep], 10)
    check(index, xq, ids[keep], xb[keep], 300)
    index.hide(np.empty(0, np.int64))
    check(index, xq, ids, xb, 10)
    index.hide(ids)
    assert [len(one.ids) for one in index.search(xq, 10)] == [0] * 8


def test_added_after_hiding() -> None:
    """The hidden ones are left out of what comes later too, and the bitmap grows with it."""
    index, ids, xb = filled(20)
    index.hide(np.array([ids[3], 100_001]))
    more = np.array([100_000, 100_001, 100_002])
    vectors = unit(3, seed=77).astype(np.float16)
    index.add(23, more, vectors)
    ids, xb = np.concatenate([ids, more]), np.concatenate([xb, vectors])
    keep = ~np.isin(ids, [ids[3], 100_001])
    check(index, unit(8, seed=4), ids[keep], xb[keep], 30)


def test_empty_index() -> None:
    index = FlatIndex(SPACE, "image")
    assert len(index) == 0
    assert index.last is None
    assert index.search(unit(1), 5)[0].ids.tolist() == []


@pytest.mark.parametrize("saved", [False, True])
def test_equal_scores_come_by_ascending_id_on_every_page(tmp_path: Path, saved: bool) -> None:
    """Pages of results must neither repeat nor skip contents of the same vector."""
    xb = np.repeat(unit(5), 60, axis=0).astype(np.float16)
    ids = np.random.default_rng(5).permutation(len(xb)).astype(np.int64)
    index = FlatIndex(SPACE, "text")
    index.add(200, ids[:200], xb[:200])
    if saved:
        index.save(tmp_path)
        index = FlatIndex.load(tmp_path, SPACE, "text")
    index.add(300, ids[200:], xb[200:])
    xq = unit(5)
    whole = index.search(xq, 300)
    for k in (1, 7, 59, 60, 61, 150):
        for one, all_of_them in zip(index.search(xq, k), whole, strict=True):
            assert one.ids.tolist() == all_of_them.ids[:k].tolist()
    for one in whole:
        order = np.lexsort((one.ids, -one.scores))
        assert order.tolist() == list(range(300))


def test_vectors_of_another_dimension_are_refused() -> None:
    index, _, _ = filled()
    with pytest.raises(SpaceMismatchError):
        index.search(unit(1, DIM + 1), 5)
    with pytest.raises(SpaceMismatchError):
        index.add(1000, np.arange(1), unit(1, DIM - 1).astype(np.float16))


# --- file ---------------------------------------------------------------------------------------


def load(folder: Path, **options: str) -> FlatIndex:
    return FlatIndex.load(folder, SPACE, "image", **({"origin": "here"} | options))


def test_saved_and_loaded(tmp_path: Path) -> None:
    index, ids, xb = filled()
    index.hide(ids[:5])
    index.save(tmp_path)
    loaded = load(tmp_path)
    assert (loaded.last_seq, loaded.delta, loaded.total) == (300, 0, 300)
    assert loaded.last == index.last == (int(ids[-1]), xb[-1].tobytes())
    check(loaded, unit(5, seed=6), ids, xb, 20)  # what is hidden, the catalog says anew
    more = np.arange(100_000, 100_040)
    vectors = unit(40, seed=8).astype(np.float16)
    loaded.add(340, more, vectors)
    loaded.hide(np.array([ids[7], more[3]]))
    every, rows = np.concatenate([ids, more]), np.concatenate([xb, vectors])
    keep = ~np.isin(every, [ids[7], more[3]])
    check(loaded, unit(5, seed=6), every[keep], rows[keep], 400)
    loaded.save(tmp_path)  # over the file that it has mapped
    check(loaded, unit(5, seed=6), every[keep], rows[keep], 400)
    assert load(tmp_path).total == 340
    assert sorted(f.suffix for f in tmp_path.iterdir()) == [".faiss", ".json"]


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _scribble(path: Path) -> None:
    """Damage of the same size: the head of the file is no index any more."""
    with path.open("r+b") as file:
        file.write(b"\xff" * 64)


def _manifest(**changes: object) -> object:
    def change(path: Path) -> None:
        about = json.loads(path.with_suffix(".json").read_text())
        path.with_suffix(".json").write_text(json.dumps(about | changes))

    return change


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.unlink(), id="deleted"),
        pytest.param(lambda path: path.with_suffix(".json").unlink(), id="no manifest"),
        pytest.param(lambda path: path.with_suffix(".json").write_text("{"), id="torn manifest"),
        pytest.param(lambda path: path.with_suffix(".json").write_text("[]"), id="odd manifest"),
        pytest.param(lambda path: path.with_suffix(".json").write_bytes(b"\xff"), id="binary"),
        pytest.param(_truncate, id="truncated"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(_scribble, id="scribbled over"),
        pytest.param(_manifest(space=OTHER.fingerprint), id="other space"),
        pytest.param(_manifest(origin="elsewhere"), id="other catalog"),
        pytest.param(_manifest(modality="text"), id="other modality"),
        pytest.param(_manifest(ntotal=299), id="stale manifest"),
        pytest.param(_manifest(factory="Flat"), id="other kind"),
        pytest.param(_manifest(dim=DIM + 1), id="other dimension"),
    ],
)
def test_file_that_cannot_be_trusted_is_not_used(tmp_path: Path, damage: object) -> None:
    index, ids, xb = filled()
    index.save(tmp_path)
    path = manifest.index_file(tmp_path, SPACE, "image")
    assert callable(damage)
    damage(path)
    loaded = load(tmp_path)
    assert (loaded.last_seq, loaded.total) == (0, 0)
    loaded.add(300, ids, xb)
    loaded.save(tmp_path)
    assert load(tmp_path).total == 300


def test_file_of_another_catalog_is_not_used(tmp_path: Path) -> None:
    index, _, _ = filled()
    index.save(tmp_path)
    assert load(tmp_path, origin="elsewhere").total == 0


@pytest.mark.parametrize("step", ["write", "first move", "second move"])
def test_interrupted_save_leaves_the_old_file_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    index, _, _ = filled()
    index.save(tmp_path)
    index.add(301, np.array([99_999]), unit(1, seed=5).astype(np.float16))

    class KilledError(Exception):
        pass

    moves = iter(["first move", "second move"])

    def killed(*_args: object) -> None:
        if step == "write" or next(moves) == step:
            raise KilledError

    with monkeypatch.context() as patch:
        target = "faiss.write_index" if step == "write" else "mmsearch.index.manifest._move"
        move = manifest._move
        patch.setattr(target, lambda *args: (killed(*args), move(*args)))
        with pytest.raises(KilledError):
            index.save(tmp_path)
    loaded = load(tmp_path)
    assert loaded.total == (300 if step == "write" else 0)
    index.save(tmp_path)
    assert load(tmp_path).total == 301


def test_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _, _ = filled()

    def full(_index: object, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("write error: No space left on device")

    monkeypatch.setattr(faiss, "write_index", full)
    with pytest.raises(VectorIndexError, match="free some space"):
        index.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- any order ----------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Whatever is done in whatever order, searches are those of brute force."""

    @initialize(folder=st.builds(lambda: None))
    def begin(self, folder: None) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.index = FlatIndex(SPACE, "image", origin="here")
        self.ids = np.empty(0, np.int64)
        self.xb = np.empty((0, DIM), np.float16)
        self.hidden: set[int] = set()
        self.saved = 0

    @rule(n=st.integers(1, 40), seed=st.integers(0, 20), twice=st.booleans())
    def add(self, n: int, seed: int, twice: bool) -> None:
        rows = unit(n, seed=seed).astype(np.float16)
        rows = np.concatenate([rows, rows]) if twice else rows
        ids = np.arange(len(self.ids), len(self.ids) + len(rows)) * 3 + 1
        self.ids, self.xb = np.concatenate([self.ids, ids]), np.concatenate([self.xb, rows])
        self.index.add(len(self.ids), ids, rows)

    @rule(data=st.data())
    def hide(self, data: st.DataObject) -> None:
        some = data.draw(st.lists(st.sampled_from([*self.ids.tolist(), -5, 2]), max_size=30))
        self.hidden = set(some)
        self.index.hide(np.array(sorted(self.hidden), np.int64))

    @rule()
    def save(self) -> None:
        self.index.save(Path(self.folder.name))
        self.saved = len(self.ids)

    @rule()
    def load(self) -> None:
        self.index = FlatIndex.load(Path(self.folder.name), SPACE, "image", origin="here")
        assert self.index.last_seq == self.saved
        if self.saved < len(self.ids):
            self.index.add(len(self.ids), self.ids[self.saved :], self.xb[self.saved :])
        self.index.hide(np.array(sorted(self.hidden), np.int64))

    @invariant()
    def finds_what_brute_force_finds(self) -> None:
        keep = ~np.isin(self.ids, list(self.hidden))
        assert len(self.index) == keep.sum()
        check(self.index, unit(2, seed=99), self.ids[keep], self.xb[keep], 7)

    def teardown(self) -> None:
        self.folder.cleanup()


AnyOrder.TestCase.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
TestAnyOrder = AnyOrder.TestCase


@given(
    n=st.integers(0, 60),
    k=st.integers(1, 80),
    seed=st.integers(0, 1000),
    share=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_any_share_hidden(n: int, k: int, seed: int, share: float) -> None:
    index = FlatIndex(SPACE, "image")
    ids, xb = np.arange(n) + 5, unit(n, seed=seed).astype(np.float16)
    if n:
        index.add(n, ids, xb)
    gone = ids[np.random.default_rng(seed).random(n) < share]
    index.hide(gone)
    keep = ~np.isin(ids, gone)
    check(index, unit(2, seed=seed + 1), ids[keep], xb[keep], k)


# --- GPU ----------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("hidden", [0, 1500, 2500])
def test_gpu_equals_brute_force(hidden: int) -> None:
    if not hasattr(faiss, "get_num_gpus") or not faiss.get_num_gpus():
        pytest.skip("no CUDA device, or a faiss without GPU support")
    dim, n = 512, 20_000
    space = Space("some/model", dim, "f" * 64, "")
    index = FlatIndex(space, "image", device="cuda")
    ids, xb = np.arange(n)[::-1] * 7, unit(n, dim).astype(np.float16)
    index.add(n // 2, ids[: n // 2], xb[: n // 2])
    index.search(unit(1, dim), 1)
    index.add(n, ids[n // 2 :], xb[n // 2 :])
    index.hide(ids[:hidden])
    xq = unit(20, dim, seed=2)
    used = index._search_gpu(xq, 11) is not None
    assert used == (hidden < 2000)
    for k in (1, 10, 100):
        for one, (scores, expected) in zip(
            index.search(xq, k), brute(xq, ids[hidden:], xb[hidden:], k), strict=True
        ):
            assert np.abs(one.scores - scores).max() < 1e-3
            # Neighbours closer to each other than half precision tells may swap.
            truth = dict(zip(expected.tolist(), scores.tolist(), strict=True))
            assert all(
                id_ in truth or score <= scores[-1] + 1e-3
                for id_, score in zip(one.ids.tolist(), one.scores.tolist(), strict=True)
            )
            assert not np.isin(one.ids, ids[:hidden]).any()
