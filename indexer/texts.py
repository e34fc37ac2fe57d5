"""Files of texts: lines, tables, JSON, Parquet, and the caption files of known collections."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from mmsearch.decode import IMAGE_SUFFIXES
from mmsearch.errors import DecodeError, os_reason
from mmsearch.plaintext import clean

TEXT_SUFFIXES = frozenset({
    ".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".token",
})  # fmt: skip
MAX_BODY = 10_000
"""Longest text, in characters; models read a few hundred."""
MAX_LINE_BYTES = 1 << 20
_LONG_LINE = f"a line of more than {MAX_LINE_BYTES:,} bytes"
MAX_JSON_BYTES = 256 << 20
"""Of a .json file, which cannot be read in pieces."""
MAX_JSON_VALUES = 20_000_000
"""Of a .json file; with the above, what reading one may take stays below 4 GB."""
MAX_BAD = 10_000
"""Lines, rows or objects of one file that are named one by one when they cannot be used."""
_MIN_ROWS = 100_000
MAX_NAME = 4096
"""Longest name of a picture, in characters, and (PATH_MAX) in bytes of a path on Linux."""
_MAX_KEY = 200
_MAX_DEPTH = 3
_MAX_LIST = 10_000

# Names of columns and keys, the likelier first. COCO, Flickr, Hugging Face imagefolder, LAION,
# Conceptual Captions, Karpathy's splits.
TEXT_NAMES = (
    "caption", "captions", "text", "texts", "body", "description", "comment", "sentence",
    "sentences", "raw", "alt_text", "alt", "title",
)  # fmt: skip
IMAGE_NAMES = (
    "image", "file_name", "filename", "file", "image_path", "path", "filepath", "image_name",
    "image_file", "img", "picture", "photo",
)  # fmt: skip

_CAPTION_FILE = re.compile(
    r"captions[^/]*\.(txt|csv|tsv|jsonl|ndjson|json|parquet)"
    r"|.*\.captions\.(txt|csv|tsv|jsonl|ndjson|json|parquet)"
    r"|metadata\.(jsonl|csv|parquet)"
    r"|flickr(8|30)k[^/]*\.token(\.txt)?"
    r"|results_20130124\.token",
    re.IGNORECASE,
)
_PICTURE_NAME = re.compile(
    rf".*\.({'|'.join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))})", re.IGNORECASE | re.DOTALL
)
# Flickr8k.token.txt, results_20130124.token: "1000268201.jpg#0<tab>A child ..."
_TOKEN_LINE = re.compile(r"([^\t]+?)(?:#\d+)?\t(.*)", re.DOTALL)
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class TextItem:
    """A text. `key` is stable within its file: the line, row or id; `image` the picture it names,
    as written; `body` is clean (see mmsearch.plaintext) and not empty."""

    key: str
    body: str
    image: str | None = None


@dataclass(frozen=True, slots=True)
class BadText:
    """A line, row or object that could not be used, and why."""

    key: str
    reason: str


def is_caption_file(name: str) -> bool:
    """Whether a file of this name is read by itself when it lies in an indexed folder."""
    return _CAPTION_FILE.fullmatch(name) is not None


def sidecar_for(path: str) -> tuple[str, ...]:
    """The pictures that "photo.txt" or "photo.jpg.txt" may describe, the likelier first."""
    if not path.lower().endswith(".txt"):
        return ()
    stem = path[:-4]
    named = (stem,) if _PICTURE_NAME.fullmatch(stem) else ()
    return (*named, *(stem + suffix for suffix in _SUFFIX_ORDER))


_SUFFIX_ORDER = tuple(sorted(IMAGE_SUFFIXES, key=lambda suffix: (suffix != ".jpg", suffix)))


def read_sidecar(path: Path) -> str:
    """The text of a sidecar, on one line. Raises DecodeError: unreadable, not UTF-8, too long."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LINE_BYTES + 1)
    except OSError as exc:
        raise DecodeError(str(path), os_reason(exc)) from exc
    if len(data) > MAX_LINE_BYTES:
        raise DecodeError(str(path), "too long for a text")
    try:
        body = clean(data.decode("utf-8-sig"))
    except UnicodeDecodeError as exc:
        raise DecodeError(str(path), "not UTF-8") from exc
    if not body:
        raise DecodeError(str(path), "empty file")
    if len(body) > MAX_BODY:
        raise DecodeError(str(path), _too_long(body))
    return body


