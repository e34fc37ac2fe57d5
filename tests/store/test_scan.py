"""What is on disk against what the catalog knows: new, gone, back, failed."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from catalog_rows import OTHER, SPACE, failure, image, saw, text

from mmsearch.store import Catalog, CatalogWriter, Pending
from mmsearch.store.transaction import SHOW_HELD


@pytest.fixture
def space_id(writer: CatalogWriter) -> int:
    return writer.ensure_space(SPACE)


def scan(writer: CatalogWriter, *files: Pending) -> None:
    writer.scan.begin()
    writer.scan.saw(files)


def pending(writer: CatalogWriter, source: int, space_id: int | None) -> list[str]:
    kinds = ("image", "archive", "texts", "sidecar")
    found = [file.path for file in writer.scan.pending(source, space_id, kinds)]
    assert sum(writer.scan.count_pending(source, space_id).values()) == len(found)
    return found


def test_new_and_changed_files_are_pending(
    writer: CatalogWriter, source: int, space_id: int
) -> None:
    writer.commit(space_id, images=[image(source, "a.jpg", "A"), image(source, "b.jpg", "B")])
    scan(writer, saw("a.jpg"), saw("b.jpg", mtime_ns=2), saw("c.jpg"), saw("z.zip", "archive"))
    assert pending(writer, source, space_id) == ["b.jpg", "c.jpg", "z.zip"]
    assert writer.scan.count_seen("image") == 3
    # For another model everything is.
    assert len(pending(writer, source, writer.ensure_space(OTHER))) == 4
    assert len(pending(writer, source, None)) == 4


def test_pending_is_safe_against_commits_meanwhile(
    writer: CatalogWriter, source: int, space_id: int
) -> None:
    names = [f"{n:04}.jpg" for n in range(4500)]
    scan(writer, *map(saw, names))
    found = []
    for file in writer.scan.pending(source, space_id, ["image"]):
        found.append(file.path)
        if len(found) % 900 == 0:
            rows = [image(source, path, path) for path in found[-900:]]
            writer.commit(space_id, images=rows)
    assert found == names
    assert pending(writer, source, space_id) == []


def test_failures_are_tried_again_when_they_change(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    failures = [failure(source, "bad.jpg"), failure(source, "closed.jpg", transient=True)]
    scan(writer, saw("bad.jpg"), saw("closed.jpg"))
    assert writer.scan.has_new_pending(source, space_id)
    writer.commit(space_id, failures=failures)
    assert not writer.scan.has_new_pending(source, space_id)
    assert pending(writer, source, space_id) == ["closed.jpg"]
    writer.scan.sweep(source)
    assert len(catalog.failures()) == 2
    scan(writer, saw("bad.jpg", mtime_ns=2), saw("closed.jpg"))
    writer.scan.sweep(source)
    assert pending(writer, source, space_id) == ["bad.jpg", "closed.jpg"]
    scan(writer)
    writer.scan.sweep(source)
    assert catalog.failures() == []


def test_picture_that_broke_and_was_restored(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    writer.commit(space_id, images=[image(source, "a.jpg", "A")])
    writer.commit(None, failures=[failure(source, "a.jpg", mtime_ns=2)])
    assert len(catalog.hidden("image")) == 1
    scan(writer, saw("a.jpg", mtime_ns=1))
    writer.scan.sweep(source)
    assert catalog.failures() == []
    assert pending(writer, source, space_id) == ["a.jpg"]
    writer.commit(space_id, images=[image(source, "a.jpg", "A", known=True)])
    assert catalog.hidden("image").tolist() == []


def test_gone_and_back(writer: CatalogWriter, catalog: Catalog, source: int, space_id: int) -> None:
    said = text(source, "a.jpg", "title", "a title", "a.jpg", origin="embedded")
    writer.commit(
        space_id,
        images=[image(source, "a.jpg", "A"), image(source, "z.zip", "Z", member="m.jpg")],
        texts=[said, text(source, "t.txt", "1", "words")],
    )
    files = [saw("z.zip", "archive"), saw("t.txt", "texts")]
    writer.finish_containers(source, space_id, files)
    scan(writer, saw("other.jpg"))
    assert not writer.scan.looks_unmounted(source)
    swept = writer.scan.sweep(source)
    assert (swept.missing, swept.returned) == (2, 0)
    counts = catalog.counts()
    assert (counts["images"], counts["texts"], counts["carried"]) == (0, 0, 0)
    assert counts["missing"] == 2
    assert len(catalog.hidden("image")) == len(catalog.hidden("text")) == 2
    scan(writer, saw("a.jpg"), *files)
    swept = writer.scan.sweep(source)
    assert (swept.missing, swept.returned) == (0, 2)
    assert len(catalog.hidden("image")) == len(catalog.hidden("text")) == 0
    assert pending(writer, source, space_id) == []


def test_what_comes_back_is_looked_for_among_what_is_hidden(writer: CatalogWriter) -> None:
    """A file that returns to a large library costs no look at all of its files."""
    query = str(SHOW_HELD.compile(writer._engine, compile_kwargs={"literal_binds": True}))
    plan = writer._connection.execute(sa.text("EXPLAIN QUERY PLAN " + query)).all()
    scans = [row.detail for row in plan if row.detail.startswith("SCAN")]
    assert scans == ["SCAN content USING INDEX ix_content_hidden"]


def test_changed_file_does_not_come_back_as_what_it_was(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    writer.commit(space_id, images=[image(source, "a.jpg", "A")])
    scan(writer, saw("b.jpg"))
    writer.scan.sweep(source)
    scan(writer, saw("a.jpg", mtime_ns=9))
    assert writer.scan.sweep(source).returned == 0
    assert pending(writer, source, space_id) == ["a.jpg"]
    assert len(catalog.hidden("image")) == 1


def test_a_part_of_a_source_is_swept_by_itself(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    paths = ["2019/a.jpg", "2019/deep/b.jpg", "2019x/c.jpg", "2019.jpg", "2020/d.jpg"]
    writer.commit(space_id, images=[image(source, p, p) for p in paths])
    scan(writer, saw("2019/a.jpg"))
    assert writer.scan.sweep(source, "2019").missing == 1
    assert catalog.counts()["images"] == 4


def test_empty_folder_looks_unmounted(writer: CatalogWriter, source: int, space_id: int) -> None:
    scan(writer)
    assert not writer.scan.looks_unmounted(source)
    writer.commit(space_id, texts=[text(source, "t.txt", "1", "words")])
    assert writer.scan.looks_unmounted(source)
    writer.commit(space_id, images=[image(source, "2019/a.jpg", "A")])
    assert writer.scan.looks_unmounted(source)
    assert writer.scan.knows_files(source, "2019")
    assert not writer.scan.knows_files(source, "2020")


def test_unreadable_folder_keeps_what_was_in_it(
    writer: CatalogWriter, catalog: Catalog, source: int, space_id: int
) -> None:
    paths = ["closed/a.jpg", "closed/sub/b.jpg", "open/c.jpg"]
    writer.commit(space_id, images=[image(source, p, p) for p in paths])
    scan(writer, saw("open/d.jpg"))
    writer.scan.saw_unreadable(source, ["closed"])
    assert writer.scan.sweep(source).missing == 1
    assert catalog.counts()["images"] == 2
    assert pending(writer, source, space_id) == ["open/d.jpg"]


# --- sources inside sources -------------------------------------------------------------------


def adoptable(writer: CatalogWriter, space_id: int) -> tuple[int, int, int]:
    """Sources of a folder, a picture and a list inside /photos."""
    folder = writer.ensure_source("/photos/caf\udce9", "folder", (), False)
    single = writer.ensure_source("/photos/one.jpg", "file", (), False)
    listed = writer.ensure_source("/photos/words.txt", "file", (), False)
    writer.commit(space_id, images=[image(folder, "\udcff.jpg", "A")])
    writer.commit(space_id, images=[image(single, "one.jpg", "B")])
    writer.commit(space_id, texts=[text(listed, "words.txt", "1", "words")])
    writer.commit(space_id, failures=[failure(folder, "bad.jpg")])
    files = [saw("words.txt", "texts")]
    writer.finish_containers(listed, space_id, files)
    return folder, single, listed


def test_a_folder_adopts_the_sources_it_meets(
    writer: CatalogWriter, catalog: Catalog, space_id: int
) -> None:
    adoptable(writer, space_id)
    outer = writer.ensure_source("/photos", "folder", (), False)
    # Both have something to say of it: of the same file.
    writer.commit(space_id, failures=[failure(outer, "caf\udce9/bad.jpg", transient=True)])
    scan(writer, saw("caf\udce9/\udcff.jpg"), saw("caf\udce9/bad.jpg"), saw("one.jpg"))
    adopted = writer.adopt(outer, "/photos")
    assert sorted(adopted) == ["/photos/caf\udce9", "/photos/one.jpg"]
    assert writer.scan.sweep(outer).missing == 0
    assert pending(writer, outer, space_id) == []
    # The list is no caption file by its name: the folder does not read it, so it keeps it not.
    assert [s.location for s in catalog.sources()] == ["/photos", "/photos/words.txt"]
    assert catalog.counts()["texts"] == 1
    assert [f.path for f in catalog.failures()] == ["/photos/caf\udce9/bad.jpg"]
    records = catalog.image_records([1, 2])
    assert [r.path for r in records.values()] == ["/photos/caf\udce9/\udcff.jpg", "/photos/one.jpg"]


def test_what_is_read_in_two_ways_stays_two_sources(
    writer: CatalogWriter, catalog: Catalog, space_id: int
) -> None:
    adoptable(writer, space_id)
    outer = writer.ensure_source("/photos", "folder", (), False)
    writer.commit(space_id, texts=[text(outer, "words.txt", "sidecar", "x", origin="sidecar")])
    writer.finish_containers(outer, space_id, [saw("words.txt", "sidecar")])
    scan(writer, saw("words.txt", "sidecar"))
    assert writer.adopt(outer, "/photos") == []
    assert len(catalog.sources()) == 4


def test_a_container_whose_reading_was_cut_short_is_not_taken_for_the_old_one(
    writer: CatalogWriter, source: int, space_id: int
) -> None:
    """An archive was replaced; the run was killed in the middle of it; the old one is back."""
    old, new = saw("a.zip", "archive"), saw("a.zip", "archive", mtime_ns=2)
    writer.begin_containers(source, ["a.zip"])
    writer.commit(space_id, images=[image(source, "a.zip", "A", member="1.jpg")])
    writer.finish_containers(source, space_id, [old])
    writer.begin_containers(source, ["a.zip"])
    writer.commit(space_id, images=[image(source, "a.zip", "B", member="1.jpg", mtime_ns=2)])
    for file in (new, old):
        writer.scan.begin()
        writer.scan.saw([file])
        writer.scan.sweep(source)
        assert writer.scan.count_pending(source, space_id) == {"archive": 1}


@pytest.mark.parametrize(("was", "now"), [("texts", "sidecar"), ("sidecar", "texts")])
def test_a_list_that_becomes_a_sidecar_is_read_again(
    writer: CatalogWriter, source: int, space_id: int, was: str, now: str
) -> None:
    """captions.txt is that of captions.jpg as long as there is one."""
    file = saw("captions.txt", was)
    origin = "file" if was == "texts" else "sidecar"
    writer.commit(space_id, texts=[text(source, "captions.txt", "1", "words", origin=origin)])
    writer.finish_containers(source, space_id, [file])
    for kind, pending in ((was, {}), (now, {now: 1})):
        writer.scan.begin()
        writer.scan.saw([saw("captions.txt", kind)])
        writer.scan.sweep(source)
        assert writer.scan.count_pending(source, space_id) == pending


def test_what_a_file_no_longer_holds_is_found_in_time_linear_in_its_texts(
    writer: CatalogWriter, source: int, space_id: int
) -> None:
    """Counted in steps of SQLite's machine, which are the same on every computer."""
    steps = []
    raw = writer._connection.connection.dbapi_connection
    assert raw is not None
    for count in (200, 1600):
        path = f"{count}.txt"
        writer.scan.begin()
        writer.scan.saw([saw(path, "texts")])
        writer.begin_containers(source, [path])
        rows = [text(source, path, str(n), f"{count} words {n}") for n in range(count)]
        writer.commit(space_id, texts=rows)
        taken = [0]

        def count_steps(taken: list[int] = taken) -> int:
            taken[0] += 1
            return 0

        raw.set_progress_handler(count_steps, 10)  # type: ignore[attr-defined]
        writer.finish_containers(source, space_id, [saw(path, "texts")])
        raw.set_progress_handler(None, 10)  # type: ignore[attr-defined]
        steps.append(taken[0])
    # Eight times the texts; were every note looked through for each, sixty-four times the steps.
    assert steps[1] < 16 * steps[0]
