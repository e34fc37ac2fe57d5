"""The outer wall of the service: who may ask, how much may be sent, and what every answer says.

A service on the loopback address is reachable from every page in the user's browser. Three checks
keep those pages out: the Host header (DNS rebinding), Origin and Sec-Fetch-Site (requests that
another site makes), and no CORS headers, but for origins that were named. See
https://web.dev/articles/fetch-metadata.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
import socket
from collections.abc import Collection
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmsearch.serve.exchange import CutShortError
from mmsearch.serve.forwarded import missing_slash, told_scheme
from mmsearch.serve.login import LOGIN_PATH
from mmsearch.serve.logs import plain_path
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
#: What every answer says, unless its route says otherwise, as ASGI has it. What a person searches
#: for is nobody's to keep.
_DEFAULTS = [
    (name.lower().encode("ascii"), value.encode("ascii"))
    for name, value in (*SECURITY_HEADERS.items(), ("Cache-Control", "no-store"))
]

#: A JSON question is a few kilobytes at most.
MAX_JSON_BYTES = 64 << 10
#: But here pictures come in base64, which makes four bytes of three.
PICTURES_IN_JSON = frozenset({"/v1/embeddings", "/knn-service"})
#: Values that such a body may have: 2,048 texts with their commas are far below. Each may take
#: 0.2 us to read, in which nothing else can run, and 56 bytes of memory.
MAX_JSON_VALUES = 1 << 19
#: Such bodies, and forms with pictures, are kept until they are answered, in memory or where the
#: system keeps temporary files, which may be memory as well: of all clients together. One alone may
#: be larger.
MAX_HELD_BYTES = 512 << 20
#: What multipart wraps around a file: boundaries, part headers, the small fields.
FORM_OVERHEAD_BYTES = 64 << 10

#: What a page of another origin may do, where that origin was named.
_CORS = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, X-API-Key, X-Request-Id",
    "Access-Control-Max-Age": "600",
}
_CORS_EXPOSED = b"Content-Range, ETag, Retry-After, X-Request-Id"

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
    is_behind_proxy: it is called by other names on a loopback address as well.
    is_keyless: nobody needs a key. Then only addresses and this machine's own names are accepted
        in the Host header, or any site could make a browser of this network read everything.
    cors_origins: whose pages may ask, with a key ("https://photos.example"); cookies do not count
        for them.
    """

    #: How long a body may stand still, and how slow it may come all in all.
    body_still_s = 30.0
    body_bytes_per_s = 4 << 10

    def __init__(
        self,
        app: ASGIApp,
        *,
        bound_to: str,
        max_upload_bytes: int,
        is_behind_proxy: bool = False,
        is_keyless: bool = False,
        cors_origins: Collection[str] = (),
    ) -> None:
        self.app = app
        self._hosts: frozenset[str] | None = None
        self._takes_addresses = False
        if is_loopback(bound_to) and not is_behind_proxy:
            self._hosts = frozenset({"localhost", "127.0.0.1", "::1", bound_to.strip("[]")})
        elif is_keyless:
            name = socket.gethostname().lower()
            own = {"localhost", bound_to.strip("[]").lower(), name, f"{name.split('.')[0]}.local"}
            self._hosts, self._takes_addresses = frozenset(own), True
        self.max_upload_bytes = max_upload_bytes
        self._held = 0
        self._cors_origins = frozenset(cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(send, head=scope["method"] == "HEAD")
        headers = Headers(scope=scope)
        if self._cors_origins:
            answer.vary()
        if headers.get("origin") in self._cors_origins:
            answer.allow(headers["origin"])
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                preflight = Response(status_code=HTTPStatus.NO_CONTENT, headers=_CORS)
                await preflight(scope, receive, answer.send)
                return
            # The session is the own page's; pages elsewhere show a key.
            kept = [pair for pair in scope["headers"] if pair[0] != b"cookie"]
            scope = {**scope, "headers": kept}
        is_over_tls = told_scheme(scope) == "https"
        refusal = self._refusal(scope["method"], headers, is_over_tls=is_over_tls)
        if refusal is not None:
            status, why = refusal
            path = plain_path(scope["path"])
            log.warning("%s %s refused: %s", scope["method"], path, why)
            await problem(status, why, instance=scope["path"])(scope, receive, answer.send)
            return
        elsewhere = missing_slash(scope)
        if elsewhere is not None:
            await RedirectResponse(elsewhere)(scope, receive, answer.send)
            return
        inner = _as_get(scope) if answer.head else scope
        body = _Body(self, scope["path"], headers, receive)
        try:
            await self.app(inner, body.receive, answer.send)
        except CutShortError as exc:
            path = plain_path(scope["path"])
            log.warning("%s %s ended before all was sent: %s", scope["method"], path, exc)
            raise
        except Exception:  # the edge: the last place that can answer
            log.exception("%s %s failed", scope["method"], plain_path(scope["path"]))
            if answer.started:
                raise
            failed = problem(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "something went wrong inside mmsearch; its log says what",
                instance=scope["path"],
            )
            await failed(scope, receive, answer.send)
        finally:
            self._held -= body.held

    def hold(self, size: int, beside: int) -> None:
        """Counts so many more bytes of a body that is kept, of which `beside` are there already.
        Raises HTTPException: 503, there are too many of all."""
        if self._held + size > MAX_HELD_BYTES and self._held > beside:
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "too many large requests are coming in already; ask again in a moment",
                headers={"Connection": "close"},
            )
        self._held += size

    def _refusal(
        self, method: str, headers: Headers, *, is_over_tls: bool
    ) -> tuple[HTTPStatus, str] | None:
        host = headers.get("host", "")
        if not self._is_known(_name_of(host)):
            return HTTPStatus.MISDIRECTED_REQUEST, (
                "this service answers to its own names only (of this machine); to reach it under "
                "another name, make a key and start it with --host, or with --trusted-proxies "
                "behind a proxy"
            )
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, (
                "compressed bodies are not unpacked here: send it as it is, without "
                "Content-Encoding"
            )
        if headers.get("origin") in self._cors_origins:
            return None
        site = headers.get("sec-fetch-site", "same-origin")
        foreign = site not in ("same-origin", "none")
        if method in _SAFE_METHODS:
            # Another site may link here, and nothing else: not embed, not fetch, not time.
            if foreign and headers.get("sec-fetch-mode") != "navigate":
                return HTTPStatus.FORBIDDEN, "requests from other sites are refused"
            return None
        origin = headers.get("origin")
        if foreign or (origin is not None and not _is_of(origin, host, is_over_tls)):
            return HTTPStatus.FORBIDDEN, "requests from other sites are refused"
        return None

    def _is_known(self, name: str) -> bool:
        if self._hosts is None or name in self._hosts:
            return True
        if not self._takes_addresses:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class _Body:
    """The body of a request, which stops with 413 once more has come than this kind of body may
    have, with 408 where it comes too slowly, and with 503 where others hold the memory for it."""

    def __init__(self, guard: Guard, path: str, headers: Headers, receive: Receive) -> None:
        self._guard = guard
        self._receive = receive
        # Of the form that asks for a key, which anybody can send, a file is no part.
        is_form = path != LOGIN_PATH and (
            headers.get("content-type", "").lower().startswith("multipart/")
        )
        self._is_large_json = path in PICTURES_IN_JSON
        self._is_kept = is_form or self._is_large_json
        self._limit = guard.max_upload_bytes + FORM_OVERHEAD_BYTES if is_form else MAX_JSON_BYTES
        if self._is_large_json:
            self._limit = guard.max_upload_bytes * 4 // 3 + FORM_OVERHEAD_BYTES
        declared = headers.get("content-length", "0")
        too_many = declared.isdecimal() and int(declared) > self._limit
        self._seen = int(declared) if too_many else 0
        self._values = 0
        self._began = asyncio.get_running_loop().time()
        self._is_whole = False
        #: Bytes that the guard has counted.
        self.held = 0

    async def receive(self) -> Message:
        """What comes next, for the application."""
        if self._seen <= self._limit:
            if self._is_whole:  # what comes now is the end of the connection, whenever that is
                return await self._receive()
            message = await self._in_time()
            if message["type"] != "http.request":
                return message
            piece = message.get("body", b"")
            self._seen += len(piece)
            self._is_whole = not message.get("more_body", False)
            if self._is_large_json:
                self._count_values(piece)
            if self._is_kept and self._seen > MAX_JSON_BYTES:
                more = self._seen - self.held
                self._guard.hold(more, self.held)
                self.held += more
            if self._seen <= self._limit:
                return message
        small = self._limit == MAX_JSON_BYTES
        raise too_large(MAX_JSON_BYTES if small else self._guard.max_upload_bytes)

    def _count_values(self, piece: bytes) -> None:
        self._values += piece.count(b",") + piece.count(b"[") + piece.count(b"{")
        if self._values > MAX_JSON_VALUES:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the JSON has more than {MAX_JSON_VALUES:,} values: send fewer at once",
                headers={"Connection": "close"},
            )

    async def _in_time(self) -> Message:
        """The next piece."""
        guard = self._guard
        spent = asyncio.get_running_loop().time() - self._began
        left = guard.body_still_s + self._seen / guard.body_bytes_per_s - spent
        try:
            async with asyncio.timeout(min(guard.body_still_s, max(left, 0))):
                return await self._receive()
        except TimeoutError as exc:
            raise HTTPException(
                HTTPStatus.REQUEST_TIMEOUT,
                "the rest of the request did not come in time",
                headers={"Connection": "close"},
            ) from exc