def read_texts(path: Path) -> Iterator[TextItem | BadText]:
    """The texts of a file, as they are read; what the format is, the name decides.

    .txt: a text a line, or the token format of Flickr8k/30k, or "image,caption" lines;
    .csv/.tsv: columns by name (TEXT_NAMES, IMAGE_NAMES), or one column, or picture and text;
    .jsonl: objects or strings; .json: COCO captions, Karpathy's splits, a list, or an object from
    picture to text(s); .parquet: columns by name.

    Lines that cannot be used are BadText, and reading goes on; after MAX_BAD of them one more says
    that there are others. Raises DecodeError when the file as a whole cannot be read.

    Memory: a line or row and a few MB, whatever the size of the file; of .json MAX_JSON_BYTES and
    MAX_JSON_VALUES, of .parquet a page as it was written.
    """
    source = str(path)
    suffix = path.suffix.lower()
    reader = _READERS.get(suffix)
    if reader is None:
        raise DecodeError(source, f"{suffix or 'a name without ending'} is no kind of text file")
    try:
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(0)
            if not head:
                raise DecodeError(source, "empty file")
            if head.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DecodeError(source, "UTF-16, where UTF-8 is expected")
            yield from _few_bad(reader(file, source))
    except MemoryError as exc:
        raise DecodeError(source, "too large for the memory of this machine") from exc
    except OSError as exc:
        raise DecodeError(source, os_reason(exc)) from exc


def _few_bad(items: Iterator[TextItem | BadText]) -> Iterator[TextItem | BadText]:
    """The same with keys that can be stored, and without the flood that a file of rubbish is."""
    bad = 0
    for item in items:
        bad += isinstance(item, BadText)
        if isinstance(item, TextItem) or bad <= MAX_BAD:
            plain = len(item.key) <= _MAX_KEY and not _SURROGATE.search(item.key)
            yield item if plain else replace(item, key=_short(item.key))
        elif bad == MAX_BAD + 1:
            yield BadText(
                "more", f"more than {MAX_BAD:,} that cannot be used: the rest is not named"
            )


def _short(key: str) -> str:
    """A key in place of one that is too long, or that cannot be written as UTF-8."""
    raw = key.encode("utf-8", "backslashreplace")
    return f"{raw[:60].decode('utf-8', 'ignore')}…{hashlib.sha256(raw).hexdigest()[:32]}"


_Row = tuple[str, object, object]  # key, text or texts, image


def _items(key: str, body: object, image: object, depth: int = 0) -> Iterator[TextItem | BadText]:
    """One text, or several, of one line or object."""
    if isinstance(body, list | tuple):
        if not body:
            yield BadText(key, "no text")
        elif depth == _MAX_DEPTH:
            yield BadText(key, "lists of lists of lists")
        else:
            for number, one in enumerate(body):
                yield from _items(f"{key}.{number}", one, image, depth + 1)
        return
    if isinstance(body, dict):  # Karpathy: {"raw": "...", "tokens": [...]}
        body = _pick(body, TEXT_NAMES)
    if not isinstance(body, str):
        yield BadText(key, "no text" if body is None else "its text is not a string")
        return
    if len(body) > MAX_LINE_BYTES:  # not worth cleaning
        yield BadText(key, _too_long(body))
        return
    if _UNDECODED.search(body):
        yield BadText(key, "not UTF-8")
        return
    text = clean(body)
    if not text:
        yield BadText(key, "no text")
    elif len(text) > MAX_BODY:
        yield BadText(key, _too_long(text))
    else:
        yield TextItem(key, text, _image_name(image))


# Bytes that were not UTF-8, after decoding with surrogateescape. JSON may hold others, by escape:
# those are dropped by clean().
_LONE = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")
_UNDECODED = re.compile(r"[\udc80-\udcff]")


def _image_name(value: object) -> str | None:
    if isinstance(value, dict):  # Hugging Face: {"bytes": ..., "path": "1.jpg"}
        value = _pick(value, IMAGE_NAMES)
    if not isinstance(value, str) or len(value) > MAX_NAME:
        return None
    # Bytes that were not UTF-8 stay as they are; other halves of characters name no file.
    return _LONE.sub("", value.strip().replace("\0", "")) or None


