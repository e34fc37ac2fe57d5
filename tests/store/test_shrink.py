"""What the catalog no longer needs goes back to the disk, and nothing else changes."""

from __future__ import annotations

import logging
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import pytest
from catalog_rows import SPACE, image, text

from mmsearch.errors import StoreError
from mmsearch.store import Catalog, CatalogWriter, shrink

N = 1500
_Usage = namedtuple("_Usage", "total used free")  # as shutil's


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalog of two sources, each of half of the pictures and texts."""
    monkeypatch.setattr(shrink, "WORTH_BYTES", 1 << 16)
    monkeypatch.setattr(shrink, "_REMAINS", 1 << 16)
    path = tmp_path / "catalog.db"
    with closing(CatalogWriter(path)) as writer:
        space_id = writer.ensure_space(SPACE)
        for name in ("first", "second"):
            source = writer.ensure_source(f"/{name}", "folder", (), False)
            writer.commit(
                space_id,
                images=[image(source, f"{n}.jpg", f"{name} {n}") for n in range(N)],
                texts=[text(source, "c.csv", str(n), f"{name} words {n}") for n in range(N)],
            )
    return path


def remove(path: Path, name: str) -> None:
    with closing(CatalogWriter(path)) as writer, closing(Catalog(path)) as catalog:
        (source,) = (place.id for place in catalog.places() if place.name == name)
        writer.sources.remove(source, lambda _removal, _lost, _gone: None)


def forget_each(path: Path, step: int) -> None:
    """Every other, or every third, picture and text."""
    with closing(CatalogWriter(path)) as writer:
        for change in (
            "image SET missing_since = '2026-01-01' WHERE content_id",
            "text SET missing_since = '2026-01-01' WHERE content_id",
            "content SET hidden = 1 WHERE id",
        ):
            writer._connection.exec_driver_sql(f"UPDATE {change} % {step} = 0")
        writer._connection.commit()
        writer.sources.forget_gone(None, lambda _removal, _lost, _gone: None)


def everything(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables, but for how the words are kept, which is by their rows."""
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        found = {
            name: sorted(connection.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr)
            for (name,) in names
        }
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return found


@pytest.mark.parametrize("how", ["a source", "here and there"])
def test_what_is_free_is_given_back(path: Path, how: str) -> None:
    assert not shrink.room(path).is_worth_it
    assert shrink.room(path).free < 1 << 16
    if how == "a source":
        remove(path, "first")
    else:
        forget_each(path, 2)
    before, size = everything(path), path.stat().st_size
    found = shrink.room(path)
    assert found.is_worth_it
    assert found.bytes == size
    with closing(Catalog(path)) as reader, reader._read.moment() as moment:
        ask = "SELECT count(*) FROM embedding"
        there = moment.exec_driver_sql(ask).scalar_one()
        shrink.shrink(path)  # who reads goes on
        assert moment.exec_driver_sql(ask).scalar_one() == there == 2 * N
        assert reader.room().free < 1 << 16
    shrink.shrink(path)
    assert everything(path) == before
    assert path.stat().st_size < 0.75 * size
    assert [file.name for file in path.parent.glob("catalog.db*")] == ["catalog.db"]
    assert not shrink.room(path).is_worth_it
    # What comes and goes after that is told anew.
    forget_each(path, 3)
    assert shrink.room(path).free > 0


def test_how_much_was_given_back(path: Path) -> None:
    remove(path, "first")
    size = path.stat().st_size
    assert shrink.shrink(path) == size - path.stat().st_size > size // 4


def test_a_disk_without_room(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    remove(path, "first")
    before = path.read_bytes()
    needs = shrink.room(path).needs
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(0, 0, needs - 1))
    with pytest.raises(StoreError, match=r"could be given back .*: mmsearch optimize"):
        shrink.shrink(path)
    with caplog.at_level(logging.WARNING):
        shrink.shrink_if_worth_it(path)
    assert "must be free there" in caplog.text
    assert path.read_bytes() == before
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(0, 0, needs))
    shrink.shrink_if_worth_it(path)
    assert path.stat().st_size < len(before)


def test_little_is_left_for_what_comes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove(path, "first")
    monkeypatch.setattr(shrink, "WORTH_BYTES", 1 << 30)
    before = path.read_bytes()
    shrink.shrink_if_worth_it(path)
    assert path.read_bytes() == before


KILLED = """
import os, signal, sys
from pathlib import Path
from mmsearch.store import shrink

def kill(event, arguments):
    if event == "mmsearch.point" and arguments[0] == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
shrink.shrink(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("point", ["shrink: begun", "shrink: committed"])
def test_a_kill_on_the_way(path: Path, point: str) -> None:
    remove(path, "first")
    before = everything(path)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, path, point], cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert everything(path) == before
    shrink.shrink(path)
    assert everything(path) == before
    assert not shrink.room(path).is_worth_it


def test_the_folder_of_what_is_written_on_the_way(path: Path, tmp_path: Path) -> None:
    """Any name a library may have."""
    other = tmp_path / "it's a 'library'?"
    other.mkdir()
    remove(path, "first")
    shutil.copy(path, other / "catalog.db")
    assert shrink.shrink(other / "catalog.db") > 0
