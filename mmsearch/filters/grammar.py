"""Filters as text: `taken:2019..2021 (camera:"Canon*" or format:heic) not path:**/Screenshots/**`.

    filter     = either {"or" either}
    either     = part {["and"] part}
    part       = "not" part | "(" filter ")" | name ":" value
    value      = quoted | bare
    quoted     = '"' any characters, `\"` and `\\` for these two, '"'
    bare       = characters up to a blank or a ")" that was not opened within it

The words stand for themselves in any case. Nothing at all is a filter that everything passes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from mmsearch.errors import QueryError
from mmsearch.filters import values
from mmsearch.filters.conditions import (
    MAX_DEPTH,
    MAX_TEXT,
    SHAPES,
    THINGS,
    And,
    Camera,
    Condition,
    Dates,
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
    check_size,
)


def _orientation(text: str) -> Orientation:
    shape = text.lower()
    if shape not in SHAPES:
        raise QueryError(f'"{text}" is no orientation: there are {", ".join(SHAPES)}')
    return Orientation(shape)


def _has(text: str) -> Has:
    thing = text.lower()
    if thing not in THINGS:
        raise QueryError(f'"{text}" is nothing a picture has: there are {", ".join(THINGS)}')
    return Has(thing)


def _folder(text: str) -> Path:
    if not text:
        raise QueryError('folder is compared with nothing: "*" is any')
    return Path(text.rstrip("/") + "/**")


#: Every condition by name. What it reads raises QueryError where it makes no sense.
CONDITIONS: Mapping[str, Callable[[str], Condition]] = {
    "path": Path,
    "folder": _folder,
    "source": Source,
    "taken": partial(values.dates, "taken"),
    "added": partial(values.dates, "added"),
    "bytes": values.bytes_,
    "width": values.width,
    "height": values.height,
    "pixels": values.pixels,
    "megapixels": values.megapixels,
    "format": Format,
    "orientation": _orientation,
    "camera": Camera,
    "keyword": Keyword,
    "tag": Tag,
    "has": _has,
    "near": values.near,
}
#: Other names for them.
_ALIASES = {
    "size": "bytes",
    "mp": "megapixels",
    "date": "taken",
    "indexed": "added",
    "in": "folder",
}
_WORDS = ("and", "or", "not")
_WORD = re.compile(r"[^\s():\"]+")


def known_name(name: str) -> str:
    """The name of a condition, as it stands in `CONDITIONS`, out of any that it has, in any case.

    Raises:
        QueryError: there is no such condition.
    """
    said = name.lower()
    known = _ALIASES.get(said, said)
    if known not in CONDITIONS:
        near = difflib.get_close_matches(said, [*CONDITIONS, *_ALIASES], 1)
        meant = f' Did you mean "{near[0]}"?' if near else ""
        raise QueryError(
            f'there is no condition "{name[:40]}".{meant} There are: {", ".join(CONDITIONS)}'
        )
    return known


def condition(name: str, value: str) -> Condition:
    """The condition `name:value`.

    Raises:
        QueryError: there is no such condition, or the value makes no sense for it.
    """
    return CONDITIONS[known_name(name)](value)


class _Reader:
    """One text, read from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def filter(self) -> Filter:
        found = And() if self._peek() == "" else self._either()
        if self._peek() == ")":
            raise self._wrong('")" closes nothing')
        return found

    def _either(self) -> Filter:
        parts = [self._all()]
        while self._take_word("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _all(self) -> Filter:
        parts = [self._part()]
        while self._take_word("and") or self._more():
            parts.append(self._part())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _more(self) -> bool:
        return self._peek() not in ("", ")") and self._word().lower() != "or"

    def _part(self) -> Filter:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong(f"the filter is nested deeper than {MAX_DEPTH} levels")
        try:
            if self._take_word("not"):
                return Not(self._part())
            if self._peek() == "(":
                return self._group()
            return self._condition()
        finally:
            self._depth -= 1

    def _group(self) -> Filter:
        opened = self._at
        self._at += 1
        if self._peek() == ")":
            self._at += 1
            return And()
        found = self._either()
        if self._peek() != ")":
            self._at = opened
            raise self._wrong('this "(" is not closed')
        self._at += 1
        return found

    def _condition(self) -> Condition:
        start = self._skip()
        if start == len(self._text):
            raise self._wrong("a condition is missing here")
        name = self._word()
        if not name or name.lower() in _WORDS:
            raise self._wrong(f"a condition is missing here. They {_FORM}")
        self._at += len(name)
        if self._text[self._at : self._at + 1] != ":":
            self._at = start
            raise self._wrong(f'"{name[:40]}" is no condition, {_FORM}')
        self._at += 1
        try:
            return condition(name, self._value())
        except QueryError as exc:
            if isinstance(exc, _NotUnderstoodError):
                raise
            self._at = start
            raise self._wrong(str(exc)) from exc

    def _value(self) -> str:
        start = self._at
        if self._text[start : start + 1] == '"':
            matched = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL).match(self._text, start)
            if matched is None:
                raise self._wrong("this quotation mark is not closed")
            self._at = matched.end()
            if self._peek_raw() not in ("", " ", "\t", "\n", "\r", "(", ")"):
                raise self._wrong("a blank is missing here: quote the whole value")
            return re.sub(r'\\(["\\])', r"\1", matched[1])
        opened = 0
        while (char := self._peek_raw()) and not char.isspace():
            opened += (char == "(") - (char == ")")
            if opened < 0:
                break
            self._at += 1
        if opened > 0:
            self._at = start
            raise self._wrong('this value has a "(" that is not closed: put it into quotes')
        if start == self._at:
            raise self._wrong('a value is missing here; "*" is any')
        return self._text[start : self._at]

    def _peek_raw(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self) -> int:
        while self._peek_raw().isspace():
            self._at += 1
        return self._at

    def _peek(self) -> str:
        self._skip()
        return self._peek_raw()

    def _word(self) -> str:
        self._skip()
        matched = _WORD.match(self._text, self._at)
        return matched[0] if matched else ""

    def _take_word(self, word: str) -> bool:
        """Steps over the word if it is next; `or:` would be a condition."""
        found = self._word()
        after = self._at + len(found)
        if found.lower() != word or self._text[after : after + 1] == ":":
            return False
        self._at = after
        return True

    def _wrong(self, reason: str) -> _NotUnderstoodError:
        rest = self._text[self._at :]
        where = f'"{rest[:30]}{"..." if len(rest) > 30 else ""}"' if rest else "its end"
        return _NotUnderstoodError(
            f"the filter is not understood at {where} (character {self._at + 1}): {reason}"
        )


