"""What a library holds, read with nothing of mmsearch, and what it must still hold later."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

#: What may lie in a library folder while nobody works on it. (pattern, why)
_AT_REST = (
    "catalog.db",
    "catalog.db.*.bak",  # made before a migration, for the user to delete
    "writer.lock",
    "index/optimize.lock",
    "index",
    "index/*.faiss",
    "index/*.json",
    "index/*-captions.f32",  # vectors of the everyday captions; goes with its space
    "thumbs",
    "thumbs/*",
    "thumbs/*/*.webp",
)


@dataclass(slots=True)
class Ledger:
    """vectors: "space modality hash" → the blob. places: files and texts, with their hashes and
    whether they are missing, and tags. problems: what is wrong in any case. schema: "" before the
    first."""

    schema: str = ""
    revision: int = 0
    vectors: dict[str, bytes] = field(default_factory=dict)
    places: set[tuple[str, ...]] = field(default_factory=set)
    visible: set[int] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def read(library: Path) -> Ledger:
    """The ledger of what is committed."""
    path = library / "catalog.db"
    ledger = Ledger()
    if not path.exists():
        return ledger
    with closing(sqlite3.connect(path)) as connection:
        run = connection.execute
        ledger.problems = [row[0] for row in run("PRAGMA integrity_check") if row[0] != "ok"]
        ledger.problems += [str(row) for row in run("PRAGMA foreign_key_check")]
        tables = {row[0] for row in run("SELECT name FROM sqlite_master")}
        if "alembic_version" not in tables:
            ledger.problems += [f"table {name} before the schema" for name in sorted(tables)]
            return ledger
        ledger.schema = run("SELECT version_num FROM alembic_version").fetchone()[0]
        row = run("SELECT revision FROM state").fetchone()
        ledger.revision = row[0] if row else 0
        vectors = run(
            "SELECT fingerprint || ' ' || modality || ' ' || hex(hash), vector FROM embedding"
            " JOIN content ON content.id = content_id JOIN space ON space.id = space_id"
        ).fetchall()
        ledger.vectors = dict(vectors)
        places = [
            row
            for table, key in (("image", "''"), ("text", "key"))
            for row in run(
                f"SELECT '{table}', location, path, member, {key}, hex(hash),"
                f" iif(missing_since IS NULL, '', 'missing') FROM {table}"
                " JOIN content ON content.id = content_id JOIN source ON source.id = source_id"
            )
        ]
        if "tag" in tables:
            places += run(
                "SELECT 'tag', name, hex(hash), '', '', '', '' FROM tag"
                " JOIN content ON content.id = content_id"
            )
        ledger.places = set(places)
        ledger.visible = {
            row[0]
            for row in run(
                "SELECT content.id FROM content JOIN embedding ON content_id = content.id"
                " JOIN space ON space.id = space_id WHERE active AND modality = 'image'"
                " AND NOT hidden"
            )
        }
        if len(ledger.vectors) != len(vectors):
            ledger.problems.append("doubled: a content has two vectors in a space")
        if len({place[:5] for place in places}) != len(places):
            ledger.problems.append("doubled: a file or a text is there twice")
        for table in ("image", "text"):
            # A place and its content's vector are of one transaction.
            bare = run(
                f"SELECT count(*) FROM {table} WHERE content_id NOT IN"
                " (SELECT content_id FROM embedding)"
            ).fetchone()[0]
            ledger.problems += [f"{bare} of {table} without a vector"] if bare else []
            held = f"SELECT 1 FROM {table} WHERE content_id = content.id AND missing_since IS NULL"
            wrong = run(
                f"SELECT count(*) FROM content WHERE modality = '{table}'"
                f" AND hidden = EXISTS ({held})"
            ).fetchone()[0]
            ledger.problems += [f"{wrong} of {table} hidden wrongly"] if wrong else []
    return ledger


def lost(before: Ledger, after: Ledger, clean: Ledger) -> list[str]:
    """What was committed, would have outlasted an undisturbed run, and is not there any more."""
    vectors = {
        key
        for key, blob in before.vectors.items()
        if key in clean.vectors and after.vectors.get(key) != blob
    }
    places = (before.places & clean.places) - after.places
    return sorted(map(str, vectors | places))


def foreign(before: Ledger, after: Ledger, clean: Ledger) -> list[str]:
    """What neither was there before nor is made by an undisturbed run."""
    vectors = after.vectors.keys() - before.vectors.keys() - clean.vectors.keys()
    return sorted(map(str, {*vectors, *(after.places - before.places - clean.places)}))


def differences(after: Ledger, clean: Ledger) -> list[str]:
    """In what a finished run differs from an undisturbed one."""
    return sorted(
        map(str, (after.vectors.keys() ^ clean.vectors.keys()) | (after.places ^ clean.places))
    )


def left_over(library: Path) -> list[str]:
    """Files in the library folder that no run will ever remove."""
    return sorted(
        str(file.relative_to(library))
        for file in library.rglob("*")
        if not any(file.relative_to(library).match(pattern) for pattern in _AT_REST)
    )
