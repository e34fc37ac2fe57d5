"""The values that travel between modules. No heavy imports: every layer may use these."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    #: (n, dim) float32, C-contiguous, each row of unit norm
    Vectors = NDArray[np.float32]
    #: (height, width, 3) uint8 RGB, upright, C-contiguous
    Pixels = NDArray[np.uint8]

Modality = Literal["image", "text"]
MODALITIES: tuple[Modality, ...] = ("image", "text")


@dataclass(frozen=True, slots=True)
class Space:
    """What makes vectors comparable: a model, its weights and its preprocessing.

    name: the model as the user names it, for example "ViT-B-32/laion2b_s34b_b79k".
    dim: length of a vector.
    fingerprint: hex digest over weights, architecture and preprocessing; two spaces are the same
        exactly when their fingerprints are.
    preprocessing: what was done to pixels, in words for people ("224 bicubic shortest center").
    """

    name: str
    dim: int
    fingerprint: str
    preprocessing: str


@dataclass(frozen=True, slots=True)
class PictureInfo:
    """What a picture says of itself. Sizes in pixels, upright; degrees; local time, no zone."""

    format: str
    width: int
    height: int
    taken_at: datetime | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    title: str | None = None
    description: str | None = None
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What is refused, before or while it is decoded.

    max_pixels: width x height; told by the header, checked before anything is unpacked.
    max_bytes: of the file.
    max_seconds: for reading a file and for decoding it, each; who takes longer is given up.

    Of a picture one frame is read, the first. Decoding takes at most 24 bytes of memory for each
    pixel, 4 for each byte of the file, and 256 MB: 7.5 GB for the largest picture allowed by
    default, but 0.5 GB for one of 12 megapixels (measured on 25 megapixels: 3 to 12 bytes a pixel
    for JPEG, 8 for PNG and TIFF, 13 for AVIF and HEIC, 16 for WebP, 20 for a raw file that is
    developed, most of it in a process of its own). A block of EXIF or XMP above 4 MB is not looked
    at; files of more than 250,000 parts, JPEGs of more than 100 scans are refused
    (mmsearch.structure). What archives and files of texts are held to stands in
    mmsearch.archive.ArchiveLimits and indexer.texts.
    """

    max_pixels: int = 300_000_000
    max_bytes: int = 1 << 30
    max_seconds: float = 60.0


DEFAULT_LIMITS = DecodeLimits()


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One picture of the catalog: a content, and the files that hold it.

    id: of the content; stable while the library lives, the same for every copy of the file.
    path: absolute path of the first file; a member of an archive is "archive.zip!/name.jpg".
    copies: absolute paths of further files with the same bytes.
    """

    id: int
    path: str
    info: PictureInfo
    bytes: int
    copies: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's name alone."""
        return self.path.replace("\\", "/").rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class TextRecord:
    """One text of the catalog. `image_ids` are the pictures it was written for."""

    id: int
    body: str
    source: str
    image_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageHit:
    """A picture that answers a query; `score` is the cosine similarity, in [-1, 1].

    relevance: how sure it is that it answers, from 0 to 1; None where nothing tells.
    similar: ids of the near-duplicates that it stands for, where they are grouped.
    """

    score: float
    image: ImageRecord
    captions: tuple[str, ...] = ()
    relevance: float | None = None
    similar: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TextHit:
    """A text that answers a query. `linked`: it was written for the very picture asked about."""

    score: float
    text: TextRecord
    linked: bool = False
    relevance: float | None = None


Hit = TypeVar("Hit", ImageHit, TextHit)


@dataclass(frozen=True, slots=True)
class Answer(Generic[Hit]):
    """What answers a question, best first.

    allowed: how many items satisfied the question's conditions and were compared. filtered: whether
        it had conditions.
    cut: how many of those that would stand here were left out because they match too weakly; when
        there are such, nothing comes after. nearest: the greatest relevance of all left out.
    """

    hits: tuple[Hit, ...]
    allowed: int
    cut: int = 0
    filtered: bool = False
    nearest: float | None = None
