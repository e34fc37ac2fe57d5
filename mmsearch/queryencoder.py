"""From the parts of a question to one query vector: loads the model, decodes, adds up."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmsearch.errors import NotFoundError, QueryError, SpaceMismatchError
from mmsearch.query import ImageInput, QueryPicture, Term
from mmsearch.types import DecodeLimits, Space
from mmsearch.watchdog import Workers

if TYPE_CHECKING:
    from mmsearch.encode import Encoder, TextEncoder
    from mmsearch.store import Catalog
    from mmsearch.types import Pixels, Vectors

#: Vectors of texts that are kept: 1,000 of 768 dimensions take 3 MB.
_KEPT_TEXTS = 1000
#: The length of a sum of unit vectors below which its direction is rounding.
_CANCELLED = 1e-3


class QueryEncoder:
    """The models of a library's spaces, loaded when a query first needs them. Thread-safe."""

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
        self._kept: OrderedDict[tuple[str, str], Vectors] = OrderedDict()

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

    def texts(self, space: Space, texts: Sequence[str]) -> Vectors:
        """(n, dim). Every interface takes this way, so that all give the same scores."""
        with self._lock:
            keys = [(space.fingerprint, text) for text in texts]
            new = list(dict.fromkeys(key for key in keys if key not in self._kept))
            if new:
                encoder = self._for_texts(space)
                # Each by itself: in a batch the rounding depends on the others, and the score of
                # a query must not.
                for key in new:
                    self._kept[key] = encoder.encode_texts([key[1]])
            found = np.concatenate([self._kept[key] for key in keys])
            for key in keys:
                self._kept.move_to_end(key)
            while len(self._kept) > _KEPT_TEXTS:
                self._kept.popitem(last=False)
            return found

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
        encoder = self.whole(space)
        pixels = picture.pixels
        if pixels is None:
            pixels = self.decode(picture, 2 * encoder.image_size)
        with self._lock:
            return encoder.encode_images(encoder.preprocess(pixels)[None]), picture.content_id

    def look_up(self, image: str | Path | bytes) -> QueryPicture:
        """A picture to ask about, and whether the library knows its bytes. Needs no model.

        Raises DecodeError: its file cannot be read.
        """
        from mmsearch.files import read_file

        source = "the picture" if isinstance(image, bytes) else str(image)
        data = image if isinstance(image, bytes) else read_file(Path(image), self._limits)
        known = self._catalog.content_id("image", hashlib.sha256(data).digest())
        return QueryPicture(data, source, known)

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
    ) -> tuple[Vectors, frozenset[int]]:
        """The sum of the terms' vectors, each times its weight, as a unit vector.

        expand: the sentences that words are put into, whose mean direction stands for them.

        Returns:
            (1, dim), and the ids of the pictures of the library that are looked for.

        Raises:
            QueryError: the terms cancel each other out. NotFoundError: an id is unknown.
        """
        total = np.zeros((1, space.dim), np.float32)
        ids: set[int] = set()
        for term in terms:
            vector, image_id = self._term(space_id, space, term, expand)
            if len(terms) == 1 and term.weight > 0:
                return vector, frozenset() if image_id is None else frozenset({image_id})
            total += np.float32(term.weight) * vector
            if image_id is not None and term.weight > 0:
                ids.add(image_id)
        norm = float(np.linalg.norm(total))
        if norm < _CANCELLED:
            raise QueryError("the parts of the query cancel each other out")
        return np.ascontiguousarray(total / norm, dtype=np.float32), frozenset(ids)

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


def same_space(found: Space, expected: Space) -> None:
    """Raises SpaceMismatchError where the weights differ."""
    if found.fingerprint != expected.fingerprint:
        raise SpaceMismatchError(
            f"{found.name} with weights {found.fingerprint[:12]}",
            f"{expected.name} with weights {expected.fingerprint[:12]}",
        )
