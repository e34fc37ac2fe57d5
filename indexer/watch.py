"""Keeps a library up to date: waits for changes on disk and runs the indexer on what they touch.

Notifications only say where to look; what is there is found out by the ordinary run, so that a
lost, doubled or late one does no harm. Some are lost by nature (network drives, drives mounted
below a source), so everything is looked at again now and then.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from watchfiles import watch as notifications
from watchfiles.main import FileChange

from indexer.beside import is_beside
from indexer.ignore import IGNORE_FILE
from indexer.ingest import Options, index, index_parts
from indexer.models import Models
from indexer.report import Progress, Report
from indexer.sources import covering, kind_of
from indexer.targets import find_targets, is_within
from mmsearch.errors import (
    EncodeError,
    LibraryLockedError,
    LibraryNotFoundError,
    SchemaVersionError,
    SourceError,
    StoreError,
)
from mmsearch.filenames import real, shared, spelled
from mmsearch.library import CATALOG_NAME
from mmsearch.overview import (
    SourcePlace,
)
from mmsearch.store import Catalog

Why = Literal["start", "change", "rescan"]

#: Places that one run looks at; of more, the folder that holds them all is taken.
_MAX_PARTS = 50
#: Between looks at the clock, and at whether to stop.
_TICK_S = 0.5


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to wait for what, in seconds.

    quiet, longest: a burst of changes is over when nothing changed for the one, or after the other.
    check: between looks whether sources came, went, or were mounted. retry: when another process
    is writing, and after a failure. every: between looks at everything. poll: between looks at each
    file where the system sends no notifications.
    """

    quiet: float = 0.4
    longest: float = 5.0
    check: float = 2.0
    retry: float = 2.0
    every: float = 3600.0
    poll: float = 5.0


class Listener(Protocol):
    """Told what happens, from the thread that watches."""

    def watching(self, places: Sequence[str], waiting: Sequence[str]) -> None:
        """These folders and files are watched from now on; those waited for are not there."""

    def ran(self, report: Report, why: Why) -> None:
        """A run has ended."""

    def warned(self, message: str) -> None:
        """Something stands in the way for now; told once until it has passed."""


@dataclass(frozen=True, slots=True)
class _Place:
    """What is watched: a folder of a source (`under`, "" for all of it), or a file."""

    source: SourcePlace
    under: str

    @property
    def path(self) -> str:
        return f"{self.source.location}/{self.under}" if self.under else self.source.location

    @property
    def is_folder(self) -> bool:
        return self.source.kind == "folder"

    def mark(self) -> tuple[int, ...] | None:
        """Another value when it is another folder, or the file has changed; None: not there, or a
        folder that cannot be listed.

        A folder is another one when a drive was mounted on it, or taken away.
        """
        try:
            info = os.stat(self.path)  # noqa: PTH116 -- str paths keep odd bytes
            if self.is_folder:
                with os.scandir(self.path):
                    return info.st_dev, info.st_ino
        except OSError:
            return None
        return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


