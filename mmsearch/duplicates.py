"""Pictures that are there several times: copies of a file, and versions that look alike.

Copies of the same bytes are one content of the catalog already. Versions (resized, recompressed, a
little cropped or brightened, taken in a burst) are told by the model's vectors: no picture is
opened. Nothing here deletes, or decides what to delete.

The thresholds are measured (tests/benchmarks/duplicates.py) with the bundled model, on 200
postcards and on 125 photographs, of which it knows nothing. Of 27,650 pairs of different pictures
none reaches 0.94 (the nearest has 0.922), where clip-retrieval draws the line too. Halving the size
is recognised in 95 % of cases, recompression in 100 %, cutting off 3 % in 89 to 99 %. With the
second look at the pixels none from 0.85 on is wrong either, and pictures moved a little, as
in a burst, are recognised in 87 to 98 % instead of 36 to 93 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmsearch.diversity import Alike, Floats, Ids, leaders
from mmsearch.errors import QueryError

if TYPE_CHECKING:
    from mmsearch.store import Catalog
    from mmsearch.store.sizes import PictureSizes
    from mmsearch.types import Pixels

#: The cosine from which on two pictures are versions of one.
THRESHOLD = 0.94
#: The same where the pixels are looked at too.
CHECKED_THRESHOLD = 0.85
#: The same for pictures taken within seconds of each other: they are alike more often than not.
BURST_THRESHOLD = 0.85

#: A second look, at the pixels of small grey versions: pictures that the model confuses differ
#: there, versions of one hardly do.
SAME_PIXELS = 0.6
#: Their pixels a side.
SIDE = 16

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True, slots=True)
class Group:
    """Pictures that look alike, by id. The first is the best: most pixels, then most bytes.

    similarities: the cosine of each to the first; 1 for itself.
    """

    ids: tuple[int, ...]
    similarities: tuple[float, ...]


def find(
    catalog: Catalog,
    space_id: int,
    *,
    threshold: float = THRESHOLD,
    burst_s: float | None = None,
    burst_threshold: float = BURST_THRESHOLD,
    confirm: Callable[[int, int], bool] | None = None,
    only: Ids | None = None,
) -> list[Group]:
    """The groups of two and more alike among the visible pictures, the largest first.

    Every member is alike to the first of its group, not merely to some other (see
    mmsearch.diversity.leaders). Memory: 2 x dim + 600 bytes a picture.

    burst_s: pictures taken within so many seconds of each other are alike from `burst_threshold`
        on. confirm: a second opinion on two ids that are alike. only: ids to keep to.

    Raises:
        QueryError: a threshold is not above 0, or above 1.
    """
    for value in (threshold, burst_threshold):
        if not 0 < value <= 1:
            raise QueryError(f"a threshold is above 0 and at most 1, not {value:g}")
    sizes = catalog.sizes.all()
    ids, vectors, taken = _ordered(catalog, space_id, sizes, only)
    lowest = threshold if burst_s is None else min(threshold, burst_threshold)
    heads = leaders(vectors, lowest, alike=_alike(ids, taken, threshold, burst_s, confirm))
    members: dict[int, list[int]] = {}
    for place in np.flatnonzero(heads != np.arange(len(heads))).tolist():
        members.setdefault(int(heads[place]), []).append(place)
    groups = []
    for head, others in members.items():
        cosines = vectors[others].astype(np.float32) @ vectors[head].astype(np.float32)
        order = np.argsort(-cosines, kind="stable")
        groups.append(
            Group(
                (int(ids[head]), *(int(ids[others[n]]) for n in order)),
                (1.0, *(min(1.0, float(cosines[n])) for n in order)),
            )
        )
    return sorted(groups, key=lambda group: (-len(group.ids), group.ids[0]))


def _ordered(
    catalog: Catalog, space_id: int, sizes: PictureSizes, only: Ids | None
) -> tuple[Ids, NDArray[np.float16], NDArray[np.float64]]:
    """Ids, vectors and times of the pictures that have a vector, the best picture first."""
    n = len(sizes.ids)
    best = np.lexsort((sizes.ids, -sizes.bytes, -sizes.pixels))
    place = np.empty(n, np.int64)
    place[best] = np.arange(n)
    vectors: NDArray[np.float16] | None = None
    there = np.zeros(n, np.bool_)
    for _, ids, found in catalog.vectors.after(space_id, "image", 0):
        if vectors is None:
            vectors = np.zeros((n, found.shape[1]), np.float16)
        row = np.minimum(np.searchsorted(sizes.ids, ids), max(n - 1, 0))
        known = sizes.ids[row] == ids if n else np.zeros(len(ids), np.bool_)
        if only is not None:
            known &= np.isin(ids, only)
        vectors[place[row[known]]] = found[known]
        there[place[row[known]]] = True
    if vectors is None:
        return sizes.ids[:0], np.empty((0, 1), np.float16), sizes.taken[:0]
    if not there.all():
        best, vectors = best[there], vectors[there]
    return sizes.ids[best], vectors, sizes.taken[best]


def _alike(
    ids: Ids,
    taken: NDArray[np.float64],
    threshold: float,
    burst_s: float | None,
    confirm: Callable[[int, int], bool] | None,
) -> Alike | None:
    """What decides about pairs whose cosine is high enough for a burst."""
    if burst_s is None and confirm is None:
        return None

    def alike(heads: Ids, items: Ids, cosines: Floats) -> NDArray[np.bool_]:
        keep = cosines >= np.float32(threshold)
        if burst_s is not None:
            # A time that is not known is NaN, which is near to none.
            keep |= np.abs(taken[heads] - taken[items]) <= burst_s
        if confirm is not None:
            for n in np.flatnonzero(keep).tolist():
                keep[n] = confirm(int(ids[heads[n]]), int(ids[items[n]]))
        return keep

    return alike


# --- by pixels -----------------------------------------------------------------------------------


def grey(pixels: Pixels) -> NDArray[np.float32]:
    """A picture as `likeness` takes it: (SIDE, SIDE) float32, the mean brightness of each field."""
    luma = pixels.astype(np.float32) @ _LUMA
    for axis in (0, 1):
        side = luma.shape[axis]
        if side < SIDE:
            luma = np.repeat(luma, -(-SIDE // side), axis=axis)
            side = luma.shape[axis]
        edges = np.arange(SIDE) * side // SIDE
        counts = np.diff(np.append(edges, side)).astype(np.float32)
        luma = np.add.reduceat(luma, edges, axis=axis)
        luma /= counts[:, None] if axis == 0 else counts[None, :]
    return luma


def likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The correlation of two such versions, in [-1, 1]: the best of nine shifts by a field.

    Brightness and contrast do not count; colour is not looked at. Two pictures without any
    contrast are alike, one such picture is like no other.
    """
    inner = _normal(one[1:-1, 1:-1])
    shifts = (other[y : y + SIDE - 2, x : x + SIDE - 2] for y in range(3) for x in range(3))
    return max(_correlation(inner, _normal(part)) for part in shifts)


def _normal(part: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean 0 and length 1; all 0 without contrast."""
    part = part - part.mean()
    length = float(np.linalg.norm(part))
    return part / length if length > 1e-2 else np.zeros_like(part)


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    if not one.any() and not other.any():
        return 1.0
    return float(np.vdot(one, other))


class PixelCheck:
    """Confirms that pictures are alike by their pixels; each is read once.

    read: the pixels of a picture by its id, or None where it cannot be read: then it is like none,
    and counted in `unread`.
    """

    def __init__(
        self, read: Callable[[int], Pixels | None], threshold: float = SAME_PIXELS
    ) -> None:
        self._read = read
        self._threshold = threshold
        self._known: dict[int, NDArray[np.float32] | None] = {}
        self.unread = 0

    def __call__(self, one: int, other: int) -> bool:
        first, second = self._grey(one), self._grey(other)
        if first is None or second is None:
            return False
        return likeness(first, second) >= self._threshold

    def _grey(self, id_: int) -> NDArray[np.float32] | None:
        if id_ not in self._known:
            pixels: Any = self._read(id_)
            self.unread += pixels is None
            self._known[id_] = None if pixels is None else grey(pixels)
        return self._known[id_]
