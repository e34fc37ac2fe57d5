"""Approximate search against exact, on clustered vectors and queries from elsewhere."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vector_oracle import brute, unit

from mmsearch.errors import VectorIndexError
from mmsearch.index import fast, manifest, measured
from mmsearch.index.copy import copy_files
from mmsearch.index.fast import Fast
from mmsearch.index.flat import FlatIndex
from mmsearch.index.measured import Measured
from mmsearch.index.trial import EXACT, Trial, factories
from mmsearch.types import Space

DIM = 32
SPACE = Space("some/model", DIM, "0123456789abcdef" * 4, "as it is")
N = 6000
FACTORY = "IVF1,PQ16x4fs"
ABOUT = Measured(
    file="",
    bytes=0,
    head=0,
    checksum=0,
    base="",
    ntotal=N,
    factory=FACTORY,
    nprobe=1,
    candidates=400,
    recall=0.99,
    target=0.98,
    queries=100,
    queries_of="texts",
    measured_on=N,
    latency_ms=1.5,
    exact_ms=15.0,
    memory=1000,
    build_seconds=2.0,
)


def clustered(n: int, seed: int, *, words: bool = False) -> np.ndarray:
    """Around 40 centres; those of words on the other side of a gap."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, DIM))
    rows = centres[rng.integers(0, 40, n)] + 0.6 * rng.standard_normal((n, DIM))
    rows[:, 0] = -6 if words else 6
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def saved(folder: Path, n: int = N) -> tuple[FlatIndex, np.ndarray, np.ndarray]:
    """An index as loaded from a file; its ids, ascending, and its vectors."""
    ids = np.sort(np.random.default_rng(1).permutation(3 * n)[:n]).astype(np.int64)
    xb = clustered(n, 1).astype(np.float16)
    index = FlatIndex(SPACE, "image", origin="here")
    index.add(n, ids, xb)
    index.save(folder)
    return loaded(folder), ids, xb


def loaded(folder: Path) -> FlatIndex:
    return FlatIndex.load(folder, SPACE, "image", origin="here")


@functools.cache
def learned(factory: str) -> Any:
    """Of the vectors of `saved`."""
    rows = clustered(N, 1).astype(np.float16)
    made = fast.learn(factory, rows, 0)
    fast.encode(made, rows)
    return made


def path_in(folder: Path) -> Path:
    return manifest.index_file(folder, SPACE, "image")


def put(folder: Path, index: FlatIndex, **changes: object) -> Measured:
    """Puts an approximate index beside the file of `index`."""
    assert index.loaded is not None
    about = {**_fields(ABOUT), "base": measured.tie(index.loaded), **changes}
    return fast.install(path_in(folder), learned(FACTORY), Measured(**about))  # type: ignore[arg-type]


def _fields(about: Measured) -> dict[str, object]:
    return {name: getattr(about, name) for name in about.__dataclass_fields__}


def recall(index: FlatIndex, xq: np.ndarray, k: int = 10, only: np.ndarray | None = None) -> float:
    near = total = 0
    found = index.search(xq, k, only=only)
    for one, true in zip(found, index.search(xq, k, only=only, exact=True), strict=True):
        assert len(one.ids) == len(true.ids)
        near += int(np.count_nonzero(one.scores >= true.scores[-1]))
        total += len(true.ids)
    return near / total


def test_finds_nearly_all_with_true_scores(tmp_path: Path) -> None:
    index, ids, xb = saved(tmp_path)
    put(tmp_path, index)
    index = loaded(tmp_path)
    assert index.fast is not None
    xq = clustered(100, 7, words=True)
    assert recall(index, xq) > 0.97
    for row, one in zip(xq, index.search(xq, 10), strict=True):
        rows = xb[np.searchsorted(ids, one.ids)].astype(np.float32)
        assert np.abs(rows @ row - one.scores).max() < 1e-5
        assert np.lexsort((one.ids, -one.scores)).tolist() == list(range(10))


