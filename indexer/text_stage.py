"""Texts on their way into the catalog: caption files, sidecars, what pictures say themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.clock import Clock
from indexer.report import Progress, Report
from indexer.sources import Described
from indexer.targets import Target
from indexer.texts import BadText, TextItem, body_of_sidecar, read_sidecar, read_texts
from mmsearch import archive
from mmsearch.batches import batches
from mmsearch.errors import DecodeError
from mmsearch.overview import ScanProblem
from mmsearch.plaintext import clean, counted, in_utf8
from mmsearch.store import Catalog, CatalogWriter, FailureRow, Pending, TextRow
from mmsearch.types import PictureInfo

if TYPE_CHECKING:
    from mmsearch.encode import TextEncoder
    from mmsearch.types import Vectors

_SIDECARS_A_BATCH = 512
#: Texts a transaction. Larger ones let the encoder sort by length to more effect.
TEXTS_A_BATCH = 512
#: Memory that the texts of one archive may take until all of it is read, and what each takes
#: besides its bytes.
_MAX_BESIDE = 256 << 20
_EACH = 400


@dataclass(frozen=True, slots=True)
class DraftText:
    """A text without its vector yet; the fields are those of TextRow."""

    path: str
    key: str
    origin: str
    body: str
    image_ref: str | None
    member: str = ""


def embedded_texts(path: str, member: str, info: PictureInfo) -> list[DraftText]:
    """The texts a picture carries: title, description, keywords; each once."""
    bodies = {
        "title": info.title,
        "description": info.description,
        "keywords": ", ".join(info.keywords),
    }
    drafts: dict[str, DraftText] = {}
    for key, body in bodies.items():
        text = clean(body) if body else ""
        if text:
            drafts.setdefault(text, DraftText(path, key, "embedded", text, member or path, member))
    return list(drafts.values())


class TextEmbedder:
    """Gives drafts their vectors; what the space has already is not encoded again."""

    def __init__(self, catalog: Catalog, encoder: Callable[[], TextEncoder]) -> None:
        self._catalog = catalog
        self._encoder = encoder
        self._flying: set[bytes] = set()
        self.encoded = 0

    def rows(self, source_id: int, space_id: int, drafts: Sequence[DraftText]) -> list[TextRow]:
        """A row for each draft, in order. Those of some calls before may not be written yet."""
        if not drafts:
            return []
        digests = [hashlib.sha256(d.body.encode()).digest() for d in drafts]
        known = self._catalog.vectors.embedded(space_id, "text", {*digests, *self._flying})
        new = {
            digest: draft.body
            for digest, draft in zip(digests, drafts, strict=True)
            if digest not in known and digest not in self._flying
        }
        self._flying = {*self._flying, *new} - set(known)
        vectors: dict[bytes, Vectors] = {}
        if new:
            found = self._encoder().encode_texts(list(new.values()))
            vectors = dict(zip(new, found, strict=True))
            self.encoded += len(new)
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
                # One vector a content: the first row that needs it brings it.
                vector=vectors.pop(digest, None),
            )
            for digest, draft in zip(digests, drafts, strict=True)
        ]


class BesidePictures:
    """The .txt files of one archive, until it is known which pictures they lie beside.

    They belong to those pictures, as what these say of themselves does: the archive is one file,
    which comes and goes as a whole.
    """

    def __init__(self) -> None:
        self._texts: list[archive.Text] = []
        self._bytes = self._too_many = 0

    def add(self, text: archive.Text) -> None:
        """Keeps a text, as long as there is room."""
        self._bytes += len(text.data) + _EACH
        if self._bytes > _MAX_BESIDE:
            self._too_many += 1
        else:
            self._texts.append(text)

    def drafts(
        self,
        path: str,
        pictures: Sequence[str],
        problems: list[ScanProblem],
        instead: Mapping[str, str],
    ) -> Iterator[list[DraftText]]:
        """The texts that describe one of the pictures that were read, in batches.

        path: of the archive. problems: takes what is wrong with such texts. instead: members that
        cannot be used, and the raw file that was read in place of each.
        """
        described = Described(sorted(pictures), instead) if self._texts else Described(())
        for part in batches(self._texts, TEXTS_A_BATCH):
            found = []
            for text in part:
                picture = described.by(text.name)
                if picture is None:
                    continue
                try:
                    if text.problem:
                        raise DecodeError(text.name, text.problem)
                    body = body_of_sidecar(text.data, text.name)
                except DecodeError as exc:
                    problems.append(ScanProblem(text.name, exc.reason))
                else:
                    key = in_utf8(text.name.rpartition("/")[2])  # a picture may have two
                    found.append(DraftText(path, key, "embedded", body, picture, picture))
            if found:
                yield found
        if self._too_many and pictures:
            reason = f"{counted(self._too_many, 'text')} in it left out: more than can be kept"
            problems.append(ScanProblem("", reason))


def caption_batches(
    source_id: int, file: Pending, location: Path
) -> Iterator[tuple[list[DraftText], list[FailureRow]]]:
    """The texts of a caption file, and the lines that are none, in batches.

    Raises:
        DecodeError: the file as a whole cannot be read.
    """
    for part in batches(read_texts(location), TEXTS_A_BATCH):
        good = [item for item in part if isinstance(item, TextItem)]
        bad = [item for item in part if isinstance(item, BadText)]
        yield (
            [DraftText(file.path, t.key, "file", t.body, t.image) for t in good],
            [
                FailureRow(source_id, file.path, "", b.key, file.size, file.mtime_ns, b.reason)
                for b in bad
            ],
        )


def unreadable(source_id: int, file: Pending, error: DecodeError) -> FailureRow:
    """A text file that cannot be used; one that the system does not give is tried again."""
    return FailureRow(
        source_id,
        file.path,
        "",
        "",
        file.size,
        file.mtime_ns,
        error.reason,
        transient=isinstance(error.__cause__, OSError),
    )


def sidecar(source_id: int, file: Pending, location: Path) -> DraftText | FailureRow | None:
    """The text of a sidecar; None when it is empty."""
    try:
        body = read_sidecar(location)
    except DecodeError as exc:
        return unreadable(source_id, file, exc)
    picture = (file.of or "").rpartition("/")[2]
    return DraftText(file.path, "sidecar", "sidecar", body, picture) if body else None


class TextStage:
    """Writes the caption files and sidecars of one source into one space."""

    def __init__(
        self,
        writer: CatalogWriter,
        texts: TextEmbedder,
        report: Report,
        progress: Progress,
        clock: Clock,
    ) -> None:
        self._writer = writer
        self._texts = texts
        self._report = report
        self._progress = progress
        self._clock = clock

    @property
    def encoded(self) -> int:
        """Texts that went through the model."""
        return self._texts.encoded

    def captions(self, source_id: int, space_id: int, target: Target, file: Pending) -> None:
        """A file of texts."""
        self._writer.begin_containers(source_id, [file.path])
        location = Path(target.absolute(file.path))
        try:
            for drafts, failures in caption_batches(source_id, file, location):
                self._write(source_id, space_id, drafts, failures)
        except DecodeError as exc:
            self._write(source_id, space_id, [], [unreadable(source_id, file, exc)])
            return
        self._writer.finish_containers(source_id, space_id, [file])

    def sidecars(
        self, source_id: int, space_id: int, target: Target, files: Iterable[Pending]
    ) -> None:
        """Files with a text each, about a picture each."""
        for part in batches(files, _SIDECARS_A_BATCH):
            self._writer.begin_containers(source_id, [f.path for f in part])
            read = [sidecar(source_id, f, Path(target.absolute(f.path))) for f in part]
            failures = [r for r in read if isinstance(r, FailureRow)]
            failed = {f.path for f in failures}
            drafts = [r for r in read if isinstance(r, DraftText)]
            self._write(source_id, space_id, drafts, failures)
            done = [f for f in part if f.path not in failed]
            self._writer.finish_containers(source_id, space_id, done)

    def _write(
        self,
        source_id: int,
        space_id: int,
        drafts: Sequence[DraftText],
        failures: Sequence[FailureRow],
    ) -> None:
        with self._clock.span("encode texts"):
            rows = self._texts.rows(source_id, space_id, drafts)
        with self._clock.span("write"):
            self._writer.commit(space_id, texts=rows, failures=failures)
        self._report.texts += len(rows)
        self._report.failed += len(failures)
        self._progress.advanced(len(rows) + len(failures))
