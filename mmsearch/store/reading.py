"""Running queries on a catalog that is open for reading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mmsearch.store.connect import translate_errors

Rows = Sequence[sa.Row[*tuple[Any, ...]]]

#: How many ids one query names, at most.
IDS_A_QUERY = 5000


class Reading:
    """Queries on one catalog, each in a transaction of its own. Thread-safe.

    Raises:
        StoreError: from every method, for the database's own errors.
    """

    def __init__(self, path: Path, engine: sa.Engine) -> None:
        self.path = path
        self._engine = engine

    def rows(self, statement: sa.Executable) -> Rows:
        """All rows at once."""
        with translate_errors(self.path), self._engine.connect() as connection:
            return connection.execute(statement).all()

    def scalar(self, statement: sa.Executable) -> Any:
        """The first column of the first row; None when there is no row."""
        with translate_errors(self.path), self._engine.connect() as connection:
            return connection.execute(statement).scalar()

    def chunks(self, statement: sa.Executable, size: int) -> Iterator[Rows]:
        """The rows, up to `size` at a time, as one moment had them: only so many are in memory."""
        with translate_errors(self.path), self._engine.connect() as connection:
            yield from connection.execution_options(yield_per=size).execute(statement).partitions()
