"""How long the stages of an answer take, told to whoever wants to know. Costs nothing otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: Takes the name of a stage and its seconds.
Observer = Callable[[str, float], None]

_observer: ContextVar[Observer | None] = ContextVar("mmsearch_stages", default=None)


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Within, in this thread or task, `observer` is told of each stage that ends well."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """What is done within is the stage `name` of an answer."""
    observer = _observer.get()
    if observer is None:
        yield
        return
    began = time.perf_counter()
    yield
    observer(name, time.perf_counter() - began)
