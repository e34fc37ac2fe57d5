from __future__ import annotations

from collections.abc import Iterator

import pytest

from mmsearch.encode.overlap import overlapped


class Device:
    """Says what happened, in order, and what is in flight."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.flying: set[int] = set()

    def inputs(self, count: int) -> Iterator[int]:
        for n in range(count):
            self.events.append(f"fetch {n}")
            yield n

    def start(self, n: int) -> int:
        self.events.append(f"start {n}")
        self.flying.add(n)
        assert len(self.flying) <= 2
        return n

    def finish(self, n: int) -> str:
        self.events.append(f"finish {n}")
        self.flying.remove(n)
        return f"result {n}"


def test_the_next_is_started_before_one_is_finished() -> None:
    device = Device()
    found = list(overlapped(device.inputs(3), device.start, device.finish))
    assert found == ["result 0", "result 1", "result 2"]
    assert device.events == [
        "fetch 0", "start 0",
        "fetch 1", "start 1", "finish 0",
        "fetch 2", "start 2", "finish 1",
        "finish 2",
    ]  # fmt: skip


@pytest.mark.parametrize("count", [0, 1])
def test_none_and_one(count: int) -> None:
    device = Device()
    found = list(overlapped(device.inputs(count), device.start, device.finish))
    assert found == [f"result {n}" for n in range(count)]
    assert not device.flying


def test_what_is_in_flight_is_finished_when_inputs_or_start_fail() -> None:
    device = Device()

    def broken_inputs() -> Iterator[int]:
        yield 0
        raise OSError("the drive is gone")

    with pytest.raises(OSError, match="drive"):
        list(overlapped(broken_inputs(), device.start, device.finish))
    assert not device.flying

    def broken_start(n: int) -> int:
        if n == 2:
            raise RuntimeError("no such batch")
        return device.start(n)

    stream = overlapped(range(5), broken_start, device.finish)
    assert next(stream) == "result 0"
    with pytest.raises(RuntimeError, match="no such batch"):
        next(stream)
    assert not device.flying


def test_who_stops_early_leaves_nothing_in_flight() -> None:
    device = Device()
    stream = overlapped(device.inputs(5), device.start, device.finish)
    assert next(stream) == "result 0"
    assert device.flying == {1}
    stream.close()
    assert not device.flying
    assert "fetch 2" not in device.events
