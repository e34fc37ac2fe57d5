"""Backups: of one moment, whole or not there, and libraries of their own."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from collection import encoded, found, run, same, write, write_captions

from mmsearch.backup import BackupReport, backup
from mmsearch.errors import LibraryLockedError, LibraryNotFoundError, StoreError
from mmsearch.index import manifest
from mmsearch.library import Library
from mmsearch.store import lock

QUERIES = ["waves", "red"]
OLD = Path(__file__).parent / "store" / "libraries" / "0001"


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


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def check(copy: Path) -> int:
    """Asserts that a copy is whole in itself; how many pictures it holds."""
    with closing(sqlite3.connect(f"{(copy / 'catalog.db').as_uri()}?immutable=1", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        bare = "SELECT count(*) FROM image WHERE content_id NOT IN (SELECT content_id FROM {})"
        for table in ("embedding", "picture"):
            assert db.execute(bare.format(table)).fetchone() == (0,)
        return int(db.execute("SELECT count(*) FROM image").fetchone()[0])


@pytest.mark.parametrize("with_index", [False, True])
def test_a_copy_answers_like_the_library(
    library: Path, photos: Path, tmp_path: Path, with_index: bool
) -> None:
    expected = found(library, photos, QUERIES)
    with Library(library, device="cpu") as served:
        served.search("waves")
        report = backup(library, tmp_path / "to" / "copy", with_index=with_index)
        served.search("waves")
    copy = tmp_path / "to" / "copy"
    indexes = [
        f"index/{f.name}" for f in (library / "index").iterdir() if f.suffix != ".f32"
    ]  # what is left out is made anew
    assert files(copy) == sorted(["catalog.db"] + indexes * with_index)
    assert report == BackupReport(
        str(copy), 6, 2, sum((copy / f).stat().st_size for f in files(copy)), 2 * with_index
    )
    assert check(copy) == 6
    assert list(copy.parent.iterdir()) == [copy]
    with Library(copy, device="cpu") as opened:
        assert opened.index("image").delta == (0 if with_index else 6)
    assert same(found(copy, photos, QUERIES), expected)


def test_with_index_leaves_out_what_cannot_be_trusted(library: Path, tmp_path: Path) -> None:
    image, text = sorted((library / "index").glob("*.faiss"))
    with image.open("ab") as file:
        file.write(b"more")
    text.with_suffix(".json").unlink()
    (library / "index" / "0123456789abcdef-image.faiss").write_bytes(b"of no space")
    report = backup(library, tmp_path / "copy", with_index=True)
    assert report.index_files == 0
    assert files(tmp_path / "copy") == ["catalog.db"]


def test_copies_while_others_write(library: Path, photos: Path, tmp_path: Path, model: str) -> None:
    """The writer is a process of its own that indexes one picture after the other."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, library, photos],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )
    assert writer.stdout is not None
    assert writer.stdin is not None
    counts = []
    try:
        for n in range(8):
            # Each backup begins when the writer has done something since the one before.
            assert writer.stdout.readline() == "committed\n"
            copy = tmp_path / f"copy{n}"
            backup(library, copy, with_index=n % 2 == 0)
            counts.append(check(copy))
    finally:
        writer.kill()
        writer.wait()
        writer.stdin.close()
        writer.stdout.close()
    assert counts == sorted(counts)
    assert counts[0] > 6
    assert counts[-1] > counts[0]
    copied = found(tmp_path / "copy6", photos, QUERIES)
    run(tmp_path / "clean", photos, model=model)
    # Whatever came later is not in the copy; what is in it has the scores of a clean library.
    clean = found(tmp_path / "clean", photos, QUERIES)
    assert len(copied[0]) == counts[6]
    assert same(
        copied,
        [
            {what: score for what, score in theirs.items() if what in ours}
            for ours, theirs in zip(copied, clean, strict=True)
        ],
    )


WRITER = """
import sys
from pathlib import Path
from collection import encoded, run, write
library, photos = map(Path, sys.argv[1:])
for n in range(1000, 1200):
    write(photos / f"{n}.png", encoded(n))
    run(library, photos)
    print("committed", flush=True)
"""

KILLED = """
import os, signal, sys
from pathlib import Path
from mmsearch.backup import backup
def stop(event, arguments):
    if event == "mmsearch.point" and arguments == (sys.argv[3],):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(stop)
backup(Path(sys.argv[1]), Path(sys.argv[2]), with_index=True)
"""


@pytest.mark.parametrize("point", ["backup: to be put in place", "backup: in place"])
@pytest.mark.parametrize("empty_folder", [False, True])
def test_a_kill_leaves_a_whole_copy_or_none(
    library: Path, tmp_path: Path, point: str, empty_folder: bool
) -> None:
    copy = tmp_path / "copy"
    if empty_folder:
        copy.mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED, library, copy, point], check=False)
    assert done.returncode == -signal.SIGKILL
    if point == "backup: in place":
        assert check(copy) == 6
        shutil.rmtree(copy)
    else:
        assert not copy.exists() or files(copy) == []
        assert (tmp_path / "copy.partial").is_dir()
    backup(library, copy)
    assert check(copy) == 6
    assert not (tmp_path / "copy.partial").exists()
    assert files(copy) == ["catalog.db"]


