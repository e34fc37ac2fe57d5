"""Whether an index holds what the catalog does, and finds what comparing everything finds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmsearch import blas
from mmsearch.index import fast, halves, manifest, measured, threads
from mmsearch.index.flat import FlatIndex
from mmsearch.index.manifest import Manifest
from mmsearch.index.positions import Ids, among
from mmsearch.types import MODALITIES, Modality, Space

#: Content ids (n,) and their vectors (n, dim).
Chunk = tuple[Ids, NDArray[np.float16]]

#: Scores that differ by less count as equal: which of such neighbours comes first is arbitrary.
_SAME_SCORE = 1e-3
_IDS_A_BATCH = 5000
_ROWS_A_PRODUCT = 2048


@dataclass(frozen=True, slots=True)
class Differences:
    """Where an index file and the catalog disagree, in numbers of vectors.

    strange: in the file and not in the catalog. lacking: in the catalog and not in the file, which
    says that it covers them. altered: in both, and not equal.
    """

    checked: int
    strange: int
    lacking: int
    altered: int

    def __bool__(self) -> bool:
        return bool(self.strange or self.lacking or self.altered)


def unusable(folder: Path, space: Space, modality: Modality, origin: str) -> str | None:
    """Why the index file of one modality is of no use; None when it is, or when there is none."""
    path = manifest.index_file(folder, space, modality)
    about = manifest.read(path)
    if not path.exists():
        return None if not path.with_suffix(".json").exists() else f"{path.name} is gone"
    if about is None:
        return f"{path.name} has no manifest that can be read"
    if (about.space, about.origin) != (space.fingerprint, origin):
        return f"{path.name} is of another catalog"
    if FlatIndex.load(folder, space, modality, origin=origin).loaded is None:
        return f"{path.name} is damaged"
    return None


def fast_unusable(folder: Path, space: Space, modality: Modality) -> str | None:
    """Why the approximate index of one modality is of no use; None when it is, or there is none.

    Reads all of it.
    """
    path = manifest.index_file(folder, space, modality)
    about_path = measured.about_file(path)
    if not about_path.exists():
        return None
    about, base = measured.read(path), manifest.read(path)
    if about is None:
        return f"{about_path.name} makes no sense"
    if base is None or about.base != measured.tie(base):
        return None  # of a file that was written anew since; the next run makes it fit
    if not measured.whole(path, about, thoroughly=True) or fast.load(path, base) is None:
        return f"{about.file} is damaged"
    return None


def of_another_version(folder: Path, space: Space, modality: Modality) -> bool:
    """Whether the manifest of an index file is one that another mmsearch wrote."""
    path = manifest.index_file(folder, space, modality).with_suffix(".json")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.keys() != {f.name for f in fields(Manifest)}


def strays(folder: Path, spaces: Iterable[Space]) -> list[Path]:
    """Files in the index folder that belong to no space of the library, or to no index file."""
    known = set()
    for space in spaces:
        for modality in MODALITIES:
            path = manifest.index_file(folder, space, modality)
            known |= {path, path.with_suffix(".json"), measured.about_file(path)}
            about = measured.read(path)
            if about is not None:
                known.add(path.with_name(about.file))
    return sorted(
        path
        for path in folder.glob("*")
        if path.suffix in (".faiss", ".json") and path not in known
    )


def differences(
    path: Path,
    about: Manifest,
    expected: Ids,
    hidden: Ids,
    vectors: Callable[[list[int]], Iterator[Chunk]],
) -> Differences:
    """Compares the index file `path`, which `about` describes, with the catalog.

    expected: contents (n,) whose vectors the catalog had when the file was written, ascending.
    hidden: contents (m,) that nobody holds, ascending. vectors: gives those of some contents.

    Raises OSError when the file cannot be read.
    """
    ids, left_out = manifest.read_ids(path, about)
    lacking = expected[~among(expected, ids) & ~among(expected, hidden)]
    strange = altered = start = 0
    for block in manifest.read_vectors(path, about, _IDS_A_BATCH):
        mine = ids[start : start + len(block)]
        start += len(block)
        stored = np.zeros(len(mine), np.bool_)
        for found, theirs in vectors(mine.tolist()):
            places = np.searchsorted(mine, found)
            stored[places] = True
            if theirs.shape[1] != block.shape[1]:
                altered += len(found)
                continue
            # As bits: what is not a number equals nothing, not even itself.
            ours = np.ascontiguousarray(block[places]).view(np.uint16)
            altered += int((ours != np.ascontiguousarray(theirs).view(np.uint16)).any(1).sum())
        # What was removed for good has no vector any more, and stays hidden.
        strange += int((~stored & ~among(mine, hidden)).sum())
    return Differences(len(ids), strange, int((~among(lacking, left_out)).sum()), altered)


def recall(
    index: FlatIndex, xq: NDArray[np.float32], stored: Iterable[Chunk], hidden: Ids, k: int
) -> float:
    """Recall@k of an index: which share of the truly nearest it finds, 1.0 for all.

    xq: (nq, dim) queries. stored: every vector of the catalog, all of them finite, hidden contents
    included. hidden: contents that must not be found, ascending.
    """
    scores = np.full((len(xq), 0), -np.inf, np.float32)
    ids = np.empty((len(xq), 0), np.int64)
    for chunk_ids, vectors in stored:
        shown = ~among(chunk_ids, hidden)
        if not shown.all():
            chunk_ids, vectors = chunk_ids[shown], vectors[shown]
        for start in range(0, len(chunk_ids), _ROWS_A_PRODUCT):
            some = chunk_ids[start : start + _ROWS_A_PRODUCT]
            scores, ids = _best(
                scores, ids, _products(xq, vectors[start : start + len(some)]), some, k
            )
    wanted = scores.shape[1]
    if not wanted or not len(xq):
        return 1.0
    hits = 0
    for row, found in enumerate(index.search(xq, wanted, exact=True)):
        tied = np.abs(found.scores - scores[row].min()) <= _SAME_SCORE
        hits += int((np.isin(found.ids, ids[row]) | tied).sum())
    return hits / (wanted * len(xq))


def _products(xq: NDArray[np.float32], rows: NDArray[np.float16]) -> NDArray[np.float32]:
    rows = rows.copy()  # torch does not take what may only be read
    with blas.one_thread(), threads.one_thread():  # so small that threads would wait for each other
        return xq @ halves.widened(rows, np.empty(rows.shape, np.float32)).T


def _best(
    scores: NDArray[np.float32], ids: Ids, more: NDArray[np.float32], its: Ids, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best, (nq, k), of those so far and of more, (nq, m), of contents (m,)."""
    if scores.shape[1] == k:  # few come near after a while, and sorting takes the time
        near = np.flatnonzero((more > scores.min(axis=1, keepdims=True)).any(axis=0))
        more, its = more[:, near], its[near]
    scores = np.concatenate([scores, more], axis=1)
    ids = np.concatenate([ids, np.broadcast_to(its, (len(ids), len(its)))], axis=1)
    if scores.shape[1] <= k:
        return scores, ids
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    return np.take_along_axis(scores, best, axis=1), np.take_along_axis(ids, best, axis=1)
