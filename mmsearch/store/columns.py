"""What hardly changes about contents, as arrays in memory: on a million a condition takes 1 ms.

Ids only grow, so what is new comes after what is there. Files beside pictures may make details of
older rows others (`picture.changed`): those columns are then read anew.
Each column is read when it is first asked for. Aggregates hand a whole column over as one string:
fetching the rows takes several times as long.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from mmsearch.errors import StoreError
from mmsearch.store.schema import passage, picture
from mmsearch.types import Modality

Ids: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

#: Rows that one query puts into a string.
_ROWS_A_QUERY = 250_000
#: What a date of SQLAlchemy looks like, and one that is not there.
_NO_DATE = "0000-00-00 00:00:00.000000"
_DATE_DIGITS = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 22, 23, 24, 25]
#: What is known of a picture and may become something else (mmsearch.told), of what is asked here.
_TOLD = ("taken_at", "latitude", "longitude", "keywords")
#: Between texts, where it becomes a blank; no text that people can read has it.
_UNIT = "\x1f"


class RowsGoneError(Exception):
    """Rows were deleted since the ids were read: they must be read again, and all with them."""


class Texts:
    """A column of texts: which of `names` each content has, as numbers."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.codes: NDArray[np.int32] = np.empty(0, np.int32)  # (n,), -1 for none
        self._known: dict[str, int] = {}

    def code(self, name: str) -> int:
        found = self._known.setdefault(name, len(self.names))
        if found == len(self.names):
            self.names.append(name)
        return found

    def mask(self, wanted: Callable[[str], bool]) -> Mask:
        """(n,): whose text is one that is wanted."""
        # One more, which -1 means.
        table = np.zeros(len(self.names) + 1, np.bool_)
        table[:-1] = [wanted(name) for name in self.names]
        return table[self.codes]


class Lists(Texts):
    """A column of lists of texts: pairs of a position and a code, in order of position."""

    def __init__(self) -> None:
        super().__init__()
        self.positions: NDArray[np.int64] = np.empty(0, np.int64)

    def any_of(self, wanted: Callable[[str], bool], n: int) -> Mask:
        """(n,): whose list has a text that is wanted."""
        mask = np.zeros(n, np.bool_)
        mask[self.positions[self.mask(wanted)]] = True
        return mask


