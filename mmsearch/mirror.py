"""A library mirrored into a database of somebody else's: what is held there, and what such a
database must be able to do. `mmsearch export URL` fills it (indexer.exchange.mirroring)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["pictures", "texts"]
KINDS: tuple[Kind, ...] = ("pictures", "texts")

#: Of the tables and their digests. Another one is made beside what is there, as for another model.
LAYOUT = 1


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What a database mirrors.

    model, dim, fingerprint, preprocessing: the space of the vectors. origin: tells the library from
    others (`Catalog.space_origin`). revision: of the library, as it is mirrored whole. gps: with
    the places where pictures were taken.
    """

    model: str
    dim: int
    fingerprint: str
    preprocessing: str
    origin: str
    revision: int
    gps: bool
    layout: int = LAYOUT

    def fits(self, other: Mirrored) -> bool:
        """Whether the rows of the one can stand among those of the other."""
        return (self.fingerprint, self.origin, self.layout) == (
            other.fingerprint,
            other.origin,
            other.layout,
        )


@dataclass(frozen=True, slots=True)
class MirroredPicture:
    """A picture as it is mirrored; the fields are those of ImageRecord and PictureInfo.

    caption: the first of its texts. text_ids: all of them, in order. digest: of all the rest, the
    vector included; two rows are alike exactly when their digests are.
    """

    id: int
    path: str
    copies: tuple[str, ...]
    hash: str
    bytes: int
    format: str
    width: int
    height: int
    taken_at: datetime | None
    camera: str | None
    title: str | None
    description: str | None
    keywords: tuple[str, ...]
    tags: tuple[str, ...]
    caption: str | None
    latitude: float | None
    longitude: float | None
    text_ids: tuple[int, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class MirroredText:
    """A text as it is mirrored; the fields are those of TextRecord. digest: see MirroredPicture."""

    id: int
    body: str
    source: str
    hash: str
    tags: tuple[str, ...]
    digest: str


class Engine(Protocol):
    """A database that holds mirrors. One that is built anew stands beside the one there, which is
    searched meanwhile, and takes its place at the end.

    Raises:
        EngineError: from every method: it cannot be reached, or does not do as it is told.
    """

    where: str
    """For people: its place, without secrets."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def mirrored(self) -> Mirrored | None:
        """What is mirrored there now; None before a first run came to its end."""

    def begin(self, wanted: Mirrored, *, beside: bool) -> None:
        """Says what the following calls are about.

        beside: what is there is left as it is until `finish`; what an earlier run has built beside
        it goes on where it fits, and is deleted where it does not.

        Raises:
            RefusedError: its place is taken by what is no mirror; or somebody else writes to it.
        """

    def held(self, kind: Kind, after: int, up_to: int) -> dict[int, str]:
        """The digests of the rows with after < id <= up_to."""

    def put_pictures(self, rows: Sequence[MirroredPicture], vectors: NDArray[np.float16]) -> None:
        """Writes rows, at least one, in place of those with the same ids. vectors: (n, dim)."""

    def put_texts(self, rows: Sequence[MirroredText], vectors: NDArray[np.float16]) -> None:
        """The same for texts."""

    def delete(self, kind: Kind, ids: Sequence[int]) -> None:
        """Deletes the rows with these ids, at least one."""

    def finish(self, done: Mirrored) -> None:
        """Everything is there: it is indexed, takes its place, and `mirrored` says so."""
