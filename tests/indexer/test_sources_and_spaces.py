"""Sources relocated, removed and forgotten, spaces switched and dropped, in real libraries."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from collection import encoded, found, run, same, titled, write, write_captions

from indexer import manage
from indexer.manage import Moved
from mmsearch.doctor import doctor
from mmsearch.encode.protocol import Encoder
from mmsearch.errors import (
    LibraryLockedError,
    LibraryNotFoundError,
    NotFoundError,
    RefusedError,
    SourceError,
    StoreError,
    UnknownNameError,
)
from mmsearch.library import INDEX_FOLDER, THUMBS_FOLDER, Library
from mmsearch.queryencoder import QueryEncoder
from mmsearch.store.lock import writing
from mmsearch.store.manage import Removal

QUERIES = ["waves", "a calm sea"]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return tmp_path / "library"


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A drive with two folders; one picture is in both, captions of one name pictures of both."""
    root = tmp_path / "usb1"
    for n in range(4):
        write(root / "Photos" / f"{n}.png", encoded(n))
    write(root / "Photos" / "deep" / "said.jpg", titled(9, "what it says itself"))
    write(root / "Photos" / "deep" / "broken.jpg", b"no picture")
    write(root / "Photos" / "0.png.txt", b"beside picture 0")
    write(root / "more" / "0 again.png", encoded(0))
    write(root / "more" / "5.png", encoded(5))
    with zipfile.ZipFile(root / "more" / "album.zip", "w") as album:
        album.writestr("in/6.png", encoded(6))
    write_captions(
        root / "more" / "captions.jsonl",
        [("5.png", "a calm sea"), ("../Photos/1.png", "of one"), (None, "of none")],
    )
    return root


@pytest.fixture
def indexed(library: Path, drive: Path, model: str) -> Path:
    report = run(library, drive / "Photos", drive / "more", model=model)
    assert (report.encoded_images, report.known, report.failed) == (7, 1, 1)
    assert report.linked == 3
    return library


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> Encoder:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("mmsearch.encode.load_encoder", refuse)


def sources(library: Path) -> dict[str, str]:
    with Library(library) as lib:
        return {source.name: source.location for source in lib.sources()}


def query(library: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(library / "catalog.db")) as connection:
        return connection.execute(statement).fetchall()


def image_id(library: Path, name: str) -> int:
    rows = query(library, f"SELECT content_id FROM image WHERE path = '{name}'")
    assert isinstance(rows[0][0], int)
    return rows[0][0]


# --- names and places ---------------------------------------------------------------------------


def test_rename_by_name_and_by_path(indexed: Path, drive: Path) -> None:
    manage.rename_source(indexed, "more", "  Other pictures ")
    manage.rename_source(indexed, f"{drive}/Photos/", "more")
    assert sources(indexed) == {"Other pictures": f"{drive}/more", "more": f"{drive}/Photos"}
    manage.rename_source(indexed, "more", "more")
    for name, why in (
        ("Other pictures", "already"),
        ("a/b", "cannot"),
        (" ", "cannot"),
        ("x" * 201, "at most 200"),
    ):
        with pytest.raises(RefusedError, match=why):
            manage.rename_source(indexed, "more", name)
    with pytest.raises(UnknownNameError, match=r"no source 'Photos'.*'more', 'Other"):
        manage.rename_source(indexed, "Photos", "x")
    # What filters make of the longest name is not too long for one.
    manage.rename_source(indexed, "more", "*" * 200)
    with Library(indexed, device="cpu") as library:
        assert "*" * 200 in [count.value for count in library.facets().sources]


def test_a_drive_that_is_mounted_elsewhere(
    indexed: Path, drive: Path, tmp_path: Path, no_model: None
) -> None:
    before = found(indexed, drive, QUERIES)
    elsewhere = tmp_path / "usb2"
    drive.rename(elsewhere)
    moved = manage.relocate(indexed, str(drive), elsewhere)
    assert moved == [
        Moved("Photos", f"{drive}/Photos", f"{elsewhere}/Photos", 6, 6),
        Moved("more", f"{drive}/more", f"{elsewhere}/more", 4, 4),
    ]
    assert same(found(indexed, elsewhere, QUERIES), before)
    report = run(indexed)
    assert not report.changed
    assert report.warnings == []
    assert report.files == 8
    assert same(found(indexed, elsewhere, QUERIES), before)
    with Library(indexed) as lib:
        assert lib.read_image(image_id(indexed, "1.png")) == encoded(1)
        assert [f.path for f in lib.failures()] == [f"{elsewhere}/Photos/deep/broken.jpg"]


