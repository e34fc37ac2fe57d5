"""What the tests of the encoder share; the models themselves are in small_models.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_models import CONFIGS, MakeModel, save_model


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """mmsearch's own cache, empty for each test."""
    folder = tmp_path / "mmsearch-cache"
    monkeypatch.setattr("mmsearch.encode.fingerprint.cache_folder", lambda: folder)
    return folder


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """make_model(kind, dtype="fp32", preprocess={...}, seed=0) → a folder, made once."""
    made: dict[str, Path] = {}

    def make(
        kind: str, dtype: str = "fp32", preprocess: dict[str, Any] | None = None, seed: int = 0
    ) -> Path:
        key = json.dumps([kind, dtype, preprocess, seed])
        if key not in made:
            folder = tmp_path_factory.mktemp(kind)
            save_model(folder, CONFIGS[kind], dtype, preprocess or {}, seed)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Products of small models are slower with more, much slower on a machine that is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
