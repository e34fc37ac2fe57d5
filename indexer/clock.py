"""Where the time of an indexing run goes: seconds by stage, and on request a trace of each span."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Self

#: Every stage, in the order in which a picture meets them, and who works at it.
STAGES = {
    "scan": "main",
    "load model": "main",
    "read": "decoders",
    "hash": "decoders",
    "look up": "decoders",
    "decode": "decoders",
    "resize": "decoders",
    "wait for room": "decoders",
    "wait for pixels": "model",
    "wait for writes": "model",
    "encode texts": "model",
    "encode": "model",
    "write": "main",
    "link": "main",
    "index": "main",
}
#: What decoders do for a picture; the rest of their time they wait.
PREPARING = ("read", "hash", "look up", "decode", "resize")

#: A stage, and when it began and ended, in seconds of `perf_counter`.
Span = tuple[str, float, float]


class Clock:
    """Seconds by stage, summed over all threads. Thread-safe, and cheap: microseconds a picture."""

    def __init__(self, trace: Trace | None = None) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._times = dict.fromkeys(STAGES, 0)
        self._trace = trace

    def add(
        self, spans: Sequence[Span], item: str = "", worker: tuple[int, str] | None = None
    ) -> None:
        """Takes spans of this thread, or of another worker (a number and a name); `item` names what
        they were spent on."""
        with self._lock:
            for stage, began, ended in spans:
                self._seconds[stage] += ended - began
                self._times[stage] += 1
        if self._trace is not None:
            self._trace.write(spans, item, worker)

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Takes time that is known only as a sum."""
        with self._lock:
            self._seconds[stage] += seconds

    def span(self, stage: str) -> _Around:
        """A context whose time is one of this stage."""
        return _Around(self, stage)

    def laps(self, item: str) -> Laps:
        """For stages that follow one another in one thread."""
        return Laps(lambda spans: self.add(spans, item))

    @property
    def seconds(self) -> dict[str, float]:
        """By stage, so far."""
        with self._lock:
            return dict(self._seconds)

    def table(self, whole: float) -> str:
        """The stages of a run of `whole` seconds that took any time, for people."""
        with self._lock:
            seconds, times = dict(self._seconds), dict(self._times)
        lines = [
            f"{'stage':<16}{'seconds':>10}{'of the run':>12}{'times':>9}{'ms each':>10}  thread"
        ]
        for stage, thread in STAGES.items():
            if not seconds[stage]:
                continue
            share = seconds[stage] / whole if whole else 0.0
            each = f"{1000 * seconds[stage] / times[stage]:.2f}" if times[stage] else "-"
            count = f"{times[stage]:,}" if times[stage] else "-"
            lines.append(
                f"{stage:<16}{seconds[stage]:>10.2f}{share:>12.0%}{count:>9}{each:>10}  {thread}"
            )
        lines.append("(decoders are several: their shares add up to more than the run)")
        if (slowest := bottleneck(seconds)) is not None:
            lines.append(
                f"The model waited {seconds['wait for pixels']:.1f} s for pixels and "
                f"{seconds['wait for writes']:.1f} s for writes, the decoders "
                f"{seconds['wait for room']:.1f} s for the model: the bottleneck is {slowest}."
            )
        return "\n".join(lines)


def bottleneck(seconds: Mapping[str, float]) -> str | None:
    """The stage that a run goes as fast as, by seconds of each stage; None when it encodes nothing.

    That is the model, if it works for the most part of its time. If it mostly waits for pixels, it
    is what the decoders spend most on.
    """
    working = seconds["encode"] + seconds["encode texts"]
    pixels, writes = seconds["wait for pixels"], seconds["wait for writes"]
    if not working + pixels + writes:
        return None
    if working >= max(pixels, writes):
        return "encode"
    return "write" if writes > pixels else max(PREPARING, key=seconds.__getitem__)


class Laps:
    """Stages of one item, each from the end of the one before."""

    __slots__ = ("_at", "_tell", "spans")

    def __init__(self, tell: Callable[[Sequence[Span]], None] | None = None) -> None:
        """tell: is given the spans by `end`."""
        #: So far.
        self.spans: list[Span] = []
        self._tell = tell
        self._at = perf_counter()

    def lap(self, stage: str) -> None:
        """What was done since the last lap was this stage."""
        now = perf_counter()
        self.spans.append((stage, self._at, now))
        self._at = now

    def end(self) -> None:
        if self._tell is not None:
            self._tell(self.spans)


class _Around:
    __slots__ = ("_began", "_clock", "_stage")

    def __init__(self, clock: Clock, stage: str) -> None:
        self._clock = clock
        self._stage = stage

    def __enter__(self) -> Self:
        self._began = perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clock.add([(self._stage, self._began, perf_counter())])


class Trace:
    """Spans as a file of Chrome's trace events, which Perfetto (ui.perfetto.dev) opens.

    Written as it comes, so that it takes no memory, in the form of an array: a reader takes one
    that was cut off, too. Source: "Trace Event Format", https://docs.google.com/document/d/
    1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU, complete ("X") and metadata ("M") events.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError: the file cannot be written."""
        self._file = path.open("w", encoding="ascii")
        self._file.write("[")
        self._lock = threading.Lock()
        self._threads: set[int] = set()
        self._origin = perf_counter()
        self._first = True

    def write(
        self, spans: Sequence[Span], item: str, worker: tuple[int, str] | None = None
    ) -> None:
        """Takes spans of this thread, or of another worker."""
        thread, name = worker or (threading.get_native_id(), threading.current_thread().name)
        said: dict[str, object] = {"args": {"item": item.encode("utf-8", "replace").decode()}}
        with self._lock:
            if self._file.closed:  # a thread that was given up came back after all
                return
            if thread not in self._threads:
                self._threads.add(thread)
                self._event({"ph": "M", "name": "thread_name", "args": {"name": name}}, thread)
            for stage, began, ended in spans:
                event: dict[str, object] = {
                    "ph": "X",
                    "name": stage,
                    "ts": round(1e6 * (began - self._origin), 1),
                    "dur": round(1e6 * (ended - began), 1),
                }
                self._event(event | said if item else event, thread)

    def _event(self, event: dict[str, object], thread: int) -> None:
        self._file.write(
            ("\n" if self._first else ",\n") + json.dumps(event | {"pid": 1, "tid": thread})
        )
        self._first = False

    def close(self) -> None:
        with self._lock:
            self._file.write("\n]\n")
            self._file.close()
