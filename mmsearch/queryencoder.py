"""From the parts of a question to one query vector: loads the model, decodes, adds up."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmsearch.errors import MmsearchError, NotFoundError, QueryError, SpaceMismatchError
from mmsearch.query import ImageInput, QueryPicture, Term
from mmsearch.recent import Recent
from mmsearch.types import MODALITIES, DecodeLimits, Modality, Space
from mmsearch.watchdog import Workers

if TYPE_CHECKING:
    from mmsearch.encode import Encoder, TextEncoder
    from mmsearch.encode.crowd import Threads
    from mmsearch.store import Catalog
    from mmsearch.types import Pixels, Vectors

#: Vectors of texts and of pictures that are kept: 4,000 of 768 dimensions take 12 MB.
_KEPT_TEXTS = 4000
_KEPT_IMAGES = 1000
#: The length of a sum of unit vectors below which its direction is rounding.
_CANCELLED = 1e-3


class NotKeptError(MmsearchError):
    """A question needs the model, in a thread that must not run it; see `QueryEncoder.kept_only`.

    texts, pictures: what would have to be encoded.
    """

    def __init__(self, texts: Sequence[str] = (), pictures: Sequence[QueryPicture] = ()) -> None:
        super().__init__("this has to be encoded first")
        self.texts = tuple(texts)
        self.pictures = tuple(pictures)


@dataclass(frozen=True, slots=True)
class QueryPart:
    """What of a question is looked for in one modality: the sum of its vectors, (1, dim), unit
    norm, and that of their weights."""

    modality: Modality
    weight: float
    vector: Vectors


@dataclass(frozen=True, slots=True)
class QueryVector:
    """A question as a vector, (1, dim) float32, unit norm.

    about: the pictures of the library that are looked for. parts: what is looked for, without what
    is to be avoided, by modality; vectors given as such are of none.
    """

    vector: Vectors
    about: frozenset[int]
    parts: tuple[QueryPart, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """Vectors (1, dim) of texts, in the space of this fingerprint."""

    fingerprint: str
    vectors: dict[str, Vectors]


class QueryEncoder:
    """The models of a library's spaces, loaded when a query first needs them. Thread-safe.

    Vectors of the last questions are kept, by space and text or by the bytes of a picture.
    """

    def __init__(
        self, catalog: Catalog, device: str, limits: DecodeLimits, decoders: Workers
    ) -> None:
        self._catalog = catalog
        self._device = device
        self._limits = limits
        self._decoders = decoders
        self._lock = threading.RLock()
        self._encoder: Encoder | None = None
        self._text_encoder: TextEncoder | None = None
        self._kept_texts: Recent[tuple[str, str], Vectors] = Recent(_KEPT_TEXTS)
        self._kept_images: Recent[tuple[str, bytes], Vectors] = Recent(_KEPT_IMAGES)
        self._here = threading.local()
        self._picture_threads: Threads | None = None

    @property
    def loaded_device(self) -> str:
        """Where the whole model runs; "cpu" while it is not loaded."""
        return self._encoder.device if self._encoder is not None else "cpu"

    def whole(self, space: Space) -> Encoder:
        """The model of a space, images and texts. Loads torch on first use.

        Raises:
            ModelUnavailableError: its weights are not here.
            SpaceMismatchError: the weights are not those the library was indexed with.
        """
        with self._lock:
            if self._encoder is None or self._encoder.space.fingerprint != space.fingerprint:
                from mmsearch.encode import load_encoder

                encoder = load_encoder(space.name, device=self._device)
                same_space(encoder.space, space)
                self._encoder = encoder
            return self._encoder

    @contextmanager
    def kept_only(self) -> Iterator[None]:
        """Within, in this thread, no model runs: NotKeptError is raised instead."""
        before = self._may_encode
        self._here.may_encode = False
        try:
            yield
        finally:
            self._here.may_encode = before

    @property
    def _may_encode(self) -> bool:
        return getattr(self._here, "may_encode", True)

    @property
    def kept(self) -> int:
        """How many vectors are kept."""
        return len(self._kept_texts) + len(self._kept_images)

    def lacking(self, space: Space, texts: Sequence[str]) -> list[str]:
        """Those of these texts whose vectors are not kept. Never waits for a model."""
        return [
            text
            for text in dict.fromkeys(texts)
            if (space.fingerprint, text) not in self._kept_texts
        ]

    def kept_texts(self, space: Space, texts: Sequence[str]) -> Kept:
        """The vectors that are kept of these texts."""
        found = {text: self._kept_texts.get((space.fingerprint, text)) for text in texts}
        return Kept(space.fingerprint, {t: v for t, v in found.items() if v is not None})

    def keep(self, kept: Kept) -> None:
        """Keeps vectors that another process made."""
        for text, vector in kept.vectors.items():
            self._kept_texts.put((kept.fingerprint, text), vector)

    def texts(self, space: Space, texts: Sequence[str]) -> Vectors:
        """(n, dim). Every interface takes this way.

        The same up to rounding: that depends on what is encoded together, and in half precision
        (`for_texts`) cosines differ by some 0.0003 from the exact ones.
        """
        keys = [(space.fingerprint, text) for text in texts]
        found = {key: self._kept_texts.get(key) for key in keys}
        new = [key for key, vector in found.items() if vector is None]
        if new:
            if not self._may_encode:
                raise NotKeptError(texts=[text for _, text in new])
            with self._lock:
                vectors = self._for_texts(space).encode_texts([text for _, text in new])
            for key, vector in zip(new, vectors, strict=True):
                # A copy: a row of its own, so that one vector does not keep its whole batch.
                found[key] = self._kept_texts.put(key, vector[None].copy())
        return _rows(space, [v for key in keys if (v := found[key]) is not None])

    def sentences(
        self, terms: Sequence[Term], expand: Callable[[str], Sequence[str]] | None
    ) -> list[str]:
        """The texts that `query` will ask the vectors of."""
        texts = [term.text.strip() for term in terms if term.text is not None]
        return [each for text in texts for each in (expand(text) if expand else [text])]

    def for_texts(self, space: Space) -> TextEncoder:
        """What encodes the texts of questions. On a CPU exactly, or, once torch is loaded and where
        the CPU multiplies bfloat16, in that. Loaded on first use; errors as of
        `load_text_encoder`."""
        with self._lock:
            return self._for_texts(space)

    def hasten(self, space: Space) -> None:
        """Loads what encodes texts, by the quickest means: for a process that encodes many."""
        from mmsearch.encode import hasten

        hasten(self.for_texts(space))

    def _for_texts(self, space: Space) -> Encoder | TextEncoder:
        loaded = self._encoder
        if loaded is not None and loaded.space == space and loaded.device != "cpu":
            return loaded
        if self._text_encoder is None or self._text_encoder.space != space:
            from mmsearch.encode import load_text_encoder

            encoder = load_text_encoder(space.name, expected=space)
            same_space(encoder.space, space)
            self._text_encoder = encoder
        return self._text_encoder

    def image(self, space_id: int, space: Space, image: ImageInput) -> tuple[Vectors, int | None]:
        """(1, dim), and the id of the picture if the library knows it (then nothing is encoded)."""
        picture = image if isinstance(image, QueryPicture) else self.look_up(image)
        if picture.content_id is not None:
            vector = self._catalog.vectors.get(space_id, picture.content_id)
            if vector is not None:
                return vector, picture.content_id
        key = (space.fingerprint, picture.digest)
        kept = self._kept_images.get(key)
        if kept is None:
            if not self._may_encode:
                raise NotKeptError(pictures=[picture])
            kept = self.images(space, [picture])
        return kept, picture.content_id

    def pictures(self, space_id: int, space: Space, pictures: Sequence[ImageInput]) -> Vectors:
        """(n, dim), of known ones as the library has them."""
        return _rows(space, [self.image(space_id, space, one)[0] for one in pictures])

    def keeps(self, space: Space, picture: QueryPicture) -> bool:
        """Whether the vector of a picture is kept, so that it need not be decoded."""
        return (space.fingerprint, picture.digest) in self._kept_images

    def images(self, space: Space, pictures: Sequence[QueryPicture]) -> Vectors:
        """(n, dim). What is not kept is decoded, as far as it is not yet, and encoded together."""
        keys = [(space.fingerprint, picture.digest) for picture in pictures]
        found = {key: self._kept_images.get(key) for key in keys}
        new = {
            key: picture for key, picture in zip(keys, pictures, strict=True) if found[key] is None
        }
        if new:
            encoder = self.whole(space)
            side = 2 * encoder.image_size
            batch = [
                encoder.preprocess(self.decode(one, side) if one.pixels is None else one.pixels)
                for one in new.values()
            ]
            with self._lock, self._for_pictures(encoder, len(batch)):
                vectors = encoder.encode_images(np.stack(batch))
            for key, vector in zip(new, vectors, strict=True):
                found[key] = self._kept_images.put(key, vector[None].copy())
        return _rows(space, [v for key in keys if (v := found[key]) is not None])

    def _for_pictures(self, encoder: Encoder, pictures: int) -> AbstractContextManager[None]:
        """Within, so many pictures are encoded by as many threads as are quickest now."""
        if encoder.device != "cpu":
            return nullcontext()
        if self._picture_threads is None:
            from mmsearch.encode import beside_others

            self._picture_threads = beside_others()
        return self._picture_threads.chosen(pictures)

    def look_up(self, image: str | Path | bytes) -> QueryPicture:
        """A picture to ask about, and whether the library knows its bytes. Needs no model.

        Raises DecodeError: its file cannot be read.
        """
        from mmsearch.files import read_file

        source = "the picture" if isinstance(image, bytes) else str(image)
        data = image if isinstance(image, bytes) else read_file(Path(image), self._limits)
        digest = hashlib.sha256(data).digest()
        return QueryPicture(data, source, digest, self._catalog.content_id("image", digest))

    def decode(self, picture: QueryPicture, min_side: int) -> Pixels:
        """Its pixels, upright, the shorter side at least `min_side` where it has so many.

        Raises DecodeError; OverloadedError when too many pictures are stuck in decoding.
        """
        from mmsearch.decode import decode

        source, limits = picture.source, self._limits
        return self._decoders.run(
            lambda: decode(picture.data, source=source, limits=limits, min_side=min_side).pixels,
            source,
        )

    def prepared(self, picture: QueryPicture, min_side: int) -> QueryPicture:
        """The same picture with its pixels. Errors as in `decode`."""
        return replace(picture, pixels=self.decode(picture, min_side))

    def query(
        self,
        space_id: int,
        space: Space,
        terms: Sequence[Term],
        expand: Callable[[str], Sequence[str]] | None,
    ) -> QueryVector:
        """The sum of the terms' vectors, each times its weight, as a unit vector.

        expand: the sentences that words are put into, whose mean direction stands for them.

        Raises:
            QueryError: the terms cancel each other out. NotFoundError: an id is unknown.
        """
        ids: set[int] = set()
        vectors: list[Vectors] = []
        for term in terms:
            vector, image_id = self._term(space_id, space, term, expand)
            vectors.append(vector)
            if image_id is not None and term.weight > 0:
                ids.add(image_id)
        total = _added([(term.weight, v) for term, v in zip(terms, vectors, strict=True)])
        if total is None:
            raise QueryError("the parts of the query cancel each other out")
        parts = []
        for modality in MODALITIES:
            wanted = [
                (term.weight, vector)
                for term, vector in zip(terms, vectors, strict=True)
                if term.weight > 0 and term.modality == modality
            ]
            together = _added(wanted)
            if together is not None:
                parts.append(QueryPart(modality, sum(weight for weight, _ in wanted), together))
        return QueryVector(total, frozenset(ids), tuple(parts))

    def _term(
        self,
        space_id: int,
        space: Space,
        term: Term,
        expand: Callable[[str], Sequence[str]] | None,
    ) -> tuple[Vectors, int | None]:
        if term.image_id is not None:
            return self._stored(space_id, term.image_id), term.image_id
        if term.image is not None:
            return self.image(space_id, space, term.image)
        if term.vector is not None:
            return _unit(term.vector, space), None
        text = (term.text or "").strip()
        vectors = self.texts(space, expand(text) if expand else [text])
        if len(vectors) == 1:
            return vectors, None
        mean = vectors.mean(axis=0, keepdims=True)
        return np.ascontiguousarray(mean / np.linalg.norm(mean), dtype=np.float32), None

    def _stored(self, space_id: int, image_id: int) -> Vectors:
        self._catalog.locations(image_id)  # NotFoundError where no file holds it any more
        vector = self._catalog.vectors.get(space_id, image_id)
        if vector is None:
            raise NotFoundError("image", image_id)
        return vector


def _rows(space: Space, vectors: Sequence[Vectors]) -> Vectors:
    """Vectors (1, dim) below each other: (n, dim), also of none."""
    return np.concatenate(vectors) if vectors else np.empty((0, space.dim), np.float32)


def _added(vectors: Sequence[tuple[float, Vectors]]) -> Vectors | None:
    """The sum of vectors (1, dim), each times its weight, of unit norm; None where it has none."""
    if len(vectors) == 1 and vectors[0][0] > 0:
        return vectors[0][1]  # to the last digit
    total = sum((np.float32(weight) * vector for weight, vector in vectors), np.float32(0))
    norm = float(np.linalg.norm(total))
    if norm < _CANCELLED:
        return None
    return np.ascontiguousarray(total / norm, dtype=np.float32)


def _unit(vector: Sequence[float], space: Space) -> Vectors:
    """(1, dim) out of numbers from outside. Raises QueryError where they are no direction."""
    row = np.asarray(vector, np.float64)[None]
    with np.errstate(over="ignore"):
        norm = float(np.linalg.norm(row)) if np.isfinite(row).all() else 0.0
    if row.shape[1] != space.dim or not 0 < norm < np.inf:
        raise QueryError(
            f"a vector of {space.name} has {space.dim} finite numbers, not all 0; this one has "
            f"{row.shape[1]}"
        )
    return np.ascontiguousarray(row / norm, dtype=np.float32)


def same_space(found: Space, expected: Space) -> None:
    """Raises SpaceMismatchError where the weights differ."""
    if found.fingerprint != expected.fingerprint:
        raise SpaceMismatchError(
            f"{found.name} with weights {found.fingerprint[:12]}",
            f"{expected.name} with weights {expected.fingerprint[:12]}",
        )
