"""What a catalog knows of the files of one source."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from mmsearch.store.catalog import Catalog
from mmsearch.store.reading import Reading
from mmsearch.store.schema import container, failure, image, source, text_


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """The files that a source was read from, by their paths in it.

    held: what pictures or texts are kept of. read: path, size and mtime_ns of what was read, or was
    tried in vain. gone: something is kept of a file, or of a part of one, that was gone already.
    """

    held: frozenset[str]
    read: frozenset[tuple[str, int, int]]
    gone: bool


def files_of(catalog: Catalog, location: str) -> SourceFiles | None:
    """Of the source at this place; None where there is no such source."""
    read = Reading(catalog.path, catalog.engine)
    id_ = read.scalar(sa.select(source.c.id).where(source.c.location == location))
    if id_ is None:
        return None
    held: set[str] = set()
    gone = False
    for table in (image, text_):
        of_source = sa.select(table.c.path).where(table.c.source_id == id_).distinct()
        rows = read.rows(of_source.where(table.c.missing_since.is_(None)))
        held.update(row.path for row in rows)
        gone |= bool(read.rows(of_source.where(table.c.missing_since.is_not(None)).limit(1)))
    as_read: set[tuple[str, int, int]] = set()
    for table in (image, container, failure):
        rows = read.rows(
            sa.select(table.c.path, table.c.size, table.c.mtime_ns).where(table.c.source_id == id_)
        )
        as_read.update((row.path, row.size, row.mtime_ns) for row in rows)
    return SourceFiles(frozenset(held), frozenset(as_read), gone)
