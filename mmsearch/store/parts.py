"""The parts of Google's Takeouts, and what files in them tell of pictures in any of them.

An export of some size comes as several archives, and a picture may lie in another one than the file
about it. So what such files tell is kept for each part: parts that come, change or go later need
not have the others read again. Which pictures they tell of is `indexer.takeout_stage`'s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from mmsearch.batches import batches
from mmsearch.store.catalog import absolute
from mmsearch.store.items import note_parts, write_failures
from mmsearch.store.rows import FailureRow, TakeoutFile
from mmsearch.store.schema import (
    container,
    embedding,
    failure,
    image,
    seen_part,
    source,
    stored_path,
    takeout_file,
    takeout_part,
)
from mmsearch.store.transaction import commit, inside, into, run_many, writing

_FILES = into(
    takeout_file, "part_id", "folder", "name", "size", "mark", "said", "problem",
    key=("part_id", "folder", "name"),
)  # fmt: skip
#: Between the path of an archive and that of a member, as in `image.folder`.
_SEPARATOR = "!/"
#: Names of files in one query.
_NAMES_A_QUERY = 500


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is there. location: absolute. size and mtime_ns: of the archive; None where it
    was not read to its end as it is. told_with: as in the table."""

    id: int
    source_id: int
    path: str
    location: str
    size: int | None
    mtime_ns: int | None
    told_with: str | None


@dataclass(frozen=True, slots=True)
class PartPicture:
    """A picture in a part. note: which files told of it (`image.beside`). has_vector: in the space
    asked for."""

    source_id: int
    path: str
    member: str
    content_id: int
    note: str
    has_vector: bool


@dataclass(frozen=True, slots=True)
class PartFile:
    """A file about a picture in a part, without what it tells."""

    part_id: int
    name: str
    size: int
    mark: int
    problem: str | None


