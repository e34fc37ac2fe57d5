"""`mmsearch sources` and `mmsearch spaces`: what they print and ask, and how they end."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from collection import encoded, run, write


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model: str, other_model: str) -> Path:
    """A library with two sources and two spaces. Not to be written to."""
    root = tmp_path_factory.mktemp("made")
    for n in range(3):
        write(root / "Photos" / f"{n}.png", encoded(n))
    write(root / "more" / "5.png", encoded(5))
    run(root / "library", root / "Photos", root / "more", model=model)
    run(root / "library", model=other_model)
    return root / "library"


@pytest.fixture
def library(made: Path, tmp_path: Path) -> Path:
    """A copy of it to write to."""
    return Path(shutil.copytree(made, tmp_path / "library"))


def mmsearch(
    library: Path, *args: str | Path, answer: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mmsearch", "-l", library, *args],
        input=answer,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_source_that_no_run_has_ended_for_is_not_called_read(library: Path) -> None:
    with closing(sqlite3.connect(library / "catalog.db")) as db:
        db.execute("UPDATE source SET indexed_at = NULL")
        db.commit()
    for line in mmsearch(library, "sources").stdout.splitlines():
        assert line.endswith("0 texts, not read to its end yet")


def test_sources_are_listed_with_their_names(made: Path) -> None:
    done = mmsearch(made, "sources")
    assert done.returncode == 0
    first, second = done.stdout.splitlines()
    assert first.startswith(f"Photos  {made.parent}/Photos  3 pictures, 0 texts, read ")
    assert second.startswith(f"more    {made.parent}/more  1 picture, 0 texts")
    for args in (["sources", "--json"], ["sources", "--json", "-l", str(made)]):
        listed = json.loads(mmsearch(made, *args).stdout)["sources"]
        assert [s["name"] for s in listed] == ["Photos", "more"]
        assert all(datetime.fromisoformat(s["indexed_at"]).tzinfo for s in listed)


def test_spaces_are_listed(made: Path, model: str, other_model: str) -> None:
    old, new = mmsearch(made, "spaces").stdout.splitlines()
    assert old.startswith(f"  {model}")
    assert new.startswith(f"* {other_model}")
    assert "4 pictures, 0 texts, 32 dimensions" in new
    listed = json.loads(mmsearch(made, "spaces", "--json").stdout)["spaces"]
    assert [(s["name"], s["active"], s["images"], s["dim"]) for s in listed] == [
        (model, False, 4, 48),
        (other_model, True, 4, 32),
    ]
    assert new.endswith(listed[1]["fingerprint"][:12])
    assert listed[0]["bytes"] >= 4 * 48 * 2


def test_lists_need_neither_model_nor_index(made: Path) -> None:
    probe = (
        "import sys, runpy\nsys.argv[0] = 'mmsearch'\n"
        "try: runpy.run_module('mmsearch', run_name='__main__')\n"
        "finally: print(sorted({'torch', 'faiss', 'open_clip', 'alembic'} & "
        "set(sys.modules)), file=sys.stderr)"
    )
    for command in ("sources", "spaces"):
        done = subprocess.run(
            [sys.executable, "-c", probe, "-l", made, command],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        assert done.stderr.splitlines()[-1] == "[]"


def test_an_empty_library_says_what_to_do(tmp_path: Path) -> None:
    from mmsearch.store import CatalogWriter

    CatalogWriter(tmp_path / "catalog.db").close()
    for command in ("sources", "spaces"):
        done = mmsearch(tmp_path, command)
        assert (done.returncode, done.stdout) == (0, "")
        assert "mmsearch index FOLDER" in done.stderr


def test_a_removal_asks_first(library: Path) -> None:
    for answer, code, hint in (("n\n", 1, "Nothing was changed"), ("", 2, "--yes goes on")):
        done = mmsearch(library, "sources", "remove", "more", answer=answer)
        assert (done.returncode, done.stdout) == (code, "")
        assert "leaves the library: 1 picture, 0 texts; forgotten for good, as " in done.stderr
        assert hint in done.stderr
        assert "Traceback" not in done.stderr
    assert len(mmsearch(library, "sources").stdout.splitlines()) == 2
    done = mmsearch(library, "sources", "remove", "more", answer="y\n")
    assert done.returncode == 0
    assert done.stdout.startswith("Removed: 1 picture, 0 texts; forgotten for good, ")
    assert len(mmsearch(library, "sources").stdout.splitlines()) == 1
    done = mmsearch(library, "sources", "remove", "--yes", library.parent / "none")
    assert done.returncode == 1
    assert "It has: 'Photos'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_forgetting_asks_first(library: Path) -> None:
    done = mmsearch(library, "sources", "forget")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "Nothing is gone.\n")
    with closing(sqlite3.connect(library / "catalog.db")) as connection:
        connection.execute("UPDATE image SET missing_since = '2026-01-01 00:00:00.000000' "
                           "WHERE path = '5.png'")  # fmt: skip
        connection.commit()
    done = mmsearch(library, "sources", "forget", "more", answer="y\n")
    assert done.returncode == 0
    assert "Gone: 1 picture, 0 texts;" in done.stderr
    assert done.stdout.startswith("Forgotten: 1 picture, 0 texts; for good, ")
    done = mmsearch(library, "sources", "forget", "--yes")
    assert done.stdout.startswith("Forgotten: 0 pictures")


def test_rename_and_relocate_say_what_they_did(library: Path, made: Path, tmp_path: Path) -> None:
    done = mmsearch(library, "sources", "rename", "Photos", "My photos")
    assert done.stdout == f"{made.parent}/Photos is called 'My photos' now.\n"
    new = tmp_path / "new"
    new.mkdir()
    done = mmsearch(library, "sources", "relocate", "My photos", new)
    assert done.returncode == 1
    assert "--force" in done.stderr
    done = mmsearch(library, "sources", "relocate", "My photos", new, "--force")
    assert "(0 of 3 known files" in done.stdout
    assert "warning: nothing known was found" in done.stderr
    for n in range(3):
        old = made.parent / "Photos" / f"{n}.png"
        os.utime(write(new / old.name, old.read_bytes()), ns=(1, old.stat().st_mtime_ns))
    done = mmsearch(library, "index")
    assert done.stdout.startswith("Nothing new: 4 pictures"), done.stderr


def test_what_a_file_is_called_does_not_speak_to_the_terminal(made: Path, tmp_path: Path) -> None:
    done = mmsearch(made, "sources", "relocate", "Photos", tmp_path / "red\x1b[31m\nand more")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


def test_nobody_to_ask_is_told_on_a_line_of_its_own(made: Path) -> None:
    done = mmsearch(made, "sources", "remove", "more")
    assert done.returncode == 2
    assert "Go on? [y/N]: \n" in done.stderr


def test_the_lists_of_subcommands_are_whole(made: Path) -> None:
    for group in ("sources", "spaces"):
        listed = mmsearch(made, group, "--help").stdout.partition("Commands:")[2]
        assert "..." not in listed


def test_status_names_the_model_of_searches_first(
    made: Path,
) -> None:
    lines = mmsearch(made, "status").stdout.splitlines()
    models = [line.split()[0] for line in lines if "model:" in line]
    assert models == ["model:", "other"]


def test_spaces_are_switched_and_dropped(library: Path, model: str, other_model: str) -> None:
    done = mmsearch(library, "spaces", "drop", "--yes", other_model)
    assert done.returncode == 1
    assert "Switch to another space first" in done.stderr
    done = mmsearch(library, "spaces", "use", model)
    assert done.stdout.startswith(f"Searches use {model} (")
    done = mmsearch(library, "spaces", "drop", other_model, answer="n\n")
    assert done.returncode == 1
    assert "MB, are deleted." in done.stderr
    done = mmsearch(library, "spaces", "drop", other_model, answer="y\n")
    assert done.stdout.startswith(f"Dropped {other_model} (")
    assert len(mmsearch(library, "spaces").stdout.splitlines()) == 1


def test_a_switch_by_indexing_tells_how_to_drop_the_old_one(
    library: Path, model: str, other_model: str
) -> None:
    done = mmsearch(library, "index", "--model", model, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert f"Searches use {model} now. The vectors of {other_model} are kept" in done.stdout
    assert f"mmsearch spaces drop {other_model}" in done.stdout
    assert "are kept" not in mmsearch(library, "index").stdout
