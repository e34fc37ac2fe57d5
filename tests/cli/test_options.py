"""A library is opened as the settings say, whether or not they had to be loaded for that."""

from __future__ import annotations

import gc
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from collection import Indexed

import mmsearch.library
from mmsearch import devices
from mmsearch.cli import cli
from mmsearch.cli.options import (
    library_path,
    load_settings,
    open_library,
    plain_library_path,
)
from mmsearch.settings import Settings


@pytest.mark.parametrize("chosen", [None, Path("~/here")])
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"MMSEARCH_LIBRARY": "~/mine"},
        {"mmsearch_library": "/yours", "MMSEARCH_DEVICE": "cpu"},
        {"MMSEARCH_SERVER": "http://127.0.0.1:1", "MMSEARCH_KEY": "x"},
        {"MMSEARCH_MAX_PIXELS": "1000", "MMSEARCH_DEVICE": "mps"},
        {"MMSEARCH_MAX_DECODE_SECONDS": "7"},
        {"MMSEARCH_DEVICE": ""},
        {"MMSEARCH_LIBRARY": "", "MMSEARCH_MODEL": "", "MMSEARCH_MAX_PIXELS": ""},
    ],
)
@pytest.mark.parametrize("device", [None, "cuda"])
def test_a_library_is_opened_as_the_settings_say(
    chosen: Path | None,
    environment: dict[str, str],
    device: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    opened: list[tuple[Path, Any, Any]] = []

    def note(path: Path, *, device: str, limits: Any = None) -> None:
        opened.append((path, device, limits or mmsearch.library.DecodeLimits()))

    monkeypatch.setattr(mmsearch.library, "Library", note)
    open_library(chosen, device)
    settings = load_settings()
    wanted = library_path(chosen, settings), device or settings.device, settings.decode_limits()
    assert opened == [wanted]
    assert library_path(chosen, settings) == plain_library_path(chosen)


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load_settings()
    for name in type(plain).model_fields:
        monkeypatch.setenv(f"MMSEARCH_{name.upper()}", "")
    assert load_settings() == plain
    assert plain_library_path(None) == plain.library


def test_a_wrong_setting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMSEARCH_MAX_PIXELS", "many")
    with pytest.raises(click.UsageError, match="MMSEARCH_MAX_PIXELS"):
        open_library(None)


@pytest.mark.parametrize("name", ["foo", "gpu", "cuda:", "cuda:x", "CPU", "", "cpu,foo", "cuda:0,"])
@pytest.mark.parametrize("command", ["index", "watch", "search", "serve", "captions", "eval"])
def test_what_can_be_no_device_is_told_before_anything_is_done(
    command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "library"
    arguments = ["-l", str(library), command, "--device", name]
    outcome = CliRunner().invoke(cli, arguments)
    assert outcome.exit_code == 2
    assert "is no device" in outcome.output
    assert not library.exists()
    if name:
        monkeypatch.setenv("MMSEARCH_DEVICE", name)
        for read in (load_settings, partial(open_library, library)):
            with pytest.raises(click.UsageError, match=r"MMSEARCH_DEVICE: .*is no device"):
                read()


@pytest.mark.parametrize("name", ["auto", "cpu", "mps", "cuda", "cuda:1"])
def test_devices_that_some_machine_has(name: str) -> None:
    assert devices.check(name) == devices.check(name, several=True) == name


def test_several_devices_only_where_a_run_takes_them() -> None:
    several = "cuda:0, cuda:1"
    assert devices.check(several, several=True) == several
    with pytest.raises(ValueError, match="is no device"):
        devices.check(several)


@pytest.mark.parametrize(
    ("said", "flags", "wanted"),
    [
        (None, [], "text"),
        ("json", [], "json"),
        ("json", ["--log-format", "text"], "text"),
        ("", ["--log-format", "json"], "json"),
    ],
)
def test_log_lines_look_as_the_flag_or_else_the_setting_says(
    said: str | None,
    flags: list[str],
    wanted: str,
    postcards: Indexed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if said is not None:
        monkeypatch.setenv("MMSEARCH_LOG_FORMAT", said)
    seen: list[str] = []
    monkeypatch.setattr("mmsearch.serve.logs.configure", lambda kind, *_, **__: seen.append(kind))
    monkeypatch.setattr("mmsearch.serve.run", lambda *_, **__: True)
    outcome = CliRunner().invoke(cli, ["-l", str(postcards.path), "serve", *flags])
    assert (outcome.exit_code, seen) == (0, [wanted])


def test_the_runs_of_a_service_are_where_its_model_is(
    postcards: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMSEARCH_DEVICE", "auto")
    seen: list[str] = []

    def run(_library: object, settings: Settings, *_: object, **__: object) -> bool:
        seen.append(settings.device)
        return True

    monkeypatch.setattr("mmsearch.serve.logs.configure", lambda *_, **__: None)
    monkeypatch.setattr("mmsearch.serve.run", run)
    for flags in ([], ["--device", "cpu"]):
        CliRunner().invoke(cli, ["-l", str(postcards.path), "serve", *flags])
    assert seen == ["auto", "cpu"]


def test_a_search_leaves_the_collection_of_garbage_as_it_was(postcards: Indexed) -> None:
    assert gc.isenabled()
    for arguments in (["search", "beach"], ["search", "--where", "nonsense:", "beach"]):
        CliRunner().invoke(cli, ["-l", str(postcards.path), *arguments])
        assert gc.isenabled()