_FORM = 'read name:value, as in taken:2019 or camera:"Canon*"'


class _NotUnderstoodError(QueryError):
    """The message says already where."""


def parse(text: str) -> Filter:
    """The filter that a text says.

    Raises:
        QueryError: it is not understood; the message points at the place and says what is possible.
    """
    if len(text) > MAX_TEXT:
        raise QueryError(f"a filter of {len(text):,} characters is longer than {MAX_TEXT:,}")
    return check_size(_Reader(text).filter())


def parse_all(texts: Sequence[str]) -> Filter:
    """The filter that all of these texts say together: what passes it passes each.

    Raises:
        QueryError: as of `parse`.
    """
    parts = tuple(map(parse, texts))
    return parts[0] if len(parts) == 1 else check_size(And(parts))


# --- and back -----------------------------------------------------------------------------------


def named(part: Condition) -> tuple[str, str]:
    """Name and value of a condition, which `condition` reads as the same."""
    if isinstance(part, Path):
        return "path", part.glob
    if isinstance(part, Source):
        return "source", part.name
    if isinstance(part, Camera):
        return "camera", part.glob
    if isinstance(part, Keyword):
        return "keyword", part.glob
    if isinstance(part, Tag):
        return "tag", part.glob
    if isinstance(part, Format):
        return "format", part.name
    if isinstance(part, Dates):
        return part.what, values.dates_text(part)
    if isinstance(part, Range):
        return part.what, values.range_text(part)
    if isinstance(part, Orientation):
        return "orientation", part.shape
    if isinstance(part, Has):
        return "has", part.thing
    assert isinstance(part, Near)
    return "near", values.near_text(part)


def to_text(filter_: Filter) -> str:
    """A text that `parse` reads as this filter, whatever was written first."""
    if isinstance(filter_, And):
        return " and ".join(map(_grouped, filter_.parts))
    if isinstance(filter_, Or):
        return " or ".join(map(_grouped, filter_.parts))
    if isinstance(filter_, Not):
        return f"not {_grouped(filter_.part)}"
    name, value = named(filter_)
    if re.fullmatch(r'[^\s()"\\][^\s()]*', value) is None:
        escaped = re.sub(r'["\\]', r"\\\g<0>", value)
        value = f'"{escaped}"'
    return f"{name}:{value}"


def _grouped(part: Filter) -> str:
    return f"({to_text(part)})" if isinstance(part, And | Or) else to_text(part)
