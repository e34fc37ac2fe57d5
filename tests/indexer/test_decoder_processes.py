"""Processes that prepare pictures: the same outcomes as threads, and whatever happens to one."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from collection import encoded, found, run, same, titled, write
from PIL import Image

from indexer import decoder_member, decoder_processes
from indexer.clock import PREPARING, Clock, Trace
from indexer.decoder_processes import can_be_had, how_many
from indexer.decoder_work import Recipe
from indexer.load import Loader
from indexer.prepare import Job, Loaded
from mmsearch.encode.openclip import OpenClipEncoder
from mmsearch.encode.preprocess import preprocessor
from mmsearch.errors import MmsearchError
from mmsearch.library import Library
from mmsearch.types import DecodeLimits

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_be_had(), reason="processes that decode need Linux"),
]

SIDE = 32
CONFIG = {
    "size": SIDE,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
#: After which a picture is given up; enough for any other one, also on a machine that has a lot to
#: do.
SECONDS = 1.5
#: The height of a picture on which `Poisoned` does its harm.
POISON = 13


@dataclass(frozen=True)
class Poisoned:
    """Prepares pictures; some have the process do what a broken decoder may. how: a signal, or
    "hang"."""

    how: str

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        if len(pixels) == POISON:
            if self.how == "hang":
                time.sleep(600)  # until the process is ended, which is what is tried
            if self.how == "raise":
                raise RuntimeError("a mistake of our own")
            os.kill(os.getpid(), signal.Signals[self.how])
        made: np.ndarray = preprocessor(CONFIG, reference=False)(pixels)
        return made


@dataclass(frozen=True)
class Bounded:
    """Prepares pictures in a process that has no more memory than so many bytes besides."""

    bytes: int

    def __setstate__(self, state: dict[str, int]) -> None:
        object.__setattr__(self, "bytes", state["bytes"])
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + self.bytes, size + self.bytes))

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        made: np.ndarray = preprocessor(CONFIG, reference=False)(pixels)
        return made


class Stillborn:
    """What no process can even begin with."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


@contextmanager
def loader(
    preprocess: Any = None,
    *,
    processes: int | None = 2,
    known: Any = lambda digest: None,
    seconds: float = 30,
    clock: Clock | None = None,
    knows_any: bool = True,
) -> Iterator[Loader]:
    encoder: Any = SimpleNamespace(
        device="cpu",
        image_size=SIDE,
        preprocess=preprocess or preprocessor(CONFIG, reference=False),
    )
    made = Loader(
        lambda: encoder,
        known,
        limits=DecodeLimits(max_seconds=seconds),
        processes=processes,
        clock=clock,
        knows_any=lambda: knows_any,
    )
    try:
        yield made
    finally:
        made.close()


def poison() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, POISON)).save(out, "PNG")
    return out.getvalue()


def files(folder: Path) -> list[Job]:
    """All kinds of files, good and bad."""
    datas = {
        **{f"{n:02}.png": encoded(n) for n in range(30)},
        "30 title.jpg": titled(30, "a title of its own"),
        "31 empty.jpg": b"",
        "32 text.jpg": b"no picture at all",
        "33 half.jpg": titled(33, "x")[:500],
        "34 \udcff.png": encoded(34),
    }
    jobs = []
    for name, data in datas.items():
        path = os.path.join(os.fsencode(folder), os.fsencode(name))  # noqa: PTH118
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(data)
        jobs.append(Job(name, os.fsdecode(path), size=7, mtime_ns=7))
    gone = Job("35 gone.png", str(folder / "35 gone.png"), size=7, mtime_ns=7)
    member = Job("a.zip", str(folder / "a.zip"), "m.png", 9, 9, encoded(36))
    return [*jobs, gone, member, replace(member, member="bad.png", data=b"bad")]


