"""Indexing runs that the service was asked for: one at a time, each a process of its own.

A process, because the write path is another program's: it takes the library's lock like any run in
a terminal, its memory goes with it, and stopping it is Ctrl-C, which is safe at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import json
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from mmsearch.errors import LibraryLockedError, OverloadedError
from mmsearch.store.lock import writer_of

log = logging.getLogger(__name__)

State = Literal["queued", "running", "done", "failed", "stopped"]
_OVER: frozenset[State] = frozenset({"done", "failed", "stopped"})

#: Sources waiting to be read; each counts once, however often it was asked for.
MAX_QUEUED = 100
#: How long a run waits for another process that writes to the library.
_PATIENCE_S = 600.0
_LOOK_EVERY_S = 0.5
#: What a run may take to end its batch in hand once the service stops.
_END_S = 20.0
_LINE_BYTES = 1 << 20
_SAID = 20


@dataclass(slots=True)
class Run:
    """One run over one source. step: "waiting", "scanning", "loading", or what is being read
    ("images"); done of total items of that. error: why it failed."""

    id: int
    source: str
    location: str
    forget: bool = False
    state: State = "queued"
    step: str = "waiting"
    done: int = 0
    total: int | None = None
    report: dict[str, Any] | None = None
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    asked_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    began_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def is_over(self) -> bool:
        """Whether it will not change any more."""
        return self.state in _OVER


class Runs:
    """The runs of one library. All calls from the event loop's thread."""

    def __init__(self, library: Path, device: str) -> None:
        self._library = library
        self._device = device
        self._ids = itertools.count(1)
        self._queue: deque[Run] = deque()
        self.now: Run | None = None
        self.last: Run | None = None
        self._changed = asyncio.Event()
        self._asked = asyncio.Event()
        self._closing = False
        self._child: Process | None = None
        self._worker: asyncio.Task[None] | None = None

    @property
    def queued(self) -> list[Run]:
        """Those that wait for their turn, the next first."""
        return list(self._queue)

    def writer(self) -> int | None:
        """The process that writes to the library and is no run of this service."""
        pid = writer_of(self._library)
        own = self._child.pid if self._child is not None else None
        return None if pid == own else pid

    def start(self, source: str, location: str, *, forget: bool = False) -> Run:
        """Lets a source be read, once those before are done. Asked for twice, it is one run.

        source: its name; location: where it is. forget: what is gone from it is forgotten for good.
        Raises OverloadedError.
        """
        waiting = next((run for run in self._queue if run.location == location), None)
        if waiting is not None:
            waiting.forget |= forget
            return waiting
        if len(self._queue) >= MAX_QUEUED or self._closing:
            raise OverloadedError("too many runs are waiting already; ask again when some are done")
        run = Run(next(self._ids), source, location, forget)
        self._queue.append(run)
        self._asked.set()
        self._tell()
        if self._worker is None:
            # In a context of its own: its log lines are not those of the request that came first.
            self._worker = asyncio.create_task(self._work(), context=contextvars.Context())
        return run

    async def ended(self, run: Run, seconds: float) -> None:
        """Returns when the run is over, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not run.is_over and not self._closing:
                    await self._changed.wait()

    async def changes(self, every_s: float, at_most_every_s: float = 0.1) -> AsyncIterator[bool]:
        """True at once, and whenever something changed; False where `every_s` nothing did. Ends
        with the service."""
        # Taken before it is told: what changes while that is sent, or in the pause, is told next.
        changed = self._changed
        yield True
        while not self._closing:
            try:
                async with asyncio.timeout(every_s):
                    await changed.wait()
            except TimeoutError:
                yield False
                continue
            changed = self._changed
            yield True
            await asyncio.sleep(at_most_every_s)

    def end_streams(self) -> None:
        """Ends `changes` and `ended`, so that nobody waits for them when the service stops."""
        self._closing = True
        self._tell()

    async def close(self) -> None:
        """Stops the run in hand, as Ctrl-C does, and drops those that wait."""
        self.end_streams()
        self._queue.clear()
        if self._child is not None:
            await _stop(self._child)
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker

    def _tell(self) -> None:
        # A fresh event for who waits next; those that wait on this one wake up.
        self._changed.set()
        self._changed = asyncio.Event()

    # --- running --------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            while not self._queue:
                self._asked.clear()
                await self._asked.wait()
            run = self.now = self._queue.popleft()
            run.state, run.began_at = "running", datetime.now(UTC)
            self._tell()
            try:
                await self._run(run)
            except OSError as exc:
                run.state, run.error = "failed", f"no process could be started: {exc.strerror}"
            except Exception:  # the edge: whatever waits behind it has its turn
                log.exception("indexing %s", run.source)
                run.state, run.error = "failed", "an error in mmsearch; the service's log has more"
            finally:
                if not run.is_over:
                    run.state = "stopped"
                run.ended_at = datetime.now(UTC)
                self.now, self.last = None, run
                self._tell()
            if run.error is not None:
                log.error("indexing %s: %s", run.source, run.error)

    async def _run(self, run: Run) -> None:
        code = await self._patiently(run, "index", run.location, "--progress", "json", "--json")
        if code == 0 and run.forget:
            code = await self._patiently(run, "sources", "forget", run.location, "--yes")
        if code == 0:
            run.state, run.step = "done", "done"
        elif self._closing or code == 130:
            run.state = "stopped"
        else:
            run.state = "failed"
            run.error = run.error or f"the process ended with code {code}"

    async def _patiently(self, run: Run, command: str, *arguments: str) -> int:
        """`_call` when no other process writes to the library; again if one began meanwhile. What
        holds on for longer than the patience is told by the run."""
        until = time.monotonic() + _PATIENCE_S
        while True:
            while self.writer() is not None and time.monotonic() < until:
                await asyncio.sleep(_LOOK_EVERY_S)
            code = await self._call(run, command, *arguments)
            if code != LibraryLockedError.exit_code or time.monotonic() > until:
                return code
            run.error, run.step = None, "waiting"
            self._tell()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _call(self, run: Run, command: str, *arguments: str) -> int:
        """Runs `mmsearch COMMAND` on the library. Its exit code; what it says goes into `run`."""
        flags = ["--device", self._device] if command == "index" else []
        child = self._child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "mmsearch", "-l", str(self._library), command, *arguments, *flags),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            limit=_LINE_BYTES,
            # Ctrl-C in the terminal is for the service, which passes it on in its own time.
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            assert child.stdout is not None
            assert child.stderr is not None
            output, said = await asyncio.gather(
                child.stdout.read(), self._follow(run, child.stderr)
            )
            code = await child.wait()
        except BaseException:
            await _stop(child)
            raise
        finally:
            self._child = None
        if code == 0 and command == "index":
            with contextlib.suppress(ValueError):
                run.report = json.loads(output)
        elif code not in (0, 130):
            run.error = said[-1].removeprefix("mmsearch: ") if said else None
        return code

    async def _follow(self, run: Run, lines: asyncio.StreamReader) -> Sequence[str]:
        """Takes in the steps of a run. What else was said."""
        said: deque[str] = deque(maxlen=_SAID)
        while True:
            try:
                line = await lines.readline()
            except ValueError:  # longer than any of ours
                continue
            if not line:
                return said
            text = line.decode("utf-8", "replace").strip()
            try:
                step = json.loads(text)
                event = step["event"]
            except (ValueError, KeyError, TypeError):
                said.append(text)
                continue
            self._take(run, event, step)
            self._tell()

    @staticmethod
    def _take(run: Run, event: str, step: dict[str, Any]) -> None:
        if event == "scanning":
            run.step, run.done, run.total = "scanning", step["files"], None
        elif event == "loading":
            run.step, run.done, run.total = "loading", 0, None
        elif event == "started":
            run.step, run.done, run.total = step["what"], 0, step["total"]
        elif event == "advanced":
            run.done = step["done"]
        elif event == "warning":
            run.warnings.append(step["message"])


async def _stop(child: Process) -> None:
    """Ctrl-C, and what cannot be caught if that does not help."""
    if child.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(_END_S):
            await child.wait()
    except TimeoutError:
        log.warning("the indexing process %d did not end; it was killed", child.pid)
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
