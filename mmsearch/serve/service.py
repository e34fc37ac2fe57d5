"""What the routes share: the library, the settings, and the threads of blocking calls."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

import numpy as np

from mmsearch.errors import MmsearchError, OverloadedError
from mmsearch.plaintext import in_utf8
from mmsearch.queryencoder import NotKeptError
from mmsearch.serve import heap
from mmsearch.serve.batching import Batcher
from mmsearch.serve.exchange import ClientGoneError, Exchange, current, unless_gone
from mmsearch.serve.metrics import Metrics
from mmsearch.serve.workers import Worker, Workers
from mmsearch.settings import Settings
from mmsearch.stages import observing
from mmsearch.types import ImageHit, Modality, TextHit

if TYPE_CHECKING:
    from mmsearch.library import Library
    from mmsearch.query import QueryPicture, Question
    from mmsearch.serve.worker import Reply
    from mmsearch.types import Answer, Space, Vectors

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
Hit = TypeVar("Hit", ImageHit, TextHit)

#: Reading a file or making a thumbnail waits for the disk or leaves the interpreter lock.
FILE_THREADS = 4
#: Decoding of uploads, and large JSON. They have threads of their own: a hostile one takes its
#: time, all of it.
UPLOAD_THREADS = 2
#: What is said to a question, and the name of the model that compared.
_Said = tuple["Answer[Any] | MmsearchError", str | None]

#: For questions that others would have to wait for.
LONG_THREADS = min(4, os.cpu_count() or 1)
#: Those that look deeper are such ones.
_LONG = 200
#: How old may be what is known of the library's place.
_LOOK_EVERY_S = 1.0
#: How often a question is encoded before it is left to the model's thread whole: each time, what it
#: needs was forgotten again, or another model has become the library's.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question, for whom, and the sentences of it that must be encoded first."""

    modality: Modality
    question: Question
    exchange: Exchange | None
    lacking: Sequence[str]