def too_large(limit: int) -> HTTPException:
    """413, and the connection ends: what is still on its way is not read."""
    return HTTPException(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"more than {limit / (1 << 20):,.3g} MiB was sent (MMSEARCH_MAX_UPLOAD_BYTES raises "
        "the limit for pictures)",
        headers={"Connection": "close"},
    )


class _Answer:
    """`send` that adds the security headers and, for HEAD, ends after the head: some answers have
    no end."""

    def __init__(self, send: Send, *, head: bool) -> None:
        self._send = send
        self.head = head
        self.started = False
        self._more: list[tuple[bytes, bytes]] = []

    def vary(self) -> None:
        """Caches must not give one origin the answer to another."""
        self._more.append((b"vary", b"Origin"))

    def allow(self, origin: str) -> None:
        """Lets the page of this origin read the answer."""
        self._more += [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", _CORS_EXPOSED),
        ]

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            given = {name for name, _ in message["headers"]}
            added = [pair for pair in _DEFAULTS if pair[0] not in given]
            message["headers"] = [*message["headers"], *added, *self._more]
            await self._send(message)
            if self.head:  # to the application it looks as if the client had gone now
                await self._send({"type": "http.response.body", "body": b""})
        elif not self.head:
            await self._send(message)


def _as_get(scope: Scope) -> Scope:
    """HEAD is GET without the body, and without parts of it: no route needs to know."""
    kept = [pair for pair in scope["headers"] if pair[0] not in (b"range", b"if-range")]
    return {**scope, "method": "GET", "headers": kept}


def _is_of(origin: str, host: str, is_over_tls: bool) -> bool:
    """Whether a page of this origin is one of this host's; a page that anybody on the way can make
    up is none of one that is called over TLS."""
    try:
        page = urlsplit(origin)
    except ValueError:  # "http://[", which no browser sends
        return False
    if is_over_tls and page.scheme != "https":
        return False
    # Browsers leave out a port that is the usual one; proxies may write it.
    usual = {"http": ":80", "https": ":443"}.get(page.scheme, "")
    return page.netloc.lower() == host.lower().removesuffix(usual)


@functools.lru_cache(maxsize=64)
def _name_of(host: str) -> str:
    """The name in a Host header, without its port: "[::1]:80" -> "::1"."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
