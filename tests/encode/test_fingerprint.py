from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_models import MakeModel

from mmsearch.encode import fingerprint, load_encoder, load_text_encoder, weights
from mmsearch.encode.fingerprint import file_digest, read_note, space_fingerprint, write_note


def of(folder: Path) -> str:
    files = weights.find_light(f"local-dir:{folder}")
    assert files is not None
    return files.space.fingerprint


def changed(folder: Path, to: Path, **changes: Any) -> Path:
    """A copy whose configuration has other values; keys are "model_cfg.text_cfg.width"."""
    shutil.copytree(folder, to)
    config = json.loads((to / "open_clip_config.json").read_text())
    for key, value in changes.items():
        *path, last = key.split("__")
        part = config
        for name in path:
            part = part[name]
        part[last] = value
    (to / "open_clip_config.json").write_text(json.dumps(config))
    return to


def test_one_space_on_every_way(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("vit")
    moved = tmp_path / "moved" / "elsewhere"
    shutil.copytree(folder, moved)
    os.utime(moved / "open_clip_model.safetensors", ns=(1, 1))
    spaces = [
        load_text_encoder(f"local-dir:{folder}").space,
        load_text_encoder(f"local-dir:{moved}").space,
        *(
            load_encoder(
                f"local-dir:{folder}", device="cpu", dtype=dtype, reference=reference
            ).space
            for dtype in ("fp32", "bf16")
            for reference in (False, True)
        ),
    ]
    assert len({space.fingerprint for space in spaces}) == 1
    assert {space.preprocessing for space in spaces} == {"32 bicubic shortest center"}
    assert {space.dim for space in spaces} == {48}


def test_what_changes_vectors_changes_the_space(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("vit")
    prints = {
        of(folder),
        of(make_model("vit", seed=1)),
        of(make_model("vit", dtype="fp16")),
        of(changed(folder, tmp_path / "a", model_cfg__quick_gelu=True)),
        of(changed(folder, tmp_path / "b", model_cfg__text_cfg__heads=2)),
        of(changed(folder, tmp_path / "c", preprocess_cfg__mean=[0.5] * 3)),
        of(changed(folder, tmp_path / "d", preprocess_cfg__resize_mode="squash")),
        of(changed(folder, tmp_path / "e", preprocess_cfg__interpolation="bilinear")),
    }
    assert len(prints) == 8


def test_a_default_that_is_written_out_changes_nothing(
    make_model: MakeModel, tmp_path: Path
) -> None:
    folder = make_model("vit")
    same = changed(
        folder,
        tmp_path / "same",
        model_cfg__quick_gelu=False,
        model_cfg__init_logit_bias=-10,
        model_cfg__vision_cfg__timm_model_pretrained=False,
        preprocess_cfg__resize_mode="shortest",
        preprocess_cfg__size=[99, 99],  # open_clip takes the image tower's too
    )
    assert of(same) == of(folder)


def test_the_fingerprint_does_not_change_with_versions_of_mmsearch() -> None:
    """Were it to, every library would have to be encoded anew."""
    digest = space_fingerprint(
        "ab" * 32,
        {"embed_dim": 512, "vision_cfg": {"layers": 12}, "text_cfg": {"width": 512}},
        {
            "size": 224,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
            "fill_color": 0,
        },
    )
    assert digest == "04975819032d5ccb566a5369cb12aa9212e4dc3d8425f6f7d3478345c189af2b"


def test_a_file_is_read_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"one")
    first = file_digest(file)
    assert first == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", lambda *_: pytest.fail("read again"))
        assert file_digest(file) == first
        link = tmp_path / "link"
        link.symlink_to(file)
        assert file_digest(link) == first
    file.write_bytes(b"two")
    os.utime(file, ns=(5, 5))
    assert file_digest(file) != first


def test_a_cache_that_is_broken_or_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"one")
    digest = file_digest(file)
    for note in fingerprint.cache_folder().rglob("*.json"):
        note.write_text("{broken")
    assert file_digest(file) == digest
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    monkeypatch.setattr(fingerprint, "cache_folder", lambda: blocked)
    assert file_digest(file) == digest


def test_notes_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    note = tmp_path / "a" / "note.json"
    assert read_note(note) == {}
    write_note(note, {"name": "\udcff is no text", "n": [1, 2]})
    assert read_note(note) == {"name": "\udcff is no text", "n": [1, 2]}
    assert [path.name for path in note.parent.iterdir()] == ["note.json"]
    note.write_text("[1]")
    assert read_note(note) == {}
