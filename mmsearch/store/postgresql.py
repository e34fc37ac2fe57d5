"""A library mirrored into PostgreSQL, with pgvector (https://github.com/pgvector/pgvector).

One schema holds pictures, texts, links and mirror, which says what is mirrored. What is built
anew, because the model is another one, is built in tables of the same names with "_next" behind
them, and takes their place in one transaction. A batch is one transaction, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from mmsearch.errors import EngineError, RefusedError
from mmsearch.mirror import Kind, Mirrored, MirroredPicture, MirroredText

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_HALVES_SINCE = (0, 7)
"""The pgvector that brought halfvec: float16, as the library keeps them."""
_NAMES = ("pictures", "texts", "links")
_INSTALL = (
    "install pgvector on its machine (Debian, Ubuntu: apt install postgresql-17-pgvector, with the "
    "server's own number; others: https://github.com/pgvector/pgvector)"
)


class _Vector(sa.types.UserDefinedType[str]):
    """A column of vectors; values go in as pgvector writes them."""

    cache_ok = True

    def __init__(self, spelled: str) -> None:
        self.spelled = spelled

    def get_col_spec(self, **_: Any) -> str:
        return self.spelled


class PostgreSQL:
    """mmsearch.mirror.Engine in a schema of a PostgreSQL database."""

    def __init__(self, url: str, schema: str) -> None:
        """Connects. url: as PostgreSQL's own programs take it.

        Raises EngineError.
        """
        parsed = _parsed(url)
        self.where = f"{_place(parsed)}, schema {schema}"
        self._schema = schema
        self._secrets = [value for value in (parsed.password, *_hidden(parsed)) if value]
        try:
            self._engine = sa.create_engine(parsed, poolclass=sa.pool.NullPool)
        except ImportError as exc:
            raise EngineError(
                "PostgreSQL is reached by psycopg, which is not installed: "
                "pip install 'mmsearch[postgresql]'"
            ) from exc
        self._connected = False
        with self._told():
            self._connection = self._engine.connect()
        self._connected = True
        self._state = _state(schema)
        self._beside = False
        self._tables: dict[str, sa.Table] = {}
        self._digits = 9

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()
        self._engine.dispose()

    # --- what is there --------------------------------------------------------------------------

    def mirrored(self) -> Mirrored | None:
        return self._noted(complete=True)

    def _noted(self, *, complete: bool) -> Mirrored | None:
        with self._transaction() as connection:
            if not self._there("mirror"):
                return None
            columns = [self._state.c[field.name] for field in fields(Mirrored)]
            row = connection.execute(
                sa.select(*columns).where(self._state.c.complete.is_(complete))
            ).one_or_none()
        return None if row is None else Mirrored(**row._mapping)

    def _there(self, name: str) -> bool:
        return sa.inspect(self._connection).has_table(name, schema=self._schema)

    def begin(self, wanted: Mirrored, *, beside: bool) -> None:
        self._lock()
        now, next_ = self._noted(complete=True), self._noted(complete=False)
        self._beside = beside
        suffix = "_next" if beside else ""
        with self._transaction() as connection:
            self._prepare(connection)
            self._tables = self._described(connection, wanted.dim, suffix)
            taken = [name for name in _NAMES if now is None and self._there(name)]
            if taken:
                raise RefusedError(
                    f"{self.where} has a table {taken[0]} that is no mirror of a library: give the "
                    "mirror a name of its own with --name"
                )
            if beside and (next_ is None or not next_.fits(wanted)):
                self._drop(connection, "_next")
                for table in self._tables.values():
                    connection.execute(sa.schema.CreateTable(table))
                # Without a name: PostgreSQL finds one that is free, as tables change theirs.
                links = connection.dialect.identifier_preparer.format_table(self._tables["links"])
                connection.exec_driver_sql(f"CREATE INDEX ON {links} (text_id)")
                self._note(connection, wanted, complete=False)

    def _lock(self) -> None:
        """Two runs at once would undo each other's work. Lasts as long as the connection."""
        key = sa.func.hashtext(f"mmsearch mirror {self._schema}")
        with self._transaction() as connection:
            got = connection.execute(sa.select(sa.func.pg_try_advisory_lock(key))).scalar()
        if not got:
            raise RefusedError(f"another run is writing to {self.where}: wait until it is done")

    def _prepare(self, connection: sa.Connection) -> None:
        """The schema, the extension, the table of what is mirrored."""
        if not sa.inspect(connection).has_schema(self._schema):
            connection.execute(sa.schema.CreateSchema(self._schema))
        if _extension(connection) is None:
            available = "SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"
            if connection.exec_driver_sql(available).scalar() is None:
                raise EngineError(f"{self.where}: the server has no pgvector: {_INSTALL}")
            connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(sa.schema.CreateTable(self._state, if_not_exists=True))

    def _described(self, connection: sa.Connection, dim: int, suffix: str) -> dict[str, sa.Table]:
        found = _extension(connection)
        assert found is not None
        version, home = found
        halves = version >= _HALVES_SINCE
        kind = "halfvec" if halves else "vector"
        self._digits = 5 if halves else 9  # as many as tell every value from its neighbours
        quoted = connection.dialect.identifier_preparer.quote(home)
        self._operators = f"{quoted}.{kind}_cosine_ops"
        return _described(self._schema, suffix, _Vector(f"{quoted}.{kind}({dim})"))

    def _drop(self, connection: sa.Connection, suffix: str) -> None:
        """Deletes tables, and nothing that others have built on them: that is refused."""
        for name in _NAMES:
            table = sa.Table(f"{name}{suffix}", sa.MetaData(), schema=self._schema)
            connection.execute(sa.schema.DropTable(table, if_exists=True))

    def _note(self, connection: sa.Connection, what: Mirrored, *, complete: bool) -> None:
        connection.execute(sa.delete(self._state).where(self._state.c.complete.is_(complete)))
        connection.execute(
            sa.insert(self._state).values(
                asdict(what) | {"complete": complete, "at": sa.func.now()}
            )
        )

    # --- rows -----------------------------------------------------------------------------------

    def held(self, kind: Kind, after: int, up_to: int) -> dict[int, str]:
        table = self._tables[kind]
        with self._transaction() as connection:
            rows = connection.execute(
                sa.select(table.c.id, table.c.digest).where(table.c.id > after, table.c.id <= up_to)
            )
            return {row.id: row.digest for row in rows}

    def put_pictures(self, rows: Sequence[MirroredPicture], vectors: NDArray[np.float16]) -> None:
        links = self._tables["links"]
        pairs = [
            {"picture_id": row.id, "text_id": text_id, "position": position}
            for row in rows
            for position, text_id in enumerate(row.text_ids, 1)
        ]
        with self._transaction() as connection:
            self._put(connection, "pictures", rows, vectors)
            connection.execute(
                sa.delete(links).where(links.c.picture_id.in_([row.id for row in rows]))
            )
            if pairs:
                connection.execute(sa.insert(links), pairs)

    def put_texts(self, rows: Sequence[MirroredText], vectors: NDArray[np.float16]) -> None:
        with self._transaction() as connection:
            self._put(connection, "texts", rows, vectors)

    def _put(
        self,
        connection: sa.Connection,
        kind: Kind,
        rows: Sequence[MirroredPicture | MirroredText],
        vectors: NDArray[np.float16],
    ) -> None:
        table = self._tables[kind]
        written = f"%.{self._digits}g"
        values = []
        for row, vector in zip(rows, vectors.tolist(), strict=True):
            value = {
                name: list(given) if isinstance(given, tuple) else given
                for name, given in asdict(row).items()
                if name in table.c
            }
            value["vector"] = f"[{','.join([written % number for number in vector])}]"
            values.append(value)
        statement = pg.insert(table)
        others = {c.name: statement.excluded[c.name] for c in table.c if c.name != "id"}
        connection.execute(
            statement.on_conflict_do_update(index_elements=["id"], set_=others), values
        )

    def delete(self, kind: Kind, ids: Sequence[int]) -> None:
        table, links = self._tables[kind], self._tables["links"]
        with self._transaction() as connection:
            connection.execute(sa.delete(table).where(table.c.id.in_(ids)))
            if kind == "pictures":
                connection.execute(sa.delete(links).where(links.c.picture_id.in_(ids)))

    # --- the end --------------------------------------------------------------------------------

    def finish(self, done: Mirrored) -> None:
        if self._beside:
            for kind in ("pictures", "texts"):
                self._index(self._tables[kind])
        with self._transaction() as connection:
            if self._beside:
                self._drop(connection, "")
                quote = connection.dialect.identifier_preparer.quote
                for name in _NAMES:
                    connection.exec_driver_sql(
                        f"ALTER TABLE {quote(self._schema)}.{name}_next RENAME TO {name}"
                    )
            else:
                self._drop(connection, "_next")  # what a run towards another model has left
            connection.execute(sa.delete(self._state))
            self._note(connection, done, complete=True)

    def _index(self, table: sa.Table) -> None:
        """Makes the index of vectors: after the rows, which takes a fraction of the time."""
        with self._transaction() as connection:
            made = (
                "SELECT 1 FROM pg_indexes "
                "WHERE schemaname = %s AND tablename = %s AND indexdef LIKE %s"
            )
            arguments = (self._schema, table.name, "%USING hnsw%")
            if connection.exec_driver_sql(made, arguments).scalar() is None:
                name = connection.dialect.identifier_preparer.format_table(table)
                connection.exec_driver_sql(
                    f"CREATE INDEX ON {name} USING hnsw (vector {self._operators})"
                )
                connection.exec_driver_sql(f"ANALYZE {name}")

    # --- errors ---------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self._told(), self._connection.begin():
            yield self._connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as exc:
            # Not str(exc), which holds the values of a batch; nor the chain, which holds them too.
            raise EngineError(f"{self.where}: {self._said(exc)}") from None

    def _said(self, exc: sa.exc.DBAPIError) -> str:
        said = " ".join(str(exc.orig).split())
        for secret in self._secrets:
            said = said.replace(secret, "***")
        state = getattr(exc.orig, "sqlstate", None) or ""
        advice = _ADVICE.get(state, _AGAIN) if self._connected else _CONNECT
        return f"{said.rstrip('.')}. {advice}"


