"""What a filter is made of: conditions, combined by and, or and not. Values, equal by meaning.

A condition is true or false of a picture; one about something that a picture does not say (a date,
a place, a camera) is false of it, so that `not` of it is true.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias, cast

from mmsearch.errors import QueryError
from mmsearch.filters.globs import name_pattern, path_pattern

Thing = Literal["caption", "gps", "date", "camera", "keyword", "tag"]
Quantity = Literal["bytes", "width", "height", "pixels"]
Shape = Literal["landscape", "portrait", "square"]
THINGS: tuple[Thing, ...] = ("caption", "gps", "date", "camera", "keyword", "tag")
QUANTITIES: tuple[Quantity, ...] = ("bytes", "width", "height", "pixels")
SHAPES: tuple[Shape, ...] = ("landscape", "portrait", "square")

#: What a filter may have at most: it may come from anybody who can reach the server.
MAX_DEPTH = 32
MAX_CONDITIONS = 200
MAX_VALUE = 1000
MAX_TEXT = 10_000

#: Other names of formats.
_FORMATS = {
    "JPG": "JPEG", "TIF": "TIFF", "HEIC": "HEIF",
    "NRW": "NEF", "SR2": "ARW", "SRF": "ARW", "RWL": "RW2", "KDC": "DCR",
}  # fmt: skip
#: No count of anything here is larger; SQLite's largest.
_MAX_COUNT = 2**63 - 1


def _check_glob(what: str, glob: str) -> None:
    if not isinstance(glob, str):
        raise QueryError(f"{what} is compared with text, not with {glob!r}")
    if not glob:
        raise QueryError(f'{what} is compared with nothing: "*" is any')
    if len(glob) > MAX_VALUE:
        raise QueryError(f"a {what} of {len(glob):,} characters is more than {MAX_VALUE:,}")
    if "\0" in glob:
        raise QueryError(f"no {what} holds a NUL character")


@dataclass(frozen=True, slots=True)
class Path:
    """A file of it lies at a path that the pattern matches (mmsearch.filters.globs).

    Of the absolute path; members of archives read "/photos/a.zip!/x.jpg".
    """

    glob: str

    def __post_init__(self) -> None:
        _check_glob("path", self.glob)
        path_pattern(self.glob)


@dataclass(frozen=True, slots=True)
class Source:
    """A file of it belongs to a source with this name or location, or one that the pattern matches.

    Without wildcards there must be such a source.
    """

    name: str

    def __post_init__(self) -> None:
        _check_glob("source", self.name)
        name_pattern(self.name)


@dataclass(frozen=True, slots=True)
class Camera:
    """Its camera is called so (a pattern)."""

    glob: str

    def __post_init__(self) -> None:
        _check_glob("camera", self.glob)
        name_pattern(self.glob)


@dataclass(frozen=True, slots=True)
class Keyword:
    """It carries such a keyword (a pattern) itself, from EXIF, IPTC or XMP."""

    glob: str

    def __post_init__(self) -> None:
        _check_glob("keyword", self.glob)
        name_pattern(self.glob)


@dataclass(frozen=True, slots=True)
class Tag:
    """Somebody, or `mmsearch classify`, has given it such a tag (a pattern)."""

    glob: str

    def __post_init__(self) -> None:
        _check_glob("tag", self.glob)
        name_pattern(self.glob)


@dataclass(frozen=True, slots=True)
class Format:
    """Its file format: "JPEG", "PNG", ..., as Pillow calls them; jpg, tif and heic are known.

    "RAW": any that cameras write of what their sensor saw, "DNG", "NEF", ... (mmsearch.raw).
    """

    name: str

    def __post_init__(self) -> None:
        _check_glob("format", self.name)
        name = self.name.upper()
        object.__setattr__(self, "name", _FORMATS.get(name, name))


@dataclass(frozen=True, slots=True)
class Dates:
    """`start` <= when it was taken or added < `end`; None is open. Naive, microseconds.

    taken: by the clock of the camera, in its time zone. added: when it came into the library, UTC;
    what came before that was noted (schema 0003) is at no date.
    """

    what: Literal["taken", "added"]
    start: datetime | None = None
    end: datetime | None = None

    def __post_init__(self) -> None:
        if self.what not in ("taken", "added"):
            raise QueryError(f"there are dates taken and added, not {self.what!r}")
        for name in ("start", "end"):
            at = getattr(self, name)
            if at is None:
                continue
            if not isinstance(at, datetime):
                raise QueryError(f"{self.what} is compared with a date, not with {at!r}")
            if at.tzinfo is not None:
                if self.what == "taken":
                    raise QueryError(
                        "cameras write local time: give dates taken without a time zone"
                    )
                try:
                    utc = at.astimezone(UTC).replace(tzinfo=None)
                except OverflowError as exc:
                    raise QueryError(f"{at.isoformat()} is no date in UTC") from exc
                object.__setattr__(self, name, utc)


@dataclass(frozen=True, slots=True)
class Range:
    """`low` <= a quantity <= `high`; None is open. pixels: width times height."""

    what: Quantity
    low: int | None = None
    high: int | None = None

    def __post_init__(self) -> None:
        if self.what not in QUANTITIES:
            raise QueryError(f"there are {', '.join(QUANTITIES)}, not {self.what!r}")
        for limit in (self.low, self.high):
            if limit is None:
                continue
            if not isinstance(limit, int) or isinstance(limit, bool):
                raise QueryError(f"{self.what} is compared with a whole number, not {limit!r}")
            if not 0 <= limit <= _MAX_COUNT:
                raise QueryError(f"{limit} is no number of {self.what}")


@dataclass(frozen=True, slots=True)
class Orientation:
    """Wider than high, higher than wide, or neither; as it is seen upright."""

    shape: Shape

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise QueryError(f"an orientation is {', '.join(SHAPES)}, not {self.shape!r}")


@dataclass(frozen=True, slots=True)
class Has:
    """It has one at all. caption: a text written for it, or carried by it; gps: a place."""

    thing: Thing

    def __post_init__(self) -> None:
        if self.thing not in THINGS:
            raise QueryError(f"a picture has {', '.join(THINGS)}, not {self.thing!r}")


@dataclass(frozen=True, slots=True)
class Near:
    """It was taken within `km` of a place, in degrees, along the earth (a sphere of 6371.0088 km).

    The radius is the mean one of the IUGG; the true distance differs by up to 0.6 %.
    """

    latitude: float
    longitude: float
    km: float

    def __post_init__(self) -> None:
        for name in ("latitude", "longitude", "km"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise QueryError(f"the {name} of a place is a number, not {number!r}")
            if not math.isfinite(number):
                raise QueryError(f"the {name} of a place is not {number}")
            object.__setattr__(self, name, float(number))
        if abs(self.latitude) > 90 or abs(self.longitude) > 180:
            raise QueryError(
                f"{self.latitude:g}, {self.longitude:g} is no place: latitudes are -90 to 90, "
                "longitudes -180 to 180 degrees"
            )
        if self.km < 0:
            raise QueryError(f"a distance is not {self.km:g} km")


@dataclass(frozen=True, slots=True)
class And:
    """All of them; none at all is true of everything."""

    parts: tuple[Filter, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))


@dataclass(frozen=True, slots=True)
class Or:
    """One of them at least; there is one."""

    parts: tuple[Filter, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            raise QueryError('"or" of nothing: say at least one condition')


@dataclass(frozen=True, slots=True)
class Not:
    part: Filter


Condition: TypeAlias = (
    Path | Source | Camera | Keyword | Tag | Format | Dates | Range | Orientation | Has | Near
)
Filter: TypeAlias = And | Or | Not | Condition


#: What can be asked of texts; all else is about pictures.
_OF_TEXTS = (Path, Source, Tag)


def checked_for_texts(filter_: Filter) -> Filter:
    """The filter, if it can be asked of texts. Raises QueryError: it is one on pictures."""
    for part in conditions(filter_):
        if not isinstance(part, _OF_TEXTS):
            name = getattr(part, "what", type(part).__name__.lower())
            raise QueryError(
                f"{name} is a condition on pictures; of texts there are path, source, tag"
            )
    return filter_


def conditions(filter_: Filter) -> Iterator[Condition]:
    """The conditions in a filter, from left to right."""
    waiting = [filter_]
    while waiting:
        part = waiting.pop()
        if isinstance(part, And | Or):
            waiting += reversed(part.parts)
        elif isinstance(part, Not):
            waiting.append(part.part)
        else:
            yield part


def checked(where: object) -> Filter:
    """The same, which programs may have given for a filter.

    Raises:
        QueryError: it is none, or has a part that is none; the message says what makes one.
    """
    parts = conditions(where) if isinstance(where, Filter) else [where]
    for part in parts:
        if not isinstance(part, Condition):
            raise QueryError(
                f"where is a filter, or the text of one, and no {type(part).__name__}: "
                "mmsearch.filters.from_json makes one of what is written as JSON"
            )
    return cast(Filter, where)


def check_size(filter_: Filter) -> Filter:
    """The filter itself.

    Raises:
        QueryError: it has more conditions, or is nested deeper, than filters may.
    """
    level: list[Filter] = [filter_]
    depth = count = 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise QueryError(f"the filter is nested deeper than {MAX_DEPTH} levels")
        count += len(level)
        if count > 2 * MAX_CONDITIONS:
            raise QueryError(f"the filter has more than {MAX_CONDITIONS} conditions")
        below: list[Filter] = []
        for part in level:
            if isinstance(part, And | Or):
                below += part.parts
            elif isinstance(part, Not):
                below.append(part.part)
        level = below
    if sum(1 for _ in conditions(filter_)) > MAX_CONDITIONS:
        raise QueryError(f"the filter has more than {MAX_CONDITIONS} conditions")
    return filter_
