"""Tables: .csv and .tsv, with a header or without one."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import IO

from indexer.texts.items import (
    IMAGE_ID,
    IMAGE_NAMES,
    MAX_LINE_BYTES,
    PICTURE_NAME,
    TEXT_NAMES,
    BadText,
    TextItem,
    items_of,
    named_by,
)
from indexer.texts.lines import LONG_LINE, lines
from mmsearch.decode import IMAGE_SUFFIXES
from mmsearch.errors import DecodeError

_OPEN_QUOTE = "a quote that is never closed"
_NAME = rf"\.(?:{'|'.join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))})"
_AFTER_NAME = re.compile(rf'[^,;\t|]*(?:[,;\t|][^,;\t|]*)?{_NAME}"?\s*([,;\t|])', re.IGNORECASE)
_BEFORE_NAME = re.compile(rf'([,;\t|])[^,;\t|]*{_NAME}"?\s*$', re.IGNORECASE)
#: Lines that a row may go on over; together they may be MAX_LINE_BYTES long.
_MAX_LINES = 10_000


def read_table(file: IO[bytes], source: str) -> Iterator[TextItem | BadText]:
    """Columns by name (TEXT_NAMES, IMAGE_NAMES), or one column, or picture and text.

    A key is the line that its row begins with. Memory: of a row that goes on over several lines
    MAX_LINE_BYTES, and a line.
    """
    first = next((line for _, line in lines(file) if line is not None and line.strip()), "")
    delimiter = "\t" if source.lower().endswith(".tsv") else _delimiter(first)
    file.seek(0)
    columns: _Columns | None = None
    for number, row in _rows(lines(file), delimiter):
        key = str(number)
        if isinstance(row, str):
            yield BadText(key, row)
            continue
        if not any(cell.strip() for cell in row):
            continue
        if columns is None:
            columns = _columns(row, source)
            if columns.header:
                continue
        yield from _row(key, row, columns, delimiter)


def _rows(
    numbered: Iterator[tuple[int, str | None]], delimiter: str
) -> Iterator[tuple[int, list[str] | str]]:
    """(number of its first line, the row or why it is none).

    A quote that somebody forgot to close must not take the rows after it along: where no row comes
    of it, reading goes on with the next line. Between tabs a quote ends on its line or is none.
    """
    again: deque[tuple[int, str | None]] = deque()
    while True:
        number, line = again.popleft() if again else next(numbered, (0, None))
        if not number:
            return
        if line is None:
            yield number, LONG_LINE
            continue
        line = line.replace("\0", " ")
        try:
            row = _tabbed(line) if delimiter == "\t" else _one_line(line, delimiter)
        except csv.Error as exc:
            yield number, f"not a row of a table ({exc})"
            continue
        if row is not None:
            yield number, row
            continue
        taken: list[tuple[int, str | None]] = []
        row = _several_lines(line, delimiter, taken, chain(_popped(again), numbered))
        if row is None:
            again.extendleft(reversed(taken))
        yield number, _OPEN_QUOTE if row is None else row


def _one_line(line: str, delimiter: str) -> list[str] | None:
    """The row of a line; None if a quote is open at its end. Raises csv.Error."""
    reader = csv.reader((line, ""), delimiter=delimiter, skipinitialspace=True)
    row = next(reader)
    return row if reader.line_num == 1 else None


def _several_lines(
    first: str,
    delimiter: str,
    taken: list[tuple[int, str | None]],
    rest: Iterator[tuple[int, str | None]],
) -> list[str] | None:
    """The row that begins with a line and takes what it needs of the rest; None if it is none.

    Strictly: a quote that was forgotten meets that of another row, and not at the end of a cell.
    """

    def lines_of_row() -> Iterator[str]:
        yield first
        size = len(first)
        for each in rest:
            taken.append(each)
            size += len(each[1] or "")
            if each[1] is None or size > MAX_LINE_BYTES or len(taken) > _MAX_LINES:
                return
            yield each[1].replace("\0", " ")

    try:
        return next(
            csv.reader(lines_of_row(), delimiter=delimiter, skipinitialspace=True, strict=True)
        )
    except csv.Error:
        return None


def _popped(queue: deque[tuple[int, str | None]]) -> Iterator[tuple[int, str | None]]:
    while queue:
        yield queue.popleft()


def _tabbed(line: str) -> list[str]:
    """The row of a line with tabs. Raises csv.Error."""
    try:
        return next(csv.reader((line,), delimiter="\t", strict=True))
    except csv.Error:
        cells = next(csv.reader((line,), delimiter="\t", quoting=csv.QUOTE_NONE))
        return [_unquoted(cell) for cell in cells]


def _unquoted(cell: str) -> str:
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return cell[1:-1].replace('""', '"') if whole else cell


@dataclass(frozen=True, slots=True)
class _Columns:
    text: int
    image: int | None
    count: int
    header: bool
    by_id: bool = False


def _columns(row: list[str], source: str) -> _Columns:
    """Which column is what, from the first row."""
    names = [cell.strip().lower() for cell in row]
    text = next((names.index(name) for name in TEXT_NAMES if name in names), None)
    image = next((names.index(name) for name in IMAGE_NAMES if name in names), None)
    if text is None and image is not None and len(row) == 2:
        text = 1 - image
    if text is not None:
        by_id = image is None and IMAGE_ID in names
        image = names.index(IMAGE_ID) if by_id else image
        return _Columns(text, image, len(row), header=True, by_id=by_id)
    if len(row) == 1:
        return _Columns(0, None, 1, header=False)
    if PICTURE_NAME.fullmatch(row[0].strip()):
        return _Columns(1, 0, 2, header=False)
    if PICTURE_NAME.fullmatch(row[1].strip()):
        # "0,1.jpg,A dog": numbered rows; of "A dog,1.jpg,en" the text is what has several words.
        numbered = len(row) > 2 and not (" " in row[0].strip() and " " not in row[2].strip())
        return _Columns(2, 1, 3, header=False) if numbered else _Columns(0, 1, 2, header=False)
    raise DecodeError(
        source, "no column is called text or caption, and the first is no picture's name"
    )


def _row(
    key: str, row: list[str], columns: _Columns, delimiter: str
) -> Iterator[TextItem | BadText]:
    needed = max(columns.text, columns.image or 0)
    if len(row) <= needed:
        yield BadText(key, f"a row of {len(row)} instead of {columns.count} columns")
        return
    body = row[columns.text]
    if columns.text == columns.count - 1 and len(row) > columns.count:
        # "1.jpg,A dog, running": a text with commas that nobody quoted
        body = f"{delimiter} ".join(row[columns.text :])
    image = row[columns.image] if columns.image is not None else None
    yield from items_of(key, body, named_by(image) if columns.by_id else image)


def _delimiter(line: str) -> str:
    """The mark between cells, from the first line: that beside a picture's name, or the commonest.

    "1.jpg;A dog, running" has as many commas.
    """
    beside = _AFTER_NAME.match(line) or _BEFORE_NAME.search(line)
    if beside:
        return beside[1]
    return max(",;\t|", key=lambda mark: (line.count(mark), mark == ","))
