"""`mmsearch export URL`: what it says, and what is PostgreSQL's alone."""

from __future__ import annotations

import itertools
import sys
import traceback
from pathlib import Path

import pytest
from click.testing import CliRunner
from collection import run, write_seven
from databases import Database, PostgreSQLDatabase, mirrored

from indexer.exchange import mirroring
from indexer.exchange.mirroring import mirror
from mmsearch.cli import cli
from mmsearch.errors import EngineError, IndexMissingError, RefusedError
from mmsearch.library import CATALOG_NAME, Library
from mmsearch.store import Catalog, CatalogWriter

NUMBERS = itertools.count()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_seven(tmp_path / "photos")


# --- what only one of them has ------------------------------------------------------------------


def test_postgresql_searches_by_an_index(
    postgresql: PostgreSQLDatabase, photos: Path, library: Path, model: str
) -> None:
    run(library, photos, model=model)
    mirrored(library, postgresql)
    made = [row["indexdef"] for row in postgresql.run("SELECT indexdef FROM pg_indexes")]
    assert sum("USING hnsw (vector halfvec_cosine_ops)" in one for one in made) == 2
    (column,) = postgresql.run(
        "SELECT format_type(atttypid, atttypmod) AS kind FROM pg_attribute "
        "WHERE attrelid = 'mmsearch.pictures'::regclass AND attname = 'vector'"
    )
    assert column["kind"] == "halfvec(48)"
    asked = str([1.0] + [0.0] * 47)
    postgresql.run(f"ALTER DATABASE {postgresql.database} SET enable_seqscan = off")
    plan = postgresql.run(
        f"EXPLAIN SELECT id FROM mmsearch.pictures ORDER BY vector <=> '{asked}' LIMIT 3"
    )
    assert any("Index Scan using" in row["QUERY PLAN"] for row in plan), plan


def test_tables_of_somebody_else_are_left_alone(
    postgresql: PostgreSQLDatabase, photos: Path, library: Path, model: str
) -> None:
    postgresql.run("CREATE TABLE public.pictures (mine int)")
    run(library, photos, model=model)
    with pytest.raises(RefusedError, match=r"has a table pictures that is no mirror.*--name"):
        mirrored(library, postgresql, name="public")
    assert postgresql.run("SELECT * FROM public.pictures") == []


def test_a_view_on_the_mirror_is_not_dropped_with_it(
    postgresql: PostgreSQLDatabase, photos: Path, library: Path, model: str
) -> None:
    run(library, photos, model=model)
    mirrored(library, postgresql)
    postgresql.run("CREATE VIEW public.mine AS SELECT path FROM mmsearch.pictures")
    with pytest.raises(EngineError, match=r"view mine depends on.*drop it, run the command again"):
        mirrored(library, postgresql, replace_other=True)
    assert len(postgresql.run("SELECT * FROM public.mine")) == 7
    postgresql.run("DROP VIEW public.mine")
    assert mirrored(library, postgresql, replace_other=True).sent == 0  # it was all there


def test_two_runs_at_once_are_refused(
    postgresql: PostgreSQLDatabase, photos: Path, library: Path, model: str
) -> None:
    from mmsearch.store.postgresql import PostgreSQL

    run(library, photos, model=model)
    with PostgreSQL(postgresql.url, "mmsearch") as other:
        other._lock()
        with pytest.raises(RefusedError, match="another run is writing"):
            mirrored(library, postgresql)
    mirrored(library, postgresql)


def test_without_rights_it_says_what_an_administrator_does(
    postgresql: PostgreSQLDatabase, photos: Path, library: Path, model: str
) -> None:
    run(library, photos, model=model)
    who = f"reader{next(NUMBERS)}"
    postgresql.run(f"CREATE ROLE {who} LOGIN PASSWORD 'sEcret'")
    weak = postgresql.url.replace("postgres@", f"{who}:sEcret@")
    with Library(library) as lib:
        with pytest.raises(EngineError, match="CREATE SCHEMA mmsearch AUTHORIZATION"):
            mirror(lib, weak)
        postgresql.run(f"CREATE SCHEMA mmsearch AUTHORIZATION {who}; CREATE EXTENSION vector")
        assert mirror(lib, weak).sent == 12


# --- the command --------------------------------------------------------------------------------


def test_the_command_says_what_it_did(
    database: Database, photos: Path, library: Path, model: str
) -> None:
    run(library, photos, model=model)
    words = ["-l", str(library), "export", database.url]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "7 pictures, 5 texts" in done.output
    assert "12 sent, 0 deleted" in done.output
    assert "Places where pictures were taken are left out" in done.output
    assert "nothing has changed" in CliRunner().invoke(cli, words).output


def test_ctrl_c_keeps_what_was_sent(
    database: Database,
    photos: Path,
    library: Path,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(library, photos, model=model)
    words = ["-l", str(library), "export", database.url]

    def stop(point: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mirroring, "_ROWS_A_BATCH", 2)
        patch.setattr(mirroring, "reached", stop)
        done = CliRunner().invoke(cli, words)
    assert done.exit_code == 130
    assert "Stopped: 2 sent" in done.output
    assert "10 sent, 0 deleted" in CliRunner().invoke(cli, words).output


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://me:sEcret@localhost:1/photos", "PGPASSWORD or ~/.pgpass"),
        ("postgresql://me@localhost:1/photos?password=sEcret", "PGPASSWORD or ~/.pgpass"),
        ("postgresql://me:sEcret@localhost:1/", "names no database"),
        ("postgresql://me:sEc:ret@@localhost:x/photos", "is not understood"),
        ("milvus+http://me:sEcret@localhost:1", "MILVUS_TOKEN"),
        ("milvus+http://me:sEcret@localhost:x", "is not understood"),
        ("milvus:/nowhere/at/all.db", "in a folder that is there"),
        ("milvus:photos", "milvus:"),
        ("mysql://me:sEcret@localhost/photos", "write postgresql://"),
    ],
)
def test_what_cannot_be_reached_is_said_without_secrets(
    url: str, says: str, photos: Path, library: Path, model: str
) -> None:
    pytest.importorskip("psycopg", reason="NOT TESTED: pip install 'psycopg[binary]'")
    pytest.importorskip("pymilvus", reason="NOT TESTED: pip install pymilvus milvus-lite")
    run(library, photos / "copies", model=model)
    done = CliRunner().invoke(cli, ["-l", str(library), "export", url])
    assert isinstance(done.exception, EngineError)
    # All that a traceback would show, too.
    shown = "".join(traceback.format_exception(done.exception)) + done.output
    assert says in str(done.exception)
    assert "sEc" not in shown


@pytest.mark.parametrize("what", ["psycopg", "pymilvus"])
def test_what_is_not_installed_is_said(
    what: str, photos: Path, library: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, what, None)
    run(library, photos / "copies", model=model)
    url = "postgresql://localhost/x" if what == "psycopg" else f"milvus:{library}.db"
    extra = "postgresql" if what == "psycopg" else "milvus"
    with Library(library) as lib, pytest.raises(EngineError, match=f"mmsearch\\[{extra}\\]"):
        mirror(lib, url)


def test_an_empty_library_is_said(library: Path, tmp_path: Path) -> None:
    library.mkdir()
    CatalogWriter(library / CATALOG_NAME).close()
    Catalog(library / CATALOG_NAME).close()
    with Library(library) as lib, pytest.raises(IndexMissingError):
        mirror(lib, f"milvus:{tmp_path}/x.db")
