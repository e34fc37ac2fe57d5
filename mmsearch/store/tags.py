"""Tags: what people, or `mmsearch classify`, call a picture or a text.

Where a tag comes from is told by its score: people give none, a model the probability it found.
What a model says never replaces what a person said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from mmsearch.batches import batches
from mmsearch.errors import RefusedError
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
        written = 0
        for ids in batches(found, VALUES_A_QUERY):
            with writing(self._connection, self._path):
                there = self._known(ids)
                for some in batches(names, VALUES_A_QUERY):
                    self._connection.execute(
                        sa.delete(tag).where(
                            tag.c.content_id.in_(ids),
                            tag.c.name.in_(some),
                            tag.c.score.is_not(None),
                        )
                    )
                rows = [
                    {"content_id": id_, "name": checked_name(name), "score": float(score)}
                    for id_ in ids
                    if id_ in there
                    for name, score in found[id_]
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
        with writing(self._connection, self._path):
            there = {id_ for part in batches(ids, VALUES_A_QUERY) for id_ in self._known(part)}
            rows = [{"content_id": id_, "name": name, "score": None} for id_ in sorted(there)]
            execute_many(self._connection, statement, rows)
            commit(self._connection, "tags")
        return len(rows)

    def remove(
        self, name: str | None, ids: Sequence[int] | None = None, *, by_model: bool = False
    ) -> int:
        """Takes a tag (None: every tag) off these contents (None: off all); how many tags went.

        by_model: only those that a model gave.
        """
        which = sa.true() if name is None else tag.c.name == " ".join(name.split())
        if by_model:
            which &= tag.c.score.is_not(None)
        parts = [sa.true()] if ids is None else [
            tag.c.content_id.in_(part) for part in batches(ids, VALUES_A_QUERY)
        ]  # fmt: skip
        gone = 0
        with writing(self._connection, self._path):
            for part in parts:
                gone += self._connection.execute(sa.delete(tag).where(which, part)).rowcount
            if gone:
                commit(self._connection, "tags removed")
            else:
                self._connection.commit()
        return gone

    def _known(self, ids: Sequence[int]) -> set[int]:
        """Those of these contents that are pictures or texts still: not what was forgotten."""
        return {
            int(id_)
            for table in (picture, passage)
            for id_ in self._connection.execute(
                sa.select(table.c.content_id).where(table.c.content_id.in_(ids))
            ).scalars()
        }


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
    """Every tag of visible contents, the most frequent first."""
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
        .order_by(count.desc(), tag.c.name)
    )
    return [TagCount(row.name, row.pictures, row.all - row.pictures, row.by_hand) for row in rows]
