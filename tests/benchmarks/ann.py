"""The approximate index against exact search, on made-up vectors with a modality gap.

    python tests/benchmarks/ann.py --vectors 100000 1000000 --work DIR --out result.json

Pictures lie in 2,000 clusters of a decaying spectrum; queries in words lie around the same centres,
with noise of their own and shifted away from all pictures, as those of CLIP are (the nearest
picture has a cosine of 0.4 to words, of 0.8 to a picture). For each number of vectors it measures
all candidates of `mmsearch optimize`, takes the fastest that reaches the target for queries in
words, and compares it with exact search: recall for words and for pictures, latency with and
without filters, bytes a vector, seconds to build.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[2])]

from mmsearch.index import fast  # noqa: E402
from mmsearch.index.fast import Fast  # noqa: E402
from mmsearch.index.flat import FlatIndex  # noqa: E402
from mmsearch.index.trial import EXACT, Candidate, Trial, factories  # noqa: E402
from mmsearch.types import Space  # noqa: E402

_BLOCK = 50_000
_CLUSTERS = 2000
_QUERIES = 300
_SHARES = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
_DEPTHS = (10, 100, 1000, 10_000)


class Made:
    """Vectors of unit norm: of pictures, and of words."""

    def __init__(self, dim: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._rng = rng
        self._dim = dim
        self._spread = (np.arange(1, dim + 1) ** -0.5).astype(np.float32)
        self._centres = rng.standard_normal((_CLUSTERS, dim), dtype=np.float32) * self._spread
        turned, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
        self._turned = turned.astype(np.float32)
        gap = rng.standard_normal(dim).astype(np.float32)
        self._gap = gap / np.linalg.norm(gap)

    def pictures(self, n: int) -> np.ndarray:
        return self._around(n, 0.7, 0.0, 0.5)

    def words(self, n: int) -> np.ndarray:
        return self._around(n, 0.4, 1.0, -0.5)

    def _around(self, n: int, spread: float, noise: float, gap: float) -> np.ndarray:
        rows = self._rng.standard_normal((n, self._dim), dtype=np.float32) * self._spread
        rows = self._centres[self._rng.integers(0, _CLUSTERS, n)] + spread * rows
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        if noise:
            more = self._rng.standard_normal(rows.shape, dtype=np.float32)
            rows += noise / np.sqrt(self._dim) * more
        rows = rows @ self._turned + gap * self._gap
        return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def milliseconds(ask: Callable[[np.ndarray], object], xq: np.ndarray, n: int) -> float:
    """The median time of a query, of n."""
    times = []
    for row in xq[:n]:
        began = time.perf_counter()
        ask(row[None])
        times.append(time.perf_counter() - began)
    return round(1000 * statistics.median(times), 2)


def measure(n: int, dim: int, work: Path, target: float, seed: int) -> dict[str, Any]:
    made = Made(dim, seed)
    space = Space("made/up", dim, "f" * 64, "")
    index = FlatIndex(space, "image")
    for start in range(0, n, _BLOCK):
        some = min(_BLOCK, n - start)
        ids = np.arange(start, start + some)
        index.add(start + some, ids, made.pictures(some).astype(np.float16))
    words, pictures = made.words(_QUERIES), made.pictures(_QUERIES)
    began = time.perf_counter()
    index.save(work)
    written = time.perf_counter() - began
    index = FlatIndex.load(work, space, "image")
    trial = Trial(index, words)
    best: tuple[Candidate, Any] = (replace(trial.exactly(), build_seconds=written), None)
    tried = [best[0]]
    sys.stdout.write(f"\n{n:,} x {dim}, queries in words\n")
    show(best[0], n)
    for factory in factories(n, dim):
        found, built = trial.approximately(factory, target, None, lambda one: show(one, n))
        tried += found
        for one in found:
            if one.recall >= target and one.cost < best[0].cost:
                best = one, built
    chosen, built = best
    result: dict[str, Any] = {
        "vectors": n,
        "dim": dim,
        "target": target,
        "candidates": [asdict(one) for one in tried],
        "chosen": asdict(chosen),
    }
    if chosen.factory == EXACT:
        sys.stdout.write("nothing is faster than exact search\n")
        return result
    began = time.perf_counter()
    fast.encode(built, index.rows())
    result["encode_seconds"] = round(time.perf_counter() - began, 1)
    by_pictures = Trial(index, pictures)
    index.fast = Fast(built, chosen.nprobe, chosen.candidates)
    result["recall_words"], result["recall_pictures"] = chosen.recall, by_pictures.recall()
    sys.stdout.write(
        f"chosen: {chosen.factory}, nprobe {chosen.nprobe}, {chosen.candidates} candidates; "
        f"recall@10 {chosen.recall:.4f} in words, {result['recall_pictures']:.4f} by pictures; "
        f"{chosen.memory / n:.0f} bytes a vector beside {dim * 2 + 8} mapped; encoded anew in "
        f"{result['encode_seconds']} s\n"
    )
    result["filters"] = filters(index, words)
    result["depths"] = depths(index, words)
    return result


def filters(index: FlatIndex, xq: np.ndarray) -> list[dict[str, float]]:
    """Among some contents only: latency, and recall of the approximate search."""
    rng = np.random.default_rng(0)
    ids = index.ids()
    rows = []
    sys.stdout.write(f"{'allowed':>9}{'exact ms':>10}{'ms':>8}{'recall@10':>11}\n")
    for share in _SHARES:
        few = max(10, int(share * len(ids)))
        only = None if share == 1 else np.sort(rng.choice(ids, few, replace=False))
        near = far = 0
        for one, truth in zip(
            index.search(xq[:100], 10, only=only),
            index.search(xq[:100], 10, only=only, exact=True),
            strict=True,
        ):
            near += int(np.count_nonzero(one.scores >= truth.scores[-1]))
            far += len(truth.ids)

        def ask(row: np.ndarray, exact: bool, only: Any = only) -> object:
            return index.search(row, 10, only=only, exact=exact)

        row = {
            "share": share,
            "exact_ms": milliseconds(lambda row: ask(row, True), xq, 15),
            "ms": milliseconds(lambda row: ask(row, False), xq, 50),
            "recall": near / far,
        }
        rows.append(row)
        sys.stdout.write(
            f"{share:>9}{row['exact_ms']:>10.2f}{row['ms']:>8.2f}{row['recall']:>11.4f}\n"
        )
        sys.stdout.flush()
    return rows


def depths(index: FlatIndex, xq: np.ndarray) -> list[dict[str, float]]:
    """So many results in one search, as deep pages need."""
    rows = []
    sys.stdout.write(f"{'results':>9}{'exact ms':>10}{'ms':>8}\n")
    for k in _DEPTHS:
        row = {
            "k": k,
            "exact_ms": milliseconds(lambda row: index.search(row, k, exact=True), xq, 11),  # noqa: B023
            "ms": milliseconds(lambda row: index.search(row, k), xq, 11),  # noqa: B023
        }
        rows.append(row)
        sys.stdout.write(f"{k:>9,}{row['exact_ms']:>10.2f}{row['ms']:>8.2f}\n")
    return rows


def show(one: Candidate, n: int) -> None:
    sys.stdout.write(
        f"  {one.factory:<20}nprobe {one.nprobe:>4}  candidates {one.candidates:>5}  "
        f"recall@10 {one.recall:.4f}  {one.latency_ms:>7.2f} ms  "
        f"{one.filtered_ms:>7.2f} ms among a tenth  {one.memory / n:>6.0f} B/vector  "
        f"built in {one.build_seconds:.1f} s\n"
    )
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--vectors", type=int, nargs="+", default=[100_000])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--target", type=float, default=0.98)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True, help="an existing scratch folder")
    parser.add_argument("--out", type=Path, help="where to write everything as JSON")
    options = parser.parse_args()
    results = [
        measure(n, options.dim, options.work, options.target, options.seed) for n in options.vectors
    ]
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
