"""What most runs of the indexer begin with; a module of tests may have others."""

from __future__ import annotations

from pathlib import Path

import pytest
from collection import encoded, write


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for n in range(4):
        write(root / f"{n}.png", encoded(n))
    return root


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return tmp_path / "library"
