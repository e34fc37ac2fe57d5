"""What the catalog takes: to write, to rescan, to filter, to page, and how that grows with it.

Writing is everything that an indexing run does after the encoder, from `CatalogWriter.commit` down:
contents, rows, metadata, vectors, words, texts that pictures carry, flags, the revision. Pictures
and captions are those of store_rows.py. Measured are

    batches   new pictures and captions a second, by how many a transaction holds, in a new catalog
    run       the store's part of a whole run over N pictures and N/4 captions: scan, pending,
              pictures in batches of 1,024, captions in batches of 512, links, sweep
    rescan    the store's part of a run over the same files, unchanged
    filters   Catalog.select: cold, and again after a commit
    paging    the metadata of a page of hits, anywhere in the first 10,000: one query for pictures,
              one for their files, both by index
    known     "is this content known", asked for one hash

and how the costs grow with the library. Medians of repeats; rates by the wall clock, with those by
the CPU time of the writing thread beside them, since disks are shared too.

    python tests/benchmarks/store.py [--sizes 10000 100000] [--full] [--quick] [--out FILE]
        [--plot FILE]

--full adds a million. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import scan
import sqlalchemy as sa
from figures import Bar, Table, exponent, finish, plot, run, seconds
from store_rows import CAPTIONS_FILE, SPACE, captions, carried, hash_of, path_of, pictures

from mmsearch.batches import batches as in_parts
from mmsearch.filters import parse
from mmsearch.library import CATALOG_NAME
from mmsearch.store import Catalog, CatalogWriter, Pending
from mmsearch.store.scan import Scan

#: New pictures a second, whole write path, in batches of a thousand and more.
INSERTS = Bar(15_000)
#: Unchanged files a second, the whole process.
RESCAN = Bar(scan.AIM)
#: A page's metadata in the largest library, over that in the smallest.
PAGE_GROWTH = Bar(1.5, more=False)
#: The exponent of a whole run's time over the number of pictures.
GROWTH = Bar(1.1, more=False)
#: The whole process of `mmsearch status`, seconds.
STATUS = Bar(0.6, more=False)
BATCHES = (16, 64, 256, 1024, 5000)
_PICTURES_A_BATCH = 1024
_CAPTIONS_A_BATCH = 512
_FILTERS = (
    "folder:2008",
    "path:**/IMG_00*.jpg",
    "taken:2008-03..2008-09",
    'camera:"canon*"',
    "keyword:norway not has:gps",
    "width:>4000 near:48.85,2.35,300",
)


class Clock:
    """Seconds of the wall and of this thread's CPU, summed over the blocks that it is around."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.wall += time.perf_counter() - wall
            self.cpu += time.thread_time() - cpu


@contextmanager
def catalog_to_write(path: Path) -> Iterator[tuple[CatalogWriter, int, int]]:
    with closing(CatalogWriter(path)) as writer:
        yield (
            writer,
            writer.ensure_space(SPACE),
            writer.ensure_source("/photos", "folder", (), False),
        )


def by_batch(work: Path, size: int, repeats: int) -> tuple[list[Clock], list[Clock], int]:
    """Clocks of `repeats` new catalogs, for pictures and for captions, and of how many each."""
    count = max(4 * size, 8192) // size * size
    images, texts = [], []
    for turn in range(repeats):
        path = work / f"batch-{size}-{turn}.db"
        with catalog_to_write(path) as (writer, space, source):
            known: set[bytes] = set()
            images.append(Clock())
            texts.append(Clock())
            for start in range(0, count, size):
                numbers = range(start, start + size)
                new, said = pictures(source, numbers), carried(source, numbers, known)
                with images[-1]():
                    writer.commit(space, images=new, texts=said)
            for start in range(0, count, size):
                lines = captions(source, range(start, start + size))
                with texts[-1]():
                    writer.commit(space, texts=lines)
            with texts[-1]():
                writer.link()
        path.unlink()
    return images, texts, count


def batches(work: Path, repeats: int) -> Table:
    table = Table(f"New pictures and captions a second, by batch; medians of {repeats}")
    for size in BATCHES:
        images, texts, count = by_batch(work, size, repeats)
        for what, clocks, bar in (
            ("pictures", images, INSERTS if size >= 1024 else None),
            ("captions, linked", texts, None),
        ):
            rate = statistics.median(count / clock.wall for clock in clocks)
            cpu = statistics.median(count / clock.cpu for clock in clocks)
            table.add(
                f"{what} in batches of {size:,}", rate, "/s", form=",.0f", bar=bar,
                note=f"{cpu:,.0f}/s of CPU",
            )  # fmt: skip
    return table


def files(count: int) -> Iterator[Pending]:
    """What a scan of the pictures meets."""
    for n in range(count):
        size, mtime_ns = 3_000_000 + n % 1_000_003, 1_700_000_000_000_000_000 + 1_000_003 * n
        yield Pending(path_of(n), "image", size, mtime_ns, None)
    yield Pending(CAPTIONS_FILE, "texts", 1, 1, None)


