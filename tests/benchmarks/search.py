"""Search, exact and approximate, beside what others do and what the memory can do.

    python tests/benchmarks/search.py --vectors 10000 100000 1000000 --work DIR
        [--graphs-to N] [--library N] [--device cuda] [--out FILE] [--plot FILE]

On the made-up vectors of ann.py, for each number of them: the latency of one query (in words), the
queries a second in batches of 64, recall@10 of queries in words and of pictures, bytes a vector and
seconds to build, of

    mmsearch exact         half precision, mapped, shared between the cores
    mmsearch approximate   the fastest that `mmsearch optimize` finds for --target
    faiss IndexFlatIP      as shipped: its own threads and thresholds
    hnswlib, usearch       where they are installed, with the effort that reaches --target

Contenders take turns with every query, so that other work on the machine falls on all. The memory's
bandwidth is that of `memchr` for a byte that is not there, in a buffer as large as the exact index,
on as many threads as a search takes; measured in turn with the rest, of which the best counts. Of
latencies the median does.

Graphs take minutes to build at a million: those of hnswlib and usearch are built for up to
--graphs-to vectors (100,000), and left out of larger runs unless --work has them already.
--library N makes a library of N pictures, through the catalog's writer, and opens it in fresh
processes: from before Python's imports to the answer of the first query. --device cuda measures
exact search on a GPU instead. 10,000,000 vectors take 30 GB of memory and as much disk.

What takes long is made once and kept in --work. Exit code 1 when a bar is missed; they hold from
1,000,000 vectors on.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch  # before faiss: it brings the OpenMP runtime

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from ann import Made  # noqa: E402
from contenders import GRAPHS, Contender, K, NotBuiltError, Ours, Plain  # noqa: E402

from mmsearch.index import crew, fast, manifest, measured  # noqa: E402
from mmsearch.index.flat import FlatIndex  # noqa: E402
from mmsearch.index.measured import Measured  # noqa: E402
from mmsearch.index.trial import EXACT, Candidate, Trial, factories  # noqa: E402
from mmsearch.types import Space  # noqa: E402

#: Measured → (bar, whether larger is better).
BARS = {
    "of_bandwidth": (0.7, True),
    "recall_words": (0.97, True),
    "times_plain": (20.0, True),
    "open_s": (1.0, False),
    "gpu_of_bandwidth": (1 / 1.5, True),
    "gpu_per_second": (50_000.0, True),
    "gpu_text_ms": (5.0, False),
}
_HOLD_FROM = 1_000_000
_BLOCK = 50_000
_ASKED = 100
_BATCH = 64
_ROUNDS = 15
_BATCHES = 3
_SEED = 1


class Vectors:
    """So many made-up vectors in an index file, and queries; made once in a folder of its own."""

    def __init__(self, n: int, dim: int, work: Path) -> None:
        self.n, self.dim = n, dim
        self.folder = work / f"{n}x{dim}"
        self.space = Space("made/up", dim, "f" * 64, "")
        self.path = manifest.index_file(self.folder, self.space, "image")
        queries = self.folder / "queries.npz"
        if not queries.exists():
            self._make(queries)
        with np.load(queries) as asked:
            self.words, self.pictures = asked["words"], asked["pictures"]
            self.build_seconds = float(asked["seconds"])

    def _make(self, queries: Path) -> None:
        made = Made(self.dim, _SEED)
        index, seconds = FlatIndex(self.space, "image"), 0.0
        for start in range(0, self.n, _BLOCK):
            rows = made.pictures(min(_BLOCK, self.n - start)).astype(np.float16)
            began = time.perf_counter()
            index.add(start + len(rows), np.arange(start, start + len(rows)), rows)
            seconds += time.perf_counter() - began
        began = time.perf_counter()
        index.save(self.folder)
        seconds += time.perf_counter() - began
        words, pictures = made.words(3 * _ASKED), made.pictures(_ASKED)
        np.savez(queries, words=words, pictures=pictures, seconds=seconds)

    def load(self, device: str = "cpu") -> FlatIndex:
        return FlatIndex.load(self.folder, self.space, "image", device=device)

    def optimized(self, target: float, *, lists: bool) -> None:
        """Puts the fastest index that reaches the target beside the file, unless there is one."""
        index = self.load()
        if measured.read(self.path) is not None or index.loaded is None:
            return
        # Measured on other queries than those it is judged by.
        trial = Trial(index, self.words[_ASKED:])
        exact = trial.exactly()
        best: tuple[Candidate, Any] = exact, None
        for factory in factories(*index.rows().shape):
            if factory.startswith("IVF1,") or lists:
                found, built = trial.approximately(factory, target, None, _tell)
                for one in found:
                    if one.recall >= target and one.cost < best[0].cost:
                        best = one, built
        chosen, built = best
        if chosen.factory == EXACT:
            return
        about = Measured(
            "", 0, 0, 0, measured.tie(index.loaded), self.n, chosen.factory, chosen.nprobe,
            chosen.candidates, chosen.recall, target, 2 * _ASKED, "texts", self.n,
            chosen.latency_ms, exact.latency_ms, chosen.memory, chosen.build_seconds,
        )  # fmt: skip
        fast.install(self.path, built, about)


def _tell(one: Candidate) -> None:
    print(
        f"  tried {one.factory}, {one.candidates} candidates: recall@10 {one.recall:.3f} in "
        f"{one.latency_ms:.1f} ms, {one.filtered_ms:.1f} ms among a tenth",
        flush=True,
    )


class Memory:
    """A buffer to read, as large as an index."""

    def __init__(self, size: int) -> None:
        self._buffer = np.ones(size, np.uint8)
        self._threads = crew.cores()
        self._pool = ThreadPoolExecutor(self._threads)
        self._memchr = ctypes.CDLL(None).memchr
        self._memchr.restype = ctypes.c_void_p
        self._memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        self.best = 0.0

    def read(self) -> None:
        """Reads all of it once. best: bytes a second, so far."""
        share = len(self._buffer) // self._threads
        began = time.perf_counter()
        found = list(
            self._pool.map(
                lambda part: self._memchr(self._buffer.ctypes.data + part * share, 0, share),
                range(self._threads),
            )
        )
        assert not any(found)
        self.best = max(self.best, share * self._threads / (time.perf_counter() - began))


def milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def recall(contender: Contender, xq: np.ndarray, truth: list[np.ndarray]) -> float:
    """recall@10: of the scores of the ten truly nearest, how many were reached."""
    found = contender.search(xq)
    return float(
        np.mean([np.isin(one, true).mean() for one, true in zip(found, truth, strict=True)])
    )


def contenders(
    vectors: Vectors, options: argparse.Namespace
) -> tuple[list[Contender], dict[str, str]]:
    """Those that are there; and why others are not."""
    index, rows = vectors.load(), vectors.load().rows()
    there: list[Contender] = [Plain(rows)]
    missing: dict[str, str] = {}
    exact = {"bytes": 2.0 * vectors.dim + 8, "seconds": vectors.build_seconds, "note": "mapped"}
    there.append(Ours(index, exact=True, about=exact))
    about = measured.read(vectors.path)
    if about is None:
        missing["mmsearch approximate"] = "nothing is faster than comparing all"
    else:
        note = f"{about.factory}, {about.candidates} candidates"
        ours = {
            "bytes": about.memory / vectors.n + exact["bytes"],  # type: ignore[operator]
            "seconds": about.build_seconds,
            "note": note,
        }
        there.append(Ours(index, exact=False, about=ours))
    for graph in GRAPHS:
        try:
            there.append(graph(rows, vectors.folder, build=vectors.n <= options.graphs_to))
        except ImportError:
            missing[graph.name] = "it is not installed"
        except NotBuiltError as exc:
            missing[graph.name] = str(exc)
    return there, missing


def measure(vectors: Vectors, options: argparse.Namespace) -> dict[str, Any]:
    vectors.optimized(options.target, lists=options.lists)
    there, missing = contenders(vectors, options)
    words, pictures = vectors.words[:_ASKED], vectors.pictures
    # By float32 sums; a query's ten nearest are as near for whoever sums otherwise, but for ties.
    truth = [list(there[0].search(xq)) for xq in (words, pictures)]
    rows: dict[str, dict[str, Any]] = {}
    for one in there:
        one.tune(lambda one=one: recall(one, words, truth[0]) >= options.target)  # type: ignore[misc]
        rows[one.name] = {
            "recall_words": recall(one, words, truth[0]),
            "recall_pictures": recall(one, pictures, truth[1]),
            "bytes": one.bytes,
            "build_seconds": one.build_seconds,
            "note": one.note,
        }
    memory = Memory(2 * vectors.n * vectors.dim)
    times: dict[str, list[float]] = {one.name: [] for one in there}
    for number in range(_ROUNDS):
        memory.read()
        for one in there:
            one.search(words[:1])  # what the one before has pushed out of the caches
            row = words[number : number + 1]
            times[one.name].append(milliseconds(lambda one=one, row=row: one.search(row)))
    batches: dict[str, list[float]] = {one.name: [] for one in there}
    for number in range(_BATCHES):
        memory.read()
        for one in there:
            xq = np.roll(words, number, axis=0)[:_BATCH]
            batches[one.name].append(milliseconds(lambda one=one, xq=xq: one.search(xq)))
    plain = statistics.median(times[Plain.name])
    for name, row in rows.items():
        row["latency_ms"] = statistics.median(times[name])
        row["per_second"] = 1000 * _BATCH / statistics.median(batches[name])
        row["times_plain"] = plain / row["latency_ms"]
    exact = rows["mmsearch exact"]
    exact["of_bandwidth"] = 2 * vectors.n * vectors.dim / (exact["latency_ms"] / 1000) / memory.best
    result = {
        "vectors": vectors.n,
        "dim": vectors.dim,
        "cores": crew.cores(),
        "bandwidth": memory.best,
        "contenders": rows,
        "missing": missing,
    }
    show(result)
    return result


def show(result: dict[str, Any]) -> None:
    print(f"\n{result['vectors']:,} x {result['dim']}; {result['cores']} threads read "
          f"{result['bandwidth'] / 1e9:.1f} GB/s")  # fmt: skip
    print(f"{'':22}{'ms':>8}{'x plain':>9}{'q/s of 64':>11}{'recall words':>14}{'pictures':>10}"
          f"{'B/vector':>10}{'build s':>9}")  # fmt: skip
    for name, row in result["contenders"].items():
        print(
            f"{name:22}{row['latency_ms']:8.2f}{row['times_plain']:9.1f}{row['per_second']:11.0f}"
            f"{row['recall_words']:14.3f}{row['recall_pictures']:10.3f}{row['bytes']:10.0f}"
            f"{row['build_seconds']:9.1f}  {row['note']}"
        )
    share = result["contenders"]["mmsearch exact"]["of_bandwidth"]
    print(f"exact search of one query reads at {share:.2f} of the memory's bandwidth")
    for name, why in result["missing"].items():
        print(f"{name}: not measured, {why}")
    sys.stdout.flush()


def on_gpu(vectors: Vectors, work: Path) -> dict[str, Any]:
    """Exact search on a GPU, against a sum over as many bytes there and FAISS's own flat index; and
    a text through ViT-B-32 (random weights) and the search."""
    from materials import untrained

    from mmsearch.encode import load_encoder

    index = vectors.load("cuda")
    words = vectors.words
    held = torch.ones(vectors.n * vectors.dim // 2, dtype=torch.float32, device="cuda")
    encoder = load_encoder(untrained("ViT-B-32", work / "vit-b-32"), device="cuda")
    index.search(words[:1], K)
    encoder.encode_texts(["a text"])
    many = np.ascontiguousarray(np.tile(words, (-(-4096 // len(words)), 1))[:4096])
    index.search(many, K)
    flat = _faiss_on_gpu(index.rows())
    reads, single, theirs, texts = [], [], [], []
    for number in range(3 * _ROUNDS):
        torch.cuda.synchronize()
        row = words[number : number + 1]
        reads.append(milliseconds(lambda: float(held.sum())))
        single.append(milliseconds(lambda row=row: index.search(row, K)))  # type: ignore[misc]
        if flat is not None:
            theirs.append(milliseconds(lambda row=row: flat.search(row, K)))  # type: ignore[misc]
        text = [f"a dog on beach number {number}"]
        texts.append(
            milliseconds(lambda text=text: index.search(encoder.encode_texts(text), K))  # type: ignore[misc]
        )
    batched = [milliseconds(lambda: index.search(many, K)) for _ in range(_BATCHES)]
    same = sum(
        len(np.intersect1d(one.ids, true.ids))
        for one, true in zip(
            index.search(words[:_ASKED], K), vectors.load().search(words[:_ASKED], K), strict=True
        )
    )
    result = {
        "vectors": vectors.n,
        "device": torch.cuda.get_device_name(),
        "gpu_latency_ms": statistics.median(single),
        "gpu_of_bandwidth": statistics.median(reads) / statistics.median(single),
        "gpu_per_second": 1000 * len(many) / statistics.median(batched),
        "gpu_text_ms": statistics.median(texts),
        "same": same / (_ASKED * K),
    }
    print(f"{vectors.n:,} x {vectors.dim} on {result['device']}: {result['gpu_latency_ms']:.2f} ms "
          f"a query, {result['gpu_of_bandwidth']:.2f} of the speed of a sum "
          f"({statistics.median(reads):.2f} ms); "
          f"{result['gpu_per_second']:,.0f} queries/s in batches of {len(many)}; "
          f"{result['same']:.3f} of the neighbours are the CPU's; "
          f"a text through ViT-B-32 and the search {result['gpu_text_ms']:.2f} ms")  # fmt: skip
    if flat is not None:
        took = [milliseconds(lambda: flat.search(many, K)) for _ in range(_BATCHES)]
        result["faiss_latency_ms"] = statistics.median(theirs)
        result["faiss_per_second"] = 1000 * len(many) / statistics.median(took)
        print(f"FAISS's GpuIndexFlatIP in half precision: {result['faiss_latency_ms']:.2f} ms "
              f"a query, {result['faiss_per_second']:,.0f} queries/s")  # fmt: skip
    return result


def _faiss_on_gpu(rows: np.ndarray) -> Any:
    """None where this FAISS has no GPU."""
    import faiss

    if not getattr(faiss, "get_num_gpus", int)():
        return None
    config = faiss.GpuIndexFlatConfig()
    config.useFloat16 = True
    resources = faiss.StandardGpuResources()
    flat = faiss.GpuIndexFlatIP(resources, rows.shape[1], config)  # keeps them
    for start in range(0, len(rows), _BLOCK):
        flat.add(np.ascontiguousarray(rows[start : start + _BLOCK], np.float32))
    return flat


def draw(results: list[dict[str, Any]], to: Path) -> None:
    """Latency and recall by number of vectors."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5))
    names = dict.fromkeys(name for one in results for name in one["contenders"])
    for name in names:
        there = [one for one in results if name in one["contenders"]]
        sizes = [one["vectors"] for one in there]
        rows = [one["contenders"][name] for one in there]
        left.loglog(sizes, [row["latency_ms"] for row in rows], "o-", label=name)
        right.plot(
            [row["latency_ms"] for row in rows],
            [row["recall_words"] for row in rows],
            "o",
            label=name,
        )
    limits = [2000 * one["vectors"] * one["dim"] / one["bandwidth"] for one in results]
    left.loglog([one["vectors"] for one in results], limits, "k:", label="reading half precision")
    left.set(xlabel="vectors", ylabel="ms a query")
    right.set(xlabel="ms a query", ylabel="recall@10 of queries in words", xscale="log")
    left.legend()
    figure.tight_layout()
    figure.savefig(to)


