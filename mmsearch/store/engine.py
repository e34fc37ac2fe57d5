"""Opens the database: its schema's version, migrations."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from mmsearch.errors import (
    LibraryLockedError,
    LibraryNotFoundError,
    SchemaVersionError,
    StoreError,
    os_reason,
)
from mmsearch.points import reached
from mmsearch.store import lock
from mmsearch.store.backup import copy_catalog
from mmsearch.store.connect import (
    connect_to_read,
    create_engine,
    translate_errors,
    with_advice,
    writable,
)
from mmsearch.store.schema import SCHEMA_HEAD
from mmsearch.store.word_rows import renew

__all__ = [
    "bring_up_to_date",
    "create_engine",
    "is_there",
    "prepare",
    "schema_version",
    "translate_errors",
    "writable",
]

logger = logging.getLogger(__name__)

_MIGRATIONS = Path(__file__).parent / "migrations"


def schema_version(path: Path, *, read_only: bool | None = None) -> str | None:
    """The migration the file is at; None for a file that is new or empty.

    read_only: make no file beside it; None finds out whether that must be so.
    """
    if not path.exists() or path.stat().st_size == 0:
        return None
    try:
        with closing(_look_at(path, read_only)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError as exc:
        if "no such table" in str(exc):
            return None
        raise StoreError(f"{path} cannot be opened: {with_advice(str(exc))}") from exc
    except sqlite3.DatabaseError as exc:
        raise StoreError(
            f"{path} is not a catalog ({exc}). Restore a backup, or delete it and index again"
        ) from exc
    return str(row[0]) if row else None


def is_there(path: Path) -> bool:
    """Whether there is a catalog; a run killed while it made one leaves none, but maybe a file.

    Raises:
        StoreError: the file has lost what it held, or cannot be read.
    """
    if schema_version(path) is not None:
        return True
    _check_lost(path)
    return False


def _check_lost(path: Path) -> None:
    """Raises StoreError for a file without a schema that was no new library's: it had indexes.

    To make an empty catalog of it would hide that everything is gone.
    """
    try:
        left = path.exists() and any((path.parent / "index").iterdir())
    except OSError:
        return
    if left:
        raise StoreError(
            f"{path} is empty, though the library has indexes: what it held is lost. It is left as "
            "it is: put a backup in its place, or delete it and index your folders again"
        )


def _look_at(path: Path, read_only: bool | None) -> sqlite3.Connection:
    if read_only or (read_only is None and not writable(path)):
        return connect_to_read(path)
    # Not "ro", though nothing is written: a run that was stopped while it made the tables leaves a
    # journal, and who opens the file next has to undo what that run began.
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)


def known_schemas() -> set[str]:
    """Every schema that this code can bring to the newest one, and the newest one."""
    return {file.name.partition("_")[0] for file in (_MIGRATIONS / "versions").glob("[0-9]*.py")}


def bring_up_to_date(path: Path, *, read_only: bool) -> None:
    """Migrates a catalog of an older mmsearch before it is read; does nothing to a new one.

    Raises:
        LibraryNotFoundError: there is no catalog.
        SchemaVersionError: the file was written by a newer mmsearch.
        StoreError: it is of an older one, and cannot be migrated now; or what it held is lost.
    """
    version = schema_version(path, read_only=read_only)
    if version is None:
        _check_lost(path)
        raise LibraryNotFoundError(str(path.parent))
    if version == SCHEMA_HEAD:
        return
    if version not in known_schemas():
        raise SchemaVersionError(version, SCHEMA_HEAD)
    old = f"the catalog {path} has schema {version} of an older mmsearch"
    if read_only:
        raise StoreError(
            f"{old} and cannot be brought to schema {SCHEMA_HEAD}: its folder cannot be written. "
            f"Make a copy that can be (it is brought to {SCHEMA_HEAD} on the way), and open that: "
            f"mmsearch -l {path.parent} backup COPY"
        )
    try:
        with lock.writing(path.parent), translate_errors(path):
            prepare(path)
    except LibraryLockedError as exc:
        holder = f"process {exc.pid}" if exc.pid else "another process"
        raise StoreError(
            f"{old} and must be brought to schema {SCHEMA_HEAD} before it is read, but {holder} is "
            "writing to it. Wait until that is done, or stop it, and run the command again"
        ) from exc


def prepare(path: Path, *, keep_old: bool = True) -> None:
    """Brings the file to the newest schema: creates it, migrates it, or refuses a newer one.

    A catalog that is migrated is first copied to `catalog.db.SCHEMA.bak` beside it, unless
    `keep_old` says that there is another copy. The caller holds the library's write lock.

    Raises:
        SchemaVersionError: the file was written by a newer mmsearch; nothing was changed.
        StoreError: it is damaged, what it held is lost, or there is no space for its copy; nothing
            was changed.
    """
    version = schema_version(path)
    if version == SCHEMA_HEAD:
        return
    if version is None:
        _check_lost(path)
    if version is not None and version not in known_schemas():
        raise SchemaVersionError(version, SCHEMA_HEAD)
    # Alembic takes longer to import than everything else a `status` does: only when needed.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    if version is not None and keep_old:
        backup = path.with_name(f"{path.name}.{version}.bak")
        copy_catalog(path, backup)
        logger.warning(
            "the catalog is brought from schema %s to %s; as it was it is kept in %s",
            version,
            SCHEMA_HEAD,
            backup,
        )
    engine = create_engine(path)
    try:
        with engine.begin() as connection:
            # Python's driver begins no transaction for DDL: a kill would leave half the tables.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            renew(connection)
            reached("schema: to be committed")
        reached("schema: committed")
    finally:
        engine.dispose()


def delete_old_catalogs(path: Path) -> None:
    """Deletes what `prepare` kept of a catalog before migrations: it holds what is forgotten now.

    Raises:
        StoreError: one could not be deleted. Who promised that it goes must not go on.
    """
    for old in path.parent.glob(f"{path.name}.*.bak"):
        try:
            old.unlink(missing_ok=True)
        except OSError as exc:
            raise StoreError(f"{old} could not be deleted: {os_reason(exc)}") from exc
