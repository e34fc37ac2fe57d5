"""mmsearch beside others: rclip and clip-retrieval, same machine, same pictures, same run.

Each peer is installed from the package index into an environment of its own under --work, and so is
mmsearch, from this checkout: used in place it starts some 0.04 s later, because pip compiles what
it installs, and Python finds that at once. No model can be downloaded where this runs, so all work
with the same random weights of one architecture (ViT-B-32-256, the one that rclip has): speeds are
those of trained weights. What is timed is always the whole process, from its start to its end, as a
user waits for it.

    python tests/benchmarks/peers.py --work DIR [--parts index search interrupted] [--out FILE]

- index: photographs, no two files with the same bytes, into an empty library.
- search: one query in words over a large library of random vectors: as a new process, and with
  `mmsearch serve` running. rclip searches with --no-indexing, or else it would scan the folder too.
- interrupted: killed after half of an indexing run; what is kept, and what a damaged file does.

Exit code 1 when a bar is missed. What a peer cannot do here is said in the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import peer_clip_retrieval
import peer_rclip
from figures import Bar, Ran, Table, bar_plot, finish, run
from materials import different_files, library_of_vectors, photographs, untrained
from peer_rclip import Rclip

from mmsearch.encode import space_at_hand
from mmsearch.library import CATALOG_NAME
from mmsearch.store import Catalog

INDEX_BAR = Bar(2.3)
COLD_BAR = Bar(3)
SERVICE_BAR = Bar(20)
QUERY = "a dog running on the grass"
PARTS = ("index", "search", "interrupted")


@dataclass(frozen=True, slots=True)
class Ours:
    """The command `mmsearch` on one library."""

    executable: Path
    library: Path
    model: str

    def command(self, *arguments: str | Path) -> list[str | Path]:
        return [self.executable, "-l", self.library, *arguments]

    def index(self, pictures: Path) -> Ran:
        return run(self.command("index", pictures, "--model", self.model, "--json"))

    def start(self, pictures: Path) -> subprocess.Popen[bytes]:
        """Indexing as a process that the caller kills."""
        command = self.command("index", pictures, "--model", self.model)
        return subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def search(self, query: str, *flags: str, check: bool = True) -> Ran:
        return run(self.command("search", query, "-k", "10", "--all", *flags), check=check)

    def counts(self) -> dict[str, int]:
        """Rows of its catalog: images, failed and more."""
        if not (self.library / CATALOG_NAME).exists():
            return {"images": 0, "failed": 0}
        with closing(Catalog(self.library / CATALOG_NAME)) as catalog:
            return catalog.counts()

    @contextmanager
    def served(self) -> Iterator[str]:
        """The address of a service that is ready for it."""
        with subprocess.Popen(
            [str(part) for part in self.command("serve", "--port", "0", "--no-access-log")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            try:
                said = process.stdout.readline().split()
                address = next(word for word in said if word.startswith("http"))
                while not ready(address):
                    time.sleep(0.1)
                yield address
            finally:
                process.terminate()
                process.wait(60)


def installed(work: Path) -> Path:
    """The command `mmsearch` of this checkout as it is now, installed as users have it."""
    root, source = Path(__file__).parents[2], work / "mmsearch-source"
    shutil.rmtree(source, ignore_errors=True)
    for name in ("mmsearch", "indexer"):
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    (work / "mmsearch-venv/installed").unlink(missing_ok=True)
    return peer_rclip.install(work / "mmsearch-venv", str(source), "--no-deps") / "mmsearch"


def index(
    work: Path, command: Path, peer: Rclip, model: str, count: int, repeats: int, *, both: bool
) -> Table:
    """Pictures a second of a whole indexing process. both: clip-retrieval, too."""
    pictures = different_files(photographs(), count, work / f"photos-{count}")
    table = Table(f"indexing {count:,} photographs, whole process, {peer_rclip.ARCHITECTURE}")
    ours = Ours(command, work / "library-photos", model)
    rates: dict[str, list[float]] = {"mmsearch": [], "rclip": []}
    for _ in range(repeats):
        shutil.rmtree(ours.library, ignore_errors=True)
        ran = ours.index(pictures)
        report = json.loads(ran.stdout)
        assert report["encoded_images"] == count, report
        rates["mmsearch"].append(count / ran.seconds)
        startup = ran.seconds - report["picture_seconds"]
        print(f"  (mmsearch: {ran.seconds:.1f} s, {startup:.1f} s of it not with pictures)")
        theirs = peer.fresh(work / "rclip-photos")
        ran = theirs.index(pictures)
        held = theirs.vectors()
        assert len(held) == count, f"rclip indexed {len(held)} of {count}: {ran.stderr[-1000:]}"
        rates["rclip"].append(count / ran.seconds)
        print(f"  (rclip: {ran.seconds:.1f} s)", flush=True)
    rate = {name: statistics.median(found) for name, found in rates.items()}
    table.add(f"mmsearch ({report['dtype']})", rate["mmsearch"], "/s", form=".1f")
    table.add(f"rclip {peer_rclip.VERSION} (fp32, ONNX Runtime)", rate["rclip"], "/s", form=".1f")
    table.add("  mmsearch / rclip", rate["mmsearch"] / rate["rclip"], "x", bar=INDEX_BAR)
    table.add("  cosine of the vectors of both, median", agreement(ours, held), form=".4f")
    if both:
        peer_clip_retrieval.index(table, work, work / "model", pictures, rate["mmsearch"])
    return table


def agreement(ours: Ours, theirs: dict[str, np.ndarray]) -> float:
    """The median cosine between our vectors and rclip's of the same pictures."""
    statement = (
        "SELECT source.location || '/' || image.path, embedding.vector FROM image "
        "JOIN source ON source.id = image.source_id "
        "JOIN embedding ON embedding.content_id = image.content_id"
    )
    with closing(sqlite3.connect(ours.library / CATALOG_NAME)) as connection:
        connection.text_factory = os.fsdecode
        rows = connection.execute(statement).fetchall()
    mine = {os.fsdecode(path): np.frombuffer(vector, "<f2").astype(np.float32)
            for path, vector in rows}  # fmt: skip
    return statistics.median(
        float(vector @ theirs[path] / np.linalg.norm(vector)) for path, vector in mine.items()
    )


