"""What an index file says of itself, in a small JSON file beside it. Needs no faiss."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from mmsearch.points import reached
from mmsearch.types import IndexStatus, Modality, Space

#: The FAISS factory string of exact search in half precision.
FACTORY = "SQfp16"


@dataclass(frozen=True, slots=True)
class Manifest:
    """Ties an index file to the space, the modality and the part of the catalog it covers.

    last_seq: everything committed up to here is in the file. bytes: the file's size. origin: tells
    the catalog from others that hold vectors of the same space.
    """

    space: str
    modality: str
    factory: str
    dim: int
    ntotal: int
    last_seq: int
    bytes: int
    origin: str


def index_file(folder: Path, space: Space, modality: Modality) -> Path:
    return folder / f"{space.fingerprint[:16]}-{modality}.faiss"


def read(path: Path) -> Manifest | None:
    """The manifest of an index file; None when there is none, or none that makes sense."""
    try:
        return Manifest(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def covered(path: Path, origin: str) -> int:
    """How many vectors of the catalog `origin` the index file holds; 0 if it cannot be trusted."""
    about = read(path)
    try:
        whole = about is not None and path.stat().st_size == about.bytes
    except OSError:
        return 0
    return about.ntotal if about is not None and whole and about.origin == origin else 0


def replace(temporary: Path, path: Path, manifest: Manifest) -> None:
    """Puts a finished index file and its manifest in the place of the old ones.

    The old manifest goes first and the new one comes last: a kill in between leaves a file without
    a manifest, which is rebuilt.
    """
    reached("index: written")
    path.with_suffix(".json").unlink(missing_ok=True)
    reached("index: old manifest gone")
    _move(temporary, path)
    reached("index: in place")
    temporary.write_text(json.dumps(asdict(manifest), indent=1), encoding="utf-8")
    _move(temporary, path.with_suffix(".json"))
    reached("index: finished")


def _move(temporary: Path, path: Path) -> None:
    """Moves a finished file into place so that a power cut leaves the old or the new one."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def status(modality: Modality, vectors: int, dim: int) -> IndexStatus:
    """How an index of `vectors` vectors is built: two bytes a dimension and an id of eight."""
    return IndexStatus(modality, FACTORY, vectors, 2.0 * dim + 8)
