"""Tags: what people, or `mmsearch classify`, call a picture or a text.

Where a tag comes from is told by its score: people give none, a model the probability it found.
What a model says never replaces what a person said. Names that a filter does not tell apart (they
differ by case) are one tag, spelled as it was first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from mmsearch.batches import batches
from mmsearch.errors import RefusedError
from mmsearch.filters.globs import folded
from mmsearch.store.reading import IDS_A_QUERY, Reading
from mmsearch.store.schema import content, passage, picture, tag
from mmsearch.store.transaction import VALUES_A_QUERY, commit, execute_many, writing

#: A name and its score; None where a person gave it.
Tag = tuple[str, float | None]

MAX_NAME = 200  # characters


@dataclass(frozen=True, slots=True)
class TagCount:
    """How many visible pictures and texts carry a tag; `by_hand` of them were tagged by people."""

    name: str
    pictures: int
    texts: int
    by_hand: int


def checked_name(name: str) -> str:
    """The name as it is stored: blanks run together. Raises RefusedError for what is no name."""
    name = " ".join(name.split())
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise RefusedError(
            f"{name[:50]!r} cannot be a tag: write a word or a few, of at most {MAX_NAME} "
            "characters, in one line"
        )
    return name


class Tags:
    """The tags of a catalog, on the writer's connection."""

    def __init__(self, path: Path, connection: sa.Connection) -> None:
        self._path = path
        self._connection = connection

    def classified(
        self, found: Mapping[int, Sequence[tuple[str, float]]], names: Sequence[str]
    ) -> int:
        """Notes what a model says of contents (id → names and probabilities); returns how many
        tags were written.

        names: all that it could have said. Those that it said of these contents earlier, and does
            not say now, go. Tags that people gave stay as they are. Contents that were forgotten
            meanwhile are passed over. One transaction for some thousands of contents.

        Raises:
            RefusedError: a name cannot be a tag.
        """
        names = [checked_name(name) for name in names]
        said = {
            given: checked_name(given)
            for given in dict.fromkeys(name for tags in found.values() for name, _ in tags)
        }
        written = 0
        for ids in batches(found, VALUES_A_QUERY):
            with writing(self._connection, self._path):
                there = self._known(ids)
                spelled = _Spellings.read(self._connection)
                for some in batches(spelled.every(names), VALUES_A_QUERY):
                    self._connection.execute(
                        sa.delete(tag).where(
                            tag.c.content_id.in_(ids),
                            tag.c.name.in_(some),
                            tag.c.score.is_not(None),
                        )
                    )
                by_hand = self._by_hand(ids)
                rows = [
                    {"content_id": id_, "name": spelled.one(said[name]), "score": float(score)}
                    for id_ in ids
                    if id_ in there
                    for name, score in found[id_]
                    if (id_, folded(said[name])) not in by_hand
                ]
                execute_many(self._connection, insert(tag).on_conflict_do_nothing(), rows)
                commit(self._connection, "tags")
            written += len(rows)
        return written

    def add(self, ids: Sequence[int], name: str) -> int:
        """A person calls these contents `name`; returns how many of them there are.

        Raises:
            RefusedError: the name cannot be a tag.
        """
        name = checked_name(name)
        statement = insert(tag)
        statement = statement.on_conflict_do_update(
            index_elements=["content_id", "name"], set_={"score": None}
        )
        count = 0
        with writing(self._connection, self._path):
            spelled = _Spellings.read(self._connection)
            for part in batches(ids, VALUES_A_QUERY):
                same = tag.c.content_id.in_(part) & tag.c.name.in_(spelled.every([name]))
                tagged = set(
                    self._connection.execute(sa.select(tag.c.content_id).where(same)).scalars()
                )
                self._connection.execute(sa.update(tag).where(same).values(score=None))
                there = self._known(part)
                rows = [
                    {"content_id": id_, "name": spelled.one(name), "score": None}
                    for id_ in sorted(there - tagged)
                ]
                execute_many(self._connection, statement, rows)
                count += len(there)
            commit(self._connection, "tags")
        return count

    def remove(
        self, name: str | None, ids: Sequence[int] | None = None, *, by_model: bool = False
    ) -> int:
        """Takes a tag (None: every tag) off these contents (None: off all); how many tags went.

        by_model: only those that a model gave.
        """
        parts = [sa.true()] if ids is None else [
            tag.c.content_id.in_(part) for part in batches(ids, VALUES_A_QUERY)
        ]  # fmt: skip
        gone = 0
        with writing(self._connection, self._path):
            which: sa.ColumnElement[bool] = sa.true()
            if name is not None:
                spelled = _Spellings.read(self._connection)
                which &= tag.c.name.in_(spelled.every([" ".join(name.split())]))
            if by_model:
                which &= tag.c.score.is_not(None)
            for part in parts:
                gone += self._connection.execute(sa.delete(tag).where(which, part)).rowcount
            if gone:
                commit(self._connection, "tags removed")
            else:
                self._connection.commit()
        return gone

    def _by_hand(self, ids: Sequence[int]) -> set[tuple[int, str]]:
        """What people call these contents: (content, name folded)."""
        rows = self._connection.execute(
            sa.select(tag.c.content_id, tag.c.name).where(
                tag.c.content_id.in_(ids), tag.c.score.is_(None)
            )
        )
        return {(id_, folded(name)) for id_, name in rows}

    def _known(self, ids: Sequence[int]) -> set[int]:
        """Those of these contents that are pictures or texts still: not what was forgotten."""
        return {
            int(id_)
            for table in (picture, passage)
            for id_ in self._connection.execute(
                sa.select(table.c.content_id).where(table.c.content_id.in_(ids))
            ).scalars()
        }


