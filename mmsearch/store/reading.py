"""Running queries on a catalog that is open for reading."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mmsearch.store.connect import translate_errors

Rows = Sequence[sa.Row[*tuple[Any, ...]]]

#: How many ids one query names, at most.
IDS_A_QUERY = 5000
#: For who reads a large table once: nothing is mapped, and 2 MB of pages are kept.
_UNMAPPED = {"mmap_size": 0, "cache_size": -2048}


def among_ids(column: Any) -> Any:
    """That a column is one of the ids in the parameter "ids", which `ids_parameter` makes.

    One parameter for all: such a statement is built once, and then costs a quarter of one that
    names each id.
    """
    return column.in_(sa.text("SELECT value FROM json_each(:ids)"))


def ids_parameter(ids: Iterable[int]) -> str:
    """What `among_ids` compares with."""
    return json.dumps([int(id_) for id_ in ids])


class Reading:
    """Queries on one catalog, each in a transaction of its own. Thread-safe.

    Raises:
        StoreError: from every method, for the database's own errors.
    """

    def __init__(self, path: Path, engine: sa.Engine) -> None:
        self.path = path
        self._engine = engine

    def rows(self, statement: sa.Executable, **parameters: Any) -> Rows:
        """All rows at once."""
        with translate_errors(self.path), self._engine.connect() as connection:
            return connection.execute(statement, parameters).all()

    def scalar(self, statement: sa.Executable) -> Any:
        """The first column of the first row; None when there is no row."""
        with translate_errors(self.path), self._engine.connect() as connection:
            return connection.execute(statement).scalar()

    def driver_scalar(self, statement: str, parameters: tuple[Any, ...] = ()) -> Any:
        """The same for the text of a statement and values as the database keeps them: cheaper."""
        with self._driver() as connection:
            rows = connection.execute(statement, parameters).fetchall()
            return rows[0][0] if rows else None

    @contextmanager
    def moment(self) -> Iterator[sa.Connection]:
        """A connection for several queries that all see the catalog as it is at the first."""
        with translate_errors(self.path), self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            yield connection

    @contextmanager
    def driver_moment(self) -> Iterator[sqlite3.Connection]:
        """The same for many small queries: the driver's own connection. What SQLAlchemy does around
        a statement takes twice as long as most of these themselves."""
        with self._driver() as connection:
            connection.execute("BEGIN")
            yield connection

    @contextmanager
    def _driver(self) -> Iterator[sqlite3.Connection]:
        with translate_errors(self.path):
            pooled = self._engine.raw_connection()
            try:
                driver = pooled.driver_connection
                assert isinstance(driver, sqlite3.Connection)
                yield driver
            finally:
                pooled.close()  # which ends the transaction, if there is one

    def chunks(self, statement: sa.Executable, size: int, *, mapped: bool = True) -> Iterator[Rows]:
        """The rows, up to `size` at a time, as one moment had them: only so many are in memory.

        mapped: False neither maps nor keeps the file's pages, for who reads all of a large table:
            they would count as memory of the process from then on.
        """
        with translate_errors(self.path), self._engine.connect() as connection:
            if mapped:
                yield from _parts(connection, statement, size)
                return
            before = {
                pragma: int(connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one())
                for pragma in _UNMAPPED
            }
            _set(connection, _UNMAPPED)
            try:
                yield from _parts(connection, statement, size)
            finally:
                _set(connection, before)  # it goes back to the others


def _parts(connection: sa.Connection, statement: sa.Executable, size: int) -> Iterator[Rows]:
    return connection.execution_options(yield_per=size).execute(statement).partitions()


def _set(connection: sa.Connection, pragmas: Mapping[str, int]) -> None:
    for pragma, value in pragmas.items():
        connection.exec_driver_sql(f"PRAGMA {pragma}={value}")
