"""Patterns with wildcards: of names ("Canon*"), and of paths ("**/2019/*.jpg").

`*` is any run of characters, `?` any one, `[a-z]` one of these, `[!a-z]` one of the others; `[*]`
is a star itself. Upper and lower case are the same, and so are the ways Unicode has to write a
letter with an accent (both sides are compared in form C, folded by `re.IGNORECASE`).

In paths `*` and `?` stay within a name between slashes, `**` (alone between slashes) is any number
of folders, or at the end everything below. A pattern that begins with "/" is of the whole path,
any other of a trailing part of it that begins a name.

Regular expressions are built of atomic groups, as those of `fnmatch` are: the first place where a
part fits is as good as any, so nothing is tried twice and no pattern takes long.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from mmsearch.errors import QueryError

#: The letters that `re.IGNORECASE` takes for the same as one outside of ASCII (i, k, s).
_NOT_ONLY_ASCII = "iks"
_ANY_NAME = "*"


def comparable(text: str) -> str:
    """The text in Unicode's form C, as patterns compare it."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """What is the same for names that no pattern without wildcards tells apart."""
    return comparable(text).lower()


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a pattern. kind: "literal", "one", "class" or "star"; text: as in the pattern."""

    kind: str
    text: str


def _pieces(pattern: str) -> list[_Part]:
    found: list[_Part] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        closing = _closing(pattern, at) if char == "[" else -1
        if char == "*":
            if not found or found[-1].kind != "star":
                found.append(_Part("star", "*"))
        elif char == "?":
            found.append(_Part("one", "?"))
        elif closing > 0:
            found.append(_class(pattern[at + 1 : closing]))
            at = closing
        else:
            found.append(_Part("literal", char))
        at += 1
    return found


def _closing(pattern: str, at: int) -> int:
    """Where the bracket at `at` ends; a "]" right after the "[" or "[!" is one of the class."""
    start = at + 1 + (pattern[at + 1 : at + 2] == "!")
    return pattern.find("]", start + 1)


def _class(text: str) -> _Part:
    if len(text) == 1:
        return _Part("literal", text)
    return _Part("class", text)


def _class_expression(text: str, never: str) -> str:
    negated = text.startswith("!")
    chars = text[negated:]
    members: list[str] = []
    at = 0
    while at < len(chars):
        first, last = chars[at], chars[at + 2 : at + 3]
        if last and chars[at + 1] == "-":
            if first > last:
                raise QueryError(
                    f'the range "{first}-{last}" in "[{text}]" runs backwards: write '
                    f'"{last}-{first}"'
                )
            members.append(f"{re.escape(first)}-{re.escape(last)}")
            at += 3
        else:
            members.append(re.escape(first))
            at += 1
    inside = "".join(members)
    if negated:
        return f"[^{inside}{never}]"
    return f"(?![{never}])[{inside}]" if never else f"[{inside}]"


def _expression(pattern: str, never: str = "") -> str:
    """The pattern as a regular expression; wildcards never stand for the character `never`."""
    any_one = f"[^{never}]" if never else "."
    blocks: list[str] = [""]
    for part in _pieces(pattern):
        if part.kind == "star":
            blocks.append("")
        elif part.kind == "one":
            blocks[-1] += any_one
        elif part.kind == "class":
            blocks[-1] += _class_expression(part.text, never)
        else:
            blocks[-1] += re.escape(part.text)
    if len(blocks) == 1:
        return blocks[0]
    first, *middle, last = blocks
    atoms = "".join(f"(?>{any_one}*?{block})" for block in middle)
    return f"{first}{atoms}{any_one}*{last}"


@lru_cache(maxsize=256)
def name_pattern(glob: str) -> re.Pattern[str]:
    """What a whole name matches; of the text as `comparable` makes it. For `fullmatch`.

    Raises:
        QueryError: a range of characters runs backwards.
    """
    return re.compile(_expression(comparable(glob)), re.IGNORECASE | re.DOTALL)


def literal(text: str) -> str:
    """The pattern that only this text matches (and what differs from it by case)."""
    return re.sub(r"[*?\[]", r"[\g<0>]", text)


def plain(glob: str) -> str | None:
    """The text that a pattern without wildcards stands for; None for one that has some."""
    pieces = _pieces(glob)
    if any(part.kind != "literal" for part in pieces):
        return None
    return "".join(part.text for part in pieces)


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A pattern of paths, in the two parts that can be looked for one after the other.

    folder: of the path up to its last slash, that included; None where any will do.
    name: of what follows; None where any will do.
    like: for SQL's LIKE (escaped by a backslash), what every name that matches is like.
    exactly: for SQLite's GLOB, what names in ASCII, in lower case, match if and only if they match
        this; None where GLOB cannot say that.
    """

    folder: re.Pattern[str] | None
    name: re.Pattern[str] | None
    like: str
    exactly: str | None

    def matches(self, path: str) -> bool:
        """Whether a whole path does."""
        folder, slash, name = comparable(path).rpartition("/")
        return (self.folder is None or self.folder.fullmatch(folder + slash) is not None) and (
            self.name is None or self.name.fullmatch(name) is not None
        )