class _Spellings:
    """How the tags of a catalog are spelled. Older ones may be in several ways."""

    def __init__(self, names: Iterable[str]) -> None:
        self._known: dict[str, list[str]] = defaultdict(list)
        for name in names:
            self._known[folded(name)].append(name)

    @classmethod
    def read(cls, connection: sa.Connection) -> _Spellings:
        # From each name to the next by the index: DISTINCT would read every tag of every content.
        first = sa.select(sa.func.min(tag.c.name).label("name")).cte("names", recursive=True)
        after = sa.select(sa.func.min(tag.c.name)).where(tag.c.name > first.c.name)
        names = first.union_all(sa.select(after.scalar_subquery()).where(first.c.name.is_not(None)))
        found = sa.select(names.c.name).where(names.c.name.is_not(None))
        return cls(connection.execute(found).scalars())

    def every(self, names: Iterable[str]) -> list[str]:
        """All spellings of these names that are there."""
        keys = dict.fromkeys(map(folded, names))
        return [name for key in keys for name in self._known.get(key, ())]

    def one(self, name: str) -> str:
        """The spelling to write: the one that is there, `name` itself where there is none."""
        known = self._known.get(folded(name), [name])
        return name if name in known else known[0]


def tags_of(reading: Reading, ids: Sequence[int]) -> dict[int, tuple[Tag, ...]]:
    """The tags of those of these contents that have any: what people said first, then by score."""
    found: dict[int, list[Tag]] = defaultdict(list)
    for part in batches(ids, IDS_A_QUERY):
        rows = reading.rows(
            sa.select(tag)
            .where(tag.c.content_id.in_(part))
            .order_by(tag.c.content_id, tag.c.score.desc().nulls_first(), tag.c.name)
        )
        for row in rows:
            found[row.content_id].append((row.name, row.score))
    return {id_: tuple(tags) for id_, tags in found.items()}


def tag_counts(reading: Reading) -> list[TagCount]:
    """Every tag of visible contents, the most frequent first.

    One in several spellings goes by the first of them, and counts each content once.
    """
    count = sa.func.count()
    pictures = count.filter(content.c.modality == "image")
    rows = reading.rows(
        sa.select(
            tag.c.name,
            pictures.label("pictures"),
            count.label("all"),
            count.filter(tag.c.score.is_(None)).label("by_hand"),
        )
        .join(content, content.c.id == tag.c.content_id)
        .where(~content.c.hidden)
        .group_by(tag.c.name)
        .order_by(tag.c.name)
    )
    same: dict[str, list[TagCount]] = defaultdict(list)
    for row in rows:
        told = TagCount(row.name, row.pictures, row.all - row.pictures, row.by_hand)
        same[folded(row.name)].append(told)
    counts = [
        found[0] if len(found) == 1 else _together(reading, [told.name for told in found])
        for found in same.values()
    ]
    return sorted(counts, key=lambda told: (-told.pictures - told.texts, told.name))


def _together(reading: Reading, spellings: Sequence[str]) -> TagCount:
    """The count of one tag: what carries several spellings of it counts once."""
    each = (
        sa.select(content.c.modality, sa.func.max(tag.c.score.is_(None)).label("by_hand"))
        .join(tag, content.c.id == tag.c.content_id)
        .where(tag.c.name.in_(spellings), ~content.c.hidden)
        .group_by(content.c.id)
        .subquery()
    )
    count = sa.func.count()
    (row,) = reading.rows(
        sa.select(
            count.filter(each.c.modality == "image").label("pictures"),
            count.label("all"),
            sa.func.coalesce(sa.func.sum(each.c.by_hand), 0).label("by_hand"),
        ).select_from(each)
    )
    return TagCount(spellings[0], row.pictures, row.all - row.pictures, row.by_hand)