def test_no_space_leaves_nothing(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        backup(library, tmp_path / "copy")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["library", "photos"]


def test_a_full_disk_is_that_of_the_copy(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def limited(path: Path, **options: Any) -> sqlite3.Connection:
        connection = connect(path, **options)
        if str(path).endswith(".tmp"):
            connection.execute("PRAGMA max_page_count=3").close()
        return connection

    monkeypatch.setattr(sqlite3, "connect", limited)
    with pytest.raises(StoreError, match="cannot be written: No space left") as caught:
        backup(library, tmp_path / "copy")
    assert str(tmp_path / "copy") in str(caught.value)
    assert str(library) not in str(caught.value)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["library", "photos"]


def test_a_place_that_cannot_be_made_is_told_as_that_of_the_copy(
    library: Path, photos: Path
) -> None:
    place = photos / "0.png" / "copy"
    with pytest.raises(StoreError, match="cannot be written: Not a directory") as caught:
        backup(library, place)
    assert str(caught.value).startswith(f"{place} cannot")


def test_a_damaged_catalog_is_not_copied(library: Path, tmp_path: Path) -> None:
    data = bytearray((library / "catalog.db").read_bytes())
    data[8192:12288] = b"\xa5" * 4096
    (library / "catalog.db").write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged|malformed") as caught:
        backup(library, tmp_path / "copy")
    assert "mmsearch doctor" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["library", "photos"]


def test_places_that_are_refused(library: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for place, why in (
        (photos, "is there already"),
        (photos / "0.png", "is there already"),
        (library, "in the library itself"),
        (library / "copy", "in the library itself"),
        (tmp_path / "link", "not a plain folder"),
        (Path("/"), "not a plain folder"),
    ):
        with pytest.raises(StoreError, match=why):
            backup(library, place)
    write(tmp_path / "copy.partial" / "letter.txt", b"precious")
    with pytest.raises(StoreError, match="in the way"):
        backup(library, tmp_path / "copy")
    assert (tmp_path / "copy.partial" / "letter.txt").read_bytes() == b"precious"
    with pytest.raises(LibraryNotFoundError):
        backup(tmp_path / "none", tmp_path / "copy2")
    assert not (tmp_path / "copy2").exists()


def test_two_backups_to_one_place(library: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with lock.writing(tmp_path / "copy.partial"):
        with pytest.raises(LibraryLockedError, match=r"copy\.partial"):
            backup(library, copy)
        assert (tmp_path / "copy.partial" / "writer.lock").exists()
    backup(library, copy)
    assert check(copy) == 6


def test_a_copy_is_of_the_newest_schema_and_the_library_as_it_was(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "old")
    before = (tmp_path / "old" / "catalog.db").read_bytes()
    backup(tmp_path / "old", tmp_path / "copy", with_index=True)
    assert (tmp_path / "old" / "catalog.db").read_bytes() == before
    assert [f for f in files(tmp_path / "copy") if not f.startswith("index/")] == ["catalog.db"]
    with Library(tmp_path / "copy", read_only=True) as opened:
        assert opened.status().images > 0
        assert len(opened.index("image")) == 6


def test_a_copy_put_back_never_takes_the_index_that_was_there(
    library: Path, photos: Path, tmp_path: Path, model: str
) -> None:
    """As many vectors, the last one the same: nothing but the origin tells them apart."""
    backup(library, tmp_path / "copy")
    write(photos / "a.png", encoded(30))
    write(photos / "b.png", encoded(31))
    run(library)
    (image,) = (library / "index").glob("*-image.faiss")
    was = manifest.read(image)
    for file in library.glob("catalog.db*"):
        file.unlink()
    shutil.copy(tmp_path / "copy" / "catalog.db", library)
    write(photos / "a.png", encoded(40))
    run(library)
    now = manifest.read(image)
    assert was is not None
    assert now is not None
    assert (was.ntotal, was.last_seq, was.last_vector) == (
        now.ntotal,
        now.last_seq,
        now.last_vector,
    )
    run(tmp_path / "clean", photos, model=model)
    assert same(found(library, photos, QUERIES), found(tmp_path / "clean", photos, QUERIES))


def test_the_command(library: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmsearch", "-l", str(library), "backup"]
    done = subprocess.run(
        [*command, str(tmp_path / "a")], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("6 pictures, 2 texts, ")
    assert f"mmsearch -l {tmp_path / 'a'} search" in done.stdout
    done = subprocess.run(
        [*command, "--json", "--with-index", str(tmp_path / "b")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["index_files"] == 2
    done = subprocess.run([*command, str(tmp_path / "a")], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "is there already" in done.stderr
