"""`mmsearch export`: the vectors of a library and what belongs to them, for other programs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from indexer.exchange.layout import OURS, TEXTS, ShardWriter, write_manifest
from indexer.report import Progress, Silence
from mmsearch import __version__
from mmsearch.errors import IndexMissingError, StoreError
from mmsearch.points import reached
from mmsearch.store import lock
from mmsearch.store.backup import sync_folder
from mmsearch.store.exchange import as_stored, hashes
from mmsearch.types import ImageRecord, Modality, Space

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmsearch.library import Library

ROWS_A_SHARD = 1_000_000
"""What clip-retrieval's inference writes by default (write_batch_size)."""
_ROWS_A_WRITE = 16_384
_ROWS_A_PART = 4096
"""Contents whose records are looked up at once."""

_PICTURE = pa.schema(
    [
        ("image_path", pa.string()),
        ("caption", pa.string()),
        ("id", pa.int64()),
        ("hash", pa.string()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("taken_at", pa.timestamp("us")),
        ("camera", pa.string()),
        ("title", pa.string()),
        ("description", pa.string()),
        ("keywords", pa.list_(pa.string())),
        ("copies", pa.list_(pa.string())),
    ]
)
_GPS = [pa.field("latitude", pa.float64()), pa.field("longitude", pa.float64())]
_TEXT = pa.schema(
    [
        ("caption", pa.string()),
        ("image_path", pa.string()),
        ("id", pa.int64()),
        ("hash", pa.string()),
        ("source", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written. texts: distinct ones; rows of `texts`: one a text and picture it is for."""

    path: str
    model: str
    pictures: int
    texts: int
    text_rows: int
    shards: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Vectors:
    """Contents that can be found, some at a time: ids (n,), vectors (n, dim) float16."""

    library: Library
    space_id: int
    modality: Modality

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
        hidden = self.library.catalog.hidden(self.modality)
        for _, ids, vectors in self.library.catalog.vectors.after(self.space_id, self.modality, 0):
            for start in range(0, len(ids), _ROWS_A_PART):
                part = slice(start, start + _ROWS_A_PART)
                seen = ~np.isin(ids[part], hidden)
                if seen.any():
                    yield ids[part][seen], vectors[part][seen]


def export(
    library: Library,
    to: Path,
    *,
    rows_a_shard: int = ROWS_A_SHARD,
    gps: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Writes the vectors that searches use into the folder `to`; see indexer.exchange.

    to: must not exist or be empty; until it is whole it is called `to`.partial. gps: with the
    places where pictures were taken, which are left out otherwise.

    Memory: a few thousand rows. What is committed meanwhile may or may not be in it.

    Raises:
        IndexMissingError: the library is empty.
        StoreError: `to` is taken, or cannot be written; it is as it was.
    """
    active = library.catalog.active_space()
    if active is None:
        raise IndexMissingError(f"the library at {library.path} is empty: nothing to export")
    to = to.absolute()
    partial = to.with_name(f"{to.name}.partial")
    try:
        _check_place(library.path, to, partial)
        partial.mkdir(parents=True, exist_ok=True)
        # An export of the same name that is under way holds this; one that was killed does not.
        with lock.writing(partial):
            try:
                _clear(partial)
                report = _fill(library, partial, *active, rows_a_shard, gps, progress or Silence())
                reached("export: to be put in place")
                _put_in_place(partial, to)
                reached("export: in place")
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    except OSError as exc:
        raise StoreError(
            f"{to} cannot be written: {exc.strerror or exc}. Check that its disk has free space "
            "and can be written, or name a folder elsewhere"
        ) from exc
    return replace(report, path=str(to))


def _check_place(library: Path, to: Path, partial: Path) -> None:
    if to.resolve().is_relative_to(library.resolve()):
        raise StoreError(f"{to} is in the library itself: name a folder elsewhere")
    if to.is_symlink() or to.is_mount():
        raise StoreError(f"{to} is not a plain folder: name a new one in it, such as {to / 'new'}")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise StoreError(f"{to} is there already: name a folder that is not, or that is empty")
    if partial.exists() and not (
        partial.is_dir() and all(file.name in OURS for file in partial.iterdir())
    ):
        raise StoreError(f"{partial} is in the way, and is no unfinished export: move it away")


def _clear(partial: Path) -> None:
    """Deletes what a killed export left."""
    for path in partial.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.name.startswith("writer."):
            path.unlink()


def _put_in_place(partial: Path, to: Path) -> None:
    for file in partial.glob("writer.*"):
        file.unlink()
    for folder in (*(p for p in partial.rglob("*") if p.is_dir()), partial):
        sync_folder(folder)
    if to.exists():
        to.rmdir()  # empty: some systems put no folder in the place of another
    partial.rename(to)
    sync_folder(to.parent)


def _fill(
    library: Library,
    root: Path,
    space_id: int,
    space: Space,
    rows_a_shard: int,
    gps: bool,
    progress: Progress,
) -> ExportReport:
    schema = pa.schema([*_PICTURE, *_GPS]) if gps else _PICTURE
    vectors = library.catalog.vectors
    captioned = False
    progress.started("pictures", vectors.count(space_id, "image"))
    names = ("img_emb", "text_emb")
    with ShardWriter(root, space.dim, rows_a_shard, schema, names) as pictures:
        for ids, matrix in _Vectors(library, space_id, "image"):
            columns, keep, caption_ids = _picture_columns(library, ids.tolist(), gps)
            captions = _of(library, space_id, space.dim, caption_ids)
            captioned = captioned or any(id_ is not None for id_ in caption_ids)
            pictures.write(columns, {"img_emb": matrix[keep], "text_emb": captions})
            progress.advanced(len(ids))
    if not captioned and (root / "text_emb").exists():
        shutil.rmtree(root / "text_emb")
    progress.started("texts", vectors.count(space_id, "text"))
    count = 0
    with ShardWriter(root / TEXTS, space.dim, rows_a_shard, _TEXT, ("text_emb",)) as texts:
        for ids, matrix in _Vectors(library, space_id, "text"):
            columns, rows = _text_columns(library, ids.tolist())
            count += len(set(rows))
            for start in range(0, len(rows), _ROWS_A_WRITE):  # one text may be that of many
                part = slice(start, start + _ROWS_A_WRITE)
                texts.write(
                    {name: column[part] for name, column in columns.items()},
                    {"text_emb": matrix[rows[part]]},
                )
            progress.advanced(len(ids))
    write_manifest(
        root,
        space,
        {
            "pictures": pictures.rows,
            "texts": count,
            "text_rows": texts.rows,
            "gps": gps,
            "sources": [
                {"location": as_stored(source.location), "kind": source.kind}
                for source in library.sources()
                if source.images
            ],
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "mmsearch": __version__,
        },
    )
    return ExportReport(
        path=str(root),
        model=space.name,
        pictures=pictures.rows,
        texts=count,
        text_rows=texts.rows,
        shards=pictures.shards + texts.shards,
        bytes=sum(file.stat().st_size for file in root.rglob("*") if file.is_file()),
    )


def _picture_columns(
    library: Library, ids: Sequence[int], gps: bool
) -> tuple[dict[str, list[Any]], list[int], list[int | None]]:
    """The table's columns of those pictures that a file still holds; which of `ids` they are; and
    the ids of their captions."""
    catalog = library.catalog
    records = catalog.image_records(ids)
    digests = hashes(catalog, ids)
    linked = catalog.linked_texts(ids)
    first = {id_: linked[id_][0] for id_ in ids if linked.get(id_)}
    bodies = catalog.text_records(list(set(first.values())))
    keep = [row for row, id_ in enumerate(ids) if id_ in records]
    there = [records[ids[row]] for row in keep]
    caption_ids = [first[r.id] if first.get(r.id) in bodies else None for r in there]
    columns: dict[str, list[Any]] = {
        "image_path": [as_stored(record.path) for record in there],
        "caption": [None if id_ is None else bodies[id_].body for id_ in caption_ids],
        "id": [record.id for record in there],
        "hash": [digests.get(record.id) for record in there],
        "bytes": [record.bytes for record in there],
        "copies": [[as_stored(path) for path in record.copies] for record in there],
        "keywords": [list(record.info.keywords) for record in there],
    }
    for name in ("format", "width", "height", "taken_at", "camera", "title", "description"):
        columns[name] = [getattr(record.info, name) for record in there]
    for name in ("latitude", "longitude") if gps else ():
        columns[name] = [getattr(record.info, name) for record in there]
    return columns, keep, caption_ids


def _of(
    library: Library, space_id: int, dim: int, ids: Sequence[int | None]
) -> NDArray[np.float16]:
    """The vectors of these contents (n, dim); zeros where there is none."""
    out = np.zeros((len(ids), dim), np.float16)
    rows: dict[int, list[int]] = {}
    for row, id_ in enumerate(ids):
        if id_ is not None:
            rows.setdefault(id_, []).append(row)
    for found, vectors in library.catalog.vectors.of(space_id, list(rows)):
        for id_, vector in zip(found.tolist(), vectors, strict=True):
            out[rows[id_]] = vector
    return out


def _text_columns(library: Library, ids: Sequence[int]) -> tuple[dict[str, list[Any]], list[int]]:
    """The table's columns, a row for each text and picture it is for; and of which text each is."""
    catalog = library.catalog
    records = catalog.text_records(ids)
    pictures: dict[int, ImageRecord] = catalog.image_records(
        list({image for record in records.values() for image in record.image_ids})
    )
    digests = hashes(catalog, ids)
    columns: dict[str, list[Any]] = {name: [] for name in _TEXT.names}
    rows = []
    for row, id_ in enumerate(ids):
        record = records.get(id_)
        if record is None:
            continue
        paths: list[str | None] = [pictures[i].path for i in record.image_ids if i in pictures]
        for path in paths or [None]:
            rows.append(row)
            columns["caption"].append(record.body)
            columns["image_path"].append(None if path is None else as_stored(path))
            columns["id"].append(id_)
            columns["hash"].append(digests.get(id_))
            columns["source"].append(as_stored(record.source))
    return columns, rows