class Watch:
    """Watches a library's sources until told to stop."""

    def __init__(
        self,
        library: Path,
        paths: Sequence[Path],
        listener: Listener,
        *,
        options: Options | None = None,
        pace: Pace | None = None,
        poll: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """paths: what to watch; what is no source yet becomes one. Without: every source.

        poll: look at the files instead of waiting for notifications (network drives).
        """
        self._library = library
        self._skip = real(library)
        self._paths = paths
        self._listener = listener
        self._options = options or Options()
        self._pace = pace or Pace()
        self._poll = poll
        self._progress = progress
        self._models = Models()
        self._catalog: Catalog | None = None
        self._revision = -1
        self._scope: dict[int, set[str]] | None = None  # folders by source; None: everything
        self._located: dict[int, str] = {}  # where these sources were when last looked for
        self._homeless: set[str] = set()  # of `paths`, absolute: those of no source now
        self._places: dict[str, _Place] = {}
        self._marks: dict[str, tuple[int, ...] | None] = {}  # of each place when last looked at
        self._changes: Generator[set[FileChange], None, None] | None = None
        self._due: dict[str, set[str]] = {}  # location of a source → folders to look at
        self._why: Why = "start"
        self._first = True  # no run has ended yet
        self._told: set[str] = set()
        self._trouble: str | None = None  # why the last run did not take place

    def run(self, stop: threading.Event) -> None:
        """Returns when `stop` is set, or when nothing of `paths` is of a source any more.

        Raises:
            KeyboardInterrupt: Ctrl-C; what is done is kept.
            SourceError, LibraryNotFoundError: a path or the library is not there.
            ModelUnavailableError, SchemaVersionError, StoreError: as `index`, in the first run.
        """
        try:
            self._begin(stop)
            self._go_on(stop)
        finally:
            self._stop_notifications()
            if self._catalog is not None:
                self._catalog.close()

    def _begin(self, stop: threading.Event) -> None:
        """Makes sources of the paths that are none yet, and finds out what to watch."""
        known: list[SourcePlace] = []
        if (self._library / CATALOG_NAME).exists() or not self._paths:
            known = self._open().places()
        locations = {source.location for source in known}
        targets = find_targets(known, self._paths, ()) if self._paths else []
        new = [Path(t.location) for t in targets if t.location not in locations]
        while new and not stop.is_set():
            try:
                report = index(
                    self._library,
                    new,
                    options=self._options,
                    progress=self._progress,
                    models=self._models,
                )
            except LibraryLockedError as exc:
                self._warn(_waiting(exc))
                stop.wait(self._pace.retry)
            else:
                self._tell(report)
                new = []
        # From now on it is the library's own model.
        self._options = replace(self._options, model=None)
        if self._paths and not stop.is_set():
            self._scope = {}
            self._homeless = {real(path) for path in self._paths}

    def _go_on(self, stop: threading.Event) -> None:
        clock = time.monotonic
        check_at = run_at = clock()
        everything_at = clock() + self._pace.every
        while not stop.is_set():
            if clock() >= check_at:
                self._find_places()
                if not self._places and self._scope is not None:
                    return
                self._look_at_places()
                check_at = clock() + self._pace.check
            self._wait(stop)
            if clock() >= everything_at:
                for place in self._places.values():
                    self._add(place.source.location, place.under, "rescan")
                everything_at = clock() + self._pace.every
            if (
                self._due
                and clock() >= run_at
                and not stop.is_set()
                and not self._bring_up_to_date()
            ):
                run_at = clock() + self._pace.retry

    # --- what is watched ------------------------------------------------------------------------

    def _open(self) -> Catalog:
        if self._catalog is None:
            self._catalog = Catalog(self._library / CATALOG_NAME)
        return self._catalog

    def _find_places(self) -> None:
        """Asks the catalog for the sources, which other processes add, move and remove."""
        if not (self._library / CATALOG_NAME).exists():
            raise LibraryNotFoundError(str(self._library))
        revision = self._open().revision()
        if revision == self._revision:
            return
        self._revision = revision
        sources = self._open().places()
        if self._scope is not None:
            self._follow(self._scope, sources)
        places = [
            _Place(source, under)
            for source in sources
            for under in smallest({""} if self._scope is None else self._scope.get(source.id, ()))
        ]
        self._places = {place.path: place for place in places}
        for path in self._marks.keys() - self._places.keys():
            del self._marks[path]
            self._stop_notifications()
            self._warn(f"{path} is no source of this library any more: it is not watched")

    def _follow(self, scope: dict[int, set[str]], sources: Sequence[SourcePlace]) -> None:
        """Brings the scope up to date with the sources.

        One that moved is still the same. What was of one that is gone may be of another now, such
        as a folder around it that was read.
        """
        by_location = {source.location: source.id for source in sources}
        for id_ in scope.keys() - by_location.values():
            place = self._located.pop(id_)
            self._homeless |= {f"{place}/{under}" if under else place for under in scope.pop(id_)}
        for path in list(self._homeless):
            try:
                (target,) = find_targets(sources, [Path(path)], ())
            except SourceError:
                continue  # not there now
            if target.location in by_location:
                folder = Path(target.absolute(target.under)).is_dir()
                under = target.under if folder else target.under.rpartition("/")[0]
                scope.setdefault(by_location[target.location], set()).add(under)
                self._homeless.discard(path)
        self._located = {source.id: source.location for source in sources if source.id in scope}

    def _look_at_places(self) -> None:
        """Finds out what came, went or is another one now: that is read, and watched anew."""
        marks = {path: place.mark() for path, place in self._places.items()}
        new = marks.keys() - self._marks.keys()
        changed = [path for path in marks if path in new or marks[path] != self._marks[path]]
        for path in changed:
            place = self._places[path]
            self._add(place.source.location, place.under, "start" if path in new else "change")
        exchanged = {path for path in changed if self._places[path].is_folder}
        came_or_went = {path for path in changed if None in (marks[path], self._marks.get(path))}
        self._marks = marks
        if exchanged:
            self._stop_notifications()
        if exchanged or came_or_went:
            if any(marks[path] is not None for path in changed):
                self._told.clear()  # what is missed after this is told once more
            there = [path for path, mark in marks.items() if mark is not None]
            waiting = [path for path, mark in marks.items() if mark is None]
            self._listener.watching(there, waiting)

    def _stop_notifications(self) -> None:
        if self._changes is not None:
            self._changes.close()
            self._changes = None

    # --- waiting --------------------------------------------------------------------------------

    def _wait(self, stop: threading.Event) -> None:
        """Until something changes or a moment has passed; notes what changed."""
        if self._changes is None:
            folders = [
                path
                for path, place in self._places.items()
                if place.is_folder and self._marks.get(path) is not None
            ]
            if not folders:
                stop.wait(min(_TICK_S, self._pace.check))
                return
            self._changes = self._notifications(folders, stop)
            # What changed since the notifications before these is told by none of them.
            for path in folders:
                self._add(self._places[path].source.location, self._places[path].under, "change")
        try:
            changes = next(self._changes, set())
        except FileNotFoundError:
            self._changes = None  # it went just now; the next look at the places notices
            stop.wait(min(_TICK_S, self._pace.check))
            return
        except (OSError, RuntimeError) as exc:
            if self._poll:
                raise StoreError(f"the sources cannot be watched: {exc}") from exc
            self._changes = None
            self._poll = True
            self._warn(
                f"the system sends no notifications ({exc}): the files are looked at every "
                f"{self._pace.poll:g} s instead. Raising fs.inotify.max_user_watches may help"
            )
            return
        for path in {spelled(path) for _, path in changes}:
            self._note(path)

    def _notifications(
        self, folders: Sequence[str], stop: threading.Event
    ) -> Generator[set[FileChange], None, None]:
        return notifications(
            *folders,
            watch_filter=None,
            debounce=int(self._pace.longest * 1000),
            step=int(self._pace.quiet * 1000),
            rust_timeout=int(_TICK_S * 1000),
            yield_on_timeout=True,
            stop_event=stop,
            force_polling=self._poll or None,
            poll_delay_ms=int(self._pace.poll * 1000),
            ignore_permission_denied=True,
        )

    def _note(self, path: str) -> None:
        """Something happened at `path`: which folder has to be looked at for that?"""
        if not _matters(path):
            return
        for place in self._places.values():
            source = place.source
            if not place.is_folder or not is_within(path, place.path):
                continue
            folder = covering(
                source.location,
                path,
                exclude=source.exclude,
                follow_links=source.follow_links,
                skip=self._skip,
            )
            if folder is not None:
                self._add(source.location, folder, "change")

    def _add(self, location: str, under: str, why: Why) -> None:
        if not self._due:
            self._why = why
        self._due.setdefault(location, set()).add(under)

    # --- running --------------------------------------------------------------------------------

    def _bring_up_to_date(self) -> bool:
        """One run on all that is due; False when it has to be tried again."""
        parts = {location: smallest(unders) for location, unders in self._due.items()}
        try:
            report = index_parts(
                self._library,
                parts,
                options=self._options,
                progress=self._progress,
                models=self._models,
            )
        except (LibraryNotFoundError, SchemaVersionError):
            raise
        except (StoreError, EncodeError, SourceError) as exc:
            # Another process writes, the disk is full, the drive went in the middle: it passes.
            if self._first and not isinstance(exc, LibraryLockedError):
                raise
            self._trouble = _waiting(exc) if isinstance(exc, LibraryLockedError) else str(exc)
            self._warn(self._trouble)
            return False
        self._due.clear()
        self._told.discard(self._trouble or "")
        self._tell(report)
        return True

    def _tell(self, report: Report) -> None:
        self._first = False
        self._listener.ran(report, self._why)
        for message in report.warnings:
            self._warn(message)
        if self._why != "change":
            self._told.intersection_update(report.warnings)
        if report.stopped:
            raise KeyboardInterrupt

    def _warn(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self._listener.warned(message)


def _waiting(exc: LibraryLockedError) -> str:
    holder = f"process {exc.pid}" if exc.pid else "another process"
    return f"{holder} is writing to the library: this one goes on when that is done"


def smallest(folders: Iterable[str]) -> list[str]:
    """The fewest folders of one source that hold all of these; "" holds everything."""
    kept: list[str] = []
    for folder in sorted(folders, key=lambda f: f.split("/")):
        if not kept or not is_within(folder, kept[-1]):
            kept.append(folder)
    if len(kept) <= _MAX_PARTS:
        return kept
    return [shared(kept)]


def _matters(path: str) -> bool:
    """Whether what happened at `path` may change what is found: not for files of other kinds."""
    name = path.rpartition("/")[2]
    if kind_of(name) is not None or name.lower().endswith(".txt") or name == IGNORE_FILE:
        return True
    if is_beside(name):
        return True
    return not os.path.isfile(path)  # noqa: PTH113 -- a folder, or what may have been one
