"""Pictures, texts and failures into their tables. Nothing here commits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from mmsearch.batches import batches
from mmsearch.store.links import relink
from mmsearch.store.rows import FailureRow, ImageRow, TextRow, now
from mmsearch.store.schema import (
    container,
    content,
    embedding,
    failure,
    image,
    passage,
    picture,
    seen_part,
    text_,
)
from mmsearch.store.transaction import VALUES_A_QUERY, execute_many, hide, show, upsert
from mmsearch.types import Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def _blob(vector: NDArray[np.float32]) -> bytes:
    return vector.astype("<f2").tobytes()


def _contents(
    connection: sa.Connection, modality: Modality, digests: list[bytes]
) -> dict[bytes, int]:
    """The ids of these contents, made where they are new; hash → id."""
    unique = list(dict.fromkeys(digests))
    execute_many(
        connection,
        insert(content).on_conflict_do_nothing(),
        [{"modality": modality, "hash": digest} for digest in unique],
    )
    ids: dict[bytes, int] = {}
    for part in batches(unique, VALUES_A_QUERY):
        rows = connection.execute(
            sa.select(content.c.hash, content.c.id).where(
                content.c.modality == modality, content.c.hash.in_(part)
            )
        )
        ids.update({row.hash: row.id for row in rows})
    return ids


def write_images(connection: sa.Connection, space_id: int | None, rows: Sequence[ImageRow]) -> None:
    if not rows:
        return
    ids = _contents(connection, "image", [row.hash for row in rows])
    before = _current(connection, image, rows)
    added_at = now()
    execute_many(
        connection,
        insert(picture).on_conflict_do_nothing(),
        [
            asdict(row.info)
            | {"content_id": ids[row.hash], "bytes": row.size, "added_at": added_at}
            for row in rows
            if row.info is not None
        ],
    )
    upsert(
        connection,
        image,
        ("source_id", "path", "member"),
        [
            {
                "source_id": row.source_id,
                "path": row.path,
                "member": row.member,
                "name": _name(row),
                "size": row.size,
                "mtime_ns": row.mtime_ns,
                "content_id": ids[row.hash],
                "missing_since": None,
            }
            for row in rows
        ],
    )
    # What a picture says of itself is written anew with it.
    _forget_embedded(connection, rows)
    _note_parts(connection, [(row.path, row.member, "") for row in rows if row.member])
    _finish_items(connection, space_id, rows, ids, [row.content_id for row in before])
    there = {(r.path, r.member): r.content_id for r in before if r.missing_since is None}
    other = {_name(row) for row in rows if there.get((row.path, row.member)) != ids[row.hash]}
    relink(connection, sorted(other))


def _name(row: ImageRow) -> str:
    return (row.member or row.path).rpartition("/")[2]


def write_texts(connection: sa.Connection, space_id: int | None, rows: Sequence[TextRow]) -> None:
    if not rows:
        return
    ids = _contents(connection, "text", [row.hash for row in rows])
    replaced = [row.content_id for row in _current(connection, text_, rows)]
    execute_many(
        connection,
        insert(passage).on_conflict_do_nothing(),
        [{"content_id": ids[row.hash], "body": row.body} for row in rows],
    )
    upsert(
        connection,
        text_,
        ("source_id", "path", "member", "key"),
        [
            {
                "source_id": row.source_id,
                "path": row.path,
                "member": row.member,
                "key": row.key,
                "origin": row.origin,
                "content_id": ids[row.hash],
                "image_ref": row.image_ref,
                "image_id": None,
                "missing_since": None,
            }
            for row in rows
        ],
    )
    _note_parts(connection, [(row.path, "", row.key) for row in rows if row.origin != "embedded"])
    _finish_items(connection, space_id, rows, ids, replaced)


def _forget_embedded(connection: sa.Connection, rows: Sequence[ImageRow]) -> None:
    """Deletes what the pictures at these places said of themselves."""
    places = {(row.path, row.member) for row in rows}
    source_id = rows[0].source_id
    found: list[Any] = []
    for part in batches({row.path for row in rows}, VALUES_A_QUERY):
        found += connection.execute(
            sa.select(text_.c.id, text_.c.content_id, text_.c.path, text_.c.member).where(
                text_.c.source_id == source_id,
                text_.c.path.in_(part),
                text_.c.origin == "embedded",
                text_.c.member.in_({row.member for row in rows}),
            )
        ).all()
    drop(connection, [], [row for row in found if (row.path, row.member) in places])


def _current(
    connection: sa.Connection, table: sa.Table, rows: Sequence[ImageRow | TextRow]
) -> list[Any]:
    """What the rows' places hold before they are written: content_id, missing_since, path, ..."""
    places = {(row.path, row.member, getattr(row, "key", "")) for row in rows}
    # The third column tells apart the many rows that one archive or one text file has.
    third = table.c.key if "key" in table.c else table.c.member
    wanted = {getattr(row, "key", row.member) for row in rows}
    key = table.c.key if "key" in table.c else sa.literal("")
    found: list[Any] = []
    for part in batches({row.path for row in rows}, VALUES_A_QUERY):
        found += connection.execute(
            sa.select(
                table.c.content_id,
                table.c.missing_since,
                table.c.path,
                table.c.member,
                key.label("key"),
            ).where(
                table.c.source_id == rows[0].source_id,
                table.c.path.in_(part),
                third.in_(wanted),
            )
        ).all()
    return [row for row in found if (row.path, row.member, row.key) in places]


