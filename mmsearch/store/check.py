"""What may be wrong in a catalog: looked for in SQL, told in numbers and ids; nothing is changed.

The repairs are in mmsearch.store.mend.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mmsearch.store.connect import complaints, translate_errors
from mmsearch.store.details import find_unsettled, missing_triggers
from mmsearch.store.schema import (
    container,
    content,
    embedding,
    image,
    passage,
    picture,
    source,
    space,
    takeout_part,
    text_,
)
from mmsearch.store.word_check import WordFaults, find_word_faults
from mmsearch.types import Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: How far a norm may be from 1. Rounding to 11 bits moves it by up to 2^-11 = 4.9e-4; the rest is
#: for the model's own arithmetic in half precision.
_NORM_TOLERANCE = 4e-3
_ROWS_A_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class BadVectors:
    """Vectors of one space that cannot be right, by the contents they belong to."""

    checked: int
    wrong_length: tuple[int, ...]
    not_finite: tuple[int, ...]
    not_unit: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return (*self.wrong_length, *self.not_finite, *self.not_unit)


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file that the catalog counts on, as it was when it was read."""

    path: str
    size: int
    mtime_ns: int


def held() -> sa.ColumnElement[bool]:
    """Whether a file holds a content: what `content.hidden` must be the opposite of."""
    places = [
        sa.exists().where(table.c.content_id == content.c.id, table.c.missing_since.is_(None))
        for table in (image, text_)
    ]
    return sa.or_(*places)


