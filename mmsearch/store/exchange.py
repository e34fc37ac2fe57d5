"""What exporting and importing ask of a catalog in bulk."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from mmsearch.batches import batches
from mmsearch.store.catalog import Catalog
from mmsearch.store.reading import IDS_A_QUERY, Reading
from mmsearch.store.schema import FilePath, container, content, embedding, image


def hashes(catalog: Catalog, ids: Sequence[int]) -> dict[int, str]:
    """The SHA-256 of contents in hexadecimal, by id."""
    read = Reading(catalog.path, catalog.engine)
    found: dict[int, str] = {}
    for part in batches(ids, IDS_A_QUERY):
        rows = read.rows(sa.select(content.c.id, content.c.hash).where(content.c.id.in_(part)))
        found.update({row.id: bytes(row.hash).hex() for row in rows})
    return found


def sequence_numbers(catalog: Catalog, space_id: int, ids: Sequence[int]) -> dict[int, int]:
    """The `seq` of those of these contents that have a vector: another one when it is another."""
    read = Reading(catalog.path, catalog.engine)
    found: dict[int, int] = {}
    for part in batches(ids, IDS_A_QUERY):
        rows = read.rows(
            sa.select(embedding.c.content_id, embedding.c.seq).where(
                embedding.c.space_id == space_id, embedding.c.content_id.in_(part)
            )
        )
        found.update({row.content_id: row.seq for row in rows})
    return found


def known_files(
    catalog: Catalog, space_id: int, source_id: int, paths: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Of these files of a source those that have a vector in the space: path → size, mtime_ns."""
    read = Reading(catalog.path, catalog.engine)
    found: dict[str, tuple[int, int]] = {}
    for part in batches(paths, IDS_A_QUERY):
        rows = read.rows(
            sa.select(image.c.path, image.c.size, image.c.mtime_ns)
            .join(
                embedding,
                (embedding.c.content_id == image.c.content_id) & (embedding.c.space_id == space_id),
            )
            .where(image.c.source_id == source_id, image.c.path.in_(part))
            .where(image.c.member == "", image.c.missing_since.is_(None))
        )
        found.update({row.path: (row.size, row.mtime_ns) for row in rows})
    return found


def was_read(
    catalog: Catalog, space_id: int, source_id: int, path: str, size: int, mtime_ns: int
) -> bool:
    """Whether a file of texts was taken in to its end, for this space, as it is now."""
    read = Reading(catalog.path, catalog.engine)
    row = sa.select(container.c.path).where(
        container.c.source_id == source_id,
        container.c.path == path,
        container.c.size == size,
        container.c.mtime_ns == mtime_ns,
        container.c.space_id == space_id,
    )
    return read.scalar(row) is not None


def as_stored(name: str) -> str:
    """A file's name as text that any program can hold; see FilePath."""
    return _PATH.process_bind_param(name, _ANY) or ""


def as_named(text: str) -> str:
    """The file's name again."""
    return _PATH.process_result_value(text, _ANY) or ""


_PATH = FilePath()
_ANY = sa.engine.default.DefaultDialect()
