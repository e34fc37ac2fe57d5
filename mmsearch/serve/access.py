"""Who may use the service: keys, the browser's session, and how often one may ask.

Without any key a service on the loopback address is open for searching: whoever can reach it can
read the library's folder too, or is a browser, which the guard keeps to the service's own page.
Whatever changes something always needs a key of the scope "write".

A right key is let in however many wrong ones came from its address: 256 bits are not guessed, and
behind one proxy or router one client could lock out all others. Wrong ones are told to wait, so
that trying costs the one who tries, and the log stays short.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mmsearch.errors import MmsearchError, RefusedError
from mmsearch.serve.forwarded import to_root
from mmsearch.serve.guard import is_loopback
from mmsearch.serve.keys import PREFIX, Key, Keys
from mmsearch.serve.keys import Scope as KeyScope
from mmsearch.serve.login import LOGIN_PATH, asks_for_page, login_page
from mmsearch.serve.problems import keys_unreadable, problem
from mmsearch.serve.rates import Buckets, client_of
from mmsearch.settings import Settings

log = logging.getLogger(__name__)

#: Answers to everybody: whether the process lives is no secret. Signing in must work without a key.
OPEN_PATHS = frozenset({"/healthz", LOGIN_PATH})

#: What proxies say; who sends it where it does not count only has less by it.
_PASSED_ON = frozenset({"x-forwarded-for", "forwarded", "x-real-ip"})
#: How long a browser stays signed in.
SESSION_S = 30 * 24 * 3600
#: Cookies of one name that a browser shows: one for each path above the page that has one.
_MAX_COOKIES = 4
#: Wrong keys from one address: so many at once, then one in so many seconds.
_WRONG_AT_ONCE = 10
_WRONG_EVERY_S = 6.0
#: How much of a burst a limited client may ask at once, in seconds' worth of its rate.
_BURST_S = 4.0
#: Requests a second of one client of a service that listens beyond this machine.
REMOTE_RATE = 100.0

_HOW_TO_SHOW = "Send a key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
_HOW_TO_WRITE = "Make one that may with: mmsearch keys add NAME --scope write"
#: Where the middleware leaves the caller, and itself what let it in, for the routes.
_CALLER = "mmsearch.caller"
_GATE = "mmsearch.gate"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. key: None without one. scope: what it is good for. is_local: by the local token."""

    key: Key | None
    scope: KeyScope | None
    is_local: bool = False

    @property
    def name(self) -> str | None:
        """Of the key."""
        return None if self.key is None else self.key.name


