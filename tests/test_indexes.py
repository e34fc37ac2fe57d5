"""Indexes and their files beside a real catalog: what went, what came back, what is not theirs."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mmsearch.index import manifest
from mmsearch.index.flat import FlatIndex
from mmsearch.indexes import Indexes
from mmsearch.store import Catalog, CatalogWriter
from mmsearch.types import MODALITIES, Modality, Space

DIM = 8
SPACE = Space("some/model", DIM, "f" * 64, "as it is")


def rows(n: int, seed: int) -> np.ndarray:
    xb = np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)
    return (xb / np.linalg.norm(xb, axis=1, keepdims=True)).astype(np.float16)


class Shelf:
    """A library's catalog and index folder, changed below the level of files and sources."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "catalog.db"
        self.folder = folder / "index"
        with closing(CatalogWriter(self.path)) as writer:
            self.space_id = writer.ensure_space(SPACE)
        self._hashes = 0
        self.open()

    def open(self) -> None:
        self.catalog = Catalog(self.path)
        self.indexes = Indexes(self.folder, self.catalog, self.space_id, SPACE)

    def close(self) -> None:
        self.catalog.close()

    def reopen(self) -> None:
        self.close()
        self.open()

    def _run(self, *statements: tuple[str, Sequence[tuple[object, ...]]]) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            for statement, values in statements:
                connection.executemany(statement, values)
            connection.execute("UPDATE state SET revision = revision + 1")
            connection.commit()

    def add(self, n: int, seed: int = 0, modality: Modality = "image") -> list[int]:
        """New contents; their ids."""
        with closing(sqlite3.connect(self.path)) as connection:
            (last,) = connection.execute(
                "SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'content'"
            ).fetchone()
        ids = list(range(last + 1, last + n + 1))
        hashes = [(self._hashes + i).to_bytes(32, "big") for i in range(n)]
        self._hashes += n
        self._run(
            (
                "INSERT INTO content (id, modality, hash) VALUES (?, ?, ?)",
                [(id_, modality, hash_) for id_, hash_ in zip(ids, hashes, strict=True)],
            ),
        )
        self.embed(ids, seed)
        return ids

    def embed(self, ids: Sequence[int], seed: int = 0) -> None:
        self._run(
            (
                "INSERT INTO embedding (space_id, content_id, vector) VALUES (?, ?, ?)",
                [
                    (self.space_id, id_, row.tobytes())
                    for id_, row in zip(ids, rows(len(ids), seed), strict=True)
                ],
            )
        )

    def hide(self, ids: Sequence[int], hidden: bool = True) -> None:
        self._run(("UPDATE content SET hidden = ? WHERE id = ?", [(hidden, id_) for id_ in ids]))

    def forget(self, ids: Sequence[int]) -> None:
        """For good: a hidden content without a vector stays."""
        self.hide(ids)
        self._run(("DELETE FROM embedding WHERE content_id = ?", [(id_,) for id_ in ids]))

    def copy(self, to: Path) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("VACUUM INTO ?", [str(to)])

    def restore(self, copy: Path) -> None:
        self.close()
        for file in self.path.parent.glob("catalog.db*"):
            file.unlink()
        self.path.write_bytes(copy.read_bytes())
        self.open()

    def file(self, modality: Modality = "image") -> Path:
        return manifest.index_file(self.folder, SPACE, modality)

    def about(self, modality: Modality = "image") -> manifest.Manifest:
        found = manifest.read(self.file(modality))
        assert found is not None
        return found

    def check(self, modality: Modality = "image") -> FlatIndex:
        """The index finds what the catalog holds, and nothing else."""
        with closing(sqlite3.connect(self.path)) as connection:
            there = connection.execute(
                "SELECT content.id, vector FROM content JOIN embedding ON content_id = content.id"
                " WHERE NOT hidden AND modality = ? ORDER BY content.id",
                [modality],
            ).fetchall()
        ids = np.array([id_ for id_, _ in there], np.int64)
        xb = np.array([np.frombuffer(v, np.float16) for _, v in there]).reshape(-1, DIM)
        index = self.indexes.get(modality)
        assert len(index) == len(ids)
        xq = rows(2, 12345).astype(np.float32)
        for found, products in zip(index.search(xq, 10_000), xq @ xb.T, strict=True):
            order = np.lexsort((ids, -products.astype(np.float32)))
            assert sorted(found.ids.tolist()) == ids.tolist()
            assert np.abs(found.scores - products[order]).max(initial=0) < 1e-3
            assert np.abs(products[np.searchsorted(ids, found.ids)] - found.scores).max(
                initial=0
            ) < 1e-3  # fmt: skip
        return index


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING)
    return caplog


