"""Counting what pictures have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from mmsearch.filters import (
    Camera,
    FacetCount,
    Facets,
    Filter,
    Format,
    Has,
    Keyword,
    Orientation,
    Source,
    Tag,
    to_text,
)
from mmsearch.filters.conditions import SHAPES, Thing
from mmsearch.filters.globs import folded, literal
from mmsearch.store.columns import Columns, Ids, Lists, Mask
from mmsearch.store.places import joined_ids, parsed_ids
from mmsearch.store.schema import image, source, tag

#: What reads each of the columns that are counted.
COUNTED: tuple[Callable[[Columns, sa.Connection], object], ...] = (
    lambda columns, connection: columns.dates(connection, "taken_at"),
    lambda columns, connection: columns.texts(connection, "camera"),
    lambda columns, connection: columns.texts(connection, "format"),
    lambda columns, connection: columns.keywords(connection),
    lambda columns, connection: columns.integers(connection, "width"),
    lambda columns, connection: columns.integers(connection, "height"),
    lambda columns, connection: columns.floats(connection, "latitude"),
    lambda columns, connection: columns.floats(connection, "longitude"),
)


@dataclass(frozen=True, slots=True)
class Groups:
    """What a picture may be in several of, at one revision: name → positions, each once."""

    sources: Mapping[str, Ids]
    tags: Mapping[str, Ids]

    @classmethod
    def read(cls, connection: sa.Connection, columns: Columns) -> Groups:
        by_tag = sa.select(tag.c.name, joined_ids(tag.c.content_id)).group_by(tag.c.name)
        return cls(
            _positions(columns, _of_sources(connection), lambda name: name),
            _positions(columns, (tuple(row) for row in connection.execute(by_tag)), folded),
        )


def _of_sources(connection: sa.Connection) -> Iterator[tuple[str, str]]:
    """The name of each source with the contents in it, joined: one query for all would sort every
    row, which takes as long again."""
    for id_, name in connection.execute(sa.select(source.c.id, source.c.name)).all():
        ids = connection.execute(
            sa.select(joined_ids(image.c.content_id)).where(
                image.c.source_id == id_, image.c.missing_since.is_(None)
            )
        ).scalar()
        if ids is not None:
            yield name, ids


def _positions(
    columns: Columns, named: Iterable[tuple[str, str]], key: Callable[[str], str]
) -> dict[str, Ids]:
    """The first of the names with the same key stands for all."""
    names: dict[str, str] = {}
    found: dict[str, list[Ids]] = defaultdict(list)
    for name, ids in named:
        found[names.setdefault(key(name), name)].append(parsed_ids(ids))
    return {
        name: np.flatnonzero(columns.mask_of(np.concatenate(parts)))
        for name, parts in found.items()
    }


def count_facets(
    connection: sa.Connection,
    columns: Columns,
    groups: Groups,
    chosen: Mask,
    captions: Mask,
    top: int,
) -> Facets:
    """Counts over the chosen pictures, (n,); `captions`, (n,), are those that have one.

    top: how many cameras, keywords and tags to name at most.
    """
    there = np.flatnonzero(chosen)
    months = columns.dates(connection, "taken_at")[there].astype("M8[M]")
    months = months[~np.isnat(months)]
    cameras = columns.texts(connection, "camera")
    formats = columns.texts(connection, "format")
    keywords = columns.keywords(connection)
    width, height = (columns.integers(connection, name)[there] for name in ("width", "height"))
    latitude, longitude = (
        columns.floats(connection, name)[there] for name in ("latitude", "longitude")
    )
    carrying = chosen[keywords.positions]
    with_keyword = np.zeros(len(chosen), np.bool_)
    with_keyword[keywords.positions[carrying]] = True
    tagged = np.zeros(len(chosen), np.bool_)
    for positions in groups.tags.values():
        tagged[positions] = True
    things: dict[Thing, int | np.integer] = {
        "caption": np.count_nonzero(captions[there]),
        "gps": np.count_nonzero(~np.isnan(latitude + longitude)),
        "date": len(months),
        "camera": np.count_nonzero(cameras.codes[there] >= 0),
        "keyword": np.count_nonzero(with_keyword),
        "tag": np.count_nonzero(tagged & chosen),
    }
    shapes = np.bincount(np.sign(width - height) + 1, minlength=3)[::-1].tolist()
    return Facets(
        total=len(there),
        sources=_commonest(_in_groups(groups.sources, chosen), lambda n: Source(literal(n))),
        years=_in_time(months.astype("M8[Y]")),
        months=_in_time(months),
        cameras=_commonest(
            _coded(cameras.names, cameras.codes[there]), lambda n: Camera(literal(n)), top
        ),
        formats=_commonest(_coded(formats.names, formats.codes[there]), Format),
        orientations=_commonest(
            dict(zip(("landscape", "square", "portrait"), shapes, strict=True)), _orientation
        ),
        keywords=_commonest(_listed(keywords, carrying), lambda n: Keyword(literal(n)), top),
        tags=_commonest(_in_groups(groups.tags, chosen), lambda n: Tag(literal(n)), top),
        has=tuple(
            FacetCount(thing, int(count), to_text(Has(thing)))
            for thing, count in things.items()
            if count
        ),
    )


def _orientation(name: str) -> Orientation:
    return Orientation(next(shape for shape in SHAPES if shape == name))


def _in_groups(groups: Mapping[str, Ids], chosen: Mask) -> dict[str, int]:
    return {name: int(np.count_nonzero(chosen[at])) for name, at in groups.items()}


def _coded(names: list[str], codes: NDArray[np.int32]) -> dict[str, int]:
    """How often each name occurs; those that only case tells apart together, by the commonest."""
    counts = np.bincount(codes[codes >= 0], minlength=len(names)).tolist()
    total: dict[str, int] = defaultdict(int)
    best: dict[str, tuple[int, str]] = {}
    for name, count in zip(names, counts, strict=True):
        key = folded(name)
        total[key] += count
        best[key] = max(best.get(key, (0, name)), (count, name), key=lambda found: found[0])
    return {best[key][1]: count for key, count in total.items()}


def _listed(lists: Lists, which: Mask) -> dict[str, int]:
    """How many pictures have each keyword; one that has it twice, by case, counts once."""
    first: dict[str, int] = {}
    shown: list[str] = []
    for name in lists.names:
        if first.setdefault(folded(name), len(shown)) == len(shown):
            shown.append(name)
    if len(shown) == len(lists.names):  # no list has one twice
        counts = np.bincount(lists.codes[which], minlength=len(shown))
        return dict(zip(shown, counts.tolist(), strict=True))
    same = np.fromiter((first[folded(name)] for name in lists.names), np.int64, len(lists.names))
    pairs = lists.positions[which] * len(shown) + same[lists.codes[which]]
    codes = np.unique(pairs) % max(1, len(shown))
    return dict(zip(shown, np.bincount(codes, minlength=len(shown)).tolist(), strict=True))


def _commonest(
    counts: Mapping[str, int], condition: Callable[[str], Filter], top: int | None = None
) -> tuple[FacetCount, ...]:
    ranked = sorted((-count, name) for name, count in counts.items() if count)
    return tuple(FacetCount(name, -count, to_text(condition(name))) for count, name in ranked[:top])


def _in_time(periods: NDArray[np.datetime64]) -> tuple[FacetCount, ...]:
    if not len(periods):
        return ()
    numbers = periods.astype(np.int64)
    first = numbers.min()
    counts = np.bincount(numbers - first)
    there = np.flatnonzero(counts)
    values = (there + first).astype(periods.dtype)
    return tuple(
        FacetCount(text, count, f"taken:{text}")
        for text, count in zip(map(str, values), counts[there].tolist(), strict=True)
    )
