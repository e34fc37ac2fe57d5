"""How many threads FAISS takes, and torch where it is loaded: they share a number."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import faiss


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """If `wanted`, FAISS and torch work in the calling thread alone: right for searches.

    On a busy machine one that takes 1 ms takes 20 to 40 ms otherwise, waiting for threads that are
    not scheduled; what is worth sharing is shared by mmsearch.index.crew, which does not wait.
    Other threads of the process keep their number.
    """
    if not wanted:
        yield
        return
    before = faiss.omp_get_max_threads()
    # torch's first call in a thread, whatever it is, sets the number.
    settle_torch = getattr(sys.modules.get("torch"), "get_num_threads", None)
    if settle_torch is not None:  # else not there, or another thread is just importing it
        settle_torch()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
