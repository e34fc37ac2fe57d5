"""Sources renamed, moved and forgotten, spaces chosen and dropped: nothing is left that should go,
and nothing goes that should stay."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from catalog_rows import OTHER, SPACE, digest, failure, image, saw, text

from mmsearch.store import Catalog, CatalogWriter
from mmsearch.store.manage import Lost, Removal
from mmsearch.store.rows import Pending
from mmsearch.types import Space

#: How many rows have no row that they point to, or nothing that holds them.
ORPHANS = (
    "SELECT 1 FROM image WHERE source_id NOT IN (SELECT id FROM source)",
    "SELECT 1 FROM text WHERE source_id NOT IN (SELECT id FROM source)",
    "SELECT 1 FROM text WHERE image_id NOT IN (SELECT id FROM image)",
    "SELECT 1 FROM container WHERE source_id NOT IN (SELECT id FROM source)",
    "SELECT 1 FROM container WHERE space_id NOT IN (SELECT id FROM space)",
    "SELECT 1 FROM failure WHERE source_id NOT IN (SELECT id FROM source)",
    "SELECT 1 FROM embedding WHERE content_id NOT IN (SELECT content_id FROM image) "
    "AND content_id NOT IN (SELECT content_id FROM text)",
    "SELECT 1 FROM embedding WHERE space_id NOT IN (SELECT id FROM space)",
    "SELECT 1 FROM picture WHERE content_id NOT IN (SELECT content_id FROM image)",
    "SELECT 1 FROM passage WHERE content_id NOT IN (SELECT content_id FROM text)",
    # hidden exactly when no file holds it
    "SELECT 1 FROM content WHERE hidden = (id IN (SELECT content_id FROM image "
    "WHERE missing_since IS NULL UNION SELECT content_id FROM text WHERE missing_since IS NULL))",
    "SELECT 1 FROM content WHERE length(hash) != 32",
)


def is_sound(path: Path) -> bool:
    """No orphans, no broken references, no damage."""
    with closing(sqlite3.connect(path)) as connection:
        for query in ORPHANS:
            assert connection.execute(query).fetchall() == [], query
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


class Derived:
    """What is told to go with the contents, and when."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.removal: Removal | None = None
        self.pictures: list[str] = []
        self.hidden: list[int] = []

    def __call__(self, removal: Removal, lost: Lost, gone: bool) -> None:
        self.removal = removal
        self.pictures = sorted(lost.pictures())
        self.ids = sorted(lost.ids())
        assert gone == bool(len(self.hidden) % 2)
        self.hidden.append(len(self._catalog.hidden("image")))


@pytest.fixture
def derived(catalog: Catalog) -> Derived:
    return Derived(catalog)


@pytest.fixture
def space_id(writer: CatalogWriter) -> int:
    return writer.ensure_space(SPACE)


@pytest.fixture
def other(writer: CatalogWriter) -> int:
    return writer.ensure_source("/other", "folder", (), False)


@pytest.fixture
def filled(writer: CatalogWriter, source: int, other: int, space_id: int) -> None:
    """Two sources that share picture B and the text "both"; captions cross from one to the other.

    A, B and the archive in the first; B and C in the second, whose captions name A and C.
    """
    writer.commit(
        space_id,
        images=[
            image(source, "a.jpg", "A"),
            image(source, "b.jpg", "B"),
            image(source, "z.zip", "Z", member="in.jpg"),
        ],
        texts=[
            text(source, "c.txt", "1", "both"),
            text(source, "c.txt", "2", "only here"),
            text(source, "a.jpg", "title", "says A", "a.jpg", origin="embedded"),
        ],
        failures=[failure(source, "bad.jpg")],
    )
    writer.commit(
        space_id,
        images=[image(other, "sub/b.jpg", "B"), image(other, "c.jpg", "C")],
        texts=[
            text(other, "t.txt", "1", "of A", "/photos/a.jpg"),
            text(other, "t.txt", "2", "both", "c.jpg"),
        ],
    )
    writer.finish_containers(source, space_id, [Pending("z.zip", "archive", 9, 9, None)])
    writer.scan.begin()
    assert writer.link().linked == 2