def search(
    work: Path, command: Path, peer: Rclip, model: str, items: int, repeats: int, *, both: bool
) -> Table:
    """Seconds of a whole process that answers one query. both: clip-retrieval, too."""
    space = space_at_hand(model)
    assert space is not None
    root = work / "pictures of nobody"
    ours = Ours(command, work / f"library-{items}", model)
    library_of_vectors(ours.library, items, space, root=root)
    theirs = peer.filled(work / f"rclip-{items}", items, root)
    table = Table(f"one query in words over {items:,} pictures, whole process")
    # New words each time: a service remembers what it was asked.
    queries = (f"{QUERY} {number}" for number in itertools.count())
    ours.search(QUERY, "--no-server")  # the first one may write what all later ones use
    theirs.search(root, QUERY)
    took: dict[str, list[float]] = {"cold": [], "rclip": [], "service": [], "http": []}
    for _ in range(repeats):
        took["cold"].append(ours.search(next(queries), "--no-server").seconds)
        took["rclip"].append(theirs.search(root, next(queries)).seconds)
    with ours.served() as address:
        ours.search(QUERY)
        for _ in range(repeats):
            took["service"] += [ours.search(next(queries)).seconds for _ in range(3)]
            took["http"] += [request(address, next(queries)) for _ in range(3)]
            took["rclip"].append(theirs.search(root, next(queries)).seconds)
    median = {name: statistics.median(found) for name, found in took.items()}
    table.add(f"rclip {peer_rclip.VERSION}", median["rclip"], "s", form=".3f")
    table.add("mmsearch, cold", median["cold"], "s", form=".3f")
    table.add("  rclip / mmsearch, cold", median["rclip"] / median["cold"], "x", bar=COLD_BAR)
    table.add("mmsearch, with a service running", median["service"], "s", form=".3f")
    ratio = median["rclip"] / median["service"]
    table.add("  rclip / mmsearch, with a service", ratio, "x", bar=SERVICE_BAR)
    table.add("the same service over HTTP, no process", median["http"], "s", form=".4f")
    if both:
        peer_clip_retrieval.search(table, work, work / "model", items)
    return table


def ready(address: str) -> bool:
    """Whether a service has its model and its index at hand."""
    try:
        with urllib.request.urlopen(f"{address}/readyz") as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


