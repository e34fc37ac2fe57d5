"""What is to be classified, as vectors: picture files, texts of a file, items of the library."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexer.load import Loader
from indexer.prepare import Job, Loaded
from indexer.sources import entry_for, scan
from indexer.texts import BadText, read_texts
from mmsearch import archive
from mmsearch.archive import Member
from mmsearch.batches import batches
from mmsearch.errors import QueryError, SourceError, os_reason
from mmsearch.filenames import spelled
from mmsearch.overview import (
    ScanProblem,
)
from mmsearch.store import Catalog, CatalogWriter
from mmsearch.store.lock import writing
from mmsearch.types import (
    DEFAULT_LIMITS,
    DecodeLimits,
    Modality,
)

if TYPE_CHECKING:
    from mmsearch.encode import Encoder, TextEncoder

#: A GPU wants more at once than a CPU; 64 pictures of 224 pixels are 10 MB.
_PICTURES_A_BATCH = 64
_PICTURES_AHEAD = 2 * _PICTURES_A_BATCH
_ITEMS_A_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Item:
    """Something to be classified.

    name: path of a picture, or the text itself. vector: (dim,) float32; None where it could not be
    used (`reason`). content_id: its id in the library, None where the library does not know it.
    """

    name: str
    vector: NDArray[np.float32] | None = None
    content_id: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """A catalog whose vectors of one space spare encoding what it knows."""

    catalog: Catalog
    space_id: int

    def id_of(self, digest: bytes) -> int | None:
        """The picture of these bytes, if it has a vector."""
        return self.catalog.vectors.embedded(self.space_id, "image", [digest]).get(digest)


def pictures(
    paths: Sequence[Path],
    encoder: Callable[[], Encoder],
    *,
    known: Known | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> Iterator[list[Item]]:
    """The pictures of files, folders and archives, in batches; read ahead while the model encodes.

    encoder: loads lazily; it is not called when `known` has all vectors. What cannot be used comes
    with its reason.

    Raises:
        SourceError: there is nothing at a path.
    """
    for path in paths:
        if not path.exists():
            raise SourceError(str(path), "there is no such file or folder")
    problems: list[Item] = []
    loader = Loader(encoder, known.id_of if known else _unknown, limits=limits)
    loaded = loader.load(_jobs(paths, problems), _PICTURES_AHEAD)
    for part in batches(loaded, _PICTURES_A_BATCH):
        yield [*_drain(problems), *_items(part, encoder, known)]
    if problems:
        yield _drain(problems)


def _unknown(_digest: bytes) -> None:
    return None


def _drain(problems: list[Item]) -> list[Item]:
    drained = problems[:]
    problems.clear()
    return drained


def _jobs(paths: Sequence[Path], problems: list[Item]) -> Iterator[Job]:
    for path in paths:
        is_folder = path.is_dir()
        folder = path if is_folder else path.parent
        for entry in scan(path) if is_folder else [entry_for(path)]:
            if isinstance(entry, ScanProblem):
                # Links and pipes inside a folder are passed over, as indexing does.
                if entry.closed or not is_folder:
                    problems.append(Item(str(folder / entry.path), reason=entry.reason))
                continue
            where = str(folder / entry.path)
            if entry.kind == "image":
                yield Job(where, where, "", entry.size, entry.mtime_ns)
            elif entry.kind == "archive":
                for member in archive.members(Path(where)):
                    if isinstance(member, Member):
                        name = f"{where}!/{member.name}"
                        yield Job(name, where, member.name, member.size, 0, member.data)
                    else:
                        problems.append(Item(f"{where}!/{member.path}", reason=member.reason))
            elif not is_folder:
                reason = "not a picture; --texts FILE classifies texts"
                problems.append(Item(where, reason=reason))


def _items(
    loaded: Sequence[Loaded], encoder: Callable[[], Encoder], known: Known | None
) -> list[Item]:
    new = [item for item in loaded if item.pixels is not None]
    rows: dict[int, NDArray[np.float32]] = {}
    if new:
        found = encoder().encode_images(np.stack([i.pixels for i in new if i.pixels is not None]))
        rows = {id(item): row for item, row in zip(new, found, strict=True)}
    if known is not None:
        ids = {item.content_id for item in loaded if item.content_id is not None}
        stored = {
            int(i): row.astype(np.float32)
            for some, vectors in known.catalog.vectors.of(known.space_id, sorted(ids))
            for i, row in zip(some, vectors, strict=True)
        }
    return [
        Item(item.job.path, rows[id(item)])
        if item.pixels is not None
        else Item(item.job.path, stored.get(item.content_id), item.content_id, item.reason)
        if item.content_id is not None
        else Item(item.job.path, reason=item.reason)
        for item in loaded
    ]


def texts(path: Path, encoder: TextEncoder) -> Iterator[list[Item]]:
    """The texts of a file of any kind that `mmsearch index --captions` reads, in batches.

    Raises:
        SourceError: there is no such file.
    """
    if not path.is_file():
        raise SourceError(str(path), "there is no such file")
    for part in batches(read_texts(path), 256):
        good = [item.body for item in part if not isinstance(item, BadText)]
        vectors = iter(encoder.encode_texts(good))
        yield [
            Item(f"{path}:{item.key}", reason=item.reason)
            if isinstance(item, BadText)
            else Item(item.body, next(vectors))
            for item in part
        ]


def stored(
    catalog: Catalog,
    space_id: int,
    modality: Modality,
    only: NDArray[np.int64] | None = None,
) -> Iterator[list[Item]]:
    """What the library holds and shows of one modality, by its stored vectors, in batches.

    only: ids to keep to. Nothing is read but the catalog.
    """
    hidden = catalog.hidden(modality)
    if only is not None:
        chunks: Iterable[tuple[NDArray[np.int64], NDArray[np.float16]]] = catalog.vectors.of(
            space_id, only.tolist()
        )
    else:
        chunks = ((ids, found) for _, ids, found in catalog.vectors.after(space_id, modality, 0))
    for ids, vectors in chunks:
        keep = ~np.isin(ids, hidden)
        for start in range(0, len(ids), _ITEMS_A_BATCH):
            part = np.flatnonzero(keep[start : start + _ITEMS_A_BATCH]) + start
            names = _names(catalog, modality, ids[part].tolist())
            found_items = [
                Item(names[int(ids[row])], vectors[row].astype(np.float32), int(ids[row]))
                for row in part
                if int(ids[row]) in names
            ]
            if found_items:
                yield found_items


def _names(catalog: Catalog, modality: Modality, ids: Sequence[int]) -> dict[int, str]:
    if modality == "image":
        return {id_: record.path for id_, record in catalog.image_records(ids).items()}
    return {id_: record.body for id_, record in catalog.text_records(ids).items()}


class Truth:
    """What is so: by the folder that a picture lies in, or by a table."""

    def __init__(self, table: Mapping[str, str] | None, folder: Path | None = None) -> None:
        """table: path (or text) → label; None takes the name of the parent folder. folder: what
        paths of the table are relative to."""
        self._table = table
        self._folder = folder

    @classmethod
    def read(cls, given: str) -> Truth:
        """ "folders", or a CSV file of path (or file name, or text) and label, with or without a
        head.

        Raises:
            SourceError: it cannot be read. QueryError: it is no such table.
        """
        if given == "folders":
            return cls(None)
        path = Path(given)
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = [row for row in csv.reader(file) if row]
        except OSError as exc:
            raise SourceError(given, os_reason(exc)) from exc
        except (UnicodeDecodeError, csv.Error) as exc:
            raise QueryError(f"{given} is not a CSV file in UTF-8: {exc}") from exc
        short = next((n for n, row in enumerate(rows, 1) if len(row) < 2), None)
        if short is not None:
            raise QueryError(f"{given}: row {short} has no label; each needs: path,label")
        table = {row[0]: " ".join(row[1].split()) for row in rows}
        # As `find .` writes paths, too.
        return cls(
            {str(PurePath(name)): label for name, label in table.items()} | table, path.parent
        )

    def of(self, name: str) -> str | None:
        """The label of an item by its name; None where nothing is said of it."""
        if self._table is None:
            file = name.partition("!/")[0]
            # Of a picture in the folder that one is in ("." or "a.jpg") the name is told by where.
            there = os.path.exists(file)  # noqa: PTH110 -- texts are too long for Path.exists
            return PurePath(spelled(file) if there else file).parent.name or None
        if name in self._table:
            return self._table[name]
        path = PurePath(name)
        if self._folder is not None:
            base = PurePath(self._folder.resolve())
            for whole in (path, PurePath(Path(name).resolve())):
                if whole.is_relative_to(base) and str(whole.relative_to(base)) in self._table:
                    return self._table[str(whole.relative_to(base))]
        return self._table.get(path.name)


def write_tags(
    library: Path,
    catalog_name: str,
    found: Mapping[int, Sequence[tuple[str, float]]],
    names: Sequence[str],
) -> int:
    """Writes what was found into the catalog, under the library's lock; how many tags.

    Raises:
        LibraryLockedError: another process is writing. RefusedError: a name cannot be a tag.
    """
    with writing(library), closing(CatalogWriter(library / catalog_name)) as writer:
        return writer.tags.classified(found, names)
