"""What the rest of mmsearch sees of a model: pictures and texts in, unit vectors out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Pixels, Space, Vectors

#: Called while weights are fetched: what is fetched, bytes so far, bytes in all (None: not known).
Progress = Callable[[str, int, int | None], None]


#: Of a model whose file holds none: what CLIP's is held below in training, and ends near (Radford
#: et al. 2021, section 2.5).
DEFAULT_LOGIT_SCALE = 100.0


class TextEncoder(Protocol):
    """Texts to vectors of one space."""

    @property
    def space(self) -> Space: ...

    @property
    def logit_scale(self) -> float:
        """What the model learned to multiply cosines by before a softmax over texts."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Vectors of texts, in their order.

        Returns (n, dim) float32, C-contiguous, unit norm; (0, dim) for no texts. Texts longer than
        the model's context are cut. Raises EncodeError.
        """
        ...


class Encoder(TextEncoder, Protocol):
    """Pictures and texts to vectors of one space."""

    @property
    def device(self) -> str:
        """Where it runs, for people: "cpu", "cuda:0 (NVIDIA H200)", "mps"."""
        ...

    @property
    def dtype(self) -> str:
        """What the model computes in: "fp32", "bf16" or "fp16". Vectors are float32 always."""
        ...

    @property
    def image_size(self) -> int:
        """Side of the square the model looks at, in pixels."""
        ...

    @property
    def batch_size(self) -> int:
        """How many pictures the next batch should have; it changes while the best is looked for.

        That is told by batches of just this size which are encoded anyway.
        """
        ...

    @property
    def preprocess(self) -> Callable[[Pixels], NDArray[np.uint8]]:
        """Resizes and crops as the model wants it. Thread-safe, and can be sent to another process.

        Takes pixels (height, width, 3) uint8 RGB, at least one. Returns (3, S, S) uint8,
        C-contiguous, where S is `image_size`. Raises EncodeError for anything else.
        """
        ...

    def encode_images(self, batch: NDArray[np.uint8]) -> Vectors:
        """Vectors of preprocessed pictures.

        batch: (n, 3, S, S) uint8. Returns (n, dim) float32, C-contiguous, unit norm; (0, dim) for
        an empty batch. Raises EncodeError.
        """
        ...

    def encode_batches(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Vectors]:
        """The vectors of each batch, in order; batches and vectors as in `encode_images`.

        On a GPU, and on a CPU of several cores, the next batch is fetched while one is computed:
        the second is asked for before the vectors of the first are there.
        """
        ...
