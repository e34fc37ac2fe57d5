"""What files beside known pictures tell of them, on its way into the catalog."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from indexer import beside
from indexer.beside import Heard
from indexer.report import Report
from indexer.targets import Target
from indexer.text_stage import DraftText, TextEmbedder, embedded_texts
from mmsearch.batches import batches
from mmsearch.overview import ScanProblem
from mmsearch.plaintext import in_utf8
from mmsearch.store import Catalog, CatalogWriter, FailureRow, TextRow, ToldRow
from mmsearch.told import Told, told_json, with_told

#: Known pictures a transaction whose files beside them are others.
TOLD_A_BATCH = 512


@dataclass(frozen=True, slots=True)
class Telling:
    """What files tell of a known picture. note: which they are (`image.beside`). counted: its texts
    were counted in this run already."""

    content_id: int
    source_id: int
    path: str
    member: str
    note: str
    told: Told
    counted: bool = False


class ToldStage:
    """Writes what files beside known pictures tell, where that is something else by now."""

    def __init__(
        self, catalog: Catalog, writer: CatalogWriter, texts: TextEmbedder, report: Report
    ) -> None:
        self._catalog = catalog
        self._writer = writer
        self._texts = texts
        self._report = report

    def files_beside(self, source_id: int, space_id: int, target: Target) -> None:
        """Of the pictures in folders."""
        known = self._writer.scan.other_beside(source_id, space_id)
        for part in batches(known, TOLD_A_BATCH):
            heard = [heard_beside(target.absolute(f.path), f.beside) for _, f in part]
            faults = [
                fault
                for (_, file), found in zip(part, heard, strict=True)
                for fault in faults_of(source_id, file.path, "", found)
            ]
            # Where one could not be read, what is known stays, and the next run tries again.
            told = [
                Telling(content_id, source_id, file.path, "", file.beside or "", found.told)
                for (content_id, file), found in zip(part, heard, strict=True)
                if found.whole
            ]
            self.write(space_id, told, faults, [(source_id, file.path, "") for _, file in part])
            self._report.told += len(told)
            self._report.failed += len(faults)

    def members(
        self,
        source_id: int,
        space_id: int,
        path: str,
        members: Iterable[tuple[str, Heard]],
        problems: list[ScanProblem],
    ) -> None:
        """What files inside an archive tell of the pictures of it that were read."""
        contents: dict[str, int] = {}
        for part in batches(members, TOLD_A_BATCH):
            contents = contents or self._catalog.members(source_id, path)
            told = [
                Telling(
                    contents[member], source_id, path, member, beside.NONE, heard.told, counted=True
                )
                for member, heard in part
                if heard.told and member in contents
            ]
            self.write(space_id, told)
            for _, heard in part:
                problems += [ScanProblem(f.file.name, f.reason) for f in heard.faults]

    def write(
        self,
        space_id: int,
        pictures: Sequence[Telling],
        faults: Sequence[FailureRow] = (),
        read: Sequence[tuple[int, str, str]] = (),
    ) -> None:
        """read: the places whose faults of before are forgotten."""
        own = self._catalog.image_infos([picture.content_id for picture in pictures])
        again = 0  # texts that were counted before
        told: list[ToldRow] = []
        drafts: defaultdict[int, list[DraftText]] = defaultdict(list)
        for each in pictures:
            told.append(
                ToldRow(each.source_id, each.path, each.member, each.note, told_json(each.told))
            )
            if each.content_id in own:  # else the doctor has something to mend
                itself = own[each.content_id]
                drafts[each.source_id] += embedded_texts(
                    each.path, each.member, with_told(itself, [each.told])
                )
                if each.counted:
                    again += len(embedded_texts(each.path, each.member, itself))
        rows: list[TextRow] = []
        for source_id, some in drafts.items():
            rows += self._texts.rows(source_id, space_id, some)
        self._writer.commit(space_id, texts=rows, failures=faults, told=told, read=read)
        self._report.carried += len(rows) - again


def heard_beside(location: str, note: str | None) -> Heard:
    """What was noted beside the picture file at an absolute path tells."""
    folder, _, name = location.rpartition("/")
    return beside.read(folder, name, note)


def faults_of(source_id: int, path: str, member: str, heard: Heard) -> list[FailureRow]:
    """What is wrong with files beside a picture, as complaints about the picture's place."""
    return [
        FailureRow(
            source_id,
            path,
            member,
            in_utf8(fault.file.name),
            fault.file.size,
            fault.file.mtime_ns,
            fault.reason,
            fault.transient,
        )
        for fault in heard.faults
    ]


def left_out(count: int) -> ScanProblem:
    """The complaint about an archive with too many files of that kind."""
    what = f"{count:,} files about pictures"
    return ScanProblem("", f"{what} in it are left out: more than can be kept")
