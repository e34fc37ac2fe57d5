"""Google's Takeouts in several archives: what files in any part tell of the pictures in all.

What such files tell is kept as the parts are read (`mmsearch.store.parts`), and then told to the
pictures by names alone, so that no part is opened again because another one came, changed or went.
What is known in the end is what a folder into which all were unpacked would give.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from time import perf_counter

from indexer.beside import parts
from indexer.beside.inside import split
from indexer.beside.names import beside, is_beside, tell_of
from indexer.beside.notes import Seen, noted
from indexer.beside.said import said_of
from indexer.report import Report
from indexer.sources import kind_of
from indexer.told_stage import TOLD_A_BATCH, Telling, ToldStage
from mmsearch import archive
from mmsearch.batches import batches
from mmsearch.raw import Developed
from mmsearch.store import CatalogWriter, FailureRow, TakeoutFile
from mmsearch.store.parts import Part, PartFile, PartPicture
from mmsearch.told import joined

#: Files about pictures a transaction.
_FILES_A_BATCH = 512
#: Bytes that are kept of what the files in one part tell: real ones tell some 200 each.
_MAX_BYTES = 512 << 20
#: The share of a run that telling after each part may take; after the last one all is told.
_SHARE = 0.05


class PartFiles:
    """The files about pictures in a part that is being read, on their way into the catalog."""

    def __init__(self, writer: CatalogWriter, source_id: int, path: str) -> None:
        self._writer = writer
        self._path = path
        self._id = writer.parts.begin(source_id, path)
        self._waiting: list[TakeoutFile] = []
        self._bytes = 0
        self.left_out = 0  # for want of room

    def add(self, file: archive.Text) -> bool:
        """Takes a file. False: it is none of this kind."""
        if not is_beside(file.name):
            return False
        found = parts.about_pictures(file)
        if found is not None:
            self._bytes += len(found.said or "")
            if self._bytes > _MAX_BYTES:
                self.left_out += 1
            else:
                self._waiting.append(found)
        if len(self._waiting) >= _FILES_A_BATCH:
            self.flush()
        return True

    def flush(self) -> None:
        """Writes down what was taken."""
        if self._waiting:
            self._writer.parts.saw(self._id, self._path, self._waiting)
            self._waiting = []


class TakeoutStage:
    """Tells the pictures of exports what files in any of their parts tell."""

    def __init__(self, writer: CatalogWriter, told: ToldStage, report: Report) -> None:
        self._writer = writer
        self._told = told
        self._report = report
        self._read: set[tuple[int, str]] = set()  # the parts read in this run
        self._next = 0.0  # when to tell after a part again, by `perf_counter`

    def begin(self, source_id: int, path: str) -> PartFiles:
        """For a part that is about to be read."""
        self._read.add((source_id, path))
        return PartFiles(self._writer, source_id, path)

    def all(self, space_id: int) -> None:
        """The exports of which a part came, changed or went since this was done."""
        for export in parts.exports(self._writer.parts.there()):
            if not parts.are_told(export):
                self._tell(export, space_id)

    def of(self, source_id: int, path: str, space_id: int) -> None:
        """The export of a part that was read; left to `all` where that was done just now."""
        began = perf_counter()
        if began < self._next:
            return
        for export in parts.exports(self._writer.parts.there()):
            if any((part.source_id, part.path) == (source_id, path) for part in export):
                self._tell(export, space_id)
        self._next = perf_counter() + (perf_counter() - began) / _SHARE

    def _tell(self, export: Sequence[Part], space_id: int) -> None:
        bad: defaultdict[str, list[str]] = defaultdict(list)
        for member in self._writer.parts.failed(export):
            folder, name = split(member)
            if kind_of(name) == "image":
                bad[folder].append(name)
        faults: dict[tuple[int, str], FailureRow] = {}
        whole = True
        for folder in self._writer.parts.folders(export):
            whole &= self._folder(export, folder, bad[folder], space_id, faults)
        # Where a picture has no vector for this space yet, the next run looks at all of it again.
        told_with = parts.as_told_with(export) if whole else None
        new = self._writer.parts.finish(export, list(faults.values()), told_with)
        self._report.failed += new

    def _folder(
        self,
        export: Sequence[Part],
        folder: str,
        bad: Sequence[str],
        space_id: int,
        faults: dict[tuple[int, str], FailureRow],
    ) -> bool:
        """Tells the pictures of one folder. bad: those that could not be used. faults: takes the
        files that could not. Returns whether all pictures have a vector for the space."""
        # Of two parts with the same file the later one counts, as it does when unpacking.
        order = {part.id: number for number, part in enumerate(export)}
        found = sorted(self._writer.parts.files(export, folder), key=lambda f: order[f.part_id])
        files = {file.name: file for file in found}
        pictures = self._writer.parts.pictures(export, folder, space_id)
        names = {split(picture.member)[1] for picture in pictures}.union(bad)
        told = beside(sorted(names), files)
        broken = Developed(bad)
        for name in names:
            if (of := broken.of(name)) is not None:  # a raw file that was read in its place
                tell_of(told, name, of)
        whole, others = True, []
        for picture in pictures:
            about = [files[name] for name in told.get(split(picture.member)[1], ())]
            for file in about:
                if file.problem is not None:
                    part = export[order[file.part_id]]
                    faults[part.id, folder + file.name] = _fault(part, folder, file)
            note = noted(Seen(file.name, file.size, file.mark) for file in about)
            if note == picture.note:
                continue
            if picture.has_vector:
                others.append((picture, note, about))
            else:
                whole = False
        for some in batches(others, TOLD_A_BATCH):
            self._write(export, folder, some, space_id)
        return whole

    def _write(
        self,
        export: Sequence[Part],
        folder: str,
        pictures: Sequence[tuple[PartPicture, str, list[PartFile]]],
        space_id: int,
    ) -> None:
        names = sorted({file.name for _, _, files in pictures for file in files})
        said: Mapping[tuple[int, str], str | None] = self._writer.parts.said(export, folder, names)
        rows = []
        for picture, note, files in pictures:
            texts = (said.get((file.part_id, file.name)) for file in files)
            name = split(picture.member)[1]
            counted = (picture.source_id, picture.path) in self._read
            rows.append(
                Telling(
                    picture.content_id,
                    picture.source_id,
                    picture.path,
                    picture.member,
                    note,
                    joined([said_of(text).of(name) for text in texts if text is not None]),
                    counted,
                )
            )
            self._report.told += not counted
        self._told.write(space_id, rows)


def _fault(part: Part, folder: str, file: PartFile) -> FailureRow:
    return FailureRow(
        part.source_id,
        part.path,
        folder + file.name,
        "",
        part.size or 0,
        part.mtime_ns or 0,
        file.problem or "",
    )