def test_little_is_not_worth_writing_the_file_anew(shelf: Shelf) -> None:
    first = shelf.add(200)
    shelf.indexes.save()
    written = shelf.file().stat().st_mtime_ns
    shelf.add(10, seed=1)
    shelf.hide(first[:10])
    for _ in range(2):
        shelf.reopen()
        shelf.indexes.save()
        assert shelf.file().stat().st_mtime_ns == written
        index = shelf.check()
        assert (index.delta, index.gone) == (10, 10)
    shelf.hide(first[:25])
    shelf.reopen()
    shelf.indexes.save()
    assert shelf.file().stat().st_mtime_ns != written
    assert (shelf.about().ntotal, shelf.about().left_out) == (185, 25)
    index = shelf.check()
    assert (index.delta, index.gone, index.total) == (0, 0, 185)


def test_drive_that_comes_back(shelf: Shelf, told: pytest.LogCaptureFixture) -> None:
    ids = shelf.add(300)
    shelf.indexes.save()
    shelf.hide(ids[100:])
    shelf.reopen()
    shelf.indexes.save()
    assert shelf.about().ntotal == 100
    size = shelf.file().stat().st_size
    assert size < 100 * 2 * DIM + 300 * 8 + 1000
    shelf.check()
    shelf.hide(ids[100:], hidden=False)
    shelf.indexes.refresh()  # noticed by who has it open
    assert shelf.check().delta == 200
    shelf.reopen()
    assert shelf.check().delta == 200
    shelf.indexes.save()
    assert (shelf.about().ntotal, shelf.about().left_out) == (300, 0)
    shelf.reopen()
    assert shelf.check().delta == 0
    assert told.text == ""


def test_nothing_left(shelf: Shelf, told: pytest.LogCaptureFixture) -> None:
    ids = shelf.add(30)
    shelf.indexes.save()
    shelf.hide(ids)
    shelf.reopen()
    shelf.indexes.save()
    assert shelf.about().ntotal == 0
    written = shelf.file().stat().st_mtime_ns
    for _ in range(2):
        shelf.reopen()
        shelf.indexes.save()
        shelf.check()
        assert shelf.file().stat().st_mtime_ns == written
        shelf.forget(ids)
    assert not shelf.file("text").exists()
    assert told.text == ""


def test_what_came_before_the_forgotten_was_left_out(
    shelf: Shelf, told: pytest.LogCaptureFixture
) -> None:
    ids = shelf.add(100)
    shelf.hide(ids[80:])
    shelf.indexes.save()
    shelf.forget(ids[99:])
    shelf.reopen()
    assert shelf.check().loaded is not None
    assert told.text == ""


def test_everything_forgotten_for_good(shelf: Shelf, told: pytest.LogCaptureFixture) -> None:
    ids = shelf.add(30)
    shelf.indexes.save()
    shelf.forget(ids)
    shelf.reopen()
    shelf.check()
    shelf.indexes.save()
    told.clear()
    shelf.reopen()
    assert shelf.check().loaded is not None
    assert shelf.about().ntotal == 0
    shelf.add(3, seed=1)
    shelf.indexes.refresh()
    shelf.check()
    shelf.reopen()
    assert shelf.check().loaded is not None
    assert told.text == ""


