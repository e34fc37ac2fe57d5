"""Runs the command line in forked children, which are killed, or whose disk fails.

The process that forks has imported the libraries, which takes seconds; each run costs a fork.
"""

from __future__ import annotations

import gc
import io
import os
import pickle
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shim import Fault, Shim

#: No command on a few dozen pictures takes that long: one that does hangs.
DEADLINE_S = 90.0

SHIM = Shim()


@dataclass(frozen=True, slots=True)
class Strike:
    """What a run does not survive; all zero: nothing.

    point, nth: the n-th time it reaches a commit point. statement: the n-th SQL statement.
    after_s: a moment in time. fault: a write.
    """

    point: str = ""
    nth: int = 1
    statement: int = 0
    after_s: float = 0.0
    fault: Fault = field(default_factory=Fault)


@dataclass(slots=True)
class Outcome:
    """What became of a run. code: of its exit; -9 killed, None when it had to be ended: it hung.

    commits: how often it had said that a commit was done. points: every commit point in order.
    writes: below the library. fired: how many of them failed, `what` the first.
    """

    code: int | None
    stdout: str
    stderr: str
    seconds: float
    commits: int = 0
    points: tuple[str, ...] = ()
    statements: int = 0
    writes: int = 0
    fired: int = 0
    what: str = ""


def command(arguments: Sequence[str], library: Path, strike: Strike, scratch: Path) -> Outcome:
    """`mmsearch ARGUMENTS` on the library, as `strike` lets it."""
    stdout, stderr, notes = (scratch / name for name in ("stdout", "stderr", "notes"))
    for file in (stdout, stderr, notes):
        file.write_bytes(b"")

    def run() -> None:
        for number, path in ((1, stdout), (2, stderr)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
        sys.stdout, sys.stderr = _unbuffered(1), _unbuffered(2)
        _watch(strike, os.open(notes, os.O_WRONLY | os.O_APPEND))
        SHIM.arm(library, strike.fault)
        _main(["mmsearch", "-l", str(library), *arguments])

    code, seconds = forked(run, strike.after_s or DEADLINE_S)
    said = notes.read_text().splitlines()
    points = tuple(line[1:] for line in said if line.startswith(":"))
    return Outcome(
        code=None if code == -signal.SIGKILL and not _deadly(strike) else code,
        stdout=stdout.read_text(errors="replace"),
        stderr=stderr.read_text(errors="replace"),
        seconds=seconds,
        commits=sum(map(_is_commit, points)),
        points=points,
        statements=sum(line == "s" for line in said),
        writes=SHIM.count,
        fired=SHIM.fired,
        what=SHIM.what,
    )


def _deadly(strike: Strike) -> bool:
    failing = strike.fault.nth and not strike.fault.code
    return bool(strike.point or strike.statement or strike.after_s or failing)


def _is_commit(point: str) -> bool:
    """Whether it tells that the catalog's revision has just grown."""
    return point.endswith(": committed") and not point.startswith("schema")


def _unbuffered(number: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.FileIO(number, "w"), write_through=True)


def _watch(strike: Strike, notes: int) -> None:
    """Notes points and statements in a file, and dies where `strike` says."""
    import sqlalchemy as sa

    reached = statements = 0

    def at_point(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal reached
        if event != "mmsearch.point":
            return
        os.write(notes, f":{arguments[0]}\n".encode())
        if arguments[0] == strike.point:
            reached += 1
            if reached == strike.nth:
                os.kill(os.getpid(), signal.SIGKILL)

    def at_statement(*_arguments: Any) -> None:
        nonlocal statements
        statements += 1
        os.write(notes, b"s\n")
        if statements == strike.statement:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(at_point)
    sa.event.listen(sa.Engine, "before_cursor_execute", at_statement)


def _main(arguments: list[str]) -> None:
    """The entry point of the command, and what Python does with what it lets through."""
    import torch

    from mmsearch.cli import main

    torch.set_num_threads(1)
    sys.argv = arguments
    try:
        main()
    finally:
        gc.collect()  # what objects still do when they go belongs to the run


def forked(run: Callable[[], object], most_s: float = DEADLINE_S) -> tuple[int, float]:
    """run() in a child: its exit code (-9 when it was killed, here after `most_s`) and seconds."""
    ended, held = os.pipe()
    SHIM.reset()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.close(ended)
            run()
            code = 0
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
        except BaseException:  # noqa: BLE001 -- as the interpreter would
            traceback.print_exc()
            code = 1
        finally:
            os._exit(code)
    os.close(held)
    # The child's end closes the pipe.
    select.select([ended], [], [], most_s)
    os.close(ended)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - started


def result(run: Callable[[], Any], scratch: Path) -> Any:
    """What run() returns in a child; a RuntimeError with its traceback when it raises."""
    answer, errors = scratch / "answer", scratch / "errors"

    def kept() -> None:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.stderr = _unbuffered(2)
        answer.write_bytes(pickle.dumps(run()))

    code, _ = forked(kept)
    if code != 0:
        raise RuntimeError(f"exit code {code}: {errors.read_text(errors='replace')[-3000:]}")
    return pickle.loads(answer.read_bytes())


def random_strike(chance: random.Random, clean: Outcome, kind: str) -> Strike:
    """A strike at a random place of a run that went as `clean` did."""
    # Also where much is at stake in little time: the tables are made, texts are linked.
    edge = chance.random()

    def place(most: int) -> int:
        first, last = (1, 60) if edge < 0.2 else (most - 60, most) if edge > 0.8 else (1, most)
        return chance.randint(max(1, first), max(1, min(last, most)))

    if kind == "statement":
        return Strike(statement=place(clean.statements))
    if kind == "moment":
        return Strike(after_s=chance.uniform(0.001, clean.seconds))
    if kind == "write":
        return Strike(fault=Fault(place(clean.writes), torn=chance.random() < 0.5))
    point = chance.choice(clean.points)
    return Strike(point=point, nth=chance.randint(1, clean.points.count(point)))
