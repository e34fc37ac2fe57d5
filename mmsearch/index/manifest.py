"""What an index file says of itself, in a small JSON file beside it. Needs no faiss.

An index file is what FAISS writes (a head, the vectors, their content ids), and behind it the ids
of the contents that were left out because they were hidden.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mmsearch.errors import StoreError, VectorIndexError, os_reason
from mmsearch.overview import (
    IndexStatus,
)
from mmsearch.points import reached
from mmsearch.types import (
    Modality,
    Space,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

#: The FAISS factory string of exact search in half precision.
FACTORY = "SQfp16"


#: Bytes at the start of a file that its checksum covers: more than FAISS's head has.
HEAD_BYTES = 4096
_ID_BYTES = 8
#: What stands before the ids: their number.
_LENGTH_BYTES = 8
#: The share of an index that may differ from its file before that is written anew.
_CHANGE_ALLOWED = 0.1


@dataclass(frozen=True, slots=True)
class Manifest:
    """Ties an index file to the space, the modality and the part of the catalog it covers.

    ntotal: how many vectors it holds. left_out: how many hidden contents it leaves out. last_seq:
    everything committed up to here is in the file, or left out. last_content, last_vector: whose
    vector arrived last in the catalog, of any modality, and its SHA-256. bytes: the file's size.
    head, ids: CRC-32 of its first 4 KiB, and of all the ids at its end. origin: tells the catalog
    from others that hold vectors of the same space.
    """

    space: str
    modality: str
    factory: str
    dim: int
    ntotal: int
    left_out: int
    last_seq: int
    last_content: int
    last_vector: str
    bytes: int
    head: int
    ids: int
    origin: str


def index_file(folder: Path, space: Space, modality: Modality) -> Path:
    return folder / f"{space.fingerprint[:16]}-{modality}.faiss"


def read(path: Path) -> Manifest | None:
    """The manifest of an index file; None when there is none, or none that makes sense.

    Also when it cannot be read, with a warning: then the file is of no use either.
    """
    try:
        about = Manifest(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    except OSError as exc:
        logger.warning("%s cannot be read (%s)", path.with_suffix(".json"), os_reason(exc))
        return None
    # The annotations are the names of the types: see `from __future__` above.
    if any(type(getattr(about, field.name)).__name__ != field.type for field in fields(about)):
        return None
    return about if min(about.ntotal, about.left_out, about.last_seq) >= 0 else None


def trusted(path: Path, space: Space, modality: Modality, origin: str) -> Manifest | None:
    """The manifest of an index file that fits it; None, and told, where the file is of no use.

    The vectors themselves are not read: damage among them is for `mmsearch doctor` to find.

    Raises:
        OSError: it cannot be read.
    """
    about = read(path)
    if about is None or not path.exists():
        return None
    wanted = (space.fingerprint, modality, FACTORY, space.dim, origin)
    if (about.space, about.modality, about.factory, about.dim, about.origin) != wanted:
        logger.warning("%s is not the index of this library: rebuilding", path)
        return None
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != about.bytes or checksums(
            file, about.ntotal + about.left_out
        ) != (about.head, about.ids):
            logger.warning("%s is damaged: rebuilding", path)
            return None
    return about


def overgrown(came: int, went: int, visible: int) -> bool:
    """Whether so much came into an index or went from it since its file was written, of what can be
    found, that the file is worth writing anew."""
    return max(came, went) > _CHANGE_ALLOWED * visible


def digest(vector: bytes) -> str:
    """What stands for a vector, as the catalog stores it, in `Manifest.last_vector`."""
    return hashlib.sha256(vector).hexdigest()


def checksums(file: BinaryIO, n: int) -> tuple[int, int]:
    """CRC-32 of the head of an index file, and of the n ids at its end."""
    file.seek(0)
    head = zlib.crc32(file.read(HEAD_BYTES))
    file.seek(-min(n * _ID_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
    return head, zlib.crc32(file.read())


def read_ids(path: Path, about: Manifest) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ids of the contents in an index file, (ntotal,), and of those left out, (left_out,).

    Both grow strictly. Raises OSError when the file cannot be read.
    """
    import numpy as np

    n = about.ntotal + about.left_out
    with path.open("rb") as file:
        file.seek(about.bytes - n * _ID_BYTES)
        ids = np.frombuffer(file.read(n * _ID_BYTES), "<i8").astype(np.int64)
    return ids[: about.ntotal], ids[about.ntotal :]