def _finish_items(
    connection: sa.Connection,
    space_id: int | None,
    rows: Sequence[ImageRow] | Sequence[TextRow],
    ids: dict[bytes, int],
    replaced: list[int],
) -> None:
    execute_many(
        connection,
        insert(embedding).on_conflict_do_nothing(),
        [
            {
                "space_id": space_id,
                "content_id": ids[row.hash],
                "vector": _blob(row.vector),
            }
            for row in rows
            if row.vector is not None
        ],
    )
    execute_many(
        connection,
        sa.delete(failure).where(
            failure.c.source_id == sa.bindparam("s"),
            failure.c.path == sa.bindparam("p", type_=failure.c.path.type),
            failure.c.member == sa.bindparam("m", type_=failure.c.member.type),
            failure.c.key == sa.bindparam("k"),
        ),
        [{"s": r.source_id, "p": r.path, "m": r.member, "k": getattr(r, "key", "")} for r in rows],
    )
    for part in batches(ids.values(), VALUES_A_QUERY):
        show(connection, part)
    for part in batches(set(replaced) - set(ids.values()), VALUES_A_QUERY):
        hide(connection, part)


def write_failures(connection: sa.Connection, rows: Sequence[FailureRow]) -> None:
    upsert(
        connection,
        failure,
        ("source_id", "path", "member", "key"),
        [asdict(row) | {"at": now()} for row in rows],
    )
    for row in rows:
        if row.key or row.transient:
            continue
        # The file at this place no longer holds the picture or the texts that it held.
        images, texts = (
            connection.execute(
                sa.select(table.c.id, table.c.content_id).where(
                    table.c.source_id == row.source_id,
                    table.c.path == row.path,
                    table.c.member == row.member,
                )
            ).all()
            for table in (image, text_)
        )
        drop(connection, images, texts)
        if not row.member:
            connection.execute(
                sa.delete(container).where(
                    container.c.source_id == row.source_id, container.c.path == row.path
                )
            )


def _note_parts(connection: sa.Connection, parts: Sequence[tuple[str, str, str]]) -> None:
    execute_many(
        connection,
        insert(seen_part).on_conflict_do_nothing(),
        [{"path": path, "member": member, "key": key} for path, member, key in parts],
    )


def drop(connection: sa.Connection, images: Sequence[Any], texts: Sequence[Any]) -> None:
    """Deletes rows (id, content_id) of images and texts; what nothing holds then is hidden."""
    run = connection.execute
    for part in batches([row.id for row in images], VALUES_A_QUERY):
        run(sa.update(text_).where(text_.c.image_id.in_(part)).values(image_id=None))
        run(sa.delete(image).where(image.c.id.in_(part)))
    for part in batches([row.id for row in texts], VALUES_A_QUERY):
        run(sa.delete(text_).where(text_.c.id.in_(part)))
    for part in batches([row.content_id for row in [*images, *texts]], VALUES_A_QUERY):
        hide(connection, part)
