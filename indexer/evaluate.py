"""Measures a model on a data set, or a library on its own captions: both ways, and its indexes.

A data set is read, decoded ahead and encoded by the way that indexing takes, and no library is
written. Of a library nothing is encoded: its vectors are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from indexer.datasets import Dataset
from indexer.load import Loader
from indexer.prepare import Job
from indexer.report import Progress, Silence
from mmsearch.batches import batches
from mmsearch.encode.published import Published, published
from mmsearch.errors import IndexMissingError, QueryError
from mmsearch.evaluate import Figures, IndexFigures, Ranks, figures, measure_index, rank, turned
from mmsearch.types import DEFAULT_LIMITS, MODALITIES, DecodeLimits, Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encode import Encoder
    from mmsearch.index.flat import FlatIndex
    from mmsearch.library import Library
    from mmsearch.types import Vectors

_TEXTS_A_BATCH = 512
_BATCHES_AHEAD = 3
#: Queries a direction of a library, unless another number is asked for: a share of so many errs by
#: 1 % at most (two standard errors are at most 1 / sqrt(n)).
QUERIES = 10_000
#: Queries that an index is timed with.
_INDEX_QUERIES = 200


@dataclass(slots=True)
class Report:
    """What was measured and how.

    on: the data set or the library. missing: pictures that captions name and that are not there;
    bad: what could not be used, with the reason. index: "image" and "text" → the library's index of
    them, asked with the other's vectors. ranks: what the figures were made from, by direction.
    """

    on: str
    model: str
    dim: int
    pictures: int
    texts: int
    text_to_image: Figures
    image_to_text: Figures
    device: str | None = None
    dtype: str | None = None
    seconds: float = 0.0
    pictures_per_s: float | None = None
    missing: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    index: dict[str, IndexFigures] = field(default_factory=dict)
    ranks: dict[str, Ranks] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """All but the ranks, for JSON."""
        document = asdict(replace(self, ranks={}))
        del document["ranks"]
        return document


# --- a data set ---------------------------------------------------------------------------------


def evaluate_dataset(
    dataset: Dataset,
    encoder: Encoder,
    *,
    limits: DecodeLimits = DEFAULT_LIMITS,
    merge: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Encodes a data set and measures text → image and image → text.

    merge: equal pictures (by their bytes) count as one, and equal texts, as in a library: a copy of
        the right picture is right too then. Papers do not do that.

    A picture that cannot be read is left out with its captions, and named in the report.

    Raises:
        QueryError: no captioned picture is left.
        EncodeError: the model fails.
    """
    progress = progress or Silence()
    started = perf_counter()
    images, hashes, bad = _encode_pictures(dataset.pictures, encoder, limits, progress)
    picture_seconds = perf_counter() - started
    kept, row_of = _rows(hashes, merge)
    bodies, relevant = _truth(dataset, row_of, merge)
    if not bodies:
        raise QueryError(
            f"nothing to measure: no captioned picture of {dataset.name} could be read"
            + (f"; {bad[0][0]}: {bad[0][1]}" if bad else "")
        )
    texts = _encode_texts(bodies, encoder, progress)
    to_images = rank(texts, images[kept], relevant)
    to_texts = rank(images[kept], texts, turned(relevant, len(kept)))
    return Report(
        on=dataset.name,
        model=encoder.space.name,
        dim=encoder.space.dim,
        pictures=len(kept),
        texts=len(bodies),
        text_to_image=figures(to_images),
        image_to_text=figures(to_texts),
        device=encoder.device,
        dtype=encoder.dtype,
        seconds=perf_counter() - started,
        pictures_per_s=len(images) / picture_seconds,
        missing=list(dict.fromkeys(dataset.missing)),
        bad=[*dataset.bad, *bad],
        published=[] if dataset.known_as is None else published(dataset.known_as),
        ranks={"text → image": to_images, "image → text": to_texts},
    )


def _encode_pictures(
    paths: Sequence[str], encoder: Encoder, limits: DecodeLimits, progress: Progress
) -> tuple[Vectors, list[bytes | None], list[tuple[str, str]]]:
    """Vectors of the pictures that can be read; the hash of every picture, None for the others;
    and why those cannot."""
    import numpy as np

    progress.started("images", len(paths))
    loader = Loader(lambda: encoder, lambda digest: None, limits=limits)
    hashes: list[bytes | None] = []
    bad: list[tuple[str, str]] = []
    parts: list[Vectors] = [np.empty((0, encoder.space.dim), np.float32)]
    waiting: list[NDArray[np.uint8]] = []

    def encode() -> None:
        parts.append(encoder.encode_images(np.stack(waiting)))
        progress.advanced(len(waiting))
        waiting.clear()

    for loaded in loader.load((Job(p, p) for p in paths), _BATCHES_AHEAD * encoder.batch_size):
        if loaded.pixels is None:
            hashes.append(None)
            bad.append((loaded.job.path, loaded.reason or "not a picture"))
            continue
        hashes.append(loaded.hash)
        waiting.append(loaded.pixels)
        if len(waiting) >= encoder.batch_size:
            encode()
    if waiting:
        encode()
    return np.concatenate(parts), hashes, bad


