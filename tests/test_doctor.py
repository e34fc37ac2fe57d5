"""The doctor: each kind of damage is made by hand, found, mended, and not found again."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from collection import encoded, found, run, same, titled, write, write_captions

from indexer.ingest import index_parts
from indexer.manage import remove_source
from mmsearch.cli import cli
from mmsearch.doctor import Finding, doctor
from mmsearch.errors import (
    LibraryLockedError,
    LibraryNotFoundError,
    RefusedError,
    StoreError,
    VectorIndexError,
)
from mmsearch.index.check import Differences, differences
from mmsearch.library import Library
from mmsearch.store import lock
from mmsearch.store.check import CatalogCheck
from mmsearch.store.connect import translate_errors

QUERIES = ["waves", "red"]
Sql = sqlite3.Connection


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory, model: str) -> Path:
    """Folder `photos` and the library `library` made from it. Not to be written to."""
    root = tmp_path_factory.mktemp("doctor")
    photos = root / "photos"
    for n in range(12):
        write(photos / f"{n}.png", encoded(n))
    write(photos / "copy.png", encoded(0))
    write(photos / "titled.jpg", titled(20, "a title of its own"))
    write(photos / "2.txt", b"beside two")
    with zipfile.ZipFile(photos / "more.zip", "w") as archive:
        archive.writestr("in/a.png", encoded(21))
        archive.writestr("in/b.jpg", titled(22, "inside of it"))
    write_captions(photos / "captions.jsonl", [("0.png", "of nought"), (None, "of nothing")])
    gone = write(photos / "gone.png", encoded(30))
    run(root / "library", photos, model=model)
    gone.unlink()
    run(root / "library")
    with Library(root / "library", device="cpu") as library:
        for hit in library.search("waves", k=3):
            library.thumbnail(hit.image.id)
    return root


@pytest.fixture
def library(healthy: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged; its pictures are those of `healthy`."""
    return shutil.copytree(healthy / "library", tmp_path / "library")


@pytest.fixture(scope="module")
def expected(healthy: Path) -> list[dict[object, float]]:
    return found(healthy / "library", healthy / "photos", QUERIES)


def wrong(findings: list[Finding], state: str = "problem") -> list[str]:
    return [finding.check for finding in findings if finding.state == state]


def examine(library: Path, *, repair: bool = False) -> list[Finding]:
    return list(doctor(library, repair=repair))


def content_of(db: Sql, name: str) -> int:
    query = "SELECT content_id FROM image WHERE name = ?"
    return int(db.execute(query, (name,)).fetchone()[0])


def text_of(db: Sql, body: str) -> int:
    query = "SELECT content_id FROM passage WHERE body = ?"
    return int(db.execute(query, (body,)).fetchone()[0])


# --- damage to the catalog ----------------------------------------------------------------------


def set_vector(db: Sql, content_id: int, vector: bytes) -> None:
    changed = db.execute(
        "UPDATE embedding SET vector = ? WHERE content_id = ?", (vector, content_id)
    )
    assert changed.rowcount == 1


def vector_of(value: float, dim: int = 48) -> bytes:
    return np.full(dim, value, "<f2").tobytes()


def not_a_number(db: Sql) -> None:
    set_vector(db, content_of(db, "3.png"), vector_of(np.nan))


def infinite(db: Sql) -> None:
    set_vector(db, content_of(db, "a.png"), vector_of(np.inf))


def zero(db: Sql) -> None:
    set_vector(db, content_of(db, "titled.jpg"), vector_of(0.0))


def twice_as_long(db: Sql) -> None:
    set_vector(db, text_of(db, "of nought"), vector_of(2 / 48**0.5))


def a_little_short(db: Sql) -> None:
    set_vector(db, text_of(db, "beside two"), vector_of(0.99 / 48**0.5))


def cut_off(db: Sql) -> None:
    set_vector(db, content_of(db, "4.png"), vector_of(0.1)[:-1])


def empty(db: Sql) -> None:
    set_vector(db, content_of(db, "copy.png"), b"")


def bad_text_of_a_picture(db: Sql) -> None:
    set_vector(db, text_of(db, "a title of its own"), vector_of(np.nan))
    set_vector(db, text_of(db, "inside of it"), vector_of(np.nan))


def bad_everywhere(db: Sql) -> None:
    db.execute("UPDATE embedding SET vector = ?", (vector_of(np.nan),))


