"""What a run shows while it goes: a bar for people, lines of JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from time import perf_counter
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mmsearch.cli.options import printable

#: What the bar calls the stage that a run goes as fast as.
_LIMITS: Mapping[str | None, str] = {
    "encode": "the model is the limit",
    "read": "reading files is the limit",
    "hash": "hashing is the limit",
    "look up": "looking up is the limit",
    "decode": "decoding is the limit",
    "resize": "resizing is the limit",
    "write": "writing is the limit",
}


class Lines:
    """Progress for programs: a line of JSON on stderr for each step."""

    def __init__(self) -> None:
        self._done = 0
        self._skipped = 0
        self._bottleneck: str | None = None
        self._began = perf_counter()

    def scanning(self, location: str, files: int) -> None:
        line("scanning", source=location, files=files)

    def loading_model(self, name: str) -> None:
        line("loading", model=name)

    def started(self, what: str, total: int | None) -> None:
        self._done, self._began = 0, perf_counter()
        line("started", what=what, total=total)

    def limited(self, skipped: int, bottleneck: str | None) -> None:
        self._skipped, self._bottleneck = skipped, bottleneck

    def advanced(self, done: int) -> None:
        self._done += done
        seconds = perf_counter() - self._began
        line(
            "advanced",
            done=self._done,
            a_second=round(self._done / seconds, 1) if seconds > 0 else None,
            skipped=self._skipped,
            bottleneck=self._bottleneck,
        )


def line(event: str, **facts: object) -> None:
    """A line on stderr."""
    # In ASCII, so that a name with broken bytes passes through any pipe.
    click.echo(json.dumps({"event": event, **facts}), err=True)


class _RateColumn(ProgressColumn):
    """Items a second over the last moments."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")


class Bar:
    """A progress bar on stderr, or nothing where stderr is no terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            # Names of folders stand in it, and brackets in them are no markup.
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._state = ""
        self._task = self._progress.add_task("starting", total=None, state="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def scanning(self, location: str, files: int) -> None:
        self._progress.update(
            self._task, description=f"scanning {printable(location)}", completed=files
        )

    def loading_model(self, name: str) -> None:
        self._progress.update(self._task, description=f"loading {name}")

    def started(self, what: str, total: int | None) -> None:
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(printable(what), total=total, state=self._state)

    def limited(self, skipped: int, bottleneck: str | None) -> None:
        parts = [f"{skipped:,} skipped"] if skipped else []
        if bottleneck is not None:
            parts.append(_LIMITS.get(bottleneck, bottleneck))
        self._state = ", ".join(parts)
        self._progress.update(self._task, state=self._state)

    def advanced(self, done: int) -> None:
        self._progress.advance(self._task, done)
