"""Seconds by stage, which stage is the bottleneck, and the trace."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from indexer.clock import STAGES, Clock, Trace, bottleneck


def test_seconds_and_times_are_summed_over_threads() -> None:
    clock = Clock()

    def work() -> None:
        for n in range(500):
            clock.add([("decode", n, n + 0.25), ("resize", n, n + 0.5)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.seconds == dict.fromkeys(STAGES, 0.0) | {"decode": 500.0, "resize": 1000.0}
    rows = {line[:16].strip(): line[16:].split() for line in clock.table(2000).splitlines()}
    assert rows["decode"] == ["500.00", "25%", "2,000", "250.00", "decoders"]
    assert rows["resize"][:2] == ["1000.00", "50%"]
    assert "read" not in rows


def test_laps_follow_one_another() -> None:
    clock = Clock()
    laps = clock.laps("a.jpg")
    laps.lap("read")
    laps.lap("hash")
    assert not any(clock.seconds.values())  # told at the end
    laps.end()
    assert clock.seconds["read"] > 0
    assert clock.seconds["hash"] > 0


def test_a_sum_that_is_known_from_elsewhere() -> None:
    clock = Clock()
    clock.add_seconds("wait for room", 1.5)
    assert "-" in next(line for line in clock.table(3).splitlines() if "wait for room" in line)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({}, None),
        ({"scan": 5.0}, None),
        ({"encode": 5.0, "wait for pixels": 4.0, "decode": 9.0}, "encode"),
        ({"encode texts": 5.0, "wait for pixels": 4.0}, "encode"),
        ({"encode": 1.0, "wait for pixels": 4.0, "decode": 9.0, "read": 2.0}, "decode"),
        ({"encode": 1.0, "wait for pixels": 4.0, "decode": 9.0, "read": 20.0}, "read"),
        ({"encode": 1.0, "wait for pixels": 4.0, "wait for writes": 6.0}, "write"),
    ],
)
def test_bottleneck(seconds: dict[str, float], expected: str | None) -> None:
    assert bottleneck(dict.fromkeys(STAGES, 0.0) | seconds) == expected


def test_trace_is_what_perfetto_reads(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace.json")
    clock = Clock(trace)
    with clock.span("scan"):
        pass
    other = threading.Thread(
        target=lambda: clock.add([("read", 1.0, 1.5), ("hash", 1.5, 1.75)], "bad \udcff name"),
        name="decode",
    )
    other.start()
    other.join()
    cut = (tmp_path / "trace.json").read_text()
    trace.close()
    clock.add([("read", 2.0, 3.0)])  # a thread that was given up: nothing happens
    events = json.loads((tmp_path / "trace.json").read_text())
    assert (tmp_path / "trace.json").read_text().startswith(cut)
    spans = [event for event in events if event["ph"] == "X"]
    assert [(e["name"], e["dur"]) for e in spans[1:]] == [("read", 5e5), ("hash", 2.5e5)]
    assert spans[2]["ts"] == pytest.approx(spans[1]["ts"] + 5e5)
    assert spans[1]["args"] == {"item": "bad ? name"}
    assert spans[0]["name"] == "scan"
    names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert names[spans[1]["tid"]] == "decode"
    assert names[spans[0]["tid"]] == "MainThread"
    assert {event["pid"] for event in events} == {1}
