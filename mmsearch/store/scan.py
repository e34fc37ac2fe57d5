"""Comparing what is on disk with what the catalog knows, in SQL: whatever the size, little memory.

The scan of one source goes into a temporary table; what is new, what came back and what is gone
are joins with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from mmsearch.batches import batches
from mmsearch.store.alike import unlink_alike
from mmsearch.store.links import news, unlink_from_afar, unlink_guessed
from mmsearch.store.rows import Pending, Swept, now
from mmsearch.store.schema import (
    container,
    embedding,
    failure,
    image,
    scratch_tables,
    seen,
    takeout_part,
    text_,
)
from mmsearch.store.transaction import (
    commit,
    execute_many,
    hide,
    inside,
    name_of,
    show_held,
    writing,
)


class Scan:
    """The scan of one source at a time, on the writer's connection."""

    def __init__(self, path: Path, connection: sa.Connection) -> None:
        self._path = path
        self._connection = connection

    def begin(self) -> None:
        """Forgets what an earlier scan saw."""
        with writing(self._connection, self._path):
            for table in scratch_tables:
                self._connection.execute(sa.delete(table))
            self._connection.commit()

    def saw(self, files: Iterable[Pending]) -> None:
        """Notes files that the scan met; `path` is relative to the source."""
        statement = insert(seen).on_conflict_do_nothing()
        with writing(self._connection, self._path):
            for part in batches(files, 5000):
                execute_many(
                    self._connection,
                    statement,
                    [
                        {
                            "path": f.path,
                            "kind": f.kind,
                            "size": f.size,
                            "mtime_ns": f.mtime_ns,
                            "of": f.of,
                            "beside": f.beside,
                        }
                        for f in part
                    ],
                )
            self._connection.commit()

    def saw_unreadable(self, source_id: int, paths: Sequence[str]) -> None:
        """Places that are there but could not be read: nothing in them counts as gone."""
        columns = ["path", "kind", "size", "mtime_ns"]
        with writing(self._connection, self._path):
            for path in paths:
                for table in (image, text_, takeout_part):
                    there = (table.c.path == path) | inside(table.c.path, path)
                    known = sa.select(
                        table.c.path, sa.literal("unreadable"), sa.literal(-1), sa.literal(-1)
                    ).where(table.c.source_id == source_id, there)
                    self._connection.execute(
                        insert(seen)
                        .from_select(columns, known.distinct().where(sa.true()))
                        .on_conflict_do_nothing()
                    )
            self._connection.commit()

    def unreadable(self, source_id: int) -> dict[str, tuple[int, int]]:
        """The files that could not be read, for good: path → size and mtime in ns, as they were."""
        query = (
            sa.select(failure.c.path, failure.c.size, failure.c.mtime_ns)
            .where(failure.c.source_id == source_id, ~failure.c.transient)
            .where(failure.c.member == "", failure.c.key == "")
        )
        with writing(self._connection, self._path):
            return {
                row.path: (row.size, row.mtime_ns) for row in self._connection.execute(query).all()
            }

    def looks_unmounted(self, source_id: int) -> bool:
        """True when the scan saw nothing where the catalog has pictures or texts."""
        with writing(self._connection, self._path):
            anything = self._connection.execute(sa.select(seen.c.id).limit(1)).first()
        return anything is None and self.knows_files(source_id, "")

    def knows_files(self, source_id: int, under: str) -> bool:
        """Whether the catalog has pictures or texts of a folder that are not gone already."""
        with writing(self._connection, self._path):
            return any(
                self._connection.execute(
                    sa.select(table.c.id)
                    .where(table.c.source_id == source_id, table.c.missing_since.is_(None))
                    .where(inside(table.c.path, under))
                    .limit(1)
                ).first()
                for table in (image, text_)
            )

    def sweep(self, source_id: int, under: str = "") -> Swept:
        """Brings back the files that returned unchanged and hides those the scan did not see."""
        stamp = now()
        with writing(self._connection, self._path):
            run = self._connection.execute
            returned = self._bring_back_images(source_id)
            missing = self._miss_unseen(image, source_id, under, stamp)
            texts_back = self._bring_back_texts(source_id)
            texts_gone = self._miss_unseen(text_, source_id, under, stamp)
            self._bring_back_parts(source_id)
            self._miss_unseen(takeout_part, source_id, under, stamp)
            other_picture = self._follow_sidecars(source_id)
            self._forget_failures(source_id, under)
            if returned or texts_back:
                show_held(self._connection)
            if missing:
                # What was written for them is looked up anew: they may only have moved.
                gone_now = sa.select(image.c.id).where(image.c.missing_since == stamp)
                run(
                    sa.update(text_)
                    .where(text_.c.image_id.in_(gone_now), text_.c.origin != "embedded")
                    .values(image_id=None)
                )
            if missing or texts_gone:
                for table in (image, text_):
                    gone = sa.select(table.c.content_id).where(table.c.missing_since == stamp)
                    hide(self._connection, gone)
            if returned or missing or texts_back or texts_gone or other_picture:
                commit(self._connection, "sweep")
            else:
                self._connection.commit()
        return Swept(returned, missing)

    def _bring_back_images(self, source_id: int) -> int:
        """Shows the pictures that returned; leaves texts that may mean them to `link_texts`."""
        run = self._connection.execute
        came_back = (
            (image.c.source_id == source_id)
            & image.c.missing_since.is_not(None)
            & sa.or_(
                sa.and_(image.c.member == "", _is_as_seen(image)),
                _in_same_container(source_id, image.c.path),
            )
        )
        # Before they are back: then they cannot be told from the others.
        back = sa.select(image.c.name).where(came_back).correlate(None)
        if run(sa.select(back.exists())).scalar():
            unlink_from_afar(self._connection, image.c.name.in_(back))
            rows = run(sa.select(image.c.path, image.c.member, image.c.name).where(came_back)).all()
            unlink_alike(self._connection, {row.name for row in rows})
            places = ((source_id, row.path, row.member) for row in rows)
            unlink_guessed(self._connection, news(self._connection, places))
        # What was wrong with files beside them is forgotten: they are read again.
        look_again = sa.case(
            (sa.func.coalesce(image.c.beside, "") == "", image.c.beside), else_="?"
        )
        back_now = sa.update(image).where(came_back).values(missing_since=None, beside=look_again)
        return int(run(back_now).rowcount)

    def _bring_back_texts(self, source_id: int) -> int:
        """Shows the texts that returned: those that pictures carry with the pictures."""
        holder = sa.exists().where(
            image.c.source_id == text_.c.source_id,
            image.c.path == text_.c.path,
            image.c.member == text_.c.member,
            image.c.missing_since.is_(None),
        )
        embedded = text_.c.origin == "embedded"
        came_back = sa.or_(
            sa.and_(embedded, holder),
            sa.and_(~embedded, _in_same_container(source_id, text_.c.path)),
        )
        statement = (
            sa.update(text_)
            .where(text_.c.source_id == source_id, text_.c.missing_since.is_not(None), came_back)
            .values(missing_since=None)
        )
        return int(self._connection.execute(statement).rowcount)

    def _bring_back_parts(self, source_id: int) -> None:
        """The parts of a Takeout that returned count again."""
        self._connection.execute(
            sa.update(takeout_part)
            .where(takeout_part.c.source_id == source_id, takeout_part.c.missing_since.is_not(None))
            .where(_in_same_container(source_id, takeout_part.c.path))
            .values(missing_since=None, told_with=None)
        )

    def _miss_unseen(self, table: sa.Table, source_id: int, under: str, stamp: datetime) -> int:
        """Notes of what is kept of files that the scan did not see since when it is missing."""
        statement = (
            sa.update(table)
            .where(table.c.source_id == source_id, table.c.missing_since.is_(None))
            .where(~sa.exists().where(seen.c.path == table.c.path), inside(table.c.path, under))
            .values(missing_since=stamp)
        )
        return int(self._connection.execute(statement).rowcount)

    def _follow_sidecars(self, source_id: int) -> int:
        """A sidecar stays, and is that of another picture now."""
        picture_now = (
            sa.select(name_of(seen.c.of)).where(seen.c.path == text_.c.path).scalar_subquery()
        )
        # Not all sidecars of the source are asked, but those that were seen.
        met = sa.select(seen.c.path).where(seen.c.of.is_not(None)).correlate(None)
        statement = (
            sa.update(text_)
            .where(text_.c.source_id == source_id, text_.c.path.in_(met))
            .where(text_.c.origin == "sidecar", picture_now != text_.c.image_ref)
            .values(image_ref=picture_now, image_id=None)
        )
        return int(self._connection.execute(statement).rowcount)

    def _forget_failures(self, source_id: int, under: str) -> None:
        """Those of files that are gone, or that are others now."""
        run = self._connection.execute
        inner = sa.exists().where(
            failure.c.source_id == source_id,
            failure.c.path == container.c.path,
            sa.or_(failure.c.member != "", failure.c.key != ""),
        )
        # An archive or a list that returns is read again, or what it failed at would not be known.
        run(
            sa.delete(container)
            .where(container.c.source_id == source_id, inside(container.c.path, under))
            .where(~sa.exists().where(seen.c.path == container.c.path), inner)
        )
        run(
            sa.delete(failure)
            .where(failure.c.source_id == source_id, inside(failure.c.path, under))
            .where(~sa.exists().where(seen.c.path == failure.c.path))
        )
        # A file that is another one now is tried again, or known from before it was broken.
        other = sa.or_(seen.c.size != failure.c.size, seen.c.mtime_ns != failure.c.mtime_ns)
        run(
            sa.delete(failure)
            .where(failure.c.source_id == source_id, ~failure.c.transient)
            .where(failure.c.member == "", failure.c.key == "")
            .where(sa.exists().where(seen.c.path == failure.c.path, other))
        )

    def _pending_query(self, source_id: int, space_id: int | None) -> sa.Select[Any]:
        space_id = -1 if space_id is None else space_id
        known_image = (
            sa.select(image.c.id)
            .join(
                embedding,
                (embedding.c.content_id == image.c.content_id) & (embedding.c.space_id == space_id),
            )
            .where(image.c.source_id == source_id, image.c.path == seen.c.path)
            .where(image.c.member == "", image.c.missing_since.is_(None))
            .where(image.c.size == seen.c.size, image.c.mtime_ns == seen.c.mtime_ns)
        )
        known_container = (
            sa.select(container.c.path)
            .where(container.c.source_id == source_id, container.c.path == seen.c.path)
            .where(container.c.size == seen.c.size, container.c.mtime_ns == seen.c.mtime_ns)
            .where(container.c.space_id == space_id)
        )
        # A .txt file is a sidecar as long as there is a picture to it, and else may be a list.
        other_kind = (
            sa.select(text_.c.id)
            .where(text_.c.source_id == source_id, text_.c.path == seen.c.path)
            .where(text_.c.origin == sa.case((seen.c.kind == "sidecar", "file"), else_="sidecar"))
        )
        known_failure = (
            sa.select(failure.c.id)
            .where(failure.c.source_id == source_id, failure.c.path == seen.c.path)
            .where(failure.c.member == "", failure.c.key == "", ~failure.c.transient)
            .where(failure.c.size == seen.c.size, failure.c.mtime_ns == seen.c.mtime_ns)
        )
        is_image = seen.c.kind == "image"
        return sa.select(seen).where(
            seen.c.kind != "unreadable",
            ~known_failure.exists(),
            sa.or_(
                sa.and_(is_image, ~known_image.exists()),
                sa.and_(~is_image, ~known_container.exists() | other_kind.exists()),
            ),
        )

    def has_new_pending(self, source_id: int, space_id: int | None) -> bool:
        """Whether a pending file has not failed before: its failure is to be noted."""
        failed = sa.exists().where(
            failure.c.source_id == source_id, failure.c.path == seen.c.path, failure.c.key == ""
        )
        with writing(self._connection, self._path):
            query = self._pending_query(source_id, space_id).where(~failed).limit(1)
            return self._connection.execute(query).first() is not None

    def count_seen(self, kind: str) -> int:
        with writing(self._connection, self._path):
            statement = sa.select(sa.func.count()).select_from(seen).where(seen.c.kind == kind)
            return int(self._connection.execute(statement).scalar_one())

    def count_pending(self, source_id: int, space_id: int | None) -> dict[str, int]:
        """How many files of each kind still have to be read for the space."""
        pending = self._pending_query(source_id, space_id).subquery()
        with writing(self._connection, self._path):
            rows = self._connection.execute(
                sa.select(pending.c.kind, sa.func.count()).group_by(pending.c.kind)
            ).all()
        return {row[0]: row[1] for row in rows}

    def pending(
        self, source_id: int, space_id: int | None, kinds: Sequence[str]
    ) -> Iterator[Pending]:
        """The files still to be read, in the order of the scan, safe against commits meanwhile."""
        query = self._pending_query(source_id, space_id).where(seen.c.kind.in_(kinds))
        yield from (_as_pending(row) for row in self._in_order(query))

    def other_beside(self, source_id: int, space_id: int) -> Iterator[tuple[int, Pending]]:
        """The pictures that are known, but not what lies beside them now: content id and file."""
        embedded = sa.exists().where(
            embedding.c.space_id == space_id, embedding.c.content_id == image.c.content_id
        )
        query = (
            sa.select(seen, image.c.content_id)
            .join(image, image.c.path == seen.c.path)
            .where(image.c.source_id == source_id, image.c.member == "")
            .where(seen.c.kind == "image", image.c.missing_since.is_(None))
            .where(image.c.size == seen.c.size, image.c.mtime_ns == seen.c.mtime_ns)
            # Where it could not be looked at (NULL), what is known stays.
            .where(seen.c.beside != sa.func.coalesce(image.c.beside, ""), embedded)
        )
        yield from ((row.content_id, _as_pending(row)) for row in self._in_order(query))

    def _in_order(self, query: sa.Select[Any]) -> Iterator[sa.Row[Any]]:
        """What was seen of this, in the order of the scan, safe against commits meanwhile."""
        last = 0
        while True:
            with writing(self._connection, self._path):
                rows = self._connection.execute(
                    query.where(seen.c.id > last).order_by(seen.c.id).limit(2000)
                ).all()
            if not rows:
                return
            yield from rows
            last = rows[-1].id


def _as_pending(row: sa.Row[Any]) -> Pending:
    return Pending(row.path, row.kind, row.size, row.mtime_ns, row.of, row.beside)


def _is_as_seen(table: sa.Table) -> sa.Exists:
    """Whether the scan saw the file of a row as it was when it was read."""
    return sa.exists().where(
        seen.c.path == table.c.path,
        seen.c.size == table.c.size,
        seen.c.mtime_ns == table.c.mtime_ns,
    )


def _in_same_container(source_id: int, path: Any) -> sa.Exists:
    """The same of the archive or file of texts that lies at a path."""
    return (
        sa.exists()
        .where(container.c.source_id == source_id, container.c.path == path)
        .where(_is_as_seen(container))
    )
