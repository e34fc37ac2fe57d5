"""The schema, its migrations, and files of other versions."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import types
from sqlalchemy.dialects import sqlite

from mmsearch.errors import LibraryNotFoundError, SchemaVersionError, StoreError
from mmsearch.store import Catalog, CatalogWriter, engine
from mmsearch.store.schema import SCHEMA_HEAD, FilePath, metadata, stored_time


def test_migrations_make_the_schema(writer: CatalogWriter, catalog_path: Path) -> None:
    with engine.create_engine(catalog_path).connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": _same_type,
                "compare_server_default": True,
                "include_name": _is_described,
            },
        )
        assert compare_metadata(context, metadata) == []
    connection.engine.dispose()


def _is_described(name: str | None, kind: str, _parents: object) -> bool:
    """SQLAlchemy knows no full-text tables; tests/store/test_words.py compares those."""
    return kind != "table" or name is None or not name.startswith(("image_words", "text_words"))


def _same_type(_context: object, _inspected: object, _meta: object, found: object, ours: object):
    """None asks alembic; a FilePath is kept as text."""
    return False if isinstance(ours, FilePath) and isinstance(found, types.Text) else None


@pytest.mark.parametrize(
    "moment",
    [datetime(1, 2, 3), datetime(2024, 12, 31, 23, 59, 59, 999_999), datetime(1999, 1, 1, 0, 0, 7)],
)
def test_times_are_stored_as_sqlalchemy_does(moment: datetime) -> None:
    stored = types.DateTime().dialect_impl(sqlite.dialect()).bind_processor(sqlite.dialect())
    assert stored is not None
    assert stored_time(moment) == stored(moment)


def test_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(engine.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA_HEAD]


def test_newer_catalog_is_refused_untouched(writer: CatalogWriter, catalog_path: Path) -> None:
    writer.close()
    with closing(sqlite3.connect(catalog_path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
        connection.execute("PRAGMA journal_mode=DELETE")
    before = hashlib.sha256(catalog_path.read_bytes()).digest()
    for open_it in (Catalog, CatalogWriter):
        with pytest.raises(SchemaVersionError) as caught:
            open_it(catalog_path)
        assert (caught.value.found, caught.value.expected) == ("9999", SCHEMA_HEAD)
        assert "upgrade" in str(caught.value)
    assert hashlib.sha256(catalog_path.read_bytes()).digest() == before
    assert [f.name for f in catalog_path.parent.iterdir()] == [catalog_path.name]


@pytest.mark.parametrize("content", [b"", b"no database at all " * 100])
def test_what_is_no_catalog_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "catalog.db"
    with pytest.raises(LibraryNotFoundError):
        Catalog(path)
    path.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        Catalog(path)
    assert str(tmp_path) in str(caught.value)
    if content:
        with pytest.raises(StoreError, match="not a catalog"):
            CatalogWriter(path)


def test_a_kill_while_the_tables_are_made_leaves_none(
    catalog_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    from alembic import op

    def stop(*_args: object, **_kwargs: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(op, "create_index", stop)  # between two tables
        with pytest.raises(KilledError):
            CatalogWriter(catalog_path)
    with closing(sqlite3.connect(catalog_path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    CatalogWriter(catalog_path).close()
    opened = Catalog(catalog_path)
    assert opened.revision() == 0
    opened.close()


@pytest.mark.parametrize("name", ["50% off?", "a#b", "naïve ☃", "semi;colon&x=y"])
def test_library_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for _ in range(2):
        CatalogWriter(folder / "catalog.db").close()
    opened = Catalog(folder / "catalog.db")
    assert opened.sources() == []
    opened.close()
    assert sorted(f.name for f in tmp_path.iterdir()) == [name]


def test_what_a_stopped_run_began_is_undone_before_the_schema_is_read(tmp_path: Path) -> None:
    path, left = tmp_path / "catalog.db", tmp_path / "left" / "catalog.db"
    left.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('0001')")
        connection.execute("PRAGMA cache_size=1")  # pages go to the file before the commit
        connection.execute("BEGIN")
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute("CREATE TABLE much (data BLOB)")
        connection.execute("INSERT INTO much VALUES (randomblob(100000))")
        for name in ("catalog.db", "catalog.db-journal"):
            shutil.copy(path.with_name(name), left.with_name(name))
        connection.execute("ROLLBACK")
    assert left.with_name("catalog.db-journal").stat().st_size > 512
    with pytest.raises(StoreError, match=r"catalog\.db-journal"):
        engine.schema_version(left, read_only=True)  # the half of it would be read
    assert engine.schema_version(left) == "0001"
