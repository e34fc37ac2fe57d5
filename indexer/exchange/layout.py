"""The files of exported embeddings: their names, their shapes, how they are written and read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmsearch.errors import RefusedError, SourceError, os_reason
from mmsearch.filenames import straightened, utf8_name
from mmsearch.store.backup import sync
from mmsearch.types import Space

if TYPE_CHECKING:
    from numpy.typing import NDArray

MANIFEST = "mmsearch.json"
TEXTS = "texts"
METADATA = "metadata"
FORMAT = "mmsearch embeddings"
VERSION = 1
#: All that an export holds: what else is in a folder is somebody's.
OURS = frozenset({
    MANIFEST, TEXTS, METADATA, "img_emb", "text_emb", "writer.lock", "writer.pid", "writer.pid.new",
})  # fmt: skip

_HEADER_BYTES = 128
_MAGIC = b"\x93NUMPY"
_MAX_MANIFEST_BYTES = 64 << 20


# --- writing ------------------------------------------------------------------------------------


class _NpyWriter:
    """A .npy file (n, dim) float16 whose n is known at the end.

    The header, of version 1.0, has room for any n:
    https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """

    def __init__(self, path: Path, dim: int) -> None:
        self._path = path
        self._dim = dim
        self._rows = 0
        self._file: IO[bytes] = path.open("wb")
        self._file.write(self._header())

    def _header(self) -> bytes:
        about = (
            f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({self._rows}, {self._dim}), }}"
        )
        room = _HEADER_BYTES - 10
        return (
            b"\x93NUMPY\x01\x00"
            + room.to_bytes(2, "little")
            + about.encode("ascii").ljust(room - 1)
            + b"\n"
        )

    def write(self, rows: NDArray[np.float16]) -> None:
        self._file.write(np.ascontiguousarray(rows, "<f2").tobytes())
        self._rows += len(rows)

    def close(self) -> None:
        self._file.seek(0)
        self._file.write(self._header())
        self._file.close()
        sync(self._path)


class ShardWriter:
    """Rows into numbered files: matrices and the table that goes with them."""

    def __init__(
        self, root: Path, dim: int, rows_a_shard: int, schema: pa.Schema, matrices: Sequence[str]
    ) -> None:
        """matrices: "img_emb", "text_emb"; each has a row for every row of the table."""
        self._root = root
        self._dim = dim
        self._most = rows_a_shard
        self._schema = schema
        self._matrices = tuple(matrices)
        self._open: dict[str, _NpyWriter] = {}
        self._table: pq.ParquetWriter | None = None
        self._table_file: IO[bytes] | None = None
        self._rows = 0
        self.shards = 0
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
        if error is None:
            self._rename()

    def write(
        self, columns: Mapping[str, Sequence[Any]], vectors: Mapping[str, NDArray[np.float16]]
    ) -> None:
        """Rows of the table and of every matrix; the schema's columns, all of one length."""
        table = pa.Table.from_pydict(dict(columns), schema=self._schema)
        start = 0
        while start < table.num_rows:
            if self._table is None or self._rows == self._most:
                self._begin()
            assert self._table is not None
            end = min(table.num_rows, start + self._most - self._rows)
            self._table.write_table(table.slice(start, end - start))
            for name, writer in self._open.items():
                writer.write(vectors[name][start:end])
            self._rows += end - start
            self.rows += end - start
            start = end

    def _path(self, name: str, number: str) -> Path:
        suffix = ".parquet" if name == METADATA else ".npy"
        return self._root / name / f"{name}_{number}{suffix}"

    def _begin(self) -> None:
        self._close()
        for name in (*self._matrices, METADATA):
            (self._root / name).mkdir(parents=True, exist_ok=True)
        number = str(self.shards)
        # Opened here: pyarrow takes no names that are not UTF-8.
        self._table_file = self._path(METADATA, number).open("wb")
        self._table = pq.ParquetWriter(self._table_file, self._schema)
        self._open = {n: _NpyWriter(self._path(n, number), self._dim) for n in self._matrices}
        self._rows = 0
        self.shards += 1

    def _close(self) -> None:
        if self._table is not None:
            assert self._table_file is not None
            self._table.close()
            self._table_file.close()
            sync(self._path(METADATA, str(self.shards - 1)))
            for writer in self._open.values():
                writer.close()
        self._table, self._open = None, {}

    def _rename(self) -> None:
        """Numbers of one length, so that an order by name is their order."""
        digits = len(str(max(0, self.shards - 1)))
        for number in range(self.shards):
            for name in (METADATA, *self._matrices):
                old, new = str(number), str(number).zfill(digits)
                if old != new:
                    self._path(name, old).rename(self._path(name, new))


