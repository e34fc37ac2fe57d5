"""A folder of everything that goes wrong is indexed to its end, with a reason for each thing."""

from __future__ import annotations

import io
import json
import os
import warnings
from pathlib import Path

import pytest
from bad_input import make_bad_folder
from click.testing import CliRunner
from collection import encoded, found, run

from indexer.report import Report
from mmsearch.cli import cli
from mmsearch.cli.options import printable
from mmsearch.library import Library


class Indexed:
    """The folder, what is expected of it, and the library of it."""

    def __init__(self, root: Path, model: str) -> None:
        self.folder, self.library = root / "bad", root / "library"
        self.expected = make_bad_folder(self.folder)
        with pytest.MonkeyPatch.context() as patch:
            if self.expected["unreadable.jpg"] == "":
                warnings.warn("the superuser may read all: its refusal is simulated", stacklevel=1)
                self.expected["unreadable.jpg"] = "permission"
                self._refuse(patch, "unreadable.jpg")
            self.report: Report = run(self.library, self.folder, model=model)
            patch.setattr("mmsearch.encode.load_encoder", None)
            self.again: Report = run(self.library)

    @staticmethod
    def _refuse(patch: pytest.MonkeyPatch, name: str) -> None:
        opened = io.open

        def refuse(path: object, *args: object, **kwargs: object) -> object:
            if isinstance(path, str) and os.path.basename(path) == name:  # noqa: PTH119
                raise PermissionError(13, "Permission denied", path)
            return opened(path, *args, **kwargs)  # type: ignore[call-overload]

        patch.setattr("builtins.open", refuse)

    def failures(self) -> dict[str, str]:
        with Library(self.library) as lib:
            return {
                failure.path.removeprefix(f"{self.folder}/"): failure.reason
                for failure in lib.failures()
            }


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, model: str) -> Indexed:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = Indexed(tmp_path_factory.mktemp("bad-folder"), model)
    assert all("superuser" in str(w.message) for w in caught), [str(w.message) for w in caught]
    return made


def test_each_reason_is_recorded(indexed: Indexed) -> None:
    assert not indexed.report.stopped
    failures = indexed.failures()
    broken = {name: part for name, part in indexed.expected.items() if part}
    assert failures.keys() == broken.keys()
    for name, part in broken.items():
        assert part in failures[name], name


def test_what_works_is_found(indexed: Indexed) -> None:
    works = {name for name, part in indexed.expected.items() if not part and "captions" not in name}
    (images, texts) = found(indexed.library, indexed.folder, ["anything"])
    assert {path for paths, _ in images for path in paths} == works
    bodies = dict(texts.keys())
    assert bodies == {
        "a picture in four inks": (("cmyk.jpg",),),
        "a picture nobody has": (),
        "a picture on its side": (("rotated.jpg",),),
    }
    with Library(indexed.library, device="cpu") as lib:
        for hit in lib.search("anything", k=100):
            assert lib.thumbnail(hit.image.id, 256)
            # Each picture is the one nearest to itself.
            assert lib.search(image=lib.read_image(hit.image.id), k=1)[0].image.id == hit.image.id


def test_rotated_picture_is_upright(indexed: Indexed) -> None:
    with Library(indexed.library, device="cpu") as lib:
        hits = {Path(h.image.path).name: h.image for h in lib.search("anything", k=100)}
        assert (hits["rotated.jpg"].info.width, hits["rotated.jpg"].info.height) == (48, 64)


def test_second_run_neither_loads_a_model_nor_forgets(indexed: Indexed) -> None:
    assert (indexed.again.encoded_images, indexed.again.encoded_texts) == (0, 0)
    assert indexed.again.device is None
    assert len(indexed.failures()) == sum(bool(part) for part in indexed.expected.values())


def test_the_command_shows_every_reason(indexed: Indexed) -> None:
    done = CliRunner().invoke(cli, ["-l", str(indexed.library), "status", "--failed"])
    assert done.exit_code == 0
    lines = dict(line.rsplit(": ", 1) for line in done.stdout.splitlines())
    shown = {path.removeprefix(f"{indexed.folder}/") for path in lines}
    assert len(done.stdout.splitlines()) == len(indexed.failures())
    for name, reason in indexed.failures().items():
        line = f"{printable(f'{indexed.folder}/{name}')}: {reason}"
        assert line in done.stdout.splitlines(), shown
    done = CliRunner().invoke(cli, ["-l", str(indexed.library), "status", "--failed", "--json"])
    document = json.loads(done.stdout)
    assert document["failed"] == len(document["failures"]) == len(indexed.failures())
    assert {f["reason"] for f in document["failures"]} == set(indexed.failures().values())


def test_names_that_are_not_utf8(indexed: Indexed) -> None:
    foreign = os.fsdecode(b"caf\xe9.jpg")
    if foreign not in indexed.expected:
        pytest.skip("this file system has no such names")
    arguments = ["-l", str(indexed.library), "search", "anything", "--all", "-k", "100"]
    arguments += ["--device", "cpu"]
    shown = CliRunner().invoke(cli, [*arguments, "--json"])
    assert any(h["path"].endswith("/caf\ufffd.jpg") for h in json.loads(shown.stdout)["hits"])
    paths = CliRunner().invoke(cli, [*arguments, "--paths", "-0"]).stdout_bytes.split(b"\0")
    assert os.fsencode(indexed.folder / foreign) in paths
    table = CliRunner().invoke(cli, arguments)
    assert table.exit_code == 0, table.exception
    assert "caf\ufffd.jpg" in table.stdout


def test_names_do_not_speak_to_the_terminal(tmp_path: Path, model: str) -> None:
    name = "line\nbreak\x1b[2J.jpg"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / name).write_bytes(b"no picture")
    (tmp_path / "photos" / f"good {name}").write_bytes(encoded(1))
    run(tmp_path / "library", tmp_path / "photos", model=model)
    failed = CliRunner().invoke(cli, ["-l", str(tmp_path / "library"), "status", "--failed"])
    table = CliRunner().invoke(
        cli, ["-l", str(tmp_path / "library"), "search", "anything", "--all"]
    )
    for shown in (failed.stdout, table.stdout):
        assert "\x1b" not in shown
        assert "line\ufffdbreak\ufffd[2J.jpg" in shown
    asked = ["-l", str(tmp_path / "library"), "status", "--failed", "--json"]
    failures = json.loads(CliRunner().invoke(cli, asked).stdout)["failures"]
    assert [Path(f["path"]).name for f in failures] == [name]