def test_nothing_ever(shelf: Shelf) -> None:
    shelf.indexes.save()
    assert not shelf.folder.exists()
    shelf.check()


def test_forgotten_for_good(shelf: Shelf, told: pytest.LogCaptureFixture) -> None:
    """What came last into the index is gone without a trace: still the same catalog."""
    first = shelf.add(200)
    last = shelf.add(15, seed=1)
    shelf.indexes.save()
    shelf.forget(last)
    for _ in range(2):
        shelf.reopen()
        assert shelf.check().loaded is not None
    shelf.indexes.save()  # notes what came last now
    assert shelf.about().last_seq == 200
    shelf.forget(first[:50])
    shelf.add(3, seed=2)
    shelf.reopen()
    shelf.check()
    shelf.indexes.save()
    assert (shelf.about().ntotal, shelf.about().left_out) == (153, 65)
    shelf.reopen()
    assert shelf.check().loaded is not None
    assert told.text == ""


def test_forgotten_contents_that_are_embedded_again(shelf: Shelf) -> None:
    ids = shelf.add(100)
    shelf.indexes.save()
    shelf.forget(ids[:5])
    shelf.check()
    shelf.embed(ids[:5], seed=9)
    shelf.hide(ids[:5], hidden=False)
    shelf.indexes.refresh()
    assert shelf.check().total == 105
    shelf.reopen()
    assert shelf.check().total == 105


@pytest.mark.parametrize("forget", ["nothing", "what came last", "all that came since"])
@pytest.mark.parametrize("grown", [0, 3, 8, 40])
def test_catalog_restored_from_an_older_copy(
    shelf: Shelf, tmp_path: Path, told: pytest.LogCaptureFixture, grown: int, forget: str
) -> None:
    shelf.add(50)
    shelf.copy(tmp_path / "copy.db")
    shelf.add(8, seed=1)
    shelf.indexes.save()
    shelf.check()
    shelf.restore(tmp_path / "copy.db")
    new = shelf.add(grown, seed=2)
    if grown and forget != "nothing":
        # What has the place of what came last into the index, or of all that it knows wrongly.
        shelf.forget(new[7:8] if forget == "what came last" else new[:8])
    shelf.reopen()
    harmless = forget == "all that came since" and grown >= 8
    assert (shelf.check().loaded is None) != harmless
    assert ("not of this catalog" in told.text) != harmless
    shelf.indexes.save()
    shelf.reopen()
    told.clear()
    assert shelf.check().loaded is not None
    assert told.text == ""


def test_pictures_that_came_do_not_make_the_texts_slow_to_open(shelf: Shelf) -> None:
    """The file of texts need not be written: it is noted that none came."""
    shelf.add(20, modality="text")
    shelf.indexes.save()
    written = shelf.file("text").stat().st_mtime_ns
    shelf.add(500)
    shelf.indexes.save()
    assert shelf.about("text").last_seq == 520
    shelf.add(70, seed=1)
    shelf.reopen()
    shelf.indexes.save()
    assert shelf.about("text").last_seq == 590
    assert shelf.file("text").stat().st_mtime_ns == written
    shelf.add(1, seed=3, modality="text")
    shelf.add(20, seed=2)
    shelf.reopen()
    shelf.indexes.save()
    assert shelf.about("text").last_seq == 590
    shelf.add(50, seed=2)
    shelf.reopen()
    shelf.indexes.save()
    assert (shelf.about("text").last_seq, shelf.about("text").ntotal) == (661, 21)
    for modality in MODALITIES:
        shelf.check(modality)


