"""`mmsearch search`: what its options say together, and what is told of those that say nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from collection import Indexed

from mmsearch import filters
from mmsearch.cli import cli
from mmsearch.query import DEFAULT_THRESHOLD


def search(indexed: Indexed, *args: str) -> Result:
    return CliRunner().invoke(cli, ["search", "-l", str(indexed.path), "--no-server", *args])


def document(indexed: Indexed, *args: str) -> Any:
    done = search(indexed, "--json", "--all", "-k", "1000", *args)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_all_of_several_conditions_hold(postcards: Indexed) -> None:
    def ids(*args: str) -> set[int]:
        return {hit["id"] for hit in document(postcards, "kite", *args)["hits"]}

    first, second = "path:*1.jpg", "path:*[0-2]?.jpg or path:*0.jpg"
    together = ids("--where", first, "-w", second)
    assert together == ids("--where", first) & ids("--where", second)
    assert together < ids("--where", first)
    assert together < ids("--where", second)
    # The whole of each, not its last part.
    assert ids("--where", second, "--where", first) == together


def test_the_answer_says_all_of_the_conditions(postcards: Indexed) -> None:
    assert document(postcards, "kite")["where"] is None
    assert document(postcards, "kite", "--where", "has:gps ")["where"] == "has:gps "
    both = document(postcards, "kite", "-w", "has:gps or has:date", "-w", "path:*1.jpg")["where"]
    assert filters.parse(both) == filters.parse("(has:gps or has:date) path:*1.jpg")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--texts", "--paths"], "--paths is for pictures"),
        (["--texts", "--paths", "-0"], "--paths is for pictures"),
        (["--texts", "--open"], "--open is for pictures"),
        (["-0"], "-0 goes with --paths"),
        (["--json", "--paths"], "--paths and --json exclude"),
        (["--texts", "--thumbnails"], "--thumbnails is for pictures"),
        (["--json", "--thumbnails"], "--thumbnails and --json exclude"),
        (["--paths", "--thumbnails"], "--thumbnails and --paths exclude"),
        (["--all", "--min-relevance", "0.2"], "--all and --min-relevance exclude"),
        (["--server", "http://127.0.0.1:1"], "--server and --no-server exclude"),
        (["--key", "x"], "--key is for a service"),
        (["-i", "https://example.org/a.jpg"], "nothing is fetched"),
        (["-cat"], "write a lone minus: dog - cat"),
        (["+", "-1:dog"], "write a lone minus: dog - cat"),
        (["-w", "has:gps", "-w", "nonsense"], "not understood"),
    ],
)
def test_what_would_do_nothing_is_told(postcards: Indexed, args: list[str], says: str) -> None:
    done = search(postcards, "kite", *args)
    assert done.exit_code != 0
    assert says in f"{done.stderr} {done.exception}"
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["search", "x", "--server", "http://127.0.0.1:1", "-l", "there"], "-l/--library exclude"),
        (["search", "x", "--server", "http://127.0.0.1:1", "--device", "cpu"], "--device exclude"),
        (["captions", __file__, "--key", "x"], "--key is for a service"),
        (["duplicates", "--exact-only", "--threshold", "0.9"], "--threshold is for near-"),
        (["duplicates", "--exact-only", "--burst", "5"], "--burst is for near-"),
        (["duplicates", "--exact-only", "--check-pixels"], "--check-pixels is for near-"),
        (["duplicates", "--burst-threshold", "0.9"], "--burst-threshold goes with --burst"),
        (["optimize", "--exact", "--max-memory", "1GB"], "--max-memory is for an approximate"),
        (["optimize", "--exact", "--target-recall", "0.9"], "--target-recall is for an approx"),
        (["tags", "--json", "remove", "x"], "--json before 'remove' says nothing"),
        (["sources", "--json", "forget"], "--json before 'forget' says nothing"),
        (["spaces", "--json", "use", "x"], "--json before 'use' says nothing"),
        (["serve", "--host", ""], "it is empty"),
        (["a red kite"], "to search for it: mmsearch search 'a red kite'"),
    ],
)
def test_what_other_commands_would_pass_over_is_told(args: list[str], says: str) -> None:
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.split())


def test_a_library_that_is_named_goes_before_the_service_of_the_environment(
    postcards: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMSEARCH_SERVER", "http://127.0.0.1:9")
    asked = ["search", "kite", "--all", "--json", "-k", "3"]
    for args in (["-l", str(postcards.path), *asked], [*asked, "-l", str(postcards.path)]):
        done = CliRunner().invoke(cli, args)
        assert done.exit_code == 0, done.exception
        assert len(json.loads(done.stdout)["hits"]) == 3
    done = CliRunner().invoke(cli, asked)
    assert "does not answer" in str(done.exception)


def test_what_is_taken_for_words_though_it_names_a_picture_is_told(postcards: Indexed) -> None:
    picture = document(postcards, "kite")["hits"][0]["path"]
    done = search(postcards, picture, "--all")
    assert f"taken for words; -i {picture} searches by that picture" in done.stderr
    assert done.stdout.split()[0] == "relevance"
    assert "Nothing is fetched" in search(postcards, "https://example.org/a.jpg").stderr
    assert search(postcards, "--all", "kite").stderr == ""


def test_the_library_may_stand_after_a_group(postcards: Indexed) -> None:
    done = CliRunner().invoke(cli, ["keys", "-l", str(postcards.path), "list"])
    assert (done.exit_code, "There are no keys" in done.stderr) == (0, True)


def test_words_to_avoid_make_no_search_for_words(postcards: Indexed) -> None:
    def least(*args: str) -> float:
        done = search(postcards, "--json", *args)
        assert done.exit_code == 0, done.stderr
        return float(json.loads(done.stdout)["min_relevance"])

    assert least("--like", "1") == least("--like", "1", "-", "a kite") == 0
    assert least("--like", "1", "+", "a kite") == least("a kite", "-", "sea") == DEFAULT_THRESHOLD


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["kite", "-w", "nonsense"], 2),
        (["kite", "-w", "taken:2019-13"], 2),
        (["kite", "--texts", "-w", "taken:2019"], 2),
        (["--like", "seven"], 2),
        (["--like", "0:3"], 2),
        (["-i", "0:README.md"], 2),
        (["-i", ""], 2),
        (["kite", "+"], 2),
        (["-", "kite"], 2),
        (["--unlike", "3"], 2),
        (["--min-score", "nan", "kite"], 2),
        (["--sort", "taken", "kite"], 2),
        (["-i", "not/there.jpg"], 1),
        (["-i", "."], 1),
        (["--like", "999999"], 1),
        (["kite", "-w", "source:elsewhere"], 1),
    ],
)
def test_what_is_typed_wrongly_and_what_cannot_be_done(
    postcards: Indexed, monkeypatch: pytest.MonkeyPatch, args: list[str], code: int
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    done = search(postcards, *args)
    assert getattr(done.exception, "exit_code", done.exit_code) == code, done.exception
    assert done.stdout == ""


@pytest.mark.parametrize(
    "args",
    [
        ["captions", "not/there.jpg"],
        ["tags", "show", "not/there.jpg"],
        ["tags", "add", "x", __file__],
        ["import", __file__, "--images", "not/there"],
    ],
)
def test_a_file_that_is_not_there_was_understood(postcards: Indexed, args: list[str]) -> None:
    done = CliRunner().invoke(cli, ["-l", str(postcards.path), *args])
    assert getattr(done.exception, "exit_code", None) == 1, done.output
