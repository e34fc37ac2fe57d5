"""The background of one library: samples of its indexes, and the vectors of the everyday captions.

Encoding the captions takes seconds with a large model on a CPU, so their vectors are kept beside
the index files, in FINGERPRINT-captions.f32: a SHA-256 of them and of whose they are, then float32
numbers. Derived, made anew when missing, damaged, or of other captions, and deleted with the space.
A library that cannot be written to keeps them in memory.
The samples are taken anew by each process, and again when the library has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmsearch import generic
from mmsearch.relevance import SAMPLE, Background

if TYPE_CHECKING:
    from mmsearch.index.flat import FlatIndex
    from mmsearch.types import Space, Vectors

logger = logging.getLogger(__name__)

_SEED = 0
#: The share of a library that may come or go before its background is sampled again.
_CHANGE_ALLOWED = 0.1
#: As many captions are encoded at once: of 32 each, they take half as long again.
_AT_ONCE = 256
_CHECKSUM_BYTES = hashlib.sha256().digest_size


class Backgrounds:
    """The background of a library in one space, made when first asked for. Thread-safe."""

    def __init__(self, folder: Path, space: Space, *, keep: bool = True) -> None:
        """folder: of the index files. keep: whether the captions' vectors may be written there."""
        self._path = folder / f"{space.fingerprint[:16]}-captions.f32"
        self.space = space
        self._keep = keep
        self._encoding = threading.Lock()
        self._sampling = threading.Lock()
        self._captions: Vectors | None = None
        self._made: tuple[_Drawn, _Drawn, Background] | None = None

    def captions(self, encode_texts: Callable[[Sequence[str]], Vectors]) -> Vectors:
        """The vectors (m, dim) of the everyday captions. May take seconds, the first time ever.

        encode_texts: by the space's model; called only where they were never encoded. Whatever it
        raises comes through.
        """
        with self._encoding:
            if self._captions is None:
                self._captions = self._load()
            if self._captions is None:
                self._captions = self._encoded(encode_texts)
            return self._captions

    def get(self, pictures: FlatIndex, texts: FlatIndex, captions: Vectors) -> Background:
        """The background of what the two indexes hold now, or held not much earlier.

        pictures, texts: indexes of this space; the caller sees to it that they do not change
        meanwhile. captions: of `captions`.
        """
        with self._sampling:
            made = self._made
            if made is None or made[0].stale(pictures) or made[1].stale(texts):
                of_pictures, of_texts = _Drawn(pictures), _Drawn(texts)
                background = Background(of_pictures.vectors, of_texts.vectors, captions)
                made = self._made = of_pictures, of_texts, background
            return made[2]

    def _encoded(self, encode_texts: Callable[[Sequence[str]], Vectors]) -> Vectors:
        captions = generic.captions()
        vectors = np.concatenate(
            [
                encode_texts(captions[start : start + _AT_ONCE])
                for start in range(0, len(captions), _AT_ONCE)
            ]
        )
        if self._keep:
            self._save(vectors)
        return vectors

    def _load(self) -> Vectors | None:
        """The kept vectors, if they are whole and those of today's captions; else None."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            logger.warning("%s cannot be read (%s): making it anew", self._path, exc)
            return None
        checksum, held = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
        if checksum != self._checksum(held):
            logger.info("%s is of other captions, or damaged: making it anew", self._path)
            return None
        return np.frombuffer(held, np.float32).reshape(-1, self.space.dim)

    def _save(self, vectors: Vectors) -> None:
        # Of killed processes; who writes just now keeps the vectors in memory then.
        for left in self._path.parent.glob(f"{self._path.stem}.*.tmp"):
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        held = np.ascontiguousarray(vectors, np.float32).tobytes()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(self._checksum(held) + held)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as exc:
            logger.info("%s cannot be written (%s): kept in memory only", self._path, exc)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _checksum(self, held: bytes) -> bytes:
        """Of the vectors, the captions they are of, and the space."""
        told = "\n".join((self.space.fingerprint, str(self.space.dim), *generic.captions()))
        return hashlib.sha256(told.encode() + b"\0" + held).digest()


class _Drawn:
    """A sample of what can be found in an index, and what tells whether it still is one."""

    def __init__(self, index: FlatIndex) -> None:
        self._ids, self.vectors = index.sample(SAMPLE, _SEED)
        self._count = len(index)
        self._state = index.state

    def stale(self, index: FlatIndex) -> bool:
        """Whether what was drawn is no picture of the index any more, by now maybe another one of
        the same library. Costs something only after a change."""
        if index.state is self._state:
            return False
        then, now = self._count, len(index)
        # Counts alone do not tell when as many come as go. What went of the sample stands for what
        # went of all; it cannot have been less than what is lacking now.
        left = len(self._ids) - index.count(self._ids)
        went = max(left * then / max(1, len(self._ids)), then - now)
        came = now - then + went
        few = min(then, now) < SAMPLE  # then the sample is all there was, or is to be all there is
        if came + went > (0 if few else _CHANGE_ALLOWED * then):
            return True
        self._state = index.state
        return False
