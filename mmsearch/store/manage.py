"""What people do with sources and spaces: rename, move and forget the ones, choose and drop the
others. One transaction each.

What is forgotten for good leaves a tombstone: the row of `content` stays, hidden, so that an index
that still holds its id never shows it; its hash becomes random bytes, so that the same content
coming back is a new one, and nothing tells what was there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from mmsearch.errors import StoreError
from mmsearch.store.details import settle
from mmsearch.store.links import link_texts, unlink_from_afar, unlink_guessed
from mmsearch.store.parts import drop_parts
from mmsearch.store.schema import (
    IS_HIDDEN,
    BigKey,
    container,
    content,
    embedding,
    failure,
    image,
    passage,
    picture,
    source,
    space,
    tag,
    takeout_part,
    text_,
)
from mmsearch.store.transaction import commit, hide, writing
from mmsearch.store.word_rows import renew, scrub

_scratch = sa.MetaData()

#: The contents of the rows that go; some of them are held elsewhere.
_touched = sa.Table(
    "touched",
    _scratch,
    sa.Column("content_id", BigKey, primary_key=True),
    prefixes=["TEMPORARY"],
)
#: The contents that nothing holds without those rows.
_lost = sa.Table(
    "lost",
    _scratch,
    sa.Column("content_id", BigKey, primary_key=True),
    sa.Column("modality", sa.Text, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    prefixes=["TEMPORARY"],
)
_HASHES_A_CHUNK = 5000


@dataclass(frozen=True, slots=True)
class Removal:
    """What is forgotten: files and texts, and contents that nothing else holds.

    pictures: picture files and members of archives. texts: of caption files and sidecars.
    contents: pictures and texts (by content) whose vectors and data are gone for good; versions
    that files have lost by changing are among them.
    """

    pictures: int
    texts: int
    contents: int


class Lost(Protocol):
    """The contents that go for good."""

    def ids(self) -> list[int]:
        """Their ids, in no certain order."""

    def pictures(self) -> Iterator[str]:
        """The hashes (SHA-256 in hexadecimal) of the pictures among them."""


#: Told what goes for good, and whether it is gone: see `Sources.remove`.
Derived = Callable[[Removal, Lost, bool], None]


@dataclass(frozen=True, slots=True)
class _Doomed:
    """Which rows of `image` and `text` go: those of a source (None: of all), or its gone ones."""

    source_id: int | None
    only_gone: bool

    def rows(self, table: sa.Table) -> Any:
        """The condition on rows of `image`, `text` or `takeout_part`."""
        of_source = sa.true() if self.source_id is None else table.c.source_id == self.source_id
        return of_source & table.c.missing_since.is_not(None) if self.only_gone else of_source

    def files(self, table: sa.Table) -> Any:
        """The condition on rows of `container` or `failure` that belong to them."""
        if not self.only_gone:
            return table.c.source_id == self.source_id
        return sa.or_(
            *(
                sa.exists().where(
                    held.c.source_id == table.c.source_id,
                    held.c.path == table.c.path,
                    self.rows(held),
                )
                for held in (image, text_, takeout_part)
            )
        )

    def lost(self) -> sa.Select[Any]:
        """Contents (id, modality, hash) that no row holds once the doomed ones are gone."""
        # Every content without a row is hidden, so the visible ones need not all be looked at.
        candidates = sa.union(
            sa.select(image.c.content_id).where(self.rows(image)),
            sa.select(text_.c.content_id).where(self.rows(text_)),
            sa.select(content.c.id).where(IS_HIDDEN),
        )
        kept = [
            sa.exists().where(table.c.content_id == content.c.id, ~self.rows(table))
            for table in (image, text_)
        ]
        # What is a tombstone already has none of these. (By space: so the index has its rows.)
        has_data = sa.or_(
            sa.exists().where(picture.c.content_id == content.c.id),
            sa.exists().where(passage.c.content_id == content.c.id),
            sa.exists().where(
                embedding.c.space_id.in_(sa.select(space.c.id)),
                embedding.c.content_id == content.c.id,
            ),
        )
        return sa.select(content.c.id, content.c.modality, content.c.hash).where(
            content.c.id.in_(candidates), ~kept[0], ~kept[1], has_data
        )

    def count(self, connection: sa.Connection) -> Removal:
        count = sa.func.count()
        images = sa.select(count).select_from(image).where(self.rows(image))
        texts = sa.select(count).select_from(text_).where(self.rows(text_))
        contents = sa.select(count).select_from(self.lost().subquery())
        return Removal(
            *(
                int(connection.execute(statement).scalar_one())
                for statement in (images, texts.where(text_.c.origin != "embedded"), contents)
            )
        )


class Sources:
    """The sources of a catalog, on the writer's connection."""

    def __init__(self, path: Path, connection: sa.Connection) -> None:
        self._path = path
        self._connection = connection

    def rename(self, source_id: int, name: str) -> None:
        """Calls the source `name`, which no other source has."""
        with writing(self._connection, self._path):
            self._connection.execute(
                sa.update(source).where(source.c.id == source_id).values(name=name)
            )
            commit(self._connection, "source renamed")

    def some_files(self, source_id: int, limit: int) -> list[tuple[str, int]]:
        """About `limit` of the files that the source held when it was read, from all parts of it.

        Path, as the catalog has it, and size in bytes of each. Files that are gone are among them.
        """
        files = sa.union_all(
            sa.select(image.c.path, image.c.size).where(
                image.c.source_id == source_id, image.c.member == ""
            ),
            sa.select(container.c.path, container.c.size).where(container.c.source_id == source_id),
        ).subquery()
        numbered = sa.select(files, sa.func.row_number().over().label("n")).subquery()
        with writing(self._connection, self._path):
            run = self._connection.execute
            total = int(run(sa.select(sa.func.count()).select_from(files)).scalar_one())
            step = max(1, total // limit)
            rows = run(
                sa.select(numbered.c.path, numbered.c.size).where(numbered.c.n % step == 0)
            ).all()
        return [(row.path, row.size) for row in rows]

    def move(self, locations: Mapping[int, str]) -> None:
        """Puts sources at other absolute paths; what is known of their files stays as it is."""
        run = self._connection.execute
        with writing(self._connection, self._path):
            unlink_guessed(self._connection)
            for source_id in locations:
                # Out of the way first: one may take the place that another one leaves.
                run(
                    sa.update(source)
                    .where(source.c.id == source_id)
                    .values(location=f"moving {source_id}")
                )
            for source_id, location in locations.items():
                kind = run(
                    sa.update(source)
                    .where(source.c.id == source_id)
                    .values(location=location)
                    .returning(source.c.kind)
                ).scalar_one()
                if kind == "file":
                    self._rename_file(source_id, location.rpartition("/")[2])
            # Names with folders in them may mean other pictures now.
            moved = image.c.source_id.in_(list(locations))
            names = sa.select(image.c.name).where(moved).correlate(None)
            unlink_from_afar(
                self._connection,
                image.c.name.in_(names) | text_.c.source_id.in_(list(locations)),
            )
            # Within the same transaction: a kill after it would leave the texts without pictures.
            link_texts(self._connection)
            commit(self._connection, "relocation")

    def _rename_file(self, source_id: int, name: str) -> None:
        """The one file of a source has another name now."""
        for table in (image, text_, container, failure, takeout_part):
            self._connection.execute(
                sa.update(table).where(table.c.source_id == source_id).values(path=name)
            )
        self._connection.execute(
            sa.update(image)
            .where(image.c.source_id == source_id, image.c.member == "")
            .values(name=name)
        )

    # --- forgetting for good --------------------------------------------------------------------

    def count_removal(self, source_id: int) -> Removal:
        """What `remove` would forget."""
        return self._count(_Doomed(source_id, only_gone=False))

    def count_gone(self, source_id: int | None) -> Removal:
        """What `forget_gone` would forget."""
        return self._count(_Doomed(source_id, only_gone=True))

    def _count(self, doomed: _Doomed) -> Removal:
        with writing(self._connection, self._path):
            return doomed.count(self._connection)

    def remove(self, source_id: int, derived: Derived) -> Removal:
        """Forgets a source and all that only its files held.

        derived: deletes what was made outside of the catalog from what goes for good. It is called
            before the commit (False): after a crash in between that is made anew; the other way
            round it would stay for ever. And once more (True) when that is on the disk, for what
            was made meanwhile.
        """
        return self._forget(_Doomed(source_id, only_gone=False), derived, "source removed")

    def forget_gone(self, source_id: int | None, derived: Derived) -> Removal:
        """Forgets the files of a source (None: of all) that are gone; `derived` as in `remove`."""
        return self._forget(_Doomed(source_id, only_gone=True), derived, "gone files forgotten")

    def _forget(self, doomed: _Doomed, derived: Derived, what: str) -> Removal:
        run = self._connection.execute
        with writing(self._connection, self._path):
            # Who removes pictures for good expects their place, title and text to be gone from the
            # disk and not only from the answers: freed pages are overwritten with zeros. That
            # writes each of them once more, which such a rare command may cost.
            self._connection.exec_driver_sql("PRAGMA secure_delete=ON").close()
            # What `derived` does last must not come before the commit after a power cut.
            self._connection.exec_driver_sql("PRAGMA synchronous=FULL").close()
            for table in (_touched, _lost):
                run(sa.schema.CreateTable(table, if_not_exists=True))
                run(sa.delete(table))
            removal = doomed.count(self._connection)
            run(sa.insert(_lost).from_select(["content_id", "modality", "hash"], doomed.lost()))
            held = (
                sa.select(table.c.content_id).where(doomed.rows(table)) for table in (image, text_)
            )
            run(sa.insert(_touched).from_select(["content_id"], sa.union(*held)))
            for table in (container, failure):
                run(sa.delete(table).where(doomed.files(table)))
            drop_parts(self._connection, doomed.rows(takeout_part))
            run(sa.delete(text_).where(doomed.rows(text_)))
            pictures = sa.select(image.c.id).where(doomed.rows(image))
            run(sa.update(text_).where(text_.c.image_id.in_(pictures)).values(image_id=None))
            run(sa.delete(image).where(doomed.rows(image)))
            hide(self._connection, sa.select(_touched.c.content_id))
            self._bury()
            if not doomed.only_gone:
                run(sa.delete(source).where(source.c.id == doomed.source_id))
            lost = _Lost(self._connection)
            try:
                derived(removal, lost, False)
            except StoreError as exc:
                raise StoreError(
                    f"{exc}. Nothing was removed; check that the disk works and can be written, "
                    "and run the command again"
                ) from exc
            # What was written for them may be meant for pictures that are still there.
            link_texts(self._connection)
            settle(self._connection)
            renew(self._connection)
            if removal.pictures or lost.any("image"):
                scrub(self._connection, "image_words")
            if lost.any("text"):
                scrub(self._connection, "text_words")
            commit(self._connection, what)
        # The log holds earlier states of the same pages. Readers may keep it for a while.
        with writing(self._connection, self._path):
            self._connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").close()
            self._connection.commit()
        # Until the commit the pictures could be seen, and a thumbnail of one be made again.
        with writing(self._connection, self._path):
            try:
                derived(removal, lost, True)
            except StoreError as exc:
                raise StoreError(f"{what}, but {exc}; delete it by hand") from exc
            for table in (_touched, _lost):
                run(sa.delete(table))
            self._connection.commit()
        return removal

    def _bury(self) -> None:
        """Makes tombstones of the lost contents."""
        run = self._connection.execute
        lost = sa.select(_lost.c.content_id)
        for space_id in run(sa.select(space.c.id)).scalars().all():
            # One by one: the vectors of a content are found by space and content.
            run(
                sa.delete(embedding).where(
                    embedding.c.space_id == space_id, embedding.c.content_id.in_(lost)
                )
            )
        for table in (picture, passage, tag):
            run(sa.delete(table).where(table.c.content_id.in_(lost)))
        run(
            sa.update(content)
            .where(content.c.id.in_(lost))
            .values(hidden=True, hash=sa.func.randomblob(32))
        )


class _Lost:
    """What is noted in `lost`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def any(self, modality: str) -> bool:
        """Whether there is any of this modality among it."""
        there = sa.exists().where(_lost.c.modality == modality)
        return bool(self._connection.scalar(sa.select(there)))

    def ids(self) -> list[int]:
        return list(self._connection.execute(sa.select(_lost.c.content_id)).scalars())

    def pictures(self) -> Iterator[str]:
        statement = sa.select(_lost.c.hash).where(_lost.c.modality == "image")
        rows = self._connection.execution_options(yield_per=_HASHES_A_CHUNK).execute(statement)
        for digest in rows.scalars():
            yield bytes(digest).hex()


class Spaces:
    """The spaces of a catalog, on the writer's connection."""

    def __init__(self, path: Path, connection: sa.Connection) -> None:
        self._path = path
        self._connection = connection

    def use(self, space_id: int) -> None:
        """Searches use this space from now on. Nothing visible lacks a vector in it."""
        with writing(self._connection, self._path):
            self._hand_over(container.c.space_id != space_id, space_id)
            self._connection.execute(sa.update(space).values(active=space.c.id == space_id))
            commit(self._connection, "switch")

    def drop(self, space_id: int) -> None:
        """Deletes a space, not the active one, with its vectors."""
        run = self._connection.execute
        with writing(self._connection, self._path):
            active = run(sa.select(space.c.id).where(space.c.active)).scalar_one()
            of_space = container.c.space_id == space_id
            self._hand_over(of_space, active)
            # The others are read again, for the active space.
            run(sa.delete(container).where(of_space))
            run(sa.delete(embedding).where(embedding.c.space_id == space_id))
            run(sa.delete(space).where(space.c.id == space_id))
            commit(self._connection, "space dropped")

    def _hand_over(self, which: Any, space_id: int) -> None:
        """Marks containers as read for the space too, where all that they hold has its vector.

        What is hidden counts: an archive that comes back unchanged is shown without being read.
        """
        lacking = [
            sa.exists().where(
                table.c.source_id == container.c.source_id,
                table.c.path == container.c.path,
                ~sa.exists().where(
                    embedding.c.space_id == space_id, embedding.c.content_id == table.c.content_id
                ),
            )
            for table in (image, text_)
        ]
        self._connection.execute(
            sa.update(container).where(which, ~lacking[0], ~lacking[1]).values(space_id=space_id)
        )
