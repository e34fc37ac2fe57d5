"""`mmsearch search`: what its options say together, and what is told of those that say nothing."""

from __future__ import annotations

import json
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
        (["-w", "has:gps", "-w", "nonsense"], "not understood"),
    ],
)
def test_what_would_do_nothing_is_told(postcards: Indexed, args: list[str], says: str) -> None:
    done = search(postcards, "kite", *args)
    assert done.exit_code != 0
    assert says in f"{done.stderr} {done.exception}"
    assert done.stdout == ""


def test_words_to_avoid_make_no_search_for_words(postcards: Indexed) -> None:
    def least(*args: str) -> float:
        done = search(postcards, "--json", *args)
        assert done.exit_code == 0, done.stderr
        return float(json.loads(done.stdout)["min_relevance"])

    assert least("--like", "1") == least("--like", "1", "-", "a kite") == 0
    assert least("--like", "1", "+", "a kite") == least("a kite", "-", "sea") == DEFAULT_THRESHOLD