def test_files_that_were_copied_without_their_times_are_read_but_not_encoded(
    indexed: Path, drive: Path, tmp_path: Path, model: str
) -> None:
    before = found(indexed, drive, QUERIES)
    new = tmp_path / "new"
    shutil.copytree(drive / "Photos", new)
    for n, path in enumerate(sorted(new.rglob("*.png"))):
        os.utime(path, (1_000_000 + n, 1_000_000 + n))
    write(new / "2.png", encoded(22))
    (moved,) = manage.relocate(indexed, "Photos", new)
    assert moved.found >= 4
    report = run(indexed)
    assert (report.encoded_images, report.known, report.missing) == (1, 3, 0)
    write(new / "2.png", encoded(2))
    run(indexed)
    after = found(indexed, drive, QUERIES)
    assert [len(table) for table in after] == [len(table) for table in before]


def test_one_source_by_a_link_that_was_left_behind(
    indexed: Path, drive: Path, tmp_path: Path, no_model: None
) -> None:
    (drive / "Photos").rename(tmp_path / "new")
    (drive / "Photos").symlink_to(tmp_path / "new")
    manage.relocate(indexed, str(drive / "Photos"), tmp_path / "new")
    assert sources(indexed) == {"Photos": f"{tmp_path}/new", "more": f"{drive}/more"}
    report = run(indexed)
    assert not report.changed


def test_into_a_folder_inside_its_old_place(
    indexed: Path, drive: Path, tmp_path: Path, no_model: None
) -> None:
    drive.rename(tmp_path / "kept")
    drive.mkdir()
    (tmp_path / "kept").rename(drive / "2024")
    manage.relocate(indexed, str(drive), drive / "2024")
    report = run(indexed)
    assert (report.changed, report.warnings) == (False, [])


def test_a_file_by_itself(library: Path, drive: Path, tmp_path: Path, model: str) -> None:
    run(library, drive / "Photos" / "1.png", drive / "more" / "album.zip", model=model)
    (drive / "Photos" / "1.png").rename(tmp_path / "one.png")
    with pytest.raises(SourceError, match="name the file itself"):
        manage.relocate(library, "1.png", tmp_path)
    (moved,) = manage.relocate(library, "1.png", tmp_path / "one.png")
    assert (moved.compared, moved.found) == (1, 1)
    assert not run(library).changed
    with Library(library) as lib:
        assert lib.image(image_id(library, "one.png")).path == f"{tmp_path}/one.png"
    assert manage.remove_source(library, "album.zip") == Removal(1, 0, 1)


