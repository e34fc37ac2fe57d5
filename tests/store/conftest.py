"""A catalog that is open for writing, and one that reads the same file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmsearch.store import Catalog, CatalogWriter


@pytest.fixture
def catalog_path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.db"


@pytest.fixture
def writer(catalog_path: Path) -> Iterator[CatalogWriter]:
    opened = CatalogWriter(catalog_path)
    yield opened
    opened.close()


@pytest.fixture
def catalog(writer: CatalogWriter, catalog_path: Path) -> Iterator[Catalog]:
    opened = Catalog(catalog_path)
    yield opened
    opened.close()


@pytest.fixture
def source(writer: CatalogWriter) -> int:
    return writer.ensure_source("/photos", "folder", (), False)
