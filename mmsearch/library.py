"""One library, opened for searching: wires catalog, vector indexes and encoder together."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from mmsearch import devices, filters
from mmsearch.answering import Answering, expansion
from mmsearch.errors import EncodeError, MmsearchError, NotFoundError
from mmsearch.index import measured
from mmsearch.opened import Opened
from mmsearch.overview import (
    Failure,
    LibraryStatus,
    SourceRecord,
    SpaceStatus,
)
from mmsearch.query import ImageInput, QueryPicture, Question, Term, picture_id, several
from mmsearch.queryencoder import Kept, QueryEncoder
from mmsearch.store import Catalog
from mmsearch.types import (
    MODALITIES,
    Answer,
    DecodeLimits,
    ImageHit,
    ImageRecord,
    Modality,
    Space,
    TextHit,
    TextRecord,
)
from mmsearch.watchdog import Workers

if TYPE_CHECKING:
    from mmsearch.encode import Encoder, TextEncoder
    from mmsearch.files import FileInPieces, Original
    from mmsearch.filters import Facets, Filter
    from mmsearch.index.flat import FlatIndex
    from mmsearch.store.catalog import FileLocation
    from mmsearch.store.shrink import Room
    from mmsearch.types import Vectors


CATALOG_NAME = "catalog.db"
INDEX_FOLDER = "index"
THUMBS_FOLDER = "thumbs"
#: What was sent over HTTP to be kept; the one place where originals lie in a library.
UPLOADS_FOLDER = "uploads"
#: Pictures of queries and thumbnails decoded at once, and how many may never come to an end.
_DECODERS = 8
_MAX_STUCK = 4


class Options(TypedDict, total=False):
    """The fields of Question that a search may name; see there."""

    where: Filter | str | None
    min_score: float | None
    min_relevance: float
    words: bool
    expand: bool
    exact: bool
    diversity: float
    group: bool


class Library:
    """A library opened for reading. Thread-safe; notices what other processes commit.

    The encoder loads at the first query that needs it, the indexes at the first search.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        limits: DecodeLimits | None = None,
        read_only: bool | None = None,
    ) -> None:
        """Opens the library folder `path`; one of an older mmsearch is brought up to date first.

        read_only: write nothing into the folder; None finds out whether that must be so.

        Raises:
            EncodeError: `device` names none.
            LibraryNotFoundError: there is no library there.
            SchemaVersionError: it was written by a newer mmsearch.
            StoreError: it cannot be read, or cannot be brought up to date now.
        """
        try:
            devices.check(device, several=True)  # as MMSEARCH_DEVICE may name them for indexing
        except ValueError as exc:
            raise EncodeError(str(exc)) from exc
        self.path = path
        self.catalog = Catalog(path / CATALOG_NAME, read_only=read_only)
        self._limits = limits or DecodeLimits()
        self._decoders = Workers(
            _DECODERS, self._limits.max_seconds, name="mmsearch-decode", max_stuck=_MAX_STUCK
        )
        self._encoding = QueryEncoder(self.catalog, device, self._limits, self._decoders)
        self._opened = Opened(path, path / INDEX_FOLDER, self.catalog, self._encoding)
        self._answering = Answering(self.catalog, self._encoding, self._opened)
        # What was counted at a revision.
        self._counted: tuple[int, dict[str, int], tuple[SpaceStatus, ...], Room] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the catalog and the indexes; what is asked afterwards raises StoreError."""
        self._opened.close()
        self.catalog.close()

    # --- model ----------------------------------------------------------------------------------

    @property
    def space(self) -> Space | None:
        """The space that queries are embedded in; None while nothing is indexed."""
        active = self._opened.active
        return None if active is None else active[1]

    @property
    def known_space(self) -> Space | None:
        """The same as the catalog was last taken in: never waits."""
        active = self._opened.known
        return None if active is None else active[1]

    @property
    def model(self) -> str | None:
        """The name of that space's model; None while nothing is indexed."""
        space = self.known_space or self.space
        return None if space is None else space.name

    @property
    def loaded_device(self) -> str:
        """Where the model runs; "cpu" while it is not loaded."""
        return self._encoding.loaded_device

    def index_sizes(self) -> dict[Modality, dict[str, int]]:
        """Vectors of each index that is open: found, hidden, and not in its file yet (unsaved)."""
        return self._opened.sizes()

    def text_encoder(self) -> TextEncoder:
        """What encodes texts as questions are encoded. Raises what `encoder` raises."""
        return self._encoding.for_texts(self._opened.need()[1])

    def encoder(self) -> Encoder:
        """The model of the active space, images and texts. Loads torch on first use.

        Raises:
            ModelUnavailableError: its weights are not here.
            SpaceMismatchError: the weights are not those the library was indexed with.
        """
        return self._encoding.whole(self._opened.need()[1])

    def look_up(self, image: str | Path | bytes) -> QueryPicture:
        """A picture to ask about, and whether the library knows its bytes. Needs no model.

        Raises DecodeError: its file cannot be read.
        """
        return self._encoding.look_up(image)

    def picture_side(self) -> int:
        """The shorter side in pixels that a picture is decoded to for the model, which it loads."""
        return 2 * self.encoder().image_size

    def decode_picture(self, picture: QueryPicture, min_side: int) -> QueryPicture:
        """The same with its pixels: for who must not hold up the model's thread with decoding.

        min_side: see `picture_side`. Raises DecodeError; OverloadedError when too many pictures
        are stuck in decoding.
        """
        return self._encoding.prepared(picture, min_side)

    def warm(self, *, texts_only: bool = False) -> None:
        """Loads the model and the indexes now, so that the first query does not wait for them.

        texts_only: of the model, what encodes the texts of questions.
        """
        if self.space is not None:
            # Before faiss: whichever of the two comes first brings the OpenMP runtime, and torch
            # suffers more from the other one's.
            if texts_only:
                self.hasten()
            else:
                self.encoder()
            space = self._opened.need()[1]
            self._encoding.texts(space, ["warm"])
            for modality in MODALITIES:
                self.index(modality)
            self._opened.captions(space)

    def hasten(self) -> None:
        """Loads what encodes texts by the quickest means: for a process that encodes many."""
        self._encoding.hasten(self._opened.need()[1])

    # --- for who encodes the questions of many together ------------------------------------------

    def kept_only(self) -> AbstractContextManager[None]:
        """Within, in this thread, searches run no model.

        They raise NotKeptError, which says what must be encoded first.
        """
        return self._encoding.kept_only()

    def sentences(self, question: Question) -> list[str]:
        """The texts whose vectors a question needs."""
        return self._encoding.sentences(question.terms, expansion(question))

    def lacking(self, question: Question) -> tuple[list[str], int]:
        """The sentences of a question whose vectors are not kept, and how many it has in all.

        A guess that waits for nothing: the space that searches use may have changed.
        """
        active = self._opened.known
        sentences = self.sentences(question)
        if active is None:
            return [], len(sentences)
        return self._encoding.lacking(active[1], sentences), len(sentences)

    def keep_texts(self, texts: Sequence[str]) -> None:
        """Encodes texts together, as far as their vectors are not kept, and keeps those."""
        self._encoding.texts(self._opened.need()[1], texts)

    def keeps(self, picture: QueryPicture) -> bool:
        """Whether a picture to ask about need not be decoded: its vector is kept."""
        active = self._opened.known
        return active is not None and self._encoding.keeps(active[1], picture)

    def keep_pictures(self, pictures: Sequence[QueryPicture]) -> None:
        """The same as `keep_texts` for pictures."""
        self._encoding.images(self._opened.need()[1], pictures)

    def embed_texts(self, texts: Sequence[str]) -> tuple[Space, Vectors]:
        """The space, and (n, dim): the vectors of texts as they are, not put into sentences.

        Raises QueryError: `texts` is one text.
        """
        texts = several(texts, "texts")
        space = self._opened.need()[1]
        return space, self._encoding.texts(space, texts)

    def embed_pictures(self, pictures: Sequence[ImageInput]) -> tuple[Space, Vectors]:
        """The same of pictures. Raises DecodeError."""
        pictures = several(pictures, "pictures")
        space_id, space = self._opened.need()
        return space, self._encoding.pictures(space_id, space, pictures)

    def kept_texts(self, texts: Sequence[str]) -> Kept:
        """The vectors that are kept of these texts: for another process's `keep`."""
        active = self._opened.known
        return Kept("", {}) if active is None else self._encoding.kept_texts(active[1], texts)

    def keep(self, kept: Kept) -> None:
        """Keeps vectors that another process made of texts."""
        self._encoding.keep(kept)

    @property
    def kept(self) -> int:
        """How many vectors of questions are kept."""
        return self._encoding.kept

    # --- index ----------------------------------------------------------------------------------

    def index(self, modality: Modality) -> FlatIndex:
        """The index of one modality in the active space, up to date with the catalog."""
        self._opened.need()
        return self._opened.index(modality)

    def refresh(self) -> bool:
        """Takes in what was committed since the last look; True when there was something."""
        return self._opened.refresh()

    def save_indexes(self) -> None:
        """Writes the index files, where enough is new to be worth it. Only for the writer."""
        self._opened.save()

    def save_background(self, encoder: Encoder) -> None:
        """Writes what relevance is told by, unless it is there, so that no search has to wait.

        encoder: a model at hand; nothing is done when it is not that of the active space.
        """
        self._opened.save_captions(encoder)

    # --- search ---------------------------------------------------------------------------------

    def ask(self, question: Question) -> Answer[ImageHit]:
        """The pictures that answer a question.

        Raises:
            QueryError: it makes no sense. NotFoundError: it names an unknown picture.
            IndexMissingError: the library is empty.
            DecodeError: what it gives as a picture is none.
        """
        return _only(self.ask_many("image", [question]))

    def ask_texts(self, question: Question) -> Answer[TextHit]:
        """The texts that answer a question, those written for a picture it names marked.

        Errors as in `ask`.
        """
        return _only(self.ask_many("text", [question]))

    def search(
        self,
        query: str | None = None,
        *,
        image: ImageInput | None = None,
        k: int = 10,
        offset: int = 0,
        **options: Unpack[Options],
    ) -> list[ImageHit]:
        """The pictures that answer best to words, to a picture, or to both together.

        query: words as they are; parts with weights and signs are for `ask`. options: fields of
        Question; `where` may be written as text. Errors as in `ask`.
        """
        terms = _terms(query, image)
        return list(self.ask(_question(terms, k, offset, options)).hits)

    def search_texts(
        self,
        query: str | None = None,
        *,
        image: ImageInput | None = None,
        k: int = 10,
        offset: int = 0,
        **options: Unpack[Options],
    ) -> list[TextHit]:
        """The texts that answer best, those written for `image` marked. See `search`."""
        terms = _terms(query, image)
        return list(self.ask_texts(_question(terms, k, offset, options)).hits)

    def captions(self, image: ImageInput, *, k: int = 5, exact: bool = False) -> list[TextHit]:
        """The texts of the library that describe a picture best; it need not be indexed."""
        return self.search_texts(image=image, k=k, exact=exact)

    def captions_of(self, image_id: int, *, k: int = 5, exact: bool = False) -> list[TextHit]:
        """The same for an indexed picture. Raises NotFoundError for an unknown id."""
        terms = (Term(image_id=picture_id(image_id)),)
        return list(self.ask_texts(Question(terms, k=k, exact=exact)).hits)

    def cosines(self, image_id: int, text_ids: Sequence[int]) -> dict[int, float]:
        """How like an indexed picture those of these texts are that have a vector.

        Returns:
            Text id → cosine, from -1 to 1. Raises NotFoundError: the picture has no vector.
        """
        space_id, _ = self._opened.need()
        picture = self.catalog.vectors.get(space_id, image_id)
        if picture is None:
            raise NotFoundError("image", image_id)
        return {
            id_: max(-1.0, min(1.0, cosine))
            for ids, vectors in self.catalog.vectors.of(space_id, text_ids)
            for id_, cosine in zip(ids.tolist(), (vectors @ picture[0]).tolist(), strict=True)
        }

    def similar(
        self, image_id: int, *, k: int = 10, offset: int = 0, exact: bool = False
    ) -> list[ImageHit]:
        """The pictures most like an indexed one, without itself. Raises NotFoundError."""
        terms = (Term(image_id=picture_id(image_id)),)
        return list(self.ask(Question(terms, k=k, offset=offset, exact=exact)).hits)

    def ask_many(
        self, modality: Modality, questions: Sequence[Question]
    ) -> list[Answer[Any] | MmsearchError]:
        """What `ask`, or `ask_texts`, says to each of these, or why it cannot.

        Less work than one by one: the vectors are compared with all of them at once, and records
        looked up for all. Each answer is the same to the bit.
        """
        return self._answering.answers(modality, questions)

    def facets(self, where: Filter | str | None = None) -> Facets:
        """What the pictures have in common that satisfy a condition, counted.

        Raises:
            QueryError: the condition makes no sense. UnknownNameError: it names no source.
        """
        condition = filters.parse(where) if isinstance(where, str) else where
        if condition is None:
            return self.catalog.facets()
        return self.catalog.facets(self.catalog.select(condition, "image"))

    # --- items ----------------------------------------------------------------------------------

    def image(self, image_id: int) -> ImageRecord:
        """What the library knows of a picture. Raises NotFoundError."""
        image_id = picture_id(image_id)
        record = self.catalog.image_records([image_id]).get(image_id)
        if record is None:
            raise NotFoundError("image", image_id)
        return record

    def image_captions(self, image_id: int) -> list[TextRecord]:
        """The texts written for a picture. Raises NotFoundError."""
        image_id = self.image(image_id).id
        ids = self.catalog.linked_texts([image_id]).get(image_id, [])
        records = self.catalog.text_records(ids)
        return [records[id_] for id_ in ids if id_ in records]

    def read_image(self, image_id: int) -> bytes:
        """The bytes of the picture's file, out of its archive if it lies in one.

        Raises:
            NotFoundError: the library has no such picture.
            DecodeError: no file that held it can be read any more.
        """
        return self.original(image_id).data

    def original(self, image_id: int) -> Original:
        """The same, and whether the file still is the one that was indexed."""
        from mmsearch.files import read_first

        places, digest = self._file_of(image_id)
        return read_first(places, self._limits, digest)

    def original_in_pieces(self, image_id: int) -> FileInPieces:
        """The same, without all of it in memory. Raises NotFoundError, DecodeError."""
        from mmsearch.files import find_first

        places, digest = self._file_of(image_id)
        return find_first(places, self._limits, digest)

    def thumbnail(self, image_id: int, max_side: int = 512) -> bytes:
        """A small WebP of the picture, upright, without metadata; made once, then kept.

        `max_side` is rounded up to 256, 512 or 1024 pixels. Errors as in `read_image`.
        """
        return self.small(image_id, max_side).data

    def small(self, image_id: int, max_side: int) -> Original:
        """The same, and whether it is of the file that was indexed."""
        from mmsearch.files import Thumbnails, read_first

        places, digest = self._file_of(image_id)
        thumbnails = Thumbnails(self.path / THUMBS_FOLDER, self._limits, self._decoders)
        return thumbnails.get(digest, max_side, lambda: read_first(places, self._limits, digest))

    def _file_of(self, image_id: int) -> tuple[list[FileLocation], str]:
        """Where a picture should lie, and its hash. Raises NotFoundError."""
        image_id = picture_id(image_id)
        places = self.catalog.locations(image_id)
        digest = self.catalog.content_hash(image_id)
        if digest is None:
            raise NotFoundError("image", image_id)
        return places, digest

    # --- overview -------------------------------------------------------------------------------

    def status(self) -> LibraryStatus:
        """Counts, spaces and indexes. Needs neither the model nor FAISS."""
        # Counting reads all rows, and services are asked every few seconds.
        revision = self.catalog.revision()
        if self._counted is None or self._counted[0] != revision:
            self._counted = (
                revision,
                self.catalog.counts(),
                tuple(self.catalog.spaces()),
                self.catalog.room(),
            )
        _, counts, spaces, room = self._counted
        counts = counts | {"failed": self.catalog.failed()}
        folder = self.path / INDEX_FOLDER
        return LibraryStatus(
            path=str(self.path),
            **counts,
            bytes=_bytes_in(self.path),
            free=room.free if room.is_worth_it else 0,
            spaces=spaces,
            index=tuple(
                measured.status(folder, item.space, modality, vectors)
                for item in spaces
                if item.active
                for modality, vectors in zip(MODALITIES, (item.images, item.texts), strict=True)
            ),
        )

    def failures(self) -> list[Failure]:
        """Every input that could not be used, and why."""
        return self.catalog.failures()

    def sources(self) -> list[SourceRecord]:
        """The folders and files that the library was filled from."""
        return self.catalog.sources()


def _bytes_in(library: Path) -> int:
    """Bytes of the catalog and the indexes; files come and go while a writer is at work."""
    total = 0
    for file in (*library.glob(f"{CATALOG_NAME}*"), *(library / INDEX_FOLDER).glob("*")):
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total


def _terms(query: str | None, image: ImageInput | None) -> tuple[Term, ...]:
    terms = [] if image is None else [Term(image=image)]
    if query and query.strip():
        terms.append(Term(text=query))
    return tuple(terms)


def _only(answers: Sequence[Answer[Any] | MmsearchError]) -> Answer[Any]:
    (answer,) = answers
    if isinstance(answer, MmsearchError):
        raise answer
    return answer


def _question(terms: tuple[Term, ...], k: int, offset: int, options: Mapping[str, Any]) -> Question:
    where = options.get("where")
    if isinstance(where, str):
        options = {**options, "where": filters.parse(where)}
    return Question(terms, k=k, offset=offset, **options)
