"""What is about to be written, in a temporary table: looked up all at once instead of one by one.

Statements begin with the rows staged (`p`), which are few, and look each up by an index: CROSS JOIN
keeps SQLite from beginning with the other side, which may be a whole library.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from mmsearch.store.schema import incoming, stored_path
from mmsearch.store.transaction import into, run_many

_STAGE = into(incoming, "n", "source_id", "path", "member", "key", "hash")
_HOLDERS = (
    "SELECT p.n, i.id FROM incoming AS p CROSS JOIN image AS i "
    "ON i.source_id = p.source_id AND i.path = p.path AND i.member = p.member "
    "WHERE i.missing_since IS NULL"
)


def stage(connection: sa.Connection, rows: Iterable[tuple[int, str, str, str, bytes]]) -> None:
    """Makes the table hold these rows: source id, path, member, key, hash; `n` is the position."""
    connection.exec_driver_sql("DELETE FROM incoming")
    run_many(
        connection,
        _STAGE,
        [
            (n, source_id, stored_path(path), stored_path(member), key, digest)
            for n, (source_id, path, member, key, digest) in enumerate(rows)
        ],
    )


def images_at(connection: sa.Connection) -> dict[int, int]:
    """n → the id of the image row whose file is at that place now."""
    return dict(map(tuple, connection.exec_driver_sql(_HOLDERS).all()))
