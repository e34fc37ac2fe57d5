"""The words of pictures and texts, kept in step with the rows they come from.

Two FTS5 tables, whose rows are contents that a file holds: `image_words` has the file names, the
folders, and what is known of a picture (tags that people gave it, camera, day); `text_words` has
the bodies of texts. (Tags that a model gave are what it sees, and no words about the picture.)
What texts say of a picture they are linked to, its own title, description and keywords among them,
is in `text_words` alone: a search follows the links (mmsearch.store.words), so a link that comes or
goes changes no words.

Triggers note the contents whose words may have changed in `words_stale`, whoever writes; `renew`
writes those anew, and runs before every commit within its transaction. So no reader ever sees words
that are not those of the rows, and no kill leaves any.

The tables keep the terms they hold (no `content=''`): what is deleted from an index must be known
to the letter, and SQLite learnt to look that up by itself in 3.43, which is newer than what many
systems have. `columnsize=0`: lengths of texts play no part in how matches are ranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from mmsearch.store.terms import stored

#: FTS5 table → its columns.
TABLES = {"image_words": ("names", "folders", "about"), "text_words": ("body",)}
#: The terms are made before (mmsearch.store.terms); this tokenizer splits at the spaces.
TABLE_SQL = {
    name: f"CREATE VIRTUAL TABLE {name} USING fts5"
    f"({', '.join(columns)}, tokenize='ascii', columnsize=0)"
    for name, columns in TABLES.items()
}


def _noting(when: str, ids: str) -> str:
    # Not "INSERT OR IGNORE": what the statement says that fires the trigger would win over it.
    return (
        f"{when} BEGIN INSERT INTO words_stale SELECT {ids} WHERE NOT EXISTS "
        f"(SELECT 1 FROM words_stale WHERE content_id = {ids}); END"
    )


def _changed(*columns: str) -> str:
    differs = " OR ".join(f"old.{name} IS NOT new.{name}" for name in columns)
    return f"AFTER UPDATE OF {', '.join(columns)} ON {{}} WHEN {differs}"


_OF_PLACE = ("source_id", "path", "member", "name", "missing_since")
#: Trigger → how it is made. What a row was of and what it is of now are different triggers.
TRIGGER_SQL = {
    f"words_{name}": f"CREATE TRIGGER words_{name} {_noting(when, ids)}"
    for name, when, ids in (
        ("image_new", "AFTER INSERT ON image", "new.content_id"),
        ("image_gone", "AFTER DELETE ON image", "old.content_id"),
        ("image_other", _changed("content_id").format("image"), "old.content_id"),
        ("image_changed", _changed("content_id", *_OF_PLACE).format("image"), "new.content_id"),
        ("picture_new", "AFTER INSERT ON picture", "new.content_id"),
        ("picture_gone", "AFTER DELETE ON picture", "old.content_id"),
        ("picture_changed", _changed("camera", "taken_at").format("picture"), "new.content_id"),
        ("passage_new", "AFTER INSERT ON passage", "new.content_id"),
        ("passage_gone", "AFTER DELETE ON passage", "old.content_id"),
        ("passage_changed", _changed("body").format("passage"), "new.content_id"),
        ("tag_new", "AFTER INSERT ON tag", "new.content_id"),
        ("tag_gone", "AFTER DELETE ON tag", "old.content_id"),
        ("tag_changed", _changed("name", "score").format("tag"), "new.content_id"),
        ("content_changed", _changed("hidden").format("content"), "new.id"),
    )
} | {
    "words_source_changed": (
        f"CREATE TRIGGER words_source_changed {_changed('name').format('source')} "
        "BEGIN INSERT INTO words_stale SELECT DISTINCT content_id FROM image "
        "WHERE source_id = new.id AND content_id NOT IN (SELECT content_id FROM words_stale); END"
    )
}

_IDS_A_CHUNK = 4000
_STALE = "SELECT content_id AS id FROM words_stale WHERE content_id BETWEEN ? AND ?"
_EVERY = "SELECT id FROM content WHERE id BETWEEN ? AND ?"

Terms = dict[int, tuple[str, ...]]


class _Stored(dict[str, str]):
    """Text → its terms as they are kept, found once."""

    def __missing__(self, text: str) -> str:
        self[text] = terms = stored(text)
        return terms


def renew(connection: sa.Connection) -> None:
    """Brings the words of stale contents up to date. The caller commits."""
    run = connection.exec_driver_sql
    while True:
        ids = run(
            f"SELECT content_id FROM words_stale ORDER BY content_id LIMIT {_IDS_A_CHUNK}"
        ).scalars().all()  # fmt: skip
        if not ids:
            return
        span = (ids[0], ids[-1])
        for table in TABLES:
            kept = _rows(
                connection,
                f"WITH which AS ({_STALE}) SELECT w.* FROM which CROSS JOIN {table}_content AS w "
                "ON w.id = which.id",
                span,
            )
            write(connection, table, kept, due(connection, table, _STALE, span))
        run("DELETE FROM words_stale WHERE content_id BETWEEN ? AND ?", span)


def write(connection: sa.Connection, table: str, kept: Terms, wanted: Terms) -> None:
    """Makes the rows `kept` of a table those `wanted`."""
    run = connection.exec_driver_sql
    columns = TABLES[table]
    gone = [(id_,) for id_ in kept if id_ not in wanted]
    new = [(id_, *words) for id_, words in wanted.items() if id_ not in kept]
    other = [(*words, id_) for id_, words in wanted.items() if kept.get(id_, words) != words]
    if gone:
        run(f"DELETE FROM {table} WHERE rowid = ?", gone)
    if other:
        values = ", ".join(f"{name} = ?" for name in columns)
        run(f"UPDATE {table} SET {values} WHERE rowid = ?", other)
    if new:
        marks = ", ".join("?" * (1 + len(columns)))
        run(f"INSERT INTO {table} (rowid, {', '.join(columns)}) VALUES ({marks})", new)


def kept_between(connection: sa.Connection, table: str, first: int, last: int) -> Terms:
    """What a table has for the contents with ids `first` to `last`."""
    return _rows(
        connection, f"SELECT * FROM {table}_content WHERE id BETWEEN ? AND ?", (first, last)
    )


def due_between(connection: sa.Connection, table: str, first: int, last: int) -> Terms:
    """What it should have for them."""
    return due(connection, table, _EVERY, (first, last))


def _rows(connection: sa.Connection, query: str, span: Sequence[int]) -> Terms:
    rows = connection.exec_driver_sql(query, tuple(span)).all()
    return {row[0]: tuple(row[1:]) for row in rows}


def due(connection: sa.Connection, table: str, which: str, span: Sequence[int]) -> Terms:
    """The words of the visible contents that the query `which` gives for `span`, by id."""

    # CROSS JOIN keeps SQLite from beginning with all contents of a modality and asking of each
    # whether it is among the few.
    def run(query: str) -> Sequence[Any]:
        return connection.exec_driver_sql(f"WITH which AS ({which}) {query}", tuple(span)).all()

    if table == "text_words":
        bodies = run(
            "SELECT c.id, p.body FROM which CROSS JOIN content c ON c.id = which.id "
            "CROSS JOIN passage p ON p.content_id = c.id WHERE c.modality = 'text' AND NOT c.hidden"
        )
        return {id_: (words,) for id_, body in bodies if (words := stored(body))}
    files = run(
        "SELECT c.id, i.path, i.member, i.name, s.name, p.camera, substr(p.taken_at, 1, 10) "
        "FROM which CROSS JOIN content c ON c.id = which.id "
        "CROSS JOIN image i ON i.content_id = c.id CROSS JOIN source s ON s.id = i.source_id "
        "LEFT JOIN picture p ON p.content_id = c.id WHERE c.modality = 'image' AND NOT c.hidden "
        "AND i.missing_since IS NULL ORDER BY which.id, i.id"
    )
    # Files that are one after the other have much in common: each text is taken apart once.
    said = _Stored()
    names: dict[int, list[str]] = {}
    folders: dict[int, list[str]] = {}
    about: dict[int, list[str]] = {}
    for id_, path, member, name, source, camera, day in files:
        folder = f"{path}/{member.rpartition('/')[0]}" if member else path.rpartition("/")[0]
        if id_ not in names:
            names[id_], folders[id_] = [], []
            about[id_] = [said[text] for text in (camera, day) if text]
        names[id_].append(stored(name))
        folders[id_].append(said[f"{source}/{folder}"])
    for id_, tag in run(
        "SELECT t.content_id, t.name FROM which CROSS JOIN tag t ON t.content_id = which.id "
        "WHERE t.score IS NULL ORDER BY which.id, t.name"
    ):
        if id_ in about:
            about[id_].append(said[tag])
    return {
        id_: (_each_once(found), _each_once(folders[id_]), " ".join(filter(None, about[id_])))
        for id_, found in names.items()
    }


def _each_once(texts: list[str]) -> str:
    return " ".join(dict.fromkeys(texts)) if len(texts) > 1 else texts[0]


def scrub(connection: sa.Connection, table: str) -> None:
    """Leaves no trace of deleted words in the index of a table. The caller commits.

    A deleted term stays in its segment, marked, until that is merged: this merges them all, which
    writes the index once. The connection overwrites what it frees (PRAGMA secure_delete). FTS5's
    own "secure-delete" is younger than the SQLite of many systems, and they could then not read it.
    """
    connection.exec_driver_sql(f"INSERT INTO {table} ({table}) VALUES ('optimize')")


def rebuild(connection: sa.Connection) -> None:
    """Makes tables and triggers anew, and all words. The caller commits."""
    run = connection.exec_driver_sql
    for name, statement in TRIGGER_SQL.items():
        run(f"DROP TRIGGER IF EXISTS {name}")
        run(statement)
    for name, statement in TABLE_SQL.items():
        run(f"DROP TABLE IF EXISTS {name}")
        run(statement)
    run("DELETE FROM words_stale")
    run("INSERT INTO words_stale SELECT id FROM content")
    renew(connection)