def test_unchanged_files_are_left_alone_without_faiss(shelf: Shelf) -> None:
    ids = shelf.add(100)
    shelf.add(100, modality="text")
    shelf.indexes.save()
    shelf.hide(ids[:3])
    shelf.add(5, seed=4)
    code = (
        "import sys; from pathlib import Path; from mmsearch.indexes import Indexes;"
        "from mmsearch.store import Catalog;"
        "catalog = Catalog(Path(sys.argv[1]));"
        "Indexes(Path(sys.argv[2]), catalog, *catalog.active_space()).save();"
        "assert 'faiss' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, shelf.path, shelf.folder], check=True)


def test_what_came_is_found_without_reading_what_was_there(shelf: Shelf) -> None:
    """No statement of a refresh, or of a run that changed little, goes through all vectors."""
    ids = shelf.add(300)
    shelf.indexes.save()
    shelf.check()
    shelf.add(3, seed=1)
    shelf.hide(ids[:3])
    plans: list[str] = []

    def explain(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        with closing(sqlite3.connect(shelf.path)) as connection:
            rows = connection.execute("EXPLAIN QUERY PLAN " + statement, values)
            plans.append(statement + "\n" + "\n".join(row[3] for row in rows))

    sa.event.listen(shelf.catalog.engine, "before_cursor_execute", explain)
    shelf.indexes.refresh()
    shelf.indexes.save()
    Indexes(shelf.folder, shelf.catalog, shelf.space_id, SPACE).save()
    assert any("embedding.seq >" in plan for plan in plans)
    for plan in plans:
        assert "TEMP B-TREE" not in plan
        assert "sqlite_autoindex_embedding_1 (space_id=?)" not in plan
        assert "SCAN content" not in plan
        assert "SCAN embedding" not in plan or "LIMIT" in plan


def test_torn_file_is_written_again_though_nothing_came(
    shelf: Shelf, told: pytest.LogCaptureFixture
) -> None:
    shelf.add(100)
    shelf.indexes.save()
    data = bytearray(shelf.file().read_bytes())
    data[-9] ^= 1
    shelf.file().write_bytes(data)
    shelf.reopen()
    assert shelf.check().loaded is None
    assert "damaged" in told.text
    shelf.reopen()
    shelf.indexes.save()
    shelf.reopen()
    assert shelf.check().loaded is not None


def test_long_running_process_changes_to_the_file_that_another_wrote(shelf: Shelf) -> None:
    ids = shelf.add(200)
    shelf.indexes.save()
    reader = Indexes(shelf.folder, shelf.catalog, shelf.space_id, SPACE)
    before = reader.get("image")
    assert not reader.waiting
    shelf.hide(ids[:50])
    reader.refresh()
    assert reader.waiting
    reader.take_merged()
    assert reader.get("image") is before  # nobody has written one yet
    shelf.indexes.refresh()
    shelf.indexes.save()
    reader.take_merged()
    after = reader.get("image")
    assert (after.total, after.gone, after.delta) == (150, 0, 0)
    reader.refresh()
    assert not reader.waiting
    shelf.indexes = reader
    shelf.check()
    # One that is of no use is looked at once.
    shelf.hide(ids[:100])
    reader.refresh()
    manifest.amend(shelf.file(), shelf.about().__class__(**{**_fields(shelf), "ids": 7}))
    reader.take_merged()
    assert reader.get("image") is after
    reader.take_merged()
    shelf.check()


def _fields(shelf: Shelf) -> dict[str, object]:
    about = shelf.about()
    return {name: getattr(about, name) for name in about.__slots__}


@pytest.mark.parametrize(
    "point", ["index: written", "index: old manifest gone", "index: in place", "index: finished"]
)
def test_killed_while_writing(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    ids = shelf.add(100)
    shelf.indexes.save()
    shelf.hide(ids[:30])
    shelf.add(20, seed=5)
    shelf.reopen()

    class KilledError(Exception):
        pass

    def reached(name: str) -> None:
        if name == point:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "reached", reached)
        with pytest.raises(KilledError):
            shelf.indexes.save()
    shelf.reopen()
    index = shelf.check()
    expected = {"index: written": (100, 0), "index: finished": (90, 30)}.get(point)
    assert (index.loaded and (index.loaded.ntotal, index.loaded.left_out)) == expected
    shelf.indexes.save()
    shelf.reopen()
    assert shelf.check().total == 90
    assert sorted(f.suffix for f in shelf.folder.iterdir()) == [".faiss", ".json"]


@pytest.mark.parametrize("lost", [".faiss", ".json"])
@pytest.mark.parametrize("old", [False, True])
def test_half_of_the_files(shelf: Shelf, lost: str, old: bool) -> None:
    """One of the two is lost, or is that of the run before."""
    ids = shelf.add(100)
    shelf.indexes.save()
    path = shelf.file().with_suffix(lost)
    before = path.read_bytes()
    shelf.hide(ids[:40])
    shelf.reopen()
    shelf.indexes.save()
    path.unlink()
    if old:
        path.write_bytes(before)
    shelf.reopen()
    assert shelf.check().loaded is None
    shelf.indexes.save()
    shelf.reopen()
    assert shelf.check().loaded is not None


# --- any order ----------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens to the catalog, in whatever order, the index is that of a clean build."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.shelf = Shelf(Path(self.folder.name))
        self.backup = Path(self.folder.name) / "copy.db"
        self.shelf.copy(self.backup)
        self.seed = 0

    def _some(self, data: st.DataObject, *, hidden: bool | None = None) -> list[int]:
        with closing(sqlite3.connect(self.shelf.path)) as connection:
            ids = [
                id_
                for id_, is_hidden in connection.execute(
                    "SELECT id, hidden FROM content WHERE id IN"
                    " (SELECT content_id FROM embedding) ORDER BY id"
                )
                if hidden in (None, bool(is_hidden))
            ]
        share = data.draw(st.sampled_from(["few", "last", "half", "all"]))
        return {"few": ids[1:6:2], "last": ids[-3:], "half": ids[::2], "all": ids}[share]

    @rule(n=st.integers(1, 30), modality=st.sampled_from(["image", "image", "text"]))
    def add(self, n: int, modality: Modality) -> None:
        self.seed += 1
        self.shelf.add(n, self.seed, modality)

    @rule(data=st.data())
    def hide(self, data: st.DataObject) -> None:
        self.shelf.hide(self._some(data, hidden=False))

    @rule(data=st.data())
    def show(self, data: st.DataObject) -> None:
        self.shelf.hide(self._some(data, hidden=True), hidden=False)

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        self.shelf.forget(self._some(data))

    @rule(data=st.data())
    def forget_and_embed_anew(self, data: st.DataObject) -> None:
        ids = self._some(data)
        self.seed += 1
        self.shelf.forget(ids)
        self.shelf.embed(ids, self.seed)
        self.shelf.hide(ids, hidden=False)

    @rule()
    def save(self) -> None:
        """Another process does, as `mmsearch index` at its end."""
        with closing(Catalog(self.shelf.path)) as catalog:
            Indexes(self.shelf.folder, catalog, self.shelf.space_id, SPACE).save()

    @rule()
    def save_here(self) -> None:
        self.shelf.indexes.refresh()
        self.shelf.indexes.save()

    @rule()
    def reopen(self) -> None:
        self.shelf.reopen()

    @rule()
    def copy(self) -> None:
        self.backup.unlink()
        self.shelf.copy(self.backup)

    @rule()
    def restore(self) -> None:
        self.shelf.restore(self.backup)

    @invariant()
    def finds_what_is_there(self) -> None:
        self.shelf.indexes.refresh()
        self.shelf.indexes.take_merged()
        for modality in MODALITIES:
            self.shelf.check(modality)

    def teardown(self) -> None:
        self.shelf.close()
        self.folder.cleanup()


AnyOrder.TestCase.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
TestAnyOrder = AnyOrder.TestCase
