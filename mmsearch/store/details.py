"""What is known of pictures, kept in step with the files beside them.

A file beside a picture tells of a place (`image.told`); what is known is kept for the content
(`picture`), which several places may hold. It is what the picture says of itself, joined with what
is told at all places that are there, in order of their paths: whatever came first, the same comes
out. While anything is told, `picture.own` holds what the picture itself says.

Triggers note the contents for which that may have changed in `details_stale`, whoever writes;
`settle` puts them together anew and runs before every commit within its transaction.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from mmsearch.store.schema import details_stale, image, picture, stored_time
from mmsearch.told import Told, own_json, told_of, with_own, with_told
from mmsearch.types import PictureInfo

_CONTENTS_A_CHUNK = 4000


def _noting(when: str, id_: str) -> str:
    # Not "INSERT OR IGNORE": what the statement says that fires the trigger would win over it.
    return (
        f"{when} BEGIN INSERT INTO details_stale SELECT {id_} WHERE NOT EXISTS "
        f"(SELECT 1 FROM details_stale WHERE content_id = {id_}); END"
    )


_OF_PLACE = ("content_id", "path", "member", "missing_since", "told")
_DIFFERS = " OR ".join(f"old.{name} IS NOT new.{name}" for name in _OF_PLACE)
#: Trigger → how it is made. Places where nothing is told change nothing.
TRIGGER_SQL = {
    f"details_{name}": f"CREATE TRIGGER details_{name} {_noting(when, id_)}"
    for name, when, id_ in (
        ("image_new", "AFTER INSERT ON image WHEN new.told IS NOT NULL", "new.content_id"),
        ("image_gone", "AFTER DELETE ON image WHEN old.told IS NOT NULL", "old.content_id"),
        (
            "image_other",
            "AFTER UPDATE OF content_id ON image WHEN old.told IS NOT NULL "
            "AND old.content_id IS NOT new.content_id",
            "old.content_id",
        ),
        (
            "image_changed",
            f"AFTER UPDATE OF {', '.join(_OF_PLACE)} ON image "
            f"WHEN ifnull(old.told, new.told) IS NOT NULL AND ({_DIFFERS})",
            "new.content_id",
        ),
    )
}

_UPDATE = (
    "UPDATE picture SET taken_at = ?, latitude = ?, longitude = ?, title = ?, description = ?, "
    "keywords = ?, own = ?, changed = CASE WHEN ? THEN (SELECT revision + 1 FROM state) "
    "ELSE changed END WHERE content_id = ?"
)


def picture_info(row: Any) -> PictureInfo:
    """What is known of the picture of a row of `picture`."""
    return PictureInfo(
        format=row.format,
        width=row.width,
        height=row.height,
        taken_at=row.taken_at,
        camera=row.camera,
        latitude=row.latitude,
        longitude=row.longitude,
        title=row.title,
        description=row.description,
        keywords=tuple(row.keywords),
    )


def own_info(row: Any) -> PictureInfo:
    """What the picture of a row of `picture` says of itself."""
    info = picture_info(row)
    return info if row.own is None else with_own(info, row.own)


def settle(connection: sa.Connection) -> None:
    """Brings the details of stale contents up to date. The caller commits."""
    while True:
        ids = (
            connection.execute(
                sa.select(details_stale.c.content_id)
                .order_by(details_stale.c.content_id)
                .limit(_CONTENTS_A_CHUNK)
            )
            .scalars()
            .all()
        )
        if not ids:
            return
        among = sa.select(details_stale.c.content_id).where(
            details_stale.c.content_id.between(ids[0], ids[-1])
        )
        _write(connection, due(connection, among))
        connection.execute(
            sa.delete(details_stale).where(details_stale.c.content_id.between(ids[0], ids[-1]))
        )


Due = tuple[Any, PictureInfo, str | None]


def due(connection: sa.Connection, among: sa.Select[Any] | sa.CompoundSelect[Any]) -> Iterator[Due]:
    """For those contents of a query that are not as they should be: the row of `picture`, what is
    to be known of it, and what is to be kept of what it says of itself."""
    told: defaultdict[int, list[Told]] = defaultdict(list)
    places = (
        sa.select(image.c.content_id, image.c.told)
        .where(image.c.content_id.in_(among), image.c.told.is_not(None))
        .where(image.c.missing_since.is_(None))
        .order_by(image.c.content_id, image.c.path, image.c.member, image.c.told)
    )
    for content_id, said in connection.execute(places):
        told[content_id].append(told_of(said))
    for row in connection.execute(sa.select(picture).where(picture.c.content_id.in_(among))).all():
        here = told[row.content_id]
        own = own_info(row)
        info, kept = with_told(own, here), own_json(own) if here else None
        if info != picture_info(row) or kept != row.own:
            yield row, info, kept


def _write(connection: sa.Connection, found: Iterator[Due]) -> None:
    rows: Sequence[tuple[Any, ...]] = [
        (
            None if info.taken_at is None else stored_time(info.taken_at),
            info.latitude,
            info.longitude,
            info.title,
            info.description,
            json.dumps(info.keywords),
            kept,
            info != picture_info(row),
            row.content_id,
        )
        for row, info, kept in found
    ]
    if rows:
        connection.exec_driver_sql(_UPDATE, list(rows))


def find_unsettled(connection: sa.Connection) -> list[int]:
    """Contents whose details are not what their pictures and the files beside them say."""
    stale = set(connection.execute(sa.select(details_stale.c.content_id)).scalars())
    found: list[int] = []
    last = connection.execute(sa.select(sa.func.max(picture.c.content_id))).scalar() or 0
    for first in range(0, last + 1, _CONTENTS_A_CHUNK):  # of all at once, all would be in memory
        span = (first, first + _CONTENTS_A_CHUNK - 1)
        among = sa.union(
            sa.select(image.c.content_id).where(
                image.c.content_id.between(*span), image.c.told.is_not(None)
            ),
            sa.select(picture.c.content_id).where(
                picture.c.content_id.between(*span), picture.c.own.is_not(None)
            ),
        )
        found += [row.content_id for row, *_ in due(connection, among)]
    return sorted(id_ for id_ in found if id_ not in stale)


def resettle(connection: sa.Connection) -> None:
    """Makes the triggers anew, and all details. The caller commits."""
    run = connection.exec_driver_sql
    for name, statement in TRIGGER_SQL.items():
        run(f"DROP TRIGGER IF EXISTS {name}")
        run(statement)
    run("DELETE FROM details_stale")
    run(
        "INSERT INTO details_stale SELECT content_id FROM image WHERE told IS NOT NULL "
        "UNION SELECT content_id FROM picture WHERE own IS NOT NULL"
    )
    settle(connection)


def missing_triggers(connection: sa.Connection) -> list[str]:
    """Those that are not there as they should be, so that changes go unnoticed."""
    rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    made = {str(row[0]): str(row[1]) for row in rows.all()}
    return [name for name, sql in TRIGGER_SQL.items() if made.get(name) != sql]
