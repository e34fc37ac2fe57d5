"""`mmsearch classify` and `mmsearch tags`: what they read, print and write."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from collection import encoded, run, write, write_captions

from indexer.classify import Truth
from mmsearch.cli import cli
from mmsearch.library import Library

LABELS = ("--label", "cat", "--label", "dog", "--label", "tree")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model: str) -> Path:
    """A library of four pictures, and files that are not in it. Not to be written to."""
    root = tmp_path_factory.mktemp("classify")
    for n in range(4):
        write(root / "Photos" / f"{n}.png", encoded(n))
    write_captions(root / "Photos" / "captions.jsonl", [("0.png", "a cat"), (None, "a tree")])
    for kind, n in (("cat", 10), ("cat", 11), ("dog", 12), ("bird", 13)):
        write(root / "sorted" / kind / f"{n}.png", encoded(n))
    write(root / "sorted" / "dog" / "broken.png", b"no picture")
    with zipfile.ZipFile(root / "sorted" / "dog" / "more.zip", "w") as archive:
        archive.writestr("in.png", encoded(20))
    run(root / "library", root / "Photos", model=model)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """The same with a copy of the library to write to."""
    shutil.copytree(made / "library", tmp_path / "library")
    for name in ("Photos", "sorted"):
        (tmp_path / name).symlink_to(made / name)
    return tmp_path


def mmsearch(root: Path, *args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mmsearch", "-l", root / "library", *args],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=root,
    )


def document(root: Path, *args: str | Path) -> Any:
    done = mmsearch(root, "classify", "--json", *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_files_and_the_library_give_the_same(made: Path) -> None:
    of_files = document(made, *LABELS, made / "Photos", "--top", "3")
    of_library = document(made, *LABELS, "--all", "--top", "3")
    assert len(of_files["items"]) == 4
    assert of_files["items"] == of_library["items"]
    for item in of_files["items"]:
        assert item["id"] is not None
        assert sum(label["probability"] for label in item["labels"]) == pytest.approx(1, abs=1e-5)


def test_what_is_not_indexed_is_encoded_and_what_is_broken_told(made: Path, model: str) -> None:
    found = document(made, *LABELS, made / "sorted")
    names = {Path(item["item"]).name for item in found["items"]}
    assert names == {"10.png", "11.png", "12.png", "13.png", "in.png"}
    assert all(item["id"] is None for item in found["items"])
    assert [Path(f["item"]).name for f in found["failed"]] == ["broken.png"]
    # Without a library, with the model named, it is the same.
    alone = mmsearch(
        made, "-l", made / "none", "classify", *LABELS, "--model", model, "--json", made / "sorted"
    )
    assert alone.returncode == 0, alone.stderr
    assert json.loads(alone.stdout)["items"] == found["items"]
    assert not (made / "none").exists()


def test_one_file_filters_and_texts(made: Path) -> None:
    one = document(made, *LABELS, made / "Photos" / "2.png")
    whole = document(made, *LABELS, "--all")
    assert one["items"] == [i for i in whole["items"] if i["item"].endswith("/2.png")]
    part = document(made, *LABELS, "--where", "path:*2.png")
    assert [Path(item["item"]).name for item in part["items"]] == ["2.png"]
    both = document(made, *LABELS, "--where", "path:*[12].png", "--where", "not path:*2.png")
    assert [Path(item["item"]).name for item in both["items"]] == ["1.png"]
    write(made / "lines.txt", b"a cat\na tree\n")
    texts = document(made, *LABELS, "--texts", made / "lines.txt", "--templates", "none")
    assert [item["item"] for item in texts["items"]] == ["a cat", "a tree"]
    stored = document(made, *LABELS, "--all-texts", "--templates", "none")
    assert {i["item"]: i["labels"][0]["label"] for i in stored["items"]} == {
        i["item"]: i["labels"][0]["label"] for i in texts["items"]
    }


@pytest.mark.parametrize("what", ["Photos", "--all-texts", "--texts=Photos/captions.jsonl"])
def test_a_condition_is_for_the_pictures_of_the_library(made: Path, what: str) -> None:
    done = mmsearch(made, "classify", *LABELS, "--where", "path:*2.png", what)
    assert done.returncode == 2
    assert "--where goes with --all only" in done.stderr


def test_truth_of_where_one_is_and_by_paths_as_find_writes_them(
    made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(made / "sorted" / "cat")
    folders = Truth.read("folders")
    assert [folders.of(name) for name in ("10.png", "../dog/more.zip!/a/in.png")] == ["cat", "dog"]
    assert folders.of("a text of no file " * 300) is None
    table = write(tmp_path / "truth.csv", b"./cat/10.png,Cat\n.//cat/11.png,cat\n")
    shutil.copytree(made / "sorted" / "cat", tmp_path / "cat")
    found = document(made, *LABELS, "--truth", str(table), tmp_path / "cat")
    assert found["assessment"]["items"] == 2


def test_truth_by_folders_and_by_table(made: Path, tmp_path: Path) -> None:
    by_folder = document(made, *LABELS, "--truth", "folders", made / "sorted")
    truth = {Path(i["item"]).name: i["truth"] for i in by_folder["items"]}
    assert truth == {
        "10.png": "cat", "11.png": "cat", "12.png": "dog", "13.png": "bird", "in.png": "dog",
    }  # fmt: skip
    said = {Path(i["item"]).name: i["labels"][0]["label"] for i in by_folder["items"]}
    right = sum(said[name] == label for name, label in truth.items() if label != "bird")
    figures = by_folder["assessment"]
    assert (figures["items"], figures["unknown"]) == (4, 1)
    assert figures["accuracy"] == right / 4
    assert figures["top5"] == 1
    assert sum(pair["items"] for pair in figures["confusion"]) == 4
    table = tmp_path / "truth.csv"
    table.write_text("path,label\n" + "".join(f"{n},{label}\n" for n, label in truth.items()))
    by_table = document(made, *LABELS, "--truth", str(table), made / "sorted")
    # A member of an archive is named with it.
    assert by_table["assessment"]["items"] == 4
    people = mmsearch(made, "classify", *LABELS, "--truth", "folders", made / "sorted")
    assert f"accuracy  {right / 4:7.1%}   of 4 with a known truth" in people.stdout
    assert "broken.png" in people.stderr


def test_csv_has_a_row_for_each_label(made: Path) -> None:
    done = mmsearch(made, "classify", *LABELS, "--all", "--top", "2", "--csv")
    rows = list(csv.reader(io.StringIO(done.stdout)))
    assert rows[0] == ["item", "rank", "label", "probability", "score"]
    assert len(rows) == 1 + 4 * 2
    assert [row[1] for row in rows[1:]] == ["1", "2"] * 4


def test_tags_are_written_listed_and_taken_off(root: Path) -> None:
    done = mmsearch(root, "classify", *LABELS, "--all", "--write-tags", "--min-probability", "0")
    assert done.returncode == 0, done.stderr
    assert "4 tags written, on 4 items" in done.stderr
    found = document(root, *LABELS, "--all")
    with Library(root / "library", device="cpu") as library:
        tags = library.catalog.tags([item["id"] for item in found["items"]])
    for item in found["items"]:
        ((name, score),) = tags[item["id"]]
        assert name == item["labels"][0]["label"]
        assert score == pytest.approx(item["labels"][0]["probability"], abs=1e-5)
    listed = json.loads(mmsearch(root, "tags", "--json").stdout)["tags"]
    assert sum(tag["pictures"] for tag in listed) == 4
    picture = root / "Photos" / "1.png"
    added = mmsearch(root, "tags", "add", "my own", picture)
    assert added.stdout == "1 picture is tagged 'my own' now.\n"
    shown = mmsearch(root, "tags", "show", picture)
    assert shown.stdout.startswith(f"{picture}  my own  ")
    assert "my own  1 picture (1 by hand)" in " ".join(mmsearch(root, "tags").stdout.split(" "))
    assert mmsearch(root, "tags", "remove", "--every", "--by-model").stdout == "4 tags removed.\n"
    left = json.loads(mmsearch(root, "tags", "--json").stdout)["tags"]
    assert left == [{"name": "my own", "pictures": 1, "texts": 0, "by_hand": 1}]
    assert mmsearch(root, "tags", "remove", "my own", picture).stdout == "1 tag removed.\n"


def test_pictures_in_archives_are_tagged_by_the_path_that_searches_print(
    root: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("in/0.png", encoded(0))
        archive.writestr("other.png", encoded(99))
    member = tmp_path / "more.zip!" / "in" / "0.png"
    assert mmsearch(root, "tags", "add", "my own", member).stdout.startswith("1 picture is tagged")
    assert mmsearch(root, "tags", "show", member).stdout == f"{member}  my own\n"
    shown = mmsearch(root, "tags", "show", tmp_path / "more.zip!" / "other.png")
    assert "not in the library" in shown.stdout
    for name in ("more.zip!/none.png", "none.zip!/0.png", "none.png"):
        done = mmsearch(root, "tags", "add", "x", tmp_path / name)
        assert done.returncode in (1, 2)
        assert "Traceback" not in done.stderr


def test_only_what_the_library_knows_is_tagged(root: Path) -> None:
    done = mmsearch(
        root, "classify", *LABELS, "--write-tags", "--min-probability", "0",
        root / "Photos" / "0.png", root / "sorted" / "cat",
    )  # fmt: skip
    assert "1 tag written, on 1 item" in done.stderr
    assert "2 are not in the library" in done.stderr


def test_several_labels_at_once_or_none(made: Path) -> None:
    found = document(made, *LABELS, "--all", "--multi", "--top", "3", "--min-probability", "0")
    assert found["multi"] is True
    assert all(len(item["labels"]) == 3 for item in found["items"])
    none = document(made, *LABELS, "--all", "--multi", "--min-probability", "1")
    assert all(item["labels"] == [] for item in none["items"])


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["classify", "--label", "a"], 2, "say what to classify"),
        (["classify", "--label", "a", "--all", "--all-texts"], 2, "say what to classify"),
        (["classify", "--all"], 2, "no labels"),
        (["classify", "--label", "a", "--label", "a", "--all"], 2, "twice"),
        (["classify", "--label", "a", "--all", "--csv", "--json"], 2, "exclude"),
        (["classify", *LABELS, "nowhere"], 1, "no such file or folder"),
        (["classify", *LABELS, "--all", "--truth", "none.csv"], 1, "not found"),
        (["classify", "--label", "a", "--all", "--write-tags"], 2, "everything is 'a'"),
        (["classify", *LABELS, "--all", "--model", "tiny"], 1, "no vectors of tiny"),
        (["tags", "remove"], 2, "say which tag"),
        (["tags", "add", "x"], 2, "say what to tag"),
    ],
)
def test_what_cannot_be_done_is_one_line(made: Path, args: list[str], code: int, said: str) -> None:
    done = mmsearch(made, *args)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_tags_of_what_is_not_there(made: Path) -> None:
    stranger = made / "sorted" / "cat" / "10.png"
    done = mmsearch(made, "tags", "add", "x", stranger)
    assert done.returncode == 1
    assert "is not in the library" in done.stderr
    assert "(not in the library)" in mmsearch(made, "tags", "show", stranger).stdout
    assert "There are no tags yet" in mmsearch(made, "tags").stderr


def test_so_many_tags_are_written_as_labels_are_given(root: Path) -> None:
    def tags(*args: str) -> list[int]:
        done = CliRunner().invoke(
            cli, ["-l", str(root / "library"), "classify", *LABELS, "--all", "--write-tags", *args]
        )
        assert done.exit_code == 0, done.exception
        with Library(root / "library", device="cpu") as library:
            ids = [hit.image.id for hit in library.search("a cat", k=10)]
            found = library.catalog.tags(ids)
        return [len(found.get(id_, ())) for id_ in ids]

    every = ("--min-probability", "0")
    assert tags("--top", "2", *every) == [2] * 4
    assert tags(*every) == [1] * 4
    assert tags("--multi", *every) == [3] * 4
    assert tags("--multi", "--top", "2", *every) == [2] * 4


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--all"], 2),
        (["--label", "a", "--label", "A", "--all"], 2),
        (["--labels", "twice.txt", "--all"], 1),
        (["--labels", "none.txt", "--all"], 1),
        ([*LABELS, "--texts", "none.txt"], 1),
    ],
)
def test_what_is_typed_wrongly_and_what_is_not_there(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], code: int
) -> None:
    (tmp_path / "twice.txt").write_text("cat\nCat\n")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["-l", str(made / "library"), "classify", *args])
    assert getattr(done.exception, "exit_code", done.exit_code) == code, done.output
