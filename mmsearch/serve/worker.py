"""What a worker process does: answers questions and embeds texts, one order after the other.

It opens the library by itself, for reading, and notices what others commit. The weights of the text
encoder and the vectors are mapped files: workers share their memory.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

from mmsearch.errors import MmsearchError
from mmsearch.serve import heap
from mmsearch.stages import observing

if TYPE_CHECKING:
    from mmsearch.library import Library
    from mmsearch.query import Question
    from mmsearch.queryencoder import Kept
    from mmsearch.types import Modality

log = logging.getLogger(__name__)


#: Signals that are for the service, which ends its workers by closing the connection.
STOPS = frozenset({signal.SIGINT, signal.SIGTERM})
#: See `Order`.
What = Literal["warm", "answer", "embed"]


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to do.

    what: "warm", to load what it needs; "answer", `questions` about `modality`; or "embed", `texts`
        as they are. kept: vectors of their texts that were made before. threads: how many it may
        work with.
    """

    what: What
    threads: int
    modality: Modality = "image"
    questions: Sequence[Question] = ()
    texts: Sequence[str] = ()
    kept: Kept | None = None


@dataclass(slots=True)
class Reply:
    """What came of an order.

    result: of "answer", for each question its answer, or why there is none, and the name of the
        model that compared; of "embed" the space and the vectors (n, dim). error: why there is no
        result. stages: the seconds that each stage took. encoded, encode_s: how many texts went
        through the model, in how many seconds; their vectors are in `made`. records: log lines.
    """

    result: Any = None
    error: Exception | None = None
    stages: dict[str, float] = field(default_factory=dict)
    encoded: int = 0
    encode_s: float = 0.0
    made: Kept | None = None
    records: list[logging.LogRecord] = field(default_factory=list)


def work(connection: Connection, path: Path) -> None:
    """Takes orders, until the other end is closed. The target of a process."""
    for stop in STOPS:
        signal.signal(stop, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # see `workers`
    # Log lines go to the service, which knows how they are to look.
    lines: SimpleQueue[logging.LogRecord] = SimpleQueue()
    logging.getLogger().addHandler(QueueHandler(lines))
    heap.bound()
    worker = _Worker(path)
    # Ended by a service that has ended itself, in whatever way.
    with contextlib.suppress(EOFError, OSError):
        trimmed = time.monotonic()
        while True:
            came = connection.poll(heap.EVERY_S)
            if time.monotonic() - trimmed >= heap.EVERY_S:
                heap.trim()
                trimmed = time.monotonic()
            if not came:
                continue
            order: Order = connection.recv()
            try:
                reply = worker.do(order)
            except Exception as exc:  # an edge: told to the service, which answers
                if not isinstance(exc, MmsearchError):
                    log.exception("a worker failed")
                    exc = RuntimeError(f"{type(exc).__name__}: {exc}")
                reply = Reply(error=exc)
            reply.records = [lines.get() for _ in range(lines.qsize())]
            connection.send(reply)


class _Worker:
    """A library, opened and loaded with the first order."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _library(self) -> Library:
        from mmsearch.library import Library

        library = Library(self._path, device="cpu")
        try:
            library.warm(texts_only=True)
        except BaseException:
            library.close()
            raise
        heap.settle()
        return library

    def do(self, order: Order) -> Reply:
        """What comes of an order. Raises what keeps it from being done."""
        library = self._library
        _use_threads(order.threads)
        if order.kept is not None:
            library.keep(order.kept)
        if order.what == "warm":
            return Reply()
        if order.what == "embed":
            reply = self._encoded(order.texts)
            reply.result = library.embed_texts(order.texts)
            return reply
        reply = self._encoded([text for one in order.questions for text in library.sentences(one)])
        took: defaultdict[str, float] = defaultdict(float)

        def on_stage(stage: str, seconds: float) -> None:
            took[stage] += seconds

        with observing(on_stage):
            answers = library.ask_many(order.modality, order.questions)
        model = library.model
        reply.result = [(answer, model) for answer in answers]
        reply.stages = dict(took)
        return reply

    def _encoded(self, texts: Sequence[str]) -> Reply:
        """Has the vectors of texts made, as far as they are not kept."""
        before = self._library.kept_texts(texts).vectors
        new = [text for text in dict.fromkeys(texts) if text not in before]
        if not new:
            return Reply()
        self._library.hasten()  # the model may be another than at the start
        began = time.perf_counter()
        self._library.keep_texts(new)
        took = time.perf_counter() - began
        return Reply(encoded=len(new), encode_s=took, made=self._library.kept_texts(new))


def _use_threads(threads: int) -> None:
    """From now on; torch and FAISS have come with the library, in this order."""
    from mmsearch.encode import use_threads
    from mmsearch.index.crew import limit

    limit(threads)
    use_threads(threads)
