"""Texts, and what one line, row or object of a file holds of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmsearch.decode import IMAGE_SUFFIXES
from mmsearch.plaintext import clean

MAX_BODY = 10_000
"""Longest text, in characters; models read a few hundred."""
MAX_LINE_BYTES = 1 << 20
MAX_NAME = 4096
"""Longest name of a picture, in characters, and (PATH_MAX) in bytes of a path on Linux."""
_MAX_DEPTH = 3

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
IMAGE_ID = "image_id"
"""Where none of IMAGE_NAMES is; often a number, which names no file (see `named_by`)."""
PICTURE_NAME = re.compile(
    rf".*\.({'|'.join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))})", re.IGNORECASE | re.DOTALL
)
SURROGATE = re.compile(r"[\ud800-\udfff]")
# Bytes that were not UTF-8, after decoding with surrogateescape. JSON may hold others, by escape:
# those are dropped by clean().
_LONE = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")
_UNDECODED = re.compile(r"[\udc80-\udcff]")


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


def items_of(key: str, body: object, image: object, depth: int = 0) -> Iterator[TextItem | BadText]:
    """One text, or several, of one line or object."""
    if isinstance(body, list | tuple):
        if not body:
            yield BadText(key, "no text")
        elif depth == _MAX_DEPTH:
            yield BadText(key, "lists of lists of lists")
        else:
            for number, one in enumerate(body):
                yield from items_of(f"{key}.{number}", one, image, depth + 1)
        return
    if isinstance(body, dict):  # Karpathy: {"raw": "...", "tokens": [...]}
        body = pick(body, TEXT_NAMES)
    if not isinstance(body, str):
        yield BadText(key, "no text" if body is None else "its text is not a string")
        return
    if len(body) > MAX_LINE_BYTES:  # not worth cleaning
        yield BadText(key, too_long(body))
        return
    if _UNDECODED.search(body):
        yield BadText(key, "not UTF-8")
        return
    text = clean(body)
    if not text:
        yield BadText(key, "no text")
    elif len(text) > MAX_BODY:
        yield BadText(key, too_long(text))
    else:
        yield TextItem(key, text, _image_name(image))


def picture_of(row: dict[Any, Any]) -> object:
    """What an object says of its picture: a name, or an object that has one."""
    found = pick(row, IMAGE_NAMES)
    return found if found is not None else named_by(pick(row, (IMAGE_ID,)))


def named_by(image_id: object) -> str | None:
    """An id that is a picture's file name."""
    if isinstance(image_id, str) and PICTURE_NAME.fullmatch(image_id.strip()):
        return image_id
    return None


def _image_name(value: object) -> str | None:
    if isinstance(value, dict):  # Hugging Face: {"bytes": ..., "path": "1.jpg"}
        value = picture_of(value)
    if not isinstance(value, str) or len(value) > MAX_NAME:
        return None
    # Bytes that were not UTF-8 stay as they are; other halves of characters name no file.
    return _LONE.sub("", value.strip().replace("\0", "")) or None


def pick(row: dict[Any, Any], names: Sequence[str]) -> object:
    """The value of the first of `names` that the row has, without regard to case."""
    if not any(name in row for name in names):
        row = {str(key).strip().lower(): value for key, value in row.items()}
    return next((row[name] for name in names if row.get(name) is not None), None)


def too_long(text: str) -> str:
    return f"{len(text):,} characters are too many for a text (limit {MAX_BODY:,})"
