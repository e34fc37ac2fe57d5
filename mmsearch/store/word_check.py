"""Whether the words of a catalog are those of its rows; nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from mmsearch.store.word_rows import TABLES, TRIGGER_SQL, due_between, kept_between

_IDS_A_CHUNK = 4000


@dataclass(frozen=True, slots=True)
class WordFaults:
    """contents: how many have been compared. wrong: how many have other words than their rows.

    indexes: tables whose index does not agree with the words in it. triggers: those that are not
    there as they should be, so that changes go unnoticed.
    """

    contents: int
    wrong: int
    indexes: tuple[str, ...]
    triggers: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.wrong or self.indexes or self.triggers)


def find_word_faults(connection: sa.Connection) -> WordFaults:
    """Compares all words with what they should be. What is noted as stale is not at fault.

    Raises:
        sqlalchemy.exc.DatabaseError: the tables cannot be read.
    """
    run = connection.exec_driver_sql
    rows = run("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").all()
    made = {str(row[0]): str(row[1]) for row in rows}
    triggers = [name for name, sql in TRIGGER_SQL.items() if made.get(name) != sql]
    stale = set(run("SELECT content_id FROM words_stale").scalars())
    contents, wrong = 0, 0
    indexes = []
    for table in TABLES:
        terms = 0
        last = run(
            f"SELECT max(ifnull((SELECT max(id) FROM {table}_content), 0), "
            "ifnull((SELECT max(id) FROM content), 0))"
        ).scalar_one()
        for first in range(0, last + 1, _IDS_A_CHUNK):
            span = (first, first + _IDS_A_CHUNK - 1)
            kept = kept_between(connection, table, *span)
            wanted = due_between(connection, table, *span)
            contents += len(wanted)
            if kept != wanted:
                differ = {
                    id_ for id_ in kept.keys() | wanted.keys() if kept.get(id_) != wanted.get(id_)
                }
                wrong += len(differ - stale)
            for words in kept.values():
                for text in words:
                    terms += sum(map(hash, text.split()))
        if not _agrees(connection, table, terms):
            indexes.append(table)
    return WordFaults(contents, wrong, tuple(indexes), tuple(triggers))


def _agrees(connection: sa.Connection, table: str, terms: int) -> bool:
    """Whether the index holds just these terms, each as often.

    terms: the sum of their hashes. Python's are of 64 bits and others in each process, so that of
    two lists that differ the sums do too; the terms themselves would be hundreds of megabytes.

    FTS5's own integrity-check would need to write.
    """
    run = connection.exec_driver_sql
    run(
        f"CREATE VIRTUAL TABLE IF NOT EXISTS temp.{table}_terms USING fts5vocab(main, {table}, row)"
    )
    try:
        for term, count in run(f"SELECT term, cnt FROM temp.{table}_terms"):
            terms -= hash(term) * count
    except sa.exc.DatabaseError:  # so damaged that it cannot even be read
        return False
    return not terms