def whole_run(path: Path, count: int) -> dict[str, Clock]:
    """The store's part of a run over so many new pictures, and captions of a quarter of them."""
    clocks = {
        name: Clock() for name in ("scan", "pending", "pictures", "captions", "links", "rescan")
    }
    with catalog_to_write(path) as (writer, space, source):
        met = writer.scan
        met.begin()
        _saw(met, count, clocks["scan"])
        with clocks["scan"]():
            met.sweep(source)
        with clocks["pending"]():
            met.count_pending(source, space)
        pending = met.pending(source, space, ["image"])
        known: set[bytes] = set()
        for start in range(0, count, _PICTURES_A_BATCH):
            numbers = range(start, min(count, start + _PICTURES_A_BATCH))
            with clocks["pending"]():
                for _ in numbers:
                    next(pending)
            new, said = pictures(source, numbers), carried(source, numbers, known)
            with clocks["pictures"]():
                writer.commit(space, images=new, texts=said)
        (texts,) = met.pending(source, space, ["texts"])
        writer.begin_containers(source, [texts.path])
        for start in range(0, count // 4, _CAPTIONS_A_BATCH):
            lines = captions(source, range(start, min(count // 4, start + _CAPTIONS_A_BATCH)))
            with clocks["captions"]():
                writer.commit(space, texts=lines)
        with clocks["captions"]():
            writer.finish_containers(source, space, [texts])
        with clocks["links"]():
            linked = writer.link()
        assert linked.linked == count // 4, linked
        writer.finish_source(source)
        met.begin()
        _saw(met, count, clocks["rescan"])
        with clocks["rescan"]():
            swept = met.sweep(source)
            left = met.count_pending(source, space)
        assert not swept.missing, swept
        assert not left, left
    return clocks


def _saw(met: Scan, count: int, clock: Clock) -> None:
    for part in in_parts(files(count), 5000):
        with clock():
            met.saw(part)


def runs(work: Path, sizes: Sequence[int]) -> tuple[list[Table], dict[str, list[float]]]:
    found = {}
    for size in sizes:
        path = library_at(work, size)
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        found[size] = whole_run(path, size)
    tables = []
    for size, clocks in found.items():
        table = Table(f"The store's part of a run over {size:,} pictures, {size // 4:,} captions")
        for name, clock in clocks.items():
            of = size // 4 if name in ("captions", "links") else size
            table.add(
                name, of / clock.wall, "/s", form=",.0f",
                note=f"{clock.wall:.2f} s; {of / clock.cpu:,.0f}/s of CPU",
            )  # fmt: skip
        tables.append(table)
    series = {name: [clocks[name].wall for clocks in found.values()] for name in found[sizes[0]]}
    cpu = {name: [clocks[name].cpu for clocks in found.values()] for name in found[sizes[0]]}
    if len(sizes) > 1:
        table = Table(
            f"How a run's times grow from {sizes[0]:,} to {sizes[-1]:,} pictures: exponents"
        )
        total = [sum(parts) for parts in zip(*series.values(), strict=True)]
        total_cpu = [sum(parts) for parts in zip(*cpu.values(), strict=True)]
        table.add("all of it, CPU", exponent(sizes, total_cpu), bar=GROWTH)
        table.add("all of it, wall", exponent(sizes, total))
        for name, values in cpu.items():
            table.add(f"{name}, CPU", exponent(sizes, values))
        tables.append(table)
    return tables, series


def library_at(work: Path, size: int) -> Path:
    return work / f"library-{size}" / CATALOG_NAME


def rescans(work: Path, count: int, repeats: int) -> Table:
    """`mmsearch index` on a folder where nothing has changed; scan.py tells where the time goes."""
    root, library = work / f"photos-{count}", work / f"rescan-{count}"
    if not (library / CATALOG_NAME).exists():
        scan.make_files(root, count, max(1, count // 500))
        scan.fill_catalog(library, root, "tiny")
        scan.whole(library, root)  # writes the index file, warms the cache
    found = scan.medians([scan.whole(library, root) for _ in range(repeats)])
    table = Table(f"Rescan of {count:,} unchanged files, whole process, without torch")
    table.add(
        "files a second", count / found["wall_s"], "/s", form=",.0f", bar=RESCAN,
        note=f"{count / found['cpu_s']:,.0f}/s of CPU",
    )  # fmt: skip
    return table


def filters(work: Path, sizes: Sequence[int], repeats: int) -> list[Table]:
    tables = []
    for size in sizes:
        path = library_at(work, size)
        table = Table(f"Filters in a library of {size:,} pictures")
        before = resident()
        with closing(Catalog(path)) as catalog:
            for text in _FILTERS:
                part = parse(text)
                cold = seconds(lambda part=part: catalog.select(part, "image"))
                again = []
                for _ in range(repeats):
                    change(path)
                    again.append(seconds(lambda part=part: catalog.select(part, "image")))
                chosen = len(catalog.select(part, "image"))
                table.add(
                    text, statistics.median(again) * 1000, "ms",
                    note=f"first {cold * 1000:.1f} ms; {chosen:,} selected",
                )  # fmt: skip
            table.add(
                "memory of what filters keep, and of pages", (resident() - before) / 1e6, "MB",
                form=",.1f",
            )  # fmt: skip
        tables.append(table)
    return tables


def resident() -> int:
    """Bytes of this process that are in memory now."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def change(path: Path) -> None:
    """A commit that touches nothing a filter asks about."""
    import sqlite3

    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE state SET revision = revision + 1")
        connection.commit()


def paging(work: Path, sizes: Sequence[int], repeats: int) -> Table:
    """Pages of hits anywhere among 10,000 results, which lie anywhere in the library."""
    table = Table(f"A page's metadata, and one known hash; medians of {repeats * 10}")
    taken: dict[int, list[float]] = {20: [], 100: []}
    for size in sizes:
        with closing(Catalog(library_at(work, size))) as catalog:
            ids = catalog.select(parse(""), "image")
            rng = np.random.default_rng(size)
            results = rng.permutation(ids)[:10_000].tolist()
            for page, times in taken.items():
                starts = rng.integers(0, max(1, len(results) - page), repeats * 10).tolist()
                work_ = _pages(catalog, results, starts, page)
                statements = _count(catalog, work_)
                took = statistics.median(seconds(work_) for _ in starts)
                times.append(took)
                table.add(
                    f"{page} of 10,000 hits among {size:,} pictures", took * 1000, "ms",
                    note=f"{statements} statements",
                )  # fmt: skip
            hashes = [hash_of(n) for n in range(0, 2 * size, max(1, size // 500))]
            one = seconds(
                lambda hashes=hashes, catalog=catalog: [
                    catalog.vectors.known(1, "image", digest) for digest in hashes
                ],
                repeats,
            )
            table.add(f"one known hash among {size:,}", one / len(hashes) * 1e6, "us", form=".0f")
    if len(sizes) > 1:
        for page, times in taken.items():
            table.add(
                f"{page} hits: largest library over smallest", times[-1] / times[0],
                bar=PAGE_GROWTH,
            )  # fmt: skip
    return table


def _pages(
    catalog: Catalog, results: list[int], starts: list[int], page: int
) -> Callable[[], None]:
    turn = iter(starts * 2)

    def one() -> None:
        start = next(turn)
        found = catalog.image_records(results[start : start + page])
        assert len(found) == min(page, len(results))

    return one


def _count(catalog: Catalog, work: Callable[[], None]) -> int:
    """How many statements `work` runs."""
    ran: list[str] = []

    def note(*args: object) -> None:
        ran.append(str(args[2]))

    sa.event.listen(catalog.engine, "before_cursor_execute", note)
    work()
    sa.event.remove(catalog.engine, "before_cursor_execute", note)
    return len(ran)


def status(work: Path, sizes: Sequence[int], repeats: int) -> Table:
    table = Table("`mmsearch status`, whole process")
    for size in sizes:
        command = [sys.executable, "-m", "mmsearch", "-l", library_at(work, size).parent, "status"]
        took = statistics.median(run(command).seconds for _ in range(repeats))
        bar = STATUS if size == sizes[-1] else None
        table.add(f"{size:,} pictures", took, "s", bar=bar)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description="The catalog")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--full", action="store_true", help="a library of a million too")
    parser.add_argument("--quick", action="store_true", help="a fifth of the pictures, less often")
    parser.add_argument("--no-batches", action="store_true", help="leave the first table out")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, help="where to put the catalogs (kept)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    sizes = sorted({*options.sizes, *([1_000_000] if options.full else [])})
    repeats, rescanned = options.repeats, 100_000
    if options.quick:
        sizes, repeats, rescanned = [size // 5 for size in sizes], 3, 20_000
    with tempfile.TemporaryDirectory() as scratch:
        work = (options.work or Path(scratch)) / "store"
        work.mkdir(parents=True, exist_ok=True)
        tables = [] if options.no_batches else [batches(work, repeats)]
        of_runs, series = runs(work, sizes)
        tables += of_runs
        tables.append(rescans(work, rescanned, repeats))
        tables += filters(work, sizes, repeats)
        tables.append(paging(work, sizes, repeats))
        tables.append(status(work, sizes, repeats))
    if options.plot:
        plot(
            options.plot,
            {name: list(zip(sizes, values, strict=True)) for name, values in series.items()},
            title="The store's part of a run", x="pictures", y="seconds",
        )  # fmt: skip
    return finish(tables, options.out)


if __name__ == "__main__":
    sys.exit(main())
