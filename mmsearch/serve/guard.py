"""The outer wall of the service: who may ask, how much may be sent, and what every answer says.

A service on the loopback address is reachable from every page in the user's browser. Three checks
keep those pages out: the Host header (DNS rebinding), Origin and Sec-Fetch-Site (requests that
another site makes), and no CORS headers at all. See https://web.dev/articles/fetch-metadata.
"""

from __future__ import annotations

import ipaddress
import logging
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmsearch.serve.problems import problem

log = logging.getLogger(__name__)

PAGE_POLICY = (
    "default-src 'none'; img-src 'self' blob: data:; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

#: A JSON question is a few kilobytes at most.
MAX_JSON_BYTES = 64 << 10
#: What multipart wraps around a file: boundaries, part headers, the small fields.
FORM_OVERHEAD_BYTES = 64 << 10

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def is_loopback(host: str) -> bool:
    """Whether a service bound to this host name or address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware around the whole service.

    bound_to: the host the service listens on. On a loopback address only loopback names are
        accepted in the Host header; elsewhere the names people use cannot be known.
    max_upload_bytes: of one uploaded file; enforced while the body is read, whatever
        Content-Length says.
    """

    def __init__(self, app: ASGIApp, *, bound_to: str, max_upload_bytes: int) -> None:
        self.app = app
        self._hosts: frozenset[str] | None = None
        if is_loopback(bound_to):
            self._hosts = frozenset({"localhost", "127.0.0.1", "::1", bound_to.strip("[]")})
        self._max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(send, head=scope["method"] == "HEAD")
        headers = Headers(scope=scope)
        refusal = self._refusal(scope["method"], headers)
        if refusal is not None:
            status, why = refusal
            log.warning("%s %s refused: %s", scope["method"], scope["path"], why)
            await problem(status, why, instance=scope["path"])(scope, receive, answer.send)
            return
        # HEAD is GET without the body: no route needs to know.
        inner = {**scope, "method": "GET"} if answer.head else scope
        try:
            await self.app(inner, self._counted(headers, receive), answer.send)
        except Exception:  # the edge: the last place that can answer
            log.exception("%s %s failed", scope["method"], scope["path"])
            if answer.started:
                raise
            failed = problem(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "something went wrong inside mmsearch; its log says what",
                instance=scope["path"],
            )
            await failed(scope, receive, answer.send)

    def _refusal(self, method: str, headers: Headers) -> tuple[HTTPStatus, str] | None:
        host = headers.get("host", "")
        if self._hosts is not None and _name_of(host) not in self._hosts:
            return HTTPStatus.MISDIRECTED_REQUEST, (
                "this service answers to localhost only; to reach it under another name, "
                "start it with --host"
            )
        site = headers.get("sec-fetch-site", "same-origin")
        foreign = site not in ("same-origin", "none")
        if method in _SAFE_METHODS:
            # Another site may link here, and nothing else: not embed, not fetch, not time.
            if foreign and headers.get("sec-fetch-mode") != "navigate":
                return HTTPStatus.FORBIDDEN, "requests from other sites are refused"
            return None
        origin = headers.get("origin")
        if foreign or (origin is not None and urlsplit(origin).netloc.lower() != host.lower()):
            return HTTPStatus.FORBIDDEN, "requests from other sites are refused"
        return None

    def _counted(self, headers: Headers, receive: Receive) -> Receive:
        """`receive`, which stops with 413 once more has come than this kind of body may have."""
        is_form = headers.get("content-type", "").lower().startswith("multipart/")
        limit = self._max_upload_bytes + FORM_OVERHEAD_BYTES if is_form else MAX_JSON_BYTES
        declared = headers.get("content-length", "0")
        seen = int(declared) if declared.isdecimal() and int(declared) > limit else 0

        async def counted() -> Message:
            nonlocal seen
            if seen <= limit:
                message = await receive()
                if message["type"] != "http.request":
                    return message
                seen += len(message.get("body", b""))
                if seen <= limit:
                    return message
            raise too_large(self._max_upload_bytes if is_form else MAX_JSON_BYTES)

        return counted


def too_large(limit: int) -> HTTPException:
    """413, and the connection ends: what is still on its way is not read."""
    return HTTPException(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"more than {limit / (1 << 20):,.3g} MiB was sent (MMSEARCH_MAX_UPLOAD_BYTES raises "
        "the limit for pictures)",
        headers={"Connection": "close"},
    )


class _Answer:
    """`send` that adds the security headers and, for HEAD, drops the body."""

    def __init__(self, send: Send, *, head: bool) -> None:
        self._send = send
        self.head = head
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            # What a person searches for is nobody's to keep, unless a route says so.
            headers.setdefault("Cache-Control", "no-store")
        elif self.head and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)


def _name_of(host: str) -> str:
    """The name in a Host header, without its port: "[::1]:80" -> "::1"."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
