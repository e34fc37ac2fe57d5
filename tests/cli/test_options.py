"""A library is opened as the settings say, whether or not they had to be loaded for that."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from collection import Indexed

import mmsearch.library
from mmsearch.cli import cli
from mmsearch.cli.options import (
    library_path,
    load_settings,
    open_library,
    plain_library_path,
)


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


def test_a_search_leaves_the_collection_of_garbage_as_it_was(postcards: Indexed) -> None:
    assert gc.isenabled()
    for arguments in (["search", "beach"], ["search", "--where", "nonsense:", "beach"]):
        CliRunner().invoke(cli, ["-l", str(postcards.path), *arguments])
        assert gc.isenabled()
