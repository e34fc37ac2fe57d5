"""Measuring approximate indexes of the vectors of one index file against exact search."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsearch.index import fast
from mmsearch.index.fast import Fast
from mmsearch.index.flat import FlatIndex, Neighbours
from mmsearch.index.positions import Ids

#: recall@k is measured for this k.
K = 10
#: How many queries are timed one by one.
_TIMED = 30
#: The share that the filter lets through with which searches are measured too. They must find as
#: much, and may take twice as long as others.
_FILTERED = 0.1
#: Inverted lists are tried from here on: below, reading all codes takes a millisecond or two.
LISTS_FROM = 500_000
#: The shares of the lists that are read.
_READ = (1 / 32, 1 / 16, 1 / 8, 1 / 4)
#: How many candidates are compared exactly, the first that will do.
_CANDIDATES = (400, 800, 1600, 3200, 6400)
#: More candidates that give less than this are the last: what is lacking lies in lists not read.
_GAIN = 0.002
_SEED = 20
#: The factory of exact search, where it stands beside the others.
EXACT = "exact"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An index that was measured, or not even built, taking too much memory: then recall is 0.

    nprobe, candidates: how it was searched (mmsearch.index.measured.Measured). recall: recall@10,
    the lower of that among all vectors and among a tenth, where as many candidates reach less far.
    latency_ms: median of one query; filtered_ms: of one among the tenth. memory: in bytes; those of
    exact search are mapped. reach: of how many of the nearest it finds the share that was wanted;
    fast.SHALLOW, where that is known of 10 only.
    """

    factory: str
    nprobe: int
    candidates: int
    recall: float
    latency_ms: float
    filtered_ms: float
    memory: int
    build_seconds: float
    reach: int = fast.SHALLOW

    @property
    def cost(self) -> float:
        """What it is judged by, in milliseconds."""
        return max(self.latency_ms, self.filtered_ms / 2)


class Trial:
    """Measures on queries (nq, dim), nq > 0; the index is its own, as it was loaded from a file."""

    def __init__(self, index: FlatIndex, xq: NDArray[np.float32]) -> None:
        self._index = index
        self._xq = xq
        ids = index.ids()
        rng = np.random.default_rng(_SEED)
        some = rng.choice(ids, max(1, int(_FILTERED * len(ids))), replace=False)
        self._some: Ids = np.sort(some)
        self._found = {
            k: [(only, index.search(xq, k, only=only, exact=True)) for only in self._onlys]
            for k in (K, fast.DEEPEST)
        }

    @property
    def _onlys(self) -> tuple[Ids | None, Ids]:
        return None, self._some

    def recall(self, k: int = K) -> float:
        """recall@k of the index as it is searched now, among all and among a tenth: the lower."""
        return min(self._recall(k, *truth) for truth in self._found[k])

    def _recall(self, k: int, only: Ids | None, truth: list[Neighbours]) -> float:
        near = 0
        for one, true in zip(self._index.search(self._xq, k, only=only), truth, strict=True):
            # Whatever scores as much is as near: which of the equally near comes is no matter.
            near += int(np.count_nonzero(one.scores >= true.scores.min(initial=math.inf)))
        return near / max(1, sum(len(true.ids) for true in truth))

    def exactly(self) -> Candidate:
        """Exact search, measured."""
        plain, filtered = self._times(exact=True)
        rows = self._index.rows()
        return Candidate(EXACT, 0, 0, 1.0, plain, filtered, rows.nbytes + 8 * len(rows), 0.0)

    def approximately(
        self,
        factory: str,
        target: float,
        max_memory: int | None,
        tell: Callable[[Candidate], None],
    ) -> tuple[list[Candidate], Any]:
        """Builds one index, and measures the ways to search it, those that reach the target.

        Returns:
            What was measured, and the FAISS index; None where it takes more than `max_memory`.
        """
        rows = self._index.rows()
        began = time.perf_counter()
        needs = fast.memory_of(factory, *rows.shape)
        if max_memory is not None and needs > max_memory:
            found = [Candidate(factory, 0, 0, 0.0, 0.0, 0.0, needs, 0.0)]
            tell(found[0])
            return found, None
        index = fast.learn(factory, rows, _SEED)
        fast.encode(index, rows)
        built = time.perf_counter() - began
        found = []
        for nprobe in probes(int(index.nlist)):
            one = self._first(factory, index, nprobe, target, built)
            found.append(one)
            tell(one)
        self._index.fast = None
        return found, index

    def _first(
        self, factory: str, index: Any, nprobe: int, target: float, built: float
    ) -> Candidate:
        """With so few candidates as will do, or the most that are of use."""
        found, recall = self._few_candidates(index, nprobe, target)
        self._index.fast = found
        plain, filtered = self._times(exact=False)
        return Candidate(
            factory,
            nprobe,
            found.candidates,
            recall,
            plain,
            filtered,
            fast.memory(index),
            built,
            found.reach,
        )

    def _few_candidates(self, index: Any, nprobe: int, target: float) -> tuple[Fast, float]:
        """That, and its recall@10. Some more are taken where the target is reached that deep."""
        shallow: tuple[Fast, float] | None = None
        before = (-1.0, -1.0)
        for candidates in _CANDIDATES:
            self._index.fast = now = Fast(index, nprobe, candidates, fast.DEEPEST)
            # Beyond what it reaches all are compared, which says nothing of it.
            reaches = now.deepest == fast.DEEPEST
            recall, deep = self.recall(), self.recall(fast.DEEPEST) if reaches else 0.0
            if min(recall, deep) >= target:
                return now, recall
            if shallow is None or shallow[1] < target:
                shallow = Fast(index, nprobe, candidates), recall
            gained = max(recall - before[0], deep - before[1] if reaches else 0.0)
            if gained < _GAIN and (reaches or recall < target):
                break
            before = recall, deep
        assert shallow is not None
        return shallow

    def _times(self, *, exact: bool) -> tuple[float, float]:
        """Milliseconds of a query, and of one among a tenth: medians."""
        times = []
        for only in self._onlys:
            took = []
            for row in self._xq[:_TIMED]:
                began = time.perf_counter()
                self._index.search(row[None], K, only=only, exact=exact)
                took.append(time.perf_counter() - began)
            times.append(1000 * median(took))
        return times[0], times[1]


def probes(lists: int) -> Iterator[int]:
    """How many of so many inverted lists to read, to try."""
    return iter(sorted({max(1, round(share * lists)) for share in _READ}))


def factories(n: int, dim: int) -> list[str]:
    """The FAISS indexes to try for n vectors: the smallest codes, which are read fastest, first."""
    parts = sorted({_divisor(dim, dim // of) for of in (8, 4, 2)})
    found = [f"IVF1,PQ{m}x4fs" for m in parts]
    if n >= LISTS_FROM:
        lists = 2 ** round(math.log2(math.sqrt(n)))
        found.append(f"IVF{lists},PQ{_divisor(dim, dim // 4)}x4fs")
    return found


def _divisor(n: int, about: int) -> int:
    """The largest divisor of n up to `about`; 1 if need be."""
    return next(m for m in range(max(1, about), 0, -1) if n % m == 0)