def id_of(catalog: Catalog, modality: Any, content: str) -> int:
    found = catalog.content_id(modality, digest(content))
    assert found is not None
    return found


# --- names and places ---------------------------------------------------------------------------


def test_rename(writer: CatalogWriter, catalog: Catalog, source: int, other: int) -> None:
    revision = catalog.revision()
    writer.sources.rename(source, "My photos")
    assert {s.id: s.name for s in catalog.sources()} == {source: "My photos", other: "other"}
    assert catalog.revision() > revision


def test_a_source_moves_with_all_that_is_known(
    writer: CatalogWriter, catalog: Catalog, catalog_path: Path, source: int, filled: None
) -> None:
    writer.sources.move({source: "/new/place"})
    record = catalog.image_records([id_of(catalog, "image", "A")])
    assert [r.path for r in record.values()] == ["/new/place/a.jpg"]
    writer.scan.begin()
    writer.scan.saw([saw("a.jpg"), saw("b.jpg"), saw("bad.jpg")])
    writer.scan.saw([Pending("z.zip", "archive", 9, 9, None)])
    assert writer.scan.count_pending(source, 1) == {}
    assert is_sound(catalog_path)


def test_sources_may_take_each_other_s_places(
    writer: CatalogWriter, catalog: Catalog, source: int, other: int
) -> None:
    writer.sources.move({source: "/other", other: "/other/inner"})
    assert {s.id: s.location for s in catalog.sources()} == {
        source: "/other",
        other: "/other/inner",
    }


def test_a_file_that_is_a_source_takes_its_new_name(
    writer: CatalogWriter, catalog: Catalog, catalog_path: Path, space_id: int
) -> None:
    single = writer.ensure_source("/one/old.zip", "file", (), False)
    plain = writer.ensure_source("/one/old.jpg", "file", (), False)
    writer.commit(space_id, images=[image(single, "old.zip", "A", member="m.jpg")])
    writer.commit(space_id, images=[image(plain, "old.jpg", "B")])
    writer.finish_containers(single, space_id, [])
    writer.sources.move({single: "/two/new.zip", plain: "/two/new.jpg"})
    ids = [id_of(catalog, "image", "A"), id_of(catalog, "image", "B")]
    records = catalog.image_records(ids)
    assert [records[id_].path for id_ in ids] == ["/two/new.zip!/m.jpg", "/two/new.jpg"]
    with closing(sqlite3.connect(catalog_path)) as connection:
        names = connection.execute("SELECT name FROM image ORDER BY id").fetchall()
    assert names == [("m.jpg",), ("new.jpg",)]


def test_some_files_are_from_all_parts(
    writer: CatalogWriter, source: int, other: int, space_id: int
) -> None:
    rows = [image(source, f"{n:03}.jpg", str(n), size=n) for n in range(100)]
    writer.commit(space_id, images=rows)
    writer.finish_containers(source, space_id, [Pending("z.zip", "archive", 7, 9, None)])
    found = writer.sources.some_files(source, 10)
    assert 10 <= len(found) <= 12
    assert {path[:1] for path, _ in found} == {"0"}
    assert max(size for _, size in found) > 80
    assert ("z.zip", 7) in writer.sources.some_files(source, 1000)
    assert writer.sources.some_files(other, 10) == []


# --- forgetting ---------------------------------------------------------------------------------