def _encode_texts(bodies: Sequence[str], encoder: Encoder, progress: Progress) -> Vectors:
    import numpy as np

    progress.started("texts", len(bodies))
    parts = []
    for part in batches(bodies, _TEXTS_A_BATCH):
        parts.append(encoder.encode_texts(part))
        progress.advanced(len(part))
    return np.concatenate(parts)


def _rows(hashes: Sequence[bytes | None], merge: bool) -> tuple[list[int], list[int | None]]:
    """Which of the pictures that have a vector are ranked, by its row; and where each picture of
    the data set stands among those."""
    kept: list[int] = []
    row_of: list[int | None] = []
    known: dict[bytes, int] = {}
    vector = 0
    for digest in hashes:
        if digest is None:
            row_of.append(None)
            continue
        if not (merge and digest in known):
            known[digest] = len(kept)
            kept.append(vector)
        row_of.append(known[digest])
        vector += 1
    return kept, row_of


def _truth(
    dataset: Dataset, row_of: Sequence[int | None], merge: bool
) -> tuple[list[str], list[list[int]]]:
    """The texts that are asked, and for each the rows of its pictures."""
    bodies: list[str] = []
    relevant: list[list[int]] = []
    known: dict[str, int] = {}
    for body, picture in dataset.captions:
        row = row_of[picture]
        if row is None:
            continue
        if merge and body in known:
            if row not in relevant[known[body]]:
                relevant[known[body]].append(row)
            continue
        known[body] = len(bodies)
        bodies.append(body)
        relevant.append([row])
    return bodies, relevant


# --- a library ----------------------------------------------------------------------------------


def evaluate_library(library: Library, *, queries: int = QUERIES, seed: int = 0) -> Report:
    """Measures a library by the captions that are linked to its pictures; encodes nothing.

    Right are, for a text, the pictures it was written for, and the other way round; all other
    contents are rivals. What pictures say of themselves (titles, keywords) counts as a caption.
    queries: at most so many a direction, drawn by `seed` where there are more.

    Memory: the vectors of the library in half precision.

    Raises:
        IndexMissingError: the library is empty.
        QueryError: no text of it is linked to a picture.
    """
    import numpy as np

    started = perf_counter()
    active = library.catalog.active_space()
    if active is None:
        raise IndexMissingError(
            f"the library at {library.path} is empty. Fill it with: mmsearch index FOLDER"
        )
    space_id, space = active
    held = {modality: _vectors(library, space_id, modality) for modality in MODALITIES}
    (image_ids, images), (text_ids, texts) = held["image"], held["text"]
    row_of = {int(id_): row for row, id_ in enumerate(text_ids)}
    linked = library.catalog.linked_texts(image_ids.tolist())
    to_texts = [[row_of[t] for t in linked.get(int(i), ()) if t in row_of] for i in image_ids]
    to_images = turned(to_texts, len(text_ids))
    if not any(to_texts):
        raise QueryError(
            "nothing to measure: no text of the library is linked to a picture. Texts come with "
            "--captions FILE or as sidecars: mmsearch index --help"
        )
    rng = np.random.default_rng(seed)
    asked_texts, asked_images = _drawn(to_images, queries, rng), _drawn(to_texts, queries, rng)
    ranks = {
        "text → image": rank(texts[asked_texts], images, [to_images[t] for t in asked_texts]),
        "image → text": rank(images[asked_images], texts, [to_texts[i] for i in asked_images]),
    }
    return Report(
        on=str(library.path),
        model=space.name,
        dim=space.dim,
        pictures=len(image_ids),
        texts=len(text_ids),
        text_to_image=figures(ranks["text → image"]),
        image_to_text=figures(ranks["image → text"]),
        index={
            "image": _measured(library.index("image"), texts[asked_texts[:_INDEX_QUERIES]]),
            "text": _measured(library.index("text"), images[asked_images[:_INDEX_QUERIES]]),
        },
        seconds=perf_counter() - started,
        ranks=ranks,
    )


def _vectors(
    library: Library, space_id: int, modality: Modality
) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """Ids (n,) and vectors (n, dim) of all that can be found, as the catalog stores them."""
    import numpy as np

    hidden = library.catalog.hidden(modality)
    active = library.catalog.active_space()
    dim = 0 if active is None else active[1].dim
    ids: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    parts: list[NDArray[np.float16]] = [np.empty((0, dim), np.float16)]
    for _, some, vectors in library.catalog.vectors.after(space_id, modality, 0):
        seen = ~np.isin(some, hidden)
        ids.append(some[seen])
        parts.append(vectors[seen])
    return np.concatenate(ids), np.concatenate(parts)


def _drawn(relevant: Sequence[Sequence[int]], most: int, rng: np.random.Generator) -> list[int]:
    """The rows that have a right answer, or so many of them by chance."""
    rows = [row for row, items in enumerate(relevant) if items]
    if len(rows) <= most:
        return rows
    return [rows[i] for i in sorted(rng.choice(len(rows), most, replace=False))]


def _measured(index: FlatIndex, queries: NDArray[np.float16]) -> IndexFigures:
    import numpy as np

    xq = np.ascontiguousarray(queries, np.float32)
    return measure_index(
        lambda query, k: index.search(query, k)[0].ids,
        lambda query, k: index.search(query, k, exact=True)[0].ids,
        xq,
    )
