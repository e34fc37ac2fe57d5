"""One piece of work in flight while the next is fetched and started."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
F = TypeVar("F")
R = TypeVar("R")


def overlapped(
    inputs: Iterable[T], start: Callable[[T], F], finish: Callable[[F], R]
) -> Generator[R, None, None]:
    """`finish(start(x))` of each input, in order; the next is started before one is finished.

    Whatever happens, what was started is finished: also where the inputs, `start` or whoever takes
    the results fails or stops early.
    """
    flying: F | None = None
    try:
        for item in inputs:
            started = start(item)
            before, flying = flying, started
            if before is not None:
                yield finish(before)
        if flying is not None:
            last, flying = flying, None
            yield finish(last)
    finally:
        if flying is not None:
            finish(flying)
