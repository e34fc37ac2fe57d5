"""HTTP on the wire, for clients that mean harm: bounds in bytes and in seconds for each connection.

uvicorn waits for ever for a request's head, keeps all of it in memory, and waits for ever for who
does not read an answer: with a few hundred connections anybody could stop a service (slow loris).
Here a head has a size and a time, a stalled answer ends, and when there are too many connections
the ones at rest go first. How long a body may take is up to mmsearch.serve.guard.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mmsearch.serve.exchange import CutShortError
from mmsearch.serve.rates import client_of

log = logging.getLogger(__name__)


class _Joining(asyncio.Transport):
    """A transport that sends what is written in one turn of the event loop, or up to a `flush`, as
    one.

    uvicorn writes the head of an answer and its body: each would be a call of the system, and wake
    the client.
    """

    #: More is not kept back.
    most_bytes = 64 << 10

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._kept: list[bytes | bytearray | memoryview[Any]] = []
        self._bytes = 0

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if len(data) > self.most_bytes:  # a file: not to be copied
            self.flush()
            self._send(data)
            return
        if not self._kept:
            self._loop.call_soon(self.flush)
        self._kept.append(data)
        self._bytes += len(data)
        if self._bytes > self.most_bytes:
            self.flush()

    def flush(self) -> None:
        """Sends what is kept back."""
        if self._kept:
            data = self._kept[0] if len(self._kept) == 1 else b"".join(self._kept)
            self._kept, self._bytes = [], 0
            self._send(data)

    def _send(self, data: bytes | bytearray | memoryview[Any]) -> None:
        # Where the client has hung up in this very turn, uvloop's would raise.
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._kept.clear()
        self._transport.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        return self._bytes + self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()


def _unframed(cycle: RequestResponseCycle, app: ASGI3Application) -> Any:
    """The application for a client of HTTP/1.0, which knows no chunks: an answer of unknown length
    ends with the connection."""
    cycle.keep_alive = False

    async def answered(scope: Any, receive: Any, send: Any) -> None:
        is_unframed = False

        async def send_unframed(message: Any) -> None:
            nonlocal is_unframed
            if message["type"] == "http.response.start":
                named = {name.lower() for name, _ in message.get("headers", ())}
                is_unframed = b"content-length" not in named
                if is_unframed:
                    cycle.chunked_encoding = False  # said already, so uvicorn does not choose it
            elif is_unframed:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_unframed)

    return answered


class Wire(HttpToolsProtocol):
    """uvicorn's protocol, bounded. For `uvicorn.Config(http=Wire)`."""

    #: From the first byte of a request, or from the connection, to the end of its head.
    max_head_s = 10.0
    #: Of a request's first line and headers; what comes in one piece may be more by that piece.
    max_head_bytes = 64 << 10
    #: How long a client may take hardly anything of an answer that waits for it, or not end a body
    #: that was answered already.
    max_stall_s = 60.0
    #: What it takes at least meanwhile.
    min_bytes_per_s = 4 << 10
    max_rest_s = 5.0
    #: Of all clients together; far from the 1,024 files that systems let a process open.
    max_connections = 500

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._running: RequestResponseCycle | None = None
        self._in_body = False
        self._since = time.monotonic()

    # --- connections ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        is_full = len(self.connections) >= self.max_connections
        super().connection_made(_Joining(transport, self.loop))
        self._start_head()
        if is_full:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head()
        self._stop_stall()
        self._stop_end()
        if not self._rests:
            self._leave()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        if cycle.scope["http_version"] < "1.1":
            app = _unframed(cycle, app)
        super()._start_asgi_task(cycle, self._until_cancelled(cycle, app))

    def _until_cancelled(self, cycle: RequestResponseCycle, app: ASGI3Application) -> Any:
        """The application, cut off where a stop can wait no longer, or it can. uvicorn logs that as
        an error of it, and answers 500."""

        async def answered(scope: Any, receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            except CutShortError as exc:
                self._abort(str(exc))
            except asyncio.CancelledError:
                if cycle.response_started:
                    self._abort("the service stops")
                else:
                    self._answer(HTTPStatus.SERVICE_UNAVAILABLE)
                    self._leave()

        return answered

    @property
    def _rests(self) -> bool:
        """Whether no request of this connection is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _make_room(self) -> None:
        others = [c for c in self.connections if isinstance(c, Wire) and c is not self]
        gives_way = [c for c in others if c._rests] or self._of_the_greediest(others)
        oldest = min(gives_way, key=lambda c: c._since, default=None)
        if oldest is not None:
            oldest._abort("made room for another connection")
        else:
            log.warning("%d requests at once; a connection was refused", self.max_connections)
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, b"Retry-After: 1\r\n")

    def _of_the_greediest(self, others: Sequence[Wire]) -> list[Wire]:
        """The connections of a client that has more than half of all there may be, and nobody else
        could come in any more; none where that is the client of this one."""
        client, n = Counter(c._client for c in others).most_common(1)[0]
        if client == self._client or 2 * n <= self.max_connections:
            return []
        return [c for c in others if c._client == client]

    @property
    def _address(self) -> str:
        """Of the client; behind a proxy that is believed, of whose request is being answered."""
        cycle = self._running
        is_asked = cycle is not None and not cycle.response_complete
        client = cycle.scope["client"] if cycle is not None and is_asked else self.client
        return client[0] if client else ""

    @property
    def _client(self) -> str:
        return client_of(self._address)

    def _abort(self, why: str) -> None:
        log.info("a connection from %s: %s", self._address or "?", why)
        self._leave()
        self.transport.abort()

    def _leave(self) -> None:
        """Lets nothing more be said: uvicorn itself thinks only of the request that came last."""
        self.pipeline.clear()
        for cycle in (self.cycle, self._running):
            if cycle is not None:
                cycle.disconnected = True
                cycle.message_event.set()

    def _answer(self, status: HTTPStatus, header: bytes = b"") -> None:
        """An answer to what is not even a request; the connection ends."""
        self._stop_head()
        if not self.transport.is_closing():
            title = status.phrase
            problem = {"type": "about:blank", "title": title, "status": status, "detail": title}
            body = json.dumps(problem).encode("ascii")
            self.transport.write(
                b"HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\n"
                b"Content-Length: %d\r\nConnection: close\r\n%s\r\n%s"
                % (status, title.encode("ascii"), len(body), header, body)
            )
            self.transport.close()
        self._end_within(self.max_stall_s)

    # --- the head of a request ------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if not self._in_body and self._head_timer is None:
            self._start_head()
        super().data_received(data)
        if self._in_body or self._head_timer is None:
            return
        self._head_bytes += len(data)
        if self._head_bytes > self.max_head_bytes:
            self._answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        self._stop_head()
        self._in_body = True
        self._since = time.monotonic()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        self._stop_end()
        super().on_message_complete()

    def _start_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self.max_head_s, self._head_took_too_long)

    def _stop_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_took_too_long(self) -> None:
        self._head_timer = None
        if self._rests:
            self._answer(HTTPStatus.REQUEST_TIMEOUT)
        else:  # the beginning of a next request, while this one is being answered
            self._start_head()

    # --- the end --------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        assert isinstance(self.transport, _Joining)
        self.transport.flush()
        super().on_response_complete()
        if self.transport.is_closing():
            self._end_within(self.max_stall_s)
        elif self._in_body:
            # Answered before all of the request had come. What still comes is let go by, so that
            # the client gets to read; but not for ever.
            self._end_within(self.max_rest_s)

    def send_400_response(self, msg: str) -> None:
        self._answer(HTTPStatus.BAD_REQUEST)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._end_within(self.max_stall_s)

    def _end_within(self, seconds: float) -> None:
        """A connection that is closed stays until the client has taken all that was said to it: not
        longer than this."""
        if self._end_timer is None:
            self._end_timer = self.loop.call_later(
                seconds, self._abort, "it did not come to an end"
            )

    def _stop_end(self) -> None:
        if self._end_timer is not None:
            self._end_timer.cancel()
            self._end_timer = None

    # --- an answer that nobody takes ------------------------------------------------------------

    def pause_writing(self) -> None:
        self._stop_stall()
        self._start_stall()
        super().pause_writing()

    def _start_stall(self) -> None:
        untaken = self.transport.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(self.max_stall_s, self._look, untaken)

    def _look(self, before: int) -> None:
        """Whether the client takes what waits for it: `before` bytes, the last time."""
        taken = before - self.transport.get_write_buffer_size()
        if taken < self.max_stall_s * self.min_bytes_per_s:
            self._abort("it took nothing of its answer")
        else:
            self._start_stall()

    def resume_writing(self) -> None:
        self._stop_stall()
        super().resume_writing()

    def _stop_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
