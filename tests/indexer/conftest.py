"""What most runs of the indexer begin with; a module of tests may have others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from collection import encoded, write
from databases import Database, MilvusDatabase, PostgreSQLDatabase, postgresql_server


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for n in range(4):
        write(root / f"{n}.png", encoded(n))
    return root


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return tmp_path / "library"


_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgresql_at() -> Iterator[str]:
    """The folder of the socket of a PostgreSQL server."""
    with postgresql_server() as folder:
        yield folder


@pytest.fixture
def postgresql(postgresql_at: str) -> PostgreSQLDatabase:
    return PostgreSQLDatabase(postgresql_at, f"photos{next(_NUMBERS)}")


@pytest.fixture
def milvus(tmp_path: Path) -> MilvusDatabase:
    return MilvusDatabase(tmp_path / "photos.db")


@pytest.fixture(params=["postgresql", "milvus"])
def database(request: pytest.FixtureRequest) -> Database:
    """Each engine in turn, empty."""
    found: Database = request.getfixturevalue(request.param)
    return found
