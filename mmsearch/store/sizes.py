"""What tells the best of several alike pictures, for all pictures of a library at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mmsearch.store.reading import Reading
from mmsearch.store.schema import content, image, picture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROWS_A_CHUNK = 16_384
_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class PictureSizes:
    """Facts about n visible pictures, ascending by id.

    ids, pixels (width x height), bytes: (n,) int64. taken: (n,) float64 seconds of local time
    since 1970, NaN where the picture does not say.
    """

    ids: NDArray[np.int64]
    pixels: NDArray[np.int64]
    bytes: NDArray[np.int64]
    taken: NDArray[np.float64]


class Sizes:
    """Sizes and copies of the pictures of one catalog. Thread-safe."""

    def __init__(self, reading: Reading) -> None:
        self._read = reading

    def all(self) -> PictureSizes:
        """Of every visible picture, 32 bytes each."""
        import numpy as np

        statement = (
            sa.select(
                picture.c.content_id,
                picture.c.width,
                picture.c.height,
                picture.c.bytes,
                picture.c.taken_at,
            )
            .join(content, content.c.id == picture.c.content_id)
            .where(~content.c.hidden)
            .order_by(picture.c.content_id)
        )
        whole = [np.empty((0, 3), np.int64)]
        taken = [np.empty(0, np.float64)]
        for rows in self._read.chunks(statement, _ROWS_A_CHUNK):
            facts = [(row[0], row[1] * row[2], row[3]) for row in rows]
            whole.append(np.array(facts, np.int64))
            taken.append(np.array([_seconds(row[4]) for row in rows], np.float64))
        table = np.concatenate(whole)
        return PictureSizes(table[:, 0], table[:, 1], table[:, 2], np.concatenate(taken))

    def copied(self) -> Iterator[int]:
        """The pictures that several files hold, by id, those of most copies first."""
        count = sa.func.count()
        statement = (
            sa.select(image.c.content_id)
            .where(image.c.missing_since.is_(None))
            .group_by(image.c.content_id)
            .having(count > 1)
            .order_by(count.desc(), image.c.content_id)
        )
        for rows in self._read.chunks(statement, _ROWS_A_CHUNK):
            for row in rows:
                yield int(row[0])


def _seconds(taken_at: datetime | None) -> float:
    return float("nan") if taken_at is None else (taken_at - _EPOCH).total_seconds()
