"""`mmsearch export URL`: a library mirrored into a database, for programs that ask there.

What is there is compared with the library by the digests of rows, some at a time in order of their
ids, and what differs is written or deleted. So a run that was killed goes on by itself: what it has
sent is found to be there. Where the library has not changed since, nothing is compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from indexer.exchange.engines import engine_at
from indexer.report import Progress, Silence
from mmsearch.batches import batches
from mmsearch.errors import IndexMissingError, RefusedError
from mmsearch.mirror import Engine, Kind, Mirrored, MirroredPicture, MirroredText
from mmsearch.points import reached
from mmsearch.store.exchange import as_stored, hashes, sequence_numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmsearch.library import Library

_ROWS_A_LOOK = 2_000
_ROWS_A_BATCH = 250
_IDS_A_DELETE = 2_000
_LAST_ID = (1 << 63) - 1

Row = TypeVar("Row", MirroredPicture, MirroredText)


@dataclass(slots=True)
class MirrorReport:
    """What a run did.

    pictures, texts: that are mirrored, as far as the run came. sent, deleted: of both. unchanged:
    nothing had changed since the last run, and nothing was compared. old_model: that the mirror
    was of before.
    """

    where: str
    model: str
    pictures: int = 0
    texts: int = 0
    sent: int = 0
    deleted: int = 0
    unchanged: bool = False
    old_model: str | None = None
    seconds: float = 0.0
    stopped: bool = False


def mirror(
    library: Library,
    url: str,
    *,
    name: str = "mmsearch",
    gps: bool = False,
    replace_other: bool = False,
    progress: Progress | None = None,
) -> MirrorReport:
    """Makes the mirror of a library in a database what the library is now; see deploy/engines.md.

    name: of the schema (PostgreSQL), or before the names of the collections (Milvus). gps: with the
    places where pictures were taken. replace_other: all is built anew, also in the place of what
    mirrors another library.

    What is committed meanwhile may or may not be in it; the next run brings it. Ctrl-C ends the run
    after the batch in hand, with `stopped` set. Memory: some thousand rows, and 8 bytes a row.

    Raises:
        IndexMissingError: the library is empty.
        RefusedError: something else is there; nothing was changed.
        EngineError: the database cannot be reached, or does not do as it is told. What was sent is
            kept.
    """
    active = library.catalog.active_space()
    if active is None:
        raise IndexMissingError(f"the library at {library.path} is empty: nothing to export")
    started = monotonic()
    space_id, space = active
    wanted = Mirrored(
        model=space.name,
        dim=space.dim,
        fingerprint=space.fingerprint,
        preprocessing=space.preprocessing,
        origin=library.catalog.space_origin(space_id),
        revision=library.catalog.revision(),
        gps=gps,
    )
    with engine_at(url, name) as engine:
        report = MirrorReport(engine.where, space.name)
        there = engine.mirrored()
        if there is not None and not replace_other:
            _check_origin(library, engine, there)
        beside = there is None or replace_other or not there.fits(wanted)
        if there is not None:
            report.old_model = None if there.fits(wanted) else there.model
            # The name of a model may be another one for the same weights.
            report.unchanged = not beside and there == replace(wanted, model=there.model)
        run = _Run(library, engine, space_id, wanted, report, progress or Silence())
        report.pictures, report.texts = len(run.pictures), len(run.texts)
        if not report.unchanged:
            engine.begin(wanted, beside=beside)
            try:
                run.bring("pictures")
                run.bring("texts")
                reached("mirror: to be finished")
                engine.finish(wanted)
            except KeyboardInterrupt:
                report.stopped = True
    report.seconds = monotonic() - started
    return report


def _check_origin(library: Library, engine: Engine, there: Mirrored) -> None:
    """Raises RefusedError for the mirror of another library."""
    if there.origin not in library.catalog.origins().values():
        raise RefusedError(
            f"{engine.where} mirrors another library, or this one as it was before its model was "
            f"dropped ({there.model}). Give this mirror a name of its own with --name, or let it "
            "take the other's place with --replace"
        )


class _Run:
    """One run: what of a library should be in an engine, and how it gets there."""

    def __init__(
        self,
        library: Library,
        engine: Engine,
        space_id: int,
        wanted: Mirrored,
        report: MirrorReport,
        progress: Progress,
    ) -> None:
        self._catalog = library.catalog
        self._engine = engine
        self._space_id = space_id
        self._wanted = wanted
        self._report = report
        self._progress = progress
        self.pictures = self._catalog.vectors.visible(space_id, "image")
        self.texts = self._catalog.vectors.visible(space_id, "text")

    def bring(self, kind: Kind) -> None:
        """Writes what is not there as it should be, and deletes what should not be there."""
        ids = self.pictures if kind == "pictures" else self.texts
        self._progress.started(kind, len(ids))
        after = 0
        for start in range(0, len(ids), _ROWS_A_LOOK):
            part = ids[start : start + _ROWS_A_LOOK].tolist()
            self._bring(kind, part, after, part[-1])
            after = part[-1]
            self._progress.advanced(len(part))
        self._bring(kind, [], after, _LAST_ID)

    def _bring(self, kind: Kind, ids: Sequence[int], after: int, up_to: int) -> None:
        held = self._engine.held(kind, after, up_to)
        there: set[int]
        if kind == "pictures":
            pictures = self._pictures(ids) if ids else []
            self._write(
                [r for r in pictures if held.get(r.id) != r.digest], self._engine.put_pictures
            )
            there = {row.id for row in pictures}
        else:
            texts = self._texts(ids) if ids else []
            self._write([r for r in texts if held.get(r.id) != r.digest], self._engine.put_texts)
            there = {row.id for row in texts}
        for gone in batches(sorted(held.keys() - there), _IDS_A_DELETE):
            self._engine.delete(kind, gone)
            self._report.deleted += len(gone)
            reached("mirror: batch deleted")

    def _write(
        self,
        rows: Sequence[Row],
        put: Callable[[Sequence[Row], NDArray[np.float16]], None],
    ) -> None:
        for batch in batches(rows, _ROWS_A_BATCH):
            by_id = {row.id: row for row in batch}
            for ids, vectors in self._catalog.vectors.of(self._space_id, list(by_id)):
                put([by_id[id_] for id_ in ids.tolist()], vectors)
                self._report.sent += len(ids)
            reached("mirror: batch sent")

    def _pictures(self, ids: Sequence[int]) -> list[MirroredPicture]:
        """Those of these pictures that a file still holds."""
        catalog = self._catalog
        records = catalog.image_records(ids)
        digests = hashes(catalog, ids)
        linked = catalog.linked_texts(ids)
        bodies = catalog.linked_bodies(ids)
        tags = catalog.tags(ids)
        numbers = sequence_numbers(catalog, self._space_id, ids)
        named = np.array([text_id for found in linked.values() for text_id in found], np.int64)
        mirrored = set(named[np.isin(named, self.texts)].tolist())
        rows = []
        for id_ in ids:
            record = records.get(id_)
            if record is None or id_ not in digests or id_ not in numbers:
                continue  # it went just now
            info = record.info
            row = MirroredPicture(
                id=id_,
                path=as_stored(record.path),
                copies=tuple(map(as_stored, record.copies)),
                hash=digests[id_],
                bytes=record.bytes,
                format=info.format,
                width=info.width,
                height=info.height,
                taken_at=info.taken_at,
                camera=info.camera,
                title=info.title,
                description=info.description,
                keywords=info.keywords,
                tags=tuple(sorted(tag for tag, _ in tags.get(id_, ()))),
                caption=next(iter(bodies.get(id_, ())), None),
                latitude=info.latitude if self._wanted.gps else None,
                longitude=info.longitude if self._wanted.gps else None,
                text_ids=tuple(text_id for text_id in linked.get(id_, ()) if text_id in mirrored),
                digest="",
            )
            rows.append(replace(row, digest=self._digest(row, numbers[id_])))
        return rows

    def _texts(self, ids: Sequence[int]) -> list[MirroredText]:
        catalog = self._catalog
        records = catalog.text_records(ids)
        digests = hashes(catalog, ids)
        tags = catalog.tags(ids)
        numbers = sequence_numbers(catalog, self._space_id, ids)
        rows = []
        for id_ in ids:
            record = records.get(id_)
            if record is None or id_ not in digests or id_ not in numbers:
                continue
            row = MirroredText(
                id=id_,
                body=record.body,
                source=as_stored(record.source),
                hash=digests[id_],
                tags=tuple(sorted(tag for tag, _ in tags.get(id_, ()))),
                digest="",
            )
            rows.append(replace(row, digest=self._digest(row, numbers[id_])))
        return rows

    def _digest(self, row: MirroredPicture | MirroredText, seq: int) -> str:
        said = json.dumps([self._wanted.fingerprint, seq, asdict(row)], default=str)
        return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
