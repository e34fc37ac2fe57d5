"""Writing the catalog: one process at a time, one transaction for an item, its data and its vector.

A kill at any moment therefore loses at most the batch in flight, and the next run finds exactly
that missing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert

from mmsearch.batches import batches
from mmsearch.store import engine as db
from mmsearch.store.claims import forget_claims
from mmsearch.store.items import (
    drop,
    forget_beside,
    write_failures,
    write_images,
    write_texts,
    write_told,
)
from mmsearch.store.links import Linked, link_texts
from mmsearch.store.manage import Sources, Spaces
from mmsearch.store.naming import Place
from mmsearch.store.parts import Parts, drop_parts, drop_unseen
from mmsearch.store.rows import FailureRow, ImageRow, Pending, TextRow, ToldRow, now
from mmsearch.store.scan import Scan
from mmsearch.store.schema import (
    ADDED_INDEXES,
    container,
    embedding,
    failure,
    image,
    scratch_tables,
    seen,
    seen_part,
    source,
    space,
    state,
    takeout_part,
    text_,
)
from mmsearch.store.tags import Tags
from mmsearch.store.transaction import VALUES_A_QUERY, commit, inside, upsert, writing
from mmsearch.types import Space


def _prepare_scratch(connection: sqlite3.Connection, _record: Any) -> None:
    """Makes the temporary tables, which live and die with a connection."""
    connection.execute("PRAGMA temp_store=FILE").close()
    for table in scratch_tables:
        statement = sa.schema.CreateTable(table).compile(dialect=sqlite.dialect())
        connection.execute(str(statement)).close()


class CatalogWriter:
    """The one writer of a catalog. The caller holds the library's lock; one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Opens the file at `path`, creating or migrating it as needed.

        Raises:
            SchemaVersionError: the file was written by a newer mmsearch.
        """
        self._path = path
        with db.translate_errors(path):
            db.prepare(path)
            self._engine = db.create_engine(path)
            # For every connection: Ctrl-C within a statement costs the one that it ran on, and the
            # texts are linked all the same.
            sa.event.listen(self._engine, "connect", _prepare_scratch)
            self._connection = self._engine.connect()
            for index in ADDED_INDEXES:
                self._connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))
            self._connection.execute(
                insert(state).values(id=1, revision=0).on_conflict_do_nothing()
            )
            self._connection.commit()
        self.scan = Scan(path, self._connection)
        self.sources = Sources(path, self._connection)
        self.spaces = Spaces(path, self._connection)
        self.tags = Tags(path, self._connection)
        self.parts = Parts(path, self._connection)

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()

    # --- spaces and sources ---------------------------------------------------------------------

    def ensure_space(self, new: Space, *, at_hand: bool = True) -> int:
        """The id of the space, written down now if it is new, and active if no other has vectors.

        at_hand: the weights were found by that name. A space of theirs by another name, from which
        they may have been moved away, takes this one.
        """
        with writing(self._connection, self._path):
            found = self._connection.execute(
                sa.select(space.c.id).where(space.c.fingerprint == new.fingerprint)
            ).scalar()
            if found is not None and at_hand:
                self._connection.execute(
                    sa.update(space).where(space.c.id == found).values(name=new.name)
                )
            if found is None:
                found = self._connection.execute(
                    insert(space)
                    .values(
                        name=new.name,
                        dim=new.dim,
                        fingerprint=new.fingerprint,
                        preprocessing=new.preprocessing,
                        active=False,
                        created_at=now(),
                    )
                    .returning(space.c.id)
                ).scalar_one()
            of_active = sa.exists().where(space.c.active, embedding.c.space_id == space.c.id)
            if not self._connection.execute(sa.select(of_active)).scalar():
                self._connection.execute(sa.update(space).values(active=space.c.id == found))
            commit(self._connection, "space")
        return int(found)

    def activate(self, space_id: int) -> None:
        """Searches use this space from now on."""
        with writing(self._connection, self._path):
            self._connection.execute(sa.update(space).values(active=space.c.id == space_id))
            commit(self._connection, "switch")

    def ensure_source(
        self, location: str, kind: str, exclude: Sequence[str], follow_links: bool
    ) -> int:
        """The id of the source at an absolute path; its options are brought up to date.

        A new one is called by the last part of its path, with a number where that name is taken.
        """
        options = {"exclude": list(exclude), "follow_links": follow_links}
        with writing(self._connection, self._path):
            known = sa.select(sa.exists().where(source.c.location == location))
            if not self._connection.scalar(known):
                forget_claims(self._connection)  # names may lead into it
            source_id = self._connection.execute(
                insert(source)
                .values(location=location, name=self._free_name(location), kind=kind, **options)
                .on_conflict_do_update(index_elements=["location"], set_={"kind": kind} | options)
                .returning(source.c.id)
            ).scalar_one()
            commit(self._connection, "source")
        return int(source_id)

    def _free_name(self, location: str) -> str:
        wanted = name = location.rstrip("/").rpartition("/")[2] or location
        taken = set(self._connection.execute(sa.select(source.c.name)).scalars())
        number = 1
        while name in taken:
            number += 1
            name = f"{wanted} {number}"
        return name

    def adopt(self, source_id: int, location: str) -> list[str]:
        """Takes over the sources inside a folder just scanned whose files the scan met.

        Their files are the same files. A source that the folder passes over (hidden, excluded, a
        list of texts by another name) stays one of its own. Returns the locations taken over.
        """
        prefix = location.rstrip("/") + "/"
        with writing(self._connection, self._path):
            inner = self._connection.execute(
                sa.select(source.c.id, source.c.location, source.c.kind).where(
                    source.c.id != source_id, inside(source.c.location, location.rstrip("/"))
                )
            ).all()
            adopted = [
                row.location
                for row in inner
                if self._adopt_one(
                    source_id,
                    row.id,
                    row.location.removeprefix(prefix),
                    is_folder=row.kind == "folder",
                )
            ]
            if adopted:
                forget_claims(self._connection)
                commit(self._connection, "adoption")
            else:
                self._connection.commit()
        return adopted

    def _adopt_one(self, source_id: int, inner_id: int, place: str, *, is_folder: bool) -> bool:
        """Moves the rows of a source at `place` inside the adopting one; False if it stays."""

        def at_place(column: Any) -> Any:
            return inside(column, place) if is_folder else column == place

        run = self._connection.execute
        if not run(sa.select(sa.exists().where(at_place(seen.c.path)))).scalar():
            return False
        folder = place if is_folder else place.rpartition("/")[0]
        prefix = sa.literal(folder + "/" if folder else "", image.c.path.type)
        for table in (image, text_, container):
            known = sa.exists().where(table.c.source_id == source_id, at_place(table.c.path))
            if run(sa.select(known)).scalar():
                # Read in two ways, both asked for (a sidecar and a list of texts), or twice.
                return self._drop_doubled(source_id, inner_id, sa.cast(prefix, sa.Text))
        # Nothing is kept of those but that reading them was begun.
        of_outer = takeout_part.c.source_id == source_id
        drop_parts(self._connection, of_outer & at_place(takeout_part.c.path))
        for table in (image, text_, container, failure, takeout_part):
            run(
                sa.update(table)
                .prefix_with("OR REPLACE" if table is failure else "OR ABORT")
                .where(table.c.source_id == inner_id)
                .values(source_id=source_id, path=sa.cast(prefix, sa.Text) + table.c.path)
            )
        # Names that texts give are also looked up from the root of their source, which is another.
        run(
            sa.update(text_)
            .where(text_.c.source_id == source_id, at_place(text_.c.path))
            .where(text_.c.origin == "file")
            .values(image_id=None)
        )
        run(sa.delete(source).where(source.c.id == inner_id))
        return True

    def _drop_doubled(self, source_id: int, inner_id: int, prefix: Any) -> bool:
        """Drops a source all of whose rows the one around it has; False if it lacks any.

        Imports made such ones. prefix: what the paths of the inner one's rows begin with there.
        """
        run = self._connection.execute
        doubled = []
        for table, keys in ((image, ("member",)), (text_, ("member", "key", "origin"))):
            outer = table.alias()
            twin = sa.exists().where(
                outer.c.source_id == source_id,
                outer.c.path == prefix + table.c.path,
                outer.c.content_id == table.c.content_id,
                *(outer.c[key] == table.c[key] for key in keys),
            )
            mine = table.c.source_id == inner_id
            if run(sa.select(sa.exists().where(mine, ~twin))).scalar():
                return False
            doubled.append(run(sa.select(table.c.id, table.c.content_id).where(mine)).all())
        if not any(doubled):
            return False
        drop(self._connection, *doubled)
        for table in (container, failure):
            run(sa.delete(table).where(table.c.source_id == inner_id))
        drop_parts(self._connection, takeout_part.c.source_id == inner_id)
        run(sa.delete(source).where(source.c.id == inner_id))
        return True

    def finish_source(self, source_id: int, scanned_at: datetime | None = None) -> None:
        """Notes that the source was read to its end, as it was at `scanned_at` (UTC), or now."""
        with writing(self._connection, self._path):
            self._connection.execute(
                sa.update(source)
                .where(source.c.id == source_id)
                .values(indexed_at=scanned_at or now())
            )
            commit(self._connection, "source finished")

    # --- items ----------------------------------------------------------------------------------

    def commit(
        self,
        space_id: int | None,
        images: Sequence[ImageRow] = (),
        texts: Sequence[TextRow] = (),
        failures: Sequence[FailureRow] = (),
        *,
        told: Sequence[ToldRow] = (),
        read: Iterable[Place] = (),
    ) -> None:
        """Writes a batch down in one transaction. Writing the same again changes nothing.

        `space_id` may be None when nothing but failures is written. read: pictures; what
        was wrong with files beside them is forgotten first.
        """
        with writing(self._connection, self._path):
            forget_beside(self._connection, read)
            write_images(self._connection, space_id, images)
            write_told(self._connection, told)
            write_texts(self._connection, space_id, texts)
            write_failures(self._connection, failures)
            commit(self._connection, "items")

    def begin_containers(self, source_id: int, paths: Sequence[str]) -> None:
        """Archives or text files are about to be read again: their old complaints go.

        So does the note that they were read to their end. If this reading is cut short, the catalog
        holds parts of two versions of a file, and neither must be taken for known.
        """
        with writing(self._connection, self._path):
            for part in batches(paths, VALUES_A_QUERY):
                for table in (failure, container):
                    self._connection.execute(
                        sa.delete(table).where(
                            table.c.source_id == source_id, table.c.path.in_(part)
                        )
                    )
            self._connection.commit()

    def finish_containers(self, source_id: int, space_id: int, files: Sequence[Pending]) -> None:
        """Archives or text files were read to their end: what they no longer hold goes."""
        run = self._connection.execute
        gone_image = ~sa.exists().where(
            seen_part.c.path == image.c.path, seen_part.c.member == image.c.member
        )
        embedded = text_.c.origin == "embedded"
        part_of_text = sa.exists().where(seen_part.c.path == text_.c.path)
        # Texts are noted with no member: by all three columns, a row of the key's index is found;
        # by path and key alone every note of the file would be looked through for each text.
        gone_text = (
            ~embedded
            & ~part_of_text.where(seen_part.c.member == "", seen_part.c.key == text_.c.key),
            embedded
            & (text_.c.member != "")
            & ~part_of_text.where(seen_part.c.member == text_.c.member),
        )
        with writing(self._connection, self._path):
            for part in batches(files, VALUES_A_QUERY):
                paths = [file.path for file in part]
                images = run(
                    sa.select(image.c.id, image.c.content_id)
                    .where(image.c.source_id == source_id, image.c.path.in_(paths))
                    .where(image.c.member != "", gone_image)
                ).all()
                texts = run(
                    sa.select(text_.c.id, text_.c.content_id)
                    .where(text_.c.source_id == source_id, text_.c.path.in_(paths))
                    .where(sa.or_(*gone_text))
                ).all()
                drop(self._connection, images, texts)
                drop_unseen(self._connection, source_id, paths)
            upsert(
                self._connection,
                container,
                ("source_id", "path"),
                [
                    {
                        "source_id": source_id,
                        "path": file.path,
                        "size": file.size,
                        "mtime_ns": file.mtime_ns,
                        "space_id": space_id,
                    }
                    for file in files
                ],
            )
            commit(self._connection, "container")

    def link(self) -> Linked:
        """Links the texts that name a picture to it; see mmsearch.store.links."""
        with writing(self._connection, self._path):
            linked = link_texts(self._connection)
            if linked.changed:
                commit(self._connection, "links")
            else:
                self._connection.commit()
        return linked
