"""How many threads numpy's matrix products use.

One query through a text tower is 50 small products. Split between threads they gain nothing, and
where another program keeps the cores busy each waits for the slowest thread: on two busy cores
0.03 s became 1.8 s. numpy has no setting for this, so the OpenBLAS in its wheel is asked directly.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

#: The prefix and suffix that numpy's wheels, and others, give OpenBLAS's names.
_NAMES = (("scipy_openblas", "64_"), ("scipy_openblas", ""), ("openblas", "64_"), ("openblas", ""))


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, products take one thread. Where numpy has another BLAS, nothing changes.

    The number is the process's: other threads' products meanwhile are slower, never wrong.
    """
    calls = _thread_calls()
    if calls is None:
        yield
        return
    get, put = calls
    before = get()
    put(1)
    try:
        yield
    finally:
        put(before)


@lru_cache(maxsize=1)
def _thread_calls() -> tuple[Any, Any] | None:
    """OpenBLAS's own functions to get and set the number of threads."""
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
