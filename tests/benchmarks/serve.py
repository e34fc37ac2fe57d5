"""What the service adds to the model and the search behind it.

Makes a library of random vectors in the model's space (unless there is one already in --keep),
serves it from a process of its own on the loopback address, and asks it from this one. The bare
figures are taken here, in turn with those of the service, so that other work on the machine falls
on both: the same text encoder, `Library.ask` without HTTP. Medians over repeats. How soon a person
sees something is measured by page.py, in a browser.

    python tests/benchmarks/serve.py [--items 100000] [--model tiny | --model default]
                                     [--workers 1] [--out FILE]

"default" stands for the shape of that model with random weights, as nothing can be downloaded
where this runs: speeds are the same.

Exit code 1 when a figure misses its bar.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from materials import untrained

from mmsearch.encode import load_encoder, load_text_encoder
from mmsearch.encode.untrained import write_untrained
from mmsearch.library import CATALOG_NAME, Library
from mmsearch.query import Question, Term
from mmsearch.store import CatalogWriter, ImageRow, TextRow
from mmsearch.types import PictureInfo

#: Measured → (bar, whether larger is better).
BARS = {
    "overhead_ms": (5.0, False),
    "overhead_share": (0.20, False),
    "vectors_ratio": (0.8, True),
    "search_ratio": (0.8, True),
    "cached_ratio": (20.0, True),
}
CLIENTS = 32
K = 20
_ROWS = 10_000
_PAUSE_S = 0.03

_SERVE = """
import sys
import mmsearch
from mmsearch.serve import run
from mmsearch.serve.logs import configure
from mmsearch.settings import Settings

configure("json", sys.stderr)
with mmsearch.open(sys.argv[1], device="cpu") as library:
    run(library, Settings(), port=0, on_ready=lambda url: print(url, flush=True))
"""

_WORDS = [
    "a red kite over a beach",
    "two boats at night near a lighthouse",
    "an old owl on a branch",
    "snow on the roof of a small house",
    "children playing football in a park",
    "a plate of pasta with basil",
    "the harbour seen from a hill",
    "a dog running after a yellow ball",
    "people under umbrellas",
]


def texts(seed: int) -> Iterator[str]:
    """Sentences of the lengths that people type, no two of them the same."""
    rng = random.Random(seed)
    for number in itertools.count():
        yield f"{rng.choice(_WORDS)} {seed} {number}"


# --- the library ----------------------------------------------------------------------------------


def fill(
    folder: Path,
    items: int,
    model: str,
    *,
    root: str = "/photos",
    planted: Sequence[str] = (),
    matches: int = 0,
) -> None:
    """A library of so many pictures with a caption each, of random vectors.

    root: what the pictures claim to lie in, by `name_of` their numbers. planted: questions that the
    first pictures match, `matches` each.
    """
    encoder = load_encoder(model, device="cpu")
    space = encoder.space
    folder.mkdir(parents=True, exist_ok=True)
    info = PictureInfo("JPEG", 4000, 3000)
    rng = np.random.default_rng(0)
    wanted = np.zeros((0, space.dim), np.float32)
    if planted:
        wanted = np.repeat(encoder.encode_texts(list(planted)), matches, axis=0)
    with closing(CatalogWriter(folder / CATALOG_NAME)) as writer:
        in_space = writer.ensure_space(space)
        source = writer.ensure_source(root, "folder", (), False)
        for start in range(0, items, _ROWS):
            numbers = range(start, min(items, start + _ROWS))
            xb = rng.standard_normal((2, len(numbers), space.dim), dtype=np.float32)
            xb /= np.linalg.norm(xb, axis=2, keepdims=True)
            near = wanted[start : start + len(numbers)]
            xb[0, : len(near)] += near
            xb[0] /= np.linalg.norm(xb[0], axis=1, keepdims=True)
            bodies = [f"{random.Random(n).choice(_WORDS)} in picture {n}" for n in numbers]
            names = [name_of(n) for n in numbers]
            writer.commit(
                in_space,
                images=[
                    ImageRow(source, name, "", 4 << 20, 1, rng.bytes(32), info, vector)
                    for name, vector in zip(names, xb[0], strict=True)
                ],
                texts=[
                    TextRow(
                        source, "captions.jsonl", "", str(n), "file", body,
                        hashlib.sha256(body.encode()).digest(), name, vector,
                    )
                    for n, name, body, vector in zip(numbers, names, bodies, xb[1], strict=True)
                ],
            )  # fmt: skip
        writer.link()
        writer.activate(in_space)
    with Library(folder, device="cpu") as library:
        library.save_indexes()


def name_of(number: int) -> str:
    """Where a picture of these libraries lies, below their root."""
    return f"{number // 1000:04}/picture {number:07}.jpg"


@contextmanager
def served(folder: Path, workers: int = 1) -> Iterator[int]:
    """The port of a service for this library, warm."""
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(folder)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"MMSEARCH_WORKERS": str(workers)},
        ) as process,
    ):
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            log.seek(0)
            raise SystemExit(log.read().decode(errors="replace"))
        port = int(url.rpartition(":")[2])
        with Client(port) as client:
            while client.get("/readyz")[0] != 200:
                time.sleep(0.1)
        try:
            yield port
        finally:
            process.terminate()
            process.wait(60)


# --- clients --------------------------------------------------------------------------------------


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def search(text: str) -> bytes:
    return request(f"/v1/search?k={K}&q={quote(text)}")


def embed(text: str) -> bytes:
    body = json.dumps({"input": text, "encoding_format": "base64"}).encode()
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json"
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Client:
    """A connection that is kept, with as little of its own as can be."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def get(self, path: str) -> tuple[int, bytes]:
        return self.ask(request(path))

    def ask(self, sent: bytes) -> tuple[int, bytes]:
        self._socket.sendall(sent)
        status = int(self._file.readline().split()[1])
        length = 0
        while (line := self._file.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return status, self._file.read(length)


async def _load(
    port: int,
    seconds: float,
    questions: Iterator[str],
    asking: Callable[[str], bytes] = search,
) -> float:
    """Answers a second to 32 clients that ask one question after the other."""
    until = time.perf_counter() + seconds
    answered = 0

    async def client() -> None:
        nonlocal answered
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until:
            writer.write(asking(next(questions)))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))
            answered += 1
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return answered / (time.perf_counter() - began)


