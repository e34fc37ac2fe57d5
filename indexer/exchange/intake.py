"""Rows of embeddings on their way into the catalog: texts of a table, pictures of their folders."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.clock import Laps
from indexer.exchange.layout import Found, Shard, read_columns
from indexer.exchange.places import Home, Place, Places
from indexer.exchange.vectors import Checked, checked
from indexer.load import Loader
from indexer.prepare import DECODING, Job, Loaded, Read, Seen, Stage
from indexer.report import Progress
from indexer.text_stage import embedded_texts
from indexer.texts.items import BadText, TextItem, items_of
from mmsearch import archive
from mmsearch.decode import read_info
from mmsearch.errors import DecodeError, RefusedError, os_reason
from mmsearch.filenames import real
from mmsearch.filetimes import modified_ns
from mmsearch.store import Catalog, CatalogWriter, ImageRow, Pending, TextRow
from mmsearch.store.exchange import as_named, known_files, was_read
from mmsearch.types import DecodeLimits, Space

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_ROWS_A_BATCH = 256
_AHEAD = 64
_NAMED = 1000
"""What was skipped is named one by one up to here."""


@dataclass(slots=True)
class ImportReport:
    """The outcome of an import.

    pictures: files written down; known: those that the library had already with a vector. texts:
    rows of texts written down; linked: of all texts, those that found their picture now. skipped:
    rows that could not be used, of which `reasons` names the first. rescaled: vectors that were not
    of unit norm and were made so. cosines: of the sample that was encoded anew, with --verify.
    """

    library: str
    model: str
    pictures: int = 0
    known: int = 0
    texts: int = 0
    known_texts: int = 0
    linked: int = 0
    skipped: int = 0
    reasons: list[tuple[str, str]] = field(default_factory=list)
    rescaled: int = 0
    cosines: list[float] = field(default_factory=list)
    seconds: float = 0.0
    stopped: bool = False

    def skip(self, what: str, reason: str) -> None:
        self.skipped += 1
        if len(self.reasons) < _NAMED:
            self.reasons.append((what, reason))


def check_space(library: Path, catalog: Catalog, space: Space) -> None:
    """Raises RefusedError for a library that is searched with another model than `space`."""
    active = catalog.active_space()
    if active is not None and active[1].fingerprint != space.fingerprint:
        raise RefusedError(
            f"these are vectors of {space.name} ({space.fingerprint[:12]}), and the library at "
            f"{library} is searched with {active[1].name} ({active[1].fingerprint[:12]}). Import "
            "them into a library of their own (-l NEW), or let the library read the pictures "
            "themselves: mmsearch index FOLDER"
        )


class _HeaderLoader(Loader):
    """Reads and hashes files; of a picture only what its header says, no pixels."""

    def __init__(self, known: Callable[[bytes], int | None], limits: DecodeLimits) -> None:
        super().__init__(_no_encoder, known, limits=limits)

    def _look_at(self, got: Read, stage: Stage, laps: Laps) -> Seen:
        stage(DECODING)
        return read_info(got.data, source=got.job.path, limits=self._limits), None


def _no_encoder() -> Any:
    raise AssertionError("nothing is encoded here")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A picture on its way: where it is, its vector, and the hash it should have, if that is
    known."""

    text: str
    place: Place
    vector: NDArray[np.float32]
    hash: str | None


