"""Ignore lists, as in .gitignore: their lines as regular expressions, and what they leave out."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

IGNORE_FILE = ".mmsearchignore"
_MAX_IGNORE_BYTES = 1 << 16
_MAX_PATTERN = 5000  # characters, more than a path can have; a longer one is passed over

# Spaces at the end do not count, but for one after a backslash.
_LINE = re.compile(r"(?: *(?:\\.|[^ ]))*", re.DOTALL)

# The first that fits is taken. A "]" right after the "[" is one of the set; a "[" that nothing
# closes is one of the name.
_TOKEN = re.compile(
    r"(?P<slash>\\?/)|(?P<stars>\*+)|(?P<one>\?)"
    r"|\[(?P<but>[!^]?)(?P<set>\]?(?:\\.|\[:[a-z]+:\]|[^\]\\])*+)\]"
    r"|\\(?P<escaped>.)|(?P<plain>.)",
    re.DOTALL,
)
_MEMBER = re.compile(
    r"\[:(?P<named>[a-z]+):\]|(?P<first>\\.|.)(?:-(?P<last>\\.|.))?",
    re.DOTALL,
)
_NAMED_SETS = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "blank": r" \t", "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": " -~", "space": r" \t-\r",
    "punct": r"!-/:-@\[-`{-~", "upper": "A-Z", "xdigit": "0-9A-Fa-f",
}  # fmt: skip

_WILD = re.compile(r"[\\*?\[]")
_ESCAPED = r"\\\g<0>"

_FOLDERS = "(?:[^/]*+/)*"


def without_end(line: str) -> str:
    """The line without the spaces at its end."""
    found = _LINE.match(line)
    return found.group() if found is not None else line


def placed(line: str, folder: str) -> str | None:
    """A line of the list of a folder as one of a list further up, where its path is `folder`.

    None for a line that leaves nothing out or in.
    """
    line = without_end(line)
    sign = "!" if line.startswith("!") else ""
    pattern = line.removeprefix(sign)
    if line.startswith("#") or not pattern.strip("/"):
        return None
    anchored = "/" in pattern.rstrip("/")
    depth = "" if anchored else "**/"
    return f"{sign}/{_WILD.sub(_ESCAPED, folder)}/{depth}{pattern.lstrip('/')}"


def expression(pattern: str) -> str:
    """What whole paths (or names, for a pattern without slashes) match; wants DOTALL.

    Built of atomic groups, as those of `fnmatch` are: the first place where a part fits is as good
    as any, so nothing is tried twice and no pattern takes long.
    """
    # What stands between "**" and the next: expressions of names, in folders of each other.
    runs: list[list[str]] = [[]]
    for name in _names(pattern):
        if name is None:
            runs.append([])
        else:
            runs[-1].append(name)
    first, *others = runs
    if not others:
        return "/".join(first)
    *between, last = others
    start = "".join(f"{name}/" for name in first)
    atoms = "".join(f"(?>{_FOLDERS}?{'/'.join(run)}/)" for run in between if run)
    return start + atoms + (_FOLDERS + "/".join(last) if last else ".+")


def _names(pattern: str) -> list[str | None]:
    """The expression of each name in a pattern of paths; None for a "**" in place of one."""
    names: list[str | None] = []
    # Parts of a name with stars between them.
    blocks = [""]
    only_stars = False
    for token in (*_TOKEN.finditer(pattern), None):
        if token is None or token["slash"]:
            names.append(None if only_stars else _name(blocks))
            blocks, only_stars = [""], False
        elif token["stars"]:
            only_stars = blocks == [""] and len(token["stars"]) > 1
            blocks.append("")
        else:
            only_stars = False
            blocks[-1] += _one(token)
    return names


def _name(blocks: list[str]) -> str:
    if len(blocks) == 1:
        return blocks[0]
    first, *middle, last = blocks
    return first + "".join(f"(?>[^/]*?{block})" for block in middle if block) + f"[^/]*{last}"


def _one(token: re.Match[str]) -> str:
    """The expression of what stands for one character."""
    if token["one"]:
        return "[^/]"
    if token["set"] is None:
        return re.escape(token["escaped"] or token["plain"])
    members = ""
    for member in _MEMBER.finditer(token["set"]):
        if member["named"]:
            members += _NAMED_SETS.get(member["named"], "")
            continue
        first = member["first"][-1]
        last = (member["last"] or first)[-1]
        # A range that runs backwards is its first character alone.
        if first >= last:
            members += re.escape(first)
        else:
            members += f"{re.escape(first)}-{re.escape(last)}"
    if token["but"]:
        return f"[^/{members}]"
    return f"(?!/)[{members}]" if members else "(?!)"  # a named set that there is not


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of an ignore list, for paths that begin with `base`."""

    base: str
    pattern: re.Pattern[str]
    whole_path: bool
    folders_only: bool
    keep: bool

    def matches(self, path: str, name: str, folder: bool) -> bool:
        if self.folders_only and not folder:
            return False
        tested = path[len(self.base) :] if self.whole_path else name
        return self.pattern.fullmatch(tested) is not None


def rules_of(patterns: Sequence[str], base: str) -> tuple[Rule, ...]:
    """The rules of these lines, for paths that begin with `base`."""
    rules = []
    for line in patterns:
        pattern = without_end(line)
        if pattern.startswith("#") or len(pattern) > _MAX_PATTERN:
            continue
        keep = pattern.startswith("!")
        pattern = pattern[1:] if keep else pattern
        folders_only = pattern.endswith("/")
        pattern = pattern.rstrip("/")
        if pattern.startswith("**/") and "/" not in pattern[3:]:
            pattern = pattern[3:]  # the same, and quicker
        whole_path = "/" in pattern
        pattern = pattern.lstrip("/")
        if pattern:
            compiled = re.compile(expression(pattern), re.IGNORECASE | re.DOTALL)
            rules.append(Rule(base, compiled, whole_path, folders_only, keep))
    return tuple(rules)


def of_file(path: str, prefix: str) -> tuple[Rule, ...]:
    """Those of a file; none where there is no such file, or it cannot be read."""
    try:
        if not os.path.isfile(path):  # noqa: PTH113 -- a pipe would block
            return ()
        with open(path, "rb") as file:  # noqa: PTH123
            text = file.read(_MAX_IGNORE_BYTES).decode("utf-8-sig", "surrogateescape")
    except OSError:
        return ()
    return rules_of(text.replace("\r\n", "\n").split("\n"), prefix)


def excluded(rules: tuple[Rule, ...], path: str, name: str, folder: bool) -> bool:
    """Whether rules leave out a file or folder."""
    for rule in reversed(rules):  # the last one that matches decides
        if rule.matches(path, name, folder):
            return not rule.keep
    return False
