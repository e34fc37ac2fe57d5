"""Bodies in JSON: small ones are read at once, large ones in a thread, for nobody is to wait."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute

if TYPE_CHECKING:
    from mmsearch.serve.service import Service

T = TypeVar("T")

#: What the event loop reads itself: it takes about a millisecond.
SMALL_BYTES = 64 << 10
#: Characters of base64 that are decoded in one go, which nothing else can run beside; of four each.
_STEP = 1 << 20


async def read(service: Service, size: int, call: Callable[[], T]) -> T:
    """What `call` makes of so many bytes: here, or in a thread where they are many. Raises
    OverloadedError."""
    return call() if size <= SMALL_BYTES else await service.prepare(call)


class _Parsed(Request):
    """A request whose body is read already, and what it is in JSON, or why it is none."""

    def __init__(self, request: Request, body: bytes, outcome: Any | Exception) -> None:
        super().__init__(request.scope, request.receive)
        self._whole = body
        self._outcome = outcome

    async def body(self) -> bytes:
        return self._whole

    async def json(self) -> Any:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


class LargeJsonRoute(APIRoute):
    """A route whose JSON may be large."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What FastAPI answers with, for a body that is read in a thread where it is large."""
        answer = super().get_route_handler()

        async def answered(request: Request) -> Response:
            body = await request.body()
            if len(body) > SMALL_BYTES:
                service: Service = request.app.state.service
                outcome = await service.prepare(lambda: _outcome(body))
                request = _Parsed(request, body, outcome)
            return await answer(request)

        return answered


def _outcome(body: bytes) -> Any | Exception:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as exc:
        return exc


def from_base64(text: str) -> bytes:
    """The bytes of base64 without blanks. Raises ValueError."""
    if len(text) <= _STEP:
        return base64.b64decode(text, validate=True)
    parts = []
    for at in range(0, len(text), _STEP):
        part = text[at : at + _STEP]
        if part.endswith("=") and at + _STEP < len(text):
            raise binascii.Error("Excess data after padding")
        parts.append(base64.b64decode(part, validate=True))
    return b"".join(parts)
