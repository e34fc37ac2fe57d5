"""Filters as JSON, for HTTP and for files.

    "taken:2019 has:gps"                          a filter as text
    {"and": [...]}, {"or": [...]}, {"not": ...}   of filters
    {"camera": "Canon*"}                          a condition: its name and value as in the text
    {"format": ["heic", "png"]}                   one of several
    {"taken": "2019", "has": "gps"}               all of several
    {"taken": {"from": "2019-05-01T00:00:00", "before": "2020-01-01T00:00:00"}}
    {"bytes": {"min": 1000000, "max": 5000000}}   so width, height, pixels, megapixels
    {"near": {"latitude": 48.85, "longitude": 2.35, "km": 10}}

Ends may be left out. `to_json` writes dates, quantities and places as objects, all else as text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, Literal, cast

from mmsearch.errors import QueryError
from mmsearch.filters.conditions import (
    MAX_CONDITIONS,
    MAX_DEPTH,
    QUANTITIES,
    And,
    Condition,
    Dates,
    Filter,
    Near,
    Not,
    Or,
    Range,
    check_size,
)
from mmsearch.filters.grammar import condition, known_name, named, parse

_FORM = 'an object as {"taken": "2019"}, {"and": [...]}, {"or": [...]}, {"not": ...}, or a text'


def from_json(value: object) -> Filter:
    """The filter that a value out of JSON says; None is the one that everything passes.

    Raises:
        QueryError: it says none; the message names the place.
    """
    return check_size(_filter(value, "filter", 1))


def _filter(value: object, place: str, depth: int) -> Filter:
    if depth > MAX_DEPTH:
        raise QueryError(f"the filter is nested deeper than {MAX_DEPTH} levels")
    if value is None:
        return And()
    if isinstance(value, str):
        try:
            return parse(value)
        except QueryError as exc:
            raise QueryError(str(exc) if place == "filter" else f"{place}: {exc}") from exc
    if not isinstance(value, Mapping):
        raise QueryError(f"{place} must be {_FORM}, not {_shown(value)}")
    parts = [_member(str(name), inner, place, depth) for name, inner in value.items()]
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _member(name: str, value: object, place: str, depth: int) -> Filter:
    where = f"{place}.{name[:40]}"
    key = name.lower()
    if key in ("and", "or"):
        if not isinstance(value, list | tuple):
            raise QueryError(f"{where} must be a list of filters, not {_shown(value)}")
        _bounded(value, where)
        parts = tuple(_filter(v, f"{where}[{n}]", depth + 1) for n, v in enumerate(value))
        return And(parts) if key == "and" else Or(parts)
    if key == "not":
        return Not(_filter(value, where, depth + 1))
    try:
        if isinstance(value, list | tuple):
            _bounded(value, where)
            return Or(tuple(_condition(name, v) for v in value))
        return _condition(name, value)
    except QueryError as exc:
        raise QueryError(f"{where}: {exc}") from exc


def _bounded(value: list[object] | tuple[object, ...], where: str) -> None:
    if len(value) > MAX_CONDITIONS:
        raise QueryError(f"{where} has more than {MAX_CONDITIONS} parts")


def _condition(name: str, value: object) -> Condition:
    if isinstance(value, str):
        return condition(name, value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return condition(name, _written(value))
    if isinstance(value, Mapping):
        key = known_name(name)
        if key in ("taken", "added"):
            start, end = _members(value, ("from", "before"))
            return Dates(cast(Literal["taken", "added"], key), _date(start), _date(end))
        if key in QUANTITIES:
            return Range(key, *map(_whole, _members(value, ("min", "max"))))
        if key == "megapixels":
            low, high = _members(value, ("min", "max"))
            return Range("pixels", _pixels(low, ROUND_CEILING), _pixels(high, ROUND_FLOOR))
        if key == "near":
            latitude, longitude, km = _members(value, ("latitude", "longitude", "km"))
            return Near(latitude, longitude, km)
    raise QueryError(f"a value is a text, not {_shown(value)}")


def _members(value: Mapping[Any, Any], names: tuple[str, ...]) -> list[Any]:
    unknown = set(value) - set(names)
    if unknown:
        raise QueryError(f"it has {', '.join(names)}, not {_shown(min(map(str, unknown)))}")
    return [value.get(name) for name in names]


def _date(value: object) -> datetime | None:
    if value is None:
        return None
    try:
        if isinstance(value, str):
            return datetime.fromisoformat(value)
    except ValueError:
        pass
    raise QueryError(f'a date here is as "2019-07-31T18:30:00", not {_shown(value)}')


def _written(number: float) -> str:
    """A number as people write it: "2.1", "1920"; what a filter reads has nine decimals at most."""
    if isinstance(number, int):
        return str(number)
    return f"{Decimal(repr(round(number, 9))):f}".removesuffix(".0")


def _whole(value: Any) -> Any:
    """1920 for 1920.0, which is the same number in JSON; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _pixels(value: object, rounding: str) -> int | None:
    if value is None:
        return None
    finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if isinstance(value, bool) or not finite:
        raise QueryError(f"megapixels are a number, not {_shown(value)}")
    # As it is written: as floats, 8.2 times a million is less than 8,200,000.
    return int((Decimal(repr(value)) * 1_000_000).to_integral_value(rounding))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def to_json(filter_: Filter) -> dict[str, Any]:
    """The filter as a value for JSON, which `from_json` reads as the same filter."""
    if isinstance(filter_, And):
        return {"and": [to_json(part) for part in filter_.parts]}
    if isinstance(filter_, Or):
        return {"or": [to_json(part) for part in filter_.parts]}
    if isinstance(filter_, Not):
        return {"not": to_json(filter_.part)}
    if isinstance(filter_, Dates):
        ends = {"from": filter_.start, "before": filter_.end}
        return {filter_.what: {k: at.isoformat() for k, at in ends.items() if at is not None}}
    if isinstance(filter_, Range):
        limits = {"min": filter_.low, "max": filter_.high}
        return {filter_.what: {k: n for k, n in limits.items() if n is not None}}
    if isinstance(filter_, Near):
        place = {"latitude": filter_.latitude, "longitude": filter_.longitude, "km": filter_.km}
        return {"near": place}
    name, value = named(filter_)
    return {name: value}
