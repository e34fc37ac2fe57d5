"""The folder of bad input, through the parts one by one (the whole is in the end-to-end test)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from bad_input import make_bad_folder, picture

from indexer.sources import FileEntry, scan
from indexer.texts import BadText, read_texts
from mmsearch.archive import Member, member_path, members
from mmsearch.decode import decode
from mmsearch.errors import DecodeError
from mmsearch.overview import (
    ScanProblem,
)


def outcome(data: bytes, source: str) -> str:
    try:
        decode(data, source=source)
    except DecodeError as exc:
        return exc.reason
    return ""


def test_every_case_says_what_is_wrong(tmp_path: Path) -> None:
    expected = make_bad_folder(tmp_path)
    found: dict[str, str] = {}
    for entry in scan(tmp_path):
        if isinstance(entry, ScanProblem):
            found[entry.path] = entry.reason
            continue
        assert isinstance(entry, FileEntry)
        path = tmp_path / entry.path
        if entry.kind == "image":
            try:
                found[entry.path] = outcome(path.read_bytes(), entry.path)
            except PermissionError:
                found[entry.path] = "no permission to read it"
        elif entry.kind == "archive":
            for item in members(path):
                if isinstance(item, Member):
                    name = member_path(entry.path, item.name)
                    found[name] = outcome(item.data, name)
                else:
                    name = member_path(entry.path, item.path) if item.path else entry.path
                    found[name] = item.reason
        else:
            for text in read_texts(path):
                found[f"{entry.path}:{text.key}"] = text.reason if isinstance(text, BadText) else ""
    del found["captions.jsonl:5"], expected["captions.jsonl:5"]  # only the catalog can know
    assert found.keys() == expected.keys()
    for name, fragment in expected.items():
        if fragment:
            assert fragment in found[name], name
        else:
            assert found[name] == "", name


def test_rotated_picture_is_upright(tmp_path: Path) -> None:
    make_bad_folder(tmp_path)
    pixels = decode((tmp_path / "rotated.jpg").read_bytes(), source="x").pixels
    assert pixels.shape == (64, 48, 3)
    upright = np.asarray(picture(8).rotate(-90, expand=True), dtype=int)
    assert np.abs(pixels - upright).mean() < 5
