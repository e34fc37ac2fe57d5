"""One library, opened for searching: wires catalog, vector indexes and encoder together."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from mmsearch.errors import IndexMissingError, NotFoundError, SpaceMismatchError
from mmsearch.index import manifest
from mmsearch.indexes import Indexes
from mmsearch.store import Catalog
from mmsearch.types import (
    MODALITIES,
    DecodeLimits,
    Failure,
    ImageHit,
    ImageRecord,
    LibraryStatus,
    Modality,
    SourceRecord,
    Space,
    TextHit,
    TextRecord,
)
from mmsearch.watchdog import Workers

if TYPE_CHECKING:
    from mmsearch.encode import Encoder, TextEncoder
    from mmsearch.index.flat import FlatIndex, Neighbours
    from mmsearch.types import Pixels, Vectors

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class QueryPicture:
    """A picture asked about, as far as it is prepared: `pixels` as Library.decode_picture left
    them, None while it is not decoded, or needs not be because the library knows its bytes."""

    data: bytes
    source: str
    content_id: int | None
    pixels: Pixels | None = None


#: A picture given by its path or by its encoded bytes (JPEG, PNG, ...), or prepared already.
ImageInput = str | Path | bytes | QueryPicture

CATALOG_NAME = "catalog.db"
INDEX_FOLDER = "index"
THUMBS_FOLDER = "thumbs"
#: Pictures of queries and thumbnails decoded at once, and how many may never come to an end.
_DECODERS = 8
_MAX_STUCK = 4


@dataclass(frozen=True, slots=True)
class _Query:
    """A question: vector (1, dim), its space, and the picture of the library asked about."""

    vector: Vectors
    space: Space
    image_id: int | None


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
            LibraryNotFoundError: there is no library there.
            SchemaVersionError: it was written by a newer mmsearch.
            StoreError: it cannot be read, or cannot be brought up to date now.
        """
        self.path = path
        self.catalog = Catalog(path / CATALOG_NAME, read_only=read_only)
        self._device = device
        self._limits = limits or DecodeLimits()
        self._decoders = Workers(
            _DECODERS, self._limits.max_seconds, name="mmsearch-decode", max_stuck=_MAX_STUCK
        )
        self._encode_lock = threading.RLock()
        self._encoder: Encoder | None = None
        self._text_encoder: TextEncoder | None = None
        self._index_lock = threading.RLock()
        self._indexes: Indexes | None = None
        self._active: tuple[int, Space] | None = None
        self._revision = -1

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
        """Lets go of the catalog and the indexes."""
        with self._index_lock:
            self._indexes = self._active = None
            self._revision = -1
        self.catalog.close()

    # --- model ----------------------------------------------------------------------------------

    @property
    def space(self) -> Space | None:
        """The space that queries are embedded in; None while nothing is indexed."""
        self.refresh()
        return None if self._active is None else self._active[1]

    def _need_space(self) -> tuple[int, Space]:
        self.refresh()
        if self._active is None:
            raise IndexMissingError(
                f"the library at {self.path} is empty. Fill it with: mmsearch index FOLDER"
            )
        return self._active

    def encoder(self) -> Encoder:
        """The model of the active space, images and texts. Loads torch on first use.

        Raises:
            ModelUnavailableError: its weights are not here.
            SpaceMismatchError: the weights are not those the library was indexed with.
        """
        _, space = self._need_space()
        with self._encode_lock:
            if self._encoder is None or self._encoder.space.fingerprint != space.fingerprint:
                from mmsearch.encode import load_encoder

                encoder = load_encoder(space.name, device=self._device)
                _same_space(encoder.space, space)
                self._encoder = encoder
            return self._encoder

    def _encode_text(self, text: str) -> Vectors:
        """(1, dim). Every interface takes this way, so that all give the same scores."""
        _, space = self._need_space()
        with self._encode_lock:
            loaded = self._encoder
            if loaded is not None and loaded.space == space and loaded.device != "cpu":
                return loaded.encode_texts([text])
            if self._text_encoder is None or self._text_encoder.space != space:
                from mmsearch.encode import load_text_encoder

                encoder = load_text_encoder(space.name, expected=space)
                _same_space(encoder.space, space)
                self._text_encoder = encoder
            return self._text_encoder.encode_texts([text])

    def _encode_image(self, image: ImageInput) -> tuple[Vectors, int | None]:
        """(1, dim), and the id of the picture if the library knows it (then nothing is encoded)."""
        space_id, _ = self._need_space()
        picture = image if isinstance(image, QueryPicture) else self.look_up(image)
        if picture.content_id is not None:
            vector = self.catalog.vectors.get(space_id, picture.content_id)
            if vector is not None:
                return vector, picture.content_id
        encoder = self.encoder()
        pixels = picture.pixels
        if pixels is None:
            pixels = self._decode(picture, self.picture_side())
        with self._encode_lock:
            return encoder.encode_images(encoder.preprocess(pixels)[None]), picture.content_id

    def look_up(self, image: str | Path | bytes) -> QueryPicture:
        """A picture to ask about, and whether the library knows its bytes. Needs no model.

        Raises DecodeError: its file cannot be read.
        """
        from mmsearch.files import read_file

        source = "the picture" if isinstance(image, bytes) else str(image)
        data = image if isinstance(image, bytes) else read_file(Path(image), self._limits)
        known = self.catalog.content_id("image", hashlib.sha256(data).digest())
        return QueryPicture(data, source, known)

    def picture_side(self) -> int:
        """The shorter side in pixels that a picture is decoded to for the model, which it loads."""
        return 2 * self.encoder().image_size

    def decode_picture(self, picture: QueryPicture, min_side: int) -> QueryPicture:
        """The same with its pixels: for who must not hold up the model's thread with decoding.

        min_side: see `picture_side`. Raises DecodeError; OverloadedError when too many pictures
        are stuck in decoding.
        """
        return replace(picture, pixels=self._decode(picture, min_side))

    def _decode(self, picture: QueryPicture, min_side: int) -> Pixels:
        from mmsearch.decode import decode

        source, limits = picture.source, self._limits
        return self._decoders.run(
            lambda: decode(picture.data, source=source, limits=limits, min_side=min_side).pixels,
            source,
        )

    def warm(self) -> None:
        """Loads the model and the indexes now, so that the first query does not wait for them."""
        if self.space is not None:
            # Before faiss: whichever of the two comes first brings the OpenMP runtime, and torch
            # suffers more from the other one's.
            self.encoder()
            self._encode_text("warm")
            for modality in MODALITIES:
                self.index(modality)

    # --- index ----------------------------------------------------------------------------------

    def index(self, modality: Modality) -> FlatIndex:
        """The index of one modality in the active space, up to date with the catalog."""
        self._need_space()
        with self._index_lock:
            assert self._indexes is not None
            device = self._encoder.device if self._encoder is not None else "cpu"
            return self._indexes.get(modality, device=device)

    def refresh(self) -> bool:
        """Takes in what was committed since the last look; True when there was something."""
        revision = self.catalog.revision()
        if revision == self._revision:
            if self._indexes is not None and self._indexes.waiting:
                with self._index_lock:
                    self._indexes.take_merged()
            return False
        with self._index_lock:
            active = self.catalog.active_space()
            if active != self._active or (self._indexes and self._indexes.disowned()):
                folder = self.path / INDEX_FOLDER
                self._indexes = active and Indexes(folder, self.catalog, *active)
                self._active = active
            if self._indexes is not None:
                self._indexes.refresh()
            self._revision = revision
        return True

    def save_indexes(self) -> None:
        """Writes the index files, where enough is new to be worth it. Only for the writer."""
        self.refresh()
        with self._index_lock:
            if self._indexes is not None:
                self._indexes.save()

    # --- search ---------------------------------------------------------------------------------

    def search(
        self,
        query: str | None = None,
        *,
        image: ImageInput | None = None,
        k: int = 10,
        offset: int = 0,
    ) -> list[ImageHit]:
        """The pictures that answer best to words, to a picture, or to both together.

        Raises:
            QueryError: nothing is asked, or k or offset make no sense.
            IndexMissingError: the library is empty.
            DecodeError: `image` is not a picture.
        """
        return self._answer(lambda: self._search_images(self._query(query, image), k, offset))

    def search_texts(
        self,
        query: str | None = None,
        *,
        image: ImageInput | None = None,
        k: int = 10,
        offset: int = 0,
    ) -> list[TextHit]:
        """The texts that answer best, those written for `image` marked. Errors as in `search`."""
        return self._answer(lambda: self._search_texts(self._query(query, image), k, offset))

    def captions(self, image: ImageInput, *, k: int = 5) -> list[TextHit]:
        """The texts of the library that describe a picture best; it need not be indexed."""
        return self.search_texts(image=image, k=k)

    def captions_of(self, image_id: int, *, k: int = 5) -> list[TextHit]:
        """The same for an indexed picture. Raises NotFoundError for an unknown id."""
        return self._answer(lambda: self._search_texts(self._stored(image_id), k, 0))

    def similar(self, image_id: int, *, k: int = 10, offset: int = 0) -> list[ImageHit]:
        """The pictures most like an indexed one, without itself. Raises NotFoundError."""
        return self._answer(
            lambda: self._search_images(self._stored(image_id), k, offset, without=image_id)
        )

    def _answer(self, ask: Callable[[], T]) -> T:
        """What `ask` finds; asked again where searches moved to another space meanwhile."""
        while True:
            active = self._need_space()
            try:
                return ask()
            except (SpaceMismatchError, NotFoundError):
                if self._need_space() == active:
                    raise

    def _query(self, words: str | None, image: ImageInput | None) -> _Query:
        from mmsearch.search import combine

        while True:
            active = self._need_space()
            parts: list[Vectors] = []
            image_id = None
            if image is not None:
                vector, image_id = self._encode_image(image)
                parts.append(vector)
            if words and words.strip():
                parts.append(self._encode_text(words.strip()))
            # Another process may have moved the library to another model meanwhile.
            if self._active == active:
                return _Query(combine(parts), active[1], image_id)

    def _stored(self, image_id: int) -> _Query:
        space_id, space = self._need_space()
        self.catalog.locations(image_id)
        vector = self.catalog.vectors.get(space_id, image_id)
        if vector is None:
            raise NotFoundError("image", image_id)
        return _Query(vector, space, image_id)

    def _nearest(
        self, modality: Modality, query: _Query, k: int, offset: int, without: int = -1
    ) -> Neighbours:
        from mmsearch.search import nearest

        with self._index_lock:
            index = self.index(modality)
            _same_space(query.space, index.space)
            return nearest(index, query.vector, k, offset, without=without)

    def _search_images(
        self, query: _Query, k: int, offset: int, *, without: int = -1
    ) -> list[ImageHit]:
        from mmsearch.search import image_hits

        return image_hits(self.catalog, self._nearest("image", query, k, offset, without))

    def _search_texts(self, query: _Query, k: int, offset: int) -> list[TextHit]:
        from mmsearch.search import text_hits

        found = self._nearest("text", query, k, offset)
        return text_hits(self.catalog, found, image_id=query.image_id)

    # --- items ----------------------------------------------------------------------------------

    def image(self, image_id: int) -> ImageRecord:
        """What the library knows of a picture. Raises NotFoundError."""
        record = self.catalog.image_records([image_id]).get(image_id)
        if record is None:
            raise NotFoundError("image", image_id)
        return record

    def image_captions(self, image_id: int) -> list[TextRecord]:
        """The texts written for a picture. Raises NotFoundError."""
        self.image(image_id)
        ids = self.catalog.linked_texts([image_id]).get(image_id, [])
        records = self.catalog.text_records(ids)
        return [records[id_] for id_ in ids if id_ in records]

    def read_image(self, image_id: int) -> bytes:
        """The bytes of the picture's file, out of its archive if it lies in one.

        Raises:
            NotFoundError: the library has no such picture.
            DecodeError: no file that held it can be read any more.
        """
        from mmsearch.files import read_first

        return read_first(self.catalog.locations(image_id), self._limits)

    def thumbnail(self, image_id: int, max_side: int = 512) -> bytes:
        """A small WebP of the picture, upright, without metadata; made once, then kept.

        `max_side` is rounded up to 256, 512 or 1024 pixels. Errors as in `read_image`.
        """
        from mmsearch.files import Thumbnails, read_first

        places = self.catalog.locations(image_id)
        digest = self.catalog.content_hash(image_id)
        if digest is None:
            raise NotFoundError("image", image_id)
        thumbnails = Thumbnails(self.path / THUMBS_FOLDER, self._limits, self._decoders)
        return thumbnails.get(digest, max_side, lambda: read_first(places, self._limits))

    # --- overview -------------------------------------------------------------------------------

    def status(self) -> LibraryStatus:
        """Counts, spaces and indexes. Needs neither the model nor FAISS."""
        spaces = self.catalog.spaces()
        active = next((s for s in spaces if s.active), None)
        return LibraryStatus(
            path=str(self.path),
            **self.catalog.counts(),
            bytes=_bytes_in(self.path),
            spaces=tuple(spaces),
            index=()
            if active is None
            else (
                manifest.status("image", active.images, active.space.dim),
                manifest.status("text", active.texts, active.space.dim),
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


def _same_space(found: Space, expected: Space) -> None:
    if found.fingerprint != expected.fingerprint:
        raise SpaceMismatchError(
            f"{found.name} with weights {found.fingerprint[:12]}",
            f"{expected.name} with weights {expected.fingerprint[:12]}",
        )