def _pick(row: dict[Any, Any], names: Sequence[str]) -> object:
    """The value of the first of `names` that the row has, without regard to case."""
    if not any(name in row for name in names):
        row = {str(key).strip().lower(): value for key, value in row.items()}
    return next((row[name] for name in names if row.get(name) is not None), None)


# -- lines ---------------------------------------------------------------------------------------


def _lines(file: IO[bytes]) -> Iterator[tuple[int, str | None]]:
    """(line number from 1, the line), None for one that is too long. Bytes that are not UTF-8
    come as lone surrogates (surrogateescape)."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(MAX_LINE_BYTES)
            yield number, None
            continue
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        yield number, raw.decode("utf-8", "surrogateescape")


def _read_txt(file: IO[bytes], source: str) -> Iterator[TextItem | BadText]:
    tokens: bool | None = None
    for number, line in _lines(file):
        key = str(number)
        if line is None:
            yield BadText(key, _LONG_LINE)
            continue
        if not line.strip():
            continue
        if tokens is None:  # the first line tells what kind of file this is
            header = [cell.strip().lower() for cell in line.split(",")]
            if len(header) > 1 and header[0] in IMAGE_NAMES and header[-1] in TEXT_NAMES:
                file.seek(0)
                yield from _read_table(file, source)
                return
            match = _TOKEN_LINE.fullmatch(line)
            tokens = match is not None and bool(_PICTURE_NAME.fullmatch(match[1].strip()))
        if not tokens:
            yield from _items(key, line, None)
            continue
        match = _TOKEN_LINE.fullmatch(line)
        if match is None:
            yield BadText(key, "no tab between the picture and its text")
        else:
            yield from _items(key, match[2], match[1])


def _read_jsonl(file: IO[bytes], source: str) -> Iterator[TextItem | BadText]:
    for number, line in _lines(file):
        key = str(number)
        if line is None:
            yield BadText(key, _LONG_LINE)
        elif line.strip():
            if _SURROGATE.search(line):
                yield BadText(key, "not UTF-8")
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                yield BadText(key, "not JSON")
                continue
            yield from _object(key, value)


def _object(key: str, value: object) -> Iterator[TextItem | BadText]:
    if isinstance(value, str):
        yield from _items(key, value, None)
    elif isinstance(value, dict):
        yield from _items(key, _pick(value, TEXT_NAMES), _pick(value, IMAGE_NAMES))
    else:
        yield BadText(key, "neither an object nor a text")


# -- tables --------------------------------------------------------------------------------------


def _read_table(file: IO[bytes], source: str) -> Iterator[TextItem | BadText]:
    skipped: list[int] = []

    def text_lines() -> Iterator[str]:
        for number, line in _lines(file):
            if line is None:
                skipped.append(number)
                yield "\n"
            else:
                yield line.replace("\0", " ")

    lines = text_lines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = "\t" if source.lower().endswith(".tsv") else _delimiter(first)
    file.seek(0)
    skipped.clear()
    rows = csv.reader(text_lines(), delimiter=delimiter, skipinitialspace=delimiter != "\t")
    columns: _Columns | None = None
    while True:
        while skipped:
            yield BadText(str(skipped.pop(0)), _LONG_LINE)
        key = str(rows.line_num + 1)
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as exc:
            yield BadText(key, f"not a row of a table ({exc})")
            continue
        if not any(cell.strip() for cell in row):
            continue
        if columns is None:
            columns = _columns(row, source)
            if columns.header:
                continue
        yield from _row(key, row, columns, delimiter)
    for number in skipped:
        yield BadText(str(number), _LONG_LINE)


@dataclass(frozen=True, slots=True)
class _Columns:
    text: int
    image: int | None
    count: int
    header: bool


def _columns(row: list[str], source: str) -> _Columns:
    """Which column is what, from the first row."""
    names = [cell.strip().lower() for cell in row]
    text = next((names.index(name) for name in TEXT_NAMES if name in names), None)
    image = next((names.index(name) for name in IMAGE_NAMES if name in names), None)
    if text is None and image is not None and len(row) == 2:
        text = 1 - image
    if text is not None:
        return _Columns(text, image, len(row), header=True)
    if len(row) == 1:
        return _Columns(0, None, 1, header=False)
    for image in (0, 1):
        if _PICTURE_NAME.fullmatch(row[image].strip()):
            return _Columns(1 - image, image, 2, header=False)
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
    yield from _items(key, body, row[columns.image] if columns.image is not None else None)


def _delimiter(line: str) -> str:
    return max(",;\t|", key=lambda mark: (line.count(mark), mark == ","))


# -- JSON and Parquet ----------------------------------------------------------------------------


def _read_json(file: IO[bytes], source: str) -> Iterator[TextItem | BadText]:
    data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise DecodeError(
            source,
            f"more than {MAX_JSON_BYTES / 1e6:,.0f} MB of JSON (as .jsonl it could be read)",
        )
    if sum(data.count(mark) for mark in b",:[{") > MAX_JSON_VALUES:
        raise DecodeError(
            source, f"more than {MAX_JSON_VALUES:,} values of JSON (as .jsonl it could be read)"
        )
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as exc:
        raise DecodeError(source, "not UTF-8") from exc
    except (ValueError, RecursionError) as exc:
        raise DecodeError(source, f"not JSON ({str(exc)[:100].lower()})") from exc
    del data
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from _object(str(number), one)
        return
    if not isinstance(value, dict):
        raise DecodeError(source, "neither a list nor an object")
    annotations, images = value.get("annotations"), value.get("images")
    if isinstance(annotations, list):
        yield from _coco(annotations, images, source)
    elif isinstance(images, list):
        for number, one in enumerate(images):
            yield from _object(str(number), one)
    else:
        for image, body in value.items():
            yield from _items(image, body, image)


def _coco(annotations: list[Any], images: object, source: str) -> Iterator[TextItem | BadText]:
    """COCO captions: https://cocodataset.org/#format-data, "Image Captioning"."""
    names: dict[object, object] = {}
    for one in images if isinstance(images, list) else ():
        if isinstance(one, dict) and isinstance(one.get("id"), int | str):
            names[one["id"]] = _pick(one, IMAGE_NAMES)
    if not any(isinstance(one, dict) and "caption" in one for one in annotations):
        raise DecodeError(source, "no captions among its annotations")
    for number, one in enumerate(annotations):
        if not isinstance(one, dict):
            yield BadText(f"#{number}", "not an object")
            continue
        number_or_id = one.get("id")
        key = str(number_or_id) if isinstance(number_or_id, int | str) else f"#{number}"
        image = one.get("image_id")
        name = names.get(image) if isinstance(image, int | str) else None
        yield from _items(key, one.get("caption"), name)


