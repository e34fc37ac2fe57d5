"""The copy on a device, with the CPU in its place, and on a real GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_oracle import DIM, SPACE, AnyOrder, brute, check, filled, unit

from mmsearch.index import ondevice, resident
from mmsearch.index.flat import FlatIndex
from mmsearch.index.ondevice import OnDevice
from mmsearch.index.resident import Resident
from mmsearch.types import Space

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes of which small tests meet more than one."""
    monkeypatch.setattr(ondevice, "_GROUP", 8)
    monkeypatch.setattr(ondevice, "_SPARE", 3)


@given(
    seed=st.integers(0, 10_000),
    steps=st.lists(st.sampled_from(["add", "again", "hide", "show", "forget"]), max_size=12),
    k=st.integers(1, 30),
)
@settings(max_examples=120, deadline=None)
def test_any_order_of_changes(seed: int, steps: list[str], k: int) -> None:
    rng = np.random.default_rng(seed)
    rows: dict[int, np.ndarray] = {}
    shown: dict[int, bool] = {}
    copy = Resident(DIM, CPU, room=seed % 50)

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
        only = None if seed % 3 else np.sort(rng.permutation(500)[:250])
        wanted = [id_ for id_ in there if only is None or id_ in only]
        (scores, found), count = copy.search(xq, k, only)
        assert count == len(wanted)
        xb = np.stack([rows[id_] for id_ in wanted]) if wanted else np.empty((0, DIM), np.float16)
        best = brute(xq, np.array(wanted, np.int64), xb, k)
        for row, ours, ids_, (theirs, expected) in zip(xq, scores, found, best, strict=True):
            assert len(ids_) == len(expected)
            assert np.abs(ours - theirs).max(initial=0) < 1e-5
            assert len(set(ids_.tolist())) == len(expected)
            # Other contents only where rounding, which differs in order, decides.
            true = np.array([rows[id_].astype(np.float32) @ row for id_ in ids_.tolist()])
            assert np.abs(true - theirs).max(initial=0) < 1e-5


class AnyOrderOnADevice(AnyOrder):
    """The same with searches on a device."""

    def made(self, index: FlatIndex) -> FlatIndex:
        index._device = CPU
        return index


AnyOrderOnADevice.TestCase.settings = settings(
    max_examples=30, stateful_step_count=12, deadline=None
)


class TestAnyOrderOnADevice(AnyOrderOnADevice.TestCase):  # type: ignore[misc,name-defined]
    pass


def on_device(monkeypatch: pytest.MonkeyPatch, n: int = 300) -> Any:
    """An index that is searched on a device, and the copies it made."""
    made: list[OnDevice] = []

    class Counted(OnDevice):
        def __init__(self, *args: Any) -> None:
            made.append(self)
            self.searches = 0
            super().__init__(*args)

        def search(self, *args: Any) -> Any:
            self.searches += 1
            return super().search(*args)

    monkeypatch.setattr(ondevice, "OnDevice", Counted)
    monkeypatch.setattr(resident, "on_device", lambda device: CPU if device == "cuda" else None)
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
    index.hide(ids[20:90])
    keep = np.r_[0:20, 90:350]
    check(index, xq, ids[keep], xb[keep], 340)
    assert len(made) == 1
    assert made[0].searches == 3
    # A quarter of it hidden: a copy of what is left.
    index.hide(ids[:100])
    check(index, xq, ids[100:], xb[100:], 10)
    assert len(made) == 2
    # What was hidden when that was made is not in it, and comes back.
    index.hide(ids[:90])
    check(index, xq, ids[90:], xb[90:], 10)
    assert len(made) == 2


def test_queries_that_come_together_go_to_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    index, ids, xb, made = on_device(monkeypatch)
    xq = unit(4, seed=3)
    index.search_ahead(xq, 20)
    assert made[0].searches == 1
    for query in xq:
        check(index, query[None], ids, xb, 10)
    assert made[0].searches == 1
    # Once only, and not after a change.
    check(index, xq[:1], ids, xb, 10)
    assert made[0].searches == 2
    index.search_ahead(xq, 20)
    index.hide(ids[:30])
    check(index, xq[:1], ids[30:], xb[30:], 10)
    assert made[0].searches == 4


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