def equal(ours: Sequence[Loaded], theirs: Sequence[Loaded]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert replace(one, pixels=None) == replace(other, pixels=None)
        if one.pixels is None:
            assert other.pixels is None
        else:
            np.testing.assert_array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("knows_any", [True, False])
def test_what_comes_of_files_is_what_threads_make_of_them(tmp_path: Path, knows_any: bool) -> None:
    jobs = files(tmp_path)
    with loader(processes=0) as threads:
        expected = list(threads.load(jobs, 8))
    with loader(knows_any=knows_any) as processes:
        for _ in range(2):  # the same processes again
            equal(list(processes.load(jobs, 8)), expected)
    assert sum(item.pixels is not None for item in expected) == 33
    assert all(item.job.data is None for item in expected)


def test_known_contents_are_not_decoded(tmp_path: Path) -> None:
    jobs = files(tmp_path)[:30]
    asked = []

    def known(digest: bytes) -> int | None:
        asked.append(digest)
        return 1000 + len(asked) if len(asked) % 2 else None

    with loader(known=known) as processes:
        items = list(processes.load(jobs, 12))
    assert len(set(asked)) == 30
    ids = {digest: 1000 + n for n, digest in enumerate(asked, 1) if n % 2}
    for item in items:
        assert item.content_id == ids.get(item.hash)
        assert (item.pixels is None) == (item.content_id is not None)
        assert item.size > 7  # that of the file, not of the job


def test_stages_are_told_with_who_worked_at_them(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace.json")
    clock = Clock(trace)
    with loader(clock=clock) as processes:
        began = time.perf_counter()
        assert len(list(processes.load(files(tmp_path)[:8], 4))) == 8
        whole = time.perf_counter() - began
        there = children(os.getpid())
    trace.close()
    events = json.loads((tmp_path / "trace.json").read_text())
    assert {e["tid"] for e in events if e["name"] == "decode"} == there
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert {names[pid] for pid in there} == {"decode process"}
    seconds = clock.seconds
    assert all(seconds[stage] > 0 for stage in PREPARING)
    assert 0 <= sum(seconds[stage] for stage in (*PREPARING, "wait for room")) <= 2 * whole


def test_stages_of_known_contents_are_told_as_by_threads(tmp_path: Path) -> None:
    jobs = files(tmp_path)[:20]
    counted = []
    for count in (0, 2):
        clock = Clock()
        with loader(processes=count, clock=clock, known=lambda digest: 1) as some:
            assert all(item.content_id == 1 for item in some.load(jobs, 8))
        counted.append(dict(clock._times))
    assert counted[0] == counted[1]
    assert counted[1]["hash"] == 20


def poisoned(folder: Path, how: str, *, count: int = 12, seconds: float = 30) -> list[Loaded]:
    """Outcomes of pictures of which the sixth and the last are poison."""
    jobs = []
    for number in range(count):
        data = poison() if number in (5, count - 1) else encoded(number)
        path = write(folder / f"{number:02}.png", data)
        jobs.append(Job(path.name, str(path), size=1, mtime_ns=1))
    with loader(Poisoned(how), seconds=seconds) as processes:
        items = list(processes.load(jobs, 6))
    assert [item.job for item in items] == jobs
    for number, item in enumerate(items):
        assert (item.pixels is None) == (number in (5, count - 1)), item
    return [items[5], items[-1]]


def test_a_decoder_that_crashes_is_the_failure_of_one_picture(tmp_path: Path) -> None:
    for item in poisoned(tmp_path, "SIGSEGV"):
        assert item.reason == f"broken: its decoder crashed (signal {signal.SIGSEGV:d})"
        assert not item.transient


def test_one_that_was_killed_is_tried_again_by_another_run(tmp_path: Path) -> None:
    for item in poisoned(tmp_path, "SIGKILL"):
        assert item.reason == "the process that decoded it was killed (out of memory?)"
        assert item.transient


def test_one_that_hangs_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    for item in poisoned(tmp_path, "hang", seconds=SECONDS):
        assert item.reason is not None
        assert item.reason.startswith(f"took longer than {SECONDS} s to decode")
        assert not item.transient
    assert time.monotonic() - began < 60


def test_a_file_that_cannot_be_read_to_its_end_is_tried_again(tmp_path: Path) -> None:
    """A pipe stands for the drive that does not answer."""
    os.mkfifo(tmp_path / "x.jpg")
    with loader(seconds=SECONDS) as processes:
        (item,) = processes.load([Job("x.jpg", str(tmp_path / "x.jpg"))], 2)
    assert item.reason is not None
    assert item.reason.startswith(f"took longer than {SECONDS} s to read")
    assert item.transient


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_processes_that_were_idle_when_they_ended_are_missed_by_nobody(
    tmp_path: Path, how: str
) -> None:
    jobs = files(tmp_path)[:10]
    with loader(processes=5) as processes:
        for _ in range(2):
            assert all(item.pixels is not None for item in processes.load(jobs, 8))
            there = children(os.getpid())
            assert len(there) == 5
            for child in there:
                os.kill(child, signal.Signals[how])
            until = time.monotonic() + 60
            while any(map(exists, there)):
                assert time.monotonic() < until
                time.sleep(0.01)


def before_the_first_kill(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[decoder_member.Member], None]
) -> list[decoder_member.Member]:
    """Does something while the first process is ended; returns all that were, as they are."""
    end = decoder_member.Member.kill
    ended: list[decoder_member.Member] = []

    def kill(self: decoder_member.Member, wait_s: float = 0.0) -> int | None:
        ended.append(self)
        if len(ended) == 1:
            act(self)
        return end(self, wait_s)

    monkeypatch.setattr(decoder_member.Member, "kill", kill)
    return ended


def test_one_that_comes_back_while_another_is_ended_is_late_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both pictures take too long; ending the process of one takes until the other is through."""
    jobs = []
    for name in ("a", "b"):
        os.mkfifo(tmp_path / name)
        jobs.append(Job(name, str(tmp_path / name)))
    members: list[decoder_member.Member] = []
    begin = decoder_member.Member.__init__

    def start(self: decoder_member.Member, recipe: Recipe) -> None:
        members.append(self)
        begin(self, recipe)

    monkeypatch.setattr(decoder_member.Member, "__init__", start)

    def let_the_other_go(first: decoder_member.Member) -> None:
        other = "b" if first.orders[first.at[0]].job == jobs[0] else "a"
        with (tmp_path / other).open("wb"):
            time.sleep(1)  # until it is late as well
        (member,) = (one for one in members if one is not first)
        until = time.monotonic() + 20
        while member.at[0] != -1 and time.monotonic() < until:
            time.sleep(0.01)  # until it has been read, and nothing was in it

    before_the_first_kill(monkeypatch, let_the_other_go)
    with loader(seconds=0.5) as processes:
        items = list(processes.load(jobs, 4))
    assert sorted(str(item.reason)[:22] for item in items) == [
        "empty file",
        "took longer than 0.5 s",
    ]


def test_one_that_goes_on_while_it_is_ended_is_not_blamed_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        os.mkfifo(path)

    def let_it_go_on(member: decoder_member.Member) -> None:
        first = member.at[0]
        with paths[0].open("wb"):
            pass
        until = time.monotonic() + 20
        while member.at[0] in (first, -1) and time.monotonic() < until:
            time.sleep(0.01)
        for path in paths:
            path.unlink()
            path.write_bytes(encoded(1))

    ended = before_the_first_kill(monkeypatch, let_it_go_on)
    with loader(processes=1, seconds=SECONDS) as processes:
        items = list(processes.load([Job(path.name, str(path)) for path in paths], 4))
    assert [item.reason for item in items] == [None, None]
    assert len(ended) == 2  # the other when all was done


def test_what_is_no_fault_of_a_picture_ends_the_run_as_with_threads(tmp_path: Path) -> None:
    write(tmp_path / "x.png", poison())
    for count in (0, 1):
        with (
            loader(Poisoned("raise"), processes=count) as some,
            pytest.raises(RuntimeError, match="a mistake of our own"),
        ):
            list(some.load([Job("x.png", str(tmp_path / "x.png"))], 2))


def test_members_larger_than_a_pipe_holds_and_than_memory_holds(tmp_path: Path) -> None:
    """What one process cannot take in is the failure of that alone, and for this time."""
    fits = encoded(1) + bytes(20 << 20)
    too_large = encoded(2) + bytes(600 << 20)
    jobs = [
        Job("a.zip", "a.zip", str(n), 1, 1, too_large if n == 4 else fits if n % 2 else encoded(n))
        for n in range(9)
    ]
    with loader(Bounded(400 << 20), processes=2) as processes:
        items = list(processes.load(jobs, 9))
    assert [item.job.member for item in items] == [str(n) for n in range(9)]
    for number, item in enumerate(items):
        if number == 4:
            assert item.reason == "the process that decoded it ended (exit code 1)"
            assert item.transient
        else:
            assert item.pixels is not None


def test_no_more_is_read_ahead_than_may_be_held(tmp_path: Path) -> None:
    asked = []

    def known(digest: bytes) -> None:
        time.sleep(0.03)  # meanwhile the process could read on
        asked.append(memory_of(children(os.getpid())))

    sparse = encoded(1)
    with loader(processes=1, known=known) as processes:
        small = [Job(str(n), str(write(tmp_path / f"{n}.png", encoded(n)))) for n in range(60)]
        assert len(list(processes.load(small, 40))) == 60  # quick ones: many are given at once
        large = []
        for number in range(30):
            path = write(tmp_path / f"large {number}.png", sparse + bytes([number]) * (16 << 20))
            large.append(Job(path.name, str(path)))
        before = asked[-1]
        assert all(item.pixels is not None for item in processes.load(large, 40))
    assert max(asked) - before < 160 << 20


def test_fewer_go_on_where_no_more_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = files(tmp_path)[:10]

    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    with loader(processes=3) as processes:
        assert len(list(processes.load(jobs, 4))) == 10
        monkeypatch.setattr(os, "memfd_create", refuse)
        killed = sorted(children(os.getpid()))
        for child in killed[:2]:
            os.kill(child, signal.SIGKILL)
        assert all(item.pixels is not None for item in processes.load(jobs, 4))
        assert re.search("only [12] could be started", caplog.text)
        os.kill(killed[2], signal.SIGKILL)
        with pytest.raises(MmsearchError, match=r"no process .* can be started"):
            list(processes.load(jobs, 4))


def test_processes_that_cannot_begin_end_the_run_with_what_to_do(tmp_path: Path) -> None:
    with (
        loader(Stillborn()) as processes,
        pytest.raises(MmsearchError, match=r"exit code 3.*MMSEARCH_DECODE_PROCESSES=0"),
    ):
        list(processes.load(files(tmp_path)[:4], 4))


def test_stopping_half_way_waits_for_nothing(tmp_path: Path) -> None:
    jobs = [Job(str(n), str(write(tmp_path / f"{n}.png", encoded(n)))) for n in range(6)]
    stuck = Job("stuck", str(write(tmp_path / "stuck.png", poison())))
    with loader(Poisoned("hang"), seconds=600) as processes:
        outcomes = processes.load([jobs[0], stuck, *jobs[1:]], 7)
        assert next(outcomes).job == jobs[0]
        outcomes.close()
        again = list(processes.load(jobs, 4))
        assert [item.job for item in again] == jobs
        assert all(item.pixels is not None for item in again)


def test_where_none_can_be_started_threads_do_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setattr(decoder_processes, "how_many", lambda _: 2)
    jobs = files(tmp_path)[:6]
    with loader(processes=None) as chosen:
        assert all(item.pixels is not None for item in chosen.load(jobs, 4))
    assert "threads prepare the pictures, no processes: no process" in caplog.text
    with loader(processes=2) as wanted, pytest.raises(MmsearchError, match="Too many"):
        list(wanted.load(jobs, 4))


def test_there_are_no_more_than_pictures(tmp_path: Path) -> None:
    jobs = files(tmp_path)[:3]
    with loader(processes=4) as processes:
        for count in (1, 2, 3):
            assert len(list(processes.load(jobs[:count], 8))) == count
            assert len(children(os.getpid())) == count
    assert not children(os.getpid())


def test_how_many_there_are_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_processes, "_cores", lambda: 16)
    assert how_many("cpu") == 0
    assert how_many("cuda:0 (NVIDIA H200)") == 15
    assert how_many("cuda:0 + cuda:1") == 15
    monkeypatch.setattr(decoder_processes, "_cores", lambda: 2)
    assert how_many("cuda:0 (NVIDIA H200)") == 0
    monkeypatch.setattr(decoder_processes, "_cores", lambda: 16)
    monkeypatch.setattr(decoder_processes, "can_be_had", lambda: False)
    assert how_many("cuda:0 (NVIDIA H200)") == 0


@pytest.mark.parametrize(
    ("count", "device", "there", "begun"),
    [
        (None, "auto", True, True),
        (None, "cuda:1", True, True),
        (None, "cpu", True, False),
        (None, "auto", False, False),
        (2, "cpu", False, True),
        (0, "auto", True, False),
    ],
)
def test_what_they_need_is_imported_beside_the_model_where_they_may_come(
    monkeypatch: pytest.MonkeyPatch, count: int | None, device: str, there: bool, begun: bool
) -> None:
    """there: whether this machine has NVIDIA's driver."""
    calls = []

    def ensure_running() -> None:
        calls.append(1)
        raise OSError  # told when they are to start

    monkeypatch.setattr(decoder_processes.forkserver, "ensure_running", ensure_running)
    monkeypatch.setattr(decoder_processes, "_cores", lambda: 8)
    monkeypatch.setattr(decoder_processes, "Path", lambda _: SimpleNamespace(exists=lambda: there))
    decoder_processes.expect(count, device)
    assert bool(calls) == begun


def test_a_run_finds_what_one_with_threads_finds(tmp_path: Path, model: str) -> None:
    folder = tmp_path / "pictures"
    for seed in range(20):
        write(folder / f"{seed:02}.png", encoded(seed))
    write(folder / "copy of 3.png", encoded(3))
    write(folder / "title.jpg", titled(40, "the harbour at noon"))
    write(folder / "broken.jpg", b"\xff\xd8\xff\xe0 broken")
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        for seed in (50, 51):
            archive.writestr(f"{seed}.png", encoded(seed))
    queries: list[str | bytes] = ["the harbour at noon", encoded(7)]
    before = children(os.getpid())
    told = []
    for count in (0, 2):
        library = tmp_path / f"library-{count}"
        report = run(library, folder, model=model, decode_processes=count)
        assert (report.encoded_images, report.failed) == (23, 1)
        told.append(found(library, folder, queries))
        # A second run, of what is known by content alone.
        for path in sorted(folder.glob("1?.png")):
            path.rename(path.with_name(f"moved {count} {path.name.split()[-1]}"))
        again = run(library, folder, decode_processes=count)
        assert (again.encoded_images, again.known) == (0, 10)
        for path in sorted(folder.glob("moved*")):
            path.rename(path.with_name(path.name.split()[-1]))
    assert same(*told)
    assert children(os.getpid()) == before


def test_a_picture_of_an_archive_that_killed_its_process_is_tried_again(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, library = tmp_path / "pictures", tmp_path / "library"
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("1.png", encoded(1))
        archive.writestr("2.png", poison())
    with monkeypatch.context() as patch:
        patch.setattr(OpenClipEncoder, "preprocess", Poisoned("SIGKILL"))
        report = run(library, folder, model=model, decode_processes=1)
    assert (report.encoded_images, report.failed) == (1, 1)
    report = run(library, folder, decode_processes=1)
    assert (report.encoded_images, report.known, report.failed) == (1, 1, 0)
    with Library(library) as lib:
        assert list(lib.failures()) == []


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_a_run_on_a_gpu_has_processes_and_finds_what_threads_do(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As many cores as there may be by themselves.
    monkeypatch.setattr(decoder_processes, "_cores", lambda: 4)
    started = []
    begin = decoder_member.Member.__init__

    def start(self: decoder_member.Member, recipe: Recipe) -> None:
        started.append(self)
        begin(self, recipe)

    monkeypatch.setattr(decoder_member.Member, "__init__", start)
    folder = tmp_path / "pictures"
    for seed in range(40):
        write(folder / f"{seed:02}.png", encoded(seed))
    told = []
    for count, there in ((0, 0), (None, 3)):
        library = tmp_path / f"library-{there}"
        report = run(library, folder, model=model, device="cuda", decode_processes=count)
        assert (report.encoded_images, report.failed) == (40, 0)
        assert len(started) == there
        told.append(found(library, folder, [encoded(7)]))
    assert same(*told)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_command(tmp_path: Path, model: str, stop: signal.Signals) -> None:
    out = io.BytesIO()
    Image.new("RGB", (3000, 3000), "teal").save(out, "PNG")
    for number in range(1000):  # more work than there is time for; no two have the same bytes
        write(tmp_path / "pictures" / f"{number:03}.png", out.getvalue() + b"\0" * number)
    library = tmp_path / "library"
    command = ["-m", "mmsearch", "-l", str(library), "index", str(tmp_path / "pictures")]
    with subprocess.Popen(
        [sys.executable, *command, "--model", model, "--device", "cpu"],
        env=os.environ | {"MMSEARCH_DECODE_PROCESSES": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        until = time.monotonic() + 120
        there: set[int] = set()
        while len(there) < 2 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
            there = children(process.pid)
        assert len(there) == 2
        process.send_signal(stop)
        said, _ = process.communicate(timeout=60)
        while any(exists(pid) for pid in there) and time.monotonic() < until:
            time.sleep(0.05)
    assert not any(exists(pid) for pid in there)
    assert "Traceback" not in said
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert "Stopped. What was done is kept" in said
    with Library(library) as opened:
        assert opened.status() is not None


def memory_of(pids: set[int]) -> int:
    """Bytes of memory that these processes have of their own, all together, now."""
    found = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                found += int(line.split()[1]) << 10
    return found


def exists(pid: int) -> bool:
    """Whether there is such a process, one that has ended not counted."""
    return parent_and_state(pid)[1] not in ("Z", "X", "")


def children(pid: int) -> set[int]:
    """The processes that prepare pictures for this one: they are forked from a child of it."""
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    parents = {number: parent_and_state(number)[0] for number in numbers}
    servers = {n for n, parent in parents.items() if parent == pid and "forkserver" in said_by(n)}
    return {n for n, parent in parents.items() if parent in servers and exists(n)}


def parent_and_state(pid: int) -> tuple[int, str]:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, ""
    return int(stat[1]), stat[0]


def said_by(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