def vectors_at(about: Manifest) -> int:
    """Where in an index file the vectors begin, which lie one after the other up to the ids."""
    ids = about.bytes - (about.ntotal + about.left_out) * _ID_BYTES
    return ids - _LENGTH_BYTES - about.ntotal * 2 * about.dim


def read_vectors(path: Path, about: Manifest, rows: int) -> Iterator[NDArray[np.float16]]:
    """The vectors of an index file in the order of its ids, in blocks (n, dim) of n <= `rows`: only
    such a one is in memory. Raises OSError when the file cannot be read."""
    import numpy as np

    with path.open("rb") as file:
        file.seek(vectors_at(about))
        for start in range(0, about.ntotal, rows):
            size = min(rows, about.ntotal - start) * 2 * about.dim
            data = file.read(size)
            if len(data) < size:
                raise OSError(errno.EIO, f"{path.name} is shorter than it was")
            yield np.frombuffer(data, "<f2").reshape(-1, about.dim)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Around what writes an index file or its manifest: a disk that does not take it is told as
    VectorIndexError, and no half of a file stays, whatever ends the writing: the vectors come from
    the catalog meanwhile, which may fail as well."""
    try:
        yield
    except BaseException as exc:
        with contextlib.suppress(OSError):
            path.with_suffix(".tmp").unlink(missing_ok=True)
        if not isinstance(exc, OSError):
            raise
        raise VectorIndexError(
            f"the index file {path} could not be written: {exc.strerror or exc}. The catalog has "
            "everything and is safe; free some space, or check the disk, and run the command again"
        ) from exc


def replace(temporary: Path, path: Path, manifest: Manifest) -> None:
    """Puts a finished index file and its manifest in the place of the old ones.

    The old manifest goes first and the new one comes last: a kill in between leaves a file without
    a manifest, which is rebuilt.
    """
    reached("index: written")
    path.with_suffix(".json").unlink(missing_ok=True)
    reached("index: old manifest gone")
    move(temporary, path)
    reached("index: in place")
    temporary.write_text(json.dumps(asdict(manifest), indent=1), encoding="utf-8")
    move(temporary, path.with_suffix(".json"))
    reached("index: finished")


def amend(path: Path, manifest: Manifest) -> None:
    """Says something else of the same file. Raises VectorIndexError when it cannot be written."""
    temporary = path.with_suffix(".tmp")
    with written(path):
        temporary.write_text(json.dumps(asdict(manifest), indent=1), encoding="utf-8")
        move(temporary, path.with_suffix(".json"))
    reached("index: manifest amended")


def withdraw(path: Path) -> None:
    """Deletes the manifest of an index file, so that the file is not trusted from now on, whatever
    happens. Raises StoreError when it cannot be deleted."""
    try:
        path.with_suffix(".json").unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as exc:
        raise StoreError(
            f"{path.with_suffix('.json')} cannot be deleted ({os_reason(exc)}), so nothing was "
            "changed. Check the disk, and run the command again"
        ) from exc
    reached("index: manifest withdrawn")


def remove(path: Path) -> None:
    """Deletes an index file or its manifest, if it is there.

    Raises VectorIndexError when it cannot be deleted.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise VectorIndexError(
            f"{path} cannot be deleted: {exc.strerror or exc}. The catalog has everything and is "
            "safe; check the disk, and run the command again"
        ) from exc


def delete(
    folder: Path, space: Space, modality: Modality | None = None, *, keep: Collection[Path] = ()
) -> None:
    """Deletes the index files of a space; who needs an index builds it from the catalog.

    modality: whose files alone. Without it all goes that is of the space. keep: but for these.

    Raises StoreError when one of them cannot be deleted.
    """
    prefix = space.fingerprint[:16]
    found = folder.glob(f"{prefix}-*" if modality is None else f"{prefix}-{modality}.*")
    # Manifests first: a file without one is not trusted, should this be interrupted.
    for path in sorted(found, key=lambda p: p.suffix != ".json"):
        if path in keep:
            continue
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            raise StoreError(
                f"{path} cannot be deleted ({exc.strerror}), so nothing was changed. Delete it, or "
                "stop the program that has it open, and run the command again"
            ) from exc


def move(temporary: Path, path: Path) -> None:
    """Moves a finished file into place so that a power cut leaves the old or the new one."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """What came into a folder, or went from it, is on the disk."""
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def status(modality: Modality, vectors: int, dim: int) -> IndexStatus:
    """How an index of `vectors` vectors is built: two bytes a dimension and an id of eight."""
    return IndexStatus(modality, FACTORY, vectors, 2.0 * dim + 8)