def test_removing_a_source_forgets_what_only_it_held(
    writer: CatalogWriter,
    catalog: Catalog,
    catalog_path: Path,
    source: int,
    space_id: int,
    filled: None,
    derived: Derived,
) -> None:
    a, b, z = (id_of(catalog, "image", name) for name in "ABZ")
    only, both, says = (id_of(catalog, "text", body) for body in ("only here", "both", "says A"))
    revision = catalog.revision()
    expected = Removal(pictures=3, texts=2, contents=4)  # A and Z; "only here" and "says A"
    assert writer.sources.count_removal(source) == expected
    assert catalog.revision() == revision
    assert writer.sources.remove(source, derived) == expected
    assert derived.removal == expected
    assert derived.pictures == sorted([digest("A").hex(), digest("Z").hex()])
    assert derived.ids == sorted([a, z, only, says])
    assert derived.hidden == [0, 2]  # before the commit, and after it once more
    assert catalog.revision() > revision
    assert [s.name for s in catalog.sources()] == ["other"]
    assert is_sound(catalog_path)
    # Tombstones: hidden for every index that holds their ids, and nothing tells what they were.
    assert catalog.hidden("image").tolist() == [a, z]
    assert only in catalog.hidden("text")
    assert catalog.content_id("image", digest("A")) is None
    assert catalog.content_hash(a) != digest("A").hex()
    assert catalog.image_records([a, b]).keys() == {b}
    assert catalog.text_records([only, both]).keys() == {both}
    assert catalog.vectors.get(space_id, a) is None
    assert catalog.image_info(a) is None
    assert catalog.linked_texts([a]) == {}
    assert [s.images for s in catalog.spaces()] == [2]
    assert [count(catalog_path, t) for t in ("image", "text", "container", "failure")] == [
        2, 2, 0, 1,
    ]  # fmt: skip
    # The caption of A is there still, and is told to name a picture that is not.
    linked = writer.link()
    assert (linked.linked, linked.unknown) == (0, 1)
    assert is_sound(catalog_path)


def test_what_comes_back_after_that_is_new(
    writer: CatalogWriter,
    catalog: Catalog,
    catalog_path: Path,
    source: int,
    space_id: int,
    filled: None,
    derived: Derived,
) -> None:
    a, b = id_of(catalog, "image", "A"), id_of(catalog, "image", "B")
    writer.sources.remove(source, derived)
    again = writer.ensure_source("/photos", "folder", (), False)
    assert catalog.vectors.embedded(space_id, "image", [digest("A"), digest("B")]) == {
        digest("B"): b
    }
    writer.commit(space_id, images=[image(again, "a.jpg", "A"), image(again, "b.jpg", "B")])
    assert id_of(catalog, "image", "A") > a
    assert id_of(catalog, "image", "B") == b
    assert a in catalog.hidden("image")
    assert writer.link().linked == 1
    assert is_sound(catalog_path)


def test_removing_both_leaves_nothing_but_tombstones(
    writer: CatalogWriter,
    catalog: Catalog,
    catalog_path: Path,
    source: int,
    other: int,
    filled: None,
    derived: Derived,
) -> None:
    for source_id in (other, source):
        writer.sources.remove(source_id, derived)
        assert is_sound(catalog_path)
    tables = ("source", "image", "text", "picture", "passage", "embedding", "container", "failure")
    assert [count(catalog_path, table) for table in tables] == [0] * len(tables)
    assert count(catalog_path, "content") == len(
        [*catalog.hidden("image"), *catalog.hidden("text")]
    )
    # A tombstone is not buried twice.
    assert writer.sources.count_gone(None) == Removal(0, 0, 0)


def test_what_a_gone_file_of_another_source_holds_is_hidden_but_kept(
    writer: CatalogWriter,
    catalog: Catalog,
    catalog_path: Path,
    source: int,
    other: int,
    space_id: int,
    filled: None,
    derived: Derived,
) -> None:
    b = id_of(catalog, "image", "B")
    writer.scan.begin()
    writer.scan.saw([saw("c.jpg"), saw("t.txt", "texts")])
    writer.scan.sweep(other)
    assert b not in catalog.hidden("image")
    writer.sources.remove(source, derived)
    assert b in catalog.hidden("image")
    assert catalog.vectors.get(space_id, b) is not None
    assert is_sound(catalog_path)
    writer.scan.begin()
    writer.scan.saw([saw("c.jpg"), saw("sub/b.jpg"), saw("t.txt", "texts")])
    assert writer.scan.sweep(other).returned == 1
    assert b not in catalog.hidden("image")


