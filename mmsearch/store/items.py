"""Pictures, texts and failures into their tables. Nothing here commits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from mmsearch.batches import batches
from mmsearch.store.rows import FailureRow, ImageRow, TextRow, now
from mmsearch.store.schema import (
    content,
    embedding,
    failure,
    image,
    passage,
    picture,
    seen_part,
    text_,
)
from mmsearch.store.transaction import VALUES_A_QUERY, execute_many, hide, show
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
    replaced = _current(connection, image, rows)
    execute_many(
        connection,
        insert(picture).on_conflict_do_nothing(),
        [
            {
                "content_id": ids[row.hash],
                "bytes": row.size,
                "format": row.info.format,
                "width": row.info.width,
                "height": row.info.height,
                "taken_at": row.info.taken_at,
                "camera": row.info.camera,
                "latitude": row.info.latitude,
                "longitude": row.info.longitude,
                "title": row.info.title,
                "description": row.info.description,
                "keywords": list(row.info.keywords),
            }
            for row in rows
            if row.info is not None
        ],
    )
    statement = insert(image)
    changed = ("size", "mtime_ns", "content_id", "missing_since")
    execute_many(
        connection,
        statement.on_conflict_do_update(
            index_elements=["source_id", "path", "member"],
            set_={name: statement.excluded[name] for name in changed},
        ),
        [
            {
                "source_id": row.source_id,
                "path": row.path,
                "member": row.member,
                "name": (row.member or row.path).rpartition("/")[2],
                "size": row.size,
                "mtime_ns": row.mtime_ns,
                "content_id": ids[row.hash],
                "missing_since": None,
            }
            for row in rows
        ],
    )
    # What a picture says of itself is written anew with it.
    execute_many(
        connection,
        sa.delete(text_).where(
            text_.c.source_id == sa.bindparam("s"),
            text_.c.path == sa.bindparam("p", type_=text_.c.path.type),
            text_.c.member == sa.bindparam("m", type_=text_.c.member.type),
            text_.c.origin == "embedded",
        ),
        [{"s": row.source_id, "p": row.path, "m": row.member} for row in rows],
    )
    _note_parts(connection, [(row.path, row.member, "") for row in rows if row.member])
    _finish_items(connection, space_id, rows, ids, replaced)


def write_texts(connection: sa.Connection, space_id: int | None, rows: Sequence[TextRow]) -> None:
    if not rows:
        return
    ids = _contents(connection, "text", [row.hash for row in rows])
    replaced = _current(connection, text_, rows)
    execute_many(
        connection,
        insert(passage).on_conflict_do_nothing(),
        [{"content_id": ids[row.hash], "body": row.body} for row in rows],
    )
    statement = insert(text_)
    changed = ("origin", "content_id", "image_ref", "image_id", "missing_since")
    execute_many(
        connection,
        statement.on_conflict_do_update(
            index_elements=["source_id", "path", "member", "key"],
            set_={name: statement.excluded[name] for name in changed},
        ),
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


def _current(
    connection: sa.Connection, table: sa.Table, rows: Sequence[ImageRow | TextRow]
) -> list[int]:
    """The contents that the rows' places hold before they are written."""
    paths = list({row.path for row in rows})
    places = {(row.path, row.member, getattr(row, "key", "")) for row in rows}
    key = table.c.key if "key" in table.c else sa.literal("").label("key")
    found: list[Any] = []
    for part in batches(paths, VALUES_A_QUERY):
        found += connection.execute(
            sa.select(table.c.content_id, table.c.path, table.c.member, key).where(
                table.c.source_id == rows[0].source_id, table.c.path.in_(part)
            )
        ).all()
    return [row[0] for row in found if (row[1], row[2], row[3]) in places]


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
    statement = insert(failure)
    changed = ("size", "mtime_ns", "reason", "transient", "at")
    execute_many(
        connection,
        statement.on_conflict_do_update(
            index_elements=["source_id", "path", "member", "key"],
            set_={name: statement.excluded[name] for name in changed},
        ),
        [
            {
                "source_id": row.source_id,
                "path": row.path,
                "member": row.member,
                "key": row.key,
                "size": row.size,
                "mtime_ns": row.mtime_ns,
                "reason": row.reason,
                "transient": row.transient,
                "at": now(),
            }
            for row in rows
        ],
    )
    for row in rows:
        if row.key or row.transient:
            continue
        # The file at this place no longer holds the picture it held.
        held = (
            (image.c.source_id == row.source_id)
            & (image.c.path == row.path)
            & (image.c.member == row.member)
        )
        ids = connection.execute(sa.select(image.c.content_id).where(held)).scalars()
        contents = list(ids)
        if contents:
            connection.execute(sa.update(image).where(held).values(missing_since=now()))
            hide(connection, contents)


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
