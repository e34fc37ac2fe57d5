"""A proxy in front of the service: for whom it asks, how they called it, and under which path.

Only proxies that the user named are believed; what others send says nothing.

uvicorn's own middleware for this is not used. It does not know a trusted 127.0.0.1 by the name that
it has on a socket of both kinds (::ffff:127.0.0.1), takes words that are no address ("unknown") for
a client, and knows nothing of paths.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from urllib.parse import quote

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from mmsearch.settings import IPNetwork, path_prefix

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

#: What the middleware found out, for those within.
_SCHEME = "mmsearch.scheme"
_PREFIX = "mmsearch.prefix"
_SLASH = "mmsearch.slash"


class Proxies:
    """Whose word counts for whom they ask for."""

    def __init__(self, networks: Iterable[IPNetwork]) -> None:
        self._networks = tuple(networks)

    def trusts(self, address: str) -> bool:
        """Whether this is a proxy that was named."""
        return self._has(_address(address))

    def client(self, peer: str, told: str) -> str:
        """Who is behind a connection from `peer`, by the addresses of X-Forwarded-For: each proxy
        says after all others who came to it, so the last one that nobody vouches for is the client.

        What is no address ends the search: then it is the proxy that said so.
        """
        at = _address(peer)
        for item in reversed(told.split(",")):
            if not self._has(at):
                break
            if item := item.strip():
                before = _address(item)
                if before is None:
                    break
                at = before
        return peer if at is None else str(at)

    def _has(self, address: IPAddress | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


class Forwarded:
    """ASGI middleware: those within see the client, its scheme, and paths as if there were neither
    a proxy nor a prefix.

    trusted: the proxies that are believed. root_path: what proxies leave before the service's own
        paths ("/photos"); without it, paths count as well.
    """

    def __init__(
        self, app: ASGIApp, *, trusted: Collection[IPNetwork] = (), root_path: str = ""
    ) -> None:
        self.app = app
        self._proxies = Proxies(trusted)
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The scope itself is changed: mmsearch.serve.wire counts connections by its client.
        if scope["type"] == "http":
            self._believe(scope)
            self._shorten(scope)
        await self.app(scope, receive, send)

    def _believe(self, scope: Scope) -> None:
        peer = scope.get("client")
        if peer is None or not self._proxies.trusts(peer[0]):
            return
        told: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            if name.startswith(b"x-forwarded-"):
                told.setdefault(name[12:], []).append(value.decode("latin-1").strip())
        client = self._proxies.client(peer[0], ",".join(told.get(b"for", ())))
        if client != peer[0]:
            scope["client"] = (client, 0)
        # Where both of several lines say something, it is not known which is the proxy's.
        match told.get(b"proto"):
            case ["http" | "https" as scheme]:
                scope["scheme"] = scope[_SCHEME] = scheme
        match told.get(b"prefix"):
            case [prefix]:
                # It says where the page is, and does not shorten paths: a proxy that passes on a
                # client's own would let it reach what it shuts off, as "/x/metrics".
                scope[_PREFIX] = path_prefix(prefix) or ""

    def _shorten(self, scope: Scope) -> None:
        root, path = self._root_path, scope["path"]
        if not root or not path.startswith(root):
            return
        # A prefix has no letters that need an escape, so the address as it was sent begins with it.
        raw = scope.get("raw_path") or quote(path).encode("ascii")
        rest = raw.removeprefix(root.encode("ascii"))
        if rest == raw or rest[:1] not in (b"", b"/"):
            return
        scope[_PREFIX] = root
        scope[_SLASH] = not rest
        scope["path"] = path.removeprefix(root) or "/"
        scope["raw_path"] = rest or b"/"


def told_scheme(scope: Scope) -> str | None:
    """How the client calls the service, where a proxy that is believed says so."""
    scheme: str | None = scope.get(_SCHEME)
    return scheme


def prefix_of(scope: Scope) -> str:
    """The path before the service's own, as the client sees it ("/photos"); "" where there is
    none, or it is not known."""
    prefix: str = scope.get(_PREFIX, "")
    return prefix


def missing_slash(scope: Scope) -> str | None:
    """Where to look instead, relative to what was asked, if that was the prefix without the slash
    that all of the page's addresses are relative to."""
    if not scope.get(_SLASH) or scope["method"] not in ("GET", "HEAD"):
        return None
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{prefix_of(scope).rpartition('/')[2]}/" + (f"?{query}" if query else "")


def to_root(scope: Scope) -> str:
    """From the address that was asked to the service's "/", as a relative one: it is right below
    whatever path a proxy may have taken off, "../../" for "/v1/images/7"."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode("ascii")
    return "../" * (raw.partition(b"?")[0].count(b"/") - 1) or "./"


def service_url(request: Request) -> str:
    """The address of the service as the client calls it, with a slash at its end."""
    return str(request.base_url.replace(path=f"{prefix_of(request.scope)}/"))


def _address(text: str) -> IPAddress | None:
    """An address as proxies write it, with a port or a zone; None for what is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped: ipaddress.IPv4Address | None = getattr(address, "ipv4_mapped", None)
    return mapped or address
