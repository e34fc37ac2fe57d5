"""How what the other benchmarks measure grows with the number of items: at 1, 10 and 100 times.

For each kind the exponent b of time = a · items^b, by least squares over the logarithms: 1 is
linear, 0 does not grow. What has to touch every item may be linear (at most 1.1); what has not,
must not grow.

    python tests/benchmarks/growth.py --work DIR [--kinds scan inserts …] [--quick] [--out FILE]

--quick: fewer items. Exit code 1 when something grows faster than its bar.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import scan
from aged import Bench
from ann import Made
from figures import Bar, Table, exponent, finish, plot, run, seconds
from filters import change, describe
from materials import library_of_vectors, small_pictures, unit_vectors

from indexer import ingest
from mmsearch.encode import space_at_hand
from mmsearch.filters import parse
from mmsearch.index.flat import FlatIndex
from mmsearch.index.trial import Candidate, Trial, factories
from mmsearch.library import CATALOG_NAME
from mmsearch.store import Catalog, CatalogWriter, ImageRow
from mmsearch.types import PictureInfo, Space

LINEAR = Bar(1.1, more=False)
#: For what at the least size fits a core's cache, which is twice as fast, and later does not.
CACHED = Bar(1.2, more=False)
CONSTANT = Bar(0.1, more=False)
#: A tenth more over a hundred times as many: log(1.1) / log(100).
FLAT = Bar(0.021, more=False)
MODEL = "tiny"
_DIM = 512
_SEED = 11
#: What an approximate search must find of the nearest ten.
_RECALL = 0.97


@dataclass(frozen=True, slots=True)
class Kind:
    """Something that is measured at several sizes. measure: (items, scratch folder) → figure.

    unit: of what is measured, "s" or "MB". least, quick: the least number of items, usually and
    in a short run.
    """

    name: str
    title: str
    unit: str
    least: int
    quick: int
    measure: Callable[[int, Path], float]
    bar: Bar


# --- the write path -------------------------------------------------------------------------------


def scanning(items: int, work: Path) -> float:
    """Seconds of a run over a folder in which nothing changed."""
    root, library = work / f"files-{items}", work / f"files-{items}-library"
    if not (library / CATALOG_NAME).exists():
        shutil.rmtree(root, ignore_errors=True)
        scan.make_files(root, items, max(1, items // 500))
        scan.fill_catalog(library, root, MODEL)
        ingest.index(library, [root])  # writes the index file, warms the cache
    return float(np.median([scan.whole(library, root)["run_s"] for _ in range(3)]))


def inserting(items: int, work: Path) -> float:
    """Seconds to commit pictures with their metadata and vectors."""
    folder = work / "inserts"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    info = PictureInfo("JPEG", 4000, 3000)
    rng = np.random.default_rng(_SEED)
    xb = unit_vectors(min(items, 2000), _DIM, _SEED)
    with closing(CatalogWriter(folder / CATALOG_NAME)) as writer:
        space = writer.ensure_space(Space("bench", _DIM, "b" * 64, "none"))
        source = writer.ensure_source("/photos", "folder", (), False)
        rows = [
            ImageRow(source, f"{n // 1000}/{n}.jpg", "", 1, 1, rng.bytes(32), info, xb[n % len(xb)])
            for n in range(items)
        ]

        def commit() -> None:
            for start in range(0, items, 10_000):
                writer.commit(space, images=rows[start : start + 10_000])

        took = seconds(commit)
    shutil.rmtree(folder)
    return took


@functools.cache
def _indexed(items: int, work: Path) -> tuple[float, float]:
    """Seconds of an indexing run of small pictures, and megabytes at its peak."""
    pictures = small_pictures(items, work / f"small-{items}")
    library = work / "small-library"
    shutil.rmtree(library, ignore_errors=True)
    command = [sys.executable, "-m", "mmsearch", "-l", str(library), "index", str(pictures)]
    ran = run([*command, "--model", MODEL, "--json"])
    report = json.loads(ran.stdout)
    assert report["encoded_images"] == items, report
    shutil.rmtree(library)
    return report["seconds"], ran.peak_bytes / 1e6


def indexing(items: int, work: Path) -> float:
    return _indexed(items, work)[0]


def indexing_memory(items: int, work: Path) -> float:
    return _indexed(items, work)[1]


# --- the read path --------------------------------------------------------------------------------


def _described(items: int, work: Path) -> Bench:
    """A catalog of pictures with metadata and vectors, its index file written."""
    folder = work / f"described-{items}"
    there = (folder / "catalog.db").exists()
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(folder, _DIM)
    if not there:
        bench.add(items, _SEED)
        describe(bench.path, items)
        bench.end_of_run()
    return bench


def selecting(items: int, work: Path) -> float:
    """Seconds to resolve a filter after a commit, which no earlier answer is good for."""
    bench = _described(items, work)
    part = parse("taken:2010..2018 keyword:kw1? not path:**/e3/**")
    with closing(Catalog(bench.path)) as catalog:
        catalog.select(part, "image")

        def ask() -> None:
            change(bench.path)
            catalog.select(part, "image")

        return seconds(ask, 7)


def paging(items: int, work: Path) -> float:
    """Seconds to read all that is known of 20 pictures."""
    bench = _described(items, work)
    rng = np.random.default_rng(_SEED)
    with closing(Catalog(bench.path)) as catalog:

        def page() -> None:
            ids = rng.choice(items, 20, replace=False) + 1
            assert len(catalog.image_records([int(id_) for id_ in ids])) == 20

        page()
        return seconds(page, 200)


def opening(items: int, work: Path) -> float:
    """Seconds to open catalog and index, and to answer the first query by vector."""
    bench = _described(items, work)
    xq = unit_vectors(1, _DIM, _SEED + 1)

    def first() -> None:
        with closing(Catalog(bench.path)) as catalog:
            found = bench.indexes(catalog).get("image").search(xq, 10)
            assert len(found[0].ids) == 10

    first()
    return seconds(first, 5)


@functools.cache
def _trial(items: int, work: Path) -> tuple[Trial, Candidate]:
    """An index of made-up pictures on disk, asked in words; and its exact search, measured."""
    made = Made(_DIM, _SEED)
    space = Space("made/up", _DIM, "f" * 64, "")
    index = FlatIndex(space, "image")
    for start in range(0, items, 50_000):
        ids = np.arange(start, min(items, start + 50_000))
        index.add(int(ids[-1]) + 1, ids, made.pictures(len(ids)).astype(np.float16))
    folder = work / "index"
    shutil.rmtree(folder, ignore_errors=True)
    index.save(folder)
    trial = Trial(FlatIndex.load(folder, space, "image"), made.words(100))
    return trial, trial.exactly()


def exactly(items: int, work: Path) -> float:
    """Seconds of one query in words, every vector compared."""
    return _trial(items, work)[1].latency_ms / 1000


def approximately(items: int, work: Path) -> float:
    """Seconds of one query, by the fastest index without lists that reaches _RECALL.

    Lists, whose number `mmsearch optimize` lets grow with that of the vectors, take minutes.
    """
    trial, best = _trial(items, work)
    for factory in factories(items, _DIM):
        if factory.startswith("IVF1,"):
            found, _ = trial.approximately(factory, _RECALL, None, lambda one: None)
            best = min((best, *(one for one in found if one.recall >= _RECALL)),
                       key=lambda one: one.latency_ms)  # fmt: skip
    return best.latency_ms / 1000


def terminal(items: int, work: Path) -> float:
    """Seconds of a whole process that answers a query in words."""
    space = space_at_hand(MODEL)
    assert space is not None
    library = library_of_vectors(work / f"vectors-{items}", items, space)
    command = [sys.executable, "-m", "mmsearch", "-l", str(library), "search", "a red kite"]
    command += ["--all", "--no-server"]
    run(command)
    return float(np.median([run(command).seconds for _ in range(5)]))


KINDS = (
    Kind("scan", "scan of an unchanged folder", "s", 1000, 300, scanning, LINEAR),
    Kind("inserts", "inserts: picture, metadata, vector", "s", 1000, 200, inserting, LINEAR),
    Kind("indexing", "indexing small pictures, end to end", "s", 500, 50, indexing, LINEAR),
    Kind("memory", "peak memory of that run", "MB", 500, 50, indexing_memory, FLAT),
    Kind("exact", "one query, exact", "s", 10_000, 3000, exactly, CACHED),
    Kind("near", "one query, approximate", "s", 10_000, 3000, approximately, LINEAR),
    Kind("filter", "a filter after a commit", "s", 2000, 200, selecting, LINEAR),
    Kind("page", "metadata of 20 pictures", "s", 2000, 200, paging, CONSTANT),
    Kind("open", "open a library, first query by vector", "s", 2000, 200, opening, LINEAR),
    Kind("terminal", "query in the terminal, whole process", "s", 1000, 100, terminal, CONSTANT),
)


def main() -> int:
    parser = argparse.ArgumentParser(description="How times grow with the number of items")
    names = [kind.name for kind in KINDS]
    parser.add_argument("--kinds", nargs="+", choices=names, default=names)
    parser.add_argument("--work", type=Path, required=True, help="scratch, used again")
    parser.add_argument("--quick", action="store_true", help="fewer items")
    parser.add_argument("--out", type=Path, help="also write the figures, as JSON")
    parser.add_argument("--plot", type=Path, help="also draw them")
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    table = Table("growth: figures at 1, 10 and 100 times the items, and the exponent")
    found: dict[str, list[tuple[float, float]]] = {}
    for kind in (kind for kind in KINDS if kind.name in options.kinds):
        least = kind.quick if options.quick else kind.least
        points = [(float(n), kind.measure(n, work)) for n in (least, least * 10, least * 100)]
        found[kind.title] = points
        sizes, values = zip(*points, strict=True)
        scale, unit = (1000, "ms") if kind.unit == "s" else (1, kind.unit)
        shown = ", ".join(f"{scale * value:,.4g}" for value in values)
        note = f"{shown} {unit} at {least:,} x 1, 10, 100"
        table.add(kind.title, exponent(sizes, values), bar=kind.bar, note=note)
    if options.plot:
        plot(options.plot, found, title="growth", x="items", y="seconds (memory: MB)")
    return finish([table], options.out, {"points": found})


if __name__ == "__main__":
    sys.exit(main())
