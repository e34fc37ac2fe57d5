"""The outermost and the innermost layer: what every request and answer have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmsearch.serve import logs
from mmsearch.serve.exchange import Exchange, current, request_id
from mmsearch.serve.login import LOGIN_PATH
from mmsearch.serve.problems import problem

if TYPE_CHECKING:
    from mmsearch.serve.service import Service

#: What is answered while the service stops: those who start and stop it ask.
_TO_THE_END = frozenset({"/healthz", "/readyz", "/metrics"})
#: What is answered where the library was replaced as well: the page, and what says so.
_WITHOUT_LIBRARY = _TO_THE_END | {"/", "/v1/status", "/openapi.json", LOGIN_PATH}
#: The label of requests that no route answers: their paths are whatever anybody likes.
_NO_ROUTE = "none"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_KEY = "mmsearch.exchange"


class Watch:
    """ASGI middleware around everything else: gives each request an id, counts and notes it."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self.app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        exchange = Exchange(request_id(given), receive, self._service.closing)
        scope[_KEY] = exchange
        token = current.set(exchange)
        answer = _Answer(send, exchange, self._service)
        metrics = self._service.metrics
        began = time.perf_counter()
        metrics.in_flight.inc()
        self._service.in_flight += 1
        try:
            await self.app(scope, exchange.receive, answer.send)
            await answer.end()
        except asyncio.CancelledError:
            answer.status = answer.status or 503  # a stop that could wait no longer
            raise
        finally:
            exchange.end()
            if not exchange.is_endless:
                self._service.in_flight -= 1
            metrics.in_flight.dec()
            self._note(scope, exchange, answer, began)
            current.reset(token)

    def _note(self, scope: Scope, exchange: Exchange, answer: _Answer, began: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        status = answer.status or 500
        took = time.perf_counter() - began
        # How long a file or a stream takes from there on is up to the client.
        counted = answer.began - began if answer.is_in_pieces else took
        self._service.metrics.on_request(method, exchange.route or _NO_ROUTE, status, counted)
        if exchange.is_refused:
            self._service.metrics.refused.inc()
        # The path without what was asked: that is nobody else's to read.
        path = logs.plain_path(scope["path"])
        client = scope.get("client")
        logs.note(
            f"{method} {path} {status} {took * 1000:.1f} ms",
            method=method,
            path=path,
            route=exchange.route or None,
            status=status,
            duration_ms=round(took * 1000, 3),
            bytes=answer.bytes,
            client=None if client is None else client[0],
            stages_ms={name: round(s * 1000, 3) for name, s in exchange.stages.items()} or None,
        )


class Door:
    """ASGI middleware around the router alone: notes the route, and is shut once a stop was asked
    for, and where the library was replaced.

    What is inside then is still answered.
    """

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self.app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = scope.get(_KEY)
        refused = self._refused(scope["path"]) if scope["type"] == "http" else None
        if refused is not None:
            if exchange is not None:
                exchange.is_refused = True
            await refused(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        finally:
            if exchange is not None:
                exchange.route = _template(scope)

    def _refused(self, path: str) -> Response | None:
        """503 for what is not answered now."""
        if self._service.stopping and path not in _TO_THE_END:
            return problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the service is stopping; ask again when it is back",
                kind="stopping",
                instance=path,
                headers={"Connection": "close"},
            )
        needs_library = path not in _WITHOUT_LIBRARY and not path.startswith("/assets/")
        if needs_library and self._service.is_replaced():
            return problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                self._service.trouble or "start the service again",
                kind="library-replaced",
                instance=path,
            )
        return None


def _template(scope: MutableMapping[str, Any]) -> str:
    """The path of the route with its parameters' names, or the mount's."""
    route = scope.get("route")
    if route is not None:
        return str(route.path)
    # A mount leaves its prefix as the root path.
    return str(scope.get("root_path", "")) if "endpoint" in scope else ""


class _Answer:
    """`send` that names the request in the answer, and sees how it goes."""

    def __init__(self, send: Send, exchange: Exchange, service: Service) -> None:
        self._send = send
        self._exchange = exchange
        self._service = service
        self.status = 0
        self.bytes = 0
        #: When its head was sent, by time.perf_counter.
        self.began = 0.0
        self.is_in_pieces = False
        self._is_whole = False

    async def end(self) -> None:
        """Ends an answer without end that the stop of the service cut short, as HTTP has it: else
        the client would take it for broken."""
        if self._exchange.is_endless and not self._is_whole and not self._exchange.is_gone:
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.began = time.perf_counter()
            headers = list(message.get("headers", ()))
            if any(n == b"content-type" and v.startswith(b"text/event-s") for n, v in headers):
                self._exchange.is_endless = True
                self._service.in_flight -= 1
            headers.append((b"x-request-id", self._exchange.id.encode("ascii")))
            message["headers"] = headers
        elif message["type"] == "http.response.body":
            self.bytes += len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
            self.is_in_pieces |= not self._is_whole
        await self._send(message)