_AGAIN = "What was sent is kept: the same command goes on from there"
_CONNECT = (
    "Is the server running there, is there such a database, and may you connect? A password is "
    "taken from PGPASSWORD or ~/.pgpass"
)
#: What to do, by SQLSTATE.
_ADVICE = {
    "42501": (
        "An administrator does it once: CREATE EXTENSION vector; CREATE SCHEMA mmsearch "
        "AUTHORIZATION you (--name says which schema)"
    ),
    "2BP01": (
        "Something of yours is built on tables that are to be replaced, as the model is another "
        "one: drop it, run the command again, and make it anew"
    ),
}


def _parsed(url: str) -> sa.URL:
    try:
        found = sa.make_url(re.sub(r"^postgres(ql)?(\+psycopg)?:", "postgresql+psycopg:", url))
    except (sa.exc.ArgumentError, ValueError):
        # What was typed is not repeated: there may be a password in it.
        raise EngineError(
            "the address is not understood: write it as postgresql://user@host:5432/database"
        ) from None
    if not found.database:
        raise EngineError(
            "the address names no database: write it as postgresql://user@host:5432/database"
        )
    return found


def _hidden(url: sa.URL) -> list[str]:
    """Passwords that stand among the options of an address."""
    found = [value for name, value in url.query.items() if "password" in name.lower()]
    return [value if isinstance(value, str) else value[0] for value in found]


