"""Choosing the approximate index by measurement: on queries as people put them, against exact.

A compressed index that finds a picture's nearest pictures may be poor at what is asked in words,
whose vectors lie elsewhere. So recall is measured on vectors of the other modality, which the
index has never seen: the library's texts for its pictures, its pictures for its texts; where there
are not enough, on everyday captions. Never on vectors of what is searched.

Numbers behind the defaults (2 cores, 512 dimensions): comparing everything takes 4 ms at 100,000
vectors and 41 to 60 ms at 1M; fast scan over a single list with exact re-ranking some 4 ms at 1M,
while inverted lists at their usual settings lose a tenth of the neighbours of queries in words.
Encoding such a query takes 13 ms and more: below 250,000 vectors there is little to win.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.errors import (
    IndexMissingError,
    LibraryLockedError,
    RefusedError,
    VectorIndexError,
)
from mmsearch.index import manifest, measured
from mmsearch.index.measured import Measured
from mmsearch.library import INDEX_FOLDER, Library
from mmsearch.store.lock import optimizing, writing
from mmsearch.store.shrink import shrink
from mmsearch.types import Modality, Space

if TYPE_CHECKING:
    from mmsearch.index.flat import FlatIndex
    from mmsearch.index.trial import Candidate
    from mmsearch.types import Vectors

logger = logging.getLogger(__name__)

#: What is aimed at by default: this recall@10, in indexes of at least so many vectors.
TARGET_RECALL = 0.98
MIN_VECTORS = 250_000
#: Queries: so many, and the library's own if it has at least so many.
_QUERIES = 300
_ENOUGH = 50
_SEED = 20
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Optimized:
    """What came of it for one modality. outcome: a sentence for people.

    queries, queries_of: how many of which kind, see Measured. candidates: all that were measured,
    exact search first; chosen: the one to search with. Nothing was measured where they are none.
    """

    modality: Modality
    vectors: int
    outcome: str
    queries: int = 0
    queries_of: str = ""
    candidates: tuple[Candidate, ...] = ()
    chosen: Candidate | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an index has to be like.

    target_recall: recall@10 against exact search, at least. max_memory: bytes that it may take;
    None for any. min_vectors: fewer are left to exact search.
    """

    target_recall: float = TARGET_RECALL
    max_memory: int | None = None
    min_vectors: int = MIN_VECTORS


def optimize(
    library: Library,
    modality: Modality,
    wanted: Wanted,
    *,
    dry_run: bool = False,
    tell: Callable[[Candidate], None] = lambda _: None,
) -> Optimized:
    """Measures indexes of one modality, and puts the fastest that will do beside the exact one.

    dry_run: change nothing. tell: is called with each candidate that was measured. Searches and
    indexing runs go on meanwhile; who has the library open takes the new index at its next look.

    Raises:
        RefusedError: another process is at it.
        LibraryLockedError: the index file must be written first, and another process is writing.
        ModelUnavailableError: captions have to be encoded, and the model is not here.
        VectorIndexError: the disk does not take it.
        IndexMissingError: the library is empty.
    """
    from mmsearch.index import fast
    from mmsearch.index.trial import EXACT, Trial, factories

    active = _active(library)
    with _alone(library):
        index = _with_file(library, modality, *active)
        n, dim = index.rows().shape
        if n < max(wanted.min_vectors, _ENOUGH):
            why = f"comparing all of {n:,} vectors is quick enough"
            return Optimized(modality, n, f"{why}; it stays exact")
        xq, queries_of = _queries(library, modality, active[1])
        trial = Trial(index, xq)
        best, best_index = trial.exactly(), None
        tell(best)
        tried = [best]
        for factory in factories(n, dim):
            found, built = trial.approximately(
                factory, wanted.target_recall, wanted.max_memory, tell
            )
            tried += found
            for one in found:
                if one.recall >= wanted.target_recall and one.cost < best.cost:
                    best, best_index = one, built
        if best.factory == EXACT:
            outcome = _stays_exact(tried, wanted)
        else:
            outcome = f"{best.factory} reaches {best.recall:.3f} in {best.latency_ms:.1f} ms"
            if best.reach < fast.DEEPEST:
                outcome += (
                    "; searches that leave out what is too weak compare everything: among the "
                    f"{fast.DEEPEST} nearest it finds less than {wanted.target_recall:g}"
                )
        result = Optimized(modality, n, outcome, len(xq), queries_of, tuple(tried), best)
        if not dry_run:
            if best_index is None:
                measured.remove(_path(library, modality, active[1]))
            else:
                _install(library, index, best_index, result, wanted)
    return result


