"""Values as people write them: dates and spans of them, sizes with units, places."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Literal, TypeVar

from mmsearch.errors import QueryError
from mmsearch.filters.conditions import Dates, Near, Quantity, Range

T = TypeVar("T")

DATES = '"2019", "2019-07", "2019-07-31", "2019-07-31T18:30", "2019..2021", ">=2019-07", "<2020"'
SIZES = '"5MB", "1MB..5MB", ">500kB", "<=2GiB"'
COUNTS = '"4000", "1920..4000", ">=1080"'
MEGAPIXELS = '"12", "8..24", ">=20"'
PLACES = '"48.85,2.35,10km": latitude, longitude, distance in km or m'

#: Units of bytes, lower case: decimal as disks are sold, binary where it is said.
_BYTES = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BYTES |= {f"{u}b": n for u, n in _BYTES.items() if n > 1}
_BYTES |= {f"{u}ib": 1 << (10 * p) for p, u in enumerate("kmgt", 1)}
_PIXELS = {"": 10**6, "mp": 10**6}
_ONE = {"": 1, "px": 1}
_NUMBER = re.compile(r"(\d{1,19}(?:\.\d{1,9})?)\s*([a-z]*)", re.IGNORECASE | re.ASCII)
_SPAN = re.compile(r"(>=|<=|>|<)?(.*)", re.DOTALL)


def _not_a(what: str, text: str, such: str) -> QueryError:
    return QueryError(f'"{text}" is no {what}. Such are {such}')


def _span(text: str, read: Callable[[str], T]) -> tuple[str, T | None, T | None]:
    """How two ends are joined ("..", ">", ..., "" for one value), and the ends."""
    sign, value = _SPAN.fullmatch(text).groups()  # type: ignore[union-attr]
    if sign:
        return sign, read(value.strip()), None
    start, dots, end = text.partition("..")
    if dots:
        start, end = start.strip(), end.strip()
        return "..", read(start) if start else None, read(end) if end else None
    return "", read(text.strip()), None


# --- dates --------------------------------------------------------------------------------------


def period(text: str) -> tuple[datetime, datetime | None]:
    """The first moment of a date and the first one after it; None after the last one there is.

    text: a year, year-month, day, or day and time with minutes, seconds or their fractions, and a
    time zone if any ("Z", "+02:00").

    Raises:
        ValueError: it is none of these.
    """
    text = text.upper()
    if re.fullmatch(r"[0-9]{4}", text):
        year = int(text)
        return datetime(year, 1, 1), None if year == 9999 else datetime(year + 1, 1, 1)
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}", text):
        year, month = int(text[:4]), int(text[5:])
        start = datetime(year, month, 1)
        last = (year, month) == (9999, 12)
        return start, None if last else datetime(year + month // 12, month % 12 + 1, 1)
    form = r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:.]{5,15}(Z|[+-][0-9:]{5})?)?"
    matched = re.fullmatch(form, text)
    if matched is None:
        raise ValueError(text)
    start = datetime.fromisoformat(text)
    clock = (matched[1] or "").removesuffix(matched[2] or "")
    steps = {0: timedelta(days=1), 6: timedelta(minutes=1), 9: timedelta(seconds=1)}
    try:
        return start, start + steps.get(len(clock), timedelta(microseconds=1))
    except OverflowError:
        return start, None


def dates(what: Literal["taken", "added"], text: str) -> Dates:
    """The condition that `text` says: one of `DATES`. A date is all that lies in it."""

    def read(value: str) -> tuple[datetime, datetime | None]:
        try:
            return period(value)
        except ValueError as exc:
            raise _not_a("date", value, DATES) from exc

    sign, first, second = _span(text, read)
    if sign == "..":
        return Dates(what, first and first[0], second and second[1])
    assert first is not None
    start, end = first
    if sign == ">" and end is None:
        raise QueryError(f'nothing comes after "{text[1:]}"')
    if sign in (">", ">="):
        return Dates(what, start if sign == ">=" else end)
    if sign in ("<", "<="):
        return Dates(what, None, start if sign == "<" else end)
    return Dates(what, start, end)


def dates_text(condition: Dates) -> str:
    """What `dates` reads as this condition."""
    start, end = condition.start, condition.end
    since = "" if start is None else _shortest(start, lambda p: p[0] == start)
    if end is None:
        return f"{since}.."
    if end == datetime.min:
        return "<0001"  # nothing
    last = end - timedelta(microseconds=1)
    until = _shortest(last, lambda p: p[1] == end)
    if start is not None:
        one = _shortest(start, lambda p: p == (start, end), until)
        if period(one) == (start, end):
            return one
    return f"{since}..{until}"


def _shortest(
    at: datetime, good: Callable[[tuple[datetime, datetime | None]], bool], default: str = ""
) -> str:
    iso = at.isoformat(timespec="microseconds")
    forms = (iso[:length] for length in (4, 7, 10, 16, 19))
    return next((form for form in forms if good(period(form))), default or iso)


# --- numbers ------------------------------------------------------------------------------------


def quantity(what: Quantity, text: str, units: dict[str, int], such: str) -> Range:
    """The condition that `text` says. One number alone is all that rounds to it as it is written.

    "5MB" is 4.5 MB and more but less than 5.5, "5.0MB" 4.95 to 5.05; ends of spans are exact.
    """

    def read(value: str) -> tuple[Decimal, Decimal]:
        matched = _NUMBER.fullmatch(value)
        unit = units.get(matched[2].lower()) if matched else None
        if matched is None or unit is None or (unit == 1 and "." in matched[1]):
            raise _not_a("size" if what == "bytes" else "number", value, such)
        step = Decimal(unit).scaleb(-len(matched[1].partition(".")[2]))
        return Decimal(matched[1]) * unit, step

    sign, first, second = _span(text, read)
    if sign == "..":
        low, high = first and _up(first[0]), second and _down(second[0])
        return Range(what, low, high)
    assert first is not None
    number, step = first
    if sign in (">", ">="):
        return Range(what, _up(number) if sign == ">=" else _down(number) + 1)
    if sign in ("<", "<="):
        high = _down(number) if sign == "<=" else _up(number) - 1
        if high < 0:
            raise QueryError(f"nothing is less than 0 {what}")
        return Range(what, None, high)
    return Range(what, max(0, _up(number - step / 2)), _up(number + step / 2) - 1)


def _up(number: Decimal) -> int:
    return int(number.to_integral_value(ROUND_CEILING))


def _down(number: Decimal) -> int:
    return int(number)  # never negative


def bytes_(text: str) -> Range:
    return quantity("bytes", text, _BYTES, SIZES)


def width(text: str) -> Range:
    return quantity("width", text, _ONE, COUNTS)


def height(text: str) -> Range:
    return quantity("height", text, _ONE, COUNTS)


def pixels(text: str) -> Range:
    return quantity("pixels", text, _ONE, COUNTS)


def megapixels(text: str) -> Range:
    return quantity("pixels", text, _PIXELS, MEGAPIXELS)


def range_text(condition: Range) -> str:
    """What reads as this condition, in bytes or pixels."""
    low, high = condition.low, condition.high
    if low is not None and low == high:
        return str(low)
    return f"{'' if low is None else low}..{'' if high is None else high}"


# --- places -------------------------------------------------------------------------------------


def near(text: str) -> Near:
    """The condition that `text` says: see `PLACES`."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3:
        raise _not_a("place with a distance", text, PLACES)
    distance = parts[2].lower()
    unit = 1.0
    if distance.endswith("km"):
        distance = distance[:-2]
    elif distance.endswith("m"):
        distance, unit = distance[:-1], 0.001
    try:
        latitude, longitude, km = (_degrees(part) for part in (parts[0], parts[1], distance))
    except ValueError as exc:
        raise _not_a("place with a distance", text, PLACES) from exc
    return Near(latitude, longitude, km * unit)


def _degrees(text: str) -> float:
    number = float(text.strip().removesuffix("°"))
    if not math.isfinite(number) or "_" in text:
        raise ValueError(text)
    return number


def near_text(condition: Near) -> str:
    """What `near` reads as this condition."""
    return f"{condition.latitude!r},{condition.longitude!r},{condition.km!r}km"
