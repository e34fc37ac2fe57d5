"""Questions that wait for a search thread: the first of many to get one has them compared at once.

So nobody waits for others to come: what is compared together has waited anyway.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmsearch.stages import stage

if TYPE_CHECKING:
    from mmsearch.query import Question
    from mmsearch.types import Modality

#: Of so many questions at once, the comparisons take less time together than one by one.
LEAST = 8


@dataclass(eq=False, slots=True)
class _Waiting:
    """A question; `ready` is that of those it was taken together with, None until then."""

    modality: Modality
    question: Question
    ready: threading.Event | None = field(default=None)


class Together:
    """What waits, and who has it compared. Thread-safe."""

    def __init__(
        self, compare: Callable[[Modality, Sequence[Question]], None], *, most: int
    ) -> None:
        """compare: looks ahead for questions that are about to be asked. most: how many at once."""
        self._compare = compare
        self._most = most
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []

    @contextmanager
    def waiting(self, modality: Modality, question: Question) -> Iterator[Callable[[], None]]:
        """Within, a question waits for its thread. Gives what that is to call first.

        It returns when the question was compared with those that wait behind it, or with those
        before it; at once where too few wait. Raises what `compare` raises.
        """
        job = _Waiting(modality, question)
        with self._lock:
            self._waiting.append(job)
        try:
            yield lambda: self._begin(job)
        finally:
            with self._lock:
                if job in self._waiting:  # nobody asks it any more
                    self._waiting.remove(job)

    def _begin(self, job: _Waiting) -> None:
        with self._lock:
            taken = self._take(job) if job.ready is None else []
        if taken:
            assert job.ready is not None
            try:
                with stage("compare"):
                    self._compare(job.modality, [one.question for one in taken])
            finally:
                job.ready.set()
        elif job.ready is not None and not job.ready.is_set():
            # Another thread is about to have it: to compare it here would take that one's core.
            with stage("compare"):
                job.ready.wait()

    def _take(self, job: _Waiting) -> list[_Waiting]:
        """The question and those that wait behind it; none where they are too few."""
        if job in self._waiting:
            self._waiting.remove(job)
        alike = [one for one in self._waiting if one.modality == job.modality]
        taken = [job, *alike[: self._most - 1]]
        if len(taken) < LEAST:
            return []
        ready = threading.Event()
        for one in taken:
            one.ready = ready
        self._waiting = [one for one in self._waiting if one.ready is None]
        return taken
