"""What a library pays for its age: searches, memory and opening, against a fresh one as large.

Makes two catalogs of random unit vectors with as many visible contents. The fresh one was filled at
once. In the aged one, 30 % were deleted and replaced over several runs, each of which ended as
`mmsearch index` does; then as much more as the index takes before its file is written anew. Each is
opened in processes of its own, in turn; of several measurements the best counts, since other work
on the machine only ever adds to them. Searches run on one thread; on a busy machine their CPU time
says more than the time on the wall, so that is what is held against the aim.

    python tests/benchmarks/aged.py [--vectors 200000] [--dim 512] [--repeats 5] [--out FILE]

Exit code 1 when searches or memory of the aged one are more than 1.3 times those of the fresh one.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from mmsearch.indexes import Indexes
from mmsearch.store import Catalog, CatalogWriter
from mmsearch.types import Space

#: The aim: at most this many times what the fresh one takes.
AIM = 1.3
_CHURN = 0.3
_RUNS = 10
#: Just below the share at which an index file is written anew.
_TAIL = 0.09
_CHANGED = 100
_QUERIES = 100
_ROWS = 20_000
#: Measured → its unit; `_HELD` are held against the aim.
_SHOWN = {
    "search": "ms",
    "search, CPU": "ms",
    "rss": "MB",
    "uss": "MB",
    "open": "ms",
    "add 100": "ms",
    "hide 100": "ms",
    "no change": "ms",
    "end of a run": "ms",
    "file": "MB",
}
_HELD = ("search, CPU", "rss", "uss")


def unit(n: int, dim: int, seed: int) -> np.ndarray:
    xb = np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)
    return xb / np.linalg.norm(xb, axis=1, keepdims=True)


class Bench:
    """A catalog and its index files in a folder of their own."""

    def __init__(self, folder: Path, dim: int) -> None:
        self.path, self.folder = folder / "catalog.db", folder / "index"
        self.space = Space("bench", dim, "b" * 64, "none")
        if not self.path.exists():
            with closing(CatalogWriter(self.path)) as writer:
                writer.ensure_space(self.space)

    def add(self, n: int, seed: int) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            (last,) = connection.execute("SELECT ifnull(max(id), 0) FROM content").fetchone()
            for start in range(0, n, _ROWS):
                xb = unit(min(_ROWS, n - start), self.space.dim, seed + start).astype("<f2")
                ids = range(last + start + 1, last + start + 1 + len(xb))
                connection.executemany(
                    "INSERT INTO content (id, modality, hash) VALUES (?, 'image', ?)",
                    ((id_, id_.to_bytes(32, "big")) for id_ in ids),
                )
                connection.executemany(
                    "INSERT INTO embedding (space_id, content_id, vector) VALUES (1, ?, ?)",
                    zip(ids, (row.tobytes() for row in xb), strict=True),
                )
            connection.execute("UPDATE state SET revision = revision + 1")
            connection.commit()

    def hide(self, n: int, seed: int) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            ids = np.array(connection.execute("SELECT id FROM content WHERE NOT hidden").fetchall())
            gone = np.random.default_rng(seed).choice(ids[:, 0], n, replace=False)
            connection.executemany(
                "UPDATE content SET hidden = 1 WHERE id = ?", [(int(id_),) for id_ in gone]
            )
            connection.execute("UPDATE state SET revision = revision + 1")
            connection.commit()

    def end_of_run(self) -> None:
        with closing(Catalog(self.path)) as catalog:
            self.indexes(catalog).save()

    def indexes(self, catalog: Catalog) -> Indexes:
        return Indexes(self.folder, catalog, 1, self.space)


def make(folder: Path, n: int, dim: int, *, aged: bool) -> None:
    bench = Bench(folder, dim)
    bench.add(n, 1)
    bench.end_of_run()
    if aged:
        for run in range(_RUNS):
            bench.hide(round(n * _CHURN / _RUNS), run)
            bench.add(round(n * _CHURN / _RUNS), 10_000_000 * (run + 1))
            bench.end_of_run()
        with closing(Catalog(bench.path)) as catalog:
            index = bench.indexes(catalog).get("image")
            more = max(0, round(n * _TAIL) - max(index.gone, index.delta))
        bench.hide(more, 99)
        bench.add(more, 5)
        bench.end_of_run()


def memory(name: str) -> float:
    """A line of the summary of this process's memory, in MB; "Private" sums two."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(name)) / 1000


