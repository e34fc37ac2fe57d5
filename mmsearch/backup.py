"""A consistent copy of a library, made while it is searched and written."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mmsearch.errors import LibraryNotFoundError, StoreError
from mmsearch.index import copy as index_copy
from mmsearch.library import CATALOG_NAME, INDEX_FOLDER, UPLOADS_FOLDER
from mmsearch.points import reached
from mmsearch.store import Catalog, lock
from mmsearch.store import engine as db
from mmsearch.store.backup import copy_catalog, renew_origins, sync, sync_folder
from mmsearch.types import Space

#: All that an unfinished backup holds: a folder with anything else in it is somebody's.
_OURS = (CATALOG_NAME, INDEX_FOLDER, UPLOADS_FOLDER, "writer.")


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup holds. bytes: on disk; index_files: copied with it, the rest is rebuilt."""

    path: str
    images: int
    texts: int
    bytes: int
    index_files: int


def backup(library: Path, to: Path, *, with_index: bool = False) -> BackupReport:
    """Copies the library to the folder `to`, which must not exist or be empty.

    The copy is a library of its own: the catalog as it was at one moment, brought to the newest
    schema, checked. Indexes and thumbnails are made again when they are needed; with `with_index`
    the index files that can be trusted are copied too. What was uploaded is copied always; keys
    never are. Until it is whole it is called `to`.partial.

    Raises:
        LibraryNotFoundError: there is no library to copy.
        StoreError: the copy cannot be made, with the reason; `to` is as it was.
    """
    if db.schema_version(library / CATALOG_NAME) is None:
        raise LibraryNotFoundError(str(library))
    to = to.absolute()
    _check_place(library, to)
    partial = to.with_name(f"{to.name}.partial")
    _check_leftover(partial)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        # A backup of the same name that is under way holds this lock; one that was killed does not.
        with lock.writing(partial):
            try:
                _clear(partial)
                _fill(library, partial, with_index=with_index)
                report = _report(partial, to)
                reached("backup: to be put in place")
                _put_in_place(partial, to)
                reached("backup: in place")
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    except OSError as exc:
        raise StoreError(
            f"{to} cannot be written: {exc.strerror or exc}. Check that its disk has free space "
            "and can be written, or name a folder elsewhere"
        ) from exc
    return report


def _check_place(library: Path, to: Path) -> None:
    if to.resolve().is_relative_to(library.resolve()):
        raise StoreError(f"{to} is in the library itself: name a folder elsewhere")
    if to.is_symlink() or to.is_mount():
        raise StoreError(f"{to} is not a plain folder: name a new one in it, such as {to / 'copy'}")
    try:
        taken = to.exists() and (not to.is_dir() or any(to.iterdir()))
    except OSError as exc:
        raise StoreError(f"{to} cannot be looked at: {exc.strerror}") from exc
    if taken:
        raise StoreError(f"{to} is there already: name a folder that is not, or that is empty")


def _check_leftover(partial: Path) -> None:
    if partial.is_dir() and not all(f.name.startswith(_OURS) for f in partial.iterdir()):
        raise StoreError(f"{partial} is in the way, and is no unfinished backup: move it away")


def _clear(partial: Path) -> None:
    """Deletes what a killed backup left."""
    for file in partial.glob(f"{CATALOG_NAME}*"):
        file.unlink()
    for folder in (INDEX_FOLDER, UPLOADS_FOLDER):
        if (partial / folder).is_dir():
            shutil.rmtree(partial / folder)


def _fill(library: Path, partial: Path, *, with_index: bool) -> None:
    if with_index:
        # Before the catalog: an index may lack what came last, and must not know more than it.
        index_copy.copy_files(library / INDEX_FOLDER, partial / INDEX_FOLDER)
    copy = partial / CATALOG_NAME
    copy_catalog(library / CATALOG_NAME, copy)
    db.prepare(copy, keep_old=False)
    before = _origins(copy)
    renew_origins(copy)
    now = _origins(copy)
    index_copy.adopt(
        partial / INDEX_FOLDER, {space: (before[space], origin) for space, origin in now.items()}
    )
    if (library / UPLOADS_FOLDER).is_dir():
        # After the catalog: what it names is there, unless it was deleted meanwhile.
        hidden = shutil.ignore_patterns(".*")
        shutil.copytree(library / UPLOADS_FOLDER, partial / UPLOADS_FOLDER, ignore=hidden)
    for file in partial.rglob("*"):
        if file.is_file():
            sync(file)
        else:
            sync_folder(file)


def _origins(path: Path) -> dict[Space, str]:
    with closing(Catalog(path, read_only=True)) as catalog:
        return catalog.origins()


def _report(partial: Path, to: Path) -> BackupReport:
    with closing(Catalog(partial / CATALOG_NAME, read_only=True)) as copy:
        counts = copy.counts()
    files = [*partial.glob(f"{CATALOG_NAME}*"), *(partial / INDEX_FOLDER).glob("*")]
    return BackupReport(
        path=str(to),
        images=counts["images"],
        texts=counts["texts"],
        bytes=sum(file.stat().st_size for file in files),
        index_files=sum(file.suffix == ".faiss" for file in files),
    )


def _put_in_place(partial: Path, to: Path) -> None:
    # The lock on it stays with this process until it lets go; the copy needs neither file.
    for file in partial.glob("writer.*"):
        file.unlink()
    sync_folder(partial)
    if to.exists():
        to.rmdir()  # empty: some systems put no folder in the place of another
    partial.rename(to)
    sync_folder(to.parent)
