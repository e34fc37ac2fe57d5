"""The copy on a device, with a flat index on the CPU in its place, and on a real GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_oracle import DIM, SPACE, AnyOrder, brute, check, filled, unit

from mmsearch.index import resident
from mmsearch.index.flat import FlatIndex
from mmsearch.index.resident import Resident
from mmsearch.types import Space


class Device:
    """What a flat index on a GPU can do, and no more: add, and search for 2048 at most."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self.searches = 0

    def add(self, vectors: np.ndarray) -> None:
        assert vectors.dtype == np.float32
        assert vectors.flags.c_contiguous
        self._index.add(vectors)

    def search(self, xq: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        assert 0 < k <= resident.MAX_K
        self.searches += 1
        return self._index.search(xq, k)  # type: ignore[no-any-return]


def plain(dim: int) -> Device:
    return Device(faiss.IndexFlatIP(dim))


def halved(dim: int) -> Device:
    index = faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index.is_trained = True
    return Device(index)


KINDS = pytest.mark.parametrize("make", [plain, halved])


@KINDS
@given(
    seed=st.integers(0, 10_000),
    steps=st.lists(st.sampled_from(["add", "again", "hide", "show", "forget"]), max_size=12),
    k=st.integers(1, 30),
)
@settings(max_examples=80, deadline=None)
def test_any_order_of_changes(make: Any, seed: int, steps: list[str], k: int) -> None:
    rng = np.random.default_rng(seed)
    rows: dict[int, np.ndarray] = {}
    shown: dict[int, bool] = {}
    copy = Resident(make(DIM))

    def some() -> np.ndarray:
        """Ids, some of which it never had."""
        return rng.permutation([*rows, -7, 10**9])[: rng.integers(0, len(rows) + 2)]

    for step in ["add", *steps]:
        ids = some()
        if step == "add":
            ids = np.setdiff1d(rng.integers(0, 500, 20), list(rows))
        if step in ("add", "again"):
            ids = rng.permutation(ids[(ids >= 0) & (ids < 500)])
            vectors = unit(len(ids), seed=int(rng.integers(1e9))).astype(np.float16)
            copy.add(ids, vectors)
            rows |= dict(zip(ids.tolist(), vectors, strict=True))
            shown |= dict.fromkeys(ids.tolist(), True)
        elif step == "forget":
            copy.forget(ids)
            for id_ in ids.tolist():
                shown.pop(id_, None)
                rows.pop(id_, None)
        else:
            copy.show(ids, step == "show")
            shown |= {id_: step == "show" for id_ in ids.tolist() if id_ in shown}
        there = [id_ for id_, visible in shown.items() if visible]
        assert len(copy) == len(there)
        assert copy.has(np.array([*rows, 10**9])).tolist() == [True] * len(rows) + [False]
        xq = unit(2, seed=seed)
        scores, found = copy.search(xq, k)
        xb = np.stack([rows[id_] for id_ in there]) if there else np.empty((0, DIM), np.float16)
        best = brute(xq, np.array(there, np.int64), xb, k)
        for row, ours, ids_, (theirs, expected) in zip(xq, scores, found, best, strict=True):
            order = np.lexsort((ids_, -ours))
            order = order[ids_[order] >= 0][:k]
            assert np.abs(ours[order] - theirs).max(initial=0) < 1e-3
            mine = ids_[order].tolist()
            assert len(set(mine)) == len(expected)
            # Other contents only where rounding, which FAISS does in another order, decides.
            true = np.array([rows[id_].astype(np.float32) @ row for id_ in mine], np.float32)
            assert np.abs(true - theirs).max(initial=0) < 1e-6


class AnyOrderOnADevice(AnyOrder):
    """The same with searches on a device, whose limit is low enough to be met."""

    def made(self, index: FlatIndex) -> FlatIndex:
        index._flat = plain
        return index


AnyOrderOnADevice.TestCase.settings = settings(
    max_examples=30, stateful_step_count=12, deadline=None
)


class TestAnyOrderOnADevice(AnyOrderOnADevice.TestCase):  # type: ignore[misc,name-defined]
    def setUp(self) -> None:
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(resident, "MAX_K", 24)

    def tearDown(self) -> None:
        self._patch.undo()


def on_device(monkeypatch: pytest.MonkeyPatch, n: int = 300) -> Any:
    made: list[Device] = []

    def make(dim: int) -> Device:
        made.append(plain(dim))
        return made[-1]

    monkeypatch.setattr(resident, "on_device", lambda device: make if device == "cuda" else None)
    _, ids, xb = filled(n)
    index = FlatIndex(SPACE, "image", device="cuda")
    index.add(n, ids, xb)
    return index, ids, xb, made


def test_additions_and_a_few_deletions_need_no_new_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    index, ids, xb, made = on_device(monkeypatch)
    xq = unit(4, seed=3)
    check(index, xq, ids, xb, 10)
    more, rows = np.arange(9000, 9050), unit(50, seed=5).astype(np.float16)
    index.add(350, more, rows)
    index.hide(ids[:30])
    ids, xb = np.concatenate([ids, more]), np.concatenate([xb, rows])
    check(index, xq, ids[30:], xb[30:], 10)
    index.hide(ids[20:40])
    keep = np.r_[0:20, 40:350]
    check(index, xq, ids[keep], xb[keep], 340)
    assert len(made) == 1
    assert made[0].searches == 3
    # A tenth of it hidden: a copy of what is left.
    index.hide(ids[:50])
    check(index, xq, ids[50:], xb[50:], 10)
    assert len(made) == 2
    # What was hidden when that was made is not in it, and comes back.
    index.hide(ids[:40])
    check(index, xq, ids[40:], xb[40:], 10)
    assert len(made) == 2


def test_a_vector_replaced_while_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    index, ids, xb, made = on_device(monkeypatch)
    index.search(unit(1), 5)
    index.hide(ids[:3])
    xb[:5] = unit(5, seed=44).astype(np.float16)
    index.add(305, ids[:5], xb[:5])
    check(index, unit(4, seed=3), ids[3:], xb[3:], 20)
    index.hide(ids[1:2])
    keep = np.r_[0:1, 2:300]
    check(index, np.concatenate([unit(4, seed=3), unit(5, seed=44)]), ids[keep], xb[keep], 20)
    assert len(made) == 1


def test_more_than_the_device_can_find(monkeypatch: pytest.MonkeyPatch) -> None:
    index, ids, xb, made = on_device(monkeypatch, 3000)
    xq = unit(2, seed=3)
    check(index, xq, ids, xb, 2047)
    assert made[0].searches == 1
    check(index, xq, ids, xb, 2048)  # one more is asked for: on the CPU
    assert made[0].searches == 1
    index.hide(ids[:100])  # well below a tenth, but too many beside so many results
    check(index, xq, ids[100:], xb[100:], 1990)
    assert [device.searches for device in made] == [1, 1]


def test_equal_scores_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    index, _, _, _ = on_device(monkeypatch)
    same = np.repeat(unit(1, seed=8), 40, axis=0).astype(np.float16)
    index.add(340, np.arange(9000, 9040)[::-1].copy(), same)
    index.hide(np.array([9000, 9005]))
    for k in (1, 5, 38):
        (found,) = index.search(unit(1, seed=8), k)
        left = [*range(9001, 9005), *range(9006, 9040)]
        assert found.ids.tolist() == left[:k]


@pytest.mark.parametrize("when", ["made", "added to"])
def test_full_device_leaves_the_search_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    index, ids, xb, made = on_device(monkeypatch)

    def full(*_args: object) -> None:
        raise RuntimeError("cudaMalloc error out of memory")

    if when == "added to":
        index.search(unit(1), 5)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Device, "add", full)
        index.add(301, np.array([99_999]), unit(1, seed=5).astype(np.float16))
        ids = np.append(ids, 99_999)
        xb = np.concatenate([xb, unit(1, seed=5).astype(np.float16)])
        check(index, unit(3, seed=1), ids, xb, 10)
    assert "does not fit on the GPU" in caplog.text
    check(index, unit(3, seed=1), ids, xb, 10)
    assert len(made) == 1


