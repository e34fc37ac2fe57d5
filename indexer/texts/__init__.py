"""Files of texts: lines, tables, JSON, Parquet, and the caption files of known collections."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from indexer.texts.formats import READERS
from indexer.texts.items import (
    MAX_BODY,
    MAX_LINE_BYTES,
    PICTURE_NAME,
    SURROGATE,
    BadText,
    TextItem,
    too_long,
)
from mmsearch.decode import IMAGE_SUFFIXES
from mmsearch.errors import DecodeError, os_reason
from mmsearch.plaintext import clean
from mmsearch.raw import RAW_SUFFIXES

__all__ = [
    "MAX_BODY",
    "MAX_LINE_BYTES",
    "TEXT_SUFFIXES",
    "BadText",
    "TextItem",
    "is_caption_file",
    "read_sidecar",
    "read_texts",
    "sidecar_for",
]

TEXT_SUFFIXES = frozenset({
    ".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".token",
})  # fmt: skip
MAX_BAD = 10_000
"""Lines, rows or objects of one file that are named one by one when they cannot be used."""
_MAX_KEY = 200
_HEAD = 64
_UTF16 = "UTF-16 without a byte order mark, where UTF-8 is expected"
_CAPTION_FILE = re.compile(
    r"captions[^/]*\.(txt|csv|tsv|jsonl|ndjson|json|parquet)"
    r"|.*\.captions\.(txt|csv|tsv|jsonl|ndjson|json|parquet)"
    r"|metadata\.(jsonl|csv|parquet)"
    r"|flickr(8|30)k[^/]*\.token(\.txt)?"
    r"|results_20130124\.token",
    re.IGNORECASE,
)
#: JPEG first; a raw file last, as it is what the others were made from.
_SUFFIX_ORDER = tuple(
    sorted(IMAGE_SUFFIXES, key=lambda suffix: (suffix in RAW_SUFFIXES, suffix != ".jpg", suffix))
)


def is_caption_file(name: str) -> bool:
    """Whether a file of this name is read by itself when it lies in an indexed folder."""
    return _CAPTION_FILE.fullmatch(name) is not None


def sidecar_for(path: str) -> tuple[str, ...]:
    """The pictures that "photo.txt" or "photo.jpg.txt" may describe, the likelier first."""
    if not path.lower().endswith(".txt"):
        return ()
    stem = path[:-4]
    named = (stem,) if PICTURE_NAME.fullmatch(stem) else ()
    return (*named, *(stem + suffix for suffix in _SUFFIX_ORDER))


def read_sidecar(path: Path) -> str:
    """The text of a sidecar, on one line. Raises DecodeError: unreadable, not UTF-8, too long."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LINE_BYTES + 1)
    except OSError as exc:
        raise DecodeError(str(path), os_reason(exc)) from exc
    return body_of_sidecar(data, str(path))


def body_of_sidecar(data: bytes, source: str) -> str:
    """The text of a sidecar with these bytes. source: what an error names. Raises DecodeError."""
    if len(data) > MAX_LINE_BYTES:
        raise DecodeError(source, "too long for a text")
    if _looks_like_utf16(data):
        raise DecodeError(source, _UTF16)
    try:
        body = clean(data.decode("utf-8-sig"))
    except UnicodeDecodeError as exc:
        raise DecodeError(source, "not UTF-8") from exc
    if not body:
        raise DecodeError(source, "empty file")
    if len(body) > MAX_BODY:
        raise DecodeError(source, too_long(body))
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
    reader = READERS.get(suffix)
    if reader is None:
        raise DecodeError(source, f"{suffix or 'a name without ending'} is no kind of text file")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            file.seek(0)
            if not head:
                raise DecodeError(source, "empty file")
            if head.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DecodeError(source, "UTF-16, where UTF-8 is expected")
            if _looks_like_utf16(head):
                raise DecodeError(source, _UTF16)
            yield from _few_bad(reader(file, source))
    except MemoryError as exc:
        raise DecodeError(source, "too large for the memory of this machine") from exc
    except OSError as exc:
        raise DecodeError(source, os_reason(exc)) from exc


def _looks_like_utf16(head: bytes) -> bool:
    """Whether every second byte, and no other, is NUL, as no text in UTF-8 has them."""
    pairs = head[: len(head) // 2 * 2][:_HEAD]
    two = (pairs[::2], pairs[1::2])
    return len(pairs) >= 4 and any(
        not any(these) and 0 not in others for these, others in (two, two[::-1])
    )


def _few_bad(items: Iterator[TextItem | BadText]) -> Iterator[TextItem | BadText]:
    """The same with keys that can be stored, and without the flood that a file of rubbish is."""
    bad = 0
    for item in items:
        bad += isinstance(item, BadText)
        if isinstance(item, TextItem) or bad <= MAX_BAD:
            plain = len(item.key) <= _MAX_KEY and not SURROGATE.search(item.key)
            yield item if plain else replace(item, key=_short(item.key))
        elif bad == MAX_BAD + 1:
            yield BadText(
                "more", f"more than {MAX_BAD:,} that cannot be used: the rest is not named"
            )


def _short(key: str) -> str:
    """A key in place of one that is too long, or that cannot be written as UTF-8."""
    raw = key.encode("utf-8", "backslashreplace")
    return f"{raw[:60].decode('utf-8', 'ignore')}…{hashlib.sha256(raw).hexdigest()[:32]}"