def _place(url: sa.URL) -> str:
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{url.host or ''}{port}/{url.database}"


def _extension(connection: sa.Connection) -> tuple[tuple[int, ...], str] | None:
    """The version of pgvector in this database, and the schema that it is in."""
    row = connection.exec_driver_sql(
        "SELECT extversion, nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace "
        "WHERE extname = 'vector'"
    ).one_or_none()
    if row is None:
        return None
    return tuple(int(part) for part in re.findall(r"\d+", row.extversion)), row.nspname


def _state(schema: str) -> sa.Table:
    """One row for what can be searched (complete), one for what is being built beside it."""
    return sa.Table(
        "mirror",
        sa.MetaData(),
        sa.Column("complete", sa.Boolean, primary_key=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("dim", sa.Integer, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("preprocessing", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("gps", sa.Boolean, nullable=False),
        sa.Column("layout", sa.Integer, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        schema=schema,
    )


def _described(schema: str, suffix: str, vector: _Vector) -> dict[str, sa.Table]:
    metadata = sa.MetaData()
    texts_ = pg.ARRAY(sa.Text)
    pictures = sa.Table(
        f"pictures{suffix}",
        metadata,
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("copies", texts_, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("format", sa.Text, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("taken_at", sa.DateTime),
        sa.Column("camera", sa.Text),
        sa.Column("title", sa.Text),
        sa.Column("description", sa.Text),
        sa.Column("keywords", texts_, nullable=False),
        sa.Column("tags", texts_, nullable=False),
        sa.Column("caption", sa.Text),
        sa.Column("latitude", sa.Double),
        sa.Column("longitude", sa.Double),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("vector", vector, nullable=False),
        schema=schema,
    )
    texts = sa.Table(
        f"texts{suffix}",
        metadata,
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("tags", texts_, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("vector", vector, nullable=False),
        schema=schema,
    )
    # No foreign keys: pictures come before their texts, and go after them.
    links = sa.Table(
        f"links{suffix}",
        metadata,
        sa.Column("picture_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("text_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("position", sa.Integer, nullable=False),
        schema=schema,
    )
    return {"pictures": pictures, "texts": texts, "links": links}
