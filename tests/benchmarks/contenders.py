"""Vector indexes to compare: ours, and those of others as they come, built from the same vectors.

Each finds the ten nearest by inner product. Those of others keep what they build in a folder, and
are loaded from there the next time.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mmsearch.index.flat import FlatIndex

K = 10
_BLOCK = 50_000
#: How far graphs look, in turn, until they find enough.
_EFFORTS = (32, 64, 128, 256, 512, 1024, 2048)


class Contender(ABC):
    """name: for tables. bytes: a vector, on disk or in memory. build_seconds: None if not known."""

    name: str
    bytes: float
    build_seconds: float | None
    note = ""

    @abstractmethod
    def search(self, xq: np.ndarray) -> np.ndarray:
        """(nq, 10) int64: the nearest of each query (nq, dim), by position."""

    def tune(self, enough: Callable[[], bool]) -> None:
        """Searches as far as it must for `enough`, where it can be told to."""
        del enough


class Ours(Contender):
    def __init__(self, index: FlatIndex, *, exact: bool, about: dict[str, Any]) -> None:
        self._index, self._exact = index, exact
        self.name = "mmsearch exact" if exact else "mmsearch approximate"
        self.bytes, self.build_seconds = about["bytes"], about["seconds"]
        self.note = about["note"]

    def search(self, xq: np.ndarray) -> np.ndarray:
        found = self._index.search(xq, K, exact=self._exact)
        return np.stack([one.ids for one in found])


class Plain(Contender):
    """FAISS's flat index, with the number of threads and all else as shipped."""

    name = "faiss IndexFlatIP"

    def __init__(self, rows: np.ndarray) -> None:
        self.bytes = 4.0 * rows.shape[1]
        self._index: Any = faiss.IndexFlatIP(rows.shape[1])
        began = time.perf_counter()
        for start in range(0, len(rows), _BLOCK):
            self._index.add(rows[start : start + _BLOCK].astype(np.float32))
        self.build_seconds = time.perf_counter() - began

    def search(self, xq: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._index.search(xq, K)[1]
        return found


class Graph(Contender):
    """What is built once, slowly, and kept."""

    def __init__(self, rows: np.ndarray, folder: Path, *, build: bool) -> None:
        self._made(rows.shape[1])
        path = folder / f"{self.name}.index"
        about = path.with_suffix(".json")
        if not about.exists():
            if not build:
                raise NotBuiltError("it is not built (see --graphs-to)")
            began = time.perf_counter()
            self._build(rows)
            seconds = time.perf_counter() - began
            self._save(path)
            about.write_text(json.dumps(seconds))
        else:
            self._load(path, len(rows))
        self.build_seconds = float(json.loads(about.read_text()))
        self.bytes = path.stat().st_size / len(rows)

    def tune(self, enough: Callable[[], bool]) -> None:
        for effort in _EFFORTS:
            self._look(effort)
            self.note = f"M 16, build 128, search {effort}"
            if enough():
                break

    @abstractmethod
    def _made(self, dim: int) -> None: ...

    @abstractmethod
    def _build(self, rows: np.ndarray) -> None: ...

    @abstractmethod
    def _save(self, path: Path) -> None: ...

    @abstractmethod
    def _load(self, path: Path, n: int) -> None: ...

    @abstractmethod
    def _look(self, effort: int) -> None: ...


class NotBuiltError(Exception):
    """There is no graph, and none was to be built."""


class Hnswlib(Graph):
    name = "hnswlib"

    def _made(self, dim: int) -> None:
        import hnswlib

        self._index: Any = hnswlib.Index("ip", dim)

    def _build(self, rows: np.ndarray) -> None:
        self._index.init_index(len(rows), ef_construction=128, M=16, random_seed=1)
        for start in range(0, len(rows), _BLOCK):
            some = rows[start : start + _BLOCK].astype(np.float32)
            self._index.add_items(some, np.arange(start, start + len(some)))

    def _save(self, path: Path) -> None:
        self._index.save_index(str(path))

    def _load(self, path: Path, n: int) -> None:
        self._index.load_index(str(path), n)

    def _look(self, effort: int) -> None:
        self._index.set_ef(effort)

    def search(self, xq: np.ndarray) -> np.ndarray:
        return self._index.knn_query(xq, K)[0].astype(np.int64)  # type: ignore[no-any-return]


class Usearch(Graph):
    name = "usearch"

    def _made(self, dim: int) -> None:
        from usearch.index import Index

        self._index: Any = Index(
            ndim=dim, metric="ip", dtype="f16", connectivity=16, expansion_add=128
        )

    def _build(self, rows: np.ndarray) -> None:
        for start in range(0, len(rows), _BLOCK):
            some = np.ascontiguousarray(rows[start : start + _BLOCK])
            self._index.add(np.arange(start, start + len(some)), some)

    def _save(self, path: Path) -> None:
        self._index.save(str(path))

    def _load(self, path: Path, n: int) -> None:
        self._index.load(str(path))

    def _look(self, effort: int) -> None:
        self._index.expansion_search = effort

    def search(self, xq: np.ndarray) -> np.ndarray:
        keys = np.asarray(self._index.search(xq, K).keys)
        return keys.reshape(len(xq), -1).astype(np.int64)


GRAPHS: tuple[type[Graph], ...] = (Hnswlib, Usearch)
