"""An indexing run: scan, load, encode, commit, report.

Each batch is one transaction, so the run can be killed at any moment; what is committed is found
by the next run by stat and hash, and only the rest is done.
"""

from __future__ import annotations

import logging
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.clock import Clock
from indexer.load import Loader
from indexer.models import Models
from indexer.picture_stage import PictureStage
from indexer.report import Progress, Report, Silence
from indexer.sources import LINK, FileEntry, Sights
from indexer.takeout_stage import TakeoutStage
from indexer.targets import Target, check_path, find_targets, parts_of
from indexer.text_stage import TextEmbedder, TextStage
from indexer.told_stage import ToldStage
from mmsearch.batches import batches
from mmsearch.encode import presets, space_at_hand
from mmsearch.errors import LibraryNotFoundError, SourceError
from mmsearch.library import CATALOG_NAME, Library
from mmsearch.plaintext import counted
from mmsearch.store import Catalog, CatalogWriter, FailureRow, Pending
from mmsearch.store.engine import is_there
from mmsearch.store.lock import writing
from mmsearch.types import DEFAULT_LIMITS, DecodeLimits, Space

if TYPE_CHECKING:
    from mmsearch.encode import Encoder

logger = logging.getLogger(__name__)

_KINDS = ("image", "archive", "texts", "sidecar")
#: So much older than the last scan must an empty folder be to be taken for a mount point: clocks of
#: network drives go wrong by hours.
_MARGIN = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Options:
    """How to index.

    model: None is the library's own, or `default` for a new one. device: as of `load_encoder`, or
    several with commas ("cuda:0,cuda:1"), each in a process of its own. reference: exactly
    open_clip's preprocessing, slower. exclude, follow_links: None or empty leave a known source as
    it was; where a folder in it is named, exclude adds to its patterns, for that folder.
    decode_processes: that prepare pictures instead of threads; None: as many as the device is worth
    (see `indexer.decoder_processes`; a script that asks for some must be one that multiprocessing
    can import).
    """

    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    reference: bool = False
    exclude: tuple[str, ...] = ()
    follow_links: bool | None = None
    limits: DecodeLimits = DEFAULT_LIMITS
    decode_processes: int | None = 0


def index(
    library: Path,
    targets: Sequence[Path] = (),
    captions: Sequence[Path] = (),
    *,
    options: Options | None = None,
    progress: Progress | None = None,
    models: Models | None = None,
    clock: Clock | None = None,
) -> Report:
    """Brings a library up to date with folders, files and caption files.

    Without targets: with every source it already has. `models` keeps the model for a next run;
    `clock` is told where the time goes. Ctrl-C ends the run after the batch in hand, with
    everything so far committed and `stopped` set.

    Raises:
        LibraryLockedError: another process is writing to it.
        SourceError: a target is not there, or cannot be listed; the others are read first.
        ModelUnavailableError: the model's weights are not here.
        SchemaVersionError, StoreError: the catalog cannot be written.
    """
    # What is wrong with the request is told before a library is made for it.
    for path in (*targets, *captions):
        check_path(path)
    if options is not None and options.model is not None:
        presets.resolve(options.model)
    with _opened(library, options, progress, models, clock) as (run, catalog):
        report = run.run(
            find_targets(
                catalog.places(),
                targets,
                captions,
                exclude=run.options.exclude,
                follow_links=run.options.follow_links,
                library=library,
            )
        )
        if (targets or captions) and run.unreadable and not report.stopped:
            raise run.unreadable[0]
        return report


def index_parts(
    library: Path,
    parts: Mapping[str, Sequence[str]],
    *,
    options: Options | None = None,
    progress: Progress | None = None,
    models: Models | None = None,
) -> Report:
    """The same for parts of sources that the library has: location → folders below it.

    "" is all of a source. What is no source any more is passed over; of a folder that is gone, the
    nearest one above it is read. Errors as of `index`; LibraryNotFoundError: there is none.
    """
    if not is_there(library / CATALOG_NAME):
        raise LibraryNotFoundError(str(library))  # none is made: it was deleted
    with _opened(library, options, progress, models) as (run, catalog):
        return run.run(parts_of(catalog.places(), parts))