class Gate:
    """Decides who may come in, by the keys as they are now.

    is_open: nobody needs a key to read, as long as there is none.
    is_for_this_machine: but for whom a proxy passes on, which the user may not have thought of.
    local_token: let in for reading like a key; known to this user's own terminal only.
    rate: requests a second of one client; 0 is no limit.
    """

    def __init__(
        self,
        keys: Keys,
        *,
        is_open: bool,
        is_for_this_machine: bool = False,
        local_token: str | None = None,
        rate: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.keys = keys
        self._is_open = is_open
        self._is_for_this_machine = is_for_this_machine
        self._local_token = local_token
        self._session_secret = secrets.token_bytes(32)
        self._wrong = Buckets(1 / _WRONG_EVERY_S, _WRONG_AT_ONCE, clock=clock)
        self._asked = Buckets(rate, max(1.0, rate * _BURST_S), clock=clock) if rate else None

    @property
    def needs_key(self) -> bool:
        """Whether also reading needs a key. Raises StoreError."""
        return not self._is_open or bool(self.keys.all())

    def check(self, given: str, address: str) -> Key:
        """The key of a secret. Raises HTTPException: 401, or 429 after too many wrong ones."""
        key = self.keys.find(given)
        if key is None:
            self._count_wrong(address)
            raise unauthorized("this key is not known here (revoked? mistyped?)")
        return key

    def _count_wrong(self, address: str) -> None:
        wait = self._wrong.take(client_of(address))
        if wait:
            raise too_many("too many wrong keys came from this address", wait)
        log.warning("a wrong key from %s", address)

    def count(self, client: str) -> None:
        """Counts a request. Raises HTTPException: 429 where the client asked too often."""
        wait = self._asked.take(client) if self._asked else 0.0
        if wait:
            raise too_many("more requests than one client may make", wait)

    def caller(self, headers: Headers, address: str, cookie_name: str) -> Caller:
        """Who asks. Raises HTTPException (401, 429), StoreError."""
        given = _given(headers)
        if given is not None:
            if self._local_token and hmac.compare_digest(
                given.encode("utf-8", "surrogatepass"), self._local_token.encode()
            ):
                return Caller(None, "read", is_local=True)
            key = self.check(given, address)
            return Caller(key, key.scope)
        for cookie in islice(_cookies(headers, cookie_name), _MAX_COOKIES):
            session = self._signed_in(cookie)
            if session is not None:
                return Caller(session, session.scope)
        is_stranger = self._is_for_this_machine and not _PASSED_ON.isdisjoint(headers.keys())
        return Caller(None, None if is_stranger or self.needs_key else "read")

    def still_lets_in(self, caller: Caller) -> bool:
        """Whether one who was let in would be now: its key is there, or none is needed."""
        try:
            if caller.key is not None:
                return caller.key in self.keys.all()
            return caller.is_local or not self.needs_key
        except MmsearchError:  # the next request has it logged
            return False

    # --- the browser's session ------------------------------------------------------------------

    def session(self, key: Key) -> str:
        """What the browser keeps once it has shown a key; good until SESSION_S are over, the key is
        revoked or the service ends."""
        name = base64.urlsafe_b64encode(key.name.encode()).decode()
        until = str(int(time.time()) + SESSION_S)
        return f"{name}.{until}.{self._sign(key, until)}"

    def _signed_in(self, cookie: str) -> Key | None:
        parts = cookie.split(".")
        if len(parts) != 3:
            return None
        name, until, signature = parts
        for key in self.keys.all():
            if base64.urlsafe_b64encode(key.name.encode()).decode() != name:
                continue
            right = hmac.compare_digest(signature.encode(), self._sign(key, until).encode())
            return key if right and int(until) > time.time() else None
        return None

    def _sign(self, key: Key, until: str) -> str:
        # With the key's digest: a new key of an old name does not bring the old sessions back.
        message = f"{key.name}\n{key.sha256}\n{until}".encode()
        return hmac.new(self._session_secret, message, hashlib.sha256).hexdigest()


class Access:
    """ASGI middleware that lets in whom the gate lets in."""

    def __init__(self, app: ASGIApp, *, gate: Gate) -> None:
        self.app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        address = address_of(scope)
        try:
            refusal = self._let_in(scope, headers, address)
        except HTTPException as exc:
            refusal = _refused(exc, scope, headers)
        except MmsearchError as exc:
            refusal = keys_unreadable(exc, scope["path"])
        await (refusal or self.app)(scope, receive, send)

    def _let_in(self, scope: Scope, headers: Headers, address: str) -> Response | None:
        if scope["path"] in OPEN_PATHS:
            self._gate.count(client_of(address))
            return None
        caller = self._gate.caller(headers, address, cookie_name(scope))
        self._gate.count(f"key {caller.name}" if caller.name else client_of(address))
        if caller.scope is None:
            raise unauthorized("this service answers only who has a key")
        scope[_CALLER] = caller
        scope[_GATE] = self._gate
        return None


async def _may_write(request: Request) -> None:
    """A route's dependency: 401 without a key, 403 with one that is for reading only."""
    caller: Caller | None = request.scope.get(_CALLER)
    if caller is not None and caller.scope == "write":
        return
    if caller is None or caller.name is None:
        raise unauthorized("changing the library needs a key that may write", _HOW_TO_WRITE)
    raise HTTPException(
        HTTPStatus.FORBIDDEN, f"the key {caller.name!r} is for reading only. {_HOW_TO_WRITE}"
    )


async def _may_follow(request: Request) -> None:
    """The same for watching runs, which is open where the whole service is open."""
    caller: Caller | None = request.scope.get(_CALLER)
    if caller is None or caller.name is not None or caller.scope is None:
        await _may_write(request)


def is_still_let_in(request: Request) -> bool:
    """For answers that go on: a key that is revoked meanwhile ends them."""
    gate: Gate = request.scope[_GATE]
    return gate.still_lets_in(request.scope[_CALLER])


MayWrite = Depends(_may_write)
MayFollow = Depends(_may_follow)


def is_for_this_machine(settings: Settings) -> bool:
    """Whether nobody elsewhere can reach a service, by itself or by way of a proxy here."""
    return is_loopback(settings.host) and not settings.trusted_proxies


def check_binding(settings: Settings, keys: Keys) -> None:
    """Raises RefusedError where a service would show the library to a network without any key."""
    if is_for_this_machine(settings) or settings.insecure_no_key or keys.all():
        return
    if is_loopback(settings.host):
        where, who = "serving behind a proxy", "whom it lets through"
    else:
        where, who = f"listening on {settings.host}", "who reaches this machine"
    raise RefusedError(
        f"{where} would let everybody {who} see the pictures. Make a key first: mmsearch keys add "
        "NAME (the page asks for it then). To serve without any key all the same: --insecure-no-key"
    )


def cookie_name(scope: Scope) -> str:
    """Of the session. Browsers keep the cookies of all ports of a name together."""
    server = scope.get("server") or ("", None)
    return f"mmsearch_session_{server[1] or 0}"


def cookie_name_of(request: Request) -> str:
    """The same for a route."""
    return cookie_name(request.scope)


def address_of(scope: Scope) -> str:
    """The address a request came from; "" where it is not known."""
    client = scope.get("client")
    return client[0] if client else ""


def unauthorized(why: str, remedy: str = _HOW_TO_SHOW) -> HTTPException:
    """401, with what to do about it."""
    return HTTPException(
        HTTPStatus.UNAUTHORIZED,
        f"{why}. {remedy}",
        headers={"WWW-Authenticate": 'Bearer realm="mmsearch"'},
    )


def too_many(why: str, wait_s: float) -> HTTPException:
    """429, with the seconds to wait."""
    seconds = max(1, math.ceil(wait_s))
    return HTTPException(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"{why}: try again in {seconds} s",
        headers={"Retry-After": str(seconds)},
    )


def _refused(exc: HTTPException, scope: Scope, headers: Headers) -> Response:
    if exc.status_code == HTTPStatus.UNAUTHORIZED and asks_for_page(scope["method"], headers):
        query = scope.get("query_string", b"").decode("ascii", "replace")
        return login_page(to_root(scope), scope["path"] + (f"?{query}" if query else ""))
    return problem(
        exc.status_code, exc.detail, instance=scope["path"], headers=dict(exc.headers or {})
    )


def _given(headers: Headers) -> str | None:
    """The secret that a request shows; None where it shows none."""
    bearer = headers.get("authorization")
    if bearer is not None:
        kind, _, secret = bearer.partition(" ")
        if kind.lower() != "basic":
            return secret.strip() if kind.lower() == "bearer" else ""
        password = _password(secret.strip())
        if password.startswith(PREFIX):
            return password
        # Of a proxy in front, which passes it on: nothing was shown to this service by that.
    return headers.get("x-api-key")


def _password(credentials: str) -> str:
    """Of "http://anybody:KEY@host", the only way to show a key in some programs."""
    try:
        return base64.b64decode(credentials, validate=True).decode("ascii").partition(":")[2]
    except ValueError:
        return ""


def _cookies(headers: Headers, name: str) -> Iterator[str]:
    """The values of all cookies of a name. Below a path there may be one of another service, at "/"
    of the same host, beside the service's own."""
    # Not by SimpleCookie: at a cookie of another program that it cannot read it drops all of them.
    for part in headers.get("cookie", "").split(";"):
        value = cookie_parser(part).get(name)
        if value is not None:
            yield value