def test_forgetting_gone_files(
    writer: CatalogWriter,
    catalog: Catalog,
    catalog_path: Path,
    source: int,
    other: int,
    space_id: int,
    filled: None,
    derived: Derived,
) -> None:
    assert writer.sources.count_gone(None) == Removal(0, 0, 0)
    empty = saw("empty.zip", "archive")
    writer.finish_containers(source, space_id, [empty])
    writer.scan.begin()
    writer.scan.saw([saw("c.txt", "texts"), empty])
    writer.scan.sweep(source)  # A and B and the archive are gone; B is in the other source too
    expected = Removal(pictures=3, texts=0, contents=3)  # A, Z and what A says
    assert writer.sources.count_gone(source) == writer.sources.count_gone(None) == expected
    assert writer.sources.count_gone(other) == Removal(0, 0, 0)
    a = id_of(catalog, "image", "A")
    assert writer.sources.forget_gone(source, derived) == expected
    assert is_sound(catalog_path)
    assert catalog.content_id("image", digest("A")) is None
    assert a in catalog.hidden("image")
    assert [(s.name, s.images, s.missing) for s in catalog.sources()] == [
        ("other", 2, 0),
        ("photos", 0, 0),
    ]
    # An archive that comes back is read again: its pictures are not known any more. One that was
    # there all the time is known.
    writer.scan.begin()
    writer.scan.saw([Pending("z.zip", "archive", 9, 9, None), saw("a.jpg"), empty])
    assert writer.scan.count_pending(source, space_id) == {"archive": 1, "image": 1}


def test_versions_that_files_have_lost_go_with_what_is_gone(
    writer: CatalogWriter,
    catalog: Catalog,
    catalog_path: Path,
    source: int,
    space_id: int,
    derived: Derived,
) -> None:
    writer.commit(space_id, images=[image(source, "a.jpg", "A")])
    writer.commit(space_id, images=[image(source, "a.jpg", "A edited")])
    assert writer.sources.forget_gone(None, derived) == Removal(0, 0, 1)
    assert catalog.content_id("image", digest("A")) is None
    assert catalog.content_id("image", digest("A edited")) is not None
    assert is_sound(catalog_path)


def test_vectors_of_every_space_go(
    writer: CatalogWriter,
    catalog: Catalog,
    catalog_path: Path,
    source: int,
    filled: None,
    derived: Derived,
) -> None:
    second = writer.ensure_space(OTHER)
    writer.commit(second, images=[image(source, "a.jpg", "A"), image(source, "b.jpg", "B")])
    writer.sources.remove(source, derived)
    assert catalog.vectors.count(second, "image") == 1
    assert is_sound(catalog_path)


def test_nothing_of_it_is_left_in_the_files(
    writer: CatalogWriter, catalog: Catalog, catalog_path: Path, source: int, space_id: int
) -> None:
    secret = "a title that nobody shall read again"
    rows = [text(source, "c.txt", str(n), f"{secret} {n}") for n in range(500)]
    writer.commit(space_id, texts=rows)
    writer.commit(space_id, images=[image(source, f"{secret}.jpg", "A")])
    # Builds of SQLite differ in what they do unasked.
    writer._connection.exec_driver_sql("PRAGMA secure_delete=OFF").close()
    writer._connection.commit()

    def on_disk() -> bool:
        files = catalog_path.parent.glob("catalog.db*")
        return any(secret.encode() in file.read_bytes() for file in files)

    assert on_disk()
    writer.sources.remove(source, lambda _removal, lost, _gone: list(lost.pictures()) and None)
    assert not on_disk()


def test_a_failure_on_the_way_undoes_it_all(
    writer: CatalogWriter, catalog: Catalog, catalog_path: Path, source: int, filled: None
) -> None:
    class StoppedError(Exception):
        pass

    def stop(_removal: Removal, _lost: Lost, _gone: bool) -> None:
        raise StoppedError

    revision = catalog.revision()
    with pytest.raises(StoppedError):
        writer.sources.remove(source, stop)
    assert catalog.revision() == revision
    assert catalog.content_id("image", digest("A")) is not None
    assert len(catalog.sources()) == 2
    assert is_sound(catalog_path)
    assert writer.sources.remove(source, lambda _r, _l, _g: None).pictures == 3