def request(address: str, query: str) -> float:
    """Seconds that one query takes over HTTP, on a connection of its own."""
    began = time.perf_counter()
    with urllib.request.urlopen(f"{address}/v1/search?k=10&q={quote(query)}") as answer:
        assert answer.status == 200
        answer.read()
    return time.perf_counter() - began


def interrupted(work: Path, command: Path, peer: Rclip, model: str, count: int) -> Table:
    """What each holds after it was killed half-way, and what it makes of a damaged file."""
    pictures = different_files(photographs(), count, work / f"photos-{count}")
    table = Table(f"killed after half of the time that indexing {count:,} photographs takes")
    ours = Ours(command, work / "library-killed", model)
    theirs = peer.fresh(work / "rclip-killed")
    shutil.rmtree(ours.library, ignore_errors=True)
    whole = {"mmsearch": ours.index(pictures).seconds, "rclip": theirs.index(pictures).seconds}
    shutil.rmtree(ours.library)
    theirs = peer.fresh(work / "rclip-killed")
    _kill(ours.start(pictures), whole["mmsearch"] / 2)
    _kill(theirs.start(pictures), whole["rclip"] / 2)
    held = {"mmsearch": ours.counts()["images"], "rclip": len(theirs.vectors())}
    for name in held:
        table.add(f"{name}: pictures kept", held[name], form=",.0f")
    found = ours.search(QUERY, "--paths", "--no-server", check=False).stdout.count("\n")
    table.add("mmsearch: found by a search at once", found, form=",.0f")
    found = theirs.search(pictures, QUERY, "--filepath-only", check=False).stdout.count("\n")
    table.add("rclip: found by a search at once (--no-indexing)", found, form=",.0f")
    for name, again in (("mmsearch", ours.index), ("rclip", theirs.index)):
        share = again(pictures).seconds / whole[name]
        table.add(f"{name}: the run after it, of a whole run's time", share, form=".0%")

    damaged = different_files(photographs(), 4, work / "photos-damaged")
    victim = sorted(damaged.iterdir())[0]
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    ours = Ours(command, work / "library-damaged", model)
    theirs = peer.fresh(work / "rclip-damaged")
    shutil.rmtree(ours.library, ignore_errors=True)
    ours.index(damaged)
    theirs.index(damaged)
    counts = ours.counts()
    note = "refused, with its reason" if counts["failed"] else "accepted"
    table.add("mmsearch: of 4 files, one cut in half", counts["images"], form=".0f", note=note)
    note = "accepted, missing half of its pixels" if len(theirs.vectors()) == 4 else "refused"
    table.add("rclip: the same", len(theirs.vectors()), form=".0f", note=note)
    shutil.rmtree(damaged)
    return table


def _kill(process: subprocess.Popen[bytes], after_s: float) -> None:
    """As a power cut would end it, so long after its start."""
    with process:
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description="mmsearch beside rclip and clip-retrieval")
    parser.add_argument("--work", type=Path, required=True, help="environments and data, kept")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--items", type=int, default=100_000, help="of the library searched")
    parser.add_argument("--repeats", type=int, help="of indexing (1) and of searches (7)")
    parser.add_argument(
        "--rclip-only", action="store_true", help="clip-retrieval takes gigabytes and minutes"
    )
    parser.add_argument("--quick", action="store_true", help="few pictures, rclip only")
    parser.add_argument("--out", type=Path, help="also write the figures, as JSON")
    parser.add_argument("--plot", type=Path, help="also draw them")
    options = parser.parse_args()
    work: Path = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    model = untrained(peer_rclip.ARCHITECTURE, work / "model")
    peer = peer_rclip.rclip(work, work / "model")
    command = installed(work)
    both = not (options.quick or options.rclip_only)
    pictures = 125 if options.quick else options.pictures
    tables = []
    if "index" in options.parts:
        tables.append(index(work, command, peer, model, pictures, options.repeats or 1, both=both))
    if "search" in options.parts:
        tables.append(
            search(work, command, peer, model, options.items, options.repeats or 7, both=both)
        )
    if "interrupted" in options.parts:
        tables.append(interrupted(work, command, peer, model, min(pictures, 250)))
    if options.plot:
        drawn = {
            table.title: {
                line.name: line.value
                for line in table.lines
                if line.value is not None and " / " not in line.name
            }
            for table in tables[:2]
        }
        bar_plot(options.plot, drawn)
    return finish(tables, options.out)


if __name__ == "__main__":
    sys.exit(main())
