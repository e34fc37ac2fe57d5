"""Watching: what changes on disk is found by searches soon after, and little else is read."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import raws
from collection import encoded, picture, run, write, write_captions

from indexer.ingest import Options
from indexer.manage import relocate
from indexer.report import Report
from indexer.sources import covering
from indexer.watch import Pace, Watch, Why, smallest
from mmsearch.errors import (
    IndexMissingError,
    LibraryLockedError,
    LibraryNotFoundError,
    SourceError,
)
from mmsearch.library import Library
from mmsearch.store import CatalogWriter
from mmsearch.store.lock import writing

#: Nothing here takes that long; it only ends a test that has failed.
_DEADLINE_S = 60
_PACE = Pace(quiet=0.1, longest=1.0, check=0.1, retry=0.1, every=3600, poll=0.1)


def until(holds: Callable[[], bool]) -> None:
    """Returns as soon as it holds; fails the test when it does not."""
    deadline = time.monotonic() + _DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


@contextmanager
def alone(library: Path) -> Iterator[None]:
    """Holds the write lock, once the watch lets go of it."""
    with ExitStack() as stack:

        def held() -> bool:
            try:
                stack.enter_context(writing(library))
            except LibraryLockedError:
                return False
            return True

        until(held)
        yield


class Watching:
    """A watch in a thread, and what it told."""

    def __init__(self, library: Path, model: str, *paths: Path, **options: object) -> None:
        self.library = library
        self.reports: list[Report] = []
        self.why: list[Why] = []
        self.warnings: list[str] = []
        self.places: tuple[list[str], list[str]] = ([], [])
        self.error: BaseException | None = None
        self._stop = threading.Event()
        pace = options.pop("pace", _PACE)
        watch = Watch(
            library,
            paths,
            self,
            options=Options(model=model, device="cpu", dtype="fp32"),
            pace=pace,  # type: ignore[arg-type]
            **options,  # type: ignore[arg-type]
        )
        self._thread = threading.Thread(target=self._run, args=(watch,))
        self._thread.start()

    def _run(self, watch: Watch) -> None:
        try:
            watch.run(self._stop)
        except BaseException as exc:  # noqa: BLE001 -- the test shows it
            self.error = exc

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(_DEADLINE_S)
        assert not self._thread.is_alive()

    def watching(self, places: Sequence[str], waiting: Sequence[str]) -> None:
        self.places = list(places), list(waiting)

    def ran(self, report: Report, why: Why) -> None:
        self.why.append(why)
        self.reports.append(report)

    def warned(self, message: str) -> None:
        self.warnings.append(message)

    @property
    def encoded(self) -> int:
        return sum(report.encoded_images for report in self.reports)

    def names(self) -> set[str]:
        """Paths of all that a search finds, below the folder of pictures."""
        assert self.error is None, self.error
        try:
            with Library(self.library, device="cpu") as lib:
                hits = lib.search("waves", k=1000)
        except (LibraryNotFoundError, IndexMissingError):
            return set()  # the first run has just begun
        paths = [path for hit in hits for path in (hit.image.path, *hit.image.copies)]
        return {path.partition("/photos/")[2] for path in paths}

    def finds(self, *names: str) -> None:
        """Waits until a search finds just these."""
        until(lambda: self.names() == set(names))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for n in range(3):
        write(root / "a" / f"{n}.png", encoded(n))
    write(root / "b" / "3.png", encoded(3))
    return root


Start = Callable[..., Watching]


@pytest.fixture
def start(tmp_path: Path, model: str) -> Iterator[Start]:
    started: list[Watching] = []

    def _start(*paths: Path, **options: object) -> Watching:
        started.append(Watching(tmp_path / "library", model, *paths, **options))
        return started[-1]

    yield _start
    for watching in started:
        watching.stop()


ALL = ("a/0.png", "a/1.png", "a/2.png", "b/3.png")


@pytest.mark.parametrize("poll", [False, True], ids=["notified", "polling"])
def test_what_comes_changes_and_goes(start: Start, photos: Path, poll: bool) -> None:
    watching = start(photos, poll=poll)
    watching.finds(*ALL)
    until(lambda: bool(watching.places[0]))
    write(photos / "new" / "deep" / "4.png", encoded(4))
    watching.finds(*ALL, "new/deep/4.png")
    (photos / "a" / "0.png").unlink()
    watching.finds(*ALL[1:], "new/deep/4.png")
    before = watching.encoded
    (photos / "a").rename(photos / "c")
    watching.finds("c/1.png", "c/2.png", "b/3.png", "new/deep/4.png")
    assert watching.encoded == before
    write(photos / "b" / "3.png", encoded(5), at=2_000_000_000)
    until(lambda: watching.encoded == before + 1)
    shutil.rmtree(photos / "new")
    watching.finds("c/1.png", "c/2.png", "b/3.png")
    assert watching.warnings == []


def test_a_raw_file_gives_way_to_its_jpeg_and_comes_back(start: Start, photos: Path) -> None:
    write(photos / "b" / "3.dng", raws.dng(picture(3), picture(3)))
    watching = start(photos)
    watching.finds(*ALL)
    until(lambda: bool(watching.places[0]))
    (photos / "b" / "3.png").unlink()
    watching.finds(*ALL[:3], "b/3.dng")
    write(photos / "b" / "4.nef", raws.dng(picture(4), picture(4)))
    watching.finds(*ALL[:3], "b/3.dng", "b/4.nef")
    write(photos / "b" / "4.jpg", encoded(4, "JPEG"))
    watching.finds(*ALL[:3], "b/3.dng", "b/4.jpg")


def test_texts_are_watched_too(start: Start, photos: Path, tmp_path: Path) -> None:
    watching = start(photos)
    watching.finds(*ALL)
    until(lambda: bool(watching.places[0]))
    write(photos / "a" / "0.txt", b"beside nought")
    write_captions(photos / "b" / "captions.jsonl", [("3.png", "of three")])

    def bodies() -> set[str]:
        with Library(tmp_path / "library", device="cpu") as lib:
            return {hit.text.body for hit in lib.search_texts("waves")}

    until(lambda: bodies() == {"beside nought", "of three"})
    (photos / "a" / "0.txt").unlink()
    until(lambda: bodies() == {"of three"})


def test_what_other_programs_write_beside_pictures_is_watched(
    start: Start, photos: Path, tmp_path: Path
) -> None:
    watching = start(photos)
    watching.finds(*ALL)
    until(lambda: bool(watching.places[0]))

    def titles() -> set[str | None]:
        with Library(tmp_path / "library", device="cpu") as lib:
            return {hit.image.info.title for hit in lib.search("waves")} - {None}

    about = (
        "<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#' "
        "xmlns:dc='http://purl.org/dc/elements/1.1/'><rdf:Description dc:title='{}'/></rdf:RDF>"
    )
    write(photos / "a" / "0.xmp", about.format("one").encode())
    until(lambda: titles() == {"one"})
    write(photos / "a" / "0.xmp", about.format("another").encode(), at=2_000_000_000)
    until(lambda: titles() == {"another"})
    (photos / "a" / "0.xmp").unlink()
    until(lambda: titles() == set())
    assert watching.encoded == len(ALL)


def test_a_burst_is_few_runs_and_one_model(
    start: Start, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mmsearch.encode

    loaded: list[str] = []
    real = mmsearch.encode.load_encoder

    def load(model: str, **options: object) -> object:
        loaded.append(model)
        return real(model, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("mmsearch.encode.load_encoder", load)
    watching = start(photos, pace=Pace(quiet=0.4, longest=10, check=0.1, retry=0.1))
    watching.finds(*ALL)
    until(lambda: bool(watching.places[0]))
    runs = len(watching.reports)
    for n in range(50):
        write(photos / "burst" / f"{n}.png", encoded(100 + n))
    watching.finds(*ALL, *(f"burst/{n}.png" for n in range(50)))
    until(lambda: watching.encoded == 54)
    assert len(watching.reports) - runs <= 10  # one, or a few on a machine that stands still
    assert len(loaded) == 1


def test_a_file_that_is_being_written_is_read_when_it_is_whole(start: Start, photos: Path) -> None:
    watching = start(photos)
    watching.finds(*ALL)
    until(lambda: bool(watching.places[0]))
    data = encoded(4)
    write(photos / "a" / "4.png", data[: len(data) // 2])
    # More than once, if it was looked at while its first half was being written.
    until(lambda: sum(report.failed for report in watching.reports) >= 1)
    with (photos / "a" / "4.png").open("ab") as file:
        file.write(data[len(data) // 2 :])
    watching.finds(*ALL, "a/4.png")
    with Library(watching.library) as lib:
        assert lib.failures() == []


def test_only_what_changed_is_looked_at(start: Start, photos: Path) -> None:
    """And what is never read (hidden, excluded, other kinds, the library) starts no run."""
    write(photos / ".mmsearchignore", b"raw/\n")
    watching = start(photos)
    watching.finds(*ALL)
    until(lambda: len(watching.reports) == 2)  # of the source, and what changed meanwhile
    write(photos / ".hidden" / "x.png", encoded(10))
    write(photos / "raw" / "x.png", encoded(11))
    write(photos / "a" / "notes.doc", b"x")
    write(photos / "a" / ".tmp.png", encoded(12))
    write(photos / "b" / "4.png", encoded(4))
    until(lambda: watching.encoded == 5)
    # 2 pictures are in b; "raw" and the rest are not read, and a is not looked at.
    changes = zip(watching.reports, watching.why, strict=True)
    assert {report.files for report, why in changes if why == "change"} == {2}
    assert watching.names() == {*ALL, "b/4.png"}


def test_an_unplugged_drive_is_left_alone_and_watched_again(start: Start, photos: Path) -> None:
    watching = start(photos)
    watching.finds(*ALL)
    until(lambda: watching.places == ([str(photos)], []))
    away = photos.with_name("away")
    photos.rename(away)
    until(lambda: watching.places == ([], [str(photos)]))
    until(lambda: any("unplugged" in warning for warning in watching.warnings))
    assert watching.names() == set(ALL)
    photos.mkdir()  # the empty mount point
    until(lambda: any("unmounted" in warning for warning in watching.warnings))
    photos.rmdir()
    write(away / "b" / "4.png", encoded(4))
    away.rename(photos)
    watching.finds(*ALL, "b/4.png")
    write(photos / "b" / "5.png", encoded(5))
    watching.finds(*ALL, "b/4.png", "b/5.png")


def test_a_folder_that_cannot_be_listed_is_waited_for(
    start: Start, photos: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And holds up no other."""
    scandir, closed = os.scandir, threading.Event()

    def maybe(path: str = ".") -> object:
        if closed.is_set() and os.fspath(path).rstrip("/") == str(photos / "a"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", maybe)
    run(tmp_path / "library", photos / "a", photos / "b", model=model)
    watching = start()
    watching.finds(*ALL)
    until(lambda: len(watching.places[0]) == 2)
    closed.set()
    until(lambda: watching.places == ([str(photos / "b")], [str(photos / "a")]))
    write(photos / "a" / "4.png", encoded(4))
    write(photos / "b" / "5.png", encoded(5))
    watching.finds(*ALL, "b/5.png")
    closed.clear()
    watching.finds(*ALL, "b/5.png", "a/4.png")


def test_a_folder_emptied_by_hand_is_empty(start: Start, photos: Path) -> None:
    watching = start(photos)
    watching.finds(*ALL)
    until(lambda: bool(watching.places[0]))
    for n in range(3):
        (photos / "a" / f"{n}.png").unlink()
    watching.finds("b/3.png")


def test_another_writer_is_waited_for(start: Start, photos: Path, tmp_path: Path) -> None:
    watching = start(photos)
    watching.finds(*ALL)
    until(lambda: bool(watching.places[0]))
    with alone(tmp_path / "library"):
        write(photos / "b" / "4.png", encoded(4))
        until(lambda: any("is writing" in warning for warning in watching.warnings))
        assert watching.names() == set(ALL)
    watching.finds(*ALL, "b/4.png")
    assert len([w for w in watching.warnings if "is writing" in w]) == 1


def test_lost_notifications_are_made_up_for(
    start: Start, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(
        *_paths: str, stop_event: threading.Event, **_options: object
    ) -> Iterator[set[object]]:
        while not stop_event.wait(0.05):
            yield set()

    monkeypatch.setattr("indexer.watch.notifications", nothing)
    watching = start(photos, pace=Pace(check=0.1, every=0.2))
    watching.finds(*ALL)
    write(photos / "b" / "4.png", encoded(4))
    watching.finds(*ALL, "b/4.png")
    until(lambda: "rescan" in watching.why)


def test_without_notifications_the_files_are_looked_at(
    start: Start, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import indexer.watch

    real = indexer.watch.notifications

    def refuse(*paths: str, **options: object) -> Iterator[object]:
        if not options["force_polling"]:
            raise OSError("OS file watch limit reached")
        yield from real(*paths, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("indexer.watch.notifications", refuse)
    watching = start(photos)
    watching.finds(*ALL)
    until(lambda: any("max_user_watches" in warning for warning in watching.warnings))
    write(photos / "b" / "4.png", encoded(4))
    watching.finds(*ALL, "b/4.png")


def test_what_changes_between_notifications_is_found(
    start: Start, photos: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that is added lets the others be watched anew; their last changes are not lost."""

    def mute(*_paths: str, **options: Any) -> Iterator[set[object]]:
        while not options["stop_event"].wait(0.05):
            yield set()

    monkeypatch.setattr("indexer.watch.notifications", mute)
    library = tmp_path / "library"
    run(library, photos / "a", model=model)
    watching = start()
    watching.finds(*ALL[:3])
    until(lambda: len(watching.places[0]) == 1)
    until(lambda: len(watching.reports) == 1)  # or another run finds the library locked
    write(photos / "a" / "4.png", encoded(4))
    run(library, photos / "b")
    watching.finds(*ALL, "a/4.png")


def test_sources_that_come_and_go_meanwhile(
    start: Start, photos: Path, tmp_path: Path, model: str
) -> None:
    """Those of a library that is watched as a whole; a file among them."""
    library = tmp_path / "library"
    run(library, photos / "a", model=model)
    watching = start()
    watching.finds(*ALL[:3])
    until(lambda: len(watching.places[0]) == 1)
    until(lambda: len(watching.reports) == 1)
    run(library, photos / "b" / "3.png")
    until(lambda: len(watching.places[0]) == 2)
    write(photos / "b" / "3.png", encoded(30), at=2_000_000_000)
    until(lambda: watching.encoded == 1)
    (photos / "b" / "3.png").unlink()
    write(photos / "b" / "other.doc", b"so the folder is not empty")
    watching.finds(*ALL[:3])
    write(photos / "b" / "3.png", encoded(30), at=2_000_000_000)
    watching.finds(*ALL)
    with Library(library) as lib:
        (source,) = (s for s in lib.sources() if s.kind == "folder")
    with alone(library):
        writer = CatalogWriter(library / "catalog.db")
        writer.sources.remove(source.id, lambda *_: None)
        writer.close()
    until(lambda: any("no source" in warning for warning in watching.warnings))
    write(photos / "a" / "9.png", encoded(9))
    write(photos / "b" / "3.png", encoded(31), at=2_000_000_001)
    until(lambda: watching.encoded == 2)
    assert watching.names() == {"b/3.png"}


def test_a_part_of_a_source(start: Start, photos: Path, tmp_path: Path, model: str) -> None:
    run(tmp_path / "library", photos, model=model)
    watching = start(photos / "a")
    until(lambda: watching.places == ([str(photos / "a")], []))
    write(photos / "b" / "5.png", encoded(5))
    write(photos / "a" / "4.png", encoded(4))
    watching.finds(*ALL, "a/4.png")


def test_a_path_is_watched_also_where_its_source_has_moved(
    start: Start, photos: Path, tmp_path: Path, model: str
) -> None:
    run(tmp_path / "library", photos / "a", photos / "b", model=model)
    watching = start(photos / "a")
    until(lambda: watching.places[0] == [str(photos / "a")])
    moved = photos.rename(tmp_path / "new") / "a"
    photos.mkdir()
    until(lambda: _relocated(tmp_path / "library", photos / "a", moved))
    until(lambda: watching.places[0] == [str(moved)])
    write(moved / "9.png", encoded(9))
    until(lambda: watching.encoded == 1)


def _relocated(library: Path, old: Path, new: Path) -> bool:
    try:
        relocate(library, str(old), new)
    except LibraryLockedError:
        return False
    return True


def test_a_path_is_watched_also_as_part_of_a_folder_around_it(
    start: Start, photos: Path, tmp_path: Path, model: str
) -> None:
    library = tmp_path / "library"
    run(library, photos / "a", photos / "b" / "3.png", model=model)
    watching = start(photos / "a", photos / "b" / "3.png")
    until(lambda: len(watching.places[0]) == 2)
    until(lambda: len(watching.reports) == 1)

    def read() -> bool:
        try:
            run(library, photos)
        except LibraryLockedError:
            return False
        return True

    until(read)
    with Library(library) as lib:
        assert [source.location for source in lib.sources()] == [str(photos)]
    write(photos / "a" / "9.png", encoded(9))
    watching.finds(*ALL, "a/9.png")
    write(photos / "b" / "3.png", encoded(30), at=2_000_000_000)
    until(lambda: watching.encoded == 2)
    assert set(watching.places[0]) == {str(photos / "a"), str(photos / "b")}


def test_stopping(start: Start, photos: Path) -> None:
    watching = start(photos)
    watching.finds(*ALL)
    watching.stop()
    assert watching.error is None


def test_what_is_not_there(start: Start, photos: Path) -> None:
    watching = start()
    until(lambda: watching.error is not None)
    assert isinstance(watching.error, LibraryNotFoundError)
    watching = start(photos / "none")
    until(lambda: watching.error is not None)
    assert isinstance(watching.error, SourceError)


def test_a_library_that_is_deleted_is_not_made_again(
    start: Start, photos: Path, tmp_path: Path
) -> None:
    watching = start(photos)
    watching.finds(*ALL)
    until(lambda: len(watching.reports) == 2)
    shutil.rmtree(tmp_path / "library")
    until(lambda: watching.error is not None)
    assert isinstance(watching.error, LibraryNotFoundError)
    assert not (tmp_path / "library").exists()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command(photos: Path, tmp_path: Path, model: str, stop: signal.Signals) -> None:
    command = [sys.executable, "-m", "mmsearch", "-l", tmp_path / "library", "watch", photos]
    process = subprocess.Popen(
        [*command, "--model", model, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"MMSEARCH_DEVICE": "cpu"},
    )
    with process:
        assert process.stdout is not None
        events = map(json.loads, process.stdout)
        first = next(event for event in events if event["event"] == "run")
        assert (first["encoded_images"], first["why"]) == (4, "start")
        assert next(e for e in events if e["event"] == "watching")["places"] == [str(photos)]
        next(event for event in events if event["event"] == "run")  # what came during the first
        # There at once and whole, or there might be a run before its bytes are.
        write(tmp_path / "4.png", encoded(4)).rename(photos / "b" / "4.png")
        assert next(event for event in events if event["event"] == "run")["encoded_images"] == 1
        process.send_signal(stop)
        assert process.wait(_DEADLINE_S) == 0


# --- where to look --------------------------------------------------------------------------------


def test_the_folder_that_covers_a_change(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    write(root / "2020" / "may" / "a.png", b"x")
    write(root / "2020" / ".mmsearchignore", b"raw/\n*.gif\n")
    write(root / "2020" / "raw" / "b" / "c.png", b"x")
    write(tmp_path / "elsewhere" / "e.png", b"x")
    (root / "link").symlink_to(tmp_path / "elsewhere")

    def at(path: str, **options: object) -> str | None:
        return covering(str(root), str(root / path), **options)  # type: ignore[arg-type]

    assert at("2020/may/a.png") == at("2020/may/gone.png") == at("2020/may") == "2020/may"
    assert at("2020/gone/deeper/a.png") == "2020"
    assert at("gone/a.png") == at("") == ""
    assert at("2020/.mmsearchignore") == "2020"
    assert at("2020/raw/b/c.png") is None
    assert at("2020/.hidden/a.png") is None
    assert at("2020/@eaDir/a.png") is None
    assert at("2020/may/a.png", exclude=("may",)) is None
    assert at("2020/may/a.png", skip=str(root / "2020")) is None
    assert at("link/e.png") is None
    assert at("link/e.png", follow_links=True) == ""


def test_the_fewest_folders() -> None:
    assert smallest(["a", "a/b", "ab", "c/d"]) == ["a", "ab", "c/d"]
    assert smallest(["a", ""]) == [""]
    assert smallest([]) == []
    assert smallest([f"x/{n}" for n in range(100)]) == ["x"]
    assert smallest([f"{n}" for n in range(100)]) == [""]
