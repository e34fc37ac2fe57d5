"""Repairs of a catalog: what can be derived is derived again, what must be read again is forgotten.

Each is one transaction. The caller holds the library's write lock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mmsearch.batches import batches
from mmsearch.store.check import CatalogCheck, held
from mmsearch.store.connect import create_engine, translate_errors, writable
from mmsearch.store.details import resettle
from mmsearch.store.rows import now
from mmsearch.store.schema import container, content, embedding, image, space, text_
from mmsearch.store.transaction import VALUES_A_QUERY, commit, writing
from mmsearch.store.word_rows import rebuild

#: A file's time that no file has: the next run takes the file for changed and reads it.
_NEVER = -1
#: Rows that point to rows that are not there may be pointed to themselves.
_ROUNDS = 10


class CatalogMender:
    """The repairs of one catalog, on one connection."""

    def __init__(self, path: Path, connection: sa.Connection) -> None:
        self._path = path
        self._connection = connection

    def rebuild_table_indexes(self) -> None:
        """Builds the database's own indexes anew from its tables."""
        with writing(self._connection, self._path):
            self._connection.exec_driver_sql("REINDEX")
            commit(self._connection, "repair")

    def choose_active_space(self) -> None:
        """Searches use one space from now on: the one with most vectors."""
        with writing(self._connection, self._path):
            count = (
                sa.select(sa.func.count())
                .where(embedding.c.space_id == space.c.id)
                .scalar_subquery()
            )
            chosen = self._connection.execute(
                sa.select(space.c.id).order_by(space.c.active.desc(), count.desc(), space.c.id)
            ).scalar()
            self._connection.execute(sa.update(space).values(active=space.c.id == chosen))
            commit(self._connection, "repair")

    def recompute_hidden(self) -> None:
        """Shows the contents that files hold, and hides all others."""
        with writing(self._connection, self._path):
            self._connection.execute(
                sa.update(content).where(content.c.hidden == held()).values(hidden=~held())
            )
            commit(self._connection, "repair")

    def rebuild_words(self) -> None:
        """Makes everything that pictures and texts are found by words with anew, from the rows."""
        with writing(self._connection, self._path):
            rebuild(self._connection)
            commit(self._connection, "repair")

    def settle_details(self) -> None:
        """Puts what is known of pictures together anew, from them and the files beside them."""
        with writing(self._connection, self._path):
            resettle(self._connection)
            commit(self._connection, "repair")

    def drop_dangling(self) -> None:
        """Deletes rows that point to nothing; the files they were of are read again."""
        with writing(self._connection, self._path):
            for _ in range(_ROUNDS):
                rows = self._connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                if not rows:
                    break
                for table, rowid, parent, _ in rows:
                    self._drop_row(str(table), int(rowid), str(parent))
            # Vectors may be among them, which indexes hold.
            self._renew_origins(None)
            commit(self._connection, "repair")

    def _drop_row(self, table: str, rowid: int, parent: str) -> None:
        run = self._connection.exec_driver_sql
        if (table, parent) == ("text", "image"):
            run("UPDATE text SET image_id = NULL WHERE rowid = ?", (rowid,))
            return
        if table == "image":
            run("UPDATE text SET image_id = NULL WHERE image_id = ?", (rowid,))
        if table in ("image", "text"):
            self._read_again(table, f"{table}.rowid = {rowid}")
        run(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))

    def forget(self, contents: Collection[int], space_id: int | None = None) -> None:
        """Deletes the vectors of these contents, so that the next run reads their files again.

        space_id: only those in one space.
        """
        with writing(self._connection, self._path):
            for part in batches(contents, VALUES_A_QUERY):
                statement = sa.delete(embedding).where(embedding.c.content_id.in_(part))
                if space_id is not None:
                    statement = statement.where(embedding.c.space_id == space_id)
                self._connection.execute(statement)
                for table in (image, text_):
                    self._read_again(table.name, table.c.content_id.in_(part))
            # An index holds the old vector under the same id, and would take in the new one beside.
            self._renew_origins(space_id)
            commit(self._connection, "repair")

    def _read_again(self, table: str, which: Any) -> None:
        """Makes the next run read the files of these rows of `image` or `text`."""
        rows = image if table == "image" else text_
        where = sa.text(which) if isinstance(which, str) else which
        places = sa.select(rows.c.source_id, rows.c.path).where(where)
        plain = rows.c.member == ""
        if rows is image:
            in_container = places.where(~plain)
        else:
            carried = plain & (text_.c.origin == "embedded")
            in_container = places.where(~carried)
            self._connection.execute(
                sa.update(image)
                .where(
                    image.c.member == "",
                    sa.tuple_(image.c.source_id, image.c.path).in_(places.where(carried)),
                )
                .values(mtime_ns=_NEVER)
            )
        self._connection.execute(
            sa.delete(container).where(
                sa.tuple_(container.c.source_id, container.c.path).in_(in_container)
            )
        )

    def _renew_origins(self, space_id: int | None) -> None:
        """Takes the trust from every index that was built so far, in files and in servers."""
        statement = sa.update(space).values(created_at=now())
        self._connection.execute(
            statement if space_id is None else statement.where(space.c.id == space_id)
        )


@contextmanager
def examined(path: Path) -> Iterator[tuple[CatalogCheck, CatalogMender]]:
    """The checks and the repairs of a catalog, in one read transaction until the first repair."""
    engine = create_engine(path, read_only=not writable(path))
    try:
        with translate_errors(path), engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            yield CatalogCheck(path, connection), CatalogMender(path, connection)
    finally:
        engine.dispose()
