"""Exact search: every vector is compared, in half precision, which is how the catalog stores them.

FAISS's 16-bit scalar quantizer reads half the bytes of float32 and, since the stored vectors are
float16 already, loses nothing. One index is a base (a mapped file, read-only) and a delta in memory
(what was committed since); hidden contents are excluded by a bitmap before the comparison.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import SpaceMismatchError, VectorIndexError
from mmsearch.index import manifest
from mmsearch.index.manifest import FACTORY, Manifest
from mmsearch.types import Modality, Space

logger = logging.getLogger(__name__)

#: FAISS on a GPU returns at most this many neighbours.
_GPU_MAX_K = 2048
_ROWS_A_BLOCK = 65_536


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest contents of one query, best first; equal scores by ascending id.

    scores: (n,) float32 inner products. ids: (n,) int64 content ids. n <= k.
    """

    scores: NDArray[np.float32]
    ids: NDArray[np.int64]


class _Part:
    """A FAISS index by position, and the content id at each position."""

    def __init__(self, dim: int) -> None:
        self.index: Any = faiss.IndexScalarQuantizer(
            dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        self.index.is_trained = True  # fp16 has nothing to learn
        self.ids: NDArray[np.int64] = np.empty(0, np.int64)
        self._bitmap: NDArray[np.uint8] | None = None
        self.excluded = 0
        self.owner: Any = None  # what must live as long as `index` does

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float16]) -> None:
        self.index.add(np.ascontiguousarray(vectors, np.float32))
        self.ids = np.concatenate([self.ids, ids])

    def exclude(self, hidden: NDArray[np.int64]) -> None:
        """Leaves these content ids out of every search from now on."""
        keep = ~np.isin(self.ids, hidden)
        self.excluded = int(len(keep) - keep.sum())
        self._bitmap = np.packbits(keep, bitorder="little") if self.excluded else None

    def search(
        self, xq: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(nq, k) scores and content ids; -1 where there are fewer than k."""
        k = min(k, len(self.ids) - self.excluded)
        if k <= 0:
            return np.empty((len(xq), 0), np.float32), np.empty((len(xq), 0), np.int64)
        params = None
        if self._bitmap is not None:
            selector = faiss.IDSelectorBitmap(len(self.ids), faiss.swig_ptr(self._bitmap))
            make: Any = faiss.SearchParameters  # SWIG takes keywords that its types lack
            params = make(sel=selector)
        scores, positions = self.index.search(xq, k, params=params)
        return scores, np.where(positions >= 0, self.ids[positions], -1)


class FlatIndex:
    """All vectors of one modality in one space of one catalog.

    Searches from several threads are safe on the CPU; `add` and `hide` need the index alone, and so
    does a search on a GPU. origin: tells the catalog from others that hold vectors of the space.
    """

    def __init__(
        self, space: Space, modality: Modality, *, origin: str = "", device: str = "cpu"
    ) -> None:
        self.space = space
        self.origin = origin
        self.modality = modality
        self.last_seq = 0
        self._base: _Part | None = None
        self._delta = _Part(space.dim)
        self._hidden: NDArray[np.int64] = np.empty(0, np.int64)
        self._device = device
        self._gpu: Any = None

    def __len__(self) -> int:
        return sum(len(part.ids) - part.excluded for part in self._parts())

    def _parts(self) -> list[_Part]:
        return [self._delta] if self._base is None else [self._base, self._delta]

    @property
    def delta(self) -> int:
        """How many vectors are not in the file yet."""
        return len(self._delta.ids)

    @property
    def last(self) -> tuple[int, bytes] | None:
        """The content that arrived last: its id, and its vector in float16; None while empty."""
        filled = [part for part in self._parts() if len(part.ids)]
        if not filled:
            return None
        vector = filled[-1].index.reconstruct(len(filled[-1].ids) - 1)
        return int(filled[-1].ids[-1]), vector.astype("<f2").tobytes()

    @property
    def total(self) -> int:
        """How many vectors it holds, hidden ones included."""
        return sum(len(part.ids) for part in self._parts())

    # --- content --------------------------------------------------------------------------------

    def add(self, last_seq: int, ids: NDArray[np.int64], vectors: NDArray[np.float16]) -> None:
        """Takes in vectors (n, dim) of new content ids (n,), committed up to `last_seq`."""
        if vectors.shape[1] != self.space.dim:
            raise SpaceMismatchError(f"dimension {vectors.shape[1]}", f"{self.space.dim}")
        self._delta.add(ids, vectors)
        if len(self._hidden):
            self._delta.exclude(self._hidden)
        self.last_seq = last_seq
        self._gpu = None

    def hide(self, hidden: NDArray[np.int64]) -> None:
        """Leaves exactly these content ids, (n,) int64, out of every search from now on."""
        self._hidden = hidden
        for part in self._parts():
            part.exclude(hidden)

    # --- search ---------------------------------------------------------------------------------

    def search(self, xq: NDArray[np.float32], k: int) -> list[Neighbours]:
        """The k nearest contents for each row of xq, (nq, dim) float32 of unit norm.

        Raises:
            SpaceMismatchError: the queries have another dimension.
        """
        if xq.shape[1] != self.space.dim:
            raise SpaceMismatchError(
                f"dimension {xq.shape[1]}", f"{self.space.name} (dimension {self.space.dim})"
            )
        xq = np.ascontiguousarray(xq, np.float32)
        # One more than asked for tells whether others are as near as the last one: which of those
        # FAISS returns is its own affair, and pages of results would overlap.
        asked = k + 1
        while True:
            scores, ids = self._candidates(xq, asked)
            found = [_sorted(*row) for row in zip(scores, ids, strict=True)]
            if asked > len(self) or not any(_cut_in_a_tie(one, k, asked) for one in found):
                return [Neighbours(one.scores[:k], one.ids[:k]) for one in found]
            asked *= 2

    def _candidates(
        self, xq: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """At least the k nearest, unsorted; of those as near as the k-th, any. -1 where none."""
        found = self._search_gpu(xq, k)
        if found is not None:
            return found
        parts = [part.search(xq, k) for part in self._parts()]
        return (
            np.concatenate([scores for scores, _ in parts], axis=1),
            np.concatenate([ids for _, ids in parts], axis=1),
        )

    def _search_gpu(
        self, xq: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        """The same on a GPU; None where that cannot be exact (no GPU, or k past its limit).

        A flat GPU index takes no selector, so as many more neighbours are asked for as contents
        are hidden, and those are dropped.
        """
        if not self._device.startswith("cuda") or not faiss.get_num_gpus():
            return None
        excluded = sum(part.excluded for part in self._parts())
        if k + excluded > _GPU_MAX_K:
            return None
        if self._gpu is None:
            self._gpu = self._to_gpu()
        index, ids = self._gpu
        scores, positions = index.search(xq, min(k + excluded, max(1, index.ntotal)))
        found = np.where(positions >= 0, ids[positions], -1) if len(ids) else positions
        found[np.isin(found, self._hidden)] = -1
        return scores, found

    def _to_gpu(self) -> tuple[Any, NDArray[np.int64]]:
        config = faiss.GpuIndexFlatConfig()
        config.useFloat16 = True
        index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), self.space.dim, config)
        for part in self._parts():
            for start in range(0, len(part.ids), _ROWS_A_BLOCK):
                n = min(_ROWS_A_BLOCK, len(part.ids) - start)
                index.add(part.index.reconstruct_n(start, n))
        return index, np.concatenate([part.ids for part in self._parts()])

    # --- file -----------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Writes everything held into `folder`, beside the old file, then in its place."""
        folder.mkdir(parents=True, exist_ok=True)
        # Held in a name of its own: the map does not keep the index it wraps alive.
        vectors = _Part(self.space.dim).index
        mapped = faiss.IndexIDMap(vectors)
        for part in self._parts():
            for start in range(0, len(part.ids), _ROWS_A_BLOCK):
                n = min(_ROWS_A_BLOCK, len(part.ids) - start)
                block = part.index.reconstruct_n(start, n)
                mapped.add_with_ids(block, part.ids[start : start + n])
        path = manifest.index_file(folder, self.space, self.modality)
        temporary = path.with_suffix(".tmp")
        try:
            faiss.write_index(mapped, str(temporary))
        except RuntimeError as exc:
            temporary.unlink(missing_ok=True)
            raise VectorIndexError(
                f"{path} could not be written ({exc}). The catalog is safe; free some space"
            ) from exc
        manifest.replace(
            temporary,
            path,
            Manifest(
                space=self.space.fingerprint,
                modality=self.modality,
                factory=FACTORY,
                dim=self.space.dim,
                ntotal=mapped.ntotal,
                last_seq=self.last_seq,
                origin=self.origin,
                bytes=temporary.stat().st_size,
            ),
        )

    @classmethod
    def load(
        cls,
        folder: Path,
        space: Space,
        modality: Modality,
        *,
        origin: str = "",
        device: str = "cpu",
    ) -> FlatIndex:
        """The index as it was saved, mapped, not read; an empty one where there is none to trust.

        What was committed since is not in it: the caller adds what came after `last_seq`.
        """
        index = cls(space, modality, origin=origin, device=device)
        path = manifest.index_file(folder, space, modality)
        try:
            about = manifest.read(path)
            if about is None:
                return index
            expected = Manifest(
                space=space.fingerprint,
                modality=modality,
                factory=FACTORY,
                dim=space.dim,
                ntotal=about.ntotal,
                last_seq=about.last_seq,
                origin=origin,
                bytes=path.stat().st_size,
            )
            if about != expected:
                logger.warning("%s is not the index of this library: rebuilding", path)
                return index
            mapped: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except (OSError, RuntimeError) as exc:
            logger.warning("%s cannot be read (%s): rebuilding", path, exc)
            return index
        if mapped.d != space.dim or mapped.ntotal != about.ntotal:
            logger.warning("%s does not fit its manifest: rebuilding", path)
            return index
        base = _Part(space.dim)
        base.ids = faiss.vector_to_array(mapped.id_map)
        base.index = faiss.downcast_index(mapped.index)
        base.owner = mapped
        index._base = base
        index.last_seq = about.last_seq
        return index


def _sorted(scores: NDArray[np.float32], ids: NDArray[np.int64]) -> Neighbours:
    valid = ids >= 0
    scores, ids = scores[valid], ids[valid]
    order = np.lexsort((ids, -scores))
    return Neighbours(np.ascontiguousarray(scores[order]), np.ascontiguousarray(ids[order]))


def _cut_in_a_tie(found: Neighbours, k: int, asked: int) -> bool:
    """Whether more may be as near as the k-th than the `asked` best."""
    return len(found.ids) >= asked and bool(found.scores[k - 1] == found.scores[asked - 1])