@lru_cache(maxsize=256)
def path_pattern(glob: str) -> PathPattern:
    """Reads a pattern of paths.

    Raises:
        QueryError: it is empty, or `**` does not stand alone between slashes.
    """
    glob = comparable(glob)
    whole = glob.startswith("/")
    parts = re.sub("/+", "/", glob).removeprefix("/").split("/")
    if glob.endswith("/"):
        parts[-1] = "**"  # a folder is all that lies in it
    for part in parts:
        if "**" in part and part != "**":
            raise QueryError(
                f'"**" must stand alone between slashes, not in "{part}": write "*" for a part of '
                'a name, "**/" for any folders, "/**" for all that lies in one'
            )
    if not glob.strip("/"):
        parts = ["**"]
    last = parts.pop()
    if not whole:
        parts.insert(0, "**")
    folder = _folder_expression(parts, anything_below=last == "**")
    if last in ("**", _ANY_NAME):
        return PathPattern(folder, None, "%", "*")
    name = re.compile(_expression(last, "/"), re.IGNORECASE | re.DOTALL)
    return PathPattern(folder, name, *_like(last))


def _folder_expression(parts: list[str], *, anything_below: bool) -> re.Pattern[str] | None:
    """Of folders as paths that end in a slash."""
    # A block is a run of parts with no "**" between them.
    blocks: list[list[str]] = [[]]
    for part in parts:
        if part == "**":
            blocks.append([])
        else:
            blocks[-1].append(part)
    if anything_below:
        blocks.append([])
    first, *rest = ["".join(_expression(part, "/") + "/" for part in block) for block in blocks]
    if not rest:
        return re.compile("/" + first, re.IGNORECASE | re.DOTALL)
    *middle, last = rest
    if not first and not last and not any(middle):
        return None
    folders = "(?:[^/]*/)*"
    atoms = "".join(f"(?>{folders}?{block})" for block in middle if block)
    return re.compile(f"/{first}{atoms}{folders}{last}", re.IGNORECASE | re.DOTALL)


#: More of them than this, and SQLite may try for long where they fit.
_MAX_STARS = 3
#: What GLOB understands as patterns here do, in lower case.
_SAME_CLASS = re.compile(r"!?(?:[a-z]-[a-z]|[A-Z]-[A-Z]|[0-9]-[0-9]|[a-zA-Z0-9])+")


def _like(name: str) -> tuple[str, str | None]:
    """`like` and `exactly` of a PathPattern."""
    pieces = _pieces(name)
    if sum(part.kind == "star" for part in pieces) > _MAX_STARS:
        runs = "".join(p.text if p.kind == "literal" else "\0" for p in pieces).split("\0")
        longest = sorted(runs, key=len)[-1]
        return f"%{''.join(map(_loosely, longest))}%", None
    tokens = [_loosely(p.text) if p.kind == "literal" else "%" for p in pieces]
    # Several "%" in a row say no more than one, and take longer.
    loose = "".join(t for n, t in enumerate(tokens) if t != "%" or n == 0 or tokens[n - 1] != "%")
    same = (p.kind != "class" or _SAME_CLASS.fullmatch(p.text) for p in pieces)
    if not name.isascii() or not all(same):
        return loose, None
    return loose, "".join(map(_exactly, pieces)).lower()


def _loosely(char: str) -> str:
    if not char.isascii():
        return "%"  # there may be other ways to write it, of several characters
    return "_" if char.lower() in _NOT_ONLY_ASCII else f"\\{char}" if char in "%_\\" else char


def _exactly(part: _Part) -> str:
    if part.kind == "class":
        return f"[{part.text.replace('!', '^')}]"
    return literal(part.text) if part.kind == "literal" else part.text