def missed(results: list[dict[str, Any]]) -> list[str]:
    """Which bars were missed, in words."""
    bad = []
    for result in results:
        ours = result.get("contenders", {})
        approximate = ours.get("mmsearch approximate", {})
        found = result | {
            key: value
            for key, value in (
                ("of_bandwidth", ours.get("mmsearch exact", {}).get("of_bandwidth")),
                ("recall_words", approximate.get("recall_words")),
                ("times_plain", approximate.get("times_plain")),
            )
            if value is not None
        }
        if ours and not approximate and result["vectors"] >= _HOLD_FROM:
            bad.append("there is no approximate index")
        for name, (bar, larger) in BARS.items():
            if name not in found or result["vectors"] < _HOLD_FROM:
                continue
            kept = found[name] >= bar if larger else found[name] <= bar
            print(f"{name}: {found[name]:.3g}, {'at least' if larger else 'at most'} {bar:.3g} "
                  f"wanted: {'kept' if kept else 'MISSED'}")  # fmt: skip
            if not kept:
                bad.append(name)
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--vectors", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--target", type=float, default=0.97)
    parser.add_argument("--lists", action="store_true", help="try inverted lists as well: slow")
    parser.add_argument("--graphs-to", type=int, default=100_000, help="build graphs of so many")
    parser.add_argument("--library", type=int, metavar="N", help="open a library of N pictures")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--work", type=Path, required=True, help="a folder for what is made")
    parser.add_argument("--out", type=Path, help="where to write everything as JSON")
    parser.add_argument("--plot", type=Path, help="where to draw recall against latency")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    for n in options.vectors:
        vectors = Vectors(n, options.dim, options.work)
        results.append(
            on_gpu(vectors, options.work) if options.device == "cuda" else measure(vectors, options)
        )
    if options.library:
        from opening import measure as opened

        results.append(opened(options.library, options.dim, options.work))
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        draw([one for one in results if "contenders" in one], options.plot)
    return 1 if missed(results) else 0


if __name__ == "__main__":
    sys.exit(main())
