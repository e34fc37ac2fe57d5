"""`mmsearch import LIBRARY`: all that another library knows into this one, without reading a file.

So several machines index a part each, and one library holds it all: pictures, texts and their
links, what files beside pictures tell, archives, what could not be used, tags. A run over the same
folders afterwards finds them known.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from time import monotonic

from indexer.exchange.intake import ImportReport, check_space
from indexer.exchange.places import Home, takes_in
from indexer.report import Progress, Silence
from mmsearch.errors import IndexMissingError, RefusedError
from mmsearch.filenames import relative
from mmsearch.library import CATALOG_NAME, Library
from mmsearch.overview import SourcePlace
from mmsearch.points import reached
from mmsearch.store import Catalog, CatalogWriter
from mmsearch.store.joining import (
    containers_of,
    failures_of,
    held_as,
    images_of,
    parts_of,
    tags_by_hash,
    texts_of,
)
from mmsearch.store.lock import writing
from mmsearch.types import Modality, Space


def is_library(folder: Path) -> bool:
    """Whether this is a library, and no export of one."""
    return (folder / CATALOG_NAME).is_file()


def join(library: Path, other: Path, *, progress: Progress | None = None) -> ImportReport:
    """Takes what the library `other` knows into a library, which is made if need be.

    Files keep their absolute paths: where they lie elsewhere here, `mmsearch sources relocate`
    tells. What the other one holds of a place counts. Ctrl-C ends it after the batch in hand, with
    `stopped` set.

    Raises:
        IndexMissingError: the other one is empty.
        RefusedError: it is this one, or its vectors are another model's.
        LibraryLockedError, SchemaVersionError, StoreError: the library cannot be written, or the
            other one not be read.
    """
    if library.exists() and library.samefile(other):
        raise RefusedError(f"{other} is the library itself: name another one")
    started = monotonic()
    with closing(Catalog(other / CATALOG_NAME)) as theirs:
        active = theirs.active_space()
        if active is None:
            raise IndexMissingError(f"the library at {other} is empty: nothing to import")
        if is_library(library):
            with closing(Catalog(library / CATALOG_NAME)) as ours:
                check_space(library, ours, active[1])
        report = ImportReport(str(library), active[1].name)
        with (
            writing(library),
            closing(CatalogWriter(library / CATALOG_NAME)) as writer,
            closing(Catalog(library / CATALOG_NAME)) as ours,
        ):
            check_space(library, ours, active[1])
            run = _Join(theirs, active, ours, writer, report, progress or Silence())
            try:
                run.sources()
                run.tags()
            except KeyboardInterrupt:
                report.stopped = True
            report.linked = writer.link().linked
            with Library(library) as opened:
                opened.save_indexes()
    report.seconds = monotonic() - started
    return report


class _Join:
    """One library on its way into another."""

    def __init__(
        self,
        theirs: Catalog,
        active: tuple[int, Space],
        ours: Catalog,
        writer: CatalogWriter,
        report: ImportReport,
        progress: Progress,
    ) -> None:
        self._theirs = theirs
        self._their_space = active[0]
        self._ours = ours
        self._writer = writer
        self._report = report
        self._progress = progress
        # Its name may be that of a folder on another machine.
        self._space = writer.ensure_space(active[1], at_hand=False)

    def sources(self) -> None:
        for source in self._theirs.sources():
            # A source in one that reads its files would hold every file a second time.
            home = Home(source.location, source.kind)
            around = next(
                (
                    s
                    for s in self._ours.places()
                    if s.location != home.location and takes_in(s, home)
                ),
                None,
            )
            self._progress.started(source.location, source.images + source.texts)
            if around is None:
                to = self._writer.ensure_source(
                    source.location, source.kind, source.exclude, source.follow_links
                )
                self._source(source.id, to, "")
                if source.indexed_at is not None:
                    self._writer.finish_source(to, source.indexed_at)
            else:
                self._source(source.id, around.id, _prefix(around, home))

    def _source(self, source_id: int, to: int, prefix: str) -> None:
        writer, here = self._writer, (self._theirs, self._their_space, source_id)
        # What was read to its end is told so by the members and lines written since this.
        writer.scan.begin()
        containers = containers_of(*here, prefix)
        writer.begin_containers(to, [file.path for file in containers])
        for images in images_of(*here, to, prefix):
            known = held_as(self._ours, images)
            # Members are written all the same: those that are not are taken for gone at the end.
            new = [row for row, held in zip(images, known, strict=True) if row.member or not held]
            writer.commit(self._space, images=new)
            self._report.known += sum(known)
            self._report.pictures += len(images) - sum(known)
            self._progress.advanced(len(images))
            reached("join: pictures committed")
        before = self._ours.counts()["texts"]
        for texts in texts_of(*here, to, prefix):
            writer.commit(self._space, texts=texts)
            given = sum(row.origin != "embedded" for row in texts)
            self._report.known_texts += given
            self._progress.advanced(given)
        new_texts = self._ours.counts()["texts"] - before
        self._report.texts += new_texts
        self._report.known_texts -= new_texts
        part_ids: dict[str, int] = {}
        for path, files in parts_of(self._theirs, source_id, prefix):
            if path not in part_ids:
                part_ids[path] = writer.parts.begin(to, path)
            writer.parts.saw(part_ids[path], path, files)
        writer.commit(None, failures=failures_of(self._theirs, source_id, to, prefix))
        writer.finish_containers(to, self._space, containers)

    def tags(self) -> None:
        for modality, found in tags_by_hash(self._theirs):
            self._tags(modality, found)

    def _tags(
        self, modality: Modality, found: Mapping[bytes, list[tuple[str, float | None]]]
    ) -> None:
        ids = self._ours.vectors.embedded(self._space, modality, found)
        scored: dict[int, list[tuple[str, float]]] = {}
        by_hand: dict[str, list[int]] = {}
        for digest, id_ in ids.items():
            for name, score in found[digest]:
                if score is None:
                    by_hand.setdefault(name, []).append(id_)
                else:
                    scored.setdefault(id_, []).append((name, score))
        self._writer.tags.classified(scored, [])
        for name, tagged in by_hand.items():
            self._writer.tags.add(tagged, name)


def _prefix(around: SourcePlace, home: Home) -> str:
    """What paths of a source begin with in the one around it."""
    place = relative(home.location, around.location)
    folder = place if home.kind == "folder" else place.rpartition("/")[0]
    return f"{folder}/" if folder else ""