@contextmanager
def _opened(
    library: Path,
    options: Options | None,
    progress: Progress | None,
    models: Models | None,
    clock: Clock | None = None,
) -> Iterator[tuple[_Run, Catalog]]:
    own = models or Models()
    with writing(library), ExitStack() as stack:
        if models is None:
            stack.callback(own.close)
        writer = stack.enter_context(closing(CatalogWriter(library / CATALOG_NAME)))
        catalog = stack.enter_context(closing(Catalog(library / CATALOG_NAME)))
        run = _Run(
            library,
            catalog,
            writer,
            options or Options(),
            progress or Silence(),
            own,
            clock or Clock(),
        )
        stack.callback(run.close)
        yield run, catalog


#: Of what cannot be read, path → size and mtime in ns.
_Unreadable = Callable[[], Mapping[str, tuple[int, int]]]


class _Run:
    """One run over some sources; holds the model once something needs it."""

    def __init__(
        self,
        library: Path,
        catalog: Catalog,
        writer: CatalogWriter,
        options: Options,
        progress: Progress,
        models: Models,
        clock: Clock,
    ) -> None:
        self._library = library
        self._catalog = catalog
        self._writer = writer
        self.options = options
        self._models = models
        self._progress = progress
        self._clock = clock
        self._encoder: Encoder | None = None
        self._encoder_lock = threading.Lock()
        self._report = Report(str(library))
        #: What kept whole targets from being read.
        self.unreadable: list[SourceError] = []
        self._adopted: set[str] = set()  # sources that became part of others
        self._done: dict[str, int] = {}  # location of a source read to its end → for which space
        self._model, known = self._choose_model()
        self._space_id: int | None = None if known is None else known[0]
        self._anything_known = True
        embedder = TextEmbedder(catalog, self.encoder)
        self._texts = TextStage(writer, embedder, self._report, progress, clock)
        self._loader = Loader(
            self.encoder,
            self._known_image,
            limits=options.limits,
            reference=options.reference,
            clock=clock,
            processes=options.decode_processes,
            knows_any=lambda: self._anything_known,
        )
        self._told = ToldStage(catalog, writer, embedder, self._report)
        self._takeouts = TakeoutStage(writer, self._told, self._report)
        self._pictures = PictureStage(
            catalog,
            writer,
            self.encoder,
            embedder,
            self._loader,
            self._report,
            progress,
            clock,
            self._told,
            self._takeouts,
        )

    def close(self) -> None:
        """Ends processes that prepare pictures."""
        self._loader.close()

    # --- model ----------------------------------------------------------------------------------

    def _choose_model(self) -> tuple[str, tuple[int, Space] | None]:
        """The model's name, and its space if the library has one."""
        active = self._catalog.active_space()
        if self.options.model is None and active is not None:
            name = active[1].name
        else:
            name = presets.resolve(self.options.model or "default")
        known = self._catalog.find_space(name)
        now = space_at_hand(name)
        if now is None:
            return name, known
        if known is not None and now.fingerprint != known[1].fingerprint:
            self._warn(f"the weights of {name} are not those of before: everything is read again")
        known = self._catalog.find_space(fingerprint=now.fingerprint)
        if known is not None and known[1].name != name:
            # Moved, or copied. Searches load them by the name of the space, and that this one is
            # good was just seen.
            self._writer.ensure_space(now)
            known = known[0], now
        if known is None and active is None and self.options.model is not None:
            # The library keeps what it was made with, also where this run ends before anything is
            # encoded.
            known = self._writer.ensure_space(now), now
        return name, known

    def encoder(self) -> Encoder:
        """The model; loaded when something needs it first. From any thread."""
        with self._encoder_lock:
            if self._encoder is None:
                options = self.options
                if options.decode_processes != 0:
                    from indexer import decoder_processes

                    decoder_processes.expect(options.decode_processes, options.device)
                with self._clock.span("load model"):
                    self._encoder = self._models.load(
                        self._model,
                        device=options.device,
                        dtype=options.dtype,
                        reference=options.reference,
                        on_load=self._progress.loading_model,
                    )
                self._report.device = self._encoder.device
                self._report.dtype = self._encoder.dtype
            return self._encoder

    def _known_image(self, digest: bytes) -> int | None:
        # In a space that is empty there is no need to look for each picture: copies among those of
        # this reading are found when their batch is put together.
        if self._space_id is None or not self._anything_known:
            return None
        return self._catalog.vectors.known(self._space_id, "image", digest)

    def _warn(self, message: str) -> None:
        if message not in self._report.warnings:
            self._report.warnings.append(message)

    # --- the run --------------------------------------------------------------------------------

    def run(self, targets: Sequence[Target]) -> Report:
        report = self._report
        started = time.monotonic()
        report.model = self._model
        try:
            for target in targets:
                self._source(target)
            self._tell_takeouts()
            self._switch_space()
        except KeyboardInterrupt:
            report.stopped = True
        report.encoded_texts = self._texts.encoded
        # Even when nothing is new: the run before may have been killed before it came to this.
        with self._clock.span("link"):
            self._link()
        with self._clock.span("index"), Library(self._library) as library:
            library.save_indexes()
            if self._encoder is not None and not report.stopped:
                library.save_background(self._encoder)
        report.seconds = time.monotonic() - started
        return report

    def _link(self) -> None:
        linked = self._writer.link()
        self._report.linked = linked.linked
        if linked.unknown and self._report.changed:
            self._warn(
                f"texts that name pictures which are not in the library: {linked.unknown:,}; "
                "see: mmsearch status --failed"
            )

    def _tell_takeouts(self) -> None:
        """What parts that came, changed or went mean for the pictures in the others."""
        if self._space_id is not None:
            self._takeouts.all(self._space_id)

    def _switch_space(self) -> None:
        """Searches move to the space of this run, once all that they find now is in it."""
        active = self._catalog.active_space()
        if self._space_id is None or active is None or active[0] == self._space_id:
            return
        for target in find_targets(self._catalog.places(), (), ()):
            if self._done.get(target.location) != self._space_id:
                self._source(target)
        self._tell_takeouts()
        lacking = self._catalog.vectors.count_lacking(self._space_id, active[0])
        if lacking:
            other = active[1].name != self._model
            stay = (
                active[1].name if other else f"the weights of before ({active[1].fingerprint[:12]})"
            )
            self._warn(
                f"searches stay with {stay}: "
                f"{counted(lacking, 'picture or text', 'pictures and texts')} could not be read "
                f"with {self._model} (unplugged drive?). Run the same command again once it can"
            )
        else:
            self._writer.activate(self._space_id)
            old = active[1]
            same_name = old.name == self._model  # other weights
            self._report.old_space = old.fingerprint[:12] if same_name else old.name

    def _source(self, target: Target) -> None:
        if target.location in self._adopted:
            return
        if not target.is_there():
            held = "its pictures are" if target.kind == "folder" else "what it held is"
            self._warn(
                f"{target.location} is not there (unplugged drive?): {held} kept. If "
                f"it was moved: mmsearch sources relocate {shlex.quote(target.location)} NEW"
            )
            return
        started = datetime.now(UTC).replace(tzinfo=None)
        source_id = self._writer.ensure_source(
            target.location, target.kind, target.exclude, target.follow_links
        )
        before, patterns = target.excluded_before, target.exclude
        if before is not None and patterns != before:
            self._warn(
                f"the patterns of what is left out of {target.location} change from "
                f"{shlex.join(before) or 'none'} to {shlex.join(patterns) or 'none'}"
            )
        if target.is_left_out():
            self._warn(
                f"{target.absolute(target.under)} is left out of {target.location} by patterns: "
                f"the next run over all of that takes it for gone. To keep it, give others: "
                f"mmsearch index {shlex.quote(target.location)} --exclude PATTERN"
            )
        scanned = self._report.scanned()
        # Asked for where there are raw files, so before anything is read.
        known = cache(lambda: self._writer.scan.unreadable(source_id))
        sights = self._once(target, source_id, known)
        if sights is not None and sights.developed:
            now = self._writer.scan.unreadable(source_id)
            if now.items() - known().items():
                # Pictures beside which raw files were passed over may be among them.
                self._report.take_back(scanned)
                sights = self._once(target, source_id, lambda: now)
        if sights is None or target.under:
            return
        self._writer.finish_source(source_id, started)
        if self._space_id is not None:
            self._done[target.location] = self._space_id

    def _once(self, target: Target, source_id: int, unreadable: _Unreadable) -> Sights | None:
        """Brings what is new of a target into the library. Returns what else was met; None where
        the target could not be read."""
        try:
            with self._clock.span("scan"):
                problems, sights, closed = self._scan(target, source_id, unreadable)
        except SourceError as exc:
            # Others must not wait for this one: it may stay so for months.
            self.unreadable.append(exc)
            self._warn(f"{exc}: its pictures are kept")
            return None
        if target.is_out_of_reach():
            self._warn(f"{target.location} is gone now (unplugged drive?): its pictures are kept")
            return None
        if target.kind == "folder":
            self._adopted.update(self._writer.adopt(source_id, target.location))
        self._report.files += self._writer.scan.count_seen("image")
        whole = target.kind == "folder" and not target.under
        # A file that is not read, such as a film, still shows that the drive is there.
        if whole and not sights.any_file and self._writer.scan.looks_unmounted(source_id):
            self._warn(
                f"{target.location} is empty, but pictures of it are known "
                "(unmounted drive?): they are kept. If they were deleted: "
                f"mmsearch sources remove {shlex.quote(target.location)}"
            )
            return None
        swept = self._writer.scan.sweep(source_id, target.under)
        self._report.missing += swept.missing
        self._report.returned += swept.returned
        self._writer.commit(None, failures=problems)
        self._report.skipped += len(problems)
        self._report.links += sum(problem.reason == LINK for problem in problems)
        self._report.closed += closed
        self._report.developed += sights.developed
        if self._anything_readable(target, source_id):
            self._read(target, source_id)
        if self._space_id is not None:
            self._told.files_beside(source_id, self._space_id, target)
        return sights

    def _scan(
        self, target: Target, source_id: int, unreadable: _Unreadable
    ) -> tuple[list[FailureRow], Sights, int]:
        """Notes what is there; returns what is passed over, what else was met, and how much of what
        is passed over could not be looked at."""
        writer, files = self._writer, 0
        writer.scan.begin()
        problems: list[FailureRow] = []
        closed: list[str] = []
        sights = Sights()
        entries = target.scan(
            self._library.resolve(), sights, lambda path, *at: unreadable().get(path) == at
        )
        for part in batches(entries, 5000):
            found = [
                Pending(e.path, e.kind, e.size, e.mtime_ns, e.of, e.beside)
                for e in part
                if isinstance(e, FileEntry)
            ]
            problems += [
                FailureRow(source_id, p.path, "", "", 0, 0, p.reason, transient=True)
                for p in part
                if not isinstance(p, FileEntry)
            ]
            closed += [p.path for p in part if not isinstance(p, FileEntry) and p.closed]
            writer.scan.saw(found)
            files += len(found)
            self._progress.scanning(target.location, files)
        mount_points = self._mount_points(target, source_id, sights.empty)
        writer.scan.saw_unreadable(source_id, [*closed, *mount_points])
        return problems, sights, len(closed)

    def _mount_points(
        self, target: Target, source_id: int, empty: Sequence[tuple[str, int]]
    ) -> Iterator[str]:
        """Which of these empty folders are those of unmounted drives, as far as can be told.

        Who deletes the last file of a folder changes the folder. One that has not changed since
        well before the source was last read, when files were found in it, is another folder than
        that was: the place where a drive should be.
        """
        if target.read_at is None:
            return
        since = (target.read_at.replace(tzinfo=UTC) - _MARGIN).timestamp() * 1e9
        for path, changed_ns in empty:
            if changed_ns < since and self._writer.scan.knows_files(source_id, path):
                self._warn(
                    f"{target.absolute(path)} is empty, but pictures of it are known, and none was "
                    "deleted since they were read (unmounted drive?): they are kept as long as "
                    "there is that folder"
                )
                yield path

    def _anything_readable(self, target: Target, source_id: int) -> bool:
        """Whether any pending file opens: for files that never do the model need not be loaded."""
        for file in self._writer.scan.pending(source_id, self._space_id, _KINDS):
            try:
                with open(target.absolute(file.path), "rb"):  # noqa: PTH123
                    return True
            except OSError:
                continue
        return self._writer.scan.has_new_pending(source_id, self._space_id)

    # --- reading --------------------------------------------------------------------------------

    def _read(self, target: Target, source_id: int) -> None:
        """Embeds all that is pending; loads the model, whose space may turn out to be new."""
        writer = self._writer
        space_id = self._space_id = writer.ensure_space(self.encoder().space)
        self._anything_known = self._catalog.vectors.exist(space_id, "image")
        counts = writer.scan.count_pending(source_id, space_id)
        if counts.get("image"):
            self._progress.started("images", counts["image"])
            pending = writer.scan.pending(source_id, space_id, ["image"])
            self._pictures.files(source_id, space_id, target, pending)
        for file in writer.scan.pending(source_id, space_id, ["archive"]):
            self._progress.started(f"images of {file.path}", None)
            self._pictures.archive(source_id, space_id, target, file)
        for file in writer.scan.pending(source_id, space_id, ["texts"]):
            self._progress.started(f"texts of {file.path}", None)
            self._texts.captions(source_id, space_id, target, file)
        if counts.get("sidecar"):
            self._progress.started("sidecar texts", counts["sidecar"])
            pending = writer.scan.pending(source_id, space_id, ["sidecar"])
            self._texts.sidecars(source_id, space_id, target, pending)
