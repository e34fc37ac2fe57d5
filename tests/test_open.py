"""Opening a library that cannot be written, one of an older mmsearch, a copied and a moved one."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from collection import encoded, found, run, same, write, write_captions
from sqlalchemy.exc import OperationalError

from mmsearch.cli import cli
from mmsearch.errors import LibraryReplacedError, StoreError
from mmsearch.library import Library
from mmsearch.store import Catalog, CatalogWriter, lock
from mmsearch.store.schema import SCHEMA_HEAD

QUERIES = ["waves", "red"]
LIBRARIES = Path(__file__).parent / "store" / "libraries"
#: A picture of the old libraries: its vector is in them, so that no model is needed.
KNOWN = str(LIBRARIES / "photos" / "0.jpg")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for n in range(6):
        write(root / f"{n}.png", encoded(n))
    write_captions(root / "captions.jsonl", [("0.png", "of nought"), (None, "of nothing")])
    return root


@pytest.fixture
def library(photos: Path, tmp_path: Path, model: str) -> Path:
    run(tmp_path / "library", photos, model=model)
    return tmp_path / "library"


@pytest.fixture
def medium(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Copies a library to a file system of its own and makes that read-only."""
    place = tmp_path / "medium"
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(options, capture_output=True).returncode:
        pytest.skip("NOT TESTED: a read-only file system; mounting one needs more rights")

    def burn(library: Path) -> Path:
        shutil.copytree(library, place / library.name)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        return place / library.name

    yield burn
    # Whatever a failed test still holds open must not keep the file system.
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def command(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mmsearch", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# --- read-only ----------------------------------------------------------------------------------


def test_searches_on_a_read_only_medium(
    library: Path,
    photos: Path,
    medium: Callable[[Path], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = found(library, photos, QUERIES)
    burnt = medium(library)
    assert same(found(burnt, photos, QUERIES), expected)
    with Library(burnt, device="cpu") as opened:
        assert opened.catalog.read_only
        assert opened.thumbnail(opened.search("waves", k=1)[0].image.id)[:4] == b"RIFF"
        assert not opened.refresh()
        assert opened.status().images == 6
    assert caplog.text == ""


def test_the_commands_on_a_read_only_medium(
    library: Path, medium: Callable[[Path], Path], caplog: pytest.LogCaptureFixture
) -> None:
    burnt = medium(library)

    def command(*args: str) -> Result:
        return CliRunner().invoke(cli, ["-l", str(burnt), *args])

    done = command("search", "waves", "--json", "-k", "3", "--all")
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["hits"]) == 3
    for arguments in (["status"], ["sources"], ["doctor"]):
        done = command(*arguments)
        assert done.exit_code == 0, done.output
    assert caplog.text == ""
    for arguments in (["index"], ["doctor", "--repair"]):
        done = command(*arguments)
        assert isinstance(done.exception, StoreError)
        assert "cannot be written: Read-only file system" in str(done.exception)
        assert "copy the folder" in str(done.exception)


def test_a_full_disk_is_read(library: Path, photos: Path, tmp_path: Path) -> None:
    place = tmp_path / "full"
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(options, capture_output=True).returncode:
        pytest.skip("NOT TESTED: a full disk; mounting one needs more rights")
    try:
        expected = found(library, photos, QUERIES)
        here = shutil.copytree(library, place / "library")
        with suppress(OSError), (place / "rest").open("wb", buffering=0) as rest:
            while rest.write(bytes(4096)):
                pass
        assert same(found(here, photos, QUERIES), expected)
        for arguments in (["status"], ["backup", tmp_path / "copy"], ["search", "red", "--all"]):
            done = command("-l", here, *arguments)
            assert done.returncode == 0, done.stderr
        done = command("-l", here, "index")
        assert done.returncode == 1
        assert "space" in done.stderr
        (place / "rest").unlink()
        assert command("-l", here, "index").returncode == 0
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_serving_a_read_only_medium(library: Path, medium: Callable[[Path], Path]) -> None:
    burnt = medium(library)
    server = subprocess.Popen(
        [sys.executable, "-m", "mmsearch", "-l", burnt, "serve", "--port", "0", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert "mmsearch is at http" in line, server.communicate()
            address = next(word for word in line.split() if word.startswith("http"))
            with urllib.request.urlopen(f"{address}/v1/search?q=waves&k=2") as answer:
                hits = json.load(answer)["hits"]
            assert len(hits) == 2
            url = f"{address}/v1/images/{hits[0]['id']}/thumbnail"
            with urllib.request.urlopen(url) as answer:
                assert answer.read(4) == b"RIFF"
        finally:
            server.kill()


def leave_log(library: Path, *, with_index: bool) -> Path:
    """A copy of the catalog and its log while it is open: a commit is in the log only."""
    copy = library.with_name("copied in use")
    with closing(sqlite3.connect(library / "catalog.db")) as busy:
        busy.execute("PRAGMA wal_autocheckpoint=0")
        busy.execute("UPDATE state SET revision = 12345")
        busy.commit()
        shutil.copytree(library, copy)
    if not with_index:
        (copy / "catalog.db-shm").unlink()
    return copy


def test_a_read_only_log_is_read_with_its_index(
    library: Path, medium: Callable[[Path], Path]
) -> None:
    burnt = medium(leave_log(library, with_index=True))
    with closing(Catalog(burnt / "catalog.db")) as catalog:
        assert catalog.read_only
        assert catalog.revision() == 12345


def test_a_read_only_log_without_its_index_is_refused(
    library: Path, medium: Callable[[Path], Path]
) -> None:
    burnt = medium(leave_log(library, with_index=False))
    with pytest.raises(StoreError, match=r"catalog\.db-wal") as caught:
        Catalog(burnt / "catalog.db")
    assert "Copy the library folder" in str(caught.value)


def test_asked_to_read_only_it_makes_no_file(library: Path, photos: Path) -> None:
    before = files(library)
    with Library(library, device="cpu", read_only=True) as opened:
        assert len(opened.search("waves", k=100)) == 6
        assert files(library) == before
        with opened.catalog.engine.connect() as connection:
            with pytest.raises(OperationalError, match="readonly"):
                connection.exec_driver_sql("UPDATE state SET revision = 0")
            connection.rollback()
        # It sees what others commit all the same.
        write(photos / "new.png", encoded(50))
        run(library)
        assert len(opened.search("waves", k=100)) == 7
    # A log that somebody holds open is read, and no commit in it missed.
    with closing(sqlite3.connect(library / "catalog.db")) as busy:
        busy.execute("PRAGMA wal_autocheckpoint=0")
        busy.execute("UPDATE state SET revision = 12345")
        busy.commit()
        with closing(Catalog(library / "catalog.db", read_only=True)) as catalog:
            assert catalog.revision() == 12345


def test_what_may_not_be_written_is_found_out(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = {library}

    def access(path: Path, mode: int) -> bool:
        return not (mode & os.W_OK and path in refused)

    monkeypatch.setattr(os, "access", access)
    for place in (library, library / "catalog.db"):
        refused.clear()
        refused.add(place)
        with closing(Catalog(library / "catalog.db")) as catalog:
            assert catalog.read_only
    refused.clear()
    with closing(Catalog(library / "catalog.db")) as catalog:
        assert not catalog.read_only


# --- older schemas ------------------------------------------------------------------------------


@pytest.fixture(params=sorted(p.name for p in LIBRARIES.iterdir() if p.name.isdigit()))
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A library of a released schema, as it was when that was the newest."""
    return shutil.copytree(LIBRARIES / request.param, tmp_path / "old")


def version(catalog: Path) -> str:
    with closing(sqlite3.connect(catalog)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "--failed"],
        ["sources"],
        ["search", "-i", KNOWN, "-k", "2"],
        ["search", "--texts", "-i", KNOWN, "-k", "2"],
        ["captions", KNOWN, "-k", "2"],
        ["doctor"],
        ["doctor", "--repair"],
    ],
)
def test_every_reader_opens_an_old_library(
    old: Path, arguments: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    was = version(old / "catalog.db")
    for expected_lines in (1, 0):
        caplog.clear()
        done = CliRunner().invoke(cli, ["-l", str(old), *arguments])
        assert done.exit_code == 0, done.output
        told = [r.message for r in caplog.records if f"from schema {was}" in r.message]
        assert len(told) == expected_lines
    assert version(old / "catalog.db") == SCHEMA_HEAD
    assert version(old / f"catalog.db.{was}.bak") == was


def test_an_old_library_that_is_being_written(old: Path) -> None:
    before = (old / "catalog.db").read_bytes()
    with lock.writing(old), pytest.raises(StoreError, match=f"process {os.getpid()}") as caught:
        Library(old)
    assert "Wait until" in str(caught.value)
    assert "upgrade" not in str(caught.value)
    assert (old / "catalog.db").read_bytes() == before
    Library(old).close()


def test_an_old_library_that_cannot_be_written(
    old: Path, medium: Callable[[Path], Path], tmp_path: Path
) -> None:
    burnt = medium(old)
    done = command("-l", burnt, "search", "water")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"mmsearch -l {burnt} backup COPY" in done.stderr
    done = command("-l", burnt, "backup", tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    done = command("-l", tmp_path / "copy", "search", "-i", KNOWN, "--json", "-k", "1")
    assert len(json.loads(done.stdout)["hits"]) == 1


def test_a_migration_that_cannot_keep_the_old_one_changes_nothing(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (old / "catalog.db").read_bytes()

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left"):
            Library(old)
    assert (old / "catalog.db").read_bytes() == before
    assert [f for f in files(old) if ".bak" in f] == []
    Library(old).close()


def test_a_writer_migrates_too(old: Path) -> None:
    was = version(old / "catalog.db")
    CatalogWriter(old / "catalog.db").close()
    assert version(old / "catalog.db") == SCHEMA_HEAD
    assert version(old / f"catalog.db.{was}.bak") == was


# --- copied and moved ---------------------------------------------------------------------------


def test_copied_and_moved_libraries_answer_the_same(
    library: Path, photos: Path, tmp_path: Path
) -> None:
    expected = found(library, photos, QUERIES)
    copy = shutil.copytree(library, tmp_path / "a" / "copy")
    moved = shutil.move(library, tmp_path / "mo ved?#")
    for place in (copy, moved):
        with Library(place, device="cpu") as opened:
            assert opened.index("image").delta == 0  # the file is taken, not built anew
        assert same(found(place, photos, QUERIES), expected)
    assert run(moved).encoded_images == 0


def test_a_copy_and_its_original_go_different_ways(
    library: Path, photos: Path, tmp_path: Path, model: str
) -> None:
    copy = shutil.copytree(library, tmp_path / "copy")
    write(photos / "x.png", encoded(30))
    run(library)
    in_original = found(library, photos, QUERIES)
    write(photos / "x.png", encoded(31))
    write(photos / "y.png", encoded(32))
    run(copy)
    in_copy = found(copy, photos, QUERIES)
    run(tmp_path / "clean", photos, model=model)
    assert same(in_copy, found(tmp_path / "clean", photos, QUERIES))
    assert not same(in_copy, in_original)
    assert same(found(library, photos, QUERIES), in_original)
    # Index files of the one that come to lie in the other are not taken for its own.
    shutil.rmtree(copy / "index")
    shutil.copytree(library / "index", copy / "index")
    assert same(found(copy, photos, QUERIES), in_copy)


@pytest.mark.parametrize("read_only", [False, True])
def test_what_lies_in_the_place_of_a_library_is_not_read_as_it(
    library: Path, tmp_path: Path, read_only: bool
) -> None:
    """Connections that were there read what was opened; new ones would read the other."""
    other = shutil.copytree(library, tmp_path / "other")
    with closing(Catalog(library / "catalog.db", read_only=read_only)) as catalog:
        before = catalog.counts()
        shutil.move(library, tmp_path / "moved")
        library.mkdir()
        _refuses_to_look(catalog, read_only)
        assert list(library.iterdir()) == []  # nor is a catalog made
        shutil.copytree(other, library, dirs_exist_ok=True)
        _refuses_to_look(catalog, read_only)
        shutil.rmtree(library)
        shutil.move(tmp_path / "moved", library)
        assert catalog.counts() == before


def _refuses_to_look(catalog: Catalog, read_only: bool) -> None:
    with ExitStack() as stack:
        if not read_only:  # which keeps no connection
            stack.enter_context(catalog.engine.connect())
        with pytest.raises(LibraryReplacedError, match="open it again"):
            catalog.counts()


# --- closed -------------------------------------------------------------------------------------


def test_a_closed_library_says_so_and_does_not_open_its_files_again(library: Path) -> None:
    opened = Library(library)
    opened.search(QUERIES[0], k=2)
    opened.close()
    opened.close()  # twice is as well
    for asked in (
        lambda: opened.search(QUERIES[0], k=2),
        lambda: opened.search(QUERIES[1], k=2),
        opened.status,
        lambda: opened.captions_of(1),
        lambda: opened.read_image(1),
        lambda: opened.space,
    ):
        with pytest.raises(StoreError, match="was closed"):
            asked()
