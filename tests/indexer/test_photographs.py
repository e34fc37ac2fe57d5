"""The collection of photographs, with the bundled model: one run, and a second one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mmsearch.cli import cli

CHECKOUT = Path(__file__).parents[2]
PLACES = (CHECKOUT / "shared" / "photos", CHECKOUT.parent / "shared" / "photos")


def command(*arguments: str | Path) -> dict[str, Any]:
    done = CliRunner().invoke(cli, [str(a) for a in (*arguments, "--json")], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_photographs_and_their_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = next((place for place in PLACES if place.is_dir()), None)
    if photos is None:
        pytest.skip("shared/photos is not part of a clone")
    library, captions = tmp_path / "library", photos / "captions.jsonl"
    index = ("index", "-l", library, photos, "--captions", captions)
    first = command(*index, "--model", "tiny", "--device", "cpu")
    assert (first["files"], first["encoded_images"], first["failed"]) == (125, 125, 0)
    assert (first["texts"], first["linked"], first["warnings"]) == (125, 125, [])
    monkeypatch.setattr("mmsearch.encode.load_encoder", None)  # not even called again
    second = command(*index)
    assert not second["changed"]
    assert (second["files"], second["encoded_images"], second["encoded_texts"]) == (125, 0, 0)
    status = command("status", "-l", library)
    assert (status["images"], status["texts"], status["links"]) == (125, 125, 125)
    hit = command("search", "-l", library, "-i", next(photos.glob("*.JPEG")), "-k", 1)["hits"][0]
    assert hit["score"] > 0.999
    assert hit["captions"]
