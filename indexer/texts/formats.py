"""The formats of files of texts: lines, tables, JSON, Parquet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import IO, Any

from indexer.texts.items import (
    IMAGE_ID,
    IMAGE_NAMES,
    PICTURE_NAME,
    SURROGATE,
    TEXT_NAMES,
    BadText,
    TextItem,
    items_of,
    named_by,
    pick,
    picture_of,
)
from indexer.texts.lines import LONG_LINE, lines
from indexer.texts.tables import read_table
from mmsearch.errors import DecodeError

MAX_JSON_BYTES = 256 << 20
"""Of a .json file, which cannot be read in pieces."""
MAX_JSON_VALUES = 20_000_000
"""Of a .json file; with the above, what reading one may take stays below 4 GB."""
_MIN_ROWS = 100_000
_MAX_LIST = 10_000
# Flickr8k.token.txt, results_20130124.token: "1000268201.jpg#0<tab>A child ..."
_TOKEN_LINE = re.compile(r"([^\t]+?)(?:#\d+)?\t(.*)", re.DOTALL)


# -- lines -----------------------------------------------------------------------------------------


def _read_txt(file: IO[bytes], source: str) -> Iterator[TextItem | BadText]:
    tokens: bool | None = None
    for number, line in lines(file):
        key = str(number)
        if line is None:
            yield BadText(key, LONG_LINE)
            continue
        if not line.strip():
            continue
        if tokens is None:  # the first line tells what kind of file this is
            header = [cell.strip().lower() for cell in line.split(",")]
            if len(header) > 1 and header[0] in IMAGE_NAMES and header[-1] in TEXT_NAMES:
                file.seek(0)
                yield from read_table(file, source)
                return
            match = _TOKEN_LINE.fullmatch(line)
            tokens = match is not None and bool(PICTURE_NAME.fullmatch(match[1].strip()))
        if not tokens:
            yield from items_of(key, line, None)
            continue
        match = _TOKEN_LINE.fullmatch(line)
        if match is None:
            yield BadText(key, "no tab between the picture and its text")
        else:
            yield from items_of(key, match[2], match[1])


def _read_jsonl(file: IO[bytes], source: str) -> Iterator[TextItem | BadText]:
    for number, line in lines(file):
        key = str(number)
        if line is None:
            yield BadText(key, LONG_LINE)
        elif line.strip():
            if SURROGATE.search(line):
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
        yield from items_of(key, value, None)
    elif isinstance(value, dict):
        yield from items_of(key, pick(value, TEXT_NAMES), picture_of(value))
    else:
        yield BadText(key, "neither an object nor a text")


# -- JSON and Parquet ------------------------------------------------------------------------------


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
        yield from _told_apart(_coco(annotations, images, source))
    elif isinstance(images, list):
        for number, one in enumerate(images):
            yield from _object(str(number), one)
    else:
        named = (items_of(image, body, image) for image, body in value.items())
        yield from _told_apart(chain.from_iterable(named))


def _told_apart(items: Iterable[TextItem | BadText]) -> Iterator[TextItem | BadText]:
    """The same, each with a key of its own, where the file chose them: the second "7" is "7#2"."""
    times: dict[str, int] = {}
    for item in items:
        key = item.key
        while key in times:  # "7#2" may be another one's own key
            times[item.key] += 1
            key = f"{item.key}#{times[item.key]}"
        times[key] = 1
        yield item if key == item.key else replace(item, key=key)


def _coco(annotations: list[Any], images: object, source: str) -> Iterator[TextItem | BadText]:
    """COCO captions: https://cocodataset.org/#format-data, "Image Captioning"."""
    names: dict[object, object] = {}
    for one in images if isinstance(images, list) else ():
        if isinstance(one, dict) and isinstance(one.get("id"), int | str):
            names[one["id"]] = pick(one, IMAGE_NAMES)
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
        if name is None and image is not None:
            # As a name that no picture has, an unknown id is reported when texts are linked.
            name = named_by(image) or f"{IMAGE_ID} {image}"
        yield from items_of(key, one.get("caption"), name)


def _read_parquet(file: IO[bytes], source: str) -> Iterator[TextItem | BadText]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        names = {name.lower(): name for name in table.schema_arrow.names}
        text = next((names[name] for name in TEXT_NAMES if name in names), None)
        image = next((names[name] for name in IMAGE_NAMES if name in names), None)
        by_id = image is None and IMAGE_ID in names
        image = names[IMAGE_ID] if by_id else image
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
                    body = _decoded(values.as_py())
                    name = None if images is None else images[number].as_py()
                except UnicodeDecodeError:
                    yield BadText(key, "not UTF-8")
                else:
                    name = _decoded_name(name)
                    yield from items_of(key, body, named_by(name) if by_id else name)
            row += batch.num_rows
            if row > most:
                # Repetition packs to nothing: a kilobyte may hold a billion of the same text.
                raise DecodeError(source, "more rows than a file of its size has")
    except UnicodeDecodeError as exc:
        raise DecodeError(source, "not Parquet (names that are not UTF-8)") from exc
    except pa.ArrowException as exc:
        said = str(exc).split("\n", 1)[0][:100].lower()
        raise DecodeError(source, f"not Parquet ({said})") from exc


def _decoded(value: object) -> object:
    """Text that was written as bytes, also in lists and objects. Raises UnicodeDecodeError."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, list):
        return [_decoded(one) for one in value]
    if isinstance(value, dict):
        return {key: _decoded(one) for key, one in value.items()}
    return value


def _decoded_name(value: object) -> object:
    """The same of a picture's name; bytes that are none may be the picture itself."""
    if isinstance(value, dict):
        return {key: _decoded_name(one) for key, one in value.items()}
    try:
        return _decoded(value)
    except UnicodeDecodeError:
        return None


READERS: dict[str, Callable[[IO[bytes], str], Iterator[TextItem | BadText]]] = {
    ".txt": _read_txt,
    ".token": _read_txt,
    ".csv": read_table,
    ".tsv": read_table,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
