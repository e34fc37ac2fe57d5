"""Feeds damaged pictures, archives and files of texts to the code that reads them.

    python tests/endurance/fuzz.py --inputs 100000 --seed 1 --out result.json

prints a table, and exits with 1 if anything but "fine" and "refused" occurred. Input number N of
seed S is always the same bytes: --only N makes it again (and --keep DIR writes it there).

The readers run in child processes: one that dies, or does not come back in time, costs one child
and is a finding. A finding is also: an error that is no DecodeError, memory above the limit, and a
file opened, made, renamed or removed other than the input itself.
"""

# ruff: noqa: E402 -- the folder of the next imports has to be found first
# ruff: noqa: T201 -- a command

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parents[up]) for up in range(3)]

import fuzz_seeds
from fuzz_mutations import mutated

from indexer import beside, texts
from indexer.sources import FileEntry, scan
from mmsearch import archive, raw
from mmsearch.decode import decode, thumbnail
from mmsearch.errors import DecodeError
from mmsearch.overview import (
    ScanProblem,
)
from mmsearch.plaintext import clean
from mmsearch.told import told_json, told_of
from mmsearch.types import (
    DecodeLimits,
)

#: Pictures here have at most 64 x 64 pixels; a damaged header may say more, up to this.
_LIMITS = DecodeLimits(max_pixels=1_000_000, max_bytes=1 << 20, max_seconds=5)
_TEXT_BYTES = 10_000
_ARCHIVE_LIMITS = archive.ArchiveLimits(
    max_member_bytes=8 << 20, max_total_bytes=64 << 20, max_seconds=5
)
_PICTURES = (
    "jpeg", "png", "gif", "webp", "tiff", "bmp", "heif", "avif", "raw",
    "exif", "xmp", "iptc",
)  # fmt: skip
_ARCHIVES = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")
# Slow: libaom starts threads for each, LibRaw a process, xz sets much memory aside.
_RARE = ("avif", "raw", "tar.xz")
_BESIDE = {"besidexmp": ".xmp", "takeout": ".json"}
_TEXTS = ("txt", "csv", "tsv", "jsonl", "json", "parquet")


class MisbehavedError(AssertionError):
    """A reader returned what it must not."""


# --- one input ----------------------------------------------------------------------------------


def make(seed: int, number: int, kinds: list[str]) -> tuple[str, bytes]:
    """The kind and the bytes of an input."""
    rng = random.Random(f"{seed}:{number}")
    kind = rng.choice(kinds)
    if kind in _RARE and rng.random() < 0.7:
        kind = "jpeg" if "jpeg" in kinds else kind
    data = mutated(kind, rng)
    if kind == "exif":
        carrier = rng.choice(("JPEG", "PNG", "WEBP"))
        data = fuzz_seeds.encoded(fuzz_seeds.drawing(), carrier, exif=data[:65000] or b"Exif")
    elif kind == "xmp":
        data = fuzz_seeds.with_segment(
            fuzz_seeds.jpeg(), 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + data
        )
    elif kind == "iptc":
        data = fuzz_seeds.with_segment(fuzz_seeds.jpeg(), 0xED, data)
    return kind, data


def read(kind: str, data: bytes, folder: Path) -> str:
    """Has the product read an input; "" when it was fine, else the reason of the refusal."""
    if kind in _PICTURES:
        return _read_picture(data)
    if kind in _ARCHIVES:
        return _read_archive(folder / f"input.{kind}", data)
    if kind == "mmsearchignore":
        return _read_ignore_file(folder / "tree", data)
    path = folder / f"input.{kind}"
    if kind == "sidecar":
        path = folder / "input.jpg.txt"
        path.write_bytes(data)
        texts.read_sidecar(path)
        return ""
    if kind in _BESIDE:
        return _read_beside(folder / f"input.jpg{_BESIDE[kind]}", data)
    path.write_bytes(data)
    bad = ""
    for item in texts.read_texts(path):
        if isinstance(item, texts.BadText):
            bad = bad or item.reason
        elif not item.body or len(item.body) > texts.MAX_BODY or "\n" in item.body:
            raise MisbehavedError(f"text {item!r}")
        else:
            item.body.encode()
            item.key.encode()
            (item.image or "").encode("utf-8", "surrogateescape")
    return bad


