"""One request and its answer: an id, how long the stages took, and whether anybody still waits."""

from __future__ import annotations

import asyncio
import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TypeVar

from starlette.types import Message, Receive

from mmsearch.errors import MmsearchError

T = TypeVar("T")

#: The request that this task, or this thread, works for.
current: ContextVar[Exchange | None] = ContextVar("mmsearch_exchange", default=None)

#: What an id from outside may look like: it goes into logs and headers.
_SANE_ID = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}")
#: New ids: no two are alike, and nobody is let in for knowing one.
_ids = random.Random()


class ClientGoneError(MmsearchError):
    """Who asked has hung up: nobody reads the answer."""

    def __init__(self) -> None:
        super().__init__("the client has closed the connection")


class CutShortError(Exception):
    """An answer that has begun cannot be ended: the connection must be, so that the client does not
    take what it has for all of it. The message says why."""


def request_id(given: bytes | None) -> str:
    """The id that a client gave its request, if it is a plain one, or a new one."""
    if given is not None and _SANE_ID.fullmatch(given):
        return given.decode("ascii")
    return f"{_ids.getrandbits(128):032x}"


class Exchange:
    """A request being answered."""

    def __init__(self, id_: str, receive: Receive, closing: asyncio.Event | None = None) -> None:
        """closing: set when the service stops, which ends answers that have no end."""
        self.id = id_
        #: The template of the route that answers ("/v1/images/{image_id}"); "" where none does.
        self.route = ""
        #: Whether it was turned away because of too much work, or a stop.
        self.is_refused = False
        #: Seconds of each stage.
        self.stages: defaultdict[str, float] = defaultdict(float)
        #: Whether the answer goes on until somebody ends it (server-sent events).
        self.is_endless = False
        self._receive = receive
        self._closing = closing or asyncio.Event()
        self._is_whole = False
        self._watch: asyncio.Task[None] | None = None

    def took(self, stages: Mapping[str, float]) -> None:
        """Adds how many seconds stages took."""
        for stage, seconds in stages.items():
            self.stages[stage] += seconds

    @property
    def is_gone(self) -> bool:
        """Whether the client is known to have hung up."""
        return self._watch is not None and self._watch.done()

    async def receive(self) -> Message:
        """What the client sends, for the application. To an answer without end the stop of the
        service looks as if the client had gone."""
        if not self._is_whole:
            message = await self._receive()
            self._is_whole = not message.get("more_body", False)
            return message
        coming = asyncio.ensure_future(self._receive())
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait((coming, closing), return_when=asyncio.FIRST_COMPLETED)
            if not coming.done() and self.is_endless:
                return {"type": "http.disconnect"}
            return await coming
        finally:
            coming.cancel()
            closing.cancel()

    async def unless_gone(self, work: asyncio.Future[T]) -> T:
        """What `work` comes to; it is cancelled when the client hangs up before.

        Only after the body of the request was read. Raises ClientGoneError.
        """
        if self._watch is None:
            self._watch = asyncio.create_task(self._until_gone())
        give_up = _cancelling(work)
        self._watch.add_done_callback(give_up)
        try:
            return await work  # which is cancelled with this task
        except asyncio.CancelledError:
            if self.is_gone and not _is_cancelling():
                raise ClientGoneError from None
            raise
        finally:
            self._watch.remove_done_callback(give_up)
            del work, give_up  # an error of it holds this frame: see `unless_gone` below

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def end(self) -> None:
        """Stops watching the client: it has its answer."""
        if self._watch is not None:
            self._watch.cancel()


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _cancelling(work: asyncio.Future[T]) -> Callable[[object], None]:
    """What cancels it when it is called."""

    def cancel(_: object) -> None:
        work.cancel()  # which does nothing to one that is done

    return cancel


async def unless_gone(work: asyncio.Future[T]) -> T:
    """What `work` comes to, for the client of this task, if it works for one.

    Where it fails, its error holds the frames that it goes through. One that holds `work`, which
    holds its error, would keep all that was sent in memory until Python looks for such circles.
    """
    exchange = current.get()
    try:
        return await work if exchange is None else await exchange.unless_gone(work)
    finally:
        del work