class Intake:
    """One import into an opened library."""

    def __init__(
        self,
        catalog: Catalog,
        writer: CatalogWriter,
        space: Space,
        places: Places,
        limits: DecodeLimits,
        report: ImportReport,
        progress: Progress,
    ) -> None:
        self._catalog = catalog
        self._writer = writer
        self._places = places
        self._limits = limits
        self._report = report
        self._progress = progress
        # Its name may be that of a folder on another machine.
        self._space_id = writer.ensure_space(space, at_hand=False)
        self._sources: dict[Home, int] = {}
        self._loader = _HeaderLoader(self._known_image, limits)
        writer.scan.begin()

    def take(self, found: Found) -> None:
        for shard in found.texts:
            self._texts(shard)
        for shard in found.pictures:
            self._progress.started(f"pictures of {shard.metadata.name}", shard.rows)
            self._pictures(shard)

    def _known_image(self, digest: bytes) -> int | None:
        return self._catalog.vectors.embedded(self._space_id, "image", [digest]).get(digest)

    def _source(self, home: Home) -> int:
        if home not in self._sources:
            known = next((s for s in self._catalog.places() if s.location == home.location), None)
            self._sources[home] = (
                known.id
                if known is not None
                else self._writer.ensure_source(home.location, home.kind, (), False)
            )
        return self._sources[home]

    # --- texts ----------------------------------------------------------------------------------

    def _texts(self, shard: Shard) -> None:
        """A table of texts, as the file of captions that it is."""
        assert shard.text_emb is not None
        table = shard.metadata.resolve()
        stat = table.stat()
        source_id = self._source(Home(real(table), "file"))
        known = was_read(
            self._catalog, self._space_id, source_id, table.name, stat.st_size, modified_ns(stat)
        )
        if known:
            self._report.known_texts += shard.rows
            return
        self._progress.started(f"texts of {table.name}", shard.rows)
        self._writer.begin_containers(source_id, [table.name])
        matrix = shard.matrix(shard.text_emb)
        for start, columns in read_columns(shard, ["caption", "image_path"], _ROWS_A_BATCH):
            part = checked(matrix[start : start + len(columns["caption"])])
            rows = list(self._text_rows(source_id, table.name, start, columns, part))
            self._writer.commit(self._space_id, texts=rows)
            self._report.texts += len(rows)
            self._progress.advanced(len(columns["caption"]))
        pending = Pending(table.name, "texts", stat.st_size, modified_ns(stat), None)
        self._writer.finish_containers(source_id, self._space_id, [pending])

    def _text_rows(
        self, source_id: int, table: str, start: int, columns: _Columns, part: Checked
    ) -> Iterator[TextRow]:
        found: list[tuple[TextItem, NDArray[np.float32]]] = []
        for number, (body, named) in enumerate(
            zip(columns["caption"], columns["image_path"], strict=True)
        ):
            if not body:
                continue
            key = str(start + number)
            reason = part.bad.get(number)
            for item in items_of(key, body, named):
                if isinstance(item, BadText) or reason is not None:
                    said = item.reason if isinstance(item, BadText) else reason
                    self._report.skip(f"{table}:{key}", said or "")
                else:
                    self._report.rescaled += number in part.rescaled
                    found.append((item, part.vectors[number]))
        digests = [hashlib.sha256(item.body.encode()).digest() for item, _ in found]
        have = set(self._catalog.vectors.embedded(self._space_id, "text", digests))
        for (item, vector), digest in zip(found, digests, strict=True):
            place = None if item.image is None else self._places.find(item.image)
            yield TextRow(
                source_id=source_id,
                path=table,
                member="",
                key=item.key,
                origin="file",
                body=item.body,
                hash=digest,
                image_ref=_reference(item.image, place),
                vector=None if digest in have else vector,
            )
            have.add(digest)

    # --- pictures -------------------------------------------------------------------------------

    def _pictures(self, shard: Shard) -> None:
        flying: deque[_Wanted] = deque()

        def jobs() -> Iterator[Job]:
            for wanted in self._wanted(shard):
                place = wanted.place
                data = None
                if place.member:
                    try:
                        data = archive.read_member(Path(place.location), place.member)
                    except DecodeError as exc:
                        self._report.skip(wanted.text, exc.reason)
                        continue
                flying.append(wanted)
                mtime_ns = modified_ns(os.stat(place.location)) if place.member else 0  # noqa: PTH116
                yield Job(
                    place.path, place.location, place.member, len(data or b""), mtime_ns, data
                )

        waiting: list[tuple[_Wanted, Loaded]] = []
        for loaded in self._loader.load(jobs(), _AHEAD):
            wanted = flying.popleft()
            if loaded.reason is not None:
                self._report.skip(wanted.text, loaded.reason)
            elif wanted.hash is not None and loaded.hash.hex() != wanted.hash:
                self._report.skip(
                    wanted.text, "the file has changed since; mmsearch index reads it"
                )
            else:
                waiting.append((wanted, loaded))
            if len(waiting) >= _ROWS_A_BATCH:
                self._commit(waiting)
                waiting = []
        self._commit(waiting)

    def _wanted(self, shard: Shard) -> Iterator[_Wanted]:
        """The pictures of a shard that are there, and that the library does not have as they
        are."""
        assert shard.img_emb is not None
        matrix = shard.matrix(shard.img_emb)
        names = ["image_path", "hash", "copies"]
        for start, columns in read_columns(shard, names, _ROWS_A_BATCH):
            rows = len(columns["image_path"])
            part = checked(matrix[start : start + rows])
            found: list[_Wanted] = []
            for number in range(rows):
                text = columns["image_path"][number]
                if not isinstance(text, str) or not text:
                    self._report.skip(f"{shard.metadata.name}:{start + number}", "no image_path")
                    continue
                if number in part.bad:
                    self._report.skip(text, part.bad[number])
                    continue
                self._report.rescaled += number in part.rescaled
                expected = columns["hash"][number]
                for one in (text, *(columns["copies"][number] or ())):
                    place = self._places.find(one)
                    if place is not None:
                        found.append(_Wanted(one, place, part.vectors[number], expected))
                    elif one == text:
                        self._report.skip(one, "not found; --images DIR says where pictures are")
            yield from self._new(found)
            self._progress.advanced(rows)

    def _new(self, found: Sequence[_Wanted]) -> Iterator[_Wanted]:
        by_source: dict[int, list[str]] = {}
        for wanted in found:
            by_source.setdefault(self._source(wanted.place.home), []).append(wanted.place.path)
        known = {
            source_id: known_files(self._catalog, self._space_id, source_id, paths)
            for source_id, paths in by_source.items()
        }
        for wanted in found:
            place = wanted.place
            have = known[self._source(place.home)].get(place.path)
            try:
                stat = os.stat(place.location)  # noqa: PTH116 -- names with surrogates
            except OSError as exc:
                self._report.skip(wanted.text, os_reason(exc))
                continue
            if not place.member and have == (stat.st_size, modified_ns(stat)):
                self._report.known += 1
            else:
                yield wanted

    def _commit(self, items: Sequence[tuple[_Wanted, Loaded]]) -> None:
        """One transaction for the pictures of each source."""
        by_source: dict[int, list[tuple[_Wanted, Loaded]]] = {}
        for item in items:
            by_source.setdefault(self._source(item[0].place.home), []).append(item)
        for source_id, mine in by_source.items():
            images = [
                ImageRow(
                    source_id=source_id,
                    path=loaded.job.path,
                    member=loaded.job.member,
                    size=loaded.size,
                    mtime_ns=loaded.mtime_ns,
                    hash=loaded.hash,
                    info=loaded.info,
                    vector=None if loaded.content_id is not None else wanted.vector,
                )
                for wanted, loaded in mine
            ]
            self._writer.commit(
                self._space_id, images=images, texts=self._carried(source_id, images, mine)
            )
        self._report.pictures += len(items)

    def _carried(
        self, source_id: int, images: Sequence[ImageRow], items: Sequence[tuple[_Wanted, Loaded]]
    ) -> list[TextRow]:
        """What these pictures say of themselves, as far as its vectors are there already."""
        drafts = []
        for image, (_, loaded) in zip(images, items, strict=True):
            info = image.info
            if info is None and loaded.content_id is not None:
                info = self._catalog.image_info(loaded.content_id)
            if info is not None:
                drafts += embedded_texts(image.path, image.member, info)
        digests = [hashlib.sha256(draft.body.encode()).digest() for draft in drafts]
        have = self._catalog.vectors.embedded(self._space_id, "text", set(digests))
        return [
            TextRow(
                source_id=source_id,
                path=draft.path,
                member=draft.member,
                key=draft.key,
                origin=draft.origin,
                body=draft.body,
                hash=digest,
                image_ref=draft.image_ref,
                vector=None,
            )
            for draft, digest in zip(drafts, digests, strict=True)
            if digest in have
        ]


def _reference(named: str | None, place: Place | None) -> str | None:
    """How a text names its picture: where that is now, or as it was written."""
    if place is not None:
        return archive.member_path(place.location, place.member) if place.member else place.location
    return None if named is None else as_named(named)


#: Name of a column → its values.
_Columns = Mapping[str, Sequence[Any]]
