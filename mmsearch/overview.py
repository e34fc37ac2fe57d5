"""What a library says of itself: how much it holds, where that came from, and what failed.

Apart from mmsearch.types because a search that a service answers needs none of it: to make these
classes takes longer than to read the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mmsearch.types import Modality, Space


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that could not be used, and why."""

    path: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ScanProblem:
    """Something in a folder or archive that is passed over; "" is the folder or archive itself.

    closed: it could not be looked at, or not to its end, so what it holds may be as it was.
    """

    path: str
    reason: str
    closed: bool = False


@dataclass(frozen=True, slots=True)
class SourcePlace:
    """A place that pictures or texts come from. `kind` is "folder" or "file".

    name: what people call it, unlike that of any other source. indexed_at: when it was last read to
    its end; UTC, without a zone.
    """

    id: int
    name: str
    location: str
    kind: str
    indexed_at: datetime | None
    exclude: tuple[str, ...]
    follow_links: bool


@dataclass(frozen=True, slots=True)
class SourceRecord(SourcePlace):
    """The same, and how much of it there is. texts: of caption files and sidecars; missing:
    pictures that are gone.
    """

    images: int
    texts: int
    missing: int


@dataclass(frozen=True, slots=True)
class SpaceStatus:
    """A space of the library with the number of vectors in it."""

    space: Space
    active: bool
    images: int
    texts: int


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """One vector index: how it is built, how many vectors, how many bytes each.

    approximate: the factory of the index that searches begin with; None where every vector is
    compared. Of that: nprobe of its lists are read, and so many candidates compared exactly; memory
    in bytes; recall@10 and the median latency, as they were measured with `queries` queries when
    there were `measured_on` vectors. queries_of: "texts" or "pictures" of the library, or
    "captions", generic ones. outgrown: so much has changed since that they may not hold any more.
    """

    modality: Modality
    factory: str
    vectors: int
    bytes_per_vector: float
    approximate: str | None = None
    nprobe: int = 0
    candidates: int = 0
    recall: float = 1.0
    queries: int = 0
    queries_of: str = ""
    measured_on: int = 0
    latency_ms: float | None = None
    memory: int = 0
    outgrown: bool = False


@dataclass(frozen=True, slots=True)
class LibraryStatus:
    """What a library holds. Counts are of searchable items.

    texts: of caption files and sidecars; links: those of them written for a picture; carried: texts
    that pictures carry themselves; missing: pictures that are gone; bytes: of the catalog and
    the indexes on disk (thumbnails, of which there may be many, are not counted); free: about so
    many of them nothing is in, where that is much.
    """

    path: str
    images: int
    texts: int
    links: int
    carried: int
    missing: int
    failed: int
    bytes: int
    free: int
    spaces: tuple[SpaceStatus, ...]
    index: tuple[IndexStatus, ...]
