"""What people do with the sources and spaces of a library, under its lock."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from indexer.targets import check_path, is_within
from mmsearch.encode import presets
from mmsearch.erasing import Erasure
from mmsearch.errors import (
    LibraryNotFoundError,
    ModelUnavailableError,
    RefusedError,
    SourceError,
    UnknownNameError,
)
from mmsearch.filenames import joined, real, spelled
from mmsearch.files import delete_thumbnails
from mmsearch.index import manifest
from mmsearch.library import CATALOG_NAME, INDEX_FOLDER, THUMBS_FOLDER, Library
from mmsearch.overview import (
    SourcePlace,
    SpaceStatus,
)
from mmsearch.plaintext import counted
from mmsearch.store import Catalog, CatalogWriter
from mmsearch.store.engine import delete_old_catalogs, is_there
from mmsearch.store.lock import writing
from mmsearch.store.manage import Lost, Removal
from mmsearch.store.shrink import shrink_if_worth_it
from mmsearch.types import (
    MODALITIES,
    Space,
)

#: How many of the known files are looked for at the new place of sources, all together.
_COMPARED = 300
#: Of a source, in characters. A condition of a filter, with every character escaped, is to hold it.
_MAX_NAME = 200
#: The shortest beginning of a fingerprint that names a space.
_PREFIX = 4


@dataclass(frozen=True, slots=True)
class Moved:
    """A source that was relocated: `found` of the `compared` known files are at the new place."""

    name: str
    old: str
    new: str
    compared: int
    found: int


@dataclass(frozen=True, slots=True)
class SpaceRecord:
    """A space as it is listed. bytes: of its vectors in the catalog and of its index files."""

    status: SpaceStatus
    bytes: int


@dataclass(frozen=True, slots=True)
class Drop:
    """A space to be dropped. alone: visible contents with a vector there and not in `active`."""

    space: Space
    bytes: int
    alone: int
    active: Space


@contextmanager
def _opened(library: Path) -> Iterator[tuple[CatalogWriter, Catalog]]:
    """A library, not made if there is none, for its one writer."""
    path = library / CATALOG_NAME
    if not is_there(path):
        raise LibraryNotFoundError(str(library))
    with (
        writing(library),
        closing(CatalogWriter(path)) as writer,
        closing(Catalog(path)) as catalog,
    ):
        yield writer, catalog


# --- sources ------------------------------------------------------------------------------------


def _at(path: str) -> tuple[str, ...]:
    """The places that a path may mean: as it is written, and where its links lead today."""
    # A folder that was moved may have left a link to its new place behind.
    return (spelled(path), real(path)) if path else ()


def find_source(known: Sequence[SourcePlace], given: str) -> SourcePlace:
    """The source of this name, or else at this path. Raises UnknownNameError."""
    for source in known:
        if source.name == given:
            return source
    for place in _at(given):
        for source in known:
            if source.location == place:
                return source
    raise UnknownNameError("source", given, [source.name for source in known])


def rename_source(library: Path, given: str, name: str) -> SourcePlace:
    """Calls a source `name`. Returns it as it was.

    Raises:
        UnknownNameError: there is no source `given`.
        RefusedError: `name` cannot be a name, or another source has it.
    """
    name = name.strip()
    if not name or len(name) > _MAX_NAME or "/" in name or not name.isprintable():
        raise RefusedError(
            f"{name[:50]!r} cannot be a name: write some words, of at most {_MAX_NAME} characters, "
            "without slashes or line breaks"
        )
    with _opened(library) as (writer, catalog):
        known = catalog.places()
        source = find_source(known, given)
        taken = next((s for s in known if s.name == name and s.id != source.id), None)
        if taken is not None:
            raise RefusedError(
                f"{taken.location} is called {name!r} already. Take another name, or rename that "
                "one first"
            )
        writer.sources.rename(source.id, name)
    return source


def relocate(library: Path, old: str, new: Path, *, force: bool = False) -> list[Moved]:
    """Tells the library that what was at `old` is at `new` now. Nothing is read or encoded.

    old: a source by name or path, which takes those inside it along, or a folder above some. Files
    that kept their size and time count as known in the next run; the others are read then.

    force: also when none of the known files is there.

    Raises:
        UnknownNameError: there is no source at or below `old`.
        SourceError: there is nothing at `new`, or a file where a folder is needed.
        RefusedError: `new` belongs to another source, or holds none of the known files.
    """
    check_path(new)
    target = real(new)
    with _opened(library) as (writer, catalog):
        known = catalog.places()
        root, moving = _below(known, old)
        _check_kind(moving, root, new)
        places = {s.id: _moved(s.location, root, target) for s in moving}
        for source in moving:
            _check_free(source, places[source.id], known, places)
        limit = max(20, _COMPARED // len(moving))
        found = [
            _compare(writer.sources.some_files(source.id, limit), source, places[source.id])
            for source in moving
        ]
        if not force and any(m.compared for m in found) and not any(m.found for m in found):
            compared = sum(m.compared for m in found)
            raise RefusedError(
                f"none of the {compared:,} known files that were looked for is in {target}. Is it "
                "the right place? --force relocates all the same; what is not there is gone then"
            )
        writer.sources.move(places)
    return found


def _below(known: Sequence[SourcePlace], old: str) -> tuple[str, list[SourcePlace]]:
    """The path that `old` means, and the sources at or below it."""
    named = [source.location for source in known if source.name == old]
    for root in (*named, *_at(old)):
        moving = [source for source in known if is_within(source.location, root)]
        if moving:
            return root, moving
    raise UnknownNameError("source", old, [source.name for source in known])


def _check_kind(moving: Sequence[SourcePlace], root: str, new: Path) -> None:
    is_file = any(source.location == root and source.kind == "file" for source in moving)
    if is_file and new.is_dir():
        raise SourceError(str(new), f"this is a folder, and {root} is a file: name the file itself")
    if not is_file and not new.is_dir():
        raise SourceError(str(new), f"this is a file, and {root} is a folder")


def _moved(location: str, root: str, target: str) -> str:
    inside = location[len(root.rstrip("/")) :].lstrip("/")
    return f"{target.rstrip('/')}/{inside}" if inside else target


def _check_free(
    source: SourcePlace, place: str, known: Sequence[SourcePlace], places: dict[int, str]
) -> None:
    """Raises RefusedError when the new place of a source is one of another source, in part even."""
    if place == source.location:
        raise RefusedError(f"the source {source.name!r} is at {place} already")
    for other in known:
        if other.id in places:
            continue
        if other.location == place:
            how = f"{place} is a source already ({other.name!r})"
        elif other.kind == "folder" and is_within(place, other.location):
            how = f"{place} lies inside the source {other.name!r} ({other.location})"
        elif source.kind == "folder" and is_within(other.location, place):
            how = f"the source {other.name!r} ({other.location}) lies inside {place}"
        else:
            continue
        read, remove = shlex.quote(place), shlex.quote(source.name)
        raise RefusedError(
            f"{how}. Let it be read there, which encodes nothing again, and remove the old source: "
            f"mmsearch index {read}; mmsearch sources remove {remove}"
        )


def _compare(files: Sequence[tuple[str, int]], source: SourcePlace, place: str) -> Moved:
    """How many of these files, (path, size), are at the new place."""
    found = 0
    for path, size in files:
        at = place if source.kind == "file" else joined(place, path)
        try:
            found += os.stat(at).st_size == size  # noqa: PTH116 -- strings with surrogates
        except OSError:
            continue
    return Moved(source.name, source.location, place, len(files), found)


def count_removal(library: Path, given: str) -> tuple[SourcePlace, Removal]:
    """What `remove_source` would forget. Raises UnknownNameError."""
    with _opened(library) as (writer, catalog):
        source = find_source(catalog.places(), given)
        return source, writer.sources.count_removal(source.id)


def remove_source(library: Path, given: str) -> Removal:
    """Forgets a source, and for good what only its files held. Raises UnknownNameError."""
    with _opened(library) as (writer, catalog):
        source = find_source(catalog.places(), given)
        removal = writer.sources.remove(source.id, _Derived(library, catalog))
        _clear_up(library)
    return removal


def count_gone(library: Path, given: str | None) -> Removal:
    """What `forget_gone` would forget. Raises UnknownNameError."""
    with _opened(library) as (writer, catalog):
        return writer.sources.count_gone(_source_id(catalog, given))


def forget_gone(library: Path, given: str | None) -> Removal:
    """Forgets for good the files of a source (None: of all) that are gone.

    Raises UnknownNameError.
    """
    with _opened(library) as (writer, catalog):
        removal = writer.sources.forget_gone(_source_id(catalog, given), _Derived(library, catalog))
        _clear_up(library)
    return removal


def _source_id(catalog: Catalog, given: str | None) -> int | None:
    return None if given is None else find_source(catalog.places(), given).id


class _Derived:
    """Deletes what a library keeps outside of its catalog of contents that go for good."""

    def __init__(self, library: Path, catalog: Catalog) -> None:
        self._library = library
        self._erasure = Erasure(library / INDEX_FOLDER, catalog)

    def __call__(self, removal: Removal, lost: Lost, gone: bool) -> None:
        delete_thumbnails(self._library / THUMBS_FOLDER, lost.pictures())
        if removal.contents:
            delete_old_catalogs(self._library / CATALOG_NAME)
            # An index hides what is gone but holds its vectors on.
            if gone:
                self._erasure.finish()
            else:
                self._erasure.begin(lost.ids())


def _clear_up(library: Path) -> None:
    """After something was removed. First what gives space back: the rest may need it."""
    shrink_if_worth_it(library / CATALOG_NAME)
    _save_indexes(library)


def _save_indexes(library: Path) -> None:
    """Writes the index files that are worth writing anew."""
    with Library(library) as opened:
        opened.save_indexes()


# --- spaces -------------------------------------------------------------------------------------


def list_spaces(library: Path, catalog: Catalog) -> list[SpaceRecord]:
    """The spaces of an opened catalog, the oldest first."""
    return [
        SpaceRecord(item, _bytes(library, catalog, _space_id(catalog, item.space), item.space))
        for item in catalog.spaces()
    ]


def _space_id(catalog: Catalog, space: Space) -> int:
    found = catalog.find_space(space.name, space.fingerprint)
    assert found is not None
    return found[0]


def _bytes(library: Path, catalog: Catalog, space_id: int, space: Space) -> int:
    vectors = sum(catalog.vectors.count(space_id, modality) for modality in MODALITIES)
    files = (library / INDEX_FOLDER).glob(f"{space.fingerprint[:16]}-*")
    return 2 * space.dim * vectors + sum(file.stat().st_size for file in files)


def find_space(known: Sequence[SpaceStatus], given: str) -> SpaceStatus:
    """The space of this model, or whose fingerprint begins like this.

    Raises:
        UnknownNameError: there is none.
        RefusedError: there are several.
    """
    found = [item for item in known if item.space.name == given] or [
        item
        for item in known
        if len(given) >= _PREFIX and item.space.fingerprint.startswith(given.lower())
    ]
    if not found:
        try:
            name = presets.resolve(given)
        except ModelUnavailableError:
            name = given
        found = [item for item in known if item.space.name == name]
    if not found:
        raise UnknownNameError("space", given, [item.space.name for item in known])
    if len(found) > 1:
        several = ", ".join(item.space.fingerprint[:12] for item in found)
        raise RefusedError(
            f"{len(found)} spaces are meant by {given!r}. Name one by its fingerprint: {several}"
        )
    return found[0]


def use_space(library: Path, given: str) -> Space:
    """Lets searches use another space of the library. Returns it.

    Raises:
        UnknownNameError: there is no such space.
        RefusedError: something that searches find now has no vector in it.
    """
    with _opened(library) as (writer, catalog):
        item = find_space(catalog.spaces(), given)
        space_id, active = _space_id(catalog, item.space), catalog.active_space()
        if item.active or active is None:
            return item.space
        lacking = catalog.vectors.count_lacking(space_id, active[0])
        if lacking:
            name = item.space.name
            raise RefusedError(
                f"{counted(lacking, 'picture or text', 'pictures and texts')} without a vector of "
                f"{name} yet. This makes it, and switches then: "
                f"mmsearch index --model {shlex.quote(name)}"
            )
        writer.spaces.use(space_id)
        with Library(library) as opened:
            opened.save_indexes()
    return item.space


def plan_drop(library: Path, given: str) -> Drop:
    """What `drop_space` would delete. Raises UnknownNameError and RefusedError like it."""
    with _opened(library) as (_, catalog):
        return _plan_drop(library, catalog, given)[1]


def _plan_drop(library: Path, catalog: Catalog, given: str) -> tuple[int, Drop]:
    item = find_space(catalog.spaces(), given)
    active = catalog.active_space()
    if item.active or active is None:
        raise RefusedError(
            f"searches use {item.space.name} ({item.space.fingerprint[:12]}) now. Switch to "
            "another space first: mmsearch spaces use NAME, or mmsearch index --model NAME"
        )
    space_id = _space_id(catalog, item.space)
    size = _bytes(library, catalog, space_id, item.space)
    alone = catalog.vectors.count_lacking(active[0], space_id)
    return space_id, Drop(item.space, size, alone, active[1])


def drop_space(library: Path, given: str) -> Drop:
    """Deletes a space of the library with its vectors and its index files.

    Raises:
        UnknownNameError: there is no such space.
        RefusedError: searches use it.
    """
    with _opened(library) as (writer, catalog):
        space_id, drop = _plan_drop(library, catalog, given)
        # Before the catalog's rows: afterwards nobody would know whose files they are.
        manifest.delete(library / INDEX_FOLDER, drop.space)
        writer.spaces.drop(space_id)
        shrink_if_worth_it(library / CATALOG_NAME)
    return drop
