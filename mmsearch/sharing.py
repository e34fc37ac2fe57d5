"""A lock that many threads hold together, or one alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """Held by any number of threads at once, or by one alone; who wants it alone goes first.

    Who holds it may ask for it again the same way, who holds it alone either way. Who shares it
    cannot have it alone: two of them would wait for each other. That is an error.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._sharing = 0
        self._waiting = 0
        self._owner: int | None = None
        self._depth = 0
        self._mine = threading.local()

    @property
    def is_shared_here(self) -> bool:
        """Whether this thread shares it."""
        return bool(getattr(self._mine, "held", 0))

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Held together with others."""
        held = getattr(self._mine, "held", 0)
        if not held and self._owner != threading.get_ident():
            with self._changed:
                while self._owner is not None or self._waiting:
                    self._changed.wait()
                self._sharing += 1
        elif not held:
            # Alone already: that is more.
            with self.alone():
                yield
            return
        self._mine.held = held + 1
        try:
            yield
        finally:
            self._mine.held = held
            if not held:
                with self._changed:
                    self._sharing -= 1
                    if not self._sharing:
                        self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Held by this thread and no other."""
        me = threading.get_ident()
        if self.is_shared_here:
            raise RuntimeError("a thread that shares the lock cannot have it alone")
        if self._owner != me:
            with self._changed:
                self._waiting += 1
                try:
                    while self._owner is not None or self._sharing:
                        self._changed.wait()
                    self._owner = me
                finally:
                    self._waiting -= 1
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                with self._changed:
                    self._owner = None
                    self._changed.notify_all()