def test_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    index, ids, xb, _ = on_device(monkeypatch, 20)
    index.hide(ids)
    assert index.search(unit(1), 5)[0].ids.tolist() == []
    index.hide(ids[1:])
    check(index, unit(2), ids[:1], xb[:1], 5)


@pytest.mark.parametrize(("share", "there"), [(0.9, True), (0.5, True), (0.003, False)])
def test_among_some(monkeypatch: pytest.MonkeyPatch, share: float, there: bool) -> None:
    """The device answers where it can tell; of few among many the CPU knows more."""
    index, ids, xb, made = on_device(monkeypatch, 3000)
    index.hide(np.sort(ids[:40]))
    some = np.random.default_rng(2).random(3000) < share
    keep = some & (np.arange(3000) >= 40)
    xq = unit(3, seed=1)
    index.search(xq, 1)
    before = made[0].searches
    for k in (1, 7):
        expected = brute(xq, ids[keep], xb[keep], k)
        found = index.search(xq, k, only=np.sort(ids[some]))
        for one, (scores, nearest) in zip(found, expected, strict=True):
            assert one.ids.tolist() == nearest.tolist()
            assert np.abs(one.scores - scores).max() < 1e-3
    assert (made[0].searches - before == 2) == there
    worst = index.search(xq[:1], 3000)[0].ids[-900:]
    found = index.search(xq, 800, only=np.sort(worst))  # far away: too few of the nearest of all
    assert {len(one.ids) for one in found} == {800}


