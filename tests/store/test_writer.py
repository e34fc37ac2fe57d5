"""Batches into the catalog: whole or not at all, once or twice with the same outcome."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from catalog_rows import DIM, INFO, OTHER, SPACE, digest, failure, image, saw, text, vector
from sqlalchemy.engine.default import DefaultDialect

from mmsearch.errors import NotFoundError, StoreError
from mmsearch.store import Catalog, CatalogWriter, items
from mmsearch.types import MODALITIES

TABLES = ("content", "picture", "passage", "image", "text", "embedding", "failure", "container")


def dump(path: Path) -> dict[str, list[Any]]:
    """All rows but for times, which differ."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return {
            table: [
                {k: row[k] for k in row.keys() if k != "at"}  # noqa: SIM118
                for row in connection.execute(f"SELECT * FROM {table}")
            ]
            for table in TABLES
        }


def vectors(catalog: Catalog, space_id: int, modality: Any) -> dict[int, np.ndarray]:
    return {
        int(id_): row
        for _, ids, rows in catalog.vectors.after(space_id, modality, 0)
        for id_, row in zip(ids, rows, strict=True)
    }


def interrupted(*_args: object) -> None:
    """Ctrl-C comes here."""
    raise KeyboardInterrupt


def test_writing_a_batch_again_changes_nothing(
    writer: CatalogWriter, catalog: Catalog, catalog_path: Path, source: int
) -> None:
    space_id = writer.ensure_space(SPACE)
    batch = {
        "images": [image(source, "a.jpg", "A"), image(source, "b.zip", "B", member="m/b.jpg")],
        "texts": [text(source, "c.txt", "1", "a kite"), text(source, "c.txt", "2", "a kite")],
        "failures": [failure(source, "bad.jpg"), failure(source, "c.txt", key="3")],
    }
    writer.commit(space_id, **batch)
    before = dump(catalog_path)
    revision = catalog.revision()
    writer.commit(space_id, **batch)
    assert dump(catalog_path) == before
    assert catalog.revision() > revision
    assert [len(before[t]) for t in TABLES] == [3, 2, 1, 2, 2, 3, 2, 0]


def test_records_say_what_was_written(writer: CatalogWriter, catalog: Catalog, source: int) -> None:
    space_id = writer.ensure_space(SPACE)
    odd = "caf\udce9/\uf7e9.jpg"
    writer.commit(space_id, images=[image(source, odd, "A"), image(source, "copy.jpg", "A")])
    writer.commit(space_id, texts=[text(source, "c.txt", "1", "a kite", odd)])
    assert writer.link().linked == 1
    id_ = catalog.content_id("image", digest("A"))
    assert id_ is not None
    record = catalog.image_records([id_])[id_]
    assert (record.path, record.copies) == (f"/photos/{odd}", ("/photos/copy.jpg",))
    assert record.info == INFO
    text_id = catalog.linked_texts([id_])[id_][0]
    written = catalog.text_records([text_id])[text_id]
    assert (written.body, written.source) == ("a kite", "/photos/c.txt:1")
    assert written.image_ids == (id_,)
    found = catalog.vectors.get(space_id, id_)
    assert found is not None
    assert found.dtype == np.float32
    assert np.abs(found[0] - vector("A")).max() < 1e-3
    assert catalog.counts() == {
        "images": 2,
        "texts": 1,
        "links": 1,
        "carried": 0,
        "missing": 0,
        "failed": 0,
    }
    with pytest.raises(NotFoundError):
        catalog.locations(id_ + 1000)


