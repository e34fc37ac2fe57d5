"""Exact search against brute force over the same float16 vectors."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_oracle import DIM, OTHER, SPACE, AnyOrder, brute, catch_up, check, filled, unit

from mmsearch.errors import SpaceMismatchError, StoreError, VectorIndexError
from mmsearch.index import flatfile, manifest
from mmsearch.index.flat import FlatIndex, build
from mmsearch.index.part import empty_index
from mmsearch.types import Space


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
    assert (index.last_seq, index.last) == (0, (0, ""))
    assert not index.overgrown
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
    index.save(tmp_path)
    loaded = load(tmp_path)
    assert (loaded.last_seq, loaded.delta, loaded.total) == (300, 0, 300)
    assert loaded.last == index.last == (int(ids[-1]), manifest.digest(xb[-1].tobytes()))
    check(loaded, unit(5, seed=6), ids, xb, 20)
    more = np.arange(100_000, 100_040)
    vectors = unit(40, seed=8).astype(np.float16)
    loaded.add(340, more, vectors)
    loaded.hide(np.array([ids[7], more[3]]))
    every, rows = np.concatenate([ids, more]), np.concatenate([xb, vectors])
    keep = ~np.isin(every, [ids[7], more[3]])
    check(loaded, unit(5, seed=6), every[keep], rows[keep], 400)
    loaded.save(tmp_path)  # over the file that it has mapped
    check(loaded, unit(5, seed=6), every[keep], rows[keep], 400)
    assert load(tmp_path).total == 338  # without what is hidden
    check(load(tmp_path), unit(5, seed=6), every[keep], rows[keep], 400)
    assert sorted(f.suffix for f in tmp_path.iterdir()) == [".faiss", ".json"]


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _scribble(path: Path) -> None:
    """Damage of the same size: the head of the file is no index any more."""
    with path.open("r+b") as file:
        file.write(b"\xff" * 64)


def _flip(place: int) -> object:
    """Damage of the same size: one bit of the byte at `place`."""

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[place] ^= 4
        path.write_bytes(data)

    return flip


def _swap_ids(path: Path) -> None:
    """Checksums that fit, of ids that no index of ours has."""
    data = path.read_bytes()
    start = len(data) - 300 * 8
    ids = data[start + 8 : start + 16] + data[start : start + 8] + data[start + 16 :]
    path.write_bytes(data[:start] + ids)
    with path.open("rb") as file:
        _, tail = manifest.checksums(file, 300)
    _manifest(ids=tail)(path)  # type: ignore[operator]


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
        pytest.param(_flip(8), id="torn count"),
        pytest.param(_flip(100), id="torn head"),
        pytest.param(_flip(-1), id="torn id left out"),
        pytest.param(_flip(-5 * 8 - 3), id="torn id"),
        pytest.param(_flip(-300 * 8), id="torn first id"),
        pytest.param(_flip(-300 * 8 - 8), id="torn length"),
        pytest.param(_swap_ids, id="ids out of order"),
        pytest.param(_manifest(space=OTHER.fingerprint), id="other space"),
        pytest.param(_manifest(origin="elsewhere"), id="other catalog"),
        pytest.param(_manifest(modality="text"), id="other modality"),
        pytest.param(_manifest(ntotal=299), id="stale manifest"),
        pytest.param(_manifest(left_out=4), id="fewer left out"),
        pytest.param(_manifest(last_seq="300"), id="text for a number"),
        pytest.param(_manifest(ntotal=-1), id="negative count"),
        pytest.param(_manifest(factory="Flat"), id="other kind"),
        pytest.param(_manifest(dim=DIM + 1), id="other dimension"),
    ],
)
def test_file_that_cannot_be_trusted_is_not_used(tmp_path: Path, damage: object) -> None:
    index, ids, xb = filled(305)
    index.hide(ids[:5])
    index.save(tmp_path)
    path = manifest.index_file(tmp_path, SPACE, "image")
    assert load(tmp_path).total == 300
    assert callable(damage)
    damage(path)
    loaded = load(tmp_path)
    assert (loaded.last_seq, loaded.total, loaded.loaded) == (0, 0, None)
    loaded.add(305, ids, xb)
    loaded.save(tmp_path)
    assert load(tmp_path).total == 305


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
        target = "faiss.write_index" if step == "write" else "mmsearch.index.manifest.move"
        move = manifest.move
        patch.setattr(target, lambda *args: (killed(*args), move(*args)))
        with pytest.raises(KilledError):
            index.save(tmp_path)
    loaded = load(tmp_path)
    assert loaded.total == (300 if step == "write" else 0)
    index.save(tmp_path)
    assert load(tmp_path).total == 301


def test_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _, _ = filled()

    def full(temporary: Path, *_: object) -> None:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(flatfile, "write", full)
    with pytest.raises(VectorIndexError, match="free some space"):
        index.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_vectors_that_cannot_be_read_leave_no_half_of_a_file(tmp_path: Path) -> None:
    _, ids, xb = filled()

    def blocks() -> Iterator[np.ndarray]:
        yield xb[:100]
        raise StoreError("disk I/O error")

    with pytest.raises(StoreError, match="disk"):
        build(
            tmp_path, SPACE, "image", (np.sort(ids), blocks()),
            hidden=np.empty(0, np.int64), last_seq=1, last=(1, ""), origin="",
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n", [0, 1, 300])
def test_a_file_is_written_as_faiss_would(tmp_path: Path, n: int) -> None:
    _, ids, xb = filled()
    ids, xb = ids[:n], xb[:n]
    order = np.argsort(ids)
    blocks = np.array_split(xb[order], 3)
    flatfile.write(tmp_path / "ours", DIM, ids[order], iter(blocks))
    vectors = empty_index(DIM)
    theirs = faiss.IndexIDMap(vectors)  # takes none that has any
    if n:
        vectors.add_sa_codes(np.ascontiguousarray(xb[order]).view(np.uint8))
    theirs.ntotal = n
    faiss.copy_array_to_vector(np.ascontiguousarray(ids[order]), theirs.id_map)
    faiss.write_index(theirs, str(tmp_path / "theirs"))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


# --- what went and came back --------------------------------------------------------------------


def test_hidden_contents_are_left_out_of_the_file_and_come_back(tmp_path: Path) -> None:
    index, ids, xb = filled()
    catalog = dict(zip(ids.tolist(), xb, strict=True))
    index.hide(ids[:100])
    assert (index.total, index.gone, len(index)) == (300, 100, 200)
    index.save(tmp_path)
    large = manifest.index_file(tmp_path, SPACE, "image").stat().st_size
    assert large < 200 * 2 * DIM + 300 * 8 + 1000
    index = load(tmp_path)
    assert (index.total, index.gone, index.last_seq) == (200, 0, 300)
    xq = unit(5, seed=6)
    check(index, xq, ids[100:], xb[100:], 300)
    assert catch_up(index, np.sort(ids[:100]), catalog) == []
    # Half of them come back, one of those without a vector; others go.
    catalog.pop(int(ids[50]))
    back = np.sort(ids[50:100])
    hidden = np.sort(np.concatenate([ids[:50], ids[290:]]))
    assert catch_up(index, hidden, catalog) == back.tolist()
    there = np.concatenate([ids[51:290]])
    rows = np.concatenate([xb[51:290]])
    assert (index.delta, len(index)) == (49, 239)
    check(index, xq, there, rows, 300)
    index.save(tmp_path)
    again = load(tmp_path)
    assert (again.total, again.delta) == (239, 0)
    check(again, xq, there, rows, 300)
    assert catch_up(again, hidden, catalog) == []
    assert (
        catch_up(again, np.empty(0, np.int64), catalog)
        == np.sort(np.concatenate([ids[:50], ids[290:]])).tolist()
    )
    every = np.delete(np.arange(300), 50)
    check(again, xq, ids[every], xb[every], 300)


def test_all_gone_and_back(tmp_path: Path) -> None:
    index, ids, xb = filled(20)
    index.hide(ids)
    assert index.overgrown
    index.save(tmp_path)
    index = load(tmp_path)
    assert (index.total, len(index), index.last_seq, index.overgrown) == (0, 0, 20, False)
    assert index.search(unit(1), 5)[0].ids.tolist() == []
    catalog = dict(zip(ids.tolist(), xb, strict=True))
    assert catch_up(index, np.empty(0, np.int64), catalog) == np.sort(ids).tolist()
    check(index, unit(3, seed=1), ids, xb, 30)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_content_added_again_takes_the_new_vector(
    tmp_path: Path, saved: bool, hidden: bool
) -> None:
    index, ids, xb = filled(50)
    if saved:
        index.save(tmp_path)
        index = load(tmp_path)
    if hidden:
        index.hide(ids[:3])
    anew = unit(4, seed=70).astype(np.float16)
    index.add(60, ids[:4], anew)
    if hidden:
        check(index, unit(5, seed=6), ids[3:], np.concatenate([anew[3:], xb[4:]]), 60)
        index.hide(np.empty(0, np.int64))
    rows = np.concatenate([anew, xb[4:]])
    check(index, unit(5, seed=6), ids, rows, 60)
    assert (len(index), index.total, index.gone) == (50, 54, 4)
    index.save(tmp_path)
    check(load(tmp_path), unit(5, seed=6), ids, rows, 60)
    assert load(tmp_path).total == 50


def test_held_is_what_can_be_found(tmp_path: Path) -> None:
    index, ids, xb = filled()
    index.hide(ids[:7])
    index.save(tmp_path)
    order = np.argsort(ids[7:])
    for one in (index, load(tmp_path)):
        found, blocks = one.held()
        assert found.dtype == np.int64
        assert found.tolist() == ids[7:][order].tolist()
        vectors = np.concatenate(list(blocks))
        assert vectors.dtype == np.float16
        assert np.array_equal(vectors, xb[7:][order])
        assert one.vector(int(ids[9])) == xb[9].tobytes()
        assert one.vector(int(ids[0])) is None
        assert one.leaves_out(int(ids[0]))
        assert not one.leaves_out(int(ids[9]))


def test_worth_writing_anew_past_a_tenth(tmp_path: Path) -> None:
    index, ids, _ = filled(1000)
    assert index.overgrown  # no file at all
    index.save(tmp_path)
    index = load(tmp_path)
    assert not index.overgrown
    index.hide(np.sort(ids[:90]))
    assert not index.overgrown
    index.hide(np.sort(ids[:91]))
    assert index.overgrown
    index.hide(np.sort(ids[:2]))
    index.add(1090, np.arange(20_000, 20_099), unit(99, seed=3).astype(np.float16))
    assert not index.overgrown
    index.add(1100, np.arange(20_099, 20_120), unit(21, seed=4).astype(np.float16))
    assert index.overgrown


# --- any order ----------------------------------------------------------------------------------


AnyOrder.TestCase.settings = settings(max_examples=30, stateful_step_count=12, deadline=None)
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
