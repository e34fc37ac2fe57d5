"""Indexing runs that are killed, whose disk fails, whose files are damaged: nothing is lost.

Small numbers of what `python tests/endurance/crash.py` does by the hundred.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_KILLS, _FAULTS, _FULL_DISKS, _DAMAGES = 30, 20, 3, 14


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What crash.py wrote down of a run with such numbers."""
    work = tmp_path_factory.mktemp("crash")
    numbers = {
        "--kills": _KILLS,
        "--faults": _FAULTS,
        "--full-disks": _FULL_DISKS,
        "--damages": _DAMAGES,
        "--seed": 2026,
        "--work": work,
        "--out": work / "result.json",
    }
    done = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("crash.py"),
            *(str(part) for pair in numbers.items() for part in pair),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode in (0, 1), done.stderr[-4000:]
    assert (work / "result.json").exists(), done.stderr[-4000:]
    sys.stdout.write(done.stdout)  # shown when a test fails
    found: dict[str, Any] = json.loads((work / "result.json").read_text())
    return found


def _wrong(document: dict[str, Any], kinds: set[str]) -> list[Any]:
    return [wrong for wrong in document["wrong"] if wrong["kind"] in kinds]


_KILLED = {"point", "statement", "write", "moment"}
_FAILED = {"ENOSPC", "EIO", "EDQUOT", "EROFS"}


def _tried(document: dict[str, Any], kinds: set[str]) -> dict[str, int]:
    return {row["what"]: row["tried"] for row in document["rows"] if row["what"] in kinds}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_commit_points_and_at_random(document: dict[str, Any]) -> None:
    assert _wrong(document, _KILLED) == []
    assert document["kills"] >= _KILLS
    # At a sample of the commit points: a long run kills at each of them.
    points = document["points"]
    assert len(set(points) - set(document["spared"])) >= min(len(points), 2 * _KILLS // 3)
    known = {"schema", "source", "space", "items", "container", "links", "sweep", "switch"}
    assert known <= {point.partition(":")[0] for point in points}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_writes_that_fail(document: dict[str, Any]) -> None:
    if not (tried := _tried(document, _FAILED)):
        pytest.skip(f"NOT TRIED: {document['skipped']}")
    assert _wrong(document, _FAILED) == []
    assert set(tried) == _FAILED
    assert sum(tried.values()) >= _FAULTS
    # A disk that fails is noticed, and told.
    assert document["refused"] >= _FAULTS / 4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_full_disk(document: dict[str, Any]) -> None:
    if not (tried := _tried(document, {"full disk"})):
        pytest.skip(f"NOT TRIED: {document['skipped']}")
    assert _wrong(document, set(tried)) == []
    assert sum(tried.values()) == _FULL_DISKS


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_damaged_derived_files(document: dict[str, Any]) -> None:
    others = {row["what"] for row in document["rows"]} - _KILLED - _FAILED - {"full disk"}
    assert len(others) == _DAMAGES
    assert _wrong(document, others) == []
    assert document["wrong"] == []
