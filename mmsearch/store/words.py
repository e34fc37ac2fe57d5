"""Finding pictures and texts by the words that are written with them.

A query is cut into parts (mmsearch.store.word_parts). A part matches where its terms
(mmsearch.store.terms) stand one after the other: in a file name, a folder, a tag, camera or day of
a picture, or in a text linked to it; for texts, in the text. English function words ("the", "of"),
"a photo of" and the like play no part, nor does a part that more than nine in ten have, which tells
nothing apart.

What `find` returns has at least half of the parts that count, those that occur nowhere included: so
"germany at night" finds the folder germany, and "a circuit diagram on a beach" not every beach.
Best first: more of the parts, then the greater sum over them of Okapi BM25F, which is

    idf · t · (k1 + 1) / (k1 + t),   idf = ln(1 + (N − n + ½) / (n + ½)),

N pictures, n of them with the part, t = 3 if a name has it + 2 for tags, camera and day + 1 for
folders + 1.5 for every linked text (S. Robertson, H. Zaragoza, The Probabilistic Relevance
Framework, 2009, with b = 0: how long names and captions are says nothing of a picture).

A part that very many have (`MANY`) is not looked up everywhere: it counts for what is found by the
others (in their own words, and in texts that have one of those others), and alone finds nothing,
since the pictures that have it cannot be ranked by it. Several such are looked for together, in one
row of words. So no query takes long, however many match.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmsearch.store.word_parts import Part, parse

if TYPE_CHECKING:
    import sqlite3

    from mmsearch.store.reading import Reading
    from mmsearch.types import Modality

Ids = NDArray[np.int64]
Scores = NDArray[np.float64]

#: A part that more rows have is common; so are those that would make all parts have more. Where
#: pictures are looked for texts count twice, because their links have to be followed.
MANY = 10_000
#: How many common parts are looked at; the others play no part.
_COMMON_PARTS = 3
#: How many that are common are remembered, and how much of what has the others: in ids, 16 MB.
_MOST_KEPT = 4000
_MOST_IDS = 2_000_000
#: The least share of the parts that what is found has.
_LEAST_SHARE = 0.5
#: A part that a larger share has tells nothing apart.
_NEARLY_ALL = 0.9
#: Two neighbouring characters that occur nowhere may just be of two words.
_PAIR_NOWHERE = 0.5
_K1 = 1.2
_WEIGHTS = {"names": 3.0, "about": 2.0, "folders": 1.0}
_CAPTION_WEIGHT = 1.5


@dataclass(frozen=True, slots=True)
class Ranked:
    """Contents that match, best first.

    ids: (n,) int64. ranks: (n,) int64, from 1; those that match equally well have the same, that of
    the first of them: which of these is better, words cannot say. share: of the parts of the query
    that count, how many each of them has; 0 when there are none.
    """

    ids: Ids
    ranks: Ids
    share: float


_NONE = Ranked(np.empty(0, np.int64), np.empty(0, np.int64), 0.0)


@dataclass(frozen=True, slots=True)
class _Matched:
    """Where a part was found: contents, ascending; how strongly (t); whether in their own words."""

    ids: Ids
    strength: Scores
    own: NDArray[np.bool_]


@dataclass(slots=True)
class _Having:
    """What has a match in its own words, and, of pictures, the texts; both ascending.

    matched: what that comes to for a part, once it was worked out.
    """

    own: Ids
    texts: Ids
    matched: _Matched | None = None

    @property
    def size(self) -> int:
        """How much there is to look at."""
        return len(self.own) + 2 * len(self.texts)

    @property
    def held(self) -> int:
        """What it takes of memory, in ids: what was worked out takes two for each."""
        matched = 0 if self.matched is None else 2 * len(self.matched.ids)
        return len(self.own) + len(self.texts) + matched


class Words:
    """The words of one catalog. Thread-safe."""

    def __init__(self, read: Reading) -> None:
        self._read = read
        self._common = _Common(-1)

    def find(self, text: str, modality: Modality, limit: int, only: Ids | None = None) -> Ids:
        """Visible contents (n,) int64 that have the words, at most `limit`, best first.

        only: content ids, strictly ascending, that may be found. Ties are in order of id.

        Raises:
            StoreError: the catalog cannot be read. No text is an error.
        """
        found = self._totals(text, modality, only)
        enough = found.has >= _LEAST_SHARE * found.counted
        ids, has, score = found.ids[enough], found.has[enough], found.score[enough]
        return ids[np.lexsort((ids, -score, -has))[: max(0, limit)]]

    def named(
        self, text: str, limit: int, only: Ids | None = None, modality: Modality = "image"
    ) -> Ranked:
        """The pictures or texts that the words name, for mmsearch.fusion with what vectors find.

        Pictures: those with the most of the words in their own: the names, folders, tags, title,
        keywords, camera and day that somebody gave them. Captions of these pictures count for how
        they are ranked, but words that are in captions alone name nothing: what captions say is
        what vectors see, and better (tests/benchmarks/words.py). In quotation marks they do.

        Texts: those that have all of the words. Some of them name nothing, for the same reason.
        """
        found = self._totals(text, modality, only)
        most = found.own.max(initial=0)
        if not most or (modality == "text" and most < found.counted):
            return _NONE
        best = found.own == most
        ids, score = found.ids[best], found.score[best]
        order = np.lexsort((ids, -score))[: max(0, limit)]
        ids, score = ids[order], score[order]
        first = np.concatenate([[True], score[1:] != score[:-1]])[: len(ids)]
        ranks = np.maximum.accumulate(np.where(first, np.arange(1, len(ids) + 1), 0))
        return Ranked(ids, ranks.astype(np.int64), float(most / found.counted))

    def _totals(self, text: str, modality: Modality, only: Ids | None) -> _Totals:
        parts = parse(text)
        if not parts:
            return _totals([], 1.0, None)
        with self._read.driver_moment() as connection:
            revision = _scalar(connection, "SELECT revision FROM state") or 0
            common = self._common
            if common.revision != revision:
                # Another thread may be at an older moment: then each has its own for a while.
                common = self._common = _Common(revision)
            return _Search(connection, modality, common).totals(parts, only)


#: The table that is searched, and what FTS5 looks for there.
_Looked = tuple[str, str]
#: What one that nobody has takes of memory besides its text, in ids.
_OVERHEAD = 50


class _Common:
    """What is known of the words at one revision of the catalog. Grows; thread-safe.

    People look for the same words again and again, and just those have many captions: to find out
    that very many have a part takes reading all of those that are counted, ten thousand rows, and
    to follow the links of a thousand texts takes milliseconds.
    """

    def __init__(self, revision: int) -> None:
        self.revision = revision
        #: How many rows each table has, as far as that makes a difference.
        self.known: dict[str, int] = {}
        self._parts: set[_Looked] = set()
        self._having: OrderedDict[_Looked, tuple[_Having, int]] = OrderedDict()
        self._held = 0  # the second numbers of these, added up
        self._lock = threading.Lock()

    def __contains__(self, part: _Looked) -> bool:
        """Whether very many are known to have it."""
        return part in self._parts

    def add(self, part: _Looked) -> None:
        """Notes that very many have this."""
        if len(self._parts) < _MOST_KEPT:
            self._parts.add(part)

    def get(self, part: _Looked) -> _Having | None:
        """What has it, if that is kept."""
        with self._lock:
            if part not in self._having:
                return None
            self._having.move_to_end(part)
            return self._having[part][0]

    def keep(self, part: _Looked, having: _Having) -> None:
        """Keeps what has it, as it is now, in place of what was asked for longest ago."""
        held = _OVERHEAD + len(part[1]) // 2 + having.held
        with self._lock:
            _, before = self._having.pop(part, (None, 0))
            self._having[part] = having, held
            self._held += held - before
            while self._held > _MOST_IDS:
                _, (_, oldest) = self._having.popitem(last=False)
                self._held -= oldest


@dataclass(frozen=True, slots=True)
class _Totals:
    """What has any of the parts, ascending: of how many (in its own words), and its score.

    counted: how many parts there are. All arrays (n,).
    """

    ids: Ids
    has: Scores
    own: Scores
    score: Scores
    counted: float


class _Search:
    """One search, within one read transaction."""

    def __init__(self, connection: sqlite3.Connection, modality: Modality, common: _Common) -> None:
        self._connection = connection
        self._common = common
        self._images = modality == "image"
        self._own = "image_words" if self._images else "text_words"

    def _ids(self, query: str, *values: object) -> Ids:
        """A column of integers. As one string: rows of Python objects take far longer."""
        found = _scalar(self._connection, f"SELECT group_concat(id) FROM ({query})", *values)
        return np.fromstring(found or "", np.int64, sep=",")

    def _rows(self, table: str, match: str, limit: int) -> Ids:
        """Contents in a table that match, ascending."""
        return self._ids(
            f"SELECT rowid AS id FROM {table} WHERE {table} MATCH ? ORDER BY rowid LIMIT ?",
            match,
            limit,
        )

    def _known(self) -> int:
        """How many rows there are, as far as that makes a difference: more are all the same."""
        known = self._common.known.get(self._own)
        if known is None:
            query = f"SELECT count(*) FROM (SELECT 1 FROM {self._own}_content LIMIT ?)"
            known = int(_scalar(self._connection, query, 2 * MANY))
            self._common.known[self._own] = known
        return known

    def _having(self, match: str) -> _Having | None:
        """What has a match; None for very many."""
        looked = (self._own, match)
        if looked in self._common:
            return None
        known = self._common.get(looked)
        if known is not None:
            return known
        own = self._rows(self._own, match, MANY + 1)
        texts = np.empty(0, np.int64)
        if self._images and len(own) <= MANY:
            texts = self._rows("text_words", match, MANY // 2 + 1)
        having = _Having(own, texts)
        if having.size > MANY:
            self._common.add(looked)
            return None
        self._common.keep(looked, having)
        return having

    def _of_texts(self, texts: Ids, *, as_own: bool) -> _Matched:
        """The pictures that these texts are linked to: the stronger, the more of them are.

        as_own: all are their own words, and not only titles and keywords that they carry.
        """
        if not len(texts):
            return _Matched(texts, np.empty(0), np.empty(0, np.bool_))
        found = self._ids(
            "SELECT 2 * i.content_id "
            "+ max(t.origin = 'embedded' AND t.key IN ('title', 'keywords')) AS id "
            "FROM json_each(?) AS w CROSS JOIN text t ON t.content_id = w.value "
            "CROSS JOIN image i ON i.id = t.image_id "
            "WHERE t.missing_since IS NULL AND i.missing_since IS NULL "
            "GROUP BY t.content_id, i.content_id",
            f"[{','.join(map(str, texts.tolist()))}]",
        )
        own = (found % 2 == 1) | as_own
        return _Matched(found // 2, np.full(len(found), _CAPTION_WEIGHT), own)

    def totals(self, parts: Sequence[Part], only: Ids | None) -> _Totals:
        known = self._known()
        rare, common = self._split(parts)
        counted = 0.0
        scored: list[tuple[_Matched, float]] = []
        found: list[str] = []
        for part, having in rare:
            matched = self._matched(part, having)
            n = len(matched.ids)
            if n > _NEARLY_ALL * known:
                continue
            counted += _PAIR_NOWHERE if part.pair and not n else 1
            if n:
                scored.append((matched, _idf(known, n)))
                found.append(part.match())
        counted += len(common)
        if not common:
            return _totals(scored, counted, only)
        if found:
            among = self._among(found, common, _every([m for m, _ in scored]))
        else:
            among = [_sum([])] * len(common)
        together = _sum([])
        if len(common) > 1 and not any(m.own.any() for m, _ in scored):
            together = self._together(common)
        scored += [(_either(a, together), _idf(known, MANY)) for a in among]
        return _totals(scored, counted, only)

    def _split(self, parts: Sequence[Part]) -> tuple[list[tuple[Part, _Having]], list[Part]]:
        """Parts with what has them, the rarest first; common parts."""
        probed: list[tuple[Part, _Having]] = []
        common: list[Part] = []
        for part in parts:
            having = self._having(part.match())
            if having is None:
                common.append(part)
            else:
                probed.append((part, having))
        probed.sort(key=lambda row: row[1].size)
        total = 0
        rare: list[tuple[Part, _Having]] = []
        for part, having in probed:
            total += having.size
            if total > MANY:
                common.append(part)
            else:
                rare.append((part, having))
        return rare, common[:_COMMON_PARTS]

    def _matched(self, part: Part, having: _Having) -> _Matched:
        if not self._images:
            return _own(having.own, _CAPTION_WEIGHT)
        if part.quoted:
            return self._of_pictures(part, having)
        if having.matched is None:
            having.matched = self._of_pictures(part, having)
            self._common.keep((self._own, part.match()), having)
        return having.matched

    def _of_pictures(self, part: Part, having: _Having) -> _Matched:
        found = [self._of_texts(having.texts, as_own=part.quoted)]
        if len(having.own):
            for column, weight in _WEIGHTS.items():
                match = f"{column} : ({part.match()})"
                found.append(_own(self._rows("image_words", match, MANY + 1), weight))
        return _sum(found)

    def _among(self, rare: Sequence[str], common: Sequence[Part], found: Ids) -> list[_Matched]:
        """For each common part what has it, among what was found by the rare ones.

        In texts, that is those texts that have a rare one too; of pictures all own words are read.
        """
        own_words = self._own_words(found) if self._images else []
        matched = []
        for part in common:
            match = f"({' OR '.join(rare)}) AND ({part.match()})"
            texts = self._rows("text_words", match, MANY // 2 if self._images else MANY)
            if not self._images:
                matched.append(_own(texts, _CAPTION_WEIGHT))
                continue
            by_weight: dict[float, list[int]] = {weight: [] for weight in _WEIGHTS.values()}
            phrases = [f" {' '.join(way)} " for way in part.ways]
            for id_, *columns in own_words:
                for weight, words in zip(by_weight, columns, strict=True):
                    if any(phrase in f" {words} " for phrase in phrases):
                        by_weight[weight].append(id_)
            columns_of = [
                _own(np.array(ids, np.int64), weight) for weight, ids in by_weight.items()
            ]
            matched.append(_sum([*columns_of, self._of_texts(texts, as_own=part.quoted)]))
        return matched

    def _own_words(self, ids: Ids) -> Sequence[Any]:
        """(id, the words of each column of _WEIGHTS) of pictures."""
        return self._connection.execute(
            f"SELECT rowid, {', '.join(_WEIGHTS)} FROM image_words "
            "WHERE rowid IN (SELECT value FROM json_each(?))",
            (f"[{','.join(map(str, ids.tolist()))}]",),
        ).fetchall()

    def _together(self, parts: Sequence[Part]) -> _Matched:
        """What has all of several common parts in one row of words; nothing if that is common."""
        match = " AND ".join(f"({part.match()})" for part in parts)
        having = self._having(match)
        if having is None:
            return _sum([])
        if having.matched is None:
            of_texts = self._of_texts(having.texts, as_own=False)
            having.matched = _sum([_own(having.own, 1.0), of_texts])
            self._common.keep((self._own, match), having)
        return having.matched


def _scalar(connection: sqlite3.Connection, query: str, *values: object) -> Any:
    row = connection.execute(query, values).fetchone()
    return None if row is None else row[0]


def _idf(known: int, n: int) -> float:
    known = max(known, n)
    return math.log(1 + (known - n + 0.5) / (n + 0.5))


def _own(ids: Ids, strength: float) -> _Matched:
    return _Matched(ids, np.full(len(ids), strength), np.ones(len(ids), np.bool_))


def _every(found: Sequence[_Matched]) -> Ids:
    ids = np.sort(np.concatenate([np.empty(0, np.int64), *(m.ids for m in found)]))
    # What np.unique does, without loading numpy.ma for it, the 0.03 s of a search in the terminal.
    first = np.ones(len(ids), np.bool_)
    first[1:] = ids[1:] != ids[:-1]
    return ids[first]


def _either(a: _Matched, b: _Matched) -> _Matched:
    """What is in any of the two, as it is in the first, or else in the second."""
    if not len(b.ids):
        return a
    new = ~np.isin(b.ids, a.ids)
    return _sum([a, _Matched(b.ids[new], b.strength[new], b.own[new])])


def _sum(found: Sequence[_Matched]) -> _Matched:
    """Each content once, its strengths added."""
    found = [m for m in found if len(m.ids)]
    if not found:
        return _own(np.empty(0, np.int64), 0.0)
    if len(found) == 1 and (found[0].ids[1:] > found[0].ids[:-1]).all():
        return found[0]
    ids, at = np.unique(np.concatenate([m.ids for m in found]), return_inverse=True)
    strength = np.bincount(at, np.concatenate([m.strength for m in found]), minlength=len(ids))
    own = np.bincount(at, np.concatenate([m.own for m in found]), minlength=len(ids)) > 0
    return _Matched(ids, strength.astype(np.float64), own)


def _totals(scored: Sequence[tuple[_Matched, float]], counted: float, only: Ids | None) -> _Totals:
    ids = _every([matched for matched, _ in scored])
    if only is not None:
        ids = np.intersect1d(ids, only, assume_unique=True)
    has, own, score = (np.zeros(len(ids)) for _ in range(3))
    for matched, idf in scored:
        if not len(matched.ids):
            continue
        at = np.minimum(np.searchsorted(matched.ids, ids), len(matched.ids) - 1)
        there = matched.ids[at] == ids
        t = matched.strength[at[there]]
        has[there] += 1
        own[there] += matched.own[at[there]]
        score[there] += idf * t * (_K1 + 1) / (_K1 + t)
    return _Totals(ids, has, own, score, counted)