class Columns:
    """The contents of one modality and what is asked about them. Not thread-safe.

    All arrays are in the order of `ids`, (n,) int64, ascending. Those of contents that are gone for
    good may be among them. Methods take the connection, in the transaction that `extend` was
    called in.
    """

    def __init__(self, modality: Modality) -> None:
        self._table = picture if modality == "image" else passage
        self.ids: Ids = np.empty(0, np.int64)
        self._numbers: dict[str, NDArray[Any]] = {}
        self._texts: dict[str, Texts] = {}
        self._lists: dict[str, tuple[Lists, int]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def extend(self, connection: sa.Connection) -> None:
        """Takes in the contents that came since."""
        key = self._table.c.content_id
        while True:
            last = int(self.ids[-1]) if len(self.ids) else 0
            part = sa.select(key).where(key > last).order_by(key).limit(_ROWS_A_QUERY)
            found = connection.execute(
                sa.select(sa.func.aggregate_strings(sa.cast(part.subquery().c[0], sa.Text), ","))
            ).scalar()
            if not found:
                return
            new = np.fromstring(found, np.int64, sep=",")
            self.ids = np.concatenate([self.ids, new])

    def forget_details(self) -> None:
        """What files beside pictures may tell is read anew when it is asked for."""
        for name in _TOLD:
            self._numbers.pop(name, None)
            self._lists.pop(name, None)

    def mask_of(self, found: Ids) -> Mask:
        """(n,): which contents are among these, in any order, known or not."""
        if not len(self.ids):
            return np.zeros(0, np.bool_)
        there = np.zeros(int(self.ids[-1]) + 1, np.bool_)
        there[found[found < len(there)]] = True
        return there[self.ids]

    # --- columns --------------------------------------------------------------------------------

    def integers(self, connection: sa.Connection, name: str) -> NDArray[np.int64]:
        """(n,): bytes, width or height."""
        return self._grown(connection, name, self._table.c[name], _integers)

    def floats(self, connection: sa.Connection, name: str) -> NDArray[np.float64]:
        """(n,): latitude or longitude, NaN for none. To 15 digits, as SQLite writes them."""
        # NaN has no name in SQL.
        value = sa.func.coalesce(sa.cast(self._table.c[name], sa.Text), "nan")
        return self._grown(connection, name, value, _floats)

    def dates(self, connection: sa.Connection, name: str) -> NDArray[np.datetime64]:
        """(n,) datetime64[us]: taken_at or added_at, NaT for none."""
        text = sa.func.coalesce(sa.cast(self._table.c[name], sa.Text), _NO_DATE[:19])
        value = sa.func.substr(text + _NO_DATE[19:], 1, len(_NO_DATE))
        return self._grown(connection, name, value, _dates)

    def _grown(
        self,
        connection: sa.Connection,
        name: str,
        value: Any,
        read: Callable[[str, int], NDArray[Any]],
    ) -> NDArray[Any]:
        have = self._numbers.get(name)
        start = 0 if have is None else len(have)
        if have is None or start < len(self.ids):
            parts = [] if have is None else [have]
            parts += [read(*each) for each in self._strings(connection, value, start, ",")]
            have = np.concatenate(parts) if parts else read("", 0)
            self._numbers[name] = have
        return have

    def texts(self, connection: sa.Connection, name: str) -> Texts:
        """Camera or format."""
        column = self._texts.setdefault(name, Texts())
        parts = [column.codes]
        value = sa.func.replace(sa.func.coalesce(self._table.c[name], ""), _UNIT, " ")
        for text, count in self._strings(connection, value, len(column.codes), _UNIT):
            each = text.split(_UNIT)
            # Many pictures have the same: a call of Python for each of them takes most of the time.
            code = {one: column.code(one) if one else -1 for one in dict.fromkeys(each)}
            parts.append(np.fromiter(map(code.__getitem__, each), np.int32, count))
        if len(parts) > 1:
            column.codes = np.concatenate(parts)
        return column

    def keywords(self, connection: sa.Connection) -> Lists:
        column, start = self._lists.setdefault("keywords", (Lists(), 0))
        value = sa.cast(self._table.c.keywords, sa.Text)
        codes, positions = [column.codes], [column.positions]
        # Many pictures have the same. (In JSON a control character is written in another way.)
        read: dict[str, tuple[int, ...]] = {}
        for text, count in self._strings(connection, value, start, _UNIT):
            each = text.split(_UNIT)
            for one in dict.fromkeys(each):
                if one not in read:
                    codes_of = (column.code(str(name)) for name in json.loads(one))
                    read[one] = tuple(dict.fromkeys(codes_of))
            lists = list(map(read.__getitem__, each))
            sizes = np.fromiter(map(len, lists), np.int64, count)
            codes.append(np.fromiter(chain.from_iterable(lists), np.int32, int(sizes.sum())))
            positions.append(np.repeat(np.arange(start, start + count), sizes))
            start += count
        if len(codes) > 1:
            column.codes, column.positions = np.concatenate(codes), np.concatenate(positions)
        self._lists["keywords"] = column, start
        return column

    def _strings(
        self, connection: sa.Connection, value: Any, start: int, separator: str
    ) -> list[tuple[str, int]]:
        """The values of the contents from position `start` on, joined, and how many: in parts."""
        found = []
        key = self._table.c.content_id
        for at in range(start, len(self.ids), _ROWS_A_QUERY):
            part = self.ids[at : at + _ROWS_A_QUERY]
            rows = (
                sa.select(sa.cast(value, sa.Text).label("value"))
                .where(key >= int(part[0]), key <= int(part[-1]))
                .order_by(key)
                .subquery()
            )
            text, count = connection.execute(
                sa.select(
                    sa.func.aggregate_strings(rows.c.value, separator),
                    sa.func.count(),
                )
            ).one()
            if count != len(part):
                raise RowsGoneError
            found.append((text, count))
        return found


def _integers(text: str, count: int) -> NDArray[np.int64]:
    return _whole(np.fromstring(text, np.int64, sep=","), count)


def _floats(text: str, count: int) -> NDArray[np.float64]:
    return _whole(np.fromstring(text, np.float64, sep=","), count)


def _dates(text: str, count: int) -> NDArray[np.datetime64]:
    # Each is as long as any other: digits in known places.
    width = len(_NO_DATE) + 1
    data = np.frombuffer(f"{text},".encode() if count else b"", np.uint8)
    if len(data) != count * width:
        raise StoreError("a date in the catalog is damaged")
    digits = data.reshape(count, width)[:, _DATE_DIGITS].astype(np.int64) - ord("0")

    def number(start: int, end: int) -> NDArray[np.int64]:
        powers: NDArray[np.int64] = 10 ** np.arange(end - start - 1, -1, -1)
        return digits[:, start:end] @ powers

    year = number(0, 4)
    month = ((year - 1970) * 12 + number(4, 6) - 1).astype("M8[M]")
    seconds = (number(8, 10) * 60 + number(10, 12)) * 60 + number(12, 14)
    moment: NDArray[np.datetime64] = month.astype("M8[D]").astype("M8[us]") + (
        ((number(6, 8) - 1) * 86_400 + seconds) * 1_000_000 + number(14, 20)
    ).astype("m8[us]")
    moment[year == 0] = np.datetime64("NaT")
    return moment


def _whole(values: NDArray[Any], count: int) -> NDArray[Any]:
    if len(values) != count:
        raise StoreError("a number in the catalog is damaged")
    return values