def write_manifest(root: Path, space: Space, about: Mapping[str, Any]) -> None:
    """Says whose vectors these are, and how many rows there are: `pictures` and `text_rows`."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "space": {
            "name": space.name,
            "dim": space.dim,
            "fingerprint": space.fingerprint,
            "preprocessing": space.preprocessing,
        },
        **about,
    }
    path = root / MANIFEST
    path.write_text(json.dumps(document, indent=2, ensure_ascii=True) + "\n", encoding="ascii")
    sync(path)


# --- reading ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shard:
    """Files of one number. A matrix that is not there is None."""

    metadata: Path
    rows: int
    img_emb: Path | None
    text_emb: Path | None

    def matrix(self, path: Path) -> NDArray[Any]:
        """A matrix (rows, dim), mapped."""
        return _matrix(path)


@dataclass(frozen=True, slots=True)
class Found:
    """Embeddings as they lie in a folder.

    pictures, texts: the shards that those are taken from. dim: of all matrices. space: as
    mmsearch.json names it, and sources: the places it names; None and empty where there is none.
    """

    root: Path
    dim: int
    pictures: tuple[Shard, ...]
    texts: tuple[Shard, ...]
    space: Space | None = None
    sources: tuple[tuple[str, str], ...] = ()


def find(root: Path) -> Found:
    """What lies in a folder of embeddings, ours or clip-retrieval's; vectors are not read yet.

    Raises:
        SourceError: there is no such folder, no embeddings in it, or they cannot be read.
        RefusedError: their files do not go together.
    """
    if not root.is_dir():
        raise SourceError(str(root), "no such folder")
    space, sources, promised = _manifest(root)
    upper = _shards(root)
    # Ours has every text below `texts`; the upper one is the first caption of each picture.
    lower = _shards(root / TEXTS) if space is not None else upper
    pictures = tuple(shard for shard in upper if shard.img_emb is not None)
    texts = tuple(shard for shard in lower if shard.text_emb is not None)
    if not pictures and not texts and (space is None or upper or lower):
        raise SourceError(
            str(root),
            "no embeddings: img_emb/img_emb_0.npy or text_emb/text_emb_0.npy, and "
            "metadata/metadata_0.parquet are looked for",
        )
    for what, shards in (("pictures", pictures), ("text_rows", texts)):
        rows = sum(shard.rows for shard in shards)
        if promised.get(what, rows) != rows:
            raise RefusedError(
                f"{root} holds {rows:,} rows of {what.removesuffix('_rows')}, and its "
                f"{MANIFEST} promises {promised[what]:,}: files are missing. Export again"
            )
    dims = {_matrix(p).shape[1] for s in pictures for p in (s.img_emb,) if p is not None}
    dims |= {_matrix(p).shape[1] for s in texts for p in (s.text_emb,) if p is not None}
    dims |= {space.dim} if space is not None else set()
    if len(dims) > 1:
        raise RefusedError(
            f"{root} holds vectors of {' and '.join(map(str, sorted(dims)))} dimensions: they are "
            "not of one model. Take the files of one run"
        )
    return Found(root, dims.pop() if dims else 0, pictures, texts, space, sources)


def _shards(root: Path) -> list[Shard]:
    shards = []
    for file in sorted((root / METADATA).glob("metadata_*.parquet"), key=_number):
        number = file.stem.removeprefix("metadata_")
        matrices = {}
        rows = _rows(file)
        for name in ("img_emb", "text_emb"):
            path = root / name / f"{name}_{number}.npy"
            matrices[name] = path if path.exists() else None
            if path.exists() and len(_matrix(path)) != rows:
                raise RefusedError(
                    f"{path} has {len(_matrix(path)):,} rows and {file.name} {rows:,}: they are "
                    "not of one run, or one is not whole. Export or compute them again"
                )
        shards.append(Shard(file, rows, matrices["img_emb"], matrices["text_emb"]))
    _check_whole(root, shards)
    return shards


def _check_whole(root: Path, shards: Sequence[Shard]) -> None:
    """Raises RefusedError where a file of a run is there and those that go with it are not."""
    for name, column in (("img_emb", "image_path"), ("text_emb", "caption")):
        having = {getattr(shard, name): shard for shard in shards if getattr(shard, name)}
        for path in sorted((root / name).glob(f"{name}_*.npy")):
            if path not in having:
                table = path.stem.replace(name, METADATA)
                raise RefusedError(
                    f"{path} has no {METADATA}/{table}.parquet that says what its rows are: a "
                    "file is missing. Copy it here, or export or compute them again"
                )
        for shard in shards if having else ():
            if getattr(shard, name) is None:
                number = shard.metadata.stem.removeprefix(f"{METADATA}_")
                raise RefusedError(
                    f"{shard.metadata} has no {name}/{name}_{number}.npy, as other tables have: a "
                    "file is missing. Copy it here, or export or compute them again"
                )
        for shard in having.values():
            there = _table(shard.metadata).schema_arrow.names
            if column not in there:
                raise RefusedError(
                    f"{shard.metadata} has no column {column}, which says what the rows of {name} "
                    f"are; it has: {', '.join(there) or 'none'}"
                )


def _number(file: Path) -> tuple[int, str]:
    digits = re.sub(r"\D", "", file.stem)
    return int(digits or 0), file.name


def _rows(file: Path) -> int:
    return int(_table(file).metadata.num_rows)


def _table(file: Path) -> pq.ParquetFile:
    try:
        with utf8_name(file) as name:
            return pq.ParquetFile(name)
    except OSError as exc:
        raise SourceError(str(file), os_reason(exc)) from exc
    except pa.ArrowException as exc:
        said = str(exc).split("\n", 1)[0][:100].lower()
        raise SourceError(str(file), f"not Parquet ({said})") from exc


def _matrix(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:  # np.load takes archives and pickles too
                raise SourceError(str(path), "not a .npy file")
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        if "Python objects" in str(exc):
            reason = "it holds Python objects, which are not loaded: save it as float16"
        else:
            reason = os_reason(exc) if isinstance(exc, OSError) else "not a whole .npy file"
        raise SourceError(str(path), reason) from exc
    if matrix.ndim != 2 or matrix.dtype.kind != "f":
        raise SourceError(
            str(path), f"not a matrix of vectors ({matrix.dtype}, {matrix.ndim} dimensions)"
        )
    found: NDArray[Any] = matrix
    return found


def read_columns(
    shard: Shard, names: Sequence[str], size: int
) -> Iterator[tuple[int, dict[str, list[Any]]]]:
    """The table in parts of up to `size` rows: the first row's number, and these columns.

    A column that is not there is all None. Raises SourceError.
    """
    table = _table(shard.metadata)
    there = [name for name in names if name in table.schema_arrow.names]
    row = 0
    try:
        for batch in table.iter_batches(batch_size=size, columns=there):
            part = {n: batch.column(i).to_pylist() for i, n in enumerate(batch.schema.names)}
            n = len(next(iter(part.values()))) if part else batch.num_rows
            yield row, {name: part.get(name, [None] * n) for name in names}
            row += n
    except (pa.ArrowException, UnicodeDecodeError, OSError) as exc:
        said = str(exc).split("\n", 1)[0][:100].lower()
        raise SourceError(str(shard.metadata), f"damaged ({said})") from exc


def _manifest(
    root: Path,
) -> tuple[Space | None, tuple[tuple[str, str], ...], dict[str, int]]:
    """The space, the sources, and how many rows of what there should be."""
    path = root / MANIFEST
    try:
        if not path.exists():
            return None, (), {}
        with path.open("rb") as file:
            document = json.loads(file.read(_MAX_MANIFEST_BYTES))
    except OSError as exc:
        raise SourceError(str(path), os_reason(exc)) from exc
    except (ValueError, RecursionError) as exc:
        raise SourceError(str(path), "not JSON") from exc
    try:
        if document["format"] != FORMAT or document["version"] > VERSION:
            raise SourceError(
                str(path), "written by another program, or by a newer mmsearch: upgrade this one"
            )
        about = document["space"]
        space = Space(
            str(about["name"]),
            int(about["dim"]),
            str(about["fingerprint"]),
            str(about["preprocessing"]),
        )
        sources = tuple((str(s["location"]), str(s["kind"])) for s in document.get("sources", ()))
        promised = {n: int(document[n]) for n in ("pictures", "text_rows") if n in document}
    except (KeyError, TypeError, ValueError) as exc:
        raise SourceError(str(path), "it does not say whose vectors these are") from exc
    places = tuple((straightened(location), kind) for location, kind in sources)
    return space, places, promised
