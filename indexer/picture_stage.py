"""Pictures on their way into the catalog: load ahead, encode in batches, one transaction each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from indexer.load import Job, Loaded, Loader
from indexer.report import Progress, Report
from indexer.targets import Target
from indexer.text_stage import DraftText, TextEmbedder, embedded_texts
from mmsearch import archive
from mmsearch.archive import Member
from mmsearch.batches import batches
from mmsearch.errors import os_reason
from mmsearch.store import Catalog, CatalogWriter, FailureRow, ImageRow, Pending
from mmsearch.types import ScanProblem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encode import Encoder

#: Pictures decoded ahead of the model, in batches of the model.
_BATCHES_AHEAD = 3
#: Pictures a transaction while none of them needs the model (copies, moved files).
_KNOWN_A_BATCH = 256


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
    ) -> None:
        self._catalog = catalog
        self._writer = writer
        self._encoder = encoder
        self._texts = texts
        self._loader = loader
        self._report = report
        self._progress = progress

    def files(
        self, source_id: int, space_id: int, target: Target, files: Iterable[Pending]
    ) -> None:
        """Picture files, by name."""
        jobs = (Job(f.path, target.absolute(f.path), "", f.size, f.mtime_ns) for f in files)
        self._run(source_id, space_id, jobs)

    def archive(self, source_id: int, space_id: int, target: Target, file: Pending) -> None:
        """The pictures of an archive; marks it as read when that worked to the end."""
        try:
            with open(target.absolute(file.path), "rb"):  # noqa: PTH123
                pass
        except OSError as exc:
            # Not "read to its end": what it held stays, and the next run tries again.
            row = FailureRow(
                source_id,
                file.path,
                "",
                "",
                file.size,
                file.mtime_ns,
                os_reason(exc),
                transient=True,
            )
            self._writer.commit(space_id, failures=[row])
            self._report.failed += 1
            return
        self._writer.begin_containers(source_id, [file.path])
        problems: list[FailureRow] = []
        jobs = self._members(source_id, target, file, problems)
        self._run(source_id, space_id, jobs)
        self._report.failed += len(problems)
        self._writer.commit(space_id, failures=problems)
        self._writer.finish_containers(source_id, space_id, [file])

    def _members(
        self, source_id: int, target: Target, file: Pending, problems: list[FailureRow]
    ) -> Iterator[Job]:
        location = target.absolute(file.path)
        for member in archive.members(Path(location)):
            if isinstance(member, Member):
                yield Job(file.path, location, member.name, member.size, file.mtime_ns, member.data)
            else:
                problems.append(_problem(source_id, file, member))

    def _run(self, source_id: int, space_id: int, jobs: Iterable[Job]) -> None:
        size = self._encoder().batch_size
        started = perf_counter()
        try:
            self._batches(source_id, space_id, self._loader.load(jobs, _BATCHES_AHEAD * size))
        finally:
            self._report.picture_seconds += perf_counter() - started

    def _batches(self, source_id: int, space_id: int, items: Iterable[Loaded]) -> None:
        waiting: list[Loaded] = []
        pixels = 0
        for loaded in items:
            waiting.append(loaded)
            pixels += loaded.pixels is not None
            if pixels >= self._encoder().batch_size or len(waiting) >= _KNOWN_A_BATCH:
                self._commit(source_id, space_id, waiting)
                waiting, pixels = [], 0
        if waiting:
            self._commit(source_id, space_id, waiting)

    def _commit(self, source_id: int, space_id: int, items: Sequence[Loaded]) -> None:
        good = [item for item in items if item.reason is None]
        vectors = self._encode(space_id, good)
        drafts: list[DraftText] = []
        for item in good:
            info = item.info
            if info is None and item.content_id is not None:
                info = self._catalog.image_info(item.content_id)
            if info is not None:
                drafts += embedded_texts(item.job.path, item.job.member, info)
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
                )
                for item in good
            ],
            texts=self._texts.rows(source_id, space_id, drafts),
            failures=failures,
        )
        self._report.encoded_images += len(vectors)
        self._report.known += len(good) - len(vectors)
        self._report.carried += len(drafts)
        self._report.failed += len(failures)
        self._progress.advanced(len(items))

    def _encode(self, space_id: int, items: Sequence[Loaded]) -> dict[bytes, NDArray[np.float32]]:
        """Vectors by hash; a picture that is twice in the run is encoded once."""
        import numpy as np

        new = {item.hash: item.pixels for item in items if item.pixels is not None}
        # A copy may have been committed since this one was decoded.
        for digest in self._catalog.vectors.embedded(space_id, "image", list(new)):
            del new[digest]
        found: dict[bytes, NDArray[np.float32]] = {}
        for part in batches(new.items(), self._encoder().batch_size) if new else ():
            vectors = self._encoder().encode_images(np.stack([pixels for _, pixels in part]))
            found.update(zip((digest for digest, _ in part), vectors, strict=True))
        return found


def _problem(source_id: int, file: Pending, problem: ScanProblem) -> FailureRow:
    """A problem with a member, or, if it has no name of its own, with the archive."""
    name = problem.path if problem.path != file.path else ""
    return FailureRow(source_id, file.path, name, "", file.size, file.mtime_ns, problem.reason)
