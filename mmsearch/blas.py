"""How many threads numpy's matrix products use.

One query through a text tower is 50 small products. Split between threads they gain nothing, and
where another program keeps the cores busy each waits for the slowest thread: on two busy cores
0.03 s became 1.8 s. And a thread that OpenBLAS has woken once looks for more work for some 30 ms
before it sleeps, on a core that others could use. numpy has no setting for this, so the OpenBLAS in
its wheel is asked directly.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

#: The prefix and suffix that numpy's wheels, and others, give OpenBLAS's names.
_NAMES = (("scipy_openblas", "64_"), ("scipy_openblas", ""), ("openblas", "64_"), ("openblas", ""))

_lock = threading.Lock()
_within = 0  # how many are within `one_thread`
_before = 1  # the number before the first of them


def _forked() -> None:
    """Another thread may have had the lock, and does not come along. What it was within stays
    counted: one thread then, which is slower, never wrong."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, products take one thread. Where numpy has another BLAS, nothing changes.

    The number is the process's: other threads' products meanwhile are slower, never wrong. So those
    who are within are counted, and the last one to leave puts it back: were each to put back what
    it found, one could leave the number at 1 for good, or take it from another.
    """
    global _within, _before
    calls = _thread_calls()
    if calls is None:
        yield
        return
    get, put = calls
    with _lock:
        if not _within:
            _before = get()
            put(1)
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if not _within:
                put(_before)


@lru_cache(maxsize=1)
def _thread_calls() -> tuple[Any, Any] | None:
    """OpenBLAS's own functions to get and set the number of threads."""
    import numpy as np  # whoever is here uses it; this module itself costs nothing

    package = Path(np.__file__).parent
    for folder in (package.with_name("numpy.libs"), package / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            try:
                library = ctypes.CDLL(str(path))
            except OSError as exc:
                logger.debug("cannot open %s: %s", path, exc)
                continue
            for prefix, suffix in _NAMES:
                try:
                    get = getattr(library, f"{prefix}_get_num_threads{suffix}")
                    put = getattr(library, f"{prefix}_set_num_threads{suffix}")
                except AttributeError:
                    continue
                get.restype, put.argtypes, put.restype = ctypes.c_int, [ctypes.c_int], None
                return get, put
    return None
