"""deploy/ray/index_parts.py: what several machines index is what one run makes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from collection import encoded, found, run, write

SCRIPT = Path(__file__).parents[2] / "deploy" / "ray" / "index_parts.py"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("MMSEARCH_DEVICE", "cpu")


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("index_parts", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    for number in range(2):
        for seed in range(3):
            write(tmp_path / "photos" / str(number) / f"{seed}.png", encoded(10 * number + seed))
        write(tmp_path / "photos" / str(number) / "0.txt", f"words {number}".encode())
    return [tmp_path / "photos" / str(number) for number in range(2)]


def agree(library: Path, folders: list[Path], tmp_path: Path, model: str) -> bool:
    """Whether a library finds what one run over the folders makes."""
    whole = tmp_path / "whole"
    run(whole, *folders, model=model)
    root = folders[0].parent
    ours, theirs = (found(one, root, ["a boat", encoded(3)]) for one in (library, whole))
    # The command computes in bfloat16, and `run` does not: the scores are not quite the same.
    return [table.keys() for table in ours] == [table.keys() for table in theirs] and all(
        table[what] == pytest.approx(score, abs=0.02)
        for table, expected in zip(ours, theirs, strict=True)
        for what, score in expected.items()
    )


@pytest.mark.slow
def test_parts_are_brought_together(
    script: ModuleType, folders: list[Path], tmp_path: Path, model: str
) -> None:
    library, parts = tmp_path / "library", tmp_path / "parts"
    parts.mkdir()
    for folder in folders:
        kept = script.index_part(str(folder), parts, ["--model", model])
        script.take_in(library, kept)
    assert agree(library, folders, tmp_path, model)
    # And once more, with something new: from what is kept, whatever machine it is.
    write(folders[1] / "new.png", encoded(30))
    kept = script.part_of(str(folders[1]), parts)
    kept.rename(kept.with_name(f"{kept.name}.new"))  # as a kill leaves it; no model, so it goes on
    assert script.index_part(str(folders[1]), parts, []) == kept
    script.take_in(library, kept)
    assert agree(library, folders, tmp_path, model)
    assert {path.suffix for path in parts.iterdir()} == {".library"}


@pytest.mark.slow
def test_on_a_cluster(folders: list[Path], tmp_path: Path, model: str) -> None:
    pytest.importorskip("ray", reason="NOT TESTED: pip install ray")
    library = tmp_path / "library"
    words = ["--library", library, "--parts", tmp_path / "parts", "--model", model, "--cpus", "1"]

    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, SCRIPT, *words, *folders], capture_output=True, text=True
        )

    done = call()
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"All of it is in {library}" in done.stdout
    assert agree(library, folders, tmp_path, model)
    (folders[0] / "1.png").unlink()
    write(folders[1] / "new.png", encoded(30))
    assert call().returncode == 0
    assert agree(library, folders, tmp_path, model)