@pytest.mark.parametrize("k", [1, 7, 700, 2999, 3000, 5000])
def test_few_and_many_neighbours(monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    index, ids, xb, _ = on_device(monkeypatch, 3000)
    index.hide(ids[:100])
    check(index, unit(3, seed=3), ids[100:], xb[100:], k)


def test_equal_scores_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    index, _, _, _ = on_device(monkeypatch)
    same = np.repeat(unit(1, seed=8), 40, axis=0).astype(np.float16)
    index.add(340, np.arange(9000, 9040)[::-1].copy(), same)
    index.hide(np.array([9000, 9005]))
    for k in (1, 5, 38):
        (found,) = index.search(unit(1, seed=8), k)
        left = [*range(9001, 9005), *range(9006, 9040)]
        assert found.ids.tolist() == left[:k]


def test_near_ties_are_told_apart_in_full_precision() -> None:
    """Many are as near in half precision; which is nearest, single precision tells."""
    rng = np.random.default_rng(4)
    query = unit(1, 64, seed=1)
    xb = query + rng.normal(scale=2e-3, size=(5000, 64)).astype(np.float32)
    xb = (xb / np.linalg.norm(xb, axis=1, keepdims=True)).astype(np.float16)
    copy = Resident(64, CPU)
    copy.add(np.arange(5000), xb)
    (scores, found), _ = copy.search(query, 5)
    true = xb.astype(np.float64) @ query[0].astype(np.float64)
    assert np.abs(np.sort(true)[::-1][:5] - scores[0]).max() < 1e-6
    assert np.abs(true[found[0]] - scores[0]).max() < 1e-6


def test_steps_of_many_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    index, ids, xb, made = on_device(monkeypatch)
    monkeypatch.setattr(ondevice, "_STEP_BYTES", 30_000)
    check(index, unit(50, seed=3), ids, xb, 10)
    assert 1 <= made[0]._step(50, 11) < 50


@pytest.mark.parametrize("holds", [1, 3])
def test_memory_that_ends_makes_steps_smaller(monkeypatch: pytest.MonkeyPatch, holds: int) -> None:
    index, ids, xb, _ = on_device(monkeypatch)
    usual = OnDevice._some

    def some(self: OnDevice, queries: torch.Tensor, *args: Any) -> Any:
        if len(queries) > holds:
            raise torch.OutOfMemoryError("as a small GPU would")
        return usual(self, queries, *args)

    monkeypatch.setattr(OnDevice, "_some", some)
    check(index, unit(10, seed=3), ids, xb, 10)


@pytest.mark.parametrize("when", ["made", "added to", "searched"])
def test_full_device_leaves_the_search_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    index, ids, xb, made = on_device(monkeypatch)

    def full(*_args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    if when != "made":
        index.search(unit(1), 5)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(OnDevice, "_some" if when == "searched" else "add", full)
        index.add(301, np.array([99_999]), unit(1, seed=5).astype(np.float16))
        if when == "searched":
            patch.setattr(OnDevice, "_some", full)
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
    assert index.search(np.empty((0, DIM), np.float32), 5) == []


@pytest.mark.parametrize("share", [0.9, 0.5, 0.003])
def test_among_some(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    index, ids, xb, made = on_device(monkeypatch, 3000)
    index.hide(np.sort(ids[:40]))
    some = np.random.default_rng(2).random(3000) < share
    keep = some & (np.arange(3000) >= 40)
    xq = unit(3, seed=1)
    for k in (1, 7, 100):
        expected = brute(xq, ids[keep], xb[keep], k)
        found = index.search(xq, k, only=np.sort(ids[some]))
        for one, (scores, nearest) in zip(found, expected, strict=True):
            assert one.ids.tolist() == nearest.tolist()
            assert np.abs(one.scores - scores).max() < 1e-3
    assert made[0].searches == 3
    worst = index.search(xq[:1], 3000)[0].ids[-900:]
    found = index.search(xq, 800, only=np.sort(worst))  # far away from the query
    assert {len(one.ids) for one in found} == {800}
    assert index.search(xq, 5, only=np.array([10**9]))[0].ids.tolist() == []


def test_no_device_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resident.on_device("cuda:0 (NVIDIA H200)") is None
    assert resident.on_device("cpu") is None


def test_the_device_by_the_name_that_an_encoder_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resident.on_device("cuda:1 (NVIDIA H200)") == torch.device("cuda", 1)
    assert resident.on_device("cuda") == torch.device("cuda")


# --- with a GPU -----------------------------------------------------------------------------------


def on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("NOT TESTED: no CUDA device")


@pytest.mark.gpu
@pytest.mark.parametrize("hidden", [0, 1500, 6000])
def test_gpu_equals_brute_force(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hidden: int
) -> None:
    on_a_gpu()
    monkeypatch.undo()
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
            assert np.abs(one.scores - scores).max() < 1e-5
            # Neighbours closer to each other than rounding may swap.
            truth = set(expected.tolist())
            assert all(
                id_ in truth or score <= scores[-1] + 1e-5
                for id_, score in zip(one.ids.tolist(), one.scores.tolist(), strict=True)
            )
            assert not np.isin(one.ids, ids[:hidden]).any()
    assert index._resident is not None
    assert (index._resident is copy) == (hidden < 5000)


@pytest.mark.gpu
@pytest.mark.parametrize("share", [0.9, 0.5, 0.01])
def test_gpu_among_some_equals_the_cpu(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    on_a_gpu()
    monkeypatch.undo()
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
            assert np.abs(one.scores - true.scores).max() < 1e-5
            assert np.isin(one.ids, only).all()
            assert not np.isin(one.ids, ids[:300]).any()
            far = ~np.isin(one.ids, true.ids)
            assert (one.scores[far] <= true.scores[-1] + 1e-5).all()
