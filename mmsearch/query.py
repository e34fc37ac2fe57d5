"""A question: weighted parts, what may be found, and how much of it. Needs nothing heavy."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.errors import QueryError

if TYPE_CHECKING:
    from mmsearch.filters import Filter
    from mmsearch.types import Modality, Pixels

#: How many parts a question has at most, and how heavy one may be.
MAX_TERMS = 100
MAX_WEIGHT = 100.0
#: The relevance below which people are not shown an answer; see mmsearch.relevance.
DEFAULT_THRESHOLD = 0.5

# "0.5:sunset". Not "3:10 to Yuma": after the colon comes no digit.
_WEIGHTED = re.compile(r"(?P<weight>\d+(?:\.\d+)?|\.\d+):(?=[^\s\d])")
# A backslash makes what would be a sign or a weight plain words: "Paris \- Eiffel Tower".
_PLAIN_SIGN = re.compile(r"(^|\s)\\(\\*[+-])(?=\s|$)")
_PLAIN_WEIGHT = re.compile(rf"^\\(?=\\*{_WEIGHTED.pattern})")


def whole(number: Any, what: str) -> int:
    """A whole number of any kind, numpy's too, as an int: SQLite takes no others.

    Raises QueryError: it is none; `what` says of what.
    """
    try:
        return int(operator.index(number))
    except TypeError as exc:
        raise QueryError(f"{what} is a whole number, not {number!r}") from exc


def picture_id(image_id: Any) -> int:
    """The id of a picture as an int. Raises QueryError: it can be none."""
    return whole(image_id, "the id of a picture")


def several(items: Any, what: str) -> list[Any]:
    """The items of a sequence. Raises QueryError: it is one item, whose letters would be many."""
    if isinstance(items, str | bytes | Path):
        raise QueryError(f"{what} come as a list, also where there is but one")
    return list(items)


@dataclass(frozen=True, slots=True)
class QueryPicture:
    """A picture asked about, as far as it is prepared: `pixels` as Library.decode_picture left
    them, None while it is not decoded, or needs not be because the library knows its bytes."""

    data: bytes
    source: str
    #: The SHA-256 of the data.
    digest: bytes
    content_id: int | None
    pixels: Pixels | None = None


#: A picture given by its path or by its encoded bytes (JPEG, PNG, ...), or prepared already.
ImageInput = str | Path | bytes | QueryPicture


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a question: words, or a picture, or a picture of the library by its id, or a
    vector of the library's space.

    weight: what its vector is multiplied by before all are added up; below 0 it is to be avoided.
    """

    text: str | None = None
    image: ImageInput | None = None
    image_id: int | None = None
    weight: float = 1.0
    vector: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        given = [self.text, self.image, self.image_id, self.vector]
        if sum(part is not None for part in given) != 1:
            raise QueryError("a part of a query is either words, or a picture, or the id of one")
        if self.image_id is not None:
            object.__setattr__(self, "image_id", picture_id(self.image_id))
        if self.text is not None and not self.text.strip():
            raise QueryError("a part of the query has no words")
        if not math.isfinite(self.weight) or not 0 < abs(self.weight) <= MAX_WEIGHT:
            raise QueryError(
                f"a weight is a number between -{MAX_WEIGHT:g} and {MAX_WEIGHT:g}, and not 0: "
                f"{self.weight:g}"
            )

    @property
    def modality(self) -> Modality | None:
        """What it is; None for a vector, which does not tell."""
        if self.text is not None:
            return "text"
        return None if self.vector is not None else "image"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a library.

    terms: their weighted vectors are added up, and the sum is what answers are compared with.
    where: what an answer must satisfy; decided before anything is compared, so k come back whenever
        there are k. k, offset: which of the ranked answers to give.
    min_score: the cosine similarity that an answer has at least.
    min_relevance: the relevance (0 to 1) that it has at least; 0 keeps all.
    words: whether names of files, captions and keywords count too (see mmsearch.fusion).
    expand: whether short words are put into sentences (see mmsearch.prompts).
    exact: compare with every vector, also where there is an approximate index.
    diversity: 0 ranks by similarity alone, towards 1 answers differ more (see mmsearch.diversity).
    group: whether near-duplicates come as one answer.
    """

    terms: tuple[Term, ...]
    where: Filter | None = None
    k: int = 10
    offset: int = 0
    min_score: float | None = None
    min_relevance: float = 0.0
    words: bool = True
    expand: bool = False
    exact: bool = False
    diversity: float = 0.0
    group: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", whole(self.k, "k"))
        object.__setattr__(self, "offset", whole(self.offset, "offset"))
        if self.k < 1:
            raise QueryError(f"k must be at least 1, not {self.k}")
        if self.offset < 0:
            raise QueryError(f"offset must not be negative, not {self.offset}")
        if not 0 <= self.min_relevance <= 1:
            raise QueryError(f"a relevance is between 0 and 1, not {self.min_relevance:g}")
        if self.min_score is not None and not -1 <= self.min_score <= 1:
            raise QueryError(f"a least score is a number between -1 and 1, not {self.min_score:g}")
        if not 0 <= self.diversity < 1:
            raise QueryError(f"diversity is at least 0 and below 1, not {self.diversity:g}")
        if not self.terms:
            raise QueryError("say what to look for: some words, a picture, or both")
        if len(self.terms) > MAX_TERMS:
            raise QueryError(f"a query has at most {MAX_TERMS} parts, not {len(self.terms)}")
        if all(term.weight < 0 for term in self.terms):
            raise QueryError("say also what to look for, not only what to avoid")

    @property
    def texts(self) -> list[str]:
        """The words that are looked for, without those to be avoided."""
        return [term.text.strip() for term in self.terms if term.text and term.weight > 0]

    @property
    def image_ids(self) -> frozenset[int]:
        """The pictures of the library that it names: they are no answers to it."""
        return frozenset(term.image_id for term in self.terms if term.image_id is not None)


@dataclass(slots=True)
class _Part:
    sign: int
    words: list[str] = field(default_factory=list)


def least_relevance(terms: Sequence[Term]) -> float:
    """The relevance below which people are not shown an answer to these parts, unless they say so.

    Who asks for what is like a picture wants to see what comes nearest, also where words say what
    to avoid. The page's own copy of this rule is in serve/page/question.js.
    """
    wanted = any(term.text and term.weight > 0 for term in terms)
    return DEFAULT_THRESHOLD if wanted else 0.0


def parse_terms(words: Sequence[str]) -> list[Term]:
    """The parts of a question typed as separate words: `beach + 0.5:sunset - people`.

    A lone "+" or "-" begins the next part, "0.5:" before it is its weight; after a backslash both
    are plain words. What has no words at all has no parts.

    Raises:
        QueryError: a sign has no words after it.
    """
    parts = [_Part(1)]
    for word in words:
        if word in ("+", "-"):
            parts.append(_Part(1 if word == "+" else -1))
        else:
            parts[-1].words.append(word)
    if not any(word.strip() for word in parts[0].words):
        del parts[0]
    return [_term(part) for part in parts]


def parse_query(text: str) -> list[Term]:
    """The same for one line, in which the signs stand between spaces.

    Raises:
        QueryError: also where there are no words at all.
    """
    if not text.strip():
        raise QueryError("there are no words to search for")
    return parse_terms(text.split()) if re.search(r"(?:^|\s)[+-]\s", text) else [_term_of(text, 1)]


def _term(part: _Part) -> Term:
    return _term_of(" ".join(part.words), part.sign)


def _term_of(text: str, sign: int) -> Term:
    text = text.strip()
    weight, words = split_weight(text)
    if words == text:
        words = _PLAIN_WEIGHT.sub("", words)
    text = _PLAIN_SIGN.sub(r"\1\2", words)
    if not text:
        raise QueryError(f"there are no words after {'+' if sign > 0 else '-'!r}")
    return Term(text=text, weight=sign * weight)


def split_weight(text: str) -> tuple[float, str]:
    """The weight before the colon, 1 where there is none, and the rest: "0.5:sunset"."""
    found = _WEIGHTED.match(text)
    return (float(found["weight"]), text[found.end() :]) if found else (1.0, text)
