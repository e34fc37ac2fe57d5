"""Vectors of what is forgotten for good, taken out of index files without writing those anew.

The vectors are overwritten with zeros where they stand; their contents stay in the file as hidden
ones, which searches leave out. A file is not to be trusted while it is changed: its manifest goes
before and comes back afterwards, so that one that a kill left in between is built anew.
"""

from __future__ import annotations

import itertools
import logging
import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import VectorIndexError
from mmsearch.index import manifest, measured
from mmsearch.index.manifest import Manifest
from mmsearch.points import reached

logger = logging.getLogger(__name__)

Ids = NDArray[np.int64]


def places(path: Path, about: Manifest, ids: Ids) -> Ids:
    """Where in the index file `path` vectors of these contents (n,) stand, (m,), ascending.

    Raises OSError when it cannot be read.
    """
    held, _ = manifest.read_ids(path, about)
    at = np.searchsorted(held, ids)
    there = at < len(held)
    there[there] = held[at[there]] == ids[there]
    return np.sort(at[there])


def overwrite(path: Path, about: Manifest, at: Ids) -> Manifest:
    """Writes zeros over the vectors at these places (n,), ascending, and down to the disk.

    Returns what is to be said of the file then. Raises OSError when it cannot be written.
    """
    row = 2 * about.dim
    first = manifest.vectors_at(about)
    with path.open("r+b", buffering=0) as file:
        for start, stop in runs(at):
            file.seek(first + start * row)
            file.write(bytes((stop - start) * row))
        os.fsync(file.fileno())
        reached("erase: overwritten")
        file.seek(0)
        head = zlib.crc32(file.read(manifest.HEAD_BYTES))
    return replace(about, head=head)


def runs(at: Ids) -> list[tuple[int, int]]:
    """Ascending places as ranges: where each begins, and where it has ended."""
    if not len(at):
        return []
    breaks = np.flatnonzero(np.diff(at) > 1) + 1
    edges = [0, *breaks.tolist(), len(at)]
    return [(int(at[a]), int(at[b - 1]) + 1) for a, b in itertools.pairwise(edges)]


def out_of_fast(path: Path, base: Manifest, at: Ids) -> None:
    """Takes the codes of the vectors at these places out of the approximate index beside the index
    file `path`, which `base` describes now. The caller holds the lock for this.

    One that is damaged is removed, and so is one that the disk does not take: searches are exact
    then. Raises VectorIndexError when it cannot be deleted either.
    """
    about = measured.read(path)
    if about is None:
        return
    from mmsearch.index import fast

    try:
        if fast.erase(path, about, measured.tie(base), at):
            return
    except VectorIndexError as exc:
        logger.warning("%s", exc)
    measured.remove(path)