def _read_beside(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    note = json.dumps([[path.name, len(data), 0]])
    heard = beside.read(str(path.parent), "input.jpg", note)
    for said in (heard.told.over, heard.told.gaps):
        for text in (said.title, said.description, *said.keywords):
            (text or "").encode()
        if said.place and not (abs(said.place[0]) <= 90 and abs(said.place[1]) <= 180):
            raise MisbehavedError(f"at {said.place}")
    if told_of(told_json(heard.told)) != heard.told:
        raise MisbehavedError(f"{heard.told} is kept as something else")
    return heard.faults[0].reason if heard.faults else ""


def _read_picture(data: bytes) -> str:
    picture = decode(data, source="input", limits=_LIMITS)
    pixels, info = picture.pixels, picture.info
    shape = (info.height, info.width, 3)
    # The preview of a raw file may be a little smaller than what the sensor saw, or all there is.
    is_whole = pixels.shape == shape or (info.format in raw.FORMATS and pixels.shape[2] == 3)
    if not is_whole or not pixels.flags.c_contiguous:
        raise MisbehavedError(f"{pixels.shape} for {info}")
    for text in (info.title, info.description, info.camera, *info.keywords):
        (text or "").encode()
    if len(data) % 4 == 0:
        decode(data, source="input", limits=_LIMITS, min_side=16)
        thumbnail(data, source="input", limits=_LIMITS, max_side=32)
    return ""


def _read_archive(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    bad = ""
    first: archive.Member | None = None
    for item in archive.contents(path, _ARCHIVE_LIMITS, text_bytes=_TEXT_BYTES):
        if isinstance(item, ScanProblem):
            bad = bad or item.reason
            continue
        parts = item.name.replace("\\", "/").split("/")
        drive = parts[0][:1].isascii() and parts[0][:1].isalpha() and parts[0][1:2] == ":"
        if ".." in parts or not parts[0] or "\0" in item.name or drive:
            raise MisbehavedError(f"a member called {item.name!r}")
        item.name.encode("utf-8", "surrogateescape")
        if isinstance(item, archive.PassedOver):
            continue
        if isinstance(item, archive.Text):
            if len(item.data) > _TEXT_BYTES or b"root:" in item.data:
                raise MisbehavedError(f"text {item.name!r} of {len(item.data)} bytes")
            continue
        if item.size != len(item.data) or b"root:" in item.data:
            raise MisbehavedError(f"member {item.name!r} of {item.size} bytes")
        first = first or item
    if first is not None and archive.read_member(path, first.name, _ARCHIVE_LIMITS) != first.data:
        raise MisbehavedError(f"{first.name!r} read again is another")
    return bad


def _read_ignore_file(tree: Path, data: bytes) -> str:
    (tree / ".mmsearchignore").write_bytes(data)
    for item in scan(tree):
        if isinstance(item, FileEntry) and not (tree / item.path).exists():
            raise MisbehavedError(f"{item!r}")
    return ""


# --- a child ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
    """kind: of the input. what: fine, refused, crash, hang, memory, escape or error."""

    number: int
    kind: str
    what: str
    detail: str = ""
    seconds: float = 0.0


class _Watch:
    """Notes every file that is opened, made or removed while an input is read."""

    _OPENING = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink",
                "os.truncate", "os.chmod", "os.listdir", "os.scandir", "subprocess.Popen",
                "socket.connect", "os.system", "os.exec", "os.posix_spawn")  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self._mine = str(folder)
        # Modules and tables that load at their first use.
        self._code = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), "/usr/lib")
        self.is_on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    @staticmethod
    def _develops(event: str, args: tuple[Any, ...]) -> bool:
        """Whether it belongs to the program that raw files are developed by, and its pipes."""
        if event == "subprocess.Popen":
            return raw.__path__[0] in "".join(map(str, args[1]))
        return event == "open" and (isinstance(args[0], int) or args[0] == os.devnull)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.is_on or event not in self._OPENING or self._develops(event, args):
            return
        name = os.fsdecode(args[0]) if args and isinstance(args[0], str | bytes) else str(args[:1])
        mode = args[1] if len(args) > 1 and isinstance(args[1], str) else ""
        writes = event != "open" or mode[:1] in ("w", "a", "x")
        inside = os.path.normpath(name).startswith(self._mine)
        if event in ("os.listdir", "os.scandir"):
            writes = False
        if not inside and (writes or not name.startswith(self._code)):
            self.seen.append(f"{event} {name}")


