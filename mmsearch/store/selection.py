"""From a filter to the contents that pass it, and what those have in common.

What hardly changes is asked of arrays (mmsearch.store.columns); all else of SQL, and the answer is
kept until the next commit.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from mmsearch.filters import (
    And,
    Camera,
    Condition,
    Dates,
    Facets,
    Filter,
    Format,
    Has,
    Keyword,
    Near,
    Not,
    Or,
    Orientation,
    Path,
    Range,
    Source,
    Tag,
    checked,
    checked_for_texts,
)
from mmsearch.filters.globs import comparable, name_pattern
from mmsearch.raw import FORMATS
from mmsearch.store.columns import Columns, Ids, Mask, RowsGoneError
from mmsearch.store.facets import COUNTED, Groups, count_facets
from mmsearch.store.places import Places, joined_ids, parsed_ids
from mmsearch.store.reading import Reading
from mmsearch.store.schema import IS_HIDDEN, content, image, picture, space, state, tag, text_
from mmsearch.types import MODALITIES, Modality

T = TypeVar("T")

#: Answers kept for each modality, a bit for each content: 64 are 8 MB at a million.
_KEPT = 64
#: IUGG's mean radius of the earth.
_EARTH_KM = 6371.0088


class _Kept:
    """What was found out about one modality at one revision."""

    def __init__(self, modality: Modality) -> None:
        self.modality: Modality = modality
        self.columns = Columns(modality)
        self.places = Places()
        self.groups: Groups | None = None
        self.answers: OrderedDict[object, NDArray[np.uint8]] = OrderedDict()
        self.revision = -1
        self.origins: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.columns)


class Selection:
    """The filters of one catalog. Thread-safe: one is resolved at a time."""

    def __init__(self, reading: Reading) -> None:
        self._read = reading
        self._lock = threading.Lock()
        self._kept = {modality: _Kept(modality) for modality in MODALITIES}

    def select(self, filter_: Filter, modality: Modality) -> Ids:
        """Ids of the visible contents that pass, (n,) int64, strictly ascending.

        Raises:
            QueryError: it is no filter, or a condition on pictures is asked of texts.
            UnknownNameError: there is no such source.
        """
        checked(filter_)
        if modality == "text":
            checked_for_texts(filter_)

        def found(connection: sa.Connection, kept: _Kept) -> Ids:
            mask = _evaluate(connection, kept, filter_)
            return kept.columns.ids[mask & ~_hidden(connection, kept)]

        return self._at_one_moment(modality, found)

    def facets(self, ids: Ids | None, top: int) -> Facets:
        """What these pictures (None: all) have in common; hidden and unknown ones do not count."""

        def found(connection: sa.Connection, kept: _Kept) -> Facets:
            chosen = ~_hidden(connection, kept)
            if ids is not None:
                chosen &= kept.columns.mask_of(np.asarray(ids, np.int64))
            captions = _evaluate(connection, kept, Has("caption"))
            groups = _groups(connection, kept)
            return count_facets(connection, kept.columns, groups, chosen, captions, top)

        return self._at_one_moment("image", found)

    def warm(self) -> Iterator[None]:
        """Reads what `facets` asks, a part at each step: who asks something meanwhile waits for the
        part at most."""
        self._at_one_moment("image", _hidden)
        yield
        for column in COUNTED:
            self._at_one_moment("image", partial(_counted, column))
            yield
        self._at_one_moment("image", lambda at, kept: _evaluate(at, kept, Has("caption")))
        yield
        self._at_one_moment("image", _groups)
        yield

    def _at_one_moment(self, modality: Modality, answer: Callable[[sa.Connection, _Kept], T]) -> T:
        with self._lock:
            while True:
                kept = self._kept[modality]
                try:
                    with self._read.moment() as connection:
                        if not self._bring_up_to_date(connection, kept):
                            continue
                        return answer(connection, kept)
                except RowsGoneError:
                    self._kept[modality] = _Kept(modality)

    def _bring_up_to_date(self, connection: sa.Connection, kept: _Kept) -> bool:
        """False where all must be read anew: it is another catalog, or one that was repaired."""
        revision = connection.execute(sa.select(state.c.revision)).scalar() or 0
        if revision == kept.revision:
            return True
        # They change when rows are repaired (mmsearch.store.mend).
        rows = connection.execute(sa.select(space.c.id, space.c.created_at).order_by(space.c.id))
        origins = tuple(map(tuple, rows))
        if kept.revision >= 0 and (revision < kept.revision or origins != kept.origins):
            self._kept[kept.modality] = _Kept(kept.modality)
            return False
        if kept.modality == "image" and len(kept):
            known = sa.exists().where(
                picture.c.changed > kept.revision, picture.c.content_id <= int(kept.columns.ids[-1])
            )
            if connection.execute(sa.select(known)).scalar():
                kept.columns.forget_details()
        kept.columns.extend(connection)
        kept.places, kept.groups = Places(), None
        kept.answers.clear()
        kept.revision, kept.origins = revision, origins
        return True


# --- one filter ---------------------------------------------------------------------------------


def _evaluate(connection: sa.Connection, kept: _Kept, filter_: Filter) -> Mask:
    """(n,): which contents pass; hidden ones may be among them."""
    if isinstance(filter_, Not):
        return ~_evaluate(connection, kept, filter_.part)
    if isinstance(filter_, And):
        mask = np.ones(len(kept), np.bool_)
        for part in filter_.parts:
            mask &= _evaluate(connection, kept, part)
        return mask
    if isinstance(filter_, Or):
        mask = np.zeros(len(kept), np.bool_)
        for part in filter_.parts:
            mask |= _evaluate(connection, kept, part)
        return mask
    if isinstance(filter_, Range | Dates | Format | Orientation | Camera):
        return _of_arrays(connection, kept.columns, filter_)
    return _keep(kept, filter_, lambda: _looked_up(connection, kept, filter_))


def _keep(kept: _Kept, key: object, find: Callable[[], Mask]) -> Mask:
    """The answer of `find`, unless there is one of this revision already."""
    packed = kept.answers.get(key)
    if packed is None:
        mask = find()
        kept.answers[key] = np.packbits(mask)
        if len(kept.answers) > _KEPT:
            kept.answers.popitem(last=False)
        return mask
    kept.answers.move_to_end(key)
    return np.unpackbits(packed, count=len(kept)).view(np.bool_)


def _hidden(connection: sa.Connection, kept: _Kept) -> Mask:
    statement = sa.select(joined_ids(content.c.id)).where(
        IS_HIDDEN, content.c.modality == kept.modality
    )

    def find() -> Mask:
        return kept.columns.mask_of(parsed_ids(connection.execute(statement).scalar()))

    return _keep(kept, "hidden", find)


def _counted(
    column: Callable[[Columns, sa.Connection], object], connection: sa.Connection, kept: _Kept
) -> None:
    column(kept.columns, connection)


def _groups(connection: sa.Connection, kept: _Kept) -> Groups:
    if kept.groups is None:
        kept.groups = Groups.read(connection, kept.columns)
    return kept.groups


def _of_arrays(
    connection: sa.Connection,
    columns: Columns,
    part: Range | Dates | Format | Orientation | Camera,
) -> Mask:
    """Conditions that are quicker decided than looked up."""
    if isinstance(part, Range):
        return _within(_quantity(connection, columns, part.what), part.low, part.high)
    if isinstance(part, Dates):
        moments = columns.dates(connection, f"{part.what}_at")
        mask = ~np.isnat(moments)
        if part.start is not None:
            mask &= moments >= np.datetime64(part.start, "us")
        if part.end is not None:
            mask &= moments < np.datetime64(part.end, "us")
        return mask
    if isinstance(part, Format):
        names = FORMATS if part.name == "RAW" else {part.name}
        return columns.texts(connection, "format").mask(lambda found: found.upper() in names)
    if isinstance(part, Camera):
        return columns.texts(connection, "camera").mask(_fits(part.glob))
    width, height = (columns.integers(connection, name) for name in ("width", "height"))
    compare = {"landscape": np.greater, "portrait": np.less, "square": np.equal}[part.shape]
    return np.asarray(compare(width, height))


def _quantity(connection: sa.Connection, columns: Columns, what: str) -> NDArray[np.int64]:
    if what != "pixels":
        return columns.integers(connection, what)
    return columns.integers(connection, "width") * columns.integers(connection, "height")


def _within(values: NDArray[np.int64], low: int | None, high: int | None) -> Mask:
    mask = np.ones(len(values), np.bool_)
    if low is not None:
        mask &= values >= low
    if high is not None:
        mask &= values <= high
    return mask


def _looked_up(connection: sa.Connection, kept: _Kept, part: Condition) -> Mask:
    """Conditions that take long enough to keep the answer."""
    columns = kept.columns
    if isinstance(part, Path):
        return columns.mask_of(kept.places.at_path(connection, kept.modality, part.glob))
    if isinstance(part, Source):
        return columns.mask_of(kept.places.in_source(connection, kept.modality, part.name))
    if isinstance(part, Keyword):
        return columns.keywords(connection).any_of(_fits(part.glob), len(columns))
    if isinstance(part, Tag):
        return columns.mask_of(_tagged(connection, _fits(part.glob)))
    if isinstance(part, Near):
        return _near(connection, columns, part)
    assert isinstance(part, Has)
    return _has(connection, kept, part.thing)


def _fits(glob: str) -> Callable[[str], bool]:
    fits = name_pattern(glob).fullmatch
    return lambda text: fits(comparable(text)) is not None


def _tagged(connection: sa.Connection, wanted: Callable[[str], bool]) -> Ids:
    run = connection.execute
    names = [name for name in run(sa.select(tag.c.name).distinct()).scalars() if wanted(name)]
    of_name = sa.select(joined_ids(tag.c.content_id))
    # A statement for each: there may be more than one can name.
    parts = [parsed_ids(run(of_name.where(tag.c.name == name)).scalar()) for name in names]
    return np.concatenate([np.empty(0, np.int64), *parts])


def _has(connection: sa.Connection, kept: _Kept, thing: str) -> Mask:
    columns = kept.columns
    if thing == "date":
        return ~np.isnat(columns.dates(connection, "taken_at"))
    if thing == "camera":
        return columns.texts(connection, "camera").codes >= 0
    if thing == "gps":
        return ~np.isnan(columns.floats(connection, "latitude")) & ~np.isnan(
            columns.floats(connection, "longitude")
        )
    if thing == "keyword":
        return columns.keywords(connection).any_of(lambda _: True, len(columns))
    if thing == "tag":
        return columns.mask_of(_tagged(connection, lambda _: True))
    # Those of `Catalog.linked_texts`.
    texts = sa.select(text_.c.image_id).where(
        text_.c.image_id.is_not(None), text_.c.missing_since.is_(None)
    )
    statement = sa.select(joined_ids(image.c.content_id)).where(image.c.id.in_(texts))
    return columns.mask_of(parsed_ids(connection.execute(statement).scalar()))


def _near(connection: sa.Connection, columns: Columns, part: Near) -> Mask:
    latitude = np.radians(columns.floats(connection, "latitude"))
    longitude = np.radians(columns.floats(connection, "longitude"))
    at, angle = np.radians(part.latitude), part.km / _EARTH_KM
    # The band of latitudes first, and a little more: few pictures lie in it.
    mask: Mask = np.abs(latitude - at) <= angle + 1e-9
    there = np.flatnonzero(mask)
    along = longitude[there] - np.radians(part.longitude)
    # Haversine formula (R. W. Sinnott, "Virtues of the Haversine", Sky & Telescope 68, 1984).
    h = (
        np.sin((latitude[there] - at) / 2) ** 2
        + np.cos(latitude[there]) * np.cos(at) * np.sin(along / 2) ** 2
    )
    distance = 2 * _EARTH_KM * np.arcsin(np.sqrt(np.minimum(h, 1)))
    mask[there[~(distance <= part.km)]] = False
    return mask
