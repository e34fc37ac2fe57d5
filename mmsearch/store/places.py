"""Which contents lie at a place: in files that a pattern of paths matches, or in some sources.

Folders are compared first, in Python, since there are few of them and each is a lookup in an index;
of the files only the names, and only in folders that match, by SQL's GLOB and LIKE as far as these
say it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from mmsearch.batches import batches
from mmsearch.errors import UnknownNameError
from mmsearch.filters.globs import (
    PathPattern,
    comparable,
    name_pattern,
    path_pattern,
    plain,
)
from mmsearch.store.columns import Ids
from mmsearch.store.reading import IDS_A_QUERY
from mmsearch.store.schema import image, source, text_
from mmsearch.types import Modality

#: Folders of one source that are looked up one after the other; where there are more, going through
#: the names of all files takes less.
_FOLDERS_BY_STEPS = 20_000
_HERE = image.c.missing_since.is_(None)


def joined_ids(column: Any) -> Any:
    """An aggregate: the ids as one string, for `parsed_ids`."""
    return sa.func.aggregate_strings(sa.cast(column, sa.Text), ",")


def parsed_ids(text: str | None) -> Ids:
    return np.fromstring(text or "", np.int64, sep=",")


class Places:
    """The places of one revision of a catalog. Takes a connection, in one transaction with it."""

    def __init__(self) -> None:
        self._folders: dict[int, list[str]] | None = None

    # --- sources --------------------------------------------------------------------------------

    def in_source(self, connection: sa.Connection, modality: Modality, name: str) -> Ids:
        """Contents of the sources with this name or location, in any order, doubles among them.

        Raises:
            UnknownNameError: there is none, and `name` has no wildcards.
        """
        pattern, text = name_pattern(name), plain(name)
        exactly, wanted, known = [], [], []
        for row in connection.execute(sa.select(source.c.id, source.c.name, source.c.location)):
            known.append(row.name)
            said = (row.name, row.location, row.location.rstrip("/") + "/")
            if text in said:
                exactly.append(row.id)
            if any(pattern.fullmatch(comparable(each)) for each in said):
                wanted.append(row.id)
        # Names may differ by case alone.
        wanted = exactly or wanted
        if not wanted and text is not None:
            raise UnknownNameError("source", text, known)
        table = image if modality == "image" else text_
        return _ids(
            connection,
            (
                sa.select(joined_ids(table.c.content_id)).where(
                    table.c.source_id == id_, table.c.missing_since.is_(None)
                )
                for id_ in wanted
            ),
        )

    # --- paths ----------------------------------------------------------------------------------

    def at_path(self, connection: sa.Connection, modality: Modality, glob: str) -> Ids:
        """Contents of the files whose path the pattern matches; as `in_source`."""
        pattern = path_pattern(glob)
        if modality == "text":
            return self._texts_at(connection, pattern)
        found = []
        for source_id, root in _roots(connection).items():
            folders = None
            if pattern.folder is not None:
                known = self._folders_of(connection, source_id)
                folders = _matching(pattern, root, known)
                if len(folders) == len(known):
                    folders = None
            found.append(self._pictures_in(connection, source_id, folders, pattern))
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _folders_of(self, connection: sa.Connection, source_id: int) -> list[str]:
        if self._folders is None:
            self._folders = {}
        if source_id not in self._folders:
            self._folders[source_id] = _folders(connection, source_id)
        return self._folders[source_id]

    def _pictures_in(
        self,
        connection: sa.Connection,
        source_id: int,
        folders: Sequence[str] | None,
        pattern: PathPattern,
    ) -> Ids:
        """Contents of the files of a source, in these folders (None: in any), by their names."""
        of_source = _HERE & (image.c.source_id == source_id)
        places: Iterable[Any] = (
            [of_source]
            if folders is None
            else (of_source & image.c.folder.in_(part) for part in batches(folders, IDS_A_QUERY))
        )
        return np.concatenate(
            [np.empty(0, np.int64), *(_by_name(connection, place, pattern) for place in places)]
        )

    def _texts_at(self, connection: sa.Connection, pattern: PathPattern) -> Ids:
        """Few files hold many texts, or as many as there are pictures hold one each."""
        here = text_.c.missing_since.is_(None)
        found = []
        for source_id, root in _roots(connection).items():
            of_source = here & (text_.c.source_id == source_id)
            files = sa.select(text_.c.path, text_.c.member).where(of_source).distinct()
            wanted = [
                (row.path, row.member)
                for row in connection.execute(files)
                if pattern.matches(root + (f"{row.path}!/{row.member}" if row.member else row.path))
            ]
            files_alone = [path for path, member in wanted if not member]
            members = [each for each in wanted if each[1]]
            statements = [
                sa.select(joined_ids(text_.c.content_id)).where(
                    of_source, text_.c.member == "", text_.c.path.in_(part)
                )
                for part in batches(files_alone, IDS_A_QUERY)
            ]
            statements += [
                sa.select(joined_ids(text_.c.content_id)).where(
                    of_source, text_.c.path == path, text_.c.member == member
                )
                for path, member in members
            ]
            found.append(_ids(connection, statements))
        return np.concatenate([np.empty(0, np.int64), *found])


def _roots(connection: sa.Connection) -> dict[int, str]:
    """The folder that the paths of each source begin in, with a slash at its end."""
    roots = {}
    for row in connection.execute(sa.select(source.c.id, source.c.location, source.c.kind)):
        folder = row.location if row.kind == "folder" else row.location.rpartition("/")[0]
        roots[row.id] = folder.rstrip("/") + "/"
    return roots


def _folders(connection: sa.Connection, source_id: int) -> list[str]:
    """The folders of a source that hold pictures, those in archives too."""
    run = connection.execute
    of_source = _HERE & (image.c.source_id == source_id)
    first = sa.select(sa.func.min(image.c.folder).label("folder")).where(of_source)
    steps = first.cte("steps", recursive=True)
    following = sa.select(sa.func.min(image.c.folder)).where(of_source, image.c.folder > steps.c[0])
    steps = steps.union_all(
        sa.select(following.scalar_subquery()).where(steps.c.folder.is_not(None))
    )
    few = run(sa.select(steps.c.folder).limit(_FOLDERS_BY_STEPS)).scalars().all()
    if few[-1] is None:
        return list(few[:-1])
    return list(run(sa.select(image.c.folder).where(of_source).distinct()).scalars())


def _matching(pattern: PathPattern, root: str, folders: Sequence[str]) -> list[str]:
    assert pattern.folder is not None
    fits = pattern.folder.fullmatch
    return [folder for folder in folders if fits(comparable(root + folder))]


def _by_name(connection: sa.Connection, place: Any, pattern: PathPattern) -> Ids:
    """Contents of the files at `place` (a condition) whose names match."""
    if pattern.name is None:
        return _ids(connection, [sa.select(joined_ids(image.c.content_id)).where(place)])
    name = sa.type_coerce(image.c.name, sa.Text)
    like: Any = name.like(pattern.like, escape="\\")
    found = np.empty(0, np.int64)
    if pattern.exactly is not None:
        # Names in ASCII, which have as many bytes as characters, need no second look.
        ascii_only = sa.func.length(name) == sa.func.length(sa.cast(name, sa.LargeBinary))
        exactly = sa.func.lower(name).op("GLOB")(pattern.exactly)
        statement = sa.select(joined_ids(image.c.content_id))
        # LIKE takes less time than GLOB, and leaves it few names as a rule.
        found = _ids(connection, [statement.where(place, like, ascii_only, exactly)])
        like = like & ~ascii_only
    rows = connection.execute(sa.select(image.c.content_id, image.c.name).where(place, like))
    fits = pattern.name.fullmatch
    others = [row[0] for row in rows if fits(comparable(row[1]))]
    return np.concatenate([found, np.array(others, np.int64)])


def _ids(connection: sa.Connection, statements: Iterable[Any]) -> Ids:
    """The ids of all of these queries of `joined_ids`."""
    parts = [parsed_ids(connection.execute(each).scalar()) for each in statements]
    return np.concatenate([np.empty(0, np.int64), *parts])
