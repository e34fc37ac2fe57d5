"""How fast an unchanged folder is scanned: the whole command, and where its time goes.

Makes a folder of small files and a catalog that knows them all, then runs `mmsearch index` on it
several times, as a process and inside this one with a clock around each step. On a machine that is
busy with other things the CPU time says more than the time on the wall; both are shown.

    python tests/benchmarks/scan.py [--files 100000] [--folders 200] [--repeats 5] [--out FILE]

Exit code 1 when the model was loaded, or something was found to have changed.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from indexer import ingest, sources, targets
from mmsearch.encode import space_at_hand
from mmsearch.library import CATALOG_NAME, Library
from mmsearch.store import CatalogWriter, ImageRow, scan
from mmsearch.store.lock import writing
from mmsearch.types import PictureInfo

#: The aim, in files a second on a warm cache.
AIM = 20_000
_INFO = PictureInfo("JPEG", 640, 480)
_STEPS: list[tuple[type, str, str]] = [
    (CatalogWriter, "__init__", "open for writing"),
    (scan.Scan, "begin", "temporary table"),
    (scan.Scan, "saw", "temporary table"),
    (scan.Scan, "count_seen", "temporary table"),
    (CatalogWriter, "adopt", "other sources"),
    (scan.Scan, "looks_unmounted", "sweep"),
    (scan.Scan, "sweep", "sweep"),
    (scan.Scan, "has_new_pending", "pending"),
    (CatalogWriter, "link", "link texts"),
    (Library, "save_indexes", "index files"),
]


def make_files(root: Path, count: int, folders: int) -> None:
    """`count` small files in `folders` folders, each with an inode of its own."""
    for folder in range(folders):
        where = root / f"{2000 + folder // 12}" / f"{folder:04}"
        where.mkdir(parents=True)
        for n in range(folder, count, folders):
            (where / f"IMG_{n:07}.jpg").write_bytes(b"%d" % n)


def fill_catalog(library: Path, root: Path, model: str) -> None:
    """Writes every file down as known, with a vector made up."""
    rng = np.random.default_rng(0)
    space = space_at_hand(model)
    assert space is not None, f"the space of {model} is not known here: index with it once"
    with writing(library):
        writer = CatalogWriter(library / CATALOG_NAME)
        try:
            space_id = writer.ensure_space(space)
            source_id = writer.ensure_source(str(root.absolute()), "folder", (), False)
            found = sources.scan(root)
            while rows := list(itertools.islice(found, 5000)):
                vectors = rng.standard_normal((len(rows), space.dim)).astype(np.float32)
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
                images = []
                for entry, vector in zip(rows, vectors, strict=True):
                    assert isinstance(entry, sources.FileEntry)
                    digest = hashlib.sha256(entry.path.encode()).digest()
                    images.append(
                        ImageRow(
                            source_id=source_id,
                            path=entry.path,
                            member="",
                            size=entry.size,
                            mtime_ns=entry.mtime_ns,
                            hash=digest,
                            info=_INFO,
                            vector=vector,
                        )
                    )
                writer.commit(space_id, images=images)
            writer.finish_source(source_id)
        finally:
            writer.close()


def whole(library: Path, root: Path) -> dict[str, float]:
    """One `mmsearch index` as a process: seconds on the wall and of CPU. Fails on any change."""
    command = [sys.executable, "-m", "mmsearch", "-l", str(library), "index", str(root), "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(done.stdout)
    if report["changed"] or report["device"] is not None:
        sys.exit(f"the folder was not taken as unchanged: {report}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "run_s": report["seconds"]}


class Clock:
    """Seconds of CPU (this thread) by step, of one run inside this process."""

    def __init__(self) -> None:
        self.steps: dict[str, float] = {"walk": 0.0}

    def around(self, call: Callable[..., Any], step: str) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.steps[step] = self.steps.get(step, 0) + time.thread_time() - started

        return timed

    def walk(self, *args: Any) -> Iterator[Any]:
        """Target.scan, each of its steps timed."""
        entries = Clock.scan(*args)
        while True:
            started = time.thread_time()
            part = list(itertools.islice(entries, 5000))
            self.steps["walk"] += time.thread_time() - started
            if not part:
                return
            yield from part

    scan = staticmethod(targets.Target.scan)


def inside(library: Path, root: Path) -> dict[str, float]:
    """CPU seconds of each step of one run in this process."""
    clock = Clock()
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in _STEPS]
    readable = ingest._Run._anything_readable  # type: ignore[attr-defined, unused-ignore]
    try:
        for owner, name, step in _STEPS:
            setattr(owner, name, clock.around(getattr(owner, name), step))
        targets.Target.scan = lambda *args: clock.walk(*args)  # type: ignore[assignment, method-assign]
        ingest._Run._anything_readable = clock.around(readable, "pending")  # type: ignore[method-assign]
        started = time.thread_time()
        report = ingest.index(library, [root])
        total = time.thread_time() - started
    finally:
        for owner, name, method in kept:
            setattr(owner, name, method)
        targets.Target.scan = Clock.scan  # type: ignore[method-assign]
        ingest._Run._anything_readable = readable  # type: ignore[method-assign]
    assert not report.changed
    return clock.steps | {"the rest": total - sum(clock.steps.values()), "all of it": total}


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--folders", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--work", type=Path, help="where to put the files (kept, and used again)")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="mmsearch-scan-"))
    root, library = work / "photos", work / "library"
    try:
        if not (library / CATALOG_NAME).exists():
            make_files(root, options.files, options.folders)
            fill_catalog(library, root, options.model)
            ingest.index(library, [root])  # writes the index file, warms the cache
        runs = [whole(library, root) for _ in range(options.repeats)]
        steps = medians([inside(library, root) for _ in range(options.repeats)])
    finally:
        if options.work is None:
            shutil.rmtree(work)
    process = medians(runs)
    files = options.files
    print(f"{files:,} files in {options.folders:,} folders, unchanged; medians of", end=" ")
    print(f"{options.repeats} runs; load of the machine {os.getloadavg()[0]:.1f}\n")
    print(f"{'mmsearch index':24}{'seconds':>10}{'files/s':>12}")
    names = {"wall_s": "whole process, wall", "cpu_s": "whole process, CPU", "run_s": "run, wall"}
    for key, name in names.items():
        print(f"{name:24}{process[key]:>10.2f}{files / process[key]:>12,.0f}")
    print(f"\n{'step (CPU)':24}{'seconds':>10}{'share':>12}")
    for name, seconds in steps.items():
        print(f"{name:24}{seconds:>10.3f}{seconds / steps['all of it']:>12.0%}")
    met = "met" if files / process["wall_s"] >= AIM else "not met"
    print(f"\naim: {AIM:,} files/s for the whole process on the wall: {met}")
    if options.out:
        figures = {"files": files, "process": process, "steps_cpu_s": steps, "runs": runs}
        figures |= {"load": os.getloadavg(), "cpus": os.cpu_count()}
        options.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
