"""Pictures on their way into the catalog: load ahead, encode in batches, one transaction each.

Three work at once: the loader's threads at the pictures ahead, the model's thread at a batch, and
the thread that called, which alone touches the catalog's writer, at the batch before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from indexer.beside import Heard, Inside
from indexer.beside.parts import export_of
from indexer.clock import Clock, bottleneck
from indexer.load import Loader
from indexer.model_thread import ModelThread
from indexer.prepare import Job, Loaded
from indexer.report import Progress, Report
from indexer.takeout_stage import PartFiles, TakeoutStage
from indexer.targets import Target
from indexer.text_stage import BesidePictures, DraftText, TextEmbedder, embedded_texts
from indexer.texts.items import MAX_LINE_BYTES
from indexer.told_stage import ToldStage, faults_of, heard_beside, left_out
from mmsearch import archive
from mmsearch.archive import Member
from mmsearch.errors import os_reason
from mmsearch.overview import (
    ScanProblem,
)
from mmsearch.raw import Developed
from mmsearch.store import (
    Catalog,
    CatalogWriter,
    FailureRow,
    ImageRow,
    Pending,
    TextRow,
)
from mmsearch.told import told_json, with_told

if TYPE_CHECKING:
    from mmsearch.encode import Encoder
    from mmsearch.types import Vectors

#: Pictures decoded ahead of the model, in batches of the model.
_BATCHES_AHEAD = 3
#: Pictures a transaction, besides those for the model (copies, moved files).
_KNOWN_A_BATCH = 256
#: Pictures that a model with nothing to do is given, though it would take more at once.
_FEW = 64
#: Batches that the model has at once: on a GPU two are under way, and the next must be at hand.
_WITH_THE_MODEL = 3
#: Encoded pictures wait for others to be written with, up to so many, or for so long: a transaction
#: costs as much as the rows of 30 pictures.
_A_TRANSACTION = 256
_WAIT_S = 0.25


@dataclass(frozen=True, slots=True)
class _Batch:
    """items: without their pixels. heard: from the files beside each. hashes: of the new ones, in
    the order of their vectors. put: when it was given to the model, by `perf_counter`."""

    items: list[Loaded]
    heard: list[Heard]
    hashes: tuple[bytes, ...]
    encoded: Future[tuple[Vectors, list[TextRow]]]
    put: float


class PictureStage:
    """Writes the pictures of one source into one space."""

    def __init__(
        self,
        catalog: Catalog,
        writer: CatalogWriter,
        encoder: Callable[[], Encoder],
        texts: TextEmbedder,
        loader: Loader,
        report: Report,
        progress: Progress,
        clock: Clock,
        told: ToldStage,
        takeouts: TakeoutStage,
    ) -> None:
        self._catalog = catalog
        self._writer = writer
        self._told = told
        self._takeouts = takeouts
        self._encoder = encoder
        self._texts = texts
        self._loader = loader
        self._report = report
        self._progress = progress
        self._clock = clock
        self._wrote = (0.0, 0.0)  # when a batch was last written, from and to
        self._to_be_tried_again = 0  # pictures written down as transient failures
        # The pictures of the archive that is being read, and those that could not be used.
        self._members_read: list[str] = []
        self._members_bad: list[str] = []

    def files(
        self, source_id: int, space_id: int, target: Target, files: Iterable[Pending]
    ) -> None:
        """Picture files, by name."""
        jobs = (
            Job(f.path, target.absolute(f.path), "", f.size, f.mtime_ns, beside=f.beside)
            for f in files
        )
        self._run(source_id, space_id, jobs)

    def archive(self, source_id: int, space_id: int, target: Target, file: Pending) -> None:
        """The pictures of an archive; marks it as read when that worked to the end.

        It did not where the drive gave no more, or where a picture of it is to be tried again.
        Then nothing that it held is dropped, and the next run reads all of it again.
        """
        try:
            with open(target.absolute(file.path), "rb"):  # noqa: PTH123
                pass
        except OSError as exc:
            refused = ScanProblem("", os_reason(exc), closed=True)
            self._complain(source_id, space_id, file, [refused], again=True)
            return
        self._writer.begin_containers(source_id, [file.path])
        problems: list[ScanProblem] = []
        texts, inside = BesidePictures(), Inside()
        location = target.absolute(file.path)
        part = None
        if export_of(location) is not None:
            part = self._takeouts.begin(source_id, file.path)
        before = self._to_be_tried_again
        self._members_read, self._members_bad = [], []
        raws: list[str] = []  # passed over
        jobs = self._members(location, file, problems, texts, part or inside, raws)
        self._run(source_id, space_id, jobs)
        instead = self._instead(raws, problems)
        if instead:
            found = archive.chosen(Path(location), instead.values())
            self._run(source_id, space_id, _jobs(location, file, found, problems))
        if part is None:
            pictures = self._members_read
            heard = inside.heard(pictures, instead)
            self._told.members(source_id, space_id, file.path, heard, problems)
            if inside.left_out and pictures:
                problems.append(left_out(inside.left_out))
        else:
            part.flush()
            if part.left_out:
                problems.append(left_out(part.left_out))
        for drafts in texts.drafts(file.path, self._members_read, problems, instead):
            rows = self._texts.rows(source_id, space_id, drafts)
            self._writer.commit(space_id, texts=rows)
            self._report.carried += len(rows)
        again = self._to_be_tried_again > before or any(problem.closed for problem in problems)
        self._complain(source_id, space_id, file, problems, again=again)
        if not again:
            self._writer.finish_containers(source_id, space_id, [file])
        if part is not None:
            self._takeouts.of(source_id, file.path, space_id)

    def _complain(
        self,
        source_id: int,
        space_id: int,
        file: Pending,
        problems: Sequence[ScanProblem],
        *,
        again: bool,
    ) -> None:
        """Writes down what is wrong with an archive and its members. again: it is to be read again,
        so nothing that is wrong with it as a whole is for good."""
        self._writer.commit(
            space_id,
            failures=[
                FailureRow(
                    source_id,
                    file.path,
                    problem.path,
                    "",
                    file.size,
                    file.mtime_ns,
                    problem.reason,
                    transient=problem.closed or (again and not problem.path),
                )
                for problem in problems
            ],
        )
        self._report.failed += len(problems)

    def _members(
        self,
        location: str,
        file: Pending,
        problems: list[ScanProblem],
        texts: BesidePictures,
        inside: Inside | PartFiles,
        raws: list[str],
    ) -> Iterator[Job]:
        def pictures() -> Iterator[Member | ScanProblem]:
            for item in archive.contents(Path(location), text_bytes=MAX_LINE_BYTES):
                if isinstance(item, archive.Text):
                    if not inside.add(item):
                        texts.add(item)
                elif isinstance(item, archive.PassedOver):
                    raws.append(item.name)
                else:
                    yield item

        return _jobs(location, file, pictures(), problems)

    def _instead(self, raws: Sequence[str], problems: Sequence[ScanProblem]) -> dict[str, str]:
        """The pictures of an archive that cannot be used, and of each the raw file, passed over so
        far, that is read in its place."""
        good = Developed(self._members_read)
        refused = (problem.path for problem in problems if not problem.closed)
        bad = Developed([*self._members_bad, *refused])
        found: dict[str, str] = {}
        for name in raws:
            of = bad.of(name)
            if of is not None and good.of(name) is None:
                found.setdefault(of, name)
        return found

    def _run(self, source_id: int, space_id: int, jobs: Iterable[Job]) -> None:
        encoder = self._encoder()
        started = perf_counter()
        # The first batches are small where the best size is yet to be found.
        items = self._loader.load(jobs, lambda: _BATCHES_AHEAD * encoder.batch_size)
        try:
            with (
                closing(items),
                ModelThread[list[TextRow]](encoder, self._clock) as model,
            ):
                self._batches(source_id, space_id, items, model)
        finally:
            self._report.picture_seconds += perf_counter() - started

    def _batches(
        self,
        source_id: int,
        space_id: int,
        items: Iterable[Loaded],
        model: ModelThread[list[TextRow]],
    ) -> None:
        """Has a batch encoded while those before are written."""
        flying: deque[_Batch] = deque()
        for part in self._parts(items, model):
            flying.append(self._put(source_id, space_id, part, flying, model))
            done = _encoded(flying, len(flying) - _WITH_THE_MODEL)
            if _due(done):
                self._commit(source_id, space_id, [flying.popleft() for _ in done])
        model.finish()
        while flying:
            done = _encoded(flying, 1 + len(_encoded(flying, 0)))
            if _due(done) or len(done) == len(flying):
                self._commit(source_id, space_id, [flying.popleft() for _ in done])

    def _parts(
        self, items: Iterable[Loaded], model: ModelThread[list[TextRow]]
    ) -> Iterator[list[Loaded]]:
        """Lists with as many new pictures as the model wants at once; fewer where it has nothing to
        do, so that the last ones do not wait for a large batch to be filled and encoded."""
        waiting: list[Loaded] = []
        pixels = 0
        for loaded in items:
            waiting.append(loaded)
            pixels += loaded.pixels is not None
            size = self._encoder().batch_size
            enough = min(size, _FEW) if model.idle else size
            if pixels >= enough or len(waiting) >= size + _KNOWN_A_BATCH:
                yield waiting
                waiting, pixels = [], 0
        if waiting:
            yield waiting

    def _put(
        self,
        source_id: int,
        space_id: int,
        items: list[Loaded],
        before: Iterable[_Batch],
        model: ModelThread[list[TextRow]],
    ) -> _Batch:
        import numpy as np

        # A picture that is twice in the run is encoded once: a copy may be in this batch, or on its
        # way into the catalog with one before, or have come there since this one was decoded.
        new = {item.hash: item.pixels for item in items if item.pixels is not None}
        there = self._catalog.vectors.embedded(space_id, "image", list(new))
        flying = {digest for batch in before for digest in batch.hashes}
        for digest in [d for d in new if d in there or d in flying]:
            del new[digest]
        drafts: list[DraftText] = []
        heard: list[Heard] = []
        for item in items:
            job, info = item.job, item.info
            if info is None and item.content_id is not None:
                info = self._catalog.image_info(item.content_id)
            heard.append(heard_beside(job.location, job.beside if info is not None else ""))
            if info is not None:
                info = with_told(info, [heard[-1].told])
                drafts += embedded_texts(job.path, job.member, info)
        size = self._encoder().image_size
        pixels = np.stack(list(new.values())) if new else np.empty((0, 3, size, size), np.uint8)
        encoded = model.put(
            pixels, lambda: self._texts.rows(source_id, space_id, drafts), self._wrote
        )
        # The pixels are the batch's now: those of its items would be held until it is written.
        bare = [replace(item, pixels=None) for item in items]
        return _Batch(bare, heard, tuple(new), encoded, perf_counter())

    def _commit(self, source_id: int, space_id: int, batches: list[_Batch]) -> None:
        """Writes batches in one transaction; where the model fails, those before it, and raises."""
        vectors: dict[bytes, Vectors] = {}
        texts: list[TextRow] = []
        for number, batch in enumerate(batches):
            try:
                found, some = batch.encoded.result()
            except BaseException:
                if number:
                    self._commit(source_id, space_id, batches[:number])
                raise
            vectors |= zip(batch.hashes, found, strict=True)
            texts += some
        began = perf_counter()
        items = [item for batch in batches for item in batch.items]
        heard = [found for batch in batches for found in batch.heard]
        good = [
            (item, near) for item, near in zip(items, heard, strict=True) if item.reason is None
        ]
        failures = [
            FailureRow(
                source_id,
                item.job.path,
                item.job.member,
                "",
                item.size,
                item.mtime_ns,
                item.reason,
                item.transient,
            )
            for item in items
            if item.reason is not None
        ]
        for item, near in good:
            failures += faults_of(source_id, item.job.path, item.job.member, near)
        self._writer.commit(
            space_id,
            images=[
                ImageRow(
                    source_id=source_id,
                    path=item.job.path,
                    member=item.job.member,
                    size=item.size,
                    mtime_ns=item.mtime_ns,
                    hash=item.hash,
                    info=item.info,
                    vector=vectors.get(item.hash),
                    beside=item.job.beside if item.job.beside is not None and near.whole else "?",
                    told=told_json(near.told),
                )
                for item, near in good
            ],
            texts=texts,
            failures=failures,
            read=[
                (source_id, item.job.path, item.job.member) for item in items if not item.transient
            ],
        )
        self._wrote = began, perf_counter()
        self._clock.add([("write", *self._wrote)])
        self._members_read += [item.job.member for item, _ in good if item.job.member]
        self._members_bad += [
            item.job.member
            for item in items
            if item.reason is not None and not item.transient and item.job.member
        ]
        self._report.encoded_images += len(vectors)
        self._report.known += len(good) - len(vectors)
        self._report.carried += len(texts)
        self._report.failed += len(failures)
        self._to_be_tried_again += sum(failure.transient for failure in failures)
        self._progress.limited(self._report.failed, bottleneck(self._clock.seconds))
        self._progress.advanced(len(items))


def _jobs(
    location: str,
    file: Pending,
    found: Iterable[Member | ScanProblem],
    problems: list[ScanProblem],
) -> Iterator[Job]:
    """The members of an archive to prepare. problems: takes what else was found."""
    for item in found:
        if isinstance(item, Member):
            yield Job(file.path, location, item.name, item.size, file.mtime_ns, item.data)
        else:
            problems.append(item)


def _encoded(batches: Sequence[_Batch], at_least: int) -> list[_Batch]:
    """Those at the front that are encoded, or could not be; waits for so many."""
    wait([batch.encoded for batch in islice(batches, max(at_least, 0))])
    return list(takewhile(lambda batch: batch.encoded.done(), batches))


def _due(batches: list[_Batch]) -> bool:
    """Whether these are enough for a transaction, or have waited long enough, or the run is to end
    because the model failed."""
    if not batches:
        return False
    if any(batch.encoded.exception() is not None for batch in batches):
        return True
    late = perf_counter() - batches[0].put >= _WAIT_S
    return late or sum(len(batch.items) for batch in batches) >= _A_TRANSACTION