def hidden(db: Sql) -> None:
    db.execute("UPDATE content SET hidden = 1 WHERE id = ?", (content_of(db, "5.png"),))


def shown(db: Sql) -> None:
    db.execute("UPDATE content SET hidden = 0 WHERE id = ?", (content_of(db, "gone.png"),))


def no_details(db: Sql) -> None:
    for name in ("6.png", "b.jpg"):
        db.execute("DELETE FROM picture WHERE content_id = ?", (content_of(db, name),))
    db.execute("DELETE FROM passage WHERE body IN ('of nothing', 'beside two', 'inside of it')")


def passed_over(db: Sql) -> None:
    """No vectors, though the archive and the file of texts count as read."""
    for id_ in (
        content_of(db, "a.png"),
        text_of(db, "of nought"),
        text_of(db, "beside two"),
        text_of(db, "a title of its own"),
    ):
        db.execute("DELETE FROM embedding WHERE content_id = ?", (id_,))


def no_contents(db: Sql) -> None:
    for id_ in (
        content_of(db, "7.png"),
        content_of(db, "a.png"),
        content_of(db, "titled.jpg"),
        text_of(db, "of nothing"),
        text_of(db, "inside of it"),
    ):
        db.execute("DELETE FROM content WHERE id = ?", (id_,))


def no_images(db: Sql) -> None:
    """Texts are linked to one of them."""
    db.execute("DELETE FROM image WHERE name IN ('0.png', '8.png')")


def no_active_space(db: Sql) -> None:
    db.execute("UPDATE space SET active = 0")


def wrong_table_index(db: Sql) -> None:
    """The table is right, and its index says otherwise."""
    db.execute("PRAGMA writable_schema = ON")
    sql = "SELECT sql FROM sqlite_master WHERE name = 'ix_image_name'"
    (before,) = db.execute(sql).fetchone()
    db.execute("DROP INDEX ix_image_name")
    db.execute("CREATE INDEX ix_image_name ON image (name) WHERE name > '3'")
    db.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'ix_image_name'", (before,))


@pytest.mark.parametrize(
    ("damage", "checks"),
    [
        (not_a_number, {"vectors"}),
        (infinite, {"vectors"}),
        (zero, {"vectors"}),
        (twice_as_long, {"vectors"}),
        (a_little_short, {"vectors"}),
        (cut_off, {"vectors"}),
        (empty, {"vectors"}),
        (bad_text_of_a_picture, {"vectors"}),
        (bad_everywhere, {"vectors"}),
        (hidden, {"visible"}),
        (shown, {"visible"}),
        (no_details, {"details"}),
        (passed_over, {"complete", "index"}),
        (no_contents, {"rows"}),
        (no_images, {"rows"}),
        (no_active_space, {"models"}),
        (wrong_table_index, {"catalog"}),
    ],
)
def test_damage_to_the_catalog(
    library: Path,
    healthy: Path,
    expected: list[dict[object, float]],
    damage: Callable[[Sql], None],
    checks: set[str],
) -> None:
    with closing(sqlite3.connect(library / "catalog.db")) as db:
        damage(db)
        db.commit()
    before = (library / "catalog.db").read_bytes()
    assert checks <= set(wrong(examine(library)))
    assert (library / "catalog.db").read_bytes() == before
    findings = examine(library, repair=True)
    assert wrong(findings) == []
    assert checks <= set(wrong(findings, "repaired"))
    findings = examine(library)
    assert wrong(findings) + wrong(findings, "repaired") == [], findings
    run(library)
    findings = examine(library)
    assert {f.state for f in findings} == {"ok"}, findings
    assert same(found(library, healthy / "photos", QUERIES), expected)


def test_a_running_server_is_told_of_a_repair(
    library: Path, healthy: Path, expected: list[dict[object, float]]
) -> None:
    with Library(library, device="cpu") as server:
        assert len(server.search_texts("of nought", k=100)) == len(expected[1])
        with closing(sqlite3.connect(library / "catalog.db")) as db:
            twice_as_long(db)
            db.commit()
        examine(library, repair=True)
        assert len(server.search_texts("of nought", k=100)) == len(expected[1]) - 1
        run(library)
        hits = server.search_texts("of nought", k=100)
    assert len(hits) == len(expected[1])
    assert (hits[0].text.body, round(hits[0].score, 2)) == ("of nought", 1.0)


