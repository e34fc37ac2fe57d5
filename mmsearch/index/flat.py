"""Exact search: every vector is compared, in half precision, which is how the catalog stores them.

Where an approximate index lies beside the file (mmsearch.index.fast), the first ones come from the
vectors that it finds near, and scores are as true.

FAISS's 16-bit scalar quantizer reads half the bytes of float32 and, since the stored vectors are
float16 already, loses nothing; mmsearch.index.scan shares its work between the cores. One index is
a base (a mapped file, read-only) and a delta in memory (what came since); hidden contents are
excluded by a bitmap before the comparison, and left out when the file is written anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import SpaceMismatchError
from mmsearch.filenames import utf8_name
from mmsearch.index import fast, flatfile, halves, manifest, resident, scan
from mmsearch.index.ahead import Ahead
from mmsearch.index.fast import Fast
from mmsearch.index.manifest import FACTORY, Manifest
from mmsearch.index.part import Part, in_parts, merged
from mmsearch.index.positions import Ids, among, ascending
from mmsearch.index.resident import Resident
from mmsearch.index.scan import Found
from mmsearch.index.selection import Selection
from mmsearch.index.threads import one_thread
from mmsearch.types import Modality, Space

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

#: From k to at least the k nearest of each query, unsorted, -1 for none; and among how many.
Finder = Callable[[int], tuple[Found, int]]

_NONE: Ids = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest contents of one query, best first; equal scores by ascending id.

    scores: (n,) float32 inner products. ids: (n,) int64 content ids. n <= k. Where the first ones
    come from an approximate index, what it missed follows after them: there scores may rise, once.
    """

    scores: NDArray[np.float32]
    ids: NDArray[np.int64]


