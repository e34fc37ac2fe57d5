"""Approximate search: which vectors may be among the nearest, by codes of a few bits each.

FAISS's fast scan compares 4-bit product quantizer codes in registers, some ten times as fast as
the vectors themselves; the candidates that it finds are compared exactly by whoever asked. All
indexes here have inverted lists, be it a single one, because only those of FAISS take a selector.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import VectorIndexError
from mmsearch.filenames import utf8_name
from mmsearch.index import measured
from mmsearch.index.manifest import Manifest
from mmsearch.index.measured import Measured
from mmsearch.index.selection import FEW, GATHERED, Selection
from mmsearch.index.threads import one_thread

logger = logging.getLogger(__name__)

_ROWS_A_BLOCK = 65_536
_BYTES_A_WRITE = 1 << 20
#: Vectors that are learned from: k-means of FAISS takes up to 256 a centroid, of which a code book
#: has 16; for inverted lists 40 a list.
_LEARNED_FROM = 16_384
_A_LIST = 40
#: This many neighbours, best first, come from the candidates, however many are asked for: so pages
#: of results are parts of one ranking. After them follow the nearest of all others, exactly. The
#: first number will do for searches that show what is nearest; those that leave out what is too
#: weak look at the 200 nearest before they know (mmsearch.search), and at some more in questions
#: about pictures of the library, which are not among the answers.
SHALLOW = 100
DEEPEST = 240

#: FAISS's selector makes fast scan several times slower. So candidates are asked for in such excess
#: that enough should be left when the others are dropped, up to this share of an index.
_MORE = 1.25
_ASKED = 0.05
_FEW_ASKED = 4000


class Fast:
    """An approximate index of the vectors of an index file, by position. Searches are thread-safe.

    nprobe, candidates: how it is searched. reach: how many of the nearest it was measured to find.
    """

    def __init__(self, index: Any, nprobe: int, candidates: int, reach: int = SHALLOW) -> None:
        self.index = index
        self.nprobe = nprobe
        self.candidates = candidates
        self.reach = reach

    @property
    def lists(self) -> int:
        return int(self.index.nlist)

    @property
    def deepest(self) -> int:
        """How many of the nearest its candidates are good for."""
        return min(self.reach, self.candidates // 2)

    def suits(self, selection: Selection) -> bool:
        """Whether it is to be asked for the nearest of these, or comparing all does better."""
        few = max(self.candidates, FEW, GATHERED * len(selection.allowed))
        return self.deepest > 0 and selection.count > few

    def near(self, xq: NDArray[np.float32], selection: Selection) -> NDArray[np.int64]:
        """(nq, candidates) positions, of those selected, that may be nearest; -1 where none."""
        if selection.everything:
            return self._search(xq, self.candidates, self.nprobe)
        # Of fewer vectors the nearest lie in more lists.
        nprobe = math.ceil(self.nprobe / max(selection.share, 1e-9))
        asked = math.ceil(_MORE * self.candidates / max(selection.share, 1e-9))
        if asked <= max(_FEW_ASKED, _ASKED * len(selection.allowed)):
            places = self._search(xq, asked, nprobe)
            kept = places >= 0
            kept[kept] = selection.allowed[places[kept]]
            if np.count_nonzero(kept, axis=1).min() >= self.candidates / _MORE:
                best = np.argsort(~kept, axis=1, kind="stable")[:, : self.candidates]
                chosen: NDArray[np.int64] = np.take_along_axis(np.where(kept, places, -1), best, 1)
                return chosen
        return self._search(xq, self.candidates, nprobe, sel=selection.selector)

    def _search(
        self, xq: NDArray[np.float32], k: int, nprobe: int, **options: Any
    ) -> NDArray[np.int64]:
        make: Any = faiss.SearchParametersIVF  # SWIG takes keywords that its types lack
        params = make(nprobe=min(nprobe, self.lists), **options)
        places: NDArray[np.int64] = self.index.search(xq, k, params=params)[1]
        # Damage in a file must not lead past its end.
        return np.where(places < self.index.ntotal, places, -1)


def learn(factory: str, rows: NDArray[np.float16], seed: int) -> Any:
    """An empty FAISS index, trained on some of the vectors (n, dim) that it is to hold.

    factory: "IVF{lists},PQ{parts}x4fs".
    """
    index: Any = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    wanted = _LEARNED_FROM if index.nlist == 1 else max(_LEARNED_FROM, _A_LIST * index.nlist)
    rng = np.random.default_rng(seed)
    if wanted < len(rows):
        rows = rows[np.sort(rng.choice(len(rows), wanted, replace=False))]
    index.cp.seed = index.pq.cp.seed = seed
    # Few are learned from because there are no more: FAISS need not say so on stderr, each time.
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    # Many short k-means: threads would wait for each other most of the time.
    with one_thread(index.nlist == 1):
        index.train(np.ascontiguousarray(rows, np.float32))
    return index


def encode(index: Any, rows: NDArray[np.float16]) -> None:
    """Makes a trained index one of exactly these vectors (n, dim), by position."""
    index.reset()
    for start in range(0, len(rows), _ROWS_A_BLOCK):
        index.add(np.ascontiguousarray(rows[start : start + _ROWS_A_BLOCK], np.float32))


def memory(index: Any) -> int:
    """Bytes of memory that an index takes: its codes, a position of 8 bytes each, its centroids."""
    codes = index.ntotal * (index.pq.M / 2 + 8)
    return int(codes + index.nlist * index.d * 4 + index.pq.centroids.size() * 4)


def memory_of(factory: str, n: int, dim: int) -> int:
    """The same of an index that is not built: of n vectors of a dimension."""
    index: Any = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    return int(n * (index.pq.M / 2 + 8) + index.nlist * dim * 4 + 16 * dim * 4)


def write(index: Any, path: Path) -> None:
    """Writes an index to a file. Raises OSError."""
    # Not by name: then FAISS itself says on stderr that the disk is full, and forgets it.
    with path.open("wb") as file:
        writer: Any = faiss.PyCallbackIOWriter  # type: ignore[attr-defined] # its types lack it
        faiss.write_index(index, writer(file.write, _BYTES_A_WRITE))


def load(path: Path, base: Manifest) -> Fast | None:
    """The approximate index beside the index file `path`, if there is one to trust.

    None, with a warning, for one that is torn, or of another file than the one `base` describes.
    """
    about = measured.read(path)
    if about is None:
        return None
    if about.base != measured.tie(base) or about.ntotal != base.ntotal:
        logger.info("%s is of an older index file: searching exactly", about.file)
        return None
    index = _read(path, about)
    if index is None or (index.ntotal, index.d) != (base.ntotal, base.dim):
        logger.warning("%s is damaged: searching exactly", path.with_name(about.file))
        return None
    return Fast(index, about.nprobe, about.candidates, about.reach)


def _read(path: Path, about: Measured) -> Any:
    """The FAISS index of a file of codes; None for one that is damaged."""
    try:
        if not measured.whole(path, about):
            return None
        with utf8_name(path.with_name(about.file)) as name:
            index = faiss.read_index(name)
    except (OSError, RuntimeError):
        return None
    return index if isinstance(index, faiss.IndexIVFPQFastScan) and index.is_trained else None


def refit(path: Path, base: Manifest, rows: NDArray[np.float16]) -> Measured | None:
    """Makes the approximate index beside the index file `path`, written anew since, one of it.

    What was learned is kept, and so is what was measured, which says of how many vectors. rows:
    the vectors of the file, which `base` describes. The caller holds the lock for this. None,
    and it is removed, where it is damaged. Raises VectorIndexError as `measured.install` does.
    """
    about = measured.read(path)
    index = None if about is None else _read(path, about)
    if about is None or index is None or index.d != rows.shape[1]:
        logger.warning("the approximate index beside %s is damaged: searching exactly", path)
        measured.remove(path)
        return None
    encode(index, rows)
    now = replace(about, base=measured.tie(base), ntotal=base.ntotal, memory=memory(index))
    return install(path, index, now)


def erase(path: Path, about: Measured, base: str, at: NDArray[np.int64]) -> bool:
    """Takes the codes of the vectors at these positions (n,) out of the approximate index beside
    the index file `path`; whether that could be done.

    base: the `measured.tie` of the file now. Raises VectorIndexError as `measured.install` does.
    """
    index = _read(path, about)
    if index is None:
        return False
    lists: Any = faiss.downcast_InvertedLists(index.invlists)
    for number in range(index.nlist):
        size = lists.list_size(number)
        if not size:
            continue
        doomed = np.flatnonzero(np.isin(faiss.rev_swig_ptr(lists.get_ids(number), size), at))
        blocks = -(-size // lists.n_per_block)
        codes = faiss.rev_swig_ptr(lists.get_codes(number), blocks * lists.block_size)
        for place in doomed.tolist():
            # Codes that others are not moved over would stay.
            lists.packer.pack_1(
                np.zeros(lists.packer.code_size, np.uint8),
                place,
                codes.reshape(blocks, lists.block_size),
            )
    index.remove_ids(np.ascontiguousarray(at, np.int64))
    # Positions of the others stay what they are.
    index.ntotal = about.ntotal
    install(path, index, replace(about, base=base))
    return True


def empty(path: Path) -> Measured | None:
    """Takes the codes of all vectors out of the approximate index beside the index file `path`.

    What was learned stays, for `refit`; until then searches are exact. None where there is nothing
    that can be kept. The caller holds the lock for this.
    """
    about = measured.read(path)
    if about is None or not about.ntotal:
        return about
    index = _read(path, about)
    if index is None:
        return None
    index.reset()
    try:
        return install(path, index, replace(about, base="", ntotal=0, memory=memory(index)))
    except VectorIndexError as exc:
        logger.warning("%s", exc)
        return None


def install(path: Path, index: Any, about: Measured) -> Measured:
    """Puts an index beside the index file `path`, in the place of another. See measured.install.

    about: what is said of it, but for what is true of the file of codes.
    """
    return measured.install(
        path, lambda to: write(index, to), lambda **codes: replace(about, **codes)
    )