def test_pages_overwritten_in_the_catalog(library: Path) -> None:
    """A page here and there: what cannot be mended is said, and left as it is."""
    path = library / "catalog.db"
    sound = path.read_bytes()
    problems = 0
    for start in range(0, len(sound), 3 * 4096):
        path.write_bytes(sound[:start] + b"\xa5" * 4096 + sound[start + 4096 :])
        damaged = path.read_bytes()
        findings = examine(library)
        if wrong(findings) == ["catalog"]:
            problems += 1
            message = findings[0].message
            assert "is damaged" in message or "own indexes" in message
            assert "\n" not in message
            if "is damaged" in message:
                assert "put a backup" in message
                assert wrong(examine(library, repair=True)) == ["catalog"]
                assert path.read_bytes() == damaged
    assert problems > 5


def test_a_disk_that_fails_is_no_damage(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(check: CatalogCheck) -> list[str]:
        with translate_errors(library / "catalog.db"):
            raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(CatalogCheck, "integrity", failing)
    (finding, *_) = examine(library)
    assert (finding.check, finding.state) == ("catalog", "problem")
    assert "check that the disk works" in finding.message
    assert "put a backup" not in finding.message


def test_a_damaged_catalog_names_the_copy_that_a_migration_kept(library: Path) -> None:
    path = library / "catalog.db"
    shutil.copy(path, library / "catalog.db.0001.bak")
    path.write_bytes(path.read_bytes()[:20_000])
    (finding, *_) = examine(library)
    assert finding.state == "problem"
    assert "catalog.db.0001.bak" in finding.message
    path.write_bytes(b"no database" * 1000)
    (finding, *_) = examine(library)
    assert (finding.check, finding.state) == ("catalog", "problem")


def test_an_emptied_catalog_is_neither_mended_nor_filled_anew(library: Path, healthy: Path) -> None:
    path = library / "catalog.db"
    for beside in library.glob("catalog.db-*"):
        beside.unlink()
    path.write_bytes(b"")
    for repair in (False, True):
        findings = examine(library, repair=repair)
        assert wrong(findings) == ["catalog"]
        assert "put a backup in its place" in findings[0].message
    for arguments in (["index"], ["index", healthy / "photos"], ["sources"], ["search", "a boat"]):
        done = CliRunner().invoke(cli, ["-l", str(library), *map(str, arguments)])
        assert done.exit_code != 0
        assert isinstance(done.exception, StoreError), done.output
        assert "put a backup in its place" in str(done.exception)
    with pytest.raises(StoreError, match="put a backup"):
        index_parts(library, {})
    assert path.read_bytes() == b""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode=WAL")
    for repair in (False, True):
        assert wrong(examine(library, repair=repair)) == ["schema"]


def test_a_new_library_that_a_kill_left_empty_is_filled_by_the_next_run(
    tmp_path: Path, healthy: Path, model: str
) -> None:
    (tmp_path / "catalog.db").write_bytes(b"")
    done = CliRunner().invoke(cli, ["-l", str(tmp_path), "index"])
    assert "say what to read" in done.output
    with pytest.raises(LibraryNotFoundError):
        remove_source(tmp_path, "photos")
    assert run(tmp_path, healthy / "photos", model=model).encoded_images > 0


def test_a_newer_catalog(library: Path) -> None:
    with closing(sqlite3.connect(library / "catalog.db")) as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
        db.commit()
    (finding,) = [f for f in examine(library, repair=True) if f.state == "problem"]
    assert finding.check == "schema"
    assert "upgrade mmsearch" in finding.message


@pytest.mark.parametrize("damage", [cut_off, empty])
def test_a_search_sends_to_the_doctor(library: Path, damage: Callable[[Sql], None]) -> None:
    with closing(sqlite3.connect(library / "catalog.db")) as db:
        damage(db)
        db.commit()
    shutil.rmtree(library / "index")
    with Library(library, device="cpu") as opened:
        with pytest.raises(StoreError, match="mmsearch doctor --repair"):
            opened.search("waves")
        examine(library, repair=True)
        assert opened.search("waves")


# --- damage to the indexes ----------------------------------------------------------------------


def one(library: Path, pattern: str) -> Path:
    (path,) = (library / "index").glob(pattern)
    return path


def truncate(library: Path) -> None:
    path = one(library, "*-image.faiss")
    path.write_bytes(path.read_bytes()[:-10])


def overwrite_vectors(library: Path) -> None:
    """In the middle of the vectors, where no checksum looks."""
    path = one(library, "*-text.faiss")
    data = bytearray(path.read_bytes())
    at = data.find(vector_bytes(library))
    assert at > 0
    data[at : at + 8] = b"\x11" * 8
    path.write_bytes(data)


def vector_bytes(library: Path) -> bytes:
    with closing(sqlite3.connect(library / "catalog.db")) as db:
        query = "SELECT vector FROM embedding WHERE content_id = ?"
        return bytes(db.execute(query, (text_of(db, "of nothing"),)).fetchone()[0])


def garble_manifest(library: Path) -> None:
    one(library, "*-text.json").write_text("{", encoding="utf-8")


def swap(library: Path) -> None:
    image, text = one(library, "*-image.faiss"), one(library, "*-text.faiss")
    content = image.read_bytes()
    image.write_bytes(text.read_bytes())
    text.write_bytes(content)


def of_another_library(library: Path) -> None:
    path = one(library, "*-image.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    document["origin"] = "2001-01-01 00:00:00"
    path.write_text(json.dumps(document), encoding="utf-8")


def lose_the_file(library: Path) -> None:
    one(library, "*-image.faiss").unlink()


def stray(library: Path) -> None:
    (library / "index" / "0123456789abcdef-image.faiss").write_bytes(b"of no space")


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        overwrite_vectors,
        garble_manifest,
        swap,
        of_another_library,
        lose_the_file,
        stray,
    ],
)
def test_damage_to_an_index(
    library: Path,
    healthy: Path,
    expected: list[dict[object, float]],
    damage: Callable[[Path], None],
) -> None:
    damage(library)
    found_wrong = set(wrong(examine(library)))
    assert "index" in found_wrong
    assert found_wrong <= {"index", "recall"}
    findings = examine(library, repair=True)
    assert wrong(findings) == []
    assert "index" in wrong(findings, "repaired")
    findings = examine(library)
    assert {f.state for f in findings} == {"ok"}, findings
    assert same(found(library, healthy / "photos", QUERIES), expected)