class CatalogCheck:
    """The checks of one catalog, on one connection and within one read transaction."""

    def __init__(self, path: Path, connection: sa.Connection) -> None:
        self._path = path
        self._connection = connection

    def _rows(self, statement: Any) -> list[Any]:
        with translate_errors(self._path):
            return list(self._connection.execute(statement).all())

    def _ids(self, statement: Any) -> list[int]:
        return [int(row[0]) for row in self._rows(statement)]

    def integrity(self) -> list[str]:
        """What SQLite finds wrong with the file itself; empty when it is sound.

        Raises:
            StoreError: so much that it cannot even look.
        """
        lines = complaints(self._rows(sa.text("PRAGMA integrity_check(20)")))
        # Newer builds of SQLite look into these too. `words` does, and they can be built anew.
        return [line for line in lines if "FTS5 table" not in line]

    def dangling(self) -> dict[str, int]:
        """Rows that point to rows that are not there: "table → table" and how many."""
        rows = self._rows(sa.text("PRAGMA foreign_key_check"))
        return dict(Counter(f"{row[0]} → {row[2]}" for row in rows))

    def active_spaces(self) -> tuple[int, int]:
        """How many spaces are in use by searches, of how many."""
        flags = [bool(row[0]) for row in self._rows(sa.select(space.c.active))]
        return sum(flags), len(flags)

    def bad_vectors(self, space_id: int, dim: int) -> BadVectors:
        """Every vector of a space that is not `dim` finite numbers of norm 1."""
        import numpy as np

        checked = 0
        wrong: tuple[list[int], list[int], list[int]] = ([], [], [])
        for ids, blobs in self._vectors(space_id):
            checked += len(ids)
            whole = [len(blob) == 2 * dim for blob in blobs]
            wrong[0].extend(id_ for id_, good in zip(ids, whole, strict=True) if not good)
            good_ids = np.array([i for i, good in zip(ids, whole, strict=True) if good], np.int64)
            data = b"".join(blob for blob, good in zip(blobs, whole, strict=True) if good)
            vectors = np.frombuffer(data, "<f2").astype(np.float32).reshape(-1, dim)
            norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
            finite = np.isfinite(norms)
            unit = np.abs(norms - 1) <= _NORM_TOLERANCE
            wrong[1].extend(good_ids[~finite].tolist())
            wrong[2].extend(good_ids[finite & ~unit].tolist())
        return BadVectors(checked, *(tuple(ids) for ids in wrong))

    def _vectors(self, space_id: int) -> Iterator[tuple[list[int], list[bytes]]]:
        statement = (
            sa.select(embedding.c.content_id, embedding.c.vector)
            .where(embedding.c.space_id == space_id)
            .order_by(embedding.c.seq)
            .execution_options(yield_per=_ROWS_A_CHUNK)
        )
        with translate_errors(self._path), self._connection.execute(statement) as rows:
            for chunk in rows.partitions():
                yield [row[0] for row in chunk], [bytes(row[1]) for row in chunk]

    def with_vector(self, space_id: int, modality: Modality, up_to: int) -> NDArray[np.int64]:
        """Ids of the contents whose vectors came up to seq `up_to`, (n,) int64, ascending."""
        import numpy as np

        from mmsearch.store.places import joined_ids, parsed_ids

        # One string of them all: as rows they take twenty times the memory.
        statement = (
            sa.select(joined_ids(embedding.c.content_id))
            .join(content, content.c.id == embedding.c.content_id)
            .where(
                embedding.c.space_id == space_id,
                embedding.c.seq <= up_to,
                content.c.modality == modality,
            )
        )
        return np.sort(parsed_ids(self._rows(statement)[0][0]))

    def wrongly_hidden(self) -> list[int]:
        """Contents that files hold and searches do not show."""
        return self._ids(sa.select(content.c.id).where(content.c.hidden, held()))

    def wrongly_shown(self) -> list[int]:
        """Contents that no file holds any more and searches show."""
        return self._ids(sa.select(content.c.id).where(~content.c.hidden, ~held()))

    def bare(self) -> list[int]:
        """Contents that have a vector, and of which nothing else is known.

        Without a vector they are read again anyway; of what was removed for good neither is left.
        """
        # By space, as the index has them: otherwise each content looks through all vectors.
        embedded = sa.exists().where(
            embedding.c.space_id.in_(sa.select(space.c.id)),
            embedding.c.content_id == content.c.id,
        )
        found: list[int] = []
        for modality, table in (("image", picture), ("text", passage)):
            found += self._ids(
                sa.select(content.c.id).where(
                    content.c.modality == modality,
                    embedded,
                    ~sa.exists().where(table.c.content_id == content.c.id),
                )
            )
        return found

    def words(self) -> WordFaults:
        """What is wrong with the words that pictures and texts are found by."""
        with translate_errors(self._path):
            return find_word_faults(self._connection)

    def unsettled(self) -> tuple[list[int], list[str]]:
        """Pictures of which something else is known than they and the files beside them tell, and
        the triggers that are lacking."""
        with translate_errors(self._path):
            return find_unsettled(self._connection), missing_triggers(self._connection)

    def unread(self, space_id: int) -> tuple[int, list[int]]:
        """Visible contents without a vector in a space.

        Returns:
            How many the next run reads by itself, and the ids of those it would pass over.
        """
        lacking = ~content.c.hidden & ~_embedded(content.c.id, space_id)
        ids = set(self._ids(sa.select(content.c.id).where(lacking)))
        if not ids:
            return 0, []
        waiting = set(self._ids(sa.select(content.c.id).where(lacking, _is_read_again(space_id))))
        return len(waiting), sorted(ids - waiting)

    def files(self) -> Iterator[tuple[str, str, Iterator[KnownFile]]]:
        """For each source its location, its kind and the files it counts on."""
        for row in self._rows(sa.select(source).order_by(source.c.location)):
            yield row.location, row.kind, self._files_of(row.id)

    def _files_of(self, source_id: int) -> Iterator[KnownFile]:
        pictures = sa.select(image.c.path, image.c.size, image.c.mtime_ns).where(
            image.c.source_id == source_id, image.c.member == "", image.c.missing_since.is_(None)
        )
        # An archive or a file of texts counts while anything in it does.
        used = [
            sa.exists().where(
                table.c.source_id == container.c.source_id,
                table.c.path == container.c.path,
                table.c.missing_since.is_(None),
            )
            for table in (image, text_, takeout_part)
        ]
        others = sa.select(container.c.path, container.c.size, container.c.mtime_ns).where(
            container.c.source_id == source_id, sa.or_(*used)
        )
        for statement in (pictures, others):
            query = statement.execution_options(yield_per=_ROWS_A_CHUNK)
            with translate_errors(self._path), self._connection.execute(query) as rows:
                for row in rows:
                    yield KnownFile(row.path, row.size, row.mtime_ns)


def _embedded(content_id: Any, space_id: int) -> sa.ColumnElement[bool]:
    return sa.exists().where(embedding.c.content_id == content_id, embedding.c.space_id == space_id)


def _is_read_again(space_id: int) -> sa.ColumnElement[bool]:
    """Whether a run takes a content without a vector for new; see mmsearch.store.scan."""

    def no_container(table: sa.Table) -> sa.ColumnElement[bool]:
        return ~sa.exists().where(
            container.c.source_id == table.c.source_id,
            container.c.path == table.c.path,
            container.c.space_id == space_id,
        )

    holder = image.alias("holder")  # the picture that carries a text
    picture_is_read = sa.exists().where(
        holder.c.source_id == text_.c.source_id,
        holder.c.path == text_.c.path,
        holder.c.member == "",
        sa.or_(~_embedded(holder.c.content_id, space_id), holder.c.mtime_ns < 0),
    )
    carried = (text_.c.origin == "embedded") & (text_.c.member == "")
    return sa.or_(
        sa.exists().where(
            image.c.content_id == content.c.id,
            image.c.missing_since.is_(None),
            sa.or_(image.c.member == "", no_container(image)),
        ),
        sa.exists().where(
            text_.c.content_id == content.c.id,
            text_.c.missing_since.is_(None),
            sa.or_(carried & picture_is_read, ~carried & no_container(text_)),
        ),
    )