def child(pipe: Connection, seed: int, kinds: list[str], memory_mb: int) -> None:
    """Reads inputs by number and tells what became of each, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Path(os.devnull).open(
        "wb"
    ) as nowhere:  # libtiff tells the terminal what it thinks of a file
        os.dup2(nowhere.fileno(), 2)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=_work()))
    (folder / "tree" / "a" / "cache").mkdir(parents=True)
    for name in ("keep.jpg", "a/b.jpg", "a/cache/c.png", "x.tmp", "[a].jpg"):
        (folder / "tree" / name).touch()
    for kind in kinds:  # imports, tables, codecs
        for data in fuzz_seeds.seeds()[kind][:2]:
            _outcome(0, kind, data, folder, None, 1 << 40)
    clean("é" * 2000)
    watch = _Watch(folder)
    allowed_kb = _peak_kb() + (memory_mb << 10)
    # 6 GB: an LZMA header may ask for a dictionary of 4, which is set aside, but never filled.
    hard = (_virtual_kb() + (2 * memory_mb << 10) + (6 << 20)) << 10
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    try:
        while True:
            number = pipe.recv()
            kind, data = make(seed, number, kinds)
            pipe.send((number, kind))
            outcome = _outcome(number, kind, data, folder, watch, allowed_kb)
            pipe.send(outcome)
            if outcome.what == "memory":
                return  # the peak stays: another child begins anew
    except EOFError:
        pass
    finally:
        shutil.rmtree(folder)


def _outcome(
    number: int, kind: str, data: bytes, folder: Path, watch: _Watch | None, allowed_kb: int
) -> Outcome:
    began = time.perf_counter()
    try:
        if watch:
            watch.seen.clear()
            watch.is_on = True
        reason = read(kind, data, folder)
        outcome = Outcome(number, kind, "refused" if reason else "fine", reason)
    except DecodeError as exc:
        outcome = Outcome(number, kind, "refused", exc.reason)
    except MisbehavedError as exc:
        outcome = Outcome(number, kind, "escape", str(exc))
    except BaseException as exc:  # noqa: BLE001 -- that is what is looked for
        last = traceback.extract_tb(exc.__traceback__)[-1]
        outcome = Outcome(number, kind, "error", f"{exc!r:.300} at {last.filename}:{last.lineno}")
    finally:
        if watch:
            watch.is_on = False
    outcome.seconds = time.perf_counter() - began
    if watch and watch.seen:
        outcome.what, outcome.detail = "escape", "; ".join(watch.seen[:3])
    elif "took longer" in outcome.detail or "without coming to" in outcome.detail:
        outcome.what = "hang"
    elif _peak_kb() > allowed_kb or "memory of this machine" in outcome.detail:
        outcome.what, outcome.detail = "memory", f"{_peak_kb() >> 10} MB; {outcome.detail}"
    return outcome


def _peak_kb() -> int:
    # Not getrusage(): that remembers what the parent had before the fork.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def _virtual_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() >> 10


def _work() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


# --- all of them --------------------------------------------------------------------------------


@dataclass(slots=True)
class Totals:
    """counts: (kind, what) → inputs. findings: all that are neither fine nor refused."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    findings: list[Outcome] = field(default_factory=list)
    slowest: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.kind, outcome.what] += 1
        if outcome.what == "refused":
            self.reasons[outcome.kind, outcome.detail[:60]] += 1
        elif outcome.what != "fine":
            self.findings.append(outcome)
        self.slowest = sorted([*self.slowest, outcome], key=lambda o: -o.seconds)[:5]


