"""The fuzzer on a fixed corpus; the long run is `python tests/endurance/fuzz.py`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import fuzz
import pytest
from fuzz_mutations import mutated, parts_of
from fuzz_seeds import seeds

from mmsearch.errors import DecodeError

SCRIPT = Path(__file__).with_name("fuzz.py")
INPUTS = 4000


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("fuzz") / "result.json"
    command = [sys.executable, SCRIPT, "--inputs", str(INPUTS), "--seed", "7", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_every_input_is_read_or_refused(result: dict[str, Any]) -> None:
    assert result["inputs"] == INPUTS
    assert result["findings"] == []


def test_the_corpus_reaches_behind_the_first_check(result: dict[str, Any]) -> None:
    """Of every kind some are fine in spite of the damage, and of most some are not."""
    counts = result["counts"]
    assert set(counts) == set(seeds())
    assert [kind for kind in counts if counts[kind]["fine"] == 0] == []
    tolerant = {"exif", "xmp", "iptc", "mmsearchignore"}  # what is broken there is left out
    assert {kind for kind in counts if counts[kind]["refused"] == 0} == tolerant


@pytest.mark.parametrize("kind", sorted(seeds()))
def test_undamaged_files_are_fine(kind: str, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    for data in seeds()[kind]:
        assert b"".join(parts_of(data, kind)) == data
        if kind in ("exif", "xmp", "iptc"):
            continue  # blocks, put into pictures that are made of them below
        try:
            refused = fuzz.read(kind, data, tmp_path)
        except DecodeError as exc:
            refused = exc.reason
        assert not refused or kind in ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "jsonl")


def test_an_input_is_known_by_its_number() -> None:
    kinds = sorted(seeds())
    made = [fuzz.make(1, number, kinds) for number in range(60)]
    assert made == [fuzz.make(1, number, kinds) for number in range(60)]
    assert len({data for _, data in made}) > 50
    assert len(Counter(kind for kind, _ in made)) > 10


def test_damage_is_damage() -> None:
    for kind, files in seeds().items():
        changed = [mutated(kind, random.Random(n)) not in files for n in range(20)]
        assert sum(changed) > 10, kind


def outcomes(what: dict[int, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the fuzzer says of readers that do as told for these numbers."""

    def read(kind: str, data: bytes, folder: Path) -> str:
        return what[int(data)]() or "" if data.isdigit() else ""

    monkeypatch.setattr(fuzz, "read", read)
    monkeypatch.setattr(fuzz, "make", lambda seed, n, kinds: ("txt", str(n).encode()))
    totals = fuzz.fuzz(
        sorted(what), 1, ["txt"], workers=1, input_seconds=8, memory_mb=100, until=float("inf")
    )
    found = {outcome.number: outcome.what for outcome in totals.findings}
    assert sum(totals.counts.values()) == len(what)
    return [found.get(number, "good") for number in sorted(what)]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of a process with threads
def test_the_fuzzer_sees_what_it_is_there_to_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")

    def raises() -> str:
        raise KeyError("x")

    def takes_memory() -> None:
        bytearray(b"x" * (200 << 20))

    what = {
        1: lambda: "a reason",
        2: raises,
        3: lambda: os.kill(os.getpid(), signal.SIGKILL),
        4: threading.Event().wait,
        5: takes_memory,
        6: secret.read_text,
        7: secret.unlink,
        8: lambda: None,
    }
    assert outcomes(what, tmp_path, monkeypatch) == [
        "good", "error", "crash", "hang", "memory", "escape", "escape", "good"
    ]  # fmt: skip
