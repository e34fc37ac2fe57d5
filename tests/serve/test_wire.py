"""What is written in one turn of the event loop goes out as one, in order, and nothing is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mmsearch.serve.wire import _Joining

BIG = b"b" * (_Joining.most_bytes + 1)


class Sent(asyncio.Transport):
    """Notes what reaches the system."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.calls.append(bytes(data))

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")


def after(*steps: Any) -> list[Any]:
    """What reaches the system of these steps, in one turn of the loop: bytes are written."""

    async def main() -> list[Any]:
        sent = Sent()
        joining = _Joining(sent, asyncio.get_running_loop())
        for step in steps:
            joining.write(step) if isinstance(step, bytes) else getattr(joining, step)()
        await asyncio.sleep(0)
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
        (("flush",), []),
    ],
)
def test_writes_are_joined(steps: tuple[Any, ...], expected: list[Any]) -> None:
    assert after(*steps) == expected
