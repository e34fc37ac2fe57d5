"""Pictures, texts and failures into their tables. Nothing here commits.

The places and hashes of a batch go into a temporary table first. What is known of them is then
asked for all of them by one statement each, and not a row at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mmsearch.batches import batches
from mmsearch.store.incoming import images_at, stage
from mmsearch.store.links import news, note_texts_of_files, relink
from mmsearch.store.naming import Place
from mmsearch.store.rows import FailureRow, ImageRow, TextRow, ToldRow, now
from mmsearch.store.schema import (
    container,
    embedding,
    failure,
    image,
    passage,
    picture,
    seen_part,
    stored_path,
    stored_time,
    text_,
)
from mmsearch.store.transaction import VALUES_A_QUERY, hide, into, run_many, show, upsert
from mmsearch.told import CARRIED
from mmsearch.types import Modality, PictureInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VECTORS_A_BLOCK = 1024

_PICTURES = into(
    picture, "content_id", "bytes", "format", "width", "height", "taken_at", "camera", "latitude",
    "longitude", "title", "description", "keywords", "added_at",
)  # fmt: skip
_PASSAGES = into(passage, "content_id", "body")
_IMAGES = into(
    image, "source_id", "path", "member", "name", "size", "mtime_ns", "content_id", "missing_since",
    "beside", "told", key=("source_id", "path", "member"),
)  # fmt: skip
_TEXTS = into(
    text_, "source_id", "path", "member", "key", "origin", "content_id", "image_ref", "image_id",
    "missing_since", key=("source_id", "path", "member", "key"),
)  # fmt: skip
_EMBEDDINGS = into(embedding, "space_id", "content_id", "vector")
_PARTS = into(seen_part, "path", "member", "key")

# Not "ON CONFLICT DO NOTHING": after that form with a SELECT, inserts into tables with foreign keys
# take twice as long until the end of the transaction (SQLite 3.40).
_NEW_CONTENTS = (
    "INSERT OR IGNORE INTO content (modality, hash) SELECT ?, hash FROM incoming ORDER BY n"
)
_LAST_CONTENT = "SELECT ifnull(max(id), 0) FROM content"
# CROSS JOIN: the few rows of the batch lead, each is looked up by an index.
_CONTENTS = (
    "SELECT c.id FROM incoming AS p CROSS JOIN content AS c ON c.modality = ? AND c.hash = p.hash "
    "ORDER BY p.n"
)
_AT_PLACE = "{0}.source_id = p.source_id AND {0}.path = p.path AND {0}.member = p.member"
_IMAGES_THERE = (
    "SELECT p.n, i.content_id, i.missing_since IS NULL FROM incoming AS p CROSS JOIN image AS i "
    f"ON {_AT_PLACE.format('i')}"
)
_TEXTS_THERE = (
    "SELECT p.n, t.content_id, t.missing_since IS NULL FROM incoming AS p CROSS JOIN text AS t "
    f"ON {_AT_PLACE.format('t')} AND t.key = p.key"
)
_SAID_THERE = (
    "SELECT t.id, t.content_id FROM incoming AS p CROSS JOIN text AS t "
    f"ON {_AT_PLACE.format('t')} WHERE t.origin = 'embedded'"
)
# Not the .txt files beside it in its archive, which are kept as its own too.
_CARRIED_THERE = f"{_SAID_THERE} AND t.key IN ({', '.join(map(repr, CARRIED))})"
_TOLD = "UPDATE image SET beside = ?, told = ? WHERE source_id = ? AND path = ? AND member = ?"
_ANY_FAILURE = "SELECT EXISTS (SELECT 1 FROM failure)"
_FORGET_BESIDE = (
    "DELETE FROM failure WHERE source_id = ? AND path = ? AND member = ? AND \"key\" != ''"
)
_FORGET_FAILURES = (
    "DELETE FROM failure WHERE id IN (SELECT f.id FROM incoming AS p CROSS JOIN failure AS f "
    f"ON {_AT_PLACE.format('f')} AND f.key = p.key)"
)


def write_images(connection: sa.Connection, space_id: int | None, rows: Sequence[ImageRow]) -> None:
    if not rows:
        return
    run = connection.exec_driver_sql
    new = news(connection, ((r.source_id, r.path, r.member) for r in rows))
    stage(connection, ((r.source_id, r.path, r.member, "", r.hash) for r in rows))
    before = {n: (id_, bool(here)) for n, id_, here in run(_IMAGES_THERE).all()}
    # What a picture says of itself is written anew with it.
    said = run(_SAID_THERE).all()
    if said:
        drop(connection, [], said)
    ids, known = _contents(connection, "image")
    added_at = stored_time(now())
    run_many(
        connection,
        _PICTURES,
        [
            _picture(id_, row.size, row.info, added_at)
            for id_, row in zip(ids, rows, strict=True)
            if row.info is not None
        ],
    )
    names = [(row.member or row.path).rpartition("/")[2] for row in rows]
    run_many(
        connection,
        _IMAGES,
        [
            (
                row.source_id,
                stored_path(row.path),
                stored_path(row.member),
                stored_path(name),
                row.size,
                row.mtime_ns,
                id_,
                None,
                row.beside,
                row.told,
            )
            for id_, name, row in zip(ids, names, rows, strict=True)
        ],
    )
    note_parts(connection, [(row.path, row.member, "") for row in rows if row.member])
    places = {(r.source_id, r.path, r.member): id_ for id_, r in zip(ids, rows, strict=True)}
    replaced = [id_ for id_, _ in before.values()]
    _finish_items(connection, space_id, rows, ids, known, replaced, places.values())
    relink(
        connection,
        [
            (row.source_id, row.path, row.member)
            for n, (id_, row) in enumerate(zip(ids, rows, strict=True))
            if before.get(n) != (id_, True)
        ],
        new,
    )


def write_told(connection: sa.Connection, rows: Sequence[ToldRow]) -> None:
    """What files beside known pictures tell; the texts they carry go, to be written anew."""
    if not rows:
        return
    stage(connection, ((r.source_id, r.path, r.member, "", b"") for r in rows))
    drop(connection, [], connection.exec_driver_sql(_CARRIED_THERE).all())
    run_many(
        connection,
        _TOLD,
        [
            (row.beside, row.told, row.source_id, stored_path(row.path), stored_path(row.member))
            for row in rows
        ],
    )


def write_texts(connection: sa.Connection, space_id: int | None, rows: Sequence[TextRow]) -> None:
    if not rows:
        return
    run = connection.exec_driver_sql
    stage(connection, ((r.source_id, r.path, r.member, r.key, r.hash) for r in rows))
    replaced = [id_ for _, id_, _ in run(_TEXTS_THERE).all()]
    ids, known = _contents(connection, "text")
    run_many(connection, _PASSAGES, [(id_, row.body) for id_, row in zip(ids, rows, strict=True)])
    # What a picture carries is its own; what others name is looked up at the end of the run.
    holders: dict[int, int] = {}
    if any(row.origin == "embedded" for row in rows):
        held = images_at(connection).items()
        holders = {n: id_ for n, id_ in held if rows[n].origin == "embedded"}
    run_many(
        connection,
        _TEXTS,
        [
            (
                row.source_id,
                stored_path(row.path),
                stored_path(row.member),
                row.key,
                row.origin,
                id_,
                None if row.image_ref is None else stored_path(row.image_ref),
                holders.get(n),
                None,
            )
            for n, (id_, row) in enumerate(zip(ids, rows, strict=True))
        ],
    )
    note_texts_of_files(connection, any(row.origin == "file" for row in rows))
    note_parts(connection, [(row.path, "", row.key) for row in rows if row.origin != "embedded"])
    places = {(r.source_id, r.path, r.member, r.key): id_ for id_, r in zip(ids, rows, strict=True)}
    _finish_items(connection, space_id, rows, ids, known, replaced, places.values())


def _contents(connection: sa.Connection, modality: Modality) -> tuple[list[int], set[int]]:
    """The ids of what was staged, made where they are new, in order; which of them were there."""
    run = connection.exec_driver_sql
    last: int = run(_LAST_CONTENT).scalar_one()
    run(_NEW_CONTENTS, (modality,))
    ids: list[int] = [id_ for (id_,) in run(_CONTENTS, (modality,)).all()]
    return ids, {id_ for id_ in ids if id_ <= last}


def _picture(id_: int, size: int, info: PictureInfo, added_at: str) -> tuple[Any, ...]:
    """A row of `picture`, as it is kept."""
    taken_at = info.taken_at
    return (
        id_,
        size,
        info.format,
        info.width,
        info.height,
        None if taken_at is None else stored_time(taken_at),
        info.camera,
        info.latitude,
        info.longitude,
        info.title,
        info.description,
        json.dumps(info.keywords) if info.keywords else "[]",
        added_at,
    )


def _finish_items(
    connection: sa.Connection,
    space_id: int | None,
    rows: Sequence[ImageRow] | Sequence[TextRow],
    ids: Sequence[int],
    known: set[int],
    replaced: Sequence[int],
    left: Iterable[int],
) -> None:
    """left: the contents at the places written, of several rows for one place those of the last."""
    new = zip(ids, (row.vector for row in rows), strict=True)
    vectors = [(id_, vector) for id_, vector in new if vector is not None]
    for block in batches(vectors, _VECTORS_A_BLOCK):
        blobs = _blobs([vector for _, vector in block])
        run_many(
            connection,
            _EMBEDDINGS,
            [(space_id, id_, blob) for (id_, _), blob in zip(block, blobs, strict=True)],
        )
    if connection.exec_driver_sql(_ANY_FAILURE).scalar():
        connection.exec_driver_sql(_FORGET_FAILURES)
    for part in batches(known, VALUES_A_QUERY):
        show(connection, part)
    # A row that another one of the batch replaced goes as it would have gone with the next batch.
    for part in batches({*replaced, *ids}.difference(left), VALUES_A_QUERY):
        hide(connection, part)


def _blobs(vectors: Sequence[NDArray[np.float32]]) -> Iterator[memoryview]:
    """Vectors (dim,) as they are kept."""
    import numpy as np

    matrix = np.stack(vectors).astype("<f2")
    data, size = matrix.data.cast("B"), matrix.shape[1] * 2
    for at in range(0, len(data), size):
        yield data[at : at + size]


def forget_beside(connection: sa.Connection, pictures: Iterable[Place]) -> None:
    """Forgets what was wrong with files beside pictures."""
    places = [(id_, stored_path(path), stored_path(member)) for id_, path, member in pictures]
    if places and connection.exec_driver_sql(_ANY_FAILURE).scalar():
        run_many(connection, _FORGET_BESIDE, places)


def write_failures(connection: sa.Connection, rows: Sequence[FailureRow]) -> None:
    places = [(row.source_id, row.path, row.member) for row in rows if not row.key]
    new = news(connection, places, failed=True)
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
    relink(connection, places, new)


def note_parts(connection: sa.Connection, parts: Sequence[tuple[str, str, str]]) -> None:
    """Notes what was met in containers that are being read: path, member, key."""
    run_many(
        connection,
        _PARTS,
        [(stored_path(path), stored_path(member), key) for path, member, key in parts],
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