@pytest.mark.parametrize("closed", ["folder", "*-image.faiss", "*-text.json"])
def test_index_files_that_cannot_be_read(
    library: Path,
    healthy: Path,
    expected: list[dict[object, float]],
    closed: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By whoever runs this: searches do without them, and the doctor tells."""
    index = library / "index"
    paths = list(index.iterdir()) if closed == "folder" else [one(library, closed)]

    def refused(name: str) -> Callable[..., Any]:
        plain = getattr(Path, name)

        def call(path: Path, *args: Any, **options: Any) -> Any:
            if path in paths:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return plain(path, *args, **options)

        return call

    for name in ("open", "stat") if closed == "folder" else ("open",):
        monkeypatch.setattr(Path, name, refused(name))
    with Library(library, device="cpu") as opened:
        assert opened.status().images
    assert same(found(library, healthy / "photos", QUERIES), expected)
    assert "index" in wrong(examine(library))
    if closed != "folder":
        assert "index" in wrong(examine(library, repair=True), "repaired")


def test_a_lost_index_is_no_fault(library: Path) -> None:
    shutil.rmtree(library / "index")
    findings = examine(library)
    assert wrong(findings) == []
    assert wrong(findings, "note") == ["index", "index"]
    assert wrong(examine(library, repair=True), "repaired") == ["index", "index"]
    assert {f.state for f in examine(library)} == {"ok"}


# --- files --------------------------------------------------------------------------------------


def test_a_healthy_library(healthy: Path, library: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in library.rglob("*") if p.is_file()}
    for repair in (False, True):
        findings = examine(library, repair=repair)
        assert {finding.state for finding in findings} == {"ok"}, findings
    now = {p: p.stat().st_mtime_ns for p in library.rglob("*") if p.is_file()}
    del now[library / "writer.lock"], before[library / "writer.lock"]
    del now[library / "index" / "optimize.lock"]
    assert now == before
    by_check = {finding.check: finding.message for finding in findings}
    assert by_check["files"] == "17 known, all there as they were read"


def test_thumbnails(library: Path) -> None:
    torn, *_ = (library / "thumbs").rglob("*.webp")
    torn.write_bytes(torn.read_bytes()[:100])
    assert wrong(examine(library)) == ["thumbnails"]
    assert wrong(examine(library, repair=True), "repaired") == ["thumbnails"]
    assert not torn.exists()
    assert {f.state for f in examine(library)} == {"ok"}


def test_what_a_run_at_work_puts_into_the_index_folder_is_no_stray(library: Path) -> None:
    findings = []
    for finding in doctor(library):
        findings.append(finding)
        if finding.check == "recall":
            write(library / "index" / "0123456789abcdef-image.faiss", b"of a new model")
    assert "recall" in [finding.check for finding in findings]
    assert wrong(findings) == []
    assert wrong(examine(library)) == ["index"]  # nobody came to own it


def test_repair_leaves_alone_what_optimize_is_writing(library: Path) -> None:
    unfinished = write(library / "index" / "0123456789abcdef-image.fast-01234567.tmp", b"half")
    with lock.optimizing(library / "index") as alone:
        assert alone
        with pytest.raises(RefusedError, match="Wait until it is done"):
            examine(library, repair=True)
        assert unfinished.exists()
        assert wrong(examine(library)) == []
    assert wrong(examine(library, repair=True), "repaired") == ["leftovers"]
    assert not unfinished.exists()


def test_what_killed_runs_left(library: Path) -> None:
    left = [
        library / "index" / "0123456789abcdef-image.tmp",
        library / "catalog.db.0001.bak.tmp",
        library / "thumbs" / "ab" / "cd-256.123.tmp",
    ]
    for path in left:
        write(path, b"half", at=1_000_000_000)
    now = write(library / "thumbs" / "ab" / "ef-256.123.tmp", b"in the making")
    shutil.copy(library / "catalog.db", library / "catalog.db.0001.bak")
    findings = examine(library)
    assert wrong(findings, "note") == ["leftovers", "leftovers"]
    assert "3 unfinished files" in findings[-2].message
    assert "catalog.db.0001.bak" in findings[-1].message
    assert wrong(examine(library, repair=True), "repaired") == ["leftovers"]
    assert [path for path in left if path.exists()] == []
    assert now.exists()
    assert wrong(examine(library), "note") == ["leftovers"]


def test_a_thumbnail_that_a_kill_cut_off(library: Path, tmp_path: Path) -> None:
    picture = write(tmp_path / "picture.png", encoded(1))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, sys; from pathlib import Path;"
            "from mmsearch.files import Original, Thumbnails;"
            "from mmsearch.types import DecodeLimits;"
            "die = lambda event, _: event == 'os.rename' and os.kill(os.getpid(), 9);"
            "sys.addaudithook(die);"
            "read = lambda: Original(Path(sys.argv[2]).read_bytes(), True);"
            "Thumbnails(Path(sys.argv[1]), DecodeLimits()).get('ab' * 32, 256, read)",
            library / "thumbs",
            picture,
        ],
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    (left,) = (library / "thumbs" / "ab").iterdir()
    os.utime(left, (1_000_000_000, 1_000_000_000))
    assert wrong(examine(library), "note") == ["leftovers"]
    assert left.exists()
    assert wrong(examine(library, repair=True), "repaired") == ["leftovers"]
    assert not left.exists()
    assert {f.state for f in examine(library)} == {"ok"}


def test_files_that_changed_are_no_fault_of_the_library(tmp_path: Path, model: str) -> None:
    photos, drive = tmp_path / "photos", tmp_path / "drive"
    for n in range(4):
        write(photos / f"{n}.png", encoded(n))
    write(drive / "5.png", encoded(5))
    with zipfile.ZipFile(photos / "more.zip", "w") as archive:
        archive.writestr("a.png", encoded(21))
    single = write(tmp_path / "alone" / "6.png", encoded(6))
    library = tmp_path / "library"
    run(library, photos, drive, single, model=model)
    (photos / "0.png").unlink()
    (photos / "more.zip").unlink()
    write(photos / "1.png", encoded(40))
    drive.rename(tmp_path / "unplugged")
    single.rename(single.with_name("other.txt"))
    findings = examine(library)
    notes = [f.message for f in findings if f.state == "note"]
    assert wrong(findings) == []
    assert "of 6 known, gone: 3, changed: 1" in notes[0]
    assert f"{drive} is not there" in notes[1]
    assert [f.check for f in doctor(library, files=False) if f.check == "files"] == []
    drive.mkdir()  # where it was mounted
    assert notes == [f.message for f in examine(library) if f.state == "note"]
    (tmp_path / "unplugged" / "5.png").rename(drive / "5.png")
    single.with_name("other.txt").rename(single.with_name("6.png"))
    run(library)
    assert [f.message for f in examine(library) if f.state == "note"] == []


def test_what_was_forgotten_for_good_is_as_it_should_be(library: Path) -> None:
    """Removing a source leaves rows of `content` that are hidden and have nothing else."""
    with closing(sqlite3.connect(library / "catalog.db")) as db:
        id_ = content_of(db, "gone.png")
        db.execute("DELETE FROM image WHERE content_id = ?", (id_,))
        db.execute("DELETE FROM picture WHERE content_id = ?", (id_,))
        db.execute("DELETE FROM embedding WHERE content_id = ?", (id_,))
        db.execute("UPDATE content SET hash = ? WHERE id = ?", (os.urandom(32), id_))
        db.commit()
    assert {f.state for f in examine(library)} == {"ok"}


def test_two_models_one_of_them_not_complete(
    library: Path, healthy: Path, other_model: str
) -> None:
    with closing(sqlite3.connect(library / "catalog.db")) as db:
        (before,) = db.execute("SELECT id FROM space").fetchone()
    run(library, model=other_model)
    assert {f.state for f in examine(library)} == {"ok"}
    with closing(sqlite3.connect(library / "catalog.db")) as db:
        db.execute("UPDATE space SET active = (id = ?)", (before,))
        db.execute("DELETE FROM embedding WHERE space_id <> ? AND content_id % 2 = 0", (before,))
        db.commit()
    findings = examine(library)
    assert "vectors" not in wrong(findings)
    assert "complete" not in wrong(findings)


# --- at work ------------------------------------------------------------------------------------


def test_while_another_process_writes(library: Path) -> None:
    with lock.writing(library):
        assert {f.state for f in examine(library)} == {"ok"}
        with pytest.raises(LibraryLockedError):
            examine(library, repair=True)
    with pytest.raises(LibraryNotFoundError):
        examine(library.parent)


WRITER = """
import sys
from pathlib import Path
from collection import encoded, run, write
library, photos = map(Path, sys.argv[1:])
for n in range(1000, 1200):
    write(photos / f"{n}.png", encoded(n))
    if n > 1003:
        (photos / f"{n - 3}.png").unlink()
    run(library, photos)
    print("committed", flush=True)
"""


def test_no_false_alarm_while_a_run_is_at_work(library: Path, tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, library, tmp_path / "more"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )
    with writer:
        try:
            assert writer.stdout is not None
            for _ in range(8):
                assert writer.stdout.readline() == "committed\n"
                findings = list(doctor(library, files=False))
                assert wrong(findings) == [], findings
        finally:
            writer.kill()


@pytest.mark.parametrize(("commits", "states"), [(2, {"ok"}), (1000, {"ok", "note"})])
def test_what_changes_meanwhile_is_looked_at_again(
    library: Path, monkeypatch: pytest.MonkeyPatch, commits: int, states: set[str]
) -> None:
    left = iter(range(commits))

    def disturbed(*arguments: Any) -> Differences:
        if next(left, None) is None:
            return differences(*arguments)
        with closing(sqlite3.connect(library / "catalog.db")) as db:
            db.execute("UPDATE state SET revision = revision + 1")
            db.commit()
        return Differences(1, 0, 1, 0)

    monkeypatch.setattr("mmsearch.index.check.differences", disturbed)
    assert {finding.state for finding in examine(library)} == states


def test_the_command(library: Path) -> None:
    def command(*args: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(cli, ["-l", str(library), "doctor", *args])
        return done.exit_code, done.stdout, done.stderr

    code, out, err = command()
    assert (code, err) == (0, "")
    assert all(line.startswith("ok ") for line in out.splitlines())
    truncate(library)
    code, out, err = command()
    assert code == 1
    assert "problem   index       " in out
    assert "--repair" in out
    assert err == f"1 of {len(out.splitlines())} checks found something wrong.\n"
    code, out, err = command("--json", "--repair", "--no-files")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["ok"] is True
    assert [f["check"] for f in document["findings"] if f["state"] == "repaired"] == ["index"]


def test_torch_is_not_loaded(library: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mmsearch.doctor import doctor;"
        "assert {f.state for f in doctor(Path(sys.argv[1]))} == {'ok'};"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, library], check=True)


@pytest.mark.parametrize("kind", ["damaged", "stray"])
def test_a_file_that_cannot_be_deleted(
    library: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = library / "index"
    manifest = next(index.glob("*-text.json"))
    if kind == "damaged":
        manifest.write_text("{")
    else:
        shutil.copy(manifest, index / "0123456789abcdef-text.json")
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name.endswith("-text.json"):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(VectorIndexError, match=r"-text\.json cannot be deleted: Read-only"):
        examine(library, repair=True)
