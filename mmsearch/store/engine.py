"""Opens the database: pragmas, schema version, migrations."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mmsearch.errors import SchemaVersionError, StoreError
from mmsearch.points import reached
from mmsearch.store.schema import SCHEMA_HEAD

logger = logging.getLogger(__name__)

_MIGRATIONS = Path(__file__).parent / "migrations"


def create_engine(path: Path) -> sa.Engine:
    """An engine on the SQLite file `path`, in write-ahead-log mode, that waits 30 s for locks."""
    # Not as one string: a "?" in a folder's name would begin the options.
    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(url, connect_args={"timeout": 30})

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: sqlite3.Connection, _record: Any) -> None:
        # WAL: readers never wait for the writer. NORMAL is safe against a killed process, and
        # against a power cut loses at most the last commits, never the file's consistency.
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "foreign_keys=ON",
            "cache_size=-65536",
            "mmap_size=268435456",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Turns the database's own errors into StoreError, with what to do about the common ones."""
    try:
        yield
    except sa.exc.DatabaseError as exc:
        cause = str(exc.orig)
        if "disk is full" in cause or "disk I/O error" in cause:
            cause += ". What was committed is safe; free some space and run the command again"
        elif "malformed" in cause or "not a database" in cause:
            cause += ". Restore a backup, or delete the library folder and index again"
        raise StoreError(f"{path}: {cause}") from exc


def schema_version(path: Path) -> str | None:
    """The migration the file is at; None for a file that is new or empty."""
    if not path.exists() or path.stat().st_size == 0:
        return None
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError as exc:
        if "no such table" in str(exc):
            return None
        raise StoreError(f"{path} cannot be opened: {exc}") from exc
    except sqlite3.DatabaseError as exc:
        raise StoreError(
            f"{path} is not a catalog ({exc}). Restore a backup, or delete it and index again"
        ) from exc
    return str(row[0]) if row else None


def prepare(path: Path) -> None:
    """Brings the file to the newest schema: creates it, migrates it, or refuses a newer one.

    A catalog that is migrated is first copied to `catalog.db.SCHEMA.bak` beside it. The caller
    holds the library's write lock.

    Raises:
        SchemaVersionError: the file was written by a newer mmsearch; nothing was changed.
    """
    version = schema_version(path)
    if version == SCHEMA_HEAD:
        return
    # Alembic takes longer to import than everything else a `status` does: only when needed.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if version is not None and version not in known:
        raise SchemaVersionError(version, SCHEMA_HEAD)
    if version is not None:
        backup = path.with_name(f"{path.name}.{version}.bak")
        with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(backup)) as copy:
            old.backup(copy)
        logger.info("catalog copied to %s before its migration to schema %s", backup, SCHEMA_HEAD)
    engine = create_engine(path)
    try:
        with engine.begin() as connection:
            # Python's driver begins no transaction for DDL: a kill would leave half the tables.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            reached("schema: to be committed")
        reached("schema: committed")
    finally:
        engine.dispose()