def test_nothing_of_a_batch_stays_when_a_part_of_it_fails(
    writer: CatalogWriter, catalog_path: Path, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    space_id = writer.ensure_space(SPACE)
    before = dump(catalog_path)

    with monkeypatch.context() as patch:
        patch.setattr(items, "_finish_items", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.commit(space_id, images=[image(source, "a.jpg", "A")])
    writer.finish_source(source)  # the next commit must not take it along
    assert dump(catalog_path) == before


def test_texts_are_linked_after_ctrl_c_within_a_statement(
    writer: CatalogWriter, catalog: Catalog, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    space_id = writer.ensure_space(SPACE)
    writer.commit(space_id, images=[image(source, "a.jpg", "A")])
    writer.commit(space_id, texts=[text(source, "captions.txt", "1", "one", ref="a.jpg")])

    with monkeypatch.context() as patch:
        # SQLAlchemy gives up a connection in the middle of whose statement that comes.
        patch.setattr(DefaultDialect, "do_executemany", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.commit(space_id, images=[image(source, "b.jpg", "B")])
    assert writer.link().linked == 1
    writer.commit(space_id, images=[image(source, "b.jpg", "B")])
    assert catalog.counts()["images"] == 2


def test_an_interrupted_sweep_is_undone(
    writer: CatalogWriter, catalog: Catalog, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    space_id = writer.ensure_space(SPACE)
    writer.commit(space_id, images=[image(source, "a.jpg", "A"), image(source, "b.jpg", "B")])
    writer.scan.begin()
    writer.scan.saw([saw("b.jpg")])

    with monkeypatch.context() as patch:
        patch.setattr("mmsearch.store.scan.hide", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.scan.sweep(source)
    writer.finish_source(source)
    assert catalog.counts()["missing"] == 0
    assert writer.scan.sweep(source).missing == 1
    assert len(catalog.hidden("image")) == 1


def test_a_known_hash_is_one_that_has_a_vector(
    writer: CatalogWriter, catalog: Catalog, source: int
) -> None:
    first, second = writer.ensure_space(SPACE), writer.ensure_space(OTHER)
    writer.commit(first, images=[image(source, f"{name}.jpg", name) for name in "ABC"])
    writer.commit(first, texts=[text(source, "c.txt", "1", "D")])
    writer.commit(second, images=[image(source, "A.jpg", "A")])
    for space_id in (first, second):
        for modality in MODALITIES:
            digests = [digest(name) for name in "ABCDE"]
            known = {d: catalog.vectors.known(space_id, modality, d) for d in digests}
            found = catalog.vectors.embedded(space_id, modality, digests)
            assert {d: id_ for d, id_ in known.items() if id_ is not None} == found


def test_a_space_is_called_as_its_weights_were_found_last(
    writer: CatalogWriter, catalog: Catalog
) -> None:
    """Not as an export calls them, which another machine may have written."""
    known, revision = writer.ensure_space(SPACE), catalog.revision()
    moved = replace(SPACE, name="elsewhere")
    assert writer.ensure_space(moved, at_hand=False) == known
    assert catalog.active_space() == (known, SPACE)
    assert writer.ensure_space(moved) == known
    assert catalog.active_space() == catalog.find_space(fingerprint=SPACE.fingerprint)
    assert catalog.active_space() == (known, moved)
    assert catalog.revision() > revision


def test_what_a_batch_takes_does_not_depend_on_the_library(catalog_path: Path) -> None:
    """In steps of SQLite's machine, by the thousand, since a clock would say something else."""
    steps: list[int] = []
    with closing(CatalogWriter(catalog_path)) as writer:
        space_id = writer.ensure_space(SPACE)
        source = writer.ensure_source("/photos", "folder", (), False)

        def commit(start: int, count: int) -> None:
            numbers = range(start, start + count)
            writer.commit(
                space_id,
                images=[image(source, f"{n // 100}/{n}.jpg", str(n)) for n in numbers],
                texts=[text(source, "c.txt", str(n), f"text {n}", f"{n}.jpg") for n in numbers],
            )

        def measured(start: int) -> int:
            steps.clear()
            driver = writer._connection.connection.driver_connection
            assert driver is not None
            driver.set_progress_handler(lambda: steps.append(1), 1000)
            commit(start, 20)
            writer.link()
            driver.set_progress_handler(None, 0)
            return len(steps)

        commit(0, 1000)
        writer.link()
        small = measured(1000)
        commit(2000, 9000)
        writer.link()
        assert measured(20_000) < 1.5 * small + 2


def test_vectors_arrive_in_order_and_once(
    writer: CatalogWriter, catalog: Catalog, source: int
) -> None:
    space_id = writer.ensure_space(SPACE)
    writer.commit(space_id, images=[image(source, f"{n}.jpg", str(n)) for n in range(5)])
    writer.commit(space_id, texts=[text(source, "t.txt", "1", "words")])
    (seq, ids, rows), *more = catalog.vectors.after(space_id, "image", 0)
    assert not more
    assert rows.dtype == np.float16
    assert rows.shape == (5, DIM)
    writer.commit(space_id, images=[image(source, "5.jpg", "5"), image(source, "copy.jpg", "0")])
    ((_, new, _),) = catalog.vectors.after(space_id, "image", seq)
    assert len(new) == 1
    assert new[0] not in ids
    assert len(vectors(catalog, space_id, "image")) == 6
    assert catalog.vectors.count(space_id, "image") == 6


def test_content_is_hidden_when_the_last_place_changes(
    writer: CatalogWriter, catalog: Catalog, source: int
) -> None:
    space_id = writer.ensure_space(SPACE)
    writer.commit(space_id, images=[image(source, "a.jpg", "A"), image(source, "copy.jpg", "A")])
    old = catalog.content_id("image", digest("A"))
    writer.commit(space_id, images=[image(source, "a.jpg", "B")])
    assert catalog.hidden("image").tolist() == []
    writer.commit(space_id, images=[image(source, "copy.jpg", "B", known=True)])
    assert catalog.hidden("image").tolist() == [old]
    writer.commit(space_id, images=[image(source, "back.jpg", "A", known=True)])
    assert catalog.hidden("image").tolist() == []


def test_of_rows_for_one_place_in_a_batch_the_last_stays(
    writer: CatalogWriter, catalog: Catalog, source: int
) -> None:
    space_id = writer.ensure_space(SPACE)
    writer.commit(
        space_id,
        images=[
            image(source, "z.zip", "A", member="a.jpg"),
            image(source, "z.zip", "B", member="a.jpg"),
            # The first row of a content brings its vector, and may be one that is replaced.
            image(source, "z.zip", "C", member="c.jpg"),
            image(source, "z.zip", "D", member="c.jpg"),
            image(source, "copy.jpg", "C", known=True),
        ],
        texts=[text(source, "c.json", "7", "one"), text(source, "c.json", "7", "two")],
    )
    image_id, text_id = (
        catalog.content_id("image", digest("A")),
        catalog.content_id("text", digest("one")),
    )
    assert catalog.hidden("image").tolist() == [image_id]
    assert catalog.hidden("text").tolist() == [text_id]
    assert len(vectors(catalog, space_id, "image")) == 4
    assert [catalog.counts()[k] for k in ("images", "texts")] == [3, 1]
    # What was hidden and comes back only to be replaced stays hidden.
    writer.commit(space_id, images=[image(source, "e.jpg", c, known=True) for c in "AB"])
    assert catalog.hidden("image").tolist() == [image_id]


def test_what_a_picture_says_of_itself_goes_with_it(
    writer: CatalogWriter, catalog: Catalog, source: int
) -> None:
    space_id = writer.ensure_space(SPACE)
    said = text(source, "a.jpg", "title", "old title", "a.jpg", origin="embedded")
    writer.commit(space_id, images=[image(source, "a.jpg", "A")], texts=[said])
    writer.link()
    assert catalog.counts()["carried"] == 1
    writer.commit(
        space_id,
        images=[image(source, "a.jpg", "B")],
        texts=[text(source, "a.jpg", "title", "new title", "a.jpg", origin="embedded")],
    )
    assert catalog.counts()["carried"] == 1
    assert catalog.hidden("text").tolist() == [catalog.content_id("text", digest("old title"))]
    writer.commit(None, failures=[failure(source, "a.jpg", mtime_ns=2)])
    assert catalog.counts() | {"failed": 1} == catalog.counts()
    assert catalog.counts()["carried"] == catalog.counts()["images"] == 0
    assert len(catalog.hidden("text")) == 2
    assert len(catalog.hidden("image")) == 2


def test_archive_read_again_loses_what_is_no_longer_in_it(
    writer: CatalogWriter, catalog: Catalog, source: int
) -> None:
    space_id = writer.ensure_space(SPACE)

    def member(name: str, content: str) -> dict[str, list[Any]]:
        said = text(source, "z.zip", "title", f"of {name}", name, origin="embedded", member=name)
        return {"images": [image(source, "z.zip", content, member=name)], "texts": [said]}

    def read(mtime_ns: int, *names: str) -> None:
        writer.scan.begin()
        writer.begin_containers(source, ["z.zip"])
        for name in names:
            writer.commit(space_id, **member(name, name))
        writer.finish_containers(source, space_id, [saw("z.zip", "archive", mtime_ns=mtime_ns)])
        writer.link()

    read(1, "a.jpg", "b.jpg")
    assert [catalog.counts()[k] for k in ("images", "carried", "failed")] == [2, 2, 0]
    read(2, "b.jpg")
    assert [catalog.counts()[k] for k in ("images", "carried", "failed")] == [1, 1, 0]
    assert len(catalog.hidden("image")) == len(catalog.hidden("text")) == 1


def test_a_file_that_is_begun_is_not_taken_for_read_after_a_kill(
    writer: CatalogWriter, catalog: Catalog, catalog_path: Path, source: int
) -> None:
    """What comes after `begin_containers` may be lost, but not that."""
    space_id = writer.ensure_space(SPACE)
    file = saw("z.zip", "archive")
    writer.finish_containers(source, space_id, [file])
    writer.commit(space_id, failures=[failure(source, "z.zip", transient=True)])
    writer.begin_containers(source, ["z.zip"])
    assert catalog.failures() == []
    with closing(CatalogWriter(catalog_path)) as next_run:
        next_run.scan.saw([file])
        assert list(next_run.scan.pending(source, space_id, ["archive"])) == [file]


def test_text_file_read_again(writer: CatalogWriter, catalog: Catalog, source: int) -> None:
    space_id = writer.ensure_space(SPACE)
    writer.commit(None, failures=[failure(source, "c.txt")])
    for mtime_ns, bodies in enumerate((["one", "two", "three"], ["one", "TWO"])):
        writer.scan.begin()
        writer.begin_containers(source, ["c.txt"])
        rows = [text(source, "c.txt", str(n), body) for n, body in enumerate(bodies)]
        writer.commit(space_id, texts=rows, failures=[failure(source, "c.txt", key="9")])
        writer.finish_containers(source, space_id, [saw("c.txt", "texts", mtime_ns=mtime_ns)])
        assert catalog.counts()["texts"] == len(bodies)
        assert [f.path for f in catalog.failures()] == ["/photos/c.txt:9"]
    gone = {catalog.content_id("text", digest(body)) for body in ("two", "three")}
    assert set(catalog.hidden("text").tolist()) == gone
    # Then it cannot be read any more as a whole.
    writer.commit(None, failures=[failure(source, "c.txt", mtime_ns=7)])
    assert catalog.counts()["texts"] == 0


def test_spaces_stand_side_by_side(writer: CatalogWriter, catalog: Catalog, source: int) -> None:
    first = writer.ensure_space(SPACE)
    assert writer.ensure_space(SPACE) == first
    writer.commit(first, images=[image(source, "a.jpg", "A"), image(source, "b.jpg", "B")])
    second = writer.ensure_space(OTHER)
    assert catalog.active_space() == (first, SPACE)
    assert catalog.find_space(OTHER.name) == (second, OTHER)
    writer.commit(second, images=[image(source, "a.jpg", "A")])
    assert catalog.vectors.embedded(second, "image", [digest("A"), digest("B")]).keys() == {
        digest("A")
    }
    assert catalog.vectors.count_lacking(second, first) == 1
    writer.activate(second)
    assert [s.active for s in catalog.spaces()] == [False, True]
    assert [s.images for s in catalog.spaces()] == [2, 1]


def test_damage_is_a_store_error(writer: CatalogWriter, catalog_path: Path, source: int) -> None:
    space_id = writer.ensure_space(SPACE)
    writer.commit(space_id, images=[image(source, f"{n}.jpg", str(n)) for n in range(200)])
    writer.close()
    with closing(sqlite3.connect(catalog_path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    data = bytearray(catalog_path.read_bytes())
    for page in range(2, len(data) // 4096):
        data[page * 4096 : page * 4096 + 8] = b"\xff" * 8
    catalog_path.write_bytes(data)
    with pytest.raises(StoreError, match="backup"):
        Catalog(catalog_path).counts()


def test_the_log_does_not_stay_as_large_as_one_large_transaction(
    writer: CatalogWriter, catalog: Catalog, catalog_path: Path, source: int
) -> None:
    log = catalog_path.with_name(f"{catalog_path.name}-wal")
    catalog.counts()  # a reader has it open: without any, the log goes with the last writer
    writer._connection.exec_driver_sql("UPDATE source SET exclude = zeroblob(50000000)")
    writer.finish_source(source)
    assert log.stat().st_size > 50_000_000
    writer._connection.exec_driver_sql("UPDATE source SET exclude = '[]'")
    for _ in range(2):
        writer.finish_source(source)
    assert log.stat().st_size < 40_000_000