def test_files_in_a_folder_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"lib\xff")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this disk takes only names in UTF-8")
    index, ids, _ = saved(folder)
    put(folder, index)
    index = loaded(folder)
    assert index.total == len(ids)
    assert index.delta == 0  # mapped, not made anew
    assert index.fast is not None
    assert recall(index, clustered(20, 7, words=True)) > 0.9


def test_learning_from_few_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for factory in (FACTORY, "IVF4,PQ8x4fs"):
        fast.learn(factory, clustered(100, 1).astype(np.float16), 0)
    assert capfd.readouterr() == ("", "")


def test_exact_is_brute_force(tmp_path: Path) -> None:
    index, ids, xb = saved(tmp_path)
    put(tmp_path, index, candidates=24)
    index = loaded(tmp_path)
    xq = clustered(20, 7, words=True)
    assert recall(index, xq) < 0.9  # so few candidates do not reach far
    for k in (1, 10):
        found = index.search(xq, k, exact=True)
        for one, (scores, expected) in zip(found, brute(xq, ids, xb, k), strict=True):
            assert one.ids.tolist() == expected.tolist()
            assert np.abs(one.scores - scores).max() < 1e-5


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_filters_give_k_results(tmp_path: Path, share: float) -> None:
    index, ids, _ = saved(tmp_path)
    put(tmp_path, index)
    index = loaded(tmp_path)
    xq = clustered(50, 8, words=True)
    only = ids[np.random.default_rng(3).random(N) < share]
    for k in (1, 10, 100, 500):
        found = index.search(xq, k, only=only)
        assert {len(one.ids) for one in found} == {min(k, len(only))}
        assert all(np.isin(one.ids, only).all() for one in found)
    if len(only):
        assert recall(index, xq, only=only) > 0.97


@pytest.mark.parametrize("nprobe", [1, 4])
def test_filters_far_from_the_query_with_lists(tmp_path: Path, nprobe: int) -> None:
    """Of fewer vectors the nearest lie in more lists; and k are found whenever k exist."""
    index, _, _ = saved(tmp_path)
    index.fast = Fast(learned("IVF16,PQ16x4fs"), nprobe, 400)
    xq = clustered(20, 8, words=True)
    worst = index.search(xq[:1], N, exact=True)[0].ids[-1500:]
    for k in (10, 100):
        found = index.search(xq, k, only=np.sort(worst))
        assert {len(one.ids) for one in found} == {k}
    some = index.ids()[np.random.default_rng(3).random(N) < 0.25]
    if nprobe == 4:
        assert recall(index, clustered(50, 8, words=True), only=some) > 0.99


def test_of_a_quarter_four_times_as_many_lists_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, _, _ = saved(tmp_path)
    index.fast = Fast(learned("IVF16,PQ16x4fs"), 2, 400)
    read: list[int] = []
    search = Fast._search

    def watched(self: Fast, xq: np.ndarray, k: int, nprobe: int, **options: Any) -> np.ndarray:
        read.append(nprobe)
        return search(self, xq, k, nprobe, **options)

    monkeypatch.setattr(Fast, "_search", watched)
    index.search(clustered(1, 8, words=True), 10)
    index.search(clustered(1, 8, words=True), 10, only=index.ids()[::4])
    assert read[:2] == [2, 8]


@pytest.mark.parametrize("asked", [0, 1000, 10**6])
def test_dropped_or_selected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int) -> None:
    """Both ways of keeping to a filter find the same."""
    index, _, _ = saved(tmp_path)
    index.fast = Fast(learned(FACTORY), 1, 400)
    monkeypatch.setattr(fast, "_FEW_ASKED", asked)
    monkeypatch.setattr(fast, "_ASKED", 0.0)
    xq = clustered(50, 8, words=True)
    some = index.ids()[np.random.default_rng(3).random(N) < 0.25]
    assert recall(index, xq, only=some) > 0.97
    worst = np.sort(index.search(xq[:1], N, exact=True)[0].ids[-1500:])
    assert recall(index, xq[:1], only=worst) > 0.5  # and 10 of them, however hard to tell apart


