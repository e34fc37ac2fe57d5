"""The FAISS index in an index file: writing it, and telling it from others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mmsearch.index.part import empty_index
from mmsearch.index.positions import Ids

#: Bytes of the length of a list in FAISS's files.
_LENGTH = 8


def write(path: Path, dim: int, ids: Ids, blocks: Iterator[NDArray[np.float16]]) -> None:
    """Writes an index of the vectors of these contents, which come in blocks (m, dim).

    As FAISS's write_index would, which wants all of them in memory: what an index of none looks
    like is taken from it, and ends with the lengths of its two lists, codes and ids. Not by name:
    then FAISS itself says on stderr that the disk is full, and forgets it.
    """
    # Held in a name of its own: the map does not keep the index it wraps alive.
    vectors = empty_index(dim)
    empty = faiss.IndexIDMap(vectors)
    vectors.ntotal = empty.ntotal = len(ids)
    head = bytes(faiss.serialize_index(empty))
    assert head.endswith(bytes(2 * _LENGTH))
    head = head[: -2 * _LENGTH]
    with path.open("wb") as file:
        file.write(head)
        file.write((len(ids) * vectors.code_size).to_bytes(_LENGTH, "little"))
        for block in blocks:
            file.write(np.ascontiguousarray(block, "<f2").data)
        file.write(len(ids).to_bytes(_LENGTH, "little"))
        file.write(np.ascontiguousarray(ids, "<i8").data)


def fits(mapped: Any, ids: Ids) -> bool:
    """Whether what FAISS read is an index of the kind that `write` writes, of these contents."""
    if not isinstance(mapped, faiss.IndexIDMap):
        return False
    inner, model = faiss.downcast_index(mapped.index), empty_index(mapped.d)
    return (
        isinstance(inner, faiss.IndexScalarQuantizer)
        and (inner.d, inner.sq.qtype, inner.metric_type, inner.code_size)
        == (model.d, model.sq.qtype, model.metric_type, model.code_size)
        and inner.ntotal == mapped.ntotal == len(ids)
        and inner.codes.size() == len(ids) * inner.code_size
        and np.array_equal(faiss.vector_to_array(mapped.id_map), ids)
    )
