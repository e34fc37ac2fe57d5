"""The FAISS index in an index file: writing it, and telling it from others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mmsearch.index.part import codes, empty_index
from mmsearch.index.positions import Ids

_BYTES_A_WRITE = 1 << 20


def write(path: Path, dim: int, ids: Ids, blocks: Iterator[NDArray[np.float16]]) -> None:
    """Writes an index of the vectors of these contents."""
    # Held in a name of its own: the map does not keep the index it wraps alive.
    vectors = empty_index(dim)
    mapped = faiss.IndexIDMap(vectors)
    vectors.codes.resize(len(ids) * vectors.code_size)
    vectors.ntotal = mapped.ntotal = len(ids)
    faiss.copy_array_to_vector(ids, mapped.id_map)
    rows, start = codes(vectors), 0
    for block in blocks:
        rows[start : start + len(block)] = block
        start += len(block)
    # Not by name: then FAISS itself says on stderr that the disk is full, and forgets it.
    with path.open("wb") as file:
        writer: Any = faiss.PyCallbackIOWriter  # type: ignore[attr-defined] # its types lack it
        faiss.write_index(mapped, writer(file.write, _BYTES_A_WRITE))


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
