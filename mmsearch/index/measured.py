"""What an approximate index says of itself, and what was measured of it. Needs no faiss.

It lies beside the index file that it stands in for, whose vectors have the last word: a small JSON
file, and one of codes that it names. The JSON file alone decides which codes count, so that they
are changed in one step.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import secrets
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from mmsearch.errors import VectorIndexError
from mmsearch.index import manifest
from mmsearch.index.manifest import Manifest, move
from mmsearch.overview import (
    IndexStatus,
)
from mmsearch.points import reached
from mmsearch.types import (
    Modality,
    Space,
)

logger = logging.getLogger(__name__)

_HEAD = 4096
_BYTES_A_READ = 1 << 20
#: Measured when an index had so many times fewer vectors, a recall may not hold any more.
_GROWN = 2.0


@dataclass(frozen=True, slots=True)
class Measured:
    """An approximate index, how it is searched, and how it did.

    file: the name of the file of codes. bytes, head, checksum: its size, and the CRC-32 of its
    first 4 KiB and of all of it. base: tells the index file that it stands in for, see `tie`.
    ntotal: how many vectors that has.

    factory: for FAISS. nprobe: how many of its lists a search reads. candidates: how many
    neighbours are compared exactly then.

    recall: the share of the 10 truly nearest that it found, target: what was wanted, for `queries`
    queries, held out, of the other modality; queries_of: "texts", "pictures" (of the library) or
    "captions" (generic ones). measured_on: how many vectors there were. latency_ms, exact_ms: the
    median time of one such query, and of comparing everything. memory: bytes in memory.
    build_seconds: for learning and encoding. reach: of how many of the nearest, not only of 10, it
    finds that share; what was measured before that was looked at says nothing of it.
    """

    file: str
    bytes: int
    head: int
    checksum: int
    base: str
    ntotal: int
    factory: str
    nprobe: int
    candidates: int
    recall: float
    target: float
    queries: int
    queries_of: str
    measured_on: int
    latency_ms: float
    exact_ms: float
    memory: int
    build_seconds: float
    reach: int = 100

    @property
    def outgrown(self) -> bool:
        """Whether the index has changed so much since that it should be measured again."""
        ratio = max(1, self.ntotal) / max(1, self.measured_on)
        return not 1 / _GROWN <= ratio <= _GROWN


def tie(base: Manifest) -> str:
    """What tells an index file from others: its size, and the checksums of its head and its ids.

    Not from one with other vectors of the same contents; it would cost recall, and nothing else.
    """
    return f"{base.ntotal}-{base.bytes}-{base.head:08x}-{base.ids:08x}"


def about_file(path: Path) -> Path:
    """Where the approximate index beside the index file `path` says what it is."""
    return path.with_name(f"{path.stem}.fast.json")


def read(path: Path) -> Measured | None:
    """What the approximate index beside the index file `path` says of itself.

    None when there is none, or nothing that makes sense: then there is a warning.
    """
    about_path = about_file(path)
    try:
        about = Measured(**json.loads(about_path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        logger.warning("%s cannot be read: searching exactly", about_path)
        return None
    for field in fields(about):
        value = getattr(about, field.name)
        # The annotations are the names of the types: see `from __future__` above.
        if type(value).__name__ != field.type or (not isinstance(value, str) and not value >= 0):
            logger.warning("%s makes no sense: searching exactly", about_path)
            return None
    own = about.file.startswith(f"{path.stem}.fast-") and about.file == Path(about.file).name
    counts = (about.nprobe, about.candidates, about.reach)
    if not own or not math.isfinite(about.recall) or not all(counts):
        logger.warning("%s makes no sense: searching exactly", about_path)
        return None
    return about


def status(folder: Path, space: Space, modality: Modality, vectors: int) -> IndexStatus:
    """How an index of `vectors` vectors, whose files lie in `folder`, is searched."""
    path = manifest.index_file(folder, space, modality)
    plain = manifest.status(modality, vectors, space.dim)
    about, base = read(path), manifest.read(path)
    if about is None or base is None or about.base != tie(base):
        return plain
    return replace(
        plain,
        approximate=about.factory,
        nprobe=about.nprobe,
        candidates=about.candidates,
        recall=about.recall,
        queries=about.queries,
        queries_of=about.queries_of,
        measured_on=about.measured_on,
        latency_ms=about.latency_ms,
        memory=about.memory,
        outgrown=about.outgrown,
    )


def whole(path: Path, about: Measured, *, thoroughly: bool = False) -> bool:
    """Whether the codes beside the index file `path` are there, of the right size, with the right
    head; thoroughly: all of them. Raises OSError when they cannot be read."""
    try:
        with path.with_name(about.file).open("rb") as file:
            if os.fstat(file.fileno()).st_size != about.bytes:
                return False
            head = file.read(_HEAD)
            if zlib.crc32(head) != about.head:
                return False
            return not thoroughly or _checksum(path.with_name(about.file)) == about.checksum
    except FileNotFoundError:
        return False


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BYTES_A_READ):
            checksum = zlib.crc32(block, checksum)
    return checksum


def install(path: Path, write: Callable[[Path], None], about: Callable[..., Measured]) -> Measured:
    """Puts an approximate index beside the index file `path`, in the place of another.

    write: writes the codes to a path. about: makes what is said of them, given `file`, `bytes`,
    `head` and `checksum`. The caller holds the lock for this (mmsearch.store.lock.optimizing).

    Raises VectorIndexError when the disk does not take it; then all is as it was.
    """
    tidy(path)
    codes = path.with_name(f"{path.stem}.fast-{secrets.token_hex(4)}.faiss")
    temporary = codes.with_suffix(".tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            head = zlib.crc32(file.read(_HEAD))
        made = about(
            file=codes.name,
            bytes=temporary.stat().st_size,
            head=head,
            checksum=_checksum(temporary),
        )
        reached("fast: written")
        move(temporary, codes)
        reached("fast: beside the other")
        temporary.write_text(json.dumps(asdict(made), indent=1), encoding="utf-8")
        move(temporary, about_file(path))
        reached("fast: in place")
    except OSError as exc:
        for file_path in (temporary, codes):
            with contextlib.suppress(OSError):
                file_path.unlink(missing_ok=True)
        raise VectorIndexError(
            f"the approximate index {codes} could not be written: {exc.strerror or exc}. Searches "
            "go on as before; free some space, or check the disk, and run the command again"
        ) from exc
    tidy(path)
    reached("fast: finished")
    return made


def remove(path: Path) -> bool:
    """Removes the approximate index beside the index file `path`; whether there was one.

    Raises VectorIndexError when it cannot be deleted.
    """
    there = about_file(path).exists()
    try:
        about_file(path).unlink(missing_ok=True)
        reached("fast: gone")
    except OSError as exc:
        raise VectorIndexError(
            f"{about_file(path)} cannot be deleted: {exc.strerror}. Nothing was changed"
        ) from exc
    tidy(path)
    return there


def tidy(path: Path) -> None:
    """Deletes codes that do not count (any more): an interrupted run leaves some.

    The caller holds the lock for this.
    """
    for file in leftovers(path):
        with contextlib.suppress(OSError):  # a system may refuse that while it is open
            file.unlink(missing_ok=True)


def leftovers(path: Path) -> list[Path]:
    """The codes beside the index file `path`, whole or not, that do not count."""
    there = list(path.parent.glob(f"{path.stem}.fast-*"))
    about = read(path) if there else None
    return [file for file in there if about is None or file.name != about.file]
