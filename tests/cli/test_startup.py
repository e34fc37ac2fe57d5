"""What a command imports decides how fast it starts: heavy libraries only where they are needed."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from collection import Indexed, encoded, run, write

#: Runs the command line, then tells on the last line of stderr which of these were imported.
PROBE = """
import json, sys
from mmsearch.cli import main
code = 0
try:
    main()
except SystemExit as exc:
    code = exc.code or 0
heavy = sys.argv[0].split(",")
print(json.dumps([code, sorted(set(heavy) & set(sys.modules))]), file=sys.stderr)
"""
HEAVY = (
    "torch,open_clip,transformers,faiss,sqlalchemy,alembic,fastapi,starlette,uvicorn,PIL,pyarrow,"
    "pydantic,ftfy,http.client,numpy.ma,filelock"
)


def imported(*arguments: str | Path) -> set[str]:
    """The heavy libraries that a command imported; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv[0] = {HEAVY!r}\n{PROBE}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    code, found = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return set(found)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], [], ["search", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert imported(*arguments) == set()


def test_status_and_sources_need_only_the_catalog(postcards: Indexed) -> None:
    for command in (["status"], ["status", "--json"], ["status", "--failed"], ["sources"]):
        heavy = imported("-l", postcards.path, *command)
        assert heavy.isdisjoint({"torch", "open_clip", "faiss", "fastapi", "alembic", "pyarrow"})


def test_models_needs_no_torch() -> None:
    assert imported("models").isdisjoint({"torch", "open_clip", "faiss", "sqlalchemy"})


def test_an_index_run_ends_without_a_word_of_the_libraries(tmp_path: Path, model: str) -> None:
    write(tmp_path / "photos" / "a.png", encoded(1))
    command = ["index", "-l", tmp_path / "library", tmp_path / "photos", "--model", model]
    done = subprocess.run(
        [sys.executable, "-m", "mmsearch", *command], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    assert "leak" not in done.stdout + done.stderr


def test_second_index_run_needs_no_torch(postcards: Indexed) -> None:
    heavy = imported("-l", postcards.path, "index", postcards.pictures)
    assert heavy.isdisjoint({"torch", "open_clip", "faiss", "fastapi", "alembic"})


def test_terminal_search_needs_no_torch(postcards: Indexed) -> None:
    heavy = imported("-l", postcards.path, "search", "two red balloons over a beach")
    assert heavy.isdisjoint({"torch", "open_clip", "transformers", "fastapi", "alembic"})
    # Less heavy, but each a twentieth of what such a search takes.
    assert heavy.isdisjoint({"pydantic", "ftfy", "http.client", "numpy.ma"})
    assert "faiss" in heavy


def test_search_by_a_known_picture_needs_no_torch(postcards: Indexed) -> None:
    picture = next(postcards.pictures.glob("*.jpg"))
    assert "torch" not in imported("-l", postcards.path, "search", "-i", picture)
    assert "torch" not in imported("-l", postcards.path, "captions", picture)


#: The real command; when the first batch is committed, it gets what Ctrl-C sends.
INTERRUPTED = """
import os, signal
import indexer.cli
from mmsearch.cli import main

class Bar(indexer.cli.Bar):
    def advanced(self, done):
        super().advanced(done)
        os.kill(os.getpid(), signal.SIGINT)

indexer.cli.Bar = Bar
main()
"""


def test_ctrl_c_keeps_what_is_committed(tmp_path: Path, model: str) -> None:
    photos, library = tmp_path / "photos", tmp_path / "library"
    for n in range(1000):
        write(photos / f"{n}.png", encoded(n))
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "index", "-l", library, photos, "--model", model],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 130, done.stderr
    assert "Stopped" in done.stdout
    assert "Traceback" not in done.stderr
    with closing(sqlite3.connect(library / "catalog.db")) as connection:
        kept = connection.execute("SELECT count(*) FROM embedding").fetchone()[0]
    assert 0 < kept < 1000
    assert not (library / "writer.pid").exists()
    report = run(library)
    assert (report.encoded_images, report.files) == (1000 - kept, 1000)


@pytest.mark.parametrize("module", ["click", "mmsearch.errors", "mmsearch.cli.status"])
def test_ctrl_c_while_modules_are_imported(module: str) -> None:
    code = f"""
import os, signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from mmsearch.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "status"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.strip()) == (130, "stopped")


def test_ctrl_c_before_anything_was_done() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    driver = f"import mmsearch.cli as c\nc.cli.callback = lambda **_: exec({code!r})\nc.main()"
    done = subprocess.run(
        [sys.executable, "-c", driver], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.strip()) == (130, "stopped")