def test_places_that_are_refused(indexed: Path, drive: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    file = write(tmp_path / "file.txt", b"x")
    inside = drive / "more" / "inside"
    inside.mkdir()
    before = sources(indexed)
    for new, error, why in (
        (tmp_path / "none", SourceError, "no such file"),
        (file, SourceError, "is a file"),
        (empty, RefusedError, "none of the 6 known files.*--force"),
        (drive / "more", RefusedError, "is a source already.*mmsearch sources remove Photos"),
        (inside, RefusedError, "lies inside the source 'more'"),
        (drive, RefusedError, "source 'more'.*lies inside.*mmsearch index"),
        (drive / "Photos", RefusedError, "is at .* already"),
    ):
        with pytest.raises(error, match=why):
            manage.relocate(indexed, "Photos", new)
    with pytest.raises(UnknownNameError):
        manage.relocate(indexed, str(tmp_path / "usb"), empty)
    assert sources(indexed) == before
    (moved,) = manage.relocate(indexed, "Photos", empty, force=True)
    assert (moved.compared, moved.found) == (6, 0)
    assert sources(indexed)["Photos"] == str(empty)


def test_what_a_refusal_says_to_do_works(indexed: Path, drive: Path) -> None:
    """The pictures were moved into another source: nothing is encoded, nothing is lost."""
    before = found(indexed, drive, QUERIES)
    (drive / "Photos").rename(drive / "more" / "Photos")
    with pytest.raises(RefusedError):
        manage.relocate(indexed, "Photos", drive / "more" / "Photos")
    report = run(indexed, drive / "more" / "Photos")
    assert report.encoded_images == report.encoded_texts == 0
    manage.remove_source(indexed, "Photos")
    after = found(indexed, drive, QUERIES)
    assert [len(table) for table in after] == [len(table) for table in before]
    with Library(indexed) as lib:
        assert lib.status().links == 3


# --- forgetting ---------------------------------------------------------------------------------


def test_nothing_is_removed_when_a_thumbnail_cannot_be(indexed: Path, drive: Path) -> None:
    before = found(indexed, drive, QUERIES)
    with Library(indexed) as lib:
        digest = lib.catalog.content_hash(image_id(indexed, "1.png"))
    stubborn = indexed / THUMBS_FOLDER / digest[:2] / f"{digest}-512.webp"
    stubborn.mkdir(parents=True)  # as a disk that fails would, it cannot be unlinked
    with pytest.raises(StoreError, match=r"could not be deleted: .*Nothing was removed"):
        manage.remove_source(indexed, "Photos")
    assert found(indexed, drive, QUERIES) == before


def test_a_removed_source_is_not_found_and_comes_back_as_new(
    indexed: Path, drive: Path, library: Path, tmp_path: Path, model: str
) -> None:
    before = found(indexed, drive, QUERIES)
    old = image_id(indexed, "1.png")
    with Library(indexed) as lib:
        hashes = {
            name: lib.catalog.content_hash(image_id(indexed, name)) for name in ("1.png", "5.png")
        }
        for name in hashes:
            lib.thumbnail(image_id(indexed, name))
    thumbs = indexed / THUMBS_FOLDER
    source, plan = manage.count_removal(indexed, "Photos")
    assert source.location == f"{drive}/Photos"
    assert manage.remove_source(indexed, "Photos") == plan == Removal(5, 1, 6)
    with Library(indexed) as lib:
        # A caption that stays named a picture that went.
        assert any("Photos/1.png" in failure.reason for failure in lib.failures())
    clean = tmp_path / "clean"
    run(clean, drive / "more", model=model)
    assert same(found(indexed, drive, QUERIES), found(clean, drive, QUERIES))
    with Library(indexed, device="cpu") as lib:
        for ask in (lib.similar, lib.image, lib.thumbnail, lib.read_image, lib.captions_of):
            with pytest.raises(NotFoundError):
                ask(old)
        assert lib.search(image=encoded(1), k=1)[0].score < 0.999
        assert lib.status().images == 3
    assert [p.name.partition("-")[0] for p in thumbs.rglob("*.webp")] == [hashes["5.png"]]
    report = run(indexed, drive / "Photos")
    # Picture 0 is in the other source too, and was known all the time.
    assert (report.encoded_images, report.known) == (4, 1)
    assert same(found(indexed, drive, QUERIES), before)
    assert image_id(indexed, "1.png") > old


def test_a_thumbnail_that_is_made_meanwhile_goes_too(
    indexed: Path, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service shows pages until the commit, and makes what it lacks."""
    one = image_id(indexed, "1.png")
    delete, made = manage.delete_thumbnails, []

    def delete_and_ask(folder: Path, digests: Iterable[str]) -> None:
        delete(folder, digests)
        if not made:
            made.append(shown.thumbnail(one))

    monkeypatch.setattr(manage, "delete_thumbnails", delete_and_ask)
    with Library(indexed, device="cpu") as shown:
        manage.remove_source(indexed, "Photos")
    assert made
    assert not list((indexed / THUMBS_FOLDER).rglob("*.webp"))


def test_a_thumbnail_made_meanwhile_that_cannot_go_is_told(
    indexed: Path, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete, calls = manage.delete_thumbnails, []

    def fail_later(folder: Path, digests: Iterable[str]) -> None:
        calls.append(folder)
        if len(calls) > 1:
            raise StoreError("x.webp could not be deleted: the disk is broken")
        delete(folder, digests)

    monkeypatch.setattr(manage, "delete_thumbnails", fail_later)
    with pytest.raises(StoreError, match=r"^source removed, but x\.webp .*delete it by hand$"):
        manage.remove_source(indexed, "Photos")
    with Library(indexed) as lib:
        assert [source.location for source in lib.sources()] == [f"{drive}/more"]


def test_a_catalog_kept_from_before_a_migration_goes_too(indexed: Path, drive: Path) -> None:
    """It holds what is removed."""
    old = indexed / "catalog.db.0002.bak"
    old.write_bytes(b"what picture 1 says")
    manage.remove_source(indexed, "Photos")
    assert not old.exists()


@pytest.fixture
def crowd(library: Path, tmp_path: Path, model: str) -> Path:
    """A library of 20 pictures, and one that is a source of its own."""
    for n in range(20):
        write(tmp_path / "many" / f"{n}.png", encoded(n))
    one = write(tmp_path / "one.png", encoded(99))
    run(library, tmp_path / "many", one, model=model)
    return library


def vector_of(library: Path, name: str) -> bytes:
    where = f"content_id = {image_id(library, name)}"
    vector = query(library, f"SELECT vector FROM embedding WHERE {where}")[0][0]
    assert isinstance(vector, bytes)
    return vector


def holding(library: Path, vector: bytes) -> list[str]:
    """The index files with these bytes in them."""
    files = (library / INDEX_FOLDER).iterdir()
    return [file.name for file in files if vector in file.read_bytes()]


def test_index_files_hold_nothing_of_what_was_removed(crowd: Path) -> None:
    """At once, however little it was; what it cost has nothing to do with the others."""
    vector = vector_of(crowd, "one.png")
    (file,) = (crowd / INDEX_FOLDER).glob("*-image.faiss")
    before = file.stat()
    assert holding(crowd, vector) == [file.name]
    with Library(crowd, device="cpu") as served:
        others = [hit.image.path for hit in served.search("waves", k=100)]
        assert manage.remove_source(crowd, "one.png") == Removal(1, 0, 1)
        assert holding(crowd, vector) == []
        assert (file.stat().st_ino, file.stat().st_size) == (before.st_ino, before.st_size)
        others = [path for path in others if not path.endswith("one.png")]
        assert [hit.image.path for hit in served.search("waves", k=100)] == others
    with Library(crowd, device="cpu") as opened:
        assert [hit.image.path for hit in opened.search("waves", k=100)] == others
        assert len(opened.index("image")) == 20
        assert opened.index("image").delta == 0
        assert opened.index("image").loaded is not None
    assert [finding for finding in doctor(crowd) if finding.state == "problem"] == []


def test_what_was_removed_comes_back_as_new(crowd: Path, tmp_path: Path) -> None:
    """Its vector is another content's: the place of the old one stays empty."""
    with Library(crowd, device="cpu") as opened:
        before = [(hit.image.path, hit.score) for hit in opened.search("waves", k=100)]
    for name in ("one.png", "one.png"):
        manage.remove_source(crowd, name)
        run(crowd, tmp_path / "one.png")
    with Library(crowd, device="cpu") as opened:
        found_ = [(hit.image.path, hit.score) for hit in opened.search("waves", k=100)]
    assert found_ == before
    assert [finding for finding in doctor(crowd) if finding.state == "problem"] == []


#: Removes a source and is killed at a named point.
KILLED = """
import os, signal, sys
from pathlib import Path
from indexer import manage

def kill(event, arguments):
    if event == "mmsearch.point" and arguments[0] == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
manage.remove_source(Path(sys.argv[1]), sys.argv[3])
"""


@pytest.mark.parametrize("point", ["to be committed", "committed"])
def test_a_kill_while_a_source_is_removed(indexed: Path, drive: Path, point: str) -> None:
    """It is all there, or it is gone; what is derived is made anew."""
    before = found(indexed, drive, QUERIES)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, indexed, f"source removed: {point}", "more"],
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    if point == "to be committed":
        assert same(found(indexed, drive, QUERIES), before)
        assert manage.remove_source(indexed, "more") == Removal(3, 3, 5)
    assert list(sources(indexed)) == ["Photos"]
    assert [len(table) for table in found(indexed, drive, QUERIES)] == [5, 2, 5, 2]
    run(indexed)
    assert len(list((indexed / INDEX_FOLDER).glob("*.faiss"))) == 2
    run(indexed, drive / "more")
    assert same(found(indexed, drive, QUERIES), before)


@pytest.mark.parametrize(
    "point",
    [
        "index: manifest withdrawn",
        "source removed: to be committed",
        "source removed: committed",
        "erase: overwritten",
        "index: manifest amended",
    ],
)
def test_a_kill_while_one_picture_is_taken_out_of_the_index(
    crowd: Path, tmp_path: Path, point: str
) -> None:
    vector = vector_of(crowd, "one.png")
    with Library(crowd, device="cpu") as opened:
        before = [(hit.image.path, hit.score) for hit in opened.search("waves", k=100)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, crowd, point, "one.png"],
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    kept = point in ("index: manifest withdrawn", "source removed: to be committed")
    wanted = [hit for hit in before if kept or not hit[0].endswith("one.png")]
    for after_a_run in (False, True):
        if after_a_run:
            run(crowd, tmp_path / "many")
        with Library(crowd, device="cpu") as opened:
            there = [(hit.image.path, hit.score) for hit in opened.search("waves", k=100)]
            assert there == wanted
    assert bool(holding(crowd, vector)) == kept
    assert [finding for finding in doctor(crowd) if finding.state == "problem"] == []


@pytest.mark.parametrize("what", ["a disk that does not take it", "a file nobody can read"])
def test_an_index_that_cannot_be_changed_is_built_anew(
    crowd: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    from mmsearch.index import erase

    vector = vector_of(crowd, "one.png")
    name = "overwrite" if what == "a disk that does not take it" else "places"

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(erase, name, fail)
    manage.remove_source(crowd, "one.png")
    assert holding(crowd, vector) == []
    with Library(crowd, device="cpu") as opened:
        assert opened.index("image").total == 20
        assert opened.index("image").loaded is not None


def test_gone_files_are_forgotten(indexed: Path, drive: Path) -> None:
    assert manage.count_gone(indexed, None) == Removal(0, 0, 0)
    (drive / "Photos" / "1.png").unlink()
    shutil.move(drive / "more" / "album.zip", drive / "album.zip")
    run(indexed)
    assert manage.count_gone(indexed, "more") == Removal(1, 0, 1)
    assert manage.forget_gone(indexed, "more") == Removal(1, 0, 1)
    assert manage.forget_gone(indexed, None) == Removal(1, 0, 1)
    with Library(indexed) as lib:
        assert lib.status().missing == 0
        # The caption that named picture 1 says so.
        assert any("1.png" in failure.reason for failure in lib.failures())
    shutil.move(drive / "album.zip", drive / "more" / "album.zip")
    report = run(indexed)
    assert report.encoded_images == 1
    with Library(indexed) as lib:
        assert lib.status().images == 7


def test_a_library_that_is_open_notices(indexed: Path, drive: Path) -> None:
    with Library(indexed, device="cpu") as lib:
        assert len(lib.search("waves", k=100)) == 7
        texts = len(lib.search_texts("waves", k=100))
        manage.remove_source(indexed, "more")
        assert len(lib.search("waves", k=100)) == 5
        assert len(lib.search_texts("waves", k=100)) == texts - 3
        assert lib.similar(image_id(indexed, "0.png"), k=100)
        run(indexed, drive / "more")
        assert len(lib.search("waves", k=100)) == 7
        assert len(lib.search_texts("waves", k=100)) == texts


def test_nothing_is_made_where_there_is_no_library(tmp_path: Path) -> None:
    with pytest.raises(LibraryNotFoundError):
        manage.remove_source(tmp_path / "none", "Photos")
    assert not (tmp_path / "none").exists()


def test_one_writer_at_a_time(indexed: Path) -> None:
    with writing(indexed), pytest.raises(LibraryLockedError):
        manage.rename_source(indexed, "Photos", "x")


# --- spaces -------------------------------------------------------------------------------------


def test_back_to_the_old_space_and_away_with_the_new(
    indexed: Path, drive: Path, model: str, other_model: str
) -> None:
    before = found(indexed, drive, QUERIES)
    report = run(indexed, model=other_model)
    assert report.old_space == model
    assert not same(found(indexed, drive, QUERIES), before)
    with Library(indexed, device="cpu") as lib:
        lib.search("waves")
        assert manage.use_space(indexed, model).name == model
        assert lib.space is not None
        assert lib.space.name == model
        lib.search("waves")
    assert same(found(indexed, drive, QUERIES), before)
    assert not run(indexed).changed
    with pytest.raises(RefusedError, match="searches use"):
        manage.drop_space(indexed, model)
    plan = manage.plan_drop(indexed, other_model)
    assert (plan.alone, plan.active.name) == (0, model)
    assert plan.bytes > 0
    assert manage.drop_space(indexed, other_model) == plan
    assert same(found(indexed, drive, QUERIES), before)
    names = {file.name.partition("-")[0] for file in (indexed / INDEX_FOLDER).iterdir()}
    assert names == {plan.active.fingerprint[:16]}
    assert query(indexed, "SELECT count(DISTINCT space_id) FROM embedding") == [(1,)]
    assert not run(indexed).changed
    # And the other way again: all of it is made anew.
    assert run(indexed, model=other_model).encoded_images == 7


def test_a_switch_in_the_middle_of_a_question(
    indexed: Path, model: str, other_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that was encoded for a space that is gone by then is put again, not refused."""
    run(indexed, model=other_model)
    encode, switched = QueryEncoder.query, []

    def encode_then_switch(encoder: QueryEncoder, *question: Any) -> Any:
        vector = encode(encoder, *question)
        if not switched:
            switched.append(manage.use_space(indexed, model))
            manage.drop_space(indexed, other_model)
            lib.refresh()
        return vector

    with Library(indexed, device="cpu") as lib:
        assert lib.search("waves")
        with monkeypatch.context() as patch:
            patch.setattr(QueryEncoder, "query", encode_then_switch)
            hits = lib.search("waves", k=100)
        assert switched
        assert hits == lib.search("waves", k=100)
        assert len(hits) == 7


def test_questions_while_sources_come_and_go(indexed: Path, drive: Path) -> None:
    """A server in another thread notices, and refuses nothing."""
    stop = threading.Event()
    counts: set[int] = set()
    errors: list[Exception] = []
    kept = image_id(indexed, "0.png")

    def ask(lib: Library) -> None:
        while not stop.is_set():
            try:
                counts.add(len(lib.search("waves", k=100)))
                lib.search_texts("waves", k=100)
                lib.captions_of(kept)
                lib.similar(kept)
                lib.thumbnail(kept)
            except Exception as exc:  # noqa: BLE001 -- whatever it is, it fails the test
                errors.append(exc)
                return

    def wait_for(n: int) -> None:
        """Until the other thread has found n pictures."""
        counts.clear()
        deadline = time.monotonic() + 60
        while n not in counts and not errors and time.monotonic() < deadline:
            time.sleep(0.01)
        assert n in counts, errors

    with Library(indexed, device="cpu") as lib:
        lib.search("waves")
        thread = threading.Thread(target=ask, args=(lib,))
        thread.start()
        try:
            for _ in range(2):
                manage.remove_source(indexed, "more")
                wait_for(5)
                run(indexed, drive / "more")
                wait_for(7)
        finally:
            stop.set()
            thread.join()
    assert errors == []


def test_a_space_that_lacks_something_is_not_switched_to(
    indexed: Path, drive: Path, model: str, other_model: str
) -> None:
    run(indexed, model=other_model)
    write(drive / "Photos" / "7.png", encoded(7))
    run(indexed)
    with pytest.raises(RefusedError, match=r"1 picture or text.*mmsearch index --model "):
        manage.use_space(indexed, model)
    plan = manage.plan_drop(indexed, model)
    assert plan.alone == 0
    report = run(indexed, model=model)
    assert (report.encoded_images, report.old_space) == (1, other_model)
    manage.use_space(indexed, other_model)


def test_ways_to_name_a_space(indexed: Path, model: str, other_model: str) -> None:
    run(indexed, model=other_model)
    with Library(indexed) as lib:
        known = [item.status for item in manage.list_spaces(indexed, lib.catalog)]
    for item in known:
        for given in (item.space.name, item.space.fingerprint[:8], item.space.fingerprint.upper()):
            assert manage.find_space(known, given) == item
    for given in ("no-such-model", known[0].space.fingerprint[:3], ""):
        with pytest.raises(UnknownNameError):
            manage.find_space(known, given)


def test_two_weights_of_one_name(tmp_path: Path, indexed: Path, drive: Path, model: str) -> None:
    from collection import save_model

    name = save_model(tmp_path / "changing", seed=3)
    run(indexed, model=name)
    shutil.rmtree(tmp_path / "changing")
    save_model(tmp_path / "changing", seed=4)
    report = run(indexed)
    with Library(indexed) as lib:
        known = [item.status for item in manage.list_spaces(indexed, lib.catalog)]
    first, second = (item for item in known if item.space.name == name)
    assert report.old_space == first.space.fingerprint[:12]
    assert second.active
    with pytest.raises(RefusedError, match=first.space.fingerprint[:12]):
        manage.drop_space(indexed, name)
    assert manage.drop_space(indexed, report.old_space).space == first.space
