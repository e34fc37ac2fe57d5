"""A reverse proxy of the tests' own: as nginx does, it appends to X-Forwarded-For, says the scheme,
and shows the service below a path, which it passes on or takes off."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading


class Proxy(socketserver.ThreadingTCPServer):
    """Listens on a port of 127.0.0.1 while it is entered.

    client: whom its requests come from, which a test may change. path: "/photos"; what is asked
    beside it is noted in `strayed`. strips: takes the path off. tells: says so.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        port: int,
        *,
        client: str = "203.0.113.7",
        path: str = "",
        strips: bool = False,
        tells: bool = False,
        scheme: str = "http",
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = port
        self.client = client
        self.path = path
        self.strips = strips
        self.tells = tells
        self.scheme = scheme
        self.strayed: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}{path}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def head(self, head: bytes) -> bytes | None:
        """What the service is sent for the head of a request; None for what is not its own."""
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        if self.path and not (
            target == self.path or target.startswith((f"{self.path}/", f"{self.path}?"))
        ):
            if target != "/favicon.ico":  # of the browser itself, for a picture alone
                self.strayed.append(target)
            return None
        if self.strips:
            target = "/" + target.removeprefix(self.path).removeprefix("/")
        headers = [line.partition(":") for line in lines]
        told = [v.strip() for name, _, v in headers if name.lower() == "x-forwarded-for"]
        ours = {"connection": "close", "x-forwarded-for": ", ".join([*told, self.client])}
        ours["x-forwarded-proto"] = self.scheme
        if self.tells:
            ours["x-forwarded-prefix"] = self.path
        kept = [f"{name}:{value}" for name, _, value in headers if name.lower() not in ours]
        kept += [f"{name}: {value}" for name, value in ours.items()]
        return "\r\n".join((f"{method} {target} {version}", *kept, "", "")).encode("latin-1")


class _Handler(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            piece = self.request.recv(1 << 16)
            if not piece:
                return
            received += piece
        head, _, rest = received.partition(b"\r\n\r\n")
        sent = self.server.head(head)
        if sent is None:
            self.request.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.server.behind)) as service,
        ):
            service.sendall(sent + rest)
            threading.Thread(target=_pass_on, args=(self.request, service), daemon=True).start()
            _pass_on(service, self.request)


def _pass_on(source: socket.socket, to: socket.socket) -> None:
    """Until the source ends, which the other then sees."""
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            to.sendall(piece)
    with contextlib.suppress(OSError):
        to.shutdown(socket.SHUT_RDWR)
