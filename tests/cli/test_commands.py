"""The command line: where options may stand, what is printed where, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from collection import Indexed

from mmsearch.cli import COMMANDS, cli
from mmsearch.cli.table import graphics_protocol
from mmsearch.errors import LibraryNotFoundError


def run(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own, without this process's settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MMSEARCH_")}
    return subprocess.run(
        [sys.executable, "-m", "mmsearch", *args],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A library that was made and holds nothing."""
    from mmsearch.library import CATALOG_NAME
    from mmsearch.store import CatalogWriter

    folder = tmp_path / "library"
    folder.mkdir()
    CatalogWriter(folder / CATALOG_NAME).close()
    return folder


def test_alone_it_explains_the_three_lines_a_newcomer_needs() -> None:
    done = run()
    assert done.returncode == 0
    for line in ("mmsearch index ~/Photos", "mmsearch search", "mmsearch serve"):
        assert line in done.stdout


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help_with_its_library_or_reason(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: mmsearch")
    # The line in the list of commands is the first line of the command's own help.
    assert COMMANDS[command][1].rstrip(".").split()[0] in done.stdout


def test_library_may_stand_before_and_after_the_subcommand(empty: Path) -> None:
    before = run("-l", str(empty), "status", "--json")
    after = run("status", "-l", str(empty), "--json")
    variable = run("status", "--json", MMSEARCH_LIBRARY=str(empty))
    for done in (before, after, variable):
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["path"] == str(empty)


def test_status_json_has_the_promised_keys(empty: Path) -> None:
    document = json.loads(run("status", "--json", "-l", str(empty)).stdout)
    assert {"images", "texts", "failed", "spaces", "index"} <= set(document)
    assert document["images"] == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="NOT TESTED: no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("args", [["status"], ["models"]])
def test_output_that_cannot_be_written_is_one_line(
    empty: Path, args: list[str], unbuffered: str
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "mmsearch", "-l", str(empty), *args],
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    said = "mmsearch: the output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("args", ["search --all boat", "search --paths boat", "status"])
def test_closed_streams_are_done_without(postcards: Indexed, args: str) -> None:
    command = f"exec {sys.executable} -m mmsearch -l {postcards.path} {args}"
    done = subprocess.run(
        ["sh", "-c", f"{command} <&- >&-"], stderr=subprocess.PIPE, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", [[], ["--texts"]])
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--min-relevance", "0", "--min-score", "1"], "a score of 1 or more (--min-score)."),
        (["--all", "--min-score", "1"], "a score of 1 or more (--min-score)."),
        (["--min-relevance", "1", "--min-score", "1"], "--all without --min-score shows it."),
        (["--min-relevance", "1"], "--all shows it."),
        (["--all", "--offset", "5000"], "No results are left after the first 5,000 (--offset)."),
        (["--offset", "5000", "-w", "path:none"], "Nothing satisfies the condition."),
    ],
)
def test_what_to_do_where_nothing_is_found(
    postcards: Indexed, kind: list[str], args: list[str], said: str
) -> None:
    asked = ["search", "a beach", "--no-words", "--no-server", *kind, *args]
    done = CliRunner().invoke(cli, ["-l", str(postcards.path), *asked])
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.strip().endswith(said)


def test_no_library_is_one_clear_line_and_exit_code_1(tmp_path: Path) -> None:
    done = run("search", "boat", "-l", str(tmp_path / "none"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "mmsearch index FOLDER" in done.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("args", [["list"], ["revoke", "laptop"], ["add", "laptop"]])
def test_keys_of_no_library_are_no_keys(tmp_path: Path, args: list[str]) -> None:
    done = CliRunner().invoke(cli, ["keys", *args, "-l", str(tmp_path / "none")])
    assert isinstance(done.exception, LibraryNotFoundError)


@pytest.mark.parametrize("args", [["-l", "", "status"], ["status", "-l", ""]])
def test_an_empty_name_of_a_library_is_refused(args: list[str]) -> None:
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == 2
    assert "it is empty" in done.output


@pytest.mark.parametrize("args", [["backup", "q"], ["sources", "remove", "./x"]])
def test_a_current_folder_that_is_gone_is_one_line(
    empty: Path, tmp_path: Path, args: list[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = (
        "import os, sys; from mmsearch.cli import main\n"
        f"os.chdir({str(gone)!r}); os.rmdir({str(gone)!r}); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "-l", empty, *args],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith("cd elsewhere, or write whole paths")
    assert done.stderr.count("\n") == 1


def test_an_empty_library_says_so(empty: Path) -> None:
    done = run("search", "boat", "-l", str(empty))
    assert done.returncode == 1
    assert "is empty" in done.stderr


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["serach", "boat"], "did you mean 'search'?"),
        (["search"], "say what to look for"),
        (["search", "-k", "0", "boat"], "0 is not in the range"),
    ],
)
def test_a_misunderstood_command_is_exit_code_2(args: list[str], hint: str) -> None:
    done = run(*args)
    assert done.returncode == 2
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_to_index_is_a_question(tmp_path: Path) -> None:
    done = run("index", "-l", str(tmp_path / "none"))
    assert done.returncode == 2
    assert "mmsearch index ~/Photos" in done.stderr


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    done = run(
        "index", str(tmp_path / "photos"), "-l", str(tmp_path / "library"), "--model", "tiny"
    )
    assert done.returncode == 1
    assert "no such file or folder" in done.stderr


def test_a_bad_variable_is_named() -> None:
    done = run("status", MMSEARCH_PORT="eighty")
    assert done.returncode == 2
    assert "MMSEARCH_PORT" in done.stderr


def test_an_unknown_model_is_named_with_near_ones(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    library = str(tmp_path / "library")
    done = run("index", str(tmp_path / "photos"), "-l", library, "--model", "defualt")
    assert done.returncode == 1
    assert "default" in done.stderr


def test_models_json_lists_the_presets() -> None:
    found = {m["name"]: m for m in json.loads(run("models", "--json").stdout)["models"]}
    assert list(found) == ["tiny", "default", "multilingual", "accurate"]
    assert found["default"]["spec"] == "ViT-B-32/laion2b_s34b_b79k"


@pytest.mark.parametrize(
    ("environ", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM_PROGRAM": "iTerm.app", "TMUX": "/tmp/tmux"}, None),
        ({"TERM": "xterm-256color"}, None),
    ],
)
def test_terminals_that_can_show_pictures(environ: dict[str, str], protocol: str | None) -> None:
    assert graphics_protocol(environ) == protocol
