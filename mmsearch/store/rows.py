"""What goes into the catalog: the rows that the write path hands over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mmsearch.types import PictureInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ImageRow:
    """A picture file to write down. `info` is None when the content is known already.

    hash: SHA-256 of the file's bytes. vector: (dim,) float, or None when the space has it. beside:
    which files beside it were read, "?" where they are to be read again; told: what they tell
    (`mmsearch.told.told_json`).
    """

    source_id: int
    path: str
    member: str
    size: int
    mtime_ns: int
    hash: bytes
    info: PictureInfo | None
    vector: NDArray[np.float32] | None
    beside: str = ""
    told: str | None = None


@dataclass(frozen=True, slots=True)
class TextRow:
    """A text to write down. hash: SHA-256 of the body in UTF-8; the rest as in the table `text`."""

    source_id: int
    path: str
    member: str
    key: str
    origin: str
    body: str
    hash: bytes
    image_ref: str | None
    vector: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class ToldRow:
    """What files beside a known picture tell of it now. The fields are those of ImageRow."""

    source_id: int
    path: str
    member: str
    beside: str
    told: str | None


@dataclass(frozen=True, slots=True)
class FailureRow:
    """An input that could not be used. `transient`: try again next time, changed or not."""

    source_id: int
    path: str
    member: str
    key: str
    size: int
    mtime_ns: int
    reason: str
    transient: bool = False


@dataclass(frozen=True, slots=True)
class TakeoutFile:
    """A file about a picture in a part of a Google Takeout; the fields are those of the table."""

    folder: str
    name: str
    size: int
    mark: int
    said: str | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class Pending:
    """A file that the scan saw and the catalog does not have as it is now.

    beside: what lies beside a picture, as `image.beside`; None: that could not be looked at.
    """

    path: str
    kind: str
    size: int
    mtime_ns: int
    of: str | None
    beside: str | None = ""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a scan changed: files that came back, and files that are gone."""

    returned: int
    missing: int


def now() -> datetime:
    """The time in UTC, without a zone: what the catalog stores."""
    return datetime.now(UTC).replace(tzinfo=None)