def _read_parquet(file: IO[bytes], source: str) -> Iterator[TextItem | BadText]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        names = {name.lower(): name for name in table.schema_arrow.names}
        text = next((names[name] for name in TEXT_NAMES if name in names), None)
        image = next((names[name] for name in IMAGE_NAMES if name in names), None)
        if text is None:
            raise DecodeError(source, "no column is called text or caption")
        wanted = [text] if image is None else [text, image]
        row, most = 0, file.seek(0, 2) + _MIN_ROWS
        for batch in table.iter_batches(batch_size=1024, columns=wanted):
            texts = batch.column(batch.schema.get_field_index(text))
            images = None if image is None else batch.column(batch.schema.get_field_index(image))
            for number in range(batch.num_rows):
                key = str(row + number)
                try:
                    values = texts[number]
                    if isinstance(values, pa.ListScalar) and len(values.values or ()) > _MAX_LIST:
                        yield BadText(key, f"more than {_MAX_LIST:,} texts in one row")
                        continue
                    body = values.as_py()
                    name = None if images is None else images[number].as_py()
                except UnicodeDecodeError:
                    yield BadText(key, "not UTF-8")
                else:
                    yield from _items(key, body, name)
            row += batch.num_rows
            if row > most:
                # Repetition packs to nothing: a kilobyte may hold a billion of the same text.
                raise DecodeError(source, "more rows than a file of its size has")
    except UnicodeDecodeError as exc:
        raise DecodeError(source, "not Parquet (names that are not UTF-8)") from exc
    except pa.ArrowException as exc:
        said = str(exc).split("\n", 1)[0][:100].lower()
        raise DecodeError(source, f"not Parquet ({said})") from exc


_READERS: dict[str, Callable[[IO[bytes], str], Iterator[TextItem | BadText]]] = {
    ".txt": _read_txt,
    ".token": _read_txt,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}


# -- reasons -------------------------------------------------------------------------------------


def _too_long(text: str) -> str:
    return f"{len(text):,} characters are too many for a text (limit {MAX_BODY:,})"