def test_what_came_since_and_what_went(tmp_path: Path) -> None:
    index, ids, _ = saved(tmp_path)
    put(tmp_path, index)
    index = loaded(tmp_path)
    xq = clustered(10, 9, words=True)
    best = np.unique(np.concatenate([one.ids for one in index.search(xq, 5, exact=True)]))
    index.hide(best)
    for one in index.search(xq, 10):
        assert not np.isin(one.ids, best).any()
    assert recall(index, xq) > 0.95
    index.add(N + 10, np.arange(10) + 100_000, xq.astype(np.float16))
    for place, one in enumerate(index.search(xq, 3)):
        assert one.ids[0] == 100_000 + place
    assert len(ids) == N


def test_first_pages_are_parts_of_one_ranking(tmp_path: Path) -> None:
    index, _, _ = saved(tmp_path)
    put(tmp_path, index)
    index = loaded(tmp_path)
    xq = clustered(20, 5, words=True)
    whole = index.search(xq, 100)
    for k in (1, 10, 37):
        for one, all_of_them in zip(index.search(xq, k), whole, strict=True):
            assert one.ids.tolist() == all_of_them.ids[:k].tolist()


def in_one_list(index: FlatIndex, xq: np.ndarray, only: np.ndarray | None = None) -> np.ndarray:
    """Asserts that what is found for any k begins what is found for more, that exact search is left
    alone, and that all of the nearest are in the end found once; returns the 300 nearest."""
    most = len(index) if only is None else len(only)
    whole = index.search(xq, most, only=only)
    exact = index.search(xq, most, only=only, exact=True)
    for one, true in zip(whole, exact, strict=True):
        assert np.lexsort((true.ids, -true.scores)).tolist() == list(range(most))
        assert sorted(one.ids.tolist()) == sorted(true.ids.tolist())
        # What the first ones lack follows after them, and is best first itself.
        rest = ~np.isin(true.ids, one.ids[: fast.SHALLOW])
        assert one.ids[fast.SHALLOW :].tolist() == true.ids[rest].tolist()
        assert (np.diff(one.scores[: fast.SHALLOW]) <= 0).all()
    for row, one in zip(xq, whole, strict=True):
        for k in (1, 10, 99, 100, 101, 102, 110, 300):
            [some] = index.search(row[None], k, only=only)
            assert some.ids.tolist() == one.ids[:k].tolist()
            assert np.abs(some.scores - one.scores[:k]).max() < 1e-5
    return np.stack([one.ids[:300] for one in whole])


def coarse(folder: Path) -> FlatIndex:
    """With an approximate index that misses much."""
    index, _, _ = saved(folder)
    index.fast = Fast(learned("IVF1,PQ2x4fs"), 1, 400)
    return index


def test_deep_results_follow_after_the_first_ones(tmp_path: Path) -> None:
    index = coarse(tmp_path)
    xq = clustered(5, 5, words=True)
    found = in_one_list(index, xq)
    exact = np.stack([one.ids for one in index.search(xq, 300, exact=True)])
    assert (found != exact).any()  # scores do rise where the others begin
    some = index.ids()[np.random.default_rng(3).random(N) < 0.4]
    in_one_list(index, xq, some)
    in_one_list(index, xq, some[:350])  # compared one by one
    index.hide(np.unique(found[:, :20]))
    assert not np.isin(in_one_list(index, xq), found[:, :20]).any()


def test_deep_results_with_what_came_since(tmp_path: Path) -> None:
    index = coarse(tmp_path)
    xq = clustered(5, 5, words=True)
    came = np.concatenate([xq, clustered(2000, 6)]).astype(np.float16)
    index.add(N + 1, 100_000 + np.arange(len(came)), came)
    assert in_one_list(index, xq)[:, 0].tolist() == [100_000 + place for place in range(5)]


