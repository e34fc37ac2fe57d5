"""What `mmsearch index` tells while it runs: lines, a bar, and where the time went."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from collection import encoded, write
from rich.console import Console

from indexer import cli_progress
from indexer.clock import STAGES
from mmsearch.cli import cli


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for n in range(40):
        write(tmp_path / "photos" / f"{n:02}.png", encoded(n))
    write(tmp_path / "photos" / "broken.jpg", b"\xff\xd8\xff no picture")
    return tmp_path / "photos"


def index(library: Path, *arguments: str | Path) -> Result:
    command = ["index", "-l", library, "--device", "cpu", *arguments]
    return CliRunner().invoke(cli, [str(part) for part in command])


def test_profile_is_a_table_on_stderr_and_a_trace(tmp_path: Path, photos: Path, model: str) -> None:
    trace, library = tmp_path / "trace.json", tmp_path / "library"
    done = index(library, photos, "--model", model, "--json", "--profile", trace)
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)  # one document, and nothing else
    assert (report["encoded_images"], report["failed"]) == (40, 1)
    rows = {line[:16].strip(): line[16:].split() for line in done.stderr.splitlines()}
    for stage in set(STAGES) - {"wait for writes"}:
        assert float(rows[stage][0]) >= 0, stage
    assert rows["read"][2] == rows["decode"][2] == "41"
    assert rows["resize"][2] == "40"
    assert float(rows["scan"][0]) + float(rows["write"][0]) <= report["seconds"]
    assert "the bottleneck is" in done.stderr
    assert f"trace: {trace}" in done.stderr
    events = json.loads(trace.read_text())
    of_one = [e["name"] for e in events if e.get("args") == {"item": "07.png"}]
    assert of_one == ["read", "hash", "look up", "decode", "resize"]
    threads = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    used = {(e["name"], threads[e["tid"]]) for e in events if e["ph"] == "X"}
    assert {("write", "MainThread"), ("encode", "model"), ("decode", "decode")} <= used
    # Again: nothing is encoded, and the table says so by what is not in it.
    again = index(library, photos, "--profile", trace)
    assert again.exit_code == 0
    assert "scan" in again.stderr
    assert "encode" not in again.stderr
    assert "the bottleneck" not in again.stderr
    assert {e["name"] for e in json.loads(trace.read_text())} <= {
        "thread_name", "scan", "link", "index",
    }  # fmt: skip


def test_profile_needs_no_name(
    tmp_path: Path, photos: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert index(tmp_path / "library", photos, "--model", model, "--profile").exit_code == 0
    assert json.loads((tmp_path / "mmsearch-trace.json").read_text())


def test_without_profile_there_is_neither(
    tmp_path: Path, photos: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = index(tmp_path / "library", photos, "--model", model)
    assert done.exit_code == 0
    assert done.stderr == ""
    assert not list(tmp_path.glob("*.json"))


def test_profile_writes_over_no_picture(tmp_path: Path, photos: Path) -> None:
    before = (photos / "00.png").read_bytes()
    for wrong in (photos / "00.png", photos):
        done = index(tmp_path / "library", "--profile", wrong, photos)
        assert done.exit_code == 2
        assert "ends in .json" in done.stderr
    assert (photos / "00.png").read_bytes() == before
    done = index(tmp_path / "library", photos, "--profile", tmp_path / "not there" / "trace.json")
    assert done.exit_code == 2
    assert "cannot be written" in done.stderr


def test_lines_tell_rate_skipped_and_bottleneck(tmp_path: Path, photos: Path, model: str) -> None:
    done = index(tmp_path / "library", photos, "--model", model, "--progress", "json", "--json")
    assert done.exit_code == 0, done.stderr
    steps = [json.loads(line) for line in done.stderr.splitlines()]
    advanced = [step for step in steps if step["event"] == "advanced"]
    assert advanced[-1]["done"] == 41
    assert advanced[-1]["skipped"] == 1
    assert advanced[-1]["a_second"] > 0
    assert {step["bottleneck"] for step in advanced} <= {*STAGES}
    assert next(s for s in steps if s["event"] == "started") == {
        "event": "started", "what": "images", "total": 41,
    }  # fmt: skip


def test_the_bar_tells_what_the_limit_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=160)
    monkeypatch.setattr(cli_progress, "Console", lambda **_: console)
    with cli_progress.Bar() as bar:
        bar.started("images", 100)
        bar.limited(3, "decode")
        bar.advanced(40)
    assert "40/100" in shown.getvalue()
    assert "3 skipped, decoding is the limit" in shown.getvalue()
