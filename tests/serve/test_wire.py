"""What is written in one turn of the event loop goes out as one, in order, and nothing is lost; and
whose connection gives way.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import pytest
import uvicorn

from mmsearch.serve.forwarded import Forwarded
from mmsearch.serve.wire import Wire, _Joining

BIG = b"b" * (_Joining.most_bytes + 1)


class Sent(asyncio.Transport):
    """Notes what reaches the system."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.is_closed:  # as uvloop has it
            raise RuntimeError("the handler is closed")
        self.calls.append(bytes(data))

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")

    def lose(self) -> None:
        """The client hangs up."""
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def resume_reading(self) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def after(*steps: Any) -> list[Any]:
    """What reaches the system of these steps, in one turn of the loop: bytes are written."""

    async def main() -> list[Any]:
        sent = Sent()
        loop = asyncio.get_running_loop()
        failed: list[Any] = []
        loop.set_exception_handler(lambda _, context: failed.append(context))
        joining = _Joining(sent, loop)
        for step in steps:
            if isinstance(step, bytes):
                joining.write(step)
            else:
                getattr(sent if step == "lose" else joining, step)()
        await asyncio.sleep(0)
        assert failed == []
        return sent.calls

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((b"head", b"body"), [b"headbody"]),
        ((b"head", b"body", "flush", b"next"), [b"headbody", b"next"]),
        ((b"head", BIG, b"end"), [b"head", BIG, b"end"]),
        ((b"x" * 40_000, b"y" * 40_000, b"z"), [b"x" * 40_000 + b"y" * 40_000, b"z"]),
        ((b"head", b"body", "close"), [b"headbody", "close"]),
        ((b"head", "abort"), ["abort"]),
        ((b"head", "lose"), []),
        ((b"head", "lose", BIG, b"end"), []),
        ((b"head", "lose", "close"), ["close"]),
    ],
)
def test_writes_are_joined(steps: tuple[Any, ...], expected: list[Any]) -> None:
    assert after(*steps) == expected


def exchange(app: Any, sent: Sent, request: bytes) -> None:
    """A connection on which there is one request, to its end."""

    async def main() -> None:
        config = uvicorn.Config(app, log_config=None, http=Wire, ws="none", lifespan="off")
        config.load()
        state = uvicorn.Server(config).server_state
        wire = Wire(config=config, server_state=state, app_state={})
        wire.connection_made(sent)
        wire.data_received(request)
        await asyncio.gather(*state.tasks)
        wire.connection_lost(None)

    asyncio.run(main())


def test_an_answer_leaves_in_one_piece_when_it_is_whole() -> None:
    """Not at the end of the turn: what is done then, a log line for example, is not waited for."""
    sent = Sent()
    answered: list[list[Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello", "more_body": True})
        assert sent.calls == []
        await send({"type": "http.response.body", "body": b" world"})
        answered.append(list(sent.calls))

    exchange(app, sent, b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    ((whole,),) = answered
    assert whole.startswith(b"HTTP/1.1 200")
    assert b"hello" in whole
    assert whole.endswith(b" world\r\n0\r\n\r\n")


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("length", [None, b"11"])
@pytest.mark.parametrize("keep", [b"", b"Connection: keep-alive\r\n"])
def test_who_knows_no_chunks_gets_none(method: bytes, length: bytes | None, keep: bytes) -> None:
    sent = Sent()
    headers = [] if length is None else [(b"content-length", length)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in (b"hello", b" world"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body"})

    exchange(app, sent, method + b" / HTTP/1.0\r\n" + keep + b"\r\n")
    assert "close" in sent.calls
    whole = b"".join(call for call in sent.calls if isinstance(call, bytes))
    head, _, body = whole.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert (b"content-length: 11" in head) is (length is not None)
    assert body == (b"hello world" if method == b"GET" else b"")


class Slow(Sent):
    """A client that takes so many bytes a second of what waits for it."""

    def __init__(self, bytes_per_s: float) -> None:
        super().__init__()
        self.bytes_per_s = bytes_per_s
        self.began = asyncio.get_running_loop().time()
        self.written = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(data)
        self.written += len(data)

    def get_write_buffer_size(self) -> int:
        spent = asyncio.get_running_loop().time() - self.began
        return max(0, self.written - int(spent * self.bytes_per_s))

    def abort(self) -> None:
        super().abort()
        self.is_closed = True


@pytest.mark.parametrize(("bytes_per_s", "is_left"), [(0, True), (100, True), (20_000, False)])
def test_who_takes_an_answer_slowly_gets_all_of_it(
    bytes_per_s: float, is_left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Wire, "max_stall_s", 0.1)

    async def main() -> Slow:
        config = uvicorn.Config(lambda *_: None, log_config=None, http=Wire, ws="none")
        config.load()
        state = uvicorn.Server(config).server_state
        wire, client = Wire(config=config, server_state=state, app_state={}), Slow(bytes_per_s)
        wire.connection_made(client)
        wire.transport.write(bytes(100_000))
        wire.pause_writing()
        # It need not be left soon, but may not be too soon.
        until = client.began + (60 if is_left else 0.5)
        while not client.is_closed and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.01)
        wire.resume_writing()
        wire.connection_lost(None)
        return client

    assert ("abort" in asyncio.run(main()).calls) is is_left


class FromProxy(Sent):
    """A connection of a proxy on this machine."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 40_000) if name == "peername" else default


@pytest.mark.parametrize("is_trusted", [True, False])
def test_behind_a_proxy_connections_count_by_client(
    is_trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that has more than half of all gives way to others; where it is not known whose they
    are, nobody does."""
    monkeypatch.setattr(Wire, "max_connections", 5)

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async def main() -> list[list[Any]]:
        trusted = [ipaddress.ip_network("127.0.0.1")] if is_trusted else []
        app = Forwarded(endless, trusted=trusted)
        config = uvicorn.Config(
            app, log_config=None, http=Wire, ws="none", lifespan="off", proxy_headers=False
        )
        config.load()
        state = uvicorn.Server(config).server_state
        wires: list[Wire] = []
        clients = ("203.0.113.8", *["203.0.113.7"] * 4, "203.0.113.9")
        for client in clients:
            wires.append(Wire(config=config, server_state=state, app_state={}))
            wires[-1].connection_made(FromProxy())
            asked = f"GET / HTTP/1.1\r\nHost: here\r\nX-Forwarded-For: x, {client}\r\n\r\n"
            if not wires[-1].transport.is_closing():
                wires[-1].data_received(asked.encode())
            await asyncio.sleep(0)
        connections = [wire.transport._transport for wire in wires]  # type: ignore[attr-defined]
        calls = [list(connection.calls) for connection in connections]
        for task in state.tasks:
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)
        for wire in wires:
            wire.connection_lost(None)
        return calls

    ended = {n: calls for n, calls in enumerate(asyncio.run(main())) if calls}
    if is_trusted:
        assert ended == {1: ["abort"]}
    else:
        assert list(ended) == [5]
        assert ended[5][0].startswith(b"HTTP/1.1 503")
