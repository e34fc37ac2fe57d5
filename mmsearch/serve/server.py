"""Serve a library until told to stop: bind first, say where, end what is in flight."""

from __future__ import annotations

import atexit
import logging
import math
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from mmsearch.announce import announced
from mmsearch.blas import one_thread
from mmsearch.errors import ServiceError
from mmsearch.serve import heap
from mmsearch.serve.access import check_binding, is_for_this_machine
from mmsearch.serve.app import check_root_path, create_app
from mmsearch.serve.keys import Keys, keys_path
from mmsearch.serve.wire import Wire
from mmsearch.settings import Settings

if TYPE_CHECKING:
    from mmsearch.library import Library
    from mmsearch.serve.service import Service

log = logging.getLogger(__name__)

#: How long requests in flight may take to end once a stop was asked for.
SHUTDOWN_S = 10
#: How long the model may take after that to end what it is at, which nobody awaits any more.
JOIN_S = 0.5
BACKLOG = 2048


def run(
    library: Library,
    settings: Settings,
    host: str | None = None,
    port: int | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> bool:
    """Serve `library` until SIGINT or SIGTERM, then end what is in flight and return.

    Returns whether all of its threads have ended, too. One that loads a large model may still be at
    it. The interpreter waits for that at its end, because ending a thread in the middle of torch
    aborts the process ("terminate called without an active exception"); `os._exit` need not.

    host, port: where to listen; without them, what the settings say. Port 0 takes a free one.
    on_ready: called once, with the address to open, when connections are accepted.
    Raises ServiceError when the address cannot be had; RefusedError where it would show the library
    to a network without any key, or below a path of its own.
    """
    host = settings.host if host is None else host
    port = settings.port if port is None else port
    settings = settings.model_copy(update={"host": host})
    keys = Keys(keys_path(library.path, settings.keys_file))
    check_binding(settings, keys)
    check_root_path(settings.root_path)
    listener = bind(host, port)
    address = address_of(listener, host)
    if not is_for_this_machine(settings) and not keys.all():
        log.warning("without any key: whoever reaches %s can see the photos", address)
    heap.bound()
    local_token = secrets.token_urlsafe(32)
    app = create_app(library, settings, local_token=local_token)
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # mmsearch.serve.watch writes these lines
        lifespan="on",
        http=Wire,
        ws="none",
        server_header=False,
        proxy_headers=False,
    )
    with (
        listener,
        announced(library.path, address, local_token, time.time()),
        _stop_signals_end_here(),
        # Whatever is not within it by itself: the threads of the service share the cores already.
        one_thread(),
    ):
        server = _Server(
            config,
            service,
            lambda: on_ready and on_ready(address),
            app.state.runs.end_streams,
        )
        server.run(sockets=[listener])
    if service.join(JOIN_S):
        return True
    atexit.register(service.join)
    return False


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ServiceError, which says what is in the way."""
    try:
        family, _, _, _, where = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # "::" is all addresses, those of IPv4 too; systems differ in what it is otherwise.
        both = where[0] == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(where[:2], family=family, backlog=BACKLOG, dualstack_ipv6=both)
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
    """uvicorn, which goes on listening while what is in flight ends: until then new requests are
    told that the service stops, rather than nothing at all."""

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        on_started: Callable[[], object],
        on_stop: Callable[[], object],
    ) -> None:
        super().__init__(config)
        self._service = service
        self._on_started = on_started
        self._on_stop = on_stop
        self._stop_by: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.stopping = True
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if not await super().on_tick(counter):
            return False
        self._service.closing.set()
        now = time.monotonic()
        if self._stop_by is None:
            self._stop_by = now + SHUTDOWN_S
            self._on_stop()
        return self.force_exit or now >= self._stop_by or not self._service.in_flight

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # What is left of the time since the stop was asked for, not as much once more.
        now = time.monotonic()
        left = (now + SHUTDOWN_S if self._stop_by is None else self._stop_by) - now
        self.config.timeout_graceful_shutdown = max(0, math.ceil(left))
        await super().shutdown(sockets)

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