def test_no_device_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0, raising=False)
    assert resident.on_device("cuda") is None
    assert resident.on_device("cpu") is None


@pytest.mark.gpu
@pytest.mark.parametrize("hidden", [0, 1500, 2500])
def test_gpu_equals_brute_force(tmp_path: Path, hidden: int) -> None:
    if not hasattr(faiss, "get_num_gpus") or not faiss.get_num_gpus():
        pytest.skip("no CUDA device, or a faiss without GPU support")
    dim, n = 512, 20_000
    space = Space("some/model", dim, "f" * 64, "")
    index = FlatIndex(space, "image", device="cuda")
    ids, xb = np.arange(n)[::-1] * 7, unit(n, dim).astype(np.float16)
    index.add(n // 2, ids[: n // 2], xb[: n // 2])
    index.search(unit(1, dim), 1)
    copy = index._resident
    assert copy is not None
    index.add(n, ids[n // 2 :], xb[n // 2 :])
    index.hide(ids[: hidden // 2])
    index.search(unit(1, dim), 1)
    assert index._resident is copy
    index.hide(ids[:hidden])
    xq = unit(20, dim, seed=2)
    for k in (1, 10, 100, 2047, 3000):
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
    assert index._resident is not None
    assert (index._resident is copy) == (not hidden)


@pytest.mark.gpu
@pytest.mark.parametrize("share", [0.9, 0.5, 0.01])
def test_gpu_among_some_equals_the_cpu(share: float) -> None:
    if not hasattr(faiss, "get_num_gpus") or not faiss.get_num_gpus():
        pytest.skip("no CUDA device, or a faiss without GPU support")
    dim, n = 512, 20_000
    space = Space("some/model", dim, "f" * 64, "")
    ids, xb = np.arange(n) * 3, unit(n, dim).astype(np.float16)
    on_gpu, on_cpu = FlatIndex(space, "image", device="cuda"), FlatIndex(space, "image")
    only = ids[np.random.default_rng(3).random(n) < share]
    for index in (on_gpu, on_cpu):
        index.add(n - 500, ids[:-500], xb[:-500])
        index.search(unit(1, dim), 1)
        index.add(n, ids[-500:], xb[-500:])
        index.hide(ids[:300])
        index.add(n + 1, ids[500:501], xb[-1:])  # another vector of a content it has
    xq = unit(20, dim, seed=2)
    for k in (1, 10, 100):
        for one, true in zip(
            on_gpu.search(xq, k, only=only), on_cpu.search(xq, k, only=only), strict=True
        ):
            assert len(one.ids) == len(true.ids) == min(k, len(only))
            assert np.abs(one.scores - true.scores).max() < 1e-3
            assert np.isin(one.ids, only).all()
            assert not np.isin(one.ids, ids[:300]).any()
            # Neighbours closer to each other than half precision tells may swap.
            far = ~np.isin(one.ids, true.ids)
            assert (one.scores[far] <= true.scores[-1] + 1e-3).all()