def test_plans_use_indexes(writer: CatalogWriter, source: int, filled: None) -> None:
    """Removing one source of a large library looks at its rows, not at every vector."""
    from mmsearch.store.manage import _Doomed

    for doomed in (_Doomed(source, only_gone=False), _Doomed(source, only_gone=True)):
        query = str(doomed.lost().compile(writer._engine, compile_kwargs={"literal_binds": True}))
        plan = writer._connection.execute(sa.text("EXPLAIN QUERY PLAN " + query)).all()
        steps = [row.detail for row in plan]
        assert not [s for s in steps if s.startswith("SCAN") and "embedding" in s], steps
        assert not [s for s in steps if s.startswith("SCAN content") and "INDEX" not in s], steps


# --- spaces -------------------------------------------------------------------------------------


def spaces(catalog: Catalog) -> dict[Space, tuple[bool, int, int]]:
    return {s.space: (s.active, s.images, s.texts) for s in catalog.spaces()}


@pytest.fixture
def second(writer: CatalogWriter, source: int, filled: None) -> int:
    """Another space, with the pictures of the first source but for the archive's."""
    space_id = writer.ensure_space(OTHER)
    writer.commit(
        space_id,
        images=[image(source, "a.jpg", "A"), image(source, "b.jpg", "B")],
        texts=[
            text(source, "c.txt", "1", "both"),
            text(source, "c.txt", "2", "only here"),
            text(source, "a.jpg", "title", "says A", "a.jpg", origin="embedded"),
        ],
    )
    return space_id


def containers(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT path, space_id FROM container").fetchall())


def test_use_marks_as_read_only_what_has_all_its_vectors(
    writer: CatalogWriter,
    catalog: Catalog,
    catalog_path: Path,
    source: int,
    space_id: int,
    second: int,
) -> None:
    writer.finish_containers(source, space_id, [Pending("c.txt", "texts", 1, 1, None)])
    writer.scan.begin()
    writer.commit(second, texts=[text(source, "c.txt", k, b) for k, b in
                                 (("1", "both"), ("2", "only here"))])  # fmt: skip
    writer.finish_containers(source, space_id, [Pending("e.txt", "texts", 1, 1, None)])
    assert catalog.active_space() == (space_id, SPACE)
    writer.spaces.use(second)
    assert catalog.active_space() == (second, OTHER)
    # The picture in the archive has no vector there: it is to be read again.
    assert containers(catalog_path)["z.zip"] == space_id
    assert containers(catalog_path)["e.txt"] == second
    assert is_sound(catalog_path)


def test_drop(
    writer: CatalogWriter,
    catalog: Catalog,
    catalog_path: Path,
    source: int,
    space_id: int,
    second: int,
) -> None:
    before = count(catalog_path, "embedding")
    writer.finish_containers(source, second, [Pending("c.txt", "texts", 1, 1, None)])
    writer.finish_containers(source, second, [Pending("y.zip", "archive", 1, 1, None)])
    gone = count(catalog_path, "embedding") - catalog.vectors.count(space_id, "image")
    writer.spaces.drop(second)
    assert list(spaces(catalog)) == [SPACE]
    assert count(catalog_path, "embedding") < before
    assert gone > 0
    assert set(containers(catalog_path).values()) == {space_id}
    assert is_sound(catalog_path)


def test_dropping_makes_what_only_that_space_had_pending(
    writer: CatalogWriter,
    catalog: Catalog,
    catalog_path: Path,
    source: int,
    space_id: int,
    second: int,
) -> None:
    writer.commit(second, images=[image(source, "n.zip", "N", member="n.jpg")])
    writer.commit(second, images=[image(source, "m.jpg", "M")])
    writer.finish_containers(source, second, [Pending("n.zip", "archive", 1, 1, None)])
    writer.commit(second, images=[image(source, "n.zip", "N", member="n.jpg")])
    writer.spaces.drop(second)
    writer.scan.begin()
    writer.scan.saw([saw("m.jpg"), saw("n.zip", "archive"), saw("a.jpg")])
    assert writer.scan.count_pending(source, space_id) == {"image": 1, "archive": 1}
    assert is_sound(catalog_path)
