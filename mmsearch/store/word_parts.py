"""What a query in words is cut into: words, phrases in quotation marks, pairs of characters.

Nothing in a query is syntax of the database. English function words ("the", "of"), "a photo of" and
the like play no part, unless there is nothing else.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmsearch.store.terms import UNSPACED, terms, ways

#: Parts of a query that are looked at, and characters of it.
MAX_PARTS = 16
MAX_QUERY = 2000
_QUOTED = re.compile('["“”„«»]([^"“”„«»]*)["“”„«»]')
_BETWEEN_WORDS = re.compile(r"[\s,;:/\\|()\[\]{}<>!?+&=~*^#@\"“”„«»。，、！？：；（）《》…]+")
_RUN = re.compile(f"[{UNSPACED}]+|[^{UNSPACED}]+")
_UNSPACED = re.compile(f"[{UNSPACED}]")
#: What people write because they look for pictures, and files are called all the same.
_ASKED_FOR = re.compile(
    r"\b(?:photo(?:graph)?|picture|image|pic|snapshot|shot|view)s? (?:of|showing|with)\b", re.I
)
#: Words that sentences need and pictures are not of.
_FUNCTION_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "for", "from", "had", "has",
    "have", "he", "her", "his", "i", "in", "into", "is", "it", "its", "me", "my", "of", "on", "or",
    "our", "she", "so", "some", "than", "that", "the", "their", "them", "there", "these", "they",
    "this", "those", "to", "was", "we", "were", "which", "with", "you", "your", "s", "t",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """What is looked for as one. ways: it is there when the terms of one of them follow each other.

    pair: two neighbouring characters of a script without spaces, which need not be of one word.
    quoted: it stood in quotation marks.
    """

    ways: tuple[tuple[str, ...], ...]
    pair: bool = False
    quoted: bool = False

    def match(self) -> str:
        """The part as FTS5 takes it. Terms are letters, marks and digits, so nothing can end it."""
        return " OR ".join(f'"{" ".join(way)}"' for way in self.ways)


def parse(query: str) -> list[Part]:
    """The parts of a query, each once, at most MAX_PARTS; none when it holds no words."""
    query = query[:MAX_QUERY]
    found = dict.fromkeys(_parts(query))
    counting = [part for part in found if not _is_function_word(part)]
    return (counting or list(found))[:MAX_PARTS]


def _is_function_word(part: Part) -> bool:
    return (
        not part.quoted
        and len(part.ways) == 1
        and len(part.ways[0]) == 1
        and part.ways[0][0] in _FUNCTION_WORDS
    )


def _parts(query: str) -> Iterator[Part]:
    for n, piece in enumerate(_QUOTED.split(query)):
        if n % 2:
            phrase = tuple(terms(piece))
            if phrase:
                yield Part((phrase,), quoted=True)
            continue
        for word in _BETWEEN_WORDS.split(_ASKED_FOR.sub(" ", piece)):
            for run in _RUN.findall(word):
                if _UNSPACED.match(run):
                    yield from _pairs(terms(run))
                elif ways_ := ways(run):
                    yield Part(tuple(tuple(way) for way in ways_))


def _pairs(characters: Sequence[str]) -> Iterator[Part]:
    """Where words begin and end is not written: every two neighbours may be one."""
    if len(characters) <= 2:
        if characters:
            yield Part((tuple(characters),))
        return
    for pair in itertools.pairwise(characters):
        yield Part((pair,), pair=True)
