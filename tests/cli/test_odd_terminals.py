"""The terminal in odd conditions: readers that leave, old locales, names that would speak to it."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from collection import Indexed, encoded, write
from rich.console import Console

from indexer import cli_progress
from mmsearch.cli import cli
from mmsearch.encode.presets import PRESETS
from mmsearch.plaintext import both_counted, counted, in_utf8, printable
from mmsearch.serve import logs

pty = pytest.importorskip("pty", reason="NOT TESTED: no pseudo-terminals here")


def in_terminal(*args: str, columns: int = 80, **environment: str) -> str:
    """What the real command writes to a terminal."""
    ours, its = pty.openpty()
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MMSEARCH_")}
    with subprocess.Popen(
        [sys.executable, "-m", "mmsearch", *args],
        env=kept | {"TERM": "xterm", "COLUMNS": str(columns)} | environment,
        stdin=its,
        stdout=its,
        stderr=its,
    ) as process:
        os.close(its)
        written = b""
        while True:
            try:
                got = os.read(ours, 65536)
            except OSError:
                break
            if not got:
                break
            written += got
        os.close(ours)
        process.wait(120)
    return written.decode()


@pytest.mark.parametrize(
    "args", [["--help"], ["search", "--help"], ["search", "--all", "boat"], ["status", "--json"]]
)
def test_a_reader_that_leaves_is_no_failure(postcards: Indexed, args: list[str]) -> None:
    ours, its = os.pipe()
    os.close(ours)
    with os.fdopen(its, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "mmsearch", "-l", str(postcards.path), *args],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_name_in_a_usage_error_does_not_speak_to_the_terminal(
    postcards: Indexed, tmp_path: Path
) -> None:
    name = write(tmp_path / "a\x1b[32m\x1b]0;title\x07.png", encoded(1))
    said = in_terminal("tags", "add", "-l", str(postcards.path), "boat", str(name))
    assert "is not in the library" in said
    assert "\x1b" not in said
    assert "\x07" not in said


def test_a_dumb_terminal_gets_no_sequences(postcards: Indexed) -> None:
    asked = ["search", "-l", str(postcards.path), "--no-server", "--all", "boat"]
    assert "\x1b" not in in_terminal(*asked, TERM="dumb")
    head = in_terminal(*asked).splitlines()[0]
    assert "\x1b[1mrelevance\x1b[0m" in head  # bold, and not taken back at once


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_models_are_told_whole_in_any_terminal(columns: int) -> None:
    said = re.sub(r"\x1b\[[0-9;]*m", "", in_terminal("models", columns=columns))
    *lines, _ = (line.rstrip() for line in said.splitlines())
    assert max(map(len, lines)) <= columns
    whole = "".join("".join(lines).split())
    for preset in PRESETS.values():
        for part in (preset.name, preset.spec, preset.use, preset.licence, preset.languages):
            assert part.replace(" ", "") in whole


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii"])
def test_an_encoding_that_lacks_letters_ends_nothing(tmp_path: Path, encoding: str) -> None:
    write(tmp_path / "photos" / "画面.png", encoded(1))
    library = str(tmp_path / "library")
    CliRunner().invoke(cli, ["index", "-l", library, str(tmp_path / "photos"), "--model", "tiny"])

    def run(*args: str) -> bytes:
        done = subprocess.run(
            [sys.executable, "-m", "mmsearch", "-l", library, *args],
            env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert b".png" in run("search", "--all", "--no-server", "boat")
    found = json.loads(run("search", "--all", "--no-server", "--json", "画面"))
    assert [hit["name"] for hit in found["hits"]] == ["画面.png"]
    run("watch", "--help")


@pytest.mark.parametrize("name", ["~nobody-of-this-name/library", "~nobody-of-this-name"])
def test_a_home_that_nobody_has_is_no_traceback(name: str) -> None:
    done = CliRunner().invoke(cli, ["-l", name, "status"])
    assert f"there is no library at {name}" in str(done.exception)


@pytest.mark.parametrize("folder", ["photos[/2019]", "[red]", "[/]"])
def test_brackets_in_the_name_of_a_folder_are_no_markup(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=160)
    monkeypatch.setattr(cli_progress, "Console", lambda **_: console)
    with cli_progress.Bar() as bar:
        bar.scanning(f"/home/you/{folder}", 3)
        bar._progress.refresh()
    assert f"scanning /home/you/{folder}" in shown.getvalue()


def test_what_is_printable() -> None:
    assert printable("a\x1b[31m\nb\x9b\udcff\u202egpj.\u202d") == "a�[31m�b���gpj.�"
    # Marks that carry meaning stay.
    assert printable("שלום\u200f \u200d") == "שלום\u200f \u200d"
    assert in_utf8("\ud800\udcff\udce2\udc82") == "���"  # no byte; one; the beginning of a letter


def test_no_client_writes_lines_into_the_log() -> None:
    stream = io.StringIO()
    before, level = list(logging.getLogger().handlers), logs.access.level
    try:
        logs.configure("text", stream)
        log = logging.getLogger("mmsearch.test")
        log.warning("GET %s refused", "/\x1b[31mred\nINFO: forged")
        try:
            raise ValueError("in \x1b[31m\rred")
        except ValueError:
            log.exception("failed")
    finally:
        logging.getLogger().handlers[:] = before
        logs.access.setLevel(level)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "WARNING: GET /�[31mred�INFO: forged refused"
    assert lines[1:3] == ["ERROR: failed", "Traceback (most recent call last):"]
    assert not {"\x1b", "\r"} & set(stream.getvalue())


def test_one_is_not_many() -> None:
    assert [counted(n, "picture") for n in (0, 1, 2, 1_200)] == [
        "0 pictures",
        "1 picture",
        "2 pictures",
        "1,200 pictures",
    ]
    assert [counted(n, "query", "queries") for n in (1, 2)] == ["1 query", "2 queries"]
    assert both_counted(1, 2) == "1 picture, 2 texts"