class FlatIndex:
    """All vectors of one modality in one space of one catalog.

    Searches from several threads are safe on the CPU; what changes it needs the index alone, and so
    does a search on a GPU. origin: tells the catalog from others that hold vectors of the space.

    To bring it up to date with the catalog: `add` what was committed after `last_seq`, `restore`
    what it is `lacking` now that less is hidden, then `hide` what is hidden.
    """

    def __init__(
        self, space: Space, modality: Modality, *, origin: str = "", device: str = "cpu"
    ) -> None:
        self.space = space
        self.origin = origin
        self.modality = modality
        #: The manifest of the file that it was loaded from; None for one that was not.
        self.loaded: Manifest | None = None
        #: Everything committed up to here is in it, and this content's vector, as its SHA-256 in
        #: hexadecimal, came last in the catalog; (0, "") while there is none.
        self.last_seq = 0
        self.last: tuple[int, str] = (0, "")
        self._base: Part | None = None
        self._delta = Part(space.dim)
        # Hidden contents, ascending. They may lack a vector here: the file leaves them out.
        self._hidden = _NONE
        self._device = resident.on_device(device)
        self._resident: Resident | None = None
        self._ahead = Ahead()
        #: Another object whenever what can be found may have changed, and in every other index.
        self.state = object()

    def __len__(self) -> int:
        """How many contents can be found."""
        return self.total - self.gone

    def _parts(self) -> list[Part]:
        return [self._delta] if self._base is None else [self._base, self._delta]

    @property
    def delta(self) -> int:
        """How many vectors are not in the file yet."""
        return len(self._delta)

    @property
    def total(self) -> int:
        """How many vectors it holds, those that cannot be found included."""
        return sum(len(part) for part in self._parts())

    @property
    def gone(self) -> int:
        """How many of the vectors it holds cannot be found."""
        return sum(part.gone for part in self._parts())

    @property
    def fast(self) -> Fast | None:
        """The approximate index that searches of the file begin with; None where there is none."""
        return None if self._base is None else self._base.fast

    @fast.setter
    def fast(self, fast: Fast | None) -> None:
        """Of the file that it was loaded from."""
        assert self._base is not None
        self._base.fast = fast

    @property
    def reach(self) -> int:
        """How many of the nearest an approximate index finds; 0 where there is none."""
        return 0 if self.fast is None else self.fast.deepest

    def rows(self) -> NDArray[np.float16]:
        """The vectors of the file (n, dim), by position, mapped: good while the index lives."""
        return self._delta.rows[:0] if self._base is None else self._base.rows

    @property
    def overgrown(self) -> bool:
        """Whether it is time to write the file anew, with what came and without what went."""
        return manifest.overgrown(self.delta, self.gone, len(self))

    # --- content --------------------------------------------------------------------------------

    def add(self, last_seq: int, ids: NDArray[np.int64], vectors: NDArray[np.float16]) -> None:
        """Takes in vectors (n, dim) of contents (n,), n > 0, committed up to `last_seq`, in order.

        A content it has already takes the new vector.
        """
        self._take(ids, vectors)
        self.covers(last_seq, int(ids[-1]), vectors[-1].astype("<f2").tobytes())

    def covers(self, last_seq: int, content: int, vector: bytes) -> None:
        """Notes that nothing else came up to `last_seq`, where `content` came, with that vector."""
        self.last_seq = last_seq
        self.last = (content, manifest.digest(vector))

    def hide(self, hidden: NDArray[np.int64]) -> None:
        """Leaves exactly these content ids, (n,) int64, out of every search from now on.

        Costs what changes. Contents that the file left out, and that are not hidden any more, must
        have been restored before.
        """
        if not ascending(hidden):
            hidden = np.unique(hidden)
        if np.array_equal(hidden, self._hidden):
            return
        went = hidden[~among(hidden, self._hidden)]
        came = self._hidden[~among(self._hidden, hidden)]
        self._changes()
        self._hidden = hidden
        for part in self._parts():
            part.show(went, False)
            part.show(came, True)
        if self._resident is not None:
            self._resident.show(went, False)
            there = self._resident.has(came)
            self._resident.show(came[there], True)
            for part in self._parts():
                self._mirror(*part.vectors_of(came[~there]))

    def lacking(self, hidden: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which contents will have no vector here when exactly `hidden`, (n,), are hidden.

        Returns:
            Ids (m,) of contents that were hidden up to now. The catalog may have no vector either.
        """
        if not ascending(hidden):
            hidden = np.unique(hidden)
        if np.array_equal(hidden, self._hidden):
            return _NONE
        came = self._hidden[~among(self._hidden, hidden)]
        for part in self._parts():
            came = came[~part.positions.has(came)]
        return came

    def restore(self, ids: NDArray[np.int64], vectors: NDArray[np.float16]) -> None:
        """Takes in vectors (n, dim) of contents (n,) that it was lacking; they stay hidden."""
        self._take(ids, vectors)

    def _take(self, ids: Ids, vectors: NDArray[np.float16]) -> None:
        if vectors.shape[1] != self.space.dim:
            raise SpaceMismatchError(f"dimension {vectors.shape[1]}", f"{self.space.dim}")
        self._changes()
        if self._base is not None:
            self._base.forget(ids)
        self._delta.add(ids, vectors)
        hidden = among(ids, self._hidden)
        self._delta.show(ids[hidden], False)
        if self._resident is not None:
            self._resident.forget(ids[hidden])
            self._mirror(ids[~hidden], vectors[~hidden])

    def _changes(self) -> None:
        self._ahead.clear()
        self.state = object()

    def held(self) -> tuple[NDArray[np.int64], Iterator[NDArray[np.float16]]]:
        """All that can be found; right after `load`, that is all that is in the file.

        Returns:
            Content ids (n,) int64, ascending, and their vectors in that order, in blocks (m, dim)
            float16.
        """
        return merged(self._parts())

    def vector(self, content: int) -> bytes | None:
        """The vector of a content as the catalog stores it; None when it cannot be found."""
        for part in self._parts():
            ids, vectors = part.vectors_of(np.array([content]))
            if len(ids) and not self.leaves_out(content):
                return bytes(vectors[0].tobytes())
        return None

    def vectors(self, ids: Ids) -> tuple[Ids, NDArray[np.float32]]:
        """Those of these contents (n,), in any order, that can be found, (m,), and their vectors.

        Returns:
            Content ids (m,) int64, in no certain order, and (m, dim) float32.
        """
        found = [part.visible(ids) for part in self._parts()]
        return np.concatenate([some for some, _ in found]), halves.single(
            np.concatenate([vectors for _, vectors in found])
        )

    def count(self, ids: Ids) -> int:
        """How many of these contents (n,), none of them twice, can be found."""
        return sum(
            int(part.positions.shown[part.positions.find(ids)].sum()) for part in self._parts()
        )

    def ids(self) -> Ids:
        """The contents (n,) that can be found, ascending."""
        shown = [part.positions.ids[part.positions.shown] for part in self._parts()]
        return np.sort(np.concatenate(shown), kind="stable")

    def sample(self, n: int, seed: int) -> tuple[Ids, NDArray[np.float32]]:
        """n contents drawn from all that can be found, or all if there are fewer.

        The same for the same seed and the same contents, however they came here.

        Returns:
            Content ids (m,) int64, ascending, and their vectors (m, dim) float32; m <= n.
        """
        ids = self.ids()
        if n < len(ids):
            drawn = np.random.default_rng(seed).choice(len(ids), n, replace=False)
            ids = ids[np.sort(drawn)]
        found, vectors = self.vectors(ids)
        order = np.argsort(found, kind="stable")
        return found[order], vectors[order]

    def leaves_out(self, content: int) -> bool:
        """Whether a content is hidden: for one just loaded, whether the file leaves it out."""
        return bool(among(np.array([content]), self._hidden)[0])

    # --- search ---------------------------------------------------------------------------------

    def search(
        self, xq: NDArray[np.float32], k: int, *, only: Ids | None = None, exact: bool = False
    ) -> list[Neighbours]:
        """The k nearest contents for each row of xq, (nq, dim) float32 of unit norm.

        only: the contents (n,) that may be found, strictly ascending; None for all. There need not
            be a vector of each.
        exact: compare every vector, though there is an approximate index. Without, those that it
            finds come first and the others after them: for each k the same ones in the same order.

        Raises:
            SpaceMismatchError: the queries have another dimension.
        """
        if xq.shape[1] != self.space.dim:
            raise SpaceMismatchError(
                f"dimension {xq.shape[1]}", f"{self.space.name} (dimension {self.space.dim})"
            )
        xq = np.ascontiguousarray(xq, np.float32)
        if len(xq) == 1 and only is None:
            known = self._ahead.take(xq[0], k)
            if known is not None:
                return [known]
        on_device = self._on_device(xq, only)
        if on_device is not None:
            return _nearest(on_device, k)
        parts = self._selected(only)
        deepest = 0 if exact else max(part.deepest(selection) for part, selection in parts)
        first = _nearest(_on_cpu(parts, xq, exact=False), min(k, deepest)) if deepest else []
        if k <= deepest:
            return first
        found = _nearest(_on_cpu(parts, xq, exact=True), k)
        if not first:
            return found
        return [_followed(one, after, k) for one, after in zip(first, found, strict=True)]

    def search_ahead(self, xq: NDArray[np.float32], k: int) -> None:
        """Compares queries that are about to be searched for, each by itself, with all vectors.

        Then `search` of one of the rows of xq, (nq, dim) float32, has its k nearest, or fewer, at
        once, and the same ones to the bit (on a GPU to the last digit but one); but once only,
        and not after a change. Does nothing where that saves nothing: for few queries or vectors,
        and where there is an approximate index. Otherwise as `search`.
        """
        if self.fast is not None:
            return
        # A GPU reads its memory once for all queries, and is asked once.
        if self._device is None and not scan.worth_multiplying(len(xq), len(self)):
            return
        xq = np.ascontiguousarray(xq, np.float32)
        for query, found in zip(xq, self.search(xq, k), strict=True):
            self._ahead.put(query, k, found)

    def _selected(self, only: Ids | None) -> list[tuple[Part, Selection]]:
        return [(part, part.among(only)) for part in self._parts()]

    def _on_device(self, xq: NDArray[np.float32], only: Ids | None) -> Finder | None:
        """None where there is no GPU, or too small a one."""
        if self._device is None:
            return None
        try:
            if self._resident is None or self._resident.overgrown:
                self._resident = None  # before the next one: there may be no room for two
                self._resident = self._copied(self._device)
        except RuntimeError as exc:
            self._leave_device(exc)
            return None
        copy = self._resident

        def find(k: int) -> tuple[Found, int]:
            try:
                return copy.search(xq, k, only)
            except RuntimeError as exc:
                self._leave_device(exc)
                return _on_cpu(self._selected(only), xq, exact=True)(k)

        return find

    def _copied(self, device: torch.device) -> Resident:
        ids, blocks = self.held()

        def pairs() -> Iterator[tuple[Ids, NDArray[np.float16]]]:
            start = 0
            for block in blocks:
                yield ids[start : start + len(block)], block
                start += len(block)

        return Resident(self.space.dim, device, len(ids), pairs())

    def _mirror(self, ids: Ids, vectors: NDArray[np.float16]) -> None:
        if self._resident is not None and len(ids):
            try:
                self._resident.add(ids, vectors)
            except RuntimeError as exc:
                self._leave_device(exc)

    def _leave_device(self, exc: RuntimeError) -> None:
        logger.warning("the index does not fit on the GPU, searching on the CPU: %s", exc)
        self._device = self._resident = None

    # --- file -----------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Writes what can be found into `folder`, beside the old file, then in its place.

        Hidden contents are left out, and their ids kept, so that those that come back are missed.
        Raises VectorIndexError when the disk does not take it; the old file may be gone then.
        """
        ids, blocks = self.held()
        build(
            folder,
            self.space,
            self.modality,
            (ids, blocks),
            hidden=self._hidden,
            last_seq=self.last_seq,
            last=self.last,
            origin=self.origin,
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

        What was committed since is not in it: see the class for how to bring it up to date.
        """
        index = cls(space, modality, origin=origin, device=device)
        path = manifest.index_file(folder, space, modality)
        try:
            about = manifest.trusted(path, space, modality, origin)
            if about is None:
                return index
            ids, hidden = manifest.read_ids(path, about)
            with utf8_name(path) as name:
                mapped: Any = faiss.read_index(name, faiss.IO_FLAG_MMAP_IFC)
        except (OSError, RuntimeError) as exc:
            logger.warning("%s cannot be read (%s): rebuilding", path, exc)
            return index
        if not (flatfile.fits(mapped, ids) and ascending(ids) and ascending(hidden)):
            logger.warning("%s does not fit its manifest: rebuilding", path)
            return index
        index._base = Part.mapped(mapped, ids)
        index._base.fast = fast.load(path, about)
        index._hidden = hidden
        index.loaded = about
        index.last_seq = about.last_seq
        index.last = (about.last_content, about.last_vector)
        return index


def build(
    folder: Path,
    space: Space,
    modality: Modality,
    held: tuple[Ids, Iterator[NDArray[np.float16]]],
    *,
    hidden: Ids,
    last_seq: int,
    last: tuple[int, str],
    origin: str,
) -> None:
    """Writes the file of an index that holds these vectors: no more of them is in memory than a
    block.

    held: content ids (n,), strictly ascending, and their vectors in that order, in blocks (m, dim)
        float16. hidden: those left out, (m,), strictly ascending. The rest as in `FlatIndex`.

    Raises VectorIndexError when the disk does not take it; the old file may be gone then.
    """
    path = manifest.index_file(folder, space, modality)
    temporary = path.with_suffix(".tmp")
    ids, blocks = held
    with manifest.written(path):
        folder.mkdir(parents=True, exist_ok=True)
        flatfile.write(temporary, space.dim, ids, blocks)
        with temporary.open("r+b") as file:
            file.seek(0, 2)
            file.write(hidden.astype("<i8").tobytes())
            file.flush()
            head, tail = manifest.checksums(file, len(ids) + len(hidden))
        about = Manifest(
            space=space.fingerprint,
            modality=modality,
            factory=FACTORY,
            dim=space.dim,
            ntotal=len(ids),
            left_out=len(hidden),
            last_seq=last_seq,
            last_content=last[0],
            last_vector=last[1],
            bytes=temporary.stat().st_size,
            head=head,
            ids=tail,
            origin=origin,
        )
        manifest.replace(temporary, path, about)


def _on_cpu(
    parts: Sequence[tuple[Part, Selection]], xq: NDArray[np.float32], *, exact: bool
) -> Finder:
    there = sum(selection.count for _, selection in parts)

    def find(k: int) -> tuple[Found, int]:
        with one_thread():
            return in_parts(parts, xq, k, exact), there

    return find


def _nearest(find: Finder, k: int) -> list[Neighbours]:
    """The k best of what is found, k > 0, of each query."""
    # One more than asked for tells whether others are as near as the last one: which of those are
    # found is left open, and pages of results would overlap.
    asked = k + 1
    while True:
        found_at, there = find(asked)
        found = [_sorted(*row) for row in zip(*found_at, strict=True)]
        if asked > there or not any(_cut_in_a_tie(one, k, asked) for one in found):
            return [Neighbours(one.scores[:k], one.ids[:k]) for one in found]
        asked *= 2


def _followed(first: Neighbours, found: Neighbours, k: int) -> Neighbours:
    """k contents: the first ones as they are, then the best of the others."""
    others = ~np.isin(found.ids, first.ids)
    return Neighbours(
        np.concatenate([first.scores, found.scores[others]])[:k],
        np.concatenate([first.ids, found.ids[others]])[:k],
    )


def _sorted(scores: NDArray[np.float32], ids: NDArray[np.int64]) -> Neighbours:
    valid = ids >= 0
    scores, ids = scores[valid], ids[valid]
    order = np.lexsort((ids, -scores))
    return Neighbours(np.ascontiguousarray(scores[order]), np.ascontiguousarray(ids[order]))


def _cut_in_a_tie(found: Neighbours, k: int, asked: int) -> bool:
    """Whether more may be as near as the k-th than the `asked` best."""
    return len(found.ids) >= asked and bool(found.scores[k - 1] == found.scores[asked - 1])
