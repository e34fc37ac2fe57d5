"""What every write needs: many rows at once, the revision, which contents are hidden."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.sql.compiler import SQLCompiler

from mmsearch.points import reached
from mmsearch.store.details import settle
from mmsearch.store.engine import translate_errors
from mmsearch.store.schema import IS_HIDDEN, content, image, state, text_
from mmsearch.store.word_rows import renew

#: Ids in one "IN (...)": well below SQLite's limit on bound parameters (32,766).
VALUES_A_QUERY = 5000


@contextmanager
def writing(connection: sa.Connection, path: Path) -> Iterator[None]:
    """Around the statements of one transaction, which end with a commit.

    Whatever interrupts them (Ctrl-C too) undoes them: the next commit must not take half of them
    along. Errors of the database come out as StoreError.
    """
    with translate_errors(path):
        try:
            yield
        except BaseException:
            connection.rollback()
            raise


def into(table: sa.Table, *columns: str, key: Sequence[str] = ()) -> str:
    """The text of an INSERT of many rows, given as tuples of these columns (in the table's order).

    A row that is there by `key` takes the new values; without a key what is there stays. Values are
    handed over as the database keeps them (stored_path, stored_time): that costs a small part of
    what SQLAlchemy takes for a dictionary a row.
    """
    statement = insert(table)
    if key:
        changed = {name: statement.excluded[name] for name in columns if name not in key}
        statement = statement.on_conflict_do_update(index_elements=list(key), set_=changed)
    else:
        statement = statement.on_conflict_do_nothing()
    compiled = statement.compile(dialect=sqlite.dialect(), column_keys=list(columns))
    assert isinstance(compiled, SQLCompiler)
    assert compiled.positiontup == list(columns), "columns not in the order of the table"
    return str(compiled)


def run_many(connection: sa.Connection, statement: str, rows: list[tuple[Any, ...]]) -> None:
    """The statement for every row; nothing for none."""
    if rows:
        connection.exec_driver_sql(statement, rows)


def execute_many(
    connection: sa.Connection, statement: sa.Executable, rows: Sequence[dict[str, Any]]
) -> None:
    """The statement for every row; nothing for none."""
    if rows:
        connection.execute(statement, rows)


def upsert(
    connection: sa.Connection, table: sa.Table, key: Sequence[str], rows: Sequence[dict[str, Any]]
) -> None:
    """Inserts rows; one that is there by `key` takes the new values. All rows have all columns."""
    if not rows:
        return
    statement = insert(table)
    changed = [name for name in rows[0] if name not in key]
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=list(key), set_={name: statement.excluded[name] for name in changed}
        ),
        rows,
    )


def commit(connection: sa.Connection, what: str) -> None:
    """Commits, and lets readers notice by the new revision. `what` names the commit point.

    The details and words of what changed are written first, so that they are always those of the
    rows.
    """
    settle(connection)
    renew(connection)
    connection.execute(sa.update(state).values(revision=state.c.revision + 1))
    reached(f"{what}: to be committed")
    connection.commit()
    reached(f"{what}: committed")


def inside(column: Any, prefix: str) -> Any:
    """`column` lies in the folder `prefix` ("" is the whole source); "0" comes right after "/"."""
    return sa.true() if not prefix else (column >= prefix + "/") & (column < prefix + "0")


def folder_of(path: Any) -> Any:
    """The folder that a path lies in, in SQL: "a/b/" of "a/b/c.jpg", "" of "c.jpg"."""
    return sa.func.rtrim(path, sa.func.replace(path, "/", ""), type_=path.type)


def name_of(path: Any) -> Any:
    """The last part of a path, in SQL."""
    return sa.func.substr(path, sa.func.length(folder_of(path)) + 1, type_=path.type)


def is_not_ascii(column: Any) -> sa.ColumnElement[bool]:
    """Whether a text has other characters than ASCII's; GLOB takes three times as long to tell."""
    return sa.func.length(column) != sa.func.length(sa.cast(column, sa.LargeBinary))


#: That a file holds a content, in the one way or the other.
_HELD = [
    sa.exists().where(table.c.content_id == content.c.id, table.c.missing_since.is_(None))
    for table in (image, text_)
]
SHOW_HELD = sa.update(content).where(IS_HIDDEN, sa.or_(*_HELD)).values(hidden=False)


def show(connection: sa.Connection, contents: Any) -> None:
    """Makes contents (ids, or a query for them) that a file holds again visible."""
    connection.execute(
        sa.update(content).where(content.c.hidden, content.c.id.in_(contents)).values(hidden=False)
    )


def show_held(connection: sa.Connection) -> None:
    """The same for all contents. Looks at those that are hidden, and not at every file."""
    connection.execute(SHOW_HELD)


def hide(connection: sa.Connection, contents: Any) -> None:
    """Hides those of these contents that no file holds any more."""
    connection.execute(
        sa.update(content)
        .where(~content.c.hidden, content.c.id.in_(contents), *(~held for held in _HELD))
        .values(hidden=True)
    )
