"""Reading vectors out of the catalog: in order of arrival, by content, how many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mmsearch.batches import batches
from mmsearch.errors import StoreError
from mmsearch.store.reading import IDS_A_QUERY, Reading, among_ids, ids_parameter
from mmsearch.store.schema import content, embedding
from mmsearch.types import Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROWS_A_CHUNK = 16_384
_ROWS_A_BLOCK = 2048
_KNOWN = (
    "SELECT c.id FROM content AS c CROSS JOIN embedding AS e ON e.space_id = ? "
    "AND e.content_id = c.id WHERE c.modality = ? AND c.hash = ?"
)

_OF = sa.select(embedding.c.content_id, embedding.c.vector).where(
    embedding.c.space_id == sa.bindparam("space_id"), among_ids(embedding.c.content_id)
)


def _by_seq(space_id: int) -> Any:
    """That a vector is of a space, in a form that the index by space does not answer.

    Otherwise SQLite reads all of that index, and sorts, where a few rows by seq would do.
    """
    return embedding.c.space_id + 0 == space_id


class Vectors:
    """The vectors of one catalog, those of hidden contents included. Thread-safe."""

    def __init__(self, reading: Reading) -> None:
        self._read = reading

    def count(self, space_id: int, modality: Modality) -> int:
        """How many vectors a space has, those of hidden contents included."""
        statement = (
            sa.select(sa.func.count())
            .select_from(embedding)
            .join(content, content.c.id == embedding.c.content_id)
            .where(embedding.c.space_id == space_id, content.c.modality == modality)
        )
        return int(self._read.scalar(statement))

    def exist(self, space_id: int, modality: Modality) -> bool:
        """Whether a space has any vector of this modality, be its content hidden."""
        there = sa.exists().where(
            embedding.c.space_id == space_id, embedding.c.content_id == content.c.id
        )
        statement = sa.select(content.c.id).where(content.c.modality == modality, there)
        return self._read.scalar(statement.limit(1)) is not None

    def count_after(self, space_id: int, modality: Modality, seq: int) -> int:
        """How many vectors were committed after `seq`, those of hidden contents included."""
        statement = (
            sa.select(sa.func.count())
            .select_from(embedding)
            .join(content, content.c.id == embedding.c.content_id)
            .where(
                _by_seq(space_id),
                embedding.c.seq > seq,
                content.c.modality == modality,
            )
        )
        return int(self._read.scalar(statement))

    def count_lacking(self, space_id: int, old_space_id: int) -> int:
        """How many visible contents have a vector in the old space and none in the other."""
        old, new = embedding.alias("old"), embedding.alias("new")
        there = sa.exists().where(new.c.content_id == old.c.content_id, new.c.space_id == space_id)
        statement = (
            sa.select(sa.func.count())
            .select_from(old)
            .join(content, content.c.id == old.c.content_id)
            .where(old.c.space_id == old_space_id, ~content.c.hidden, ~there)
        )
        return int(self._read.scalar(statement))

    def embedded(
        self, space_id: int, modality: Modality, digests: Iterable[bytes]
    ) -> dict[bytes, int]:
        """Which of these hashes already have a vector in the space: hash → content id."""
        found: dict[bytes, int] = {}
        for part in batches(digests, IDS_A_QUERY):
            rows = self._read.rows(
                sa.select(content.c.hash, content.c.id)
                .join(embedding, embedding.c.content_id == content.c.id)
                .where(
                    content.c.modality == modality,
                    content.c.hash.in_(part),
                    embedding.c.space_id == space_id,
                )
            )
            found.update({row.hash: row.id for row in rows})
        return found

    def known(self, space_id: int, modality: Modality, digest: bytes) -> int | None:
        """The id of the content with this hash, if it has a vector in the space.

        For the many threads that ask it of one file after the other: `embedded` takes seven times
        as long for one hash, and a hundredth of that a hash for many.
        """
        found = self._read.driver_scalar(_KNOWN, (space_id, modality, digest))
        return None if found is None else int(found)

    def after(
        self, space_id: int, modality: Modality, seq: int, *, up_to: int | None = None
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float16]]]:
        """The vectors committed after `seq`, up to seq `up_to`, in order, in bounded chunks.

        Yields:
            The last seq of the chunk, content ids (n,) int64, vectors (n, dim) float16.
        """
        import numpy as np

        statement = (
            sa.select(embedding.c.seq, embedding.c.content_id, embedding.c.vector)
            .join(content, content.c.id == embedding.c.content_id)
            .where(
                _by_seq(space_id),
                embedding.c.seq > seq,
                content.c.modality == modality,
            )
            .order_by(embedding.c.seq)
        )
        if up_to is not None:
            statement = statement.where(embedding.c.seq <= up_to)
        for chunk in self._read.chunks(statement, _ROWS_A_CHUNK):
            ids = np.fromiter((row[1] for row in chunk), np.int64, len(chunk))
            yield chunk[-1][0], ids, self._matrix([row[2] for row in chunk])

    def visible(self, space_id: int, modality: Modality) -> NDArray[np.int64]:
        """The contents (n,), ascending, that have a vector and are not hidden."""
        import numpy as np

        found = [
            np.fromiter((row[0] for row in chunk), np.int64, len(chunk))
            for chunk in self._read.chunks(
                self._visible(space_id, modality, embedding.c.content_id), _ROWS_A_CHUNK
            )
        ]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def of_visible(self, space_id: int, modality: Modality) -> Iterator[NDArray[np.float16]]:
        """Their vectors in that order, in small blocks (m, dim) float16."""
        statement = self._visible(space_id, modality, embedding.c.vector)
        for chunk in self._read.chunks(statement, _ROWS_A_BLOCK, mapped=False):
            yield self._matrix([row[0] for row in chunk])

    def _visible(self, space_id: int, modality: Modality, *columns: Any) -> Any:
        return (
            sa.select(*columns)
            .join(content, content.c.id == embedding.c.content_id)
            .where(
                embedding.c.space_id == space_id,
                content.c.modality == modality,
                ~content.c.hidden,
            )
            .order_by(embedding.c.content_id)
        )

    def of(
        self, space_id: int, ids: Sequence[int]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
        """The vectors of those of these contents that have one, in bounded chunks.

        Yields:
            Content ids (n,) int64, n > 0, and their vectors (n, dim) float16.
        """
        import numpy as np

        for part in batches(ids, IDS_A_QUERY):
            rows = self._read.rows(_OF, space_id=space_id, ids=ids_parameter(part))
            if rows:
                found = np.fromiter((row[0] for row in rows), np.int64, len(rows))
                yield found, self._matrix([row[1] for row in rows])

    def _matrix(self, blobs: Sequence[bytes]) -> NDArray[np.float16]:
        """Stored vectors, at least one, as (n, dim) float16."""
        import numpy as np

        size = len(blobs[0])
        if not size or size % 2 or any(len(blob) != size for blob in blobs):
            raise StoreError(
                f"{self._read.path}: vectors are damaged. `mmsearch doctor --repair` mends that"
            )
        return np.frombuffer(b"".join(blobs), "<f2").reshape(len(blobs), -1)

    def get(self, space_id: int, content_id: int) -> NDArray[np.float32] | None:
        """The stored vector of one content, (1, dim) float32; None when it has none."""
        import numpy as np

        blob = self._read.scalar(
            sa.select(embedding.c.vector).where(
                embedding.c.space_id == space_id, embedding.c.content_id == content_id
            )
        )
        return None if blob is None else np.frombuffer(blob, "<f2").astype(np.float32)[None]

    def last(self, *, up_to: int | None = None) -> tuple[int, int, bytes] | None:
        """What was embedded last, in whatever space: seq, content id, vector; None for nothing.

        up_to: of what came up to this seq.
        """
        statement = sa.select(embedding.c.seq, embedding.c.content_id, embedding.c.vector)
        if up_to is not None:
            statement = statement.where(embedding.c.seq <= up_to)
        rows = self._read.rows(statement.order_by(embedding.c.seq.desc()).limit(1))
        return tuple(rows[0]) if rows else None

    def at(self, seq: int) -> tuple[int, bytes] | None:
        """What was embedded as number `seq`: content id, vector; None when that is gone."""
        rows = self._read.rows(
            sa.select(embedding.c.content_id, embedding.c.vector).where(embedding.c.seq == seq)
        )
        return tuple(rows[0]) if rows else None

    def last_seq_given(self) -> int:
        """The highest seq that a vector ever had here, whether it is still there or not."""
        sequence = sa.table("sqlite_sequence", sa.column("name"), sa.column("seq"))
        statement = sa.select(sequence.c.seq).where(sequence.c.name == embedding.name)
        return int(self._read.scalar(statement) or 0)

    def down_from(self, space_id: int, modality: Modality, seq: int) -> Iterator[tuple[int, bytes]]:
        """Content ids and vectors embedded up to `seq`, the last one first."""
        statement = (
            sa.select(embedding.c.content_id, embedding.c.vector)
            .join(content, content.c.id == embedding.c.content_id)
            .where(
                _by_seq(space_id),
                embedding.c.seq <= seq,
                content.c.modality == modality,
            )
            .order_by(embedding.c.seq.desc())
        )
        for chunk in self._read.chunks(statement, 100):
            yield from map(tuple, chunk)
