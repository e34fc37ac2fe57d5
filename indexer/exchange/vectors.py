"""Vectors computed elsewhere: whether they are any, and whether they are the model's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.exchange.layout import Found, Shard, read_columns
from indexer.exchange.places import Places
from mmsearch import archive
from mmsearch.decode import decode
from mmsearch.encode import load_encoder
from mmsearch.errors import DecodeError, RefusedError
from mmsearch.files import read_file
from mmsearch.plaintext import clean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmsearch.encode import Encoder
    from mmsearch.types import DecodeLimits, Space

ROUNDING = 2e-3
"""By how much the norm of a unit vector may be off: float16 errs by half of 2**-10 a value at most,
and that much in all only if every value errs the same way."""
LEAST_COSINE = 0.98
"""Between a vector and the one that the model makes here. Other arithmetic (bf16 on other devices)
and other resizing cost up to 0.01; another model, or other preprocessing, far more."""
_SMALLEST = 1e-6


@dataclass(frozen=True, slots=True)
class Checked:
    """Vectors (n, dim) float32 of unit norm; row → what is wrong with those that are none; and the
    rows that were scaled."""

    vectors: NDArray[np.float32]
    bad: dict[int, str]
    rescaled: frozenset[int]


def checked(rows: NDArray[Any]) -> Checked:
    """Looks at vectors (n, dim) of any float type; those off by no more than rounding stay as they
    are."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which is told
        vectors = np.array(rows, np.float32, order="C")
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(vectors).all(axis=1))
    norms = np.linalg.norm(np.where(finite[:, None], vectors, 0).astype(np.float64), axis=1)
    bad = {int(row): "its vector has values that are no numbers" for row in np.flatnonzero(~finite)}
    bad |= {int(row): "its vector is zero" for row in np.flatnonzero(finite & (norms < _SMALLEST))}
    good = finite & (norms >= _SMALLEST)
    off = good & (np.abs(norms - 1) > ROUNDING)
    vectors[off] = (vectors[off] / norms[off, None]).astype(np.float32)
    return Checked(vectors, bad, frozenset(int(row) for row in np.flatnonzero(off)))


def verify(
    found: Found, space: Space, places: Places, sample: int, *, device: str, limits: DecodeLimits
) -> list[float]:
    """The cosines of up to `sample` vectors with those that the model makes of the same pictures,
    or texts where no picture is there as it was. Pictures that have changed are passed over.

    Raises:
        ModelUnavailableError: the model is not here.
        RefusedError: they are unlike, or nothing is there to compare.
    """
    encoder = load_encoder(space.name, device=device)
    if encoder.space.fingerprint != space.fingerprint:
        raise RefusedError(
            f"the vectors are of {space.name} with weights {space.fingerprint[:12]}, and those "
            f"here are {encoder.space.fingerprint[:12]}: they cannot be compared. Without --verify "
            "they are taken as they are"
        )
    cosines: list[float] = []
    for shard in found.pictures:
        cosines += _pictures(shard, encoder, places, sample - len(cosines), limits)
    for shard in found.texts if not cosines else ():
        cosines += _texts(shard, encoder, sample - len(cosines))
    if not cosines:
        raise RefusedError(
            f"none of the pictures that {found.root} names is there as it was: nothing to compare. "
            "--images DIR says where they are; without --verify vectors are taken as they are"
        )
    if min(cosines) < LEAST_COSINE:
        raise RefusedError(
            f"the vectors are not those of {space.name}: of {len(cosines)} compared with what it "
            f"makes here, the least cosine is {min(cosines):.3f} (needed: {LEAST_COSINE}). Name "
            "the right model with --model, or read the pictures anew: mmsearch index FOLDER"
        )
    return cosines


def _pictures(
    shard: Shard, encoder: Encoder, places: Places, most: int, limits: DecodeLimits
) -> list[float]:
    assert shard.img_emb is not None
    matrix = shard.matrix(shard.img_emb)
    cosines: list[float] = []
    for row, name, digest in _spread(shard, "image_path", most):
        part = checked(matrix[row : row + 1])
        place = places.locate(name)
        if part.bad or place is None:
            continue
        try:
            path = Path(place[0])
            data = archive.read_member(path, place[1]) if place[1] else read_file(path, limits)
            if digest is not None and hashlib.sha256(data).hexdigest() != digest:
                continue  # as the import itself does
            pixels = decode(data, source=name, limits=limits, min_side=2 * encoder.image_size)
        except DecodeError:
            continue
        made = encoder.encode_images(encoder.preprocess(pixels.pixels)[None])
        cosines.append(float(made[0] @ part.vectors[0]))
    return cosines


def _texts(shard: Shard, encoder: Encoder, most: int) -> list[float]:
    assert shard.text_emb is not None
    matrix = shard.matrix(shard.text_emb)
    cosines: list[float] = []
    for row, body, _ in _spread(shard, "caption", most):
        part = checked(matrix[row : row + 1])
        if not part.bad:
            cosines.append(float(encoder.encode_texts([clean(body)])[0] @ part.vectors[0]))
    return cosines


def _spread(shard: Shard, column: str, most: int) -> list[tuple[int, str, str | None]]:
    """Up to `most` rows from all over the shard that have a value, with it and the hash told."""
    if most < 1:
        return []
    wanted = set(np.linspace(0, shard.rows - 1, most).astype(int).tolist())
    return [
        (start + number, value, digest)
        for start, columns in read_columns(shard, [column, "hash"], 4096)
        for number, (value, digest) in enumerate(zip(columns[column], columns["hash"], strict=True))
        if start + number in wanted and isinstance(value, str) and value
    ]