def test_deep_results_of_equally_near_ones(tmp_path: Path) -> None:
    """More of them than there are candidates, as where a picture was copied very often."""
    rows = clustered(N, 1).astype(np.float16)
    rows[1000:2000] = rows[999]
    index = FlatIndex(SPACE, "image", origin="here")
    index.add(N, np.arange(1, N + 1), rows)
    index.save(tmp_path)
    index = loaded(tmp_path)
    made = fast.learn("IVF1,PQ2x4fs", rows, 0)
    fast.encode(made, rows)
    index.fast = Fast(made, 1, 400)
    in_one_list(index, rows[[999, 5]].astype(np.float32))


def test_too_few_candidates_are_too_few_for_all_pages(tmp_path: Path) -> None:
    """One list of sixteen may hold less of what a filter lets through than pages may show."""
    index, _, _ = saved(tmp_path)
    index.fast = Fast(learned("IVF16,PQ16x4fs"), 1, 400)
    xq = clustered(5, 8, words=True)
    worst = np.sort(index.search(xq[:1], N, exact=True)[0].ids[-1500:])
    in_one_list(index, xq, worst)


def _edit(**changes: object) -> object:
    def edit(folder: Path, about: Measured) -> None:
        path = measured.about_file(path_in(folder))
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def _flip(place: int) -> object:
    def flip(folder: Path, about: Measured) -> None:
        path = folder / about.file
        data = bytearray(path.read_bytes())
        data[place] ^= 0xFF
        path.write_bytes(data)

    return flip


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda f, a: (f / a.file).unlink(), id="codes gone"),
        pytest.param(lambda f, a: (f / a.file).write_bytes(b""), id="codes empty"),
        pytest.param(
            lambda f, a: (f / a.file).write_bytes((f / a.file).read_bytes()[:-1]), id="codes torn"
        ),
        pytest.param(_flip(0), id="not FAISS"),
        pytest.param(_flip(40), id="torn head"),
        pytest.param(lambda f, a: measured.about_file(path_in(f)).write_text("{"), id="half"),
        pytest.param(lambda f, a: measured.about_file(path_in(f)).write_text("[]"), id="odd"),
        pytest.param(lambda f, a: measured.about_file(path_in(f)).unlink(), id="not described"),
        pytest.param(_edit(base="other"), id="of another file"),
        pytest.param(_edit(ntotal=N - 1), id="of fewer"),
        pytest.param(_edit(ntotal="6000"), id="text for a number"),
        pytest.param(_edit(nprobe=0), id="no lists"),
        pytest.param(_edit(candidates=-5), id="negative"),
        pytest.param(_edit(file="../../other.faiss"), id="elsewhere"),
        pytest.param(_edit(recall=float("nan")), id="no number"),
    ],
)
def test_what_is_not_to_be_trusted_is_passed_over(tmp_path: Path, damage: object) -> None:
    index, _, _ = saved(tmp_path)
    about = put(tmp_path, index)
    damage(tmp_path, about)  # type: ignore[operator]
    index = loaded(tmp_path)
    assert index.loaded is not None
    assert index.fast is None
    assert recall(index, clustered(5, 3)) == 1


def test_damage_among_the_codes_costs_recall_and_nothing_else(tmp_path: Path) -> None:
    """Codes, and the positions among them, that are not looked at when a file is opened."""
    index, _, _ = saved(tmp_path)
    about = put(tmp_path, index)
    path = tmp_path / about.file
    data = bytearray(path.read_bytes())
    data[5000:] = bytes(255 - byte for byte in data[5000:-4000]) + bytes(data[-4000:])
    path.write_bytes(data)
    assert not measured.whole(path_in(tmp_path), about, thoroughly=True)
    index = loaded(tmp_path)
    ids = set(index.ids().tolist())
    for one in index.search(clustered(20, 3, words=True), 10):
        assert len(one.ids) == 10
        assert ids.issuperset(one.ids.tolist())