class Parts:
    """The parts of a catalog, on the writer's connection."""

    def __init__(self, path: Path, connection: sa.Connection) -> None:
        self._path = path
        self._connection = connection

    # --- reading one ----------------------------------------------------------------------------

    def begin(self, source_id: int, path: str) -> int:
        """A part is about to be read: its id. What it held is kept until that is done."""
        new = {"missing_since": None, "told_with": None}
        with writing(self._connection, self._path):
            drop_files(
                self._connection,
                (takeout_part.c.source_id == source_id)
                & (takeout_part.c.path == path)
                & takeout_part.c.missing_since.is_not(None),
            )
            part_id = self._connection.execute(
                insert(takeout_part)
                .values(source_id=source_id, path=path, **new)
                .on_conflict_do_update(index_elements=["source_id", "path"], set_=new)
                .returning(takeout_part.c.id)
            ).scalar_one()
            self._connection.commit()
        return int(part_id)

    def saw(self, part_id: int, path: str, files: Sequence[TakeoutFile]) -> None:
        """Writes down files that were met in a part that is being read."""
        with writing(self._connection, self._path):
            run_many(
                self._connection,
                _FILES,
                [
                    (part_id, stored_path(file.folder), stored_path(file.name), file.size,
                     file.mark, file.said, file.problem)
                    for file in files
                ],
            )  # fmt: skip
            note_parts(self._connection, [(path, file.folder + file.name, "") for file in files])
            commit(self._connection, "files about pictures")

    # --- telling --------------------------------------------------------------------------------

    def there(self) -> list[Part]:
        """The parts that are there, by source and path."""
        query = (
            sa.select(
                takeout_part,
                container.c.size,
                container.c.mtime_ns,
                source.c.location,
                source.c.kind,
            )
            .join(source, source.c.id == takeout_part.c.source_id)
            .outerjoin(
                container,
                (container.c.source_id == takeout_part.c.source_id)
                & (container.c.path == takeout_part.c.path),
            )
            .where(takeout_part.c.missing_since.is_(None))
            .order_by(takeout_part.c.source_id, takeout_part.c.path)
        )
        return [
            Part(
                row.id,
                row.source_id,
                row.path,
                absolute(row.location, row.kind, row.path),
                row.size,
                row.mtime_ns,
                row.told_with,
            )
            for row in self._rows(query)
        ]

    def folders(self, parts: Sequence[Part]) -> list[str]:
        """The folders in them where files tell of pictures, or did when last looked at."""
        ids = [part.id for part in parts]
        files = sa.select(takeout_file.c.folder).where(takeout_file.c.part_id.in_(ids)).distinct()
        found = {row.folder for row in self._rows(files)}
        for part in parts:
            told = (
                sa.select(image.c.folder)
                .where(image.c.source_id == part.source_id, inside(image.c.folder, f"{part.path}!"))
                .where(image.c.missing_since.is_(None), image.c.beside != "")
            )
            start = len(part.path + _SEPARATOR)
            found.update(row.folder[start:] for row in self._rows(told.distinct()))
        return sorted(found)

    def pictures(self, parts: Sequence[Part], folder: str, space_id: int) -> list[PartPicture]:
        """The pictures in one of their folders."""
        has_vector = sa.exists().where(
            embedding.c.space_id == space_id, embedding.c.content_id == image.c.content_id
        )
        columns = (image.c.path, image.c.member, image.c.content_id, image.c.beside)
        found = []
        for source_id, paths in _by_source(parts).items():
            query = (
                sa.select(*columns, has_vector.label("has_vector"))
                .where(image.c.source_id == source_id, image.c.missing_since.is_(None))
                .where(image.c.folder.in_([f"{path}{_SEPARATOR}{folder}" for path in paths]))
            )
            found += [
                PartPicture(
                    source_id,
                    row.path,
                    row.member,
                    row.content_id,
                    row.beside or "",
                    bool(row.has_vector),
                )
                for row in self._rows(query)
            ]
        # Sorted by SQLite, they would be found by reading all pictures of the source.
        return sorted(found, key=lambda picture: (picture.path, picture.member))

    def failed(self, parts: Sequence[Part]) -> list[str]:
        """The members of them that could not be used."""
        return [
            row.member
            for source_id, paths in _by_source(parts).items()
            for row in self._rows(
                sa.select(failure.c.member)
                .where(failure.c.source_id == source_id, failure.c.path.in_(paths))
                .where(failure.c.member != "", failure.c.key == "")
            )
        ]

    def files(self, parts: Sequence[Part], folder: str) -> list[PartFile]:
        """The files about pictures in one of their folders."""
        query = sa.select(
            takeout_file.c.part_id,
            takeout_file.c.name,
            takeout_file.c.size,
            takeout_file.c.mark,
            takeout_file.c.problem,
        ).where(takeout_file.c.part_id.in_([part.id for part in parts]))
        rows = self._rows(query.where(takeout_file.c.folder == folder))
        return [PartFile(row.part_id, row.name, row.size, row.mark, row.problem) for row in rows]

    def said(
        self, parts: Sequence[Part], folder: str, names: Sequence[str]
    ) -> dict[tuple[int, str], str | None]:
        """What files with these names in one of their folders tell: (part id, name) → `said`."""
        query = sa.select(takeout_file.c.part_id, takeout_file.c.name, takeout_file.c.said).where(
            takeout_file.c.part_id.in_([part.id for part in parts]),
            takeout_file.c.folder == folder,
        )
        found: dict[tuple[int, str], str | None] = {}
        for some in batches(names, _NAMES_A_QUERY):
            rows = self._rows(query.where(takeout_file.c.name.in_(some)))
            found.update({(row.part_id, row.name): row.said for row in rows})
        return found

    def finish(
        self, parts: Sequence[Part], faults: Sequence[FailureRow], told_with: str | None
    ) -> int:
        """The pictures in them were told all that there is to tell.

        faults: the files about pictures that could not be used, all of them. told_with: as in the
        table. Returns how many faults are new.
        """
        ids = [part.id for part in parts]
        with writing(self._connection, self._path):
            run = self._connection.execute
            before = 0
            for part in parts:
                names = sa.select(takeout_file.c.folder + takeout_file.c.name).where(
                    takeout_file.c.part_id == part.id, takeout_file.c.problem.is_not(None)
                )
                of_part = (failure.c.source_id == part.source_id) & (failure.c.path == part.path)
                before += run(
                    sa.delete(failure)
                    .where(of_part, failure.c.key == "")
                    .where(failure.c.member.in_(names))
                ).rowcount
            write_failures(self._connection, faults)
            run(
                sa.update(takeout_part)
                .where(takeout_part.c.id.in_(ids))
                .values(told_with=told_with)
            )
            commit(self._connection, "parts told")
        return max(0, len(faults) - before)

    def _rows(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with writing(self._connection, self._path):
            return self._connection.execute(query).all()


def _by_source(parts: Sequence[Part]) -> dict[int, list[str]]:
    found: defaultdict[int, list[str]] = defaultdict(list)
    for part in parts:
        found[part.source_id].append(part.path)
    return found


# -- as they go ------------------------------------------------------------------------------------


def drop_unseen(connection: sa.Connection, source_id: int, paths: Sequence[str]) -> None:
    """Deletes the files that were not met when these parts were read. The caller commits."""
    of_part = sa.select(takeout_part.c.id, takeout_part.c.path).where(
        takeout_part.c.source_id == source_id, takeout_part.c.path.in_(paths)
    )
    for part in connection.execute(of_part).all():
        met = sa.exists().where(
            seen_part.c.path == part.path,
            seen_part.c.member == takeout_file.c.folder + takeout_file.c.name,
        )
        connection.execute(sa.delete(takeout_file).where(takeout_file.c.part_id == part.id, ~met))


def drop_files(connection: sa.Connection, which: Any) -> None:
    """Deletes the files of the parts of which this holds. The caller commits."""
    ids = sa.select(takeout_part.c.id).where(which)
    connection.execute(sa.delete(takeout_file).where(takeout_file.c.part_id.in_(ids)))


def drop_parts(connection: sa.Connection, which: Any) -> None:
    """Deletes the parts of which this holds, with their files. The caller commits."""
    drop_files(connection, which)
    connection.execute(sa.delete(takeout_part).where(which))
