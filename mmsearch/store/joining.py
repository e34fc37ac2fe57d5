"""Reading all of a catalog, to write it into another one: rows as the write path hands them over.

Of files that are there, and of one space: what is missing, and what has no vector in it, is left
to the next run over the folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from mmsearch.batches import batches
from mmsearch.store.catalog import Catalog
from mmsearch.store.details import own_info
from mmsearch.store.reading import IDS_A_QUERY, Reading
from mmsearch.store.rows import FailureRow, ImageRow, Pending, TakeoutFile, TextRow
from mmsearch.store.schema import (
    container,
    content,
    embedding,
    failure,
    image,
    passage,
    picture,
    tag,
    takeout_file,
    takeout_part,
    text_,
)
from mmsearch.store.tags import Tag
from mmsearch.types import Modality

_ROWS_A_PART = 512
_HERE = {
    table.name: (
        table.c.missing_since.is_(None)
        & (content.c.id == table.c.content_id)
        & (embedding.c.content_id == table.c.content_id)
    )
    for table in (image, text_)
}


def images_of(
    catalog: Catalog, space_id: int, source_id: int, to: int, prefix: str
) -> Iterator[list[ImageRow]]:
    """The pictures of a source, as rows of the source `to` of another catalog, some at a time.

    prefix: what their paths begin with there.
    """
    columns = [image.c.id, image.c.path, image.c.member, image.c.size, image.c.mtime_ns,
               image.c.beside, image.c.told, content.c.hash, embedding.c.vector]  # fmt: skip
    statement = sa.select(*columns, picture).where(picture.c.content_id == image.c.content_id)
    for rows in _parts(catalog, space_id, source_id, image, statement):
        yield [
            ImageRow(
                source_id=to,
                path=prefix + row.path,
                member=row.member,
                size=row.size,
                mtime_ns=row.mtime_ns,
                hash=bytes(row.hash),
                info=own_info(row),
                vector=_vector(row.vector),
                beside=row.beside or "",
                told=row.told,
            )
            for row in rows
        ]


def texts_of(
    catalog: Catalog, space_id: int, source_id: int, to: int, prefix: str
) -> Iterator[list[TextRow]]:
    """The texts of a source in the same way."""
    columns = [text_.c.id, text_.c.path, text_.c.member, text_.c.key, text_.c.origin,
               text_.c.image_ref, content.c.hash, passage.c.body, embedding.c.vector]  # fmt: skip
    statement = sa.select(*columns).where(passage.c.content_id == text_.c.content_id)
    for rows in _parts(catalog, space_id, source_id, text_, statement):
        yield [
            TextRow(
                source_id=to,
                path=prefix + row.path,
                member=row.member,
                key=row.key,
                origin=row.origin,
                body=row.body,
                hash=bytes(row.hash),
                image_ref=row.image_ref,
                vector=_vector(row.vector),
            )
            for row in rows
        ]


def _parts(
    catalog: Catalog, space_id: int, source_id: int, table: sa.Table, statement: sa.Select[Any]
) -> Iterator[Sequence[Any]]:
    read = Reading(catalog.path, catalog.engine)
    last = 0
    while True:
        rows = read.rows(
            statement.where(
                table.c.source_id == source_id,
                table.c.id > last,
                _HERE[table.name],
                embedding.c.space_id == space_id,
            )
            .order_by(table.c.id)
            .limit(_ROWS_A_PART)
        )
        if not rows:
            return
        last = rows[-1].id
        yield rows


def _vector(blob: bytes) -> NDArray[np.float32]:
    """(dim,), of the halves that are kept."""
    return np.frombuffer(blob, "<f2").astype(np.float32)


def containers_of(catalog: Catalog, space_id: int, source_id: int, prefix: str) -> list[Pending]:
    """Archives and files of texts that were read to their end."""
    statement = sa.select(container).where(
        container.c.source_id == source_id, container.c.space_id == space_id
    )
    return [
        Pending(prefix + row.path, "", row.size, row.mtime_ns, None)
        for row in Reading(catalog.path, catalog.engine).rows(statement)
    ]


def parts_of(
    catalog: Catalog, source_id: int, prefix: str
) -> Iterator[tuple[str, list[TakeoutFile]]]:
    """The parts of Takeouts that are there, and the files about pictures in each, some at a time:
    a part comes as often as it takes, and at least once."""
    read = Reading(catalog.path, catalog.engine)
    there = sa.select(takeout_part.c.id, takeout_part.c.path).where(
        takeout_part.c.source_id == source_id, takeout_part.c.missing_since.is_(None)
    )
    place = sa.tuple_(takeout_file.c.folder, takeout_file.c.name)
    for part in read.rows(there.order_by(takeout_part.c.path)):
        yield prefix + part.path, []
        query = sa.select(takeout_file).where(takeout_file.c.part_id == part.id)
        query = query.order_by(takeout_file.c.folder, takeout_file.c.name).limit(_ROWS_A_PART)
        rows = read.rows(query)
        while rows:
            yield (
                prefix + part.path,
                [
                    TakeoutFile(row.folder, row.name, row.size, row.mark, row.said, row.problem)
                    for row in rows
                ],
            )
            rows = read.rows(query.where(place > (rows[-1].folder, rows[-1].name)))


def failures_of(catalog: Catalog, source_id: int, to: int, prefix: str) -> list[FailureRow]:
    """What could not be used. Not texts that did not find their picture: they may find it now."""
    text_there = sa.exists().where(
        text_.c.source_id == failure.c.source_id,
        text_.c.path == failure.c.path,
        text_.c.member == failure.c.member,
        text_.c.key == failure.c.key,
    )
    statement = sa.select(failure).where(failure.c.source_id == source_id, ~text_there)
    return [
        FailureRow(to, prefix + row.path, row.member, row.key, row.size, row.mtime_ns, row.reason,
                   row.transient)
        for row in Reading(catalog.path, catalog.engine).rows(statement.order_by(failure.c.id))
    ]  # fmt: skip


def tags_by_hash(catalog: Catalog) -> Iterator[tuple[Modality, dict[bytes, list[Tag]]]]:
    """The tags of visible contents, by modality and hash, some contents at a time."""
    read = Reading(catalog.path, catalog.engine)
    ids = read.rows(sa.select(tag.c.content_id).distinct().order_by(tag.c.content_id))
    for part in batches([row.content_id for row in ids], IDS_A_QUERY):
        found: dict[str, dict[bytes, list[Tag]]] = {}
        rows = read.rows(
            sa.select(content.c.modality, content.c.hash, tag.c.name, tag.c.score)
            .join(content, content.c.id == tag.c.content_id)
            .where(tag.c.content_id.in_(part), ~content.c.hidden)
        )
        for row in rows:
            tags = found.setdefault(row.modality, {}).setdefault(bytes(row.hash), [])
            tags.append((row.name, row.score))
        yield from found.items()  # type: ignore[misc]


def held_as(catalog: Catalog, rows: Sequence[ImageRow]) -> list[bool]:
    """Of these pictures, of one source, whether the catalog has them just so already."""
    if not rows:
        return []
    statement = (
        sa.select(image, content.c.hash)
        .join(content, content.c.id == image.c.content_id)
        .where(
            image.c.source_id == rows[0].source_id,
            image.c.path.in_({row.path for row in rows}),
            image.c.missing_since.is_(None),
        )
    )
    there = {
        (row.path, row.member): (row.size, row.mtime_ns, row.beside or "", row.told, row.hash)
        for row in Reading(catalog.path, catalog.engine).rows(statement)
    }
    return [
        there.get((row.path, row.member))
        == (row.size, row.mtime_ns, row.beside, row.told, row.hash)
        for row in rows
    ]