class Service:
    """One library being served.

    Its calls block, so they run in threads and the event loop is never held. One thread owns the
    model; it encodes the questions of many together, and answers them. Another one answers those
    whose vectors are kept, together as well. Not more, because threads that all run Python wait for
    each other at each call of the database: with two that searched, 137 questions a second were
    answered where one answered 182. Only questions that may take long have threads of their own, as
    have files and uploads. More cores are used by worker processes, where they are wanted
    (`Settings.workers`): then they answer most questions.
    """

    def __init__(self, library: Library, settings: Settings) -> None:
        self.library = library
        self.settings = settings
        self.metrics = Metrics(self)
        self.batcher = Batcher(
            max_batch=settings.max_batch,
            max_wait_ms=settings.max_wait_ms,
            max_queue=settings.max_queue,
            on_batch=self.metrics.on_batch,
            on_dropped=self.metrics.on_dropped,
        )
        self._search = Batcher(
            max_batch=settings.max_batch,
            max_queue=settings.max_queue,
            max_wait_ms=settings.max_wait_ms,
            name="search",
            on_dropped=self.metrics.on_dropped,
        )
        wanted = settings.workers if settings.workers > 1 else 0
        self.workers = Workers(
            library.path,
            [
                Batcher(
                    max_batch=settings.max_batch,
                    max_wait_ms=settings.max_wait_ms,
                    max_queue=-(-settings.max_queue // wanted),
                    on_batch=self.metrics.on_batch,
                    on_dropped=self.metrics.on_dropped,
                )
                for _ in range(wanted)
            ],
        )
        self._long = _Threads("search", LONG_THREADS, settings.max_queue)
        self._files = _Threads("files", FILE_THREADS, None)
        self._uploads = _Threads("uploads", UPLOAD_THREADS, settings.max_queue)
        self.state: Literal["warming", "ready", "failed"] = "warming"
        self.problem: str | None = None
        #: Set when a stop was asked for: what has come is answered, new requests are refused.
        self.stopping = False
        #: Set in the loop right after: ends answers that would have no end.
        self.closing = asyncio.Event()
        self._in_place_until = 0.0
        #: Requests that have come and are not answered yet, but for those without end.
        self.in_flight = 0

    @property
    def waiting(self) -> int:
        """How many jobs wait for the model."""
        return len(self.batcher) + len(self.workers)

    async def infer(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what uses the model by itself; calls are answered in the order they came."""
        return await unless_gone(self.batcher.call(_in_context(call, *args, **kwargs)))

    async def read(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what reads the catalog or a file."""
        return await self._files.run(_in_context(call, *args, **kwargs))

    async def prepare(self, call: Callable[[], T]) -> T:
        """Run what takes long to read or to write, and needs neither the model nor the library."""
        return await self._uploads.run(_in_context(call))

    async def picture(self, data: bytes) -> QueryPicture:
        """An uploaded picture, decoded unless its vector is known; the model's thread goes on
        meanwhile. Raises DecodeError, OverloadedError."""
        picture = await self.read(self.library.look_up, data)
        kept = self.library.keeps(picture)
        self.metrics.asked_cache("image", hits=int(kept), misses=int(not kept))
        if picture.content_id is not None or kept:
            return picture
        return await self._decoded(picture)

    async def _decoded(self, picture: QueryPicture) -> QueryPicture:
        side = await self.infer(self.library.picture_side)
        decode = _in_context(self.library.decode_picture, picture, side)
        return await unless_gone(asyncio.ensure_future(self._uploads.run(decode)))

    @property
    def trouble(self) -> str | None:
        """What keeps it from being ready, for people; None where nothing does, or the model is
        being loaded."""
        if not self.library.catalog.is_in_place():
            path = in_utf8(str(self.library.path))
            return (
                f"the library {path} was moved, deleted or replaced after it was opened: start the "
                "service again"
            )
        return self.problem

    def is_replaced(self) -> bool:
        """Whether another library lies where this one was, by a look that is a second old at most.

        Answers would be of the old one, files and what is written of the new one.
        """
        now = time.monotonic()
        if now < self._in_place_until:
            return False
        replaced = self.library.catalog.is_replaced()
        if not replaced:
            self._in_place_until = now + _LOOK_EVERY_S
        return replaced

    @property
    def is_ready(self) -> bool:
        """Whether the model is loaded, and the library the one that it was opened as."""
        return self.state == "ready" and self.trouble is None

    def model(self) -> str | None:
        """The name of the active space's model; None in an empty library. Blocks: may read."""
        space = self.library.space
        return None if space is None else space.name

    async def answer(
        self, call: Callable[[Question], Answer[Hit]], question: Question
    ) -> tuple[Answer[Hit], str | None]:
        """What the library says to a question, and the name of the model that compared.

        What has to be encoded is encoded together with what others ask at the same time.
        """
        lacking, sentences = self.library.lacking(question)
        if sentences:
            self.metrics.asked_cache("text", sentences - len(lacking), len(lacking))
        if lacking and _is_long(question):
            await self._keep(texts=lacking)
            lacking = []
        for _ in range(_TRIES):
            try:
                return await self._ask(call, question, lacking)
            except NotKeptError as needed:
                await self._keep(texts=needed.texts, pictures=needed.pictures)
            lacking = []
        return await self.infer(self._answered, call, question)

    async def encode_and_answer(
        self, call: Callable[[Question], Answer[Hit]], question: Question
    ) -> tuple[Answer[Hit], str | None]:
        """The same for a question that needs the model."""
        result = await self.answer(call, question)
        # It has worked, so the model is there (also when it was not at the start).
        self.state, self.problem = "ready", None
        return result

    async def _ask(
        self, call: Callable[[Question], Answer[Hit]], question: Question, lacking: Sequence[str]
    ) -> tuple[Answer[Hit], str | None]:
        exchange = current.get()
        if exchange is not None and exchange.is_gone:
            raise ClientGoneError
        modality: Modality = "text" if call == self.library.ask_texts else "image"
        asked = _Asked(modality, question, exchange, lacking)
        answer, model = await unless_gone(self._begun(asked))
        if isinstance(answer, MmsearchError):
            try:
                raise answer
            finally:
                del answer  # which holds this frame
        return answer, model

    def _begun(self, asked: _Asked) -> asyncio.Future[_Said]:
        """What is said to a question, once whoever is to answer it has."""
        question, modality, lacking = asked.question, asked.modality, asked.lacking
        if _is_long(question):
            return asyncio.ensure_future(
                self._long.run(_in_context(lambda: self._answers([asked])[0]))
            )
        if self.workers.ready and all(term.image is None for term in question.terms):
            return self.workers.submit(modality, self._of_worker, asked, max(1, len(lacking)))
        if lacking:
            return self.batcher.submit(
                f"{modality}-question", self._encode_and_answer, asked, len(lacking)
            )
        return self._search.submit(modality, self._answers, asked)

    def _encode_and_answer(self, asked: Sequence[_Asked]) -> list[_Said]:
        """The same for questions whose words are not encoded yet.

        In one thread: another one would only wait for it, and the two for each other.
        """
        self._keep_texts([one.lacking for one in asked])
        return self._answers(asked)

    def _answers(self, asked: Sequence[_Asked]) -> list[_Said]:
        """What the library says to questions of one modality, without running the model."""
        modality = asked[0].modality
        with self._observing([one.exchange for one in asked]), self.library.kept_only():
            answers = self.library.ask_many(modality, [one.question for one in asked])
            model = self.library.model
        return [(answer, model) for answer in answers]

    def _of_worker(self, worker: Worker, asked: Sequence[_Asked]) -> Sequence[_Said]:
        """The same by a worker, which encodes what it must."""
        self.library.refresh()  # or this process would never take in what is committed
        questions = [one.question for one in asked]
        sentences = [text for one in questions for text in self.library.sentences(one)]
        reply = worker.call(
            "answer",
            modality=asked[0].modality,
            questions=questions,
            kept=self.library.kept_texts(sentences),
        )
        self._encoded_by_worker(reply)
        for stage, seconds in reply.stages.items():
            self.metrics.on_stage(stage, seconds)
        for one in asked:
            if one.exchange is not None:
                one.exchange.took(reply.stages)
        said: Sequence[_Said] = reply.result
        return said

    def _encoded_by_worker(self, reply: Reply) -> None:
        if reply.made is not None:
            self.metrics.on_encoded("text", reply.encoded, reply.encode_s)
            self.library.keep(reply.made)

    @contextmanager
    def _observing(self, exchanges: Sequence[Exchange | None]) -> Iterator[None]:
        """Within, stages count for the service; all together, for each of these exchanges."""
        took: defaultdict[str, float] = defaultdict(float)

        def on_stage(stage: str, seconds: float) -> None:
            self.metrics.on_stage(stage, seconds)
            took[stage] += seconds

        try:
            with observing(on_stage):
                yield
        finally:
            for exchange in exchanges:
                if exchange is not None:
                    exchange.took(took)

    def _answered(
        self, call: Callable[[Question], Answer[Hit]], question: Question
    ) -> tuple[Answer[Hit], str | None]:
        with self._observing([current.get()]):
            return call(question), self.library.model

    async def text_vectors(self, texts: Sequence[str]) -> tuple[Space, Vectors]:
        """The vectors (n, dim) of texts as they are, and of which space; encoded together with what
        others ask for."""
        if self.workers.ready:
            return await unless_gone(
                self.workers.submit("vectors", self._vectors_of_worker, texts, len(texts))
            )
        return await unless_gone(
            self.batcher.submit("text vectors", self._text_vectors, texts, len(texts))
        )

    async def picture_vector(self, picture: QueryPicture) -> tuple[Space, Vectors]:
        """The same of a picture, (1, dim). Raises DecodeError."""
        return await unless_gone(
            self.batcher.submit("picture vectors", self._picture_vectors, picture)
        )

    def _text_vectors(self, jobs: Sequence[Sequence[str]]) -> list[tuple[Space, Vectors]]:
        texts = [text for job in jobs for text in job]
        with self.metrics.encoding("text", len(texts)):
            space, found = self.library.embed_texts(texts)
        return _shared_out(space, found, jobs)

    def _vectors_of_worker(
        self, worker: Worker, jobs: Sequence[Sequence[str]]
    ) -> list[tuple[Space, Vectors]]:
        self.library.refresh()
        texts = [text for job in jobs for text in job]
        reply = worker.call("embed", texts=texts, kept=self.library.kept_texts(texts))
        self._encoded_by_worker(reply)
        space, found = reply.result
        return _shared_out(space, found, jobs)

    def _picture_vectors(self, jobs: Sequence[QueryPicture]) -> list[tuple[Space, Vectors]]:
        with self.metrics.encoding("image", len(jobs)):
            self.library.keep_pictures([one for one in jobs if one.content_id is None])
            space, found = self.library.embed_pictures(jobs)
        return [(space, found[n : n + 1]) for n in range(len(jobs))]

    async def _keep(
        self, *, texts: Sequence[str] = (), pictures: Sequence[QueryPicture] = ()
    ) -> None:
        """Has vectors made of what is asked for, and kept by the library."""
        if texts:
            await unless_gone(self.batcher.submit("text", self._keep_texts, texts, len(texts)))
        for picture in pictures:
            if picture.pixels is None:
                picture = await self._decoded(picture)
            await unless_gone(self.batcher.submit("image", self._keep_pictures, picture))

    def _keep_texts(self, jobs: Sequence[Sequence[str]]) -> Sequence[None]:
        texts = [text for texts in jobs for text in texts]
        with self.metrics.encoding("text", len(texts)):
            self.library.keep_texts(texts)
        return [None] * len(jobs)

    def _keep_pictures(self, jobs: Sequence[QueryPicture]) -> Sequence[None]:
        with self.metrics.encoding("image", len(jobs)):
            self.library.keep_pictures(jobs)
        return [None] * len(jobs)

    async def warm(self) -> None:
        """Load the model in its thread; questions that come meanwhile wait behind it."""
        try:
            await self.infer(self.library.warm)
            await self._start_workers()
            await self.infer(heap.settle)
        except MmsearchError as exc:
            # The page, the files and the status still work; a search says the same again.
            log.error("the model could not be loaded: %s", exc)
            self.state, self.problem = "failed", str(exc)
        except Exception:  # an edge: nobody awaits this task
            log.exception("the model could not be loaded")
            self.state, self.problem = "failed", "the model could not be loaded; the log says why"
        else:
            self.state, self.problem = "ready", None

    async def _start_workers(self) -> None:
        if self.settings.workers < 2:
            return
        device = self.library.loaded_device
        if device != "cpu":
            log.warning("no workers are started: on %s one process answers", device)
            return
        try:
            await self.workers.start()
        except Exception as exc:  # an edge: searches work without them
            known = isinstance(exc, MmsearchError)
            log.error("without workers, this process answers: %s", exc, exc_info=not known)

    def close(self) -> None:
        """Let running calls end, but for those of workers, and drop those that wait."""
        heap.unsettle()
        self.workers.close()
        self.batcher.close()
        self._search.close()
        for threads in (self._long, self._files, self._uploads):
            threads.close()

    def join(self, seconds: float | None = None) -> bool:
        """Waits for what the model and the search were at when they were closed; False when that
        takes longer. It only reads: nothing is lost if it never ends."""
        until = None if seconds is None else time.monotonic() + seconds
        return all(
            batcher.join(None if until is None else max(0.0, until - time.monotonic()))
            for batcher in (self.batcher, self._search)
        )


def _is_long(question: Question) -> bool:
    """Whether a question may take much longer than others, which then must not wait for it."""
    return bool(
        question.where is not None
        or question.group
        or question.diversity
        or question.exact
        or question.offset + question.k > _LONG
    )


def _shared_out(
    space: Space, vectors: Vectors, jobs: Sequence[Sequence[str]]
) -> list[tuple[Space, Vectors]]:
    """The vectors (n, dim) of the texts of all jobs, to each its own."""
    ends = np.cumsum([len(job) for job in jobs])[:-1]
    return [(space, part) for part in np.split(vectors, ends)]


class _Threads:
    """Some threads, and a queue before them that may be bounded."""

    def __init__(self, name: str, threads: int, max_queue: int | None) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"mmsearch-{name}")
        self._most = None if max_queue is None else max_queue + threads
        self._running = 0

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns. Raises OverloadedError when too much is waiting."""
        if self._most is not None and self._running >= self._most:
            raise OverloadedError(
                f"{self._running} requests are waiting for the {self._name} threads already; ask "
                "again in a moment (MMSEARCH_MAX_QUEUE lets more wait)"
            )
        self._running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._running -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _in_context(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
    """A call to run in a thread that knows which request it is for, as its log lines do."""
    context = contextvars.copy_context()
    return functools.partial(context.run, functools.partial(call, *args, **kwargs))