# --- measurements ---------------------------------------------------------------------------------


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def rested(work: Callable[[], Any]) -> float:
    """The same after a pause. OpenMP's threads spin for some milliseconds when they have done their
    work: those of the one process would take a core from the other, which is measured next."""
    time.sleep(_PAUSE_S)
    return timed(work)


def one_query(port: int, library: Library, repeats: int) -> dict[str, float]:
    """One question at a time: the service and, in turn, the library without it."""
    asked = texts(1)
    ours: list[float] = []
    bare: list[float] = []
    cached: list[float] = []
    vector: list[float] = []
    with Client(port) as client:

        def ask(sent: bytes) -> None:
            status, body = client.ask(sent)
            assert status == 200, body
            assert len(json.loads(body)["hits"]) == K

        def in_process(text: str) -> None:
            assert len(library.ask(Question((Term(text=text),), k=K)).hits) == K

        for turn in range(repeats + 5):
            again = search(next(asked))
            took = rested(lambda sent=again: ask(sent))
            here = next(asked)
            alone = rested(lambda text=here: in_process(text))
            once_more = rested(lambda sent=again: ask(sent))
            encoding = rested(lambda: library.keep_texts([next(asked)]))
            if turn >= 5:
                ours.append(took)
                bare.append(alone)
                cached.append(once_more)
                vector.append(encoding)
        known = [here]
        kept = min(timed(lambda: library.keep_texts(known)) for _ in range(50))
    service_ms, bare_ms = statistics.median(ours), statistics.median(bare)
    # Each pair was measured side by side: the median of the differences bears more noise than
    # the difference of the medians.
    overhead = statistics.median(a - b for a, b in zip(ours, bare, strict=True))
    vector_ms = statistics.median(vector)
    return {
        "service_ms": service_ms,
        "bare_ms": bare_ms,
        "overhead_ms": overhead,
        "overhead_share": overhead / bare_ms,
        "cached_answer_ms": statistics.median(cached),
        "vector_ms": vector_ms,
        "kept_vector_ms": kept,
        "cached_ratio": vector_ms / kept,
    }


def _metric(port: int, name: str) -> float:
    """One number of the service's own."""
    with Client(port) as client:
        _, body = client.get("/metrics")
    return next(
        float(line.rpartition(" ")[2])
        for line in body.decode().splitlines()
        if line.startswith(f"{name} ")
    )


def _cpu_seconds(port: int) -> float:
    return _metric(port, "process_cpu_seconds_total")


def _batches(port: int) -> tuple[float, float]:
    """How many texts went through the model up to now, and in how many batches."""
    name = 'mmsearch_encode_batch_size_%s{modality="text"}'
    return _metric(port, name % "sum"), _metric(port, name % "count")