def give_back(library: Library, *, dry_run: bool = False) -> int:
    """Gives the bytes of the catalog that nothing is in back to the disk, if they are many.

    dry_run: change nothing. Returns how many bytes that are.

    Raises:
        LibraryLockedError: another process is writing.
        StoreError: the disk has no room for what is written on the way.
    """
    room = library.catalog.room()
    if not room.is_worth_it:
        return 0
    if dry_run:
        return room.free
    with writing(library.path):
        return shrink(library.catalog.path)


def make_exact(library: Library, modality: Modality) -> bool:
    """Removes the approximate index of one modality; whether there was one. Errors as above."""
    _, space = _active(library)
    with _alone(library):
        return measured.remove(_path(library, modality, space))


def _active(library: Library) -> tuple[int, Space]:
    active = library.catalog.active_space()
    if active is None:
        raise IndexMissingError(
            f"the library at {library.path} is empty. Fill it with: mmsearch index FOLDER"
        )
    return active


def _path(library: Library, modality: Modality, space: Space) -> Path:
    return manifest.index_file(library.path / INDEX_FOLDER, space, modality)


@contextmanager
def _alone(library: Library) -> Iterator[None]:
    folder = library.path / INDEX_FOLDER
    with manifest.written(folder / "optimize.lock"):
        folder.mkdir(exist_ok=True)
    with optimizing(folder) as alone:
        if not alone:
            raise RefusedError(
                f"another process is at work on the approximate indexes of {library.path}. "
                "Wait until it is done"
            )
        yield


def _with_file(library: Library, modality: Modality, space_id: int, space: Space) -> FlatIndex:
    """The index as its file has it, which is written first where there is none, or an old one."""
    from mmsearch.index.flat import FlatIndex

    folder = library.path / INDEX_FOLDER
    origin = library.catalog.space_origin(space_id)
    try:
        with writing(library.path):
            library.save_indexes()
    except LibraryLockedError:
        if not _path(library, modality, space).exists():
            raise  # who holds the lock writes the file at the end
    return FlatIndex.load(folder, space, modality, origin=origin)


def _queries(library: Library, modality: Modality, space: Space) -> tuple[Vectors, str]:
    """Vectors (n, dim) to ask with, and what they are of."""
    other: Modality = "text" if modality == "image" else "image"
    ids, vectors = library.index(other).sample(_QUERIES, _SEED)
    if len(ids) >= _ENOUGH:
        return vectors, "texts" if other == "text" else "pictures"
    from mmsearch.encode import load_text_encoder
    from mmsearch.generic import captions

    encoder = load_text_encoder(space.name, expected=space)
    return encoder.encode_texts(list(captions())[:_QUERIES]), "captions"


def _stays_exact(tried: list[Candidate], wanted: Wanted) -> str:
    """Why nothing that was tried is better than comparing everything."""
    built = [one for one in tried[1:] if one.build_seconds]
    if not built:
        return "nothing else fits into the memory allowed; it stays exact"
    if max(one.recall for one in built) < wanted.target_recall:
        return f"nothing else that fits reaches {wanted.target_recall:g}; it stays exact"
    return "nothing else is faster; it stays exact"


def _install(
    library: Library, index: FlatIndex, built: Any, result: Optimized, wanted: Wanted
) -> None:
    """Puts an index that was measured beside the file, which may have been written anew since."""
    from mmsearch.index import fast
    from mmsearch.index.flat import FlatIndex

    path = _path(library, index.modality, index.space)
    chosen = result.chosen
    assert chosen is not None
    for _ in range(_TRIES):
        base = index.loaded
        if base is None:
            break
        about = Measured(
            file="",
            bytes=0,
            head=0,
            checksum=0,
            base=measured.tie(base),
            ntotal=base.ntotal,
            factory=chosen.factory,
            nprobe=chosen.nprobe,
            candidates=chosen.candidates,
            recall=chosen.recall,
            target=wanted.target_recall,
            queries=result.queries,
            queries_of=result.queries_of,
            measured_on=result.vectors,
            latency_ms=chosen.latency_ms,
            exact_ms=result.candidates[0].latency_ms,
            memory=fast.memory(built),
            build_seconds=chosen.build_seconds,
            reach=chosen.reach,
        )
        fast.install(path, built, about)
        now = manifest.read(path)
        if now is not None and measured.tie(now) == about.base:
            return
        folder = library.path / INDEX_FOLDER
        index = FlatIndex.load(folder, index.space, index.modality, origin=index.origin)
        fast.encode(built, index.rows())
    raise VectorIndexError(
        f"the index file {path} is written anew again and again. Searches go on exactly; run the "
        "command again when no indexing run is at work"
    )