def test_written_anew_it_is_made_to_fit(tmp_path: Path) -> None:
    index, _, _ = saved(tmp_path)
    old = put(tmp_path, index)
    index = loaded(tmp_path)
    index.add(2 * N, np.arange(N) + 100_000, clustered(N, 2).astype(np.float16))
    index.save(tmp_path)
    index = loaded(tmp_path)
    assert index.fast is None
    assert index.loaded is not None
    now = fast.refit(path_in(tmp_path), index.loaded, index.rows())
    assert now is not None
    assert (now.ntotal, now.measured_on, now.recall) == (2 * N, N, old.recall)
    assert not now.outgrown
    index = loaded(tmp_path)
    assert index.fast is not None
    assert recall(index, clustered(50, 8, words=True)) > 0.95
    assert sorted(path.name for path in tmp_path.glob("*.fast*")) == sorted(
        [now.file, measured.about_file(path_in(tmp_path)).name]
    )


def test_copied_with_the_index(tmp_path: Path) -> None:
    index, _, _ = saved(tmp_path / "one")
    put(tmp_path / "one", index)
    copy_files(tmp_path / "one", tmp_path / "two")
    assert loaded(tmp_path / "two").fast is not None
    (tmp_path / "one" / measured.read(path_in(tmp_path / "one")).file).write_bytes(b"torn")  # type: ignore[union-attr]
    copy_files(tmp_path / "one", tmp_path / "three")
    assert loaded(tmp_path / "three").loaded is not None
    assert not list((tmp_path / "three").glob("*.fast*"))


def test_full_disk_leaves_the_one_there_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, _, _ = saved(tmp_path)
    old = put(tmp_path, index)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for place in ("mmsearch.index.fast.write", "mmsearch.index.measured.move"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            with pytest.raises(VectorIndexError, match="No space"):
                put(tmp_path, index)
        assert measured.read(path_in(tmp_path)) == old
        assert loaded(tmp_path).fast is not None
        assert len(list(tmp_path.glob("*.fast*"))) == 2


def test_trial(tmp_path: Path) -> None:
    index, _, _ = saved(tmp_path)
    trial = Trial(index, clustered(50, 7, words=True))
    exact = trial.exactly()
    assert (exact.factory, exact.recall) == (EXACT, 1)
    assert trial.recall() == 1
    told = []
    found, built = trial.approximately(FACTORY, 0.95, None, told.append)
    assert told == found
    assert found[0].recall >= 0.95
    assert index.fast is None
    index.fast = Fast(built, 1, found[0].candidates)
    assert recall(index, clustered(50, 7, words=True)) >= found[0].recall
    found, built = trial.approximately(FACTORY, 0.95, 10_000, told.append)
    assert (built, found[0].recall) == (None, 0)
    assert found[0].memory > 10_000


def test_recall_is_measured_also_among_few(tmp_path: Path) -> None:
    """Where candidates that will do for all do not among a tenth, more are taken."""
    index, _, _ = saved(tmp_path)
    trial = Trial(index, clustered(50, 7, words=True))
    index.fast = Fast(learned("IVF1,PQ2x4fs"), 1, 400)
    assert trial.recall() <= recall(index, clustered(50, 7, words=True))


def test_factories() -> None:
    assert factories(300_000, 512) == ["IVF1,PQ64x4fs", "IVF1,PQ128x4fs", "IVF1,PQ256x4fs"]
    assert factories(1_000_000, 512)[-1] == "IVF1024,PQ128x4fs"
    for dim in (1, 2, 3, 7, 20, 513):
        for factory in factories(1000, dim):
            made = fast.learn(factory, unit(300, dim).astype(np.float16), 0)
            fast.encode(made, unit(300, dim).astype(np.float16))
            assert made.ntotal == 300
            assert fast.memory(made) == fast.memory_of(factory, 300, dim)
