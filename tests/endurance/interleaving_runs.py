"""Runs of the indexer for tests/endurance/interleavings.py, each a process of its own.

Every one is a fork of a child that has imported everything and opened nothing, so a kill costs
milliseconds and is that of a real process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from indexer.ingest import Options, index
from indexer.manage import drop_space, forget_gone, relocate, remove_source, use_space
from indexer.models import Models
from mmsearch.encode import Encoder
from mmsearch.errors import RefusedError, UnknownNameError
from mmsearch.points import EVENT


class Forks:
    """Starts indexing runs: a child, made before anything is opened, forks once for each."""

    def __init__(self, models: tuple[str, str]) -> None:
        self._ours, theirs = socket.socketpair()
        if os.fork() == 0:
            self._ours.close()
            try:
                _serve_forks(theirs, models)
            finally:
                os._exit(0)
        theirs.close()
        self._answers = self._ours.makefile("r")

    def call(self, action: str, **request: Any) -> dict[str, Any] | None:
        """What _ACTIONS does; None when it was killed at `die_at`, (kind of event, number)."""
        request["action"] = action
        self._ours.sendall(json.dumps(request).encode() + b"\n")
        line = self._answers.readline()
        if not line:
            sys.exit("the process that starts the runs is gone")
        answer: dict[str, Any] | None = json.loads(line)
        if answer is not None and "error" in answer:
            raise AssertionError(f"{request} failed: {answer['error']}")
        return answer


class _Loaded(Models):
    """Models that are in memory already."""

    def __init__(self, names: tuple[str, str]) -> None:
        super().__init__()
        self._models = {name: Models() for name in names}
        for name in names:
            self.load(name, **_HOW, reference=False, on_load=str)

    def load(self, model: str, **how: Any) -> Encoder:
        return self._models[model].load(model, **how)


#: On the CPU in full precision, scores do not depend on what is encoded together.
_HOW = {"device": "cpu", "dtype": "fp32"}
_models: Models | None = None


def _serve_forks(requests: socket.socket, models: tuple[str, str]) -> None:
    global _models
    import faiss  # noqa: F401 -- imported for the children
    from alembic import command  # noqa: F401

    _models = _Loaded(models)
    for line in requests.makefile("r"):
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            answer: dict[str, Any] = {}
            try:
                answer = _act(**json.loads(line))
            except BaseException as exc:  # noqa: BLE001 -- whoever asked shows it
                answer = {"error": repr(exc)}
            finally:
                os.write(into, json.dumps(answer).encode())
                os._exit(0)
        os.close(into)
        with os.fdopen(out, "rb") as pipe:
            data = pipe.read()
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        requests.sendall((b"null" if killed else data) + b"\n")


def _act(
    action: str, library: str, die_at: tuple[str, int] | None = None, **given: Any
) -> dict[str, Any]:
    if die_at is not None:
        _die(*die_at)
    try:
        return _ACTIONS[action](Path(library), **given)
    except (RefusedError, UnknownNameError) as exc:
        return {"refused": str(exc)}


def _index(library: Path, targets: list[str], model: str | None) -> dict[str, Any]:
    options = Options(model=model, **_HOW)
    report = index(library, [*map(Path, targets)], options=options, models=_models)
    return {"encoded": report.encoded_images + report.encoded_texts}


def _relocate(library: Path, old: str, new: str) -> dict[str, Any]:
    relocate(library, old, Path(new), force=True)
    return {}


def _remove(library: Path, source: str) -> dict[str, Any]:
    remove_source(library, source)
    return {}


def _forget(library: Path, source: str | None) -> dict[str, Any]:
    forget_gone(library, source)
    return {}


def _use(library: Path, model: str) -> dict[str, Any]:
    use_space(library, model)
    return {}


def _drop(library: Path, model: str) -> dict[str, Any]:
    drop_space(library, model)
    return {}


_ACTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "index": _index,
    "relocate": _relocate,
    "remove": _remove,
    "forget": _forget,
    "use": _use,
    "drop": _drop,
}


def _die(kind: str, number: int) -> None:
    """Has this process kill itself at a commit point, or at an SQL statement, by its number."""
    left = number

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if kind == "point":
        sys.addaudithook(lambda event, _: count() if event == EVENT else None)
    else:
        sa.event.listen(sa.Engine, "before_cursor_execute", lambda *_: count())
