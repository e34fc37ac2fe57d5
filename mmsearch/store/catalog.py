"""Reading the catalog: records by id, vectors in order of arrival, counts."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mmsearch.batches import batches
from mmsearch.errors import LibraryReplacedError, NotFoundError, StoreError
from mmsearch.filenames import joined
from mmsearch.overview import (
    Failure,
    SourcePlace,
    SourceRecord,
    SpaceStatus,
)
from mmsearch.store import engine as db
from mmsearch.store.details import own_info, picture_info
from mmsearch.store.reading import IDS_A_QUERY, Reading, among_ids, ids_parameter
from mmsearch.store.schema import (
    IS_HIDDEN,
    content,
    embedding,
    failure,
    image,
    passage,
    picture,
    source,
    space,
    text_,
)
from mmsearch.store.shrink import Room, room_of
from mmsearch.store.sizes import Sizes
from mmsearch.store.tags import Tag, TagCount, tag_counts, tags_of
from mmsearch.store.vectors import Vectors
from mmsearch.store.words import Words
from mmsearch.types import (
    ImageRecord,
    Modality,
    PictureInfo,
    Space,
    TextRecord,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.filters import Facets, Filter
    from mmsearch.store.selection import Selection


# What every search asks, built once.
_REVISION = "SELECT revision FROM state"
_PICTURES = sa.select(picture).where(among_ids(picture.c.content_id))
_FILES = (
    sa.select(image.c.content_id, image.c.path, image.c.member, source.c.location, source.c.kind)
    .join(source, source.c.id == image.c.source_id)
    .where(among_ids(image.c.content_id), image.c.missing_since.is_(None))
    .order_by(image.c.id)
)
_BODIES = sa.select(passage).where(among_ids(passage.c.content_id))
_PLACES_OF_TEXTS = (
    sa.select(
        text_.c.content_id,
        text_.c.path,
        text_.c.member,
        text_.c.key,
        source.c.location,
        source.c.kind,
        sa.case((content.c.hidden, None), else_=content.c.id).label("image_id"),
    )
    .join(source, source.c.id == text_.c.source_id)
    .outerjoin(image, image.c.id == text_.c.image_id)
    .outerjoin(content, content.c.id == image.c.content_id)
    .where(among_ids(text_.c.content_id), text_.c.missing_since.is_(None))
    .order_by(text_.c.id)
)
_LINKED_TEXTS = (
    sa.select(image.c.content_id, text_.c.content_id.label("text_id"))
    .join(image, image.c.id == text_.c.image_id)
    .where(among_ids(image.c.content_id), text_.c.missing_since.is_(None))
    .order_by(text_.c.id)
)
# A text may be written for several files of a picture.
_LINKED_BODIES = (
    sa.select(image.c.content_id, text_.c.content_id.label("text_id"), passage.c.body)
    .join(image, image.c.id == text_.c.image_id)
    .join(passage, passage.c.content_id == text_.c.content_id)
    .where(among_ids(image.c.content_id), text_.c.missing_since.is_(None))
    .order_by(text_.c.id)
)


@dataclass(frozen=True, slots=True)
class FileLocation:
    """Where the bytes of a picture lie: a file, or a member of an archive ("" for a file)."""

    path: str
    member: str


def absolute(location: str, kind: str, path: str) -> str:
    """The absolute path of `path`, as the catalog stores it, in a source."""
    return joined(location if kind == "folder" else os.path.dirname(location), path)  # noqa: PTH120


def shown(path: str, member: str) -> str:
    """A path for people: members of archives read "archive.zip!/name.jpg"."""
    return f"{path}!/{member}" if member else path


def _space(row: Any) -> Space:
    return Space(row.name, row.dim, row.fingerprint, row.preprocessing)


class Catalog:
    """Read access to one catalog file. Thread-safe; sees each commit of any process."""

    def __init__(self, path: Path, *, read_only: bool | None = None) -> None:
        """Opens the file at `path`; one of an older mmsearch is brought to the newest schema first.

        read_only: write nothing, make no file; None finds out whether that must be so.

        Raises:
            LibraryNotFoundError: there is none.
            SchemaVersionError: a newer mmsearch wrote it.
            StoreError: it is not a catalog, or cannot be migrated now.
        """
        self.read_only = not db.writable(path) if read_only is None else read_only
        db.bring_up_to_date(path, read_only=self.read_only)
        self.path = path
        self._opened = path.stat()
        # Or some connections would read what lies there by now, and some what was opened; and where
        # nothing does, SQLite would make a file.
        self.engine = db.create_engine(path, read_only=self.read_only, before=self._check_place)
        self._read = Reading(path, self.engine)
        self.vectors = Vectors(self._read)
        self._selection_lock = threading.Lock()
        self._selected: Selection | None = None
        self.words = Words(self._read)
        self.sizes = Sizes(self._read)

    def close(self) -> None:
        """Lets go of the file; what is asked afterwards raises StoreError."""
        self.engine.dispose()
        # A pool that was disposed of would open the file anew.
        sa.event.listen(self.engine, "do_connect", self._refuse)

    def _refuse(self, *_: object) -> None:
        raise StoreError(f"the library at {self.path.parent} was closed")

    def _check_place(self) -> None:
        if not self.is_in_place():
            raise LibraryReplacedError(str(self.path.parent))

    def is_in_place(self) -> bool:
        """Whether the file at the path still is the one that was opened.

        One that was moved, deleted or replaced is read on from what was opened, by as many threads
        at once as did so before; more are refused.
        """
        try:
            return os.path.samestat(self._opened, self.path.stat())
        except OSError:
            return False

    def is_replaced(self) -> bool:
        """Whether there is another file in its place."""
        return not self.is_in_place() and self.path.exists()

    def revision(self) -> int:
        """A number that grows with every committed change."""
        return int(self._read.driver_scalar(_REVISION) or 0)

    # --- spaces ---------------------------------------------------------------------------------

    def active_space(self) -> tuple[int, Space] | None:
        """The space that searches use, with its id; None before anything was embedded."""
        rows = self._read.rows(sa.select(space).where(space.c.active))
        return (rows[0].id, _space(rows[0])) if rows else None

    def space_origin(self, space_id: int) -> str:
        """When the space was written down: tells this catalog from others with the same model."""
        return str(self._read.scalar(sa.select(space.c.created_at).where(space.c.id == space_id)))

    def origins(self) -> dict[Space, str]:
        """The same for every space."""
        return {
            _space(row): str(row.created_at)
            for row in self._read.rows(sa.select(space).order_by(space.c.id))
        }

    def find_space(
        self, name: str | None = None, fingerprint: str | None = None
    ) -> tuple[int, Space] | None:
        """The space of a model by the name it was given: the active one, or else the newest.

        With a fingerprint, only the space of just those weights: by that name, or by any.
        """
        statement = sa.select(space)
        if name is not None:
            statement = statement.where(space.c.name == name)
        if fingerprint is not None:
            statement = statement.where(space.c.fingerprint == fingerprint)
        rows = self._read.rows(statement.order_by(space.c.active.desc(), space.c.id.desc()))
        return (rows[0].id, _space(rows[0])) if rows else None

    def spaces(self) -> list[SpaceStatus]:
        # A query for each: one for all that is grouped would sort every row.
        texts = sa.func.count().filter(content.c.modality == "text").label("texts")
        found = []
        for row in self._read.rows(sa.select(space).order_by(space.c.id)):
            (count,) = self._read.rows(
                sa.select(sa.func.count().label("n"), texts)
                .select_from(embedding)
                .join(content, content.c.id == embedding.c.content_id)
                .where(embedding.c.space_id == row.id, ~content.c.hidden)
            )
            found.append(SpaceStatus(_space(row), row.active, count.n - count.texts, count.texts))
        return found

    def hidden(self, modality: Modality) -> NDArray[np.int64]:
        """Ids of the contents that no file holds any more, (n,) int64, ascending."""
        import numpy as np

        # One string of them all: a row each takes several times as long to fetch, and this is read
        # at every commit.
        ids = sa.func.aggregate_strings(sa.cast(content.c.id, sa.Text), ",")
        found = self._read.scalar(sa.select(ids).where(IS_HIDDEN, content.c.modality == modality))
        return np.sort(np.fromstring(found or "", np.int64, sep=","))

    def content_hash(self, content_id: int) -> str | None:
        """The SHA-256 of a content in hexadecimal; None when there is no such content."""
        digest = self._read.scalar(sa.select(content.c.hash).where(content.c.id == content_id))
        return None if digest is None else bytes(digest).hex()

    def content_id(self, modality: Modality, digest: bytes) -> int | None:
        found = self._read.scalar(
            sa.select(content.c.id).where(content.c.modality == modality, content.c.hash == digest)
        )
        return None if found is None else int(found)

    # --- records --------------------------------------------------------------------------------

    def image_records(self, ids: Sequence[int]) -> dict[int, ImageRecord]:
        """The pictures with these ids that some file still holds; copies in order of path."""
        files = self._files(ids)
        records: dict[int, ImageRecord] = {}
        for part in batches(ids, IDS_A_QUERY):
            for row in self._read.rows(_PICTURES, ids=ids_parameter(part)):
                places = files.get(row.content_id, ())
                # A file named by itself and inside a folder is one file in two sources.
                paths = list(dict.fromkeys(shown(f.path, f.member) for f in places))
                if paths:
                    records[row.content_id] = ImageRecord(
                        row.content_id, paths[0], picture_info(row), row.bytes, tuple(paths[1:])
                    )
        return records

    def _files(self, ids: Iterable[int]) -> dict[int, list[FileLocation]]:
        files: dict[int, list[FileLocation]] = defaultdict(list)
        for part in batches(ids, IDS_A_QUERY):
            for row in self._read.rows(_FILES, ids=ids_parameter(part)):
                path = absolute(row.location, row.kind, row.path)
                files[row.content_id].append(FileLocation(path, row.member))
        return files

    def locations(self, image_id: int) -> list[FileLocation]:
        """Every file that should hold this picture.

        Raises:
            NotFoundError: no file does.
        """
        found = self._files([image_id]).get(image_id)
        if not found:
            raise NotFoundError("image", image_id)
        return found

    def image_info(self, content_id: int) -> PictureInfo | None:
        """What a picture says of itself, whether or not a file still holds it."""
        rows = self._read.rows(sa.select(picture).where(picture.c.content_id == content_id))
        return own_info(rows[0]) if rows else None

    def image_infos(self, ids: Sequence[int]) -> dict[int, PictureInfo]:
        """The same of several."""
        found: dict[int, PictureInfo] = {}
        for part in batches(ids, IDS_A_QUERY):
            rows = self._read.rows(_PICTURES, ids=ids_parameter(part))
            found.update({row.content_id: own_info(row) for row in rows})
        return found

    def members(self, source_id: int, path: str) -> dict[str, int]:
        """The content ids of the pictures of an archive that are there, by member."""
        statement = sa.select(image.c.member, image.c.content_id).where(
            image.c.source_id == source_id, image.c.path == path, image.c.missing_since.is_(None)
        )
        return {row.member: row.content_id for row in self._read.rows(statement)}

    def text_records(self, ids: Sequence[int]) -> dict[int, TextRecord]:
        """The texts with these ids; `source` is the first place, `image_ids` are all links."""
        bodies: dict[int, str] = {}
        places: dict[int, str] = {}
        links: dict[int, list[int]] = defaultdict(list)
        for part in batches(ids, IDS_A_QUERY):
            rows = self._read.rows(_BODIES, ids=ids_parameter(part))
            bodies.update({row.content_id: row.body for row in rows})
            for row in self._read.rows(_PLACES_OF_TEXTS, ids=ids_parameter(part)):
                path = shown(absolute(row.location, row.kind, row.path), row.member)
                places.setdefault(row.content_id, f"{path}:{row.key}")
                if row.image_id is not None and row.image_id not in links[row.content_id]:
                    links[row.content_id].append(row.image_id)
        return {
            id_: TextRecord(id_, bodies[id_], places[id_], tuple(links[id_]))
            for id_ in ids
            if id_ in bodies and id_ in places
        }

    def text_places(self, text_id: int) -> list[tuple[str, str]]:
        """Every place of a text: the file that it is in, and the place as people see it."""
        found: dict[str, str] = {}
        for row in self._read.rows(_PLACES_OF_TEXTS, ids=ids_parameter([text_id])):
            path = absolute(row.location, row.kind, row.path)
            found[f"{shown(path, row.member)}:{row.key}"] = path
        return [(path, place) for place, path in found.items()]

    def linked_texts(self, image_ids: Sequence[int]) -> dict[int, list[int]]:
        """For each picture the ids of the texts written for it, without doubles."""
        found: dict[int, list[int]] = defaultdict(list)
        for part in batches(image_ids, IDS_A_QUERY):
            for row in self._read.rows(_LINKED_TEXTS, ids=ids_parameter(part)):
                if row.text_id not in found[row.content_id]:
                    found[row.content_id].append(row.text_id)
        return found

    def linked_bodies(self, image_ids: Sequence[int]) -> dict[int, tuple[str, ...]]:
        """For each picture that has any: what the texts say that were written for it, in the order
        of `linked_texts`, without doubles."""
        found: dict[int, dict[int, str]] = defaultdict(dict)
        for part in batches(image_ids, IDS_A_QUERY):
            for id_, text_id, body in self._read.rows(_LINKED_BODIES, ids=ids_parameter(part)):
                found[id_].setdefault(text_id, body)
        return {id_: tuple(bodies.values()) for id_, bodies in found.items()}

    def tags(self, ids: Sequence[int]) -> dict[int, tuple[Tag, ...]]:
        """The tags of those of these contents that have any, each with its score (None: a person
        gave it): what people said first, then by score."""
        return tags_of(self._read, ids)

    def tag_counts(self) -> list[TagCount]:
        """Every tag that visible contents carry, the most frequent first."""
        return tag_counts(self._read)

    # --- filters --------------------------------------------------------------------------------

    def select(self, filter_: Filter, modality: Modality) -> NDArray[np.int64]:
        """Ids of the contents that files hold and the filter passes, (n,), strictly ascending.

        Raises:
            QueryError: a condition on pictures is asked of texts.
            UnknownNameError: the filter names a source that there is none of.
        """
        return self._selection().select(filter_, modality)

    def facets(self, ids: NDArray[np.int64] | None = None, *, top: int = 20) -> Facets:
        """What pictures have in common, counted; of all, or of those with these ids, in any order.

        top: how many cameras, keywords and tags to name at most.
        """
        return self._selection().facets(ids, top)

    def warm_facets(self) -> Iterator[None]:
        """Reads what `facets` of all pictures needs, a part at each step, none of which takes long.
        What is read is kept, until the next commit or, of what only grows, for good."""
        return self._selection().warm()

    def _selection(self) -> Selection:
        with self._selection_lock:
            if self._selected is None:
                from mmsearch.store.selection import Selection

                self._selected = Selection(self._read)
            return self._selected

    # --- overview -------------------------------------------------------------------------------

    def room(self) -> Room:
        """How large the catalog is, and how much of that nothing is in."""
        with self._read.driver_moment() as connection:
            return room_of(connection)

    def counts(self) -> dict[str, int]:
        """images, texts, links, carried, missing and failed: how many rows of each.

        `texts` are those of caption files and sidecars, `links` those of them that belong to a
        picture, `carried` what pictures say of themselves.
        """
        # Each table is read once, whatever is counted in it.
        rows, given = sa.func.count(), text_.c.origin != "embedded"
        (pictures,) = self._read.rows(sa.select(rows, sa.func.count(image.c.missing_since)))
        (texts,) = self._read.rows(
            sa.select(
                rows.filter(given), rows.filter(given, text_.c.image_id.is_not(None)), rows
            ).where(text_.c.missing_since.is_(None))
        )
        return {
            "images": pictures[0] - pictures[1],
            "texts": texts[0],
            "links": texts[1],
            "carried": texts[2] - texts[0],
            "missing": pictures[1],
            "failed": self.failed(),
        }

    def failed(self) -> int:
        """How many inputs could not be used. Some of them are forgotten without a new revision."""
        return int(self._read.scalar(sa.select(sa.func.count()).select_from(failure)))

    def failures(self) -> list[Failure]:
        """Every input that could not be used, in order of path."""
        rows = self._read.rows(
            sa.select(failure, source.c.location, source.c.kind)
            .join(source, source.c.id == failure.c.source_id)
            .order_by(source.c.location, failure.c.path, failure.c.member, failure.c.id)
        )
        return [
            Failure(
                shown(absolute(row.location, row.kind, row.path), row.member)
                + (f":{row.key}" if row.key else ""),
                row.reason,
                row.at,
            )
            for row in rows
        ]

    def places(self) -> list[SourcePlace]:
        """The sources, by location. What they hold is not counted, which reads every row of it."""
        return [
            SourcePlace(
                row.id,
                row.name,
                row.location,
                row.kind,
                row.indexed_at,
                tuple(row.exclude),
                row.follow_links,
            )
            for row in self._read.rows(sa.select(source).order_by(source.c.location))
        ]

    def sources(self) -> list[SourceRecord]:
        """The same, counted."""
        here, given = image.c.missing_since.is_(None), text_.c.origin != "embedded"
        images, missing, texts = (
            dict(
                self._pairs(
                    sa.select(table.c.source_id, sa.func.count())
                    .where(which)
                    .group_by(table.c.source_id)
                )
            )
            for table, which in (
                (image, here),
                (image, ~here),
                (text_, text_.c.missing_since.is_(None) & given),
            )
        )
        return [
            SourceRecord(
                place.id,
                place.name,
                place.location,
                place.kind,
                place.indexed_at,
                place.exclude,
                place.follow_links,
                images.get(place.id, 0),
                texts.get(place.id, 0),
                missing.get(place.id, 0),
            )
            for place in self.places()
        ]

    def _pairs(self, statement: sa.Executable) -> list[tuple[int, int]]:
        return [(int(row[0]), int(row[1])) for row in map(tuple, self._read.rows(statement))]
