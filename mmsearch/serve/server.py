"""Serve a library until told to stop: bind first, say where, end what is in flight."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from mmsearch.errors import ServiceError
from mmsearch.serve.app import create_app
from mmsearch.serve.guard import is_loopback
from mmsearch.settings import Settings

if TYPE_CHECKING:
    from mmsearch.library import Library

log = logging.getLogger(__name__)

#: How long requests in flight may take to end once a stop was asked for.
SHUTDOWN_S = 10
BACKLOG = 2048


def run(
    library: Library,
    settings: Settings,
    host: str | None = None,
    port: int | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve `library` until SIGINT or SIGTERM, then end what is in flight and return.

    host, port: where to listen; without them, what the settings say. Port 0 takes a free one.
    on_ready: called once, with the address to open, when connections are accepted.
    Raises ServiceError when the address cannot be had.
    """
    host = settings.host if host is None else host
    port = settings.port if port is None else port
    listener = bind(host, port)
    address = address_of(listener, host)
    if not is_loopback(host):
        log.warning("listening beyond this machine: whoever reaches %s can see the photos", address)
    app = create_app(library, settings.model_copy(update={"host": host}))
    config = uvicorn.Config(
        app,
        log_config=None,
        lifespan="on",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    with listener, _stop_signals_end_here():
        _Server(config, lambda: on_ready(address) if on_ready else None).run(sockets=[listener])


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ServiceError, which says what is in the way."""
    try:
        family, _, _, _, where = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(where[:2], family=family, backlog=BACKLOG)
    except (OSError, ValueError) as exc:
        # ValueError: what cannot even be a name, for example a label of 70 letters.
        reason = exc.strerror if isinstance(exc, OSError) else None
        raise ServiceError(host, port, reason or str(exc)) from exc


def address_of(listener: socket.socket, host: str) -> str:
    """The address to open in a browser on this machine."""
    port = listener.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()


@contextmanager
def _stop_signals_end_here() -> Iterator[None]:
    # uvicorn raises the signal that stopped it once more when it has ended; by then it has done
    # its work, and the caller still has a library to close.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stops = (signal.SIGINT, signal.SIGTERM)
    before = {stop: signal.signal(stop, lambda *_: None) for stop in stops}
    try:
        yield
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)