def throughput(port: int, model: str, seconds: float, repeats: int) -> dict[str, Any]:
    """Many at once: the service and, in turn, the encoder at several batch sizes."""
    encoder = load_text_encoder(model)
    asked = texts(2)
    rates: dict[int, list[float]] = {size: [] for size in (4, 8, 16, 32, 64)}
    ours: list[float] = []
    cached: list[float] = []
    vectors: list[float] = []
    spent: list[tuple[float, float]] = []
    some = [next(asked) for _ in range(200)]
    with Client(port) as client:
        for text in some:
            client.ask(search(text))
    batches = _batches(port)
    for _ in range(repeats):
        for size, found in rates.items():
            until, done, began = time.perf_counter() + seconds / 5, 0, time.perf_counter()
            while time.perf_counter() < until:
                encoder.encode_texts([next(asked) for _ in range(size)])
                done += size
            found.append(done / (time.perf_counter() - began))
        before, began = (_cpu_seconds(port), time.process_time()), time.perf_counter()
        ours.append(asyncio.run(_load(port, seconds, asked)))
        took = time.perf_counter() - began
        spent.append(
            ((_cpu_seconds(port) - before[0]) / took, (time.process_time() - before[1]) / took)
        )
        cached.append(asyncio.run(_load(port, seconds / 2, itertools.cycle(some))))
        vectors.append(asyncio.run(_load(port, seconds, asked, embed)))
    bare = {size: statistics.median(found) for size, found in rates.items()}
    best = max(bare, key=lambda size: bare[size])
    service = statistics.median(ours)
    jobs, runs = (now - then for now, then in zip(_batches(port), batches, strict=True))
    return {
        "service_cores": statistics.median(service for service, _ in spent),
        "client_cores": statistics.median(clients for _, clients in spent),
        "mean_batch": jobs / max(1, runs),
        "bare_texts_per_s": {str(size): rate for size, rate in bare.items()},
        "best_batch": best,
        "service_per_s": service,
        "cached_per_s": statistics.median(cached),
        "search_ratio": service / bare[best],
        "vectors_per_s": statistics.median(vectors),
        "vectors_ratio": statistics.median(vectors) / bare[best],
    }


def show(found: dict[str, Any]) -> bool:
    """Prints the table; whether every bar is reached."""
    print(
        f"{found['model']}, {found['items']:,} pictures, k = {K}; {os.cpu_count()} cores; "
        f"{found['workers']} worker(s)"
    )
    one, many = found["one"], found["many"]
    lines = [
        ("one warm text query: service", f"{one['service_ms']:.2f} ms", None),
        ("  encoder + search without it", f"{one['bare_ms']:.2f} ms", None),
        ("  overhead", f"{one['overhead_ms']:.2f} ms", "overhead_ms"),
        ("  overhead, share", f"{one['overhead_share']:.1%}", "overhead_share"),
        ("  answer to a question asked before", f"{one['cached_answer_ms']:.2f} ms", None),
        (
            f"vector of a question: {one['vector_ms']:.2f} ms, kept {one['kept_vector_ms']:.4f} ms",
            f"{one['cached_ratio']:.0f} x",
            "cached_ratio",
        ),
        (
            f"encoder alone, batches of {many['best_batch']}",
            f"{many['bare_texts_per_s'][str(many['best_batch'])]:.0f} /s",
            None,
        ),
        (f"{CLIENTS} clients that ask for vectors", f"{many['vectors_per_s']:.0f} /s", None),
        ("  ratio to the encoder alone", f"{many['vectors_ratio']:.2f}", "vectors_ratio"),
        (f"{CLIENTS} clients that search", f"{many['service_per_s']:.0f} /s", None),
        ("  ratio to the encoder alone", f"{many['search_ratio']:.2f}", "search_ratio"),
        ("  texts in a batch, mean", f"{many['mean_batch']:.1f}", None),
        (
            "  cores taken by the service, and by these clients",
            f"{many['service_cores']:.2f}, {many['client_cores']:.2f}",
            None,
        ),
        ("  questions asked before", f"{many['cached_per_s']:.0f} /s", None),
        ("  the same, to new ones", f"{many['cached_per_s'] / many['service_per_s']:.1f} x", None),
    ]
    good = True
    values = one | many
    for what, value, bar in lines:
        verdict = ""
        if bar is not None:
            wanted, more = BARS[bar]
            reached = values[bar] >= wanted if more else values[bar] <= wanted
            good &= reached
            verdict = f"{'>=' if more else '<='} {wanted:g}  {'reached' if reached else 'MISSED'}"
        print(f"  {what:60} {value:>12}  {verdict}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="What the service costs")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--model", default="tiny", help="tiny, or default for its shape")
    parser.add_argument("--workers", type=int, default=1, help="as of mmsearch serve")
    parser.add_argument("--repeats", type=int, default=100, help="of single questions")
    parser.add_argument("--rounds", type=int, default=3, help="of many at once")
    parser.add_argument("--seconds", type=float, default=4.0, help="each of those takes")
    parser.add_argument("--keep", type=Path, help="make the library here, or use it")
    parser.add_argument("--out", type=Path, help="also write the figures, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    with tempfile.TemporaryDirectory() as scratch:
        root = options.keep or Path(scratch)
        model = options.model
        if model != "tiny":
            folder = (root / "model").absolute()
            if not folder.exists():
                write_shape(model, folder)
            model = f"local-dir:{folder}"
        library = root / f"library-{options.model}-{options.items}"
        if not library.exists():
            fill(library, options.items, model)
        with served(library, options.workers) as port, Library(library, device="cpu") as opened:
            opened.warm()
            found = {
                "model": options.model,
                "items": options.items,
                "workers": options.workers,
                "one": one_query(port, opened, options.repeats),
                "many": throughput(port, model, options.seconds, options.rounds),
            }
    good = show(found)
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if good else 1


def write_shape(model: str, folder: Path) -> None:
    """A model of random weights; of the default model's shape, which needs no download."""
    if model == "default":
        untrained("ViT-B-32", folder)
    else:
        write_untrained(model, folder)


if __name__ == "__main__":
    sys.exit(main())