def measure(folder: Path, dim: int) -> dict[str, float]:
    """What one process that opens it measures; it changes the catalog and leaves it changed."""
    import faiss  # noqa: F401  # not part of what opening takes

    def clock() -> float:
        return 1000 * time.perf_counter()

    found: dict[str, float] = {}
    bench = Bench(folder, dim)
    with closing(Catalog(bench.path)) as catalog:
        indexes = bench.indexes(catalog)
        start = clock()
        index = indexes.get("image")
        found["open"] = clock() - start
        found |= {"visible": len(index), "delta": index.delta, "gone": index.gone}
        xq = unit(_QUERIES, dim, 77)
        for row in xq:
            index.search(row[None], 10)
        times = []
        for row in xq:
            start, cpu = clock(), 1000 * time.process_time()
            index.search(row[None], 10)
            times.append((clock() - start, 1000 * time.process_time() - cpu))
        found["search"] = statistics.median(wall for wall, _ in times)
        found["search, CPU"] = statistics.median(cpu for _, cpu in times)
        found |= {"rss": memory("Rss:"), "uss": memory("Private_")}
        seed = time.time_ns() % 1_000_000_007
        for what, change in (("add 100", bench.add), ("hide 100", bench.hide)):
            change(_CHANGED, seed)
            start = clock()
            indexes.refresh()
            found[what] = clock() - start
        start = clock()
        indexes.refresh()
        found["no change"] = clock() - start
    with closing(Catalog(bench.path)) as catalog:
        start = clock()
        bench.indexes(catalog).save()
        found["end of a run"] = clock() - start
    found["file"] = sum(file.stat().st_size for file in bench.folder.iterdir()) / 1e6
    return found


def best(folder: Path, arguments: list[str], into: dict[str, float]) -> None:
    """Measures in a new process; keeps the lesser of what there was and what there is now."""
    command = [sys.executable, __file__, "--measure", str(folder), *arguments]
    # A thread that waits for another would count as work.
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=alone)
    for what, value in json.loads(done.stdout).items():
        into[what] = min(value, into.get(what, value))


def main() -> int:
    parser = argparse.ArgumentParser(description="Age of an index")
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    n, dim = options.vectors, options.dim
    if options.measure:
        print(json.dumps(measure(options.measure, dim)))
        return 0
    results: dict[str, Any] = {"vectors": n, "dim": dim, "fresh": {}, "aged": {}}
    with tempfile.TemporaryDirectory() as root:
        for kind in ("fresh", "aged"):
            (Path(root) / kind).mkdir()
            make(Path(root) / kind, n, dim, aged=kind == "aged")
        for _ in range(options.repeats):
            for kind in ("fresh", "aged"):
                best(Path(root) / kind, ["--dim", str(dim)], results[kind])
    fresh, aged = results["fresh"], results["aged"]
    print(f"{n:,} visible vectors of {dim} dimensions, best of {options.repeats}")
    print(f"aged: {aged['delta']:,} not in the file yet, {aged['gone']:,} hidden but held")
    print(f"{'':14}{'fresh':>10}{'aged':>10}      aged / fresh")
    for what, unit_ in _SHOWN.items():
        ratio = aged[what] / fresh[what]
        print(f"{what:14}{fresh[what]:10.2f}{aged[what]:10.2f} {unit_:4}{ratio:8.2f}")
    results["ratios"] = {what: aged[what] / fresh[what] for what in _SHOWN}
    results["kept"] = all(results["ratios"][what] <= AIM for what in _HELD)
    print(f"within {AIM} ({', '.join(_HELD)}): {'yes' if results['kept'] else 'NO'}")
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0 if results["kept"] else 1


if __name__ == "__main__":
    sys.exit(main())