class _Worker:
    """A child, what it is at and since when."""

    def __init__(self, start: Callable[[Connection], Any]) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = start(theirs)
        theirs.close()
        self.number: int | None = None
        self.kind = "?"
        self.since = time.monotonic()

    def give(self, number: int) -> None:
        self.number, self.kind, self.since = number, "?", time.monotonic()
        self.pipe.send(number)

    def end(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


def fuzz(
    numbers: range | list[int],
    seed: int,
    kinds: list[str],
    *,
    workers: int,
    input_seconds: float,
    memory_mb: int,
    until: float,
) -> Totals:
    """Reads the inputs of these numbers; stops early at `until` (time.monotonic)."""
    context = multiprocessing.get_context("fork")

    def start(pipe: Connection) -> Any:
        process = context.Process(target=child, args=(pipe, seed, kinds, memory_mb), daemon=True)
        process.start()
        return process

    totals, queue, busy = Totals(), iter(numbers), []

    def next_input(worker: _Worker | None) -> None:
        number = next(queue, None) if time.monotonic() < until else None
        if number is None:
            if worker is not None:
                worker.end()
            return
        worker = worker or _Worker(start)
        worker.give(number)
        busy.append(worker)

    for _ in range(workers):
        next_input(None)
    while busy:
        ready = wait([w.pipe for w in busy], timeout=1)
        for worker in list(busy):
            lost = ""
            if worker.pipe in ready:
                try:
                    told = worker.pipe.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    lost = f"the process ended with {worker.process.exitcode}"
                    told = Outcome(worker.number or 0, worker.kind, "crash", lost)
                if isinstance(told, tuple):
                    worker.kind = told[1]
                    continue
            elif time.monotonic() - worker.since > input_seconds:
                lost = f"not done after {input_seconds:g} s"
                told = Outcome(worker.number or 0, worker.kind, "hang", lost)
            else:
                continue
            busy.remove(worker)
            totals.add(told)
            if lost or told.what == "memory":
                worker.end()
                next_input(None)
            else:
                next_input(worker)
    return totals


_COLUMNS = ("fine", "refused", "crash", "hang", "memory", "escape", "error")


def table(totals: Totals) -> str:
    """Inputs by kind and by what became of them."""
    lines = [f"{'':16}{'inputs':>9}" + "".join(f"{c:>9}" for c in _COLUMNS)]
    kinds = sorted({kind for kind, _ in totals.counts})
    for kind in [*kinds, None]:
        row = [
            sum(n for (k, w), n in totals.counts.items() if kind in (None, k) and w == column)
            for column in _COLUMNS
        ]
        lines.append(f"{kind or 'all':16}{sum(row):9,}" + "".join(f"{n:9,}" for n in row))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", type=int, help="this input alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", default=sorted(fuzz_seeds.seeds()))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--seconds-limit", type=float, default=float("inf"), help="of the whole run"
    )
    parser.add_argument("--input-seconds", type=float, default=30)
    parser.add_argument(
        "--memory-mb", type=int, default=300, help="above what the code itself takes"
    )
    parser.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    parser.add_argument("--out", type=Path, help="result as JSON")
    asked = parser.parse_args()
    numbers = range(asked.first, asked.first + asked.inputs)
    if asked.only is not None:
        numbers = range(asked.only, asked.only + 1)
    fuzz_seeds.seeds()  # before the children fork
    began = time.monotonic()
    totals = fuzz(
        numbers, asked.seed, asked.kinds, workers=asked.workers,
        input_seconds=asked.input_seconds, memory_mb=asked.memory_mb,
        until=began + asked.seconds_limit,
    )  # fmt: skip
    seconds = time.monotonic() - began
    done = sum(totals.counts.values())
    print(table(totals))
    rate = done / seconds
    print(f"{done:,} inputs in {seconds:.0f} s ({rate:,.0f} a second), seed {asked.seed}")
    slowest = (f"{o.seconds:.2f} s ({o.kind} {o.number})" for o in totals.slowest)
    print("slowest:", ", ".join(slowest))
    for found in totals.findings[:50]:
        print(f"{found.what}: {found.kind} {found.number}: {found.detail}")
    if asked.keep is not None:
        asked.keep.mkdir(parents=True, exist_ok=True)
        wanted = [o.number for o in totals.findings] if asked.only is None else [asked.only]
        for number in wanted:
            kind, data = make(asked.seed, number, asked.kinds)
            (asked.keep / f"{asked.seed}-{number}.{kind}").write_bytes(data)
    if asked.out is not None:
        result = {
            "inputs": done, "seed": asked.seed, "seconds": round(seconds, 1),
            "input_seconds": asked.input_seconds, "memory_mb": asked.memory_mb,
            "slowest_seconds": round(totals.slowest[0].seconds, 3) if totals.slowest else 0,
            "counts": {
                kind: {c: totals.counts[kind, c] for c in _COLUMNS}
                for kind in sorted({kind for kind, _ in totals.counts})
            },
            "findings": [[o.number, o.kind, o.what, o.detail] for o in totals.findings],
        }  # fmt: skip
        asked.out.write_text(json.dumps(result, indent=1))
    return 1 if totals.findings else 0


if __name__ == "__main__":
    sys.exit(main())
