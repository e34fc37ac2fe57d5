"""Whatever happens to folders and to their library, in any order: searches are those of one clean
run over what the folders hold in the end.

A state machine (Hypothesis) adds, changes, renames, moves, copies, deletes and brings back files,
unplugs folders, indexes all or a part, kills the indexing with SIGKILL, switches to another model
and back, moves the library, and looks at it with a reader that stays open. Prints a table, and
writes it as JSON.

    python tests/endurance/interleavings.py --examples 300 --steps 40 --out result.json

A process of its own: every indexing run is a fork of a child that has imported everything and
opened nothing, so a kill costs milliseconds and is that of a real process.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # forked runs must not inherit the threads of a parallel region

import argparse
import contextlib
import json
import shutil
import signal
import socket
import sqlite3
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

sys.path.insert(0, str(Path(__file__).parents[1]))

import sqlalchemy as sa
from collection import encoded, found, found_in, save_model, titled, write

from indexer.ingest import Options, index
from indexer.manage import drop_space, forget_gone, relocate, remove_source, use_space
from indexer.models import Models
from mmsearch.encode import Encoder
from mmsearch.errors import LibraryNotFoundError, RefusedError, UnknownNameError
from mmsearch.library import Library
from mmsearch.points import EVENT

_KINDS_OF_PICTURE = (".png", ".jpg")
_KINDS_OF_FILE = (*_KINDS_OF_PICTURE, ".txt", ".jsonl", ".zip")


# --- indexing runs, each a process of its own --------------------------------------------------


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


# --- what a catalog must be at every moment ----------------------------------------------------

_HELD = " UNION ALL ".join(
    f"SELECT content_id FROM {table} WHERE missing_since IS NULL" for table in ("image", "text")
)
_PROBLEMS = {
    "hidden, yet held by a file": f"SELECT id FROM content WHERE hidden AND id IN ({_HELD})",
    "held by no file, yet not hidden": f"""
        SELECT id FROM content WHERE NOT hidden AND id NOT IN ({_HELD})""",
    "a link to a picture that is gone": """
        SELECT text.id FROM text JOIN image ON image.id = image_id
        WHERE image.missing_since IS NOT NULL AND text.missing_since IS NULL""",
    "two active spaces": "SELECT 1 FROM space WHERE active GROUP BY active HAVING count(*) > 1",
}
_UNANSWERED = """
    SELECT id FROM content WHERE NOT hidden AND id NOT IN
    (SELECT content_id FROM embedding JOIN space ON space.id = space_id WHERE active)"""


def problems(library: Path, *, finished: bool) -> list[str]:
    """What is wrong in a catalog, read with nothing of mmsearch. finished: no run is due."""
    path = library / "catalog.db"
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(path)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'state'").fetchall():
            return []
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
        found = [row for row in found if row != "ok"]
        found += [str(row) for row in connection.execute("PRAGMA foreign_key_check")]
        queries = _PROBLEMS | ({"without a vector": _UNANSWERED} if finished else {})
        for what, query in queries.items():
            found += [f"{what}: {row[0]}" for row in connection.execute(query)]
    return found


def vectors(library: Path) -> set[tuple[int, int]]:
    """The vectors that a catalog holds, by space and content."""
    path = library / "catalog.db"
    if not path.exists():
        return set()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        try:
            return set(connection.execute("SELECT space_id, content_id FROM embedding"))
        except sqlite3.OperationalError:
            return set()  # killed before the tables were made


# --- the machine -------------------------------------------------------------------------------


@cache
def _picture(seed: int) -> bytes:
    return encoded(seed)


@cache
def _titled(seed: int, title: str) -> bytes:
    return titled(seed, title)


# A picture that never is in the library: of one that is, the vector is at hand in full precision.
_QUERIES: list[str | bytes] = ["waves", "line 3", "said by 2", _picture(99)]
_ROOTS = ("photos", "more")
#: Parts of them that are indexed by themselves, and are sources if they come before the root.
_PARTS = ("in", "in/deep")

roots = st.sampled_from(_ROOTS)
seeds = st.integers(0, 15)
picks = st.integers(0, 40)
folders = st.sampled_from(["", "in/", "in/deep/", "caf\udce9/"])
stems = st.sampled_from(["a", "b", "p0", "p1", "captions"])
places = st.builds(
    lambda folder, stem, kind: f"{folder}{stem}{kind}",
    folders,
    stems,
    st.sampled_from(_KINDS_OF_PICTURE),
)
named = st.sampled_from(
    ["a.png", "p0.png", "p1.jpg", "in/a.png", "deep/p0.jpg", "../more/b.jpg", "z1.jpg", None]
)
kills = st.tuples(st.just("point"), st.integers(1, 30)) | st.tuples(
    st.just("statement"), st.integers(1, 150)
)
#: Most runs come to their end.
ends = st.one_of(st.none(), st.none(), kills)


class Interleavings(RuleBasedStateMachine):
    """Two folders of pictures and texts, and their library. Paths are relative to `world`."""

    forks: ClassVar[Forks]
    models: ClassVar[tuple[str, str]]
    work: ClassVar[Path]
    done: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.world = Path(tempfile.mkdtemp(dir=self.work))
        self.trash = self.world / "trash"
        self.trash.mkdir()
        self.library = self.world / "library"
        self.reader: Library | None = None
        self.clock = 1_000_000_000
        #: The folder that each root is now, in `world`.
        self.folder = {root: root for root in _ROOTS}
        self.away: set[str] = set()
        # Folders where something happened since a run to its end, in the space searched in then.
        self.stale = set(_ROOTS)
        self.moves = 0
        self.done["examples"] += 1

    @initialize()
    def begin(self) -> None:
        for n in range(3):
            self._write("photos", f"p{n}.png", _picture(n))
        self._write("photos", "in/a.png", _picture(3))
        self._write("more", "b.jpg", _titled(4, "said by 4"))

    # --- files ----------------------------------------------------------------------------------

    def _now(self) -> int:
        """A time of its own for every write: what changes has another one."""
        self.clock += 10
        return self.clock

    def _write(self, root: str, name: str, data: bytes) -> None:
        write(self._at(root) / name, data, at=self._now())
        self.stale.add(root)

    def _at(self, root: str) -> Path:
        return self.world / self.folder[root]

    def _files(self, kinds: tuple[str, ...] = _KINDS_OF_FILE) -> list[tuple[str, str]]:
        """(root, path in it) of the files within reach."""
        return [
            (root, str(path.relative_to(self._at(root))))
            for root in _ROOTS
            if root not in self.away
            for path in sorted(self._at(root).rglob("*"))
            if path.suffix in kinds and path.is_file()
        ]

    def _pick(self, number: int, kinds: tuple[str, ...] = _KINDS_OF_FILE) -> tuple[str, str] | None:
        files = self._files(kinds)
        return files[number % len(files)] if files else None

    def _keep_one(self, root: str) -> None:
        """A folder without any file is an unplugged drive, and its pictures stay."""
        if not any(there == root for there, _ in self._files()):
            self._write(root, "p0.png", _picture(0))

    def _move(self, root: str, name: str, new_root: str, new_name: str) -> None:
        target = self._at(new_root) / new_name
        target.parent.mkdir(parents=True, exist_ok=True)
        (self._at(root) / name).replace(target)
        self.stale |= {root, new_root}
        self._keep_one(root)

    @rule(root=roots, name=places, seed=seeds, speaks=st.booleans())
    def add(self, root: str, name: str, seed: int, speaks: bool) -> None:
        if root not in self.away:
            self._write(
                root, name, _titled(seed, f"said by {seed % 5}") if speaks else _picture(seed)
            )
            self.done["add"] += 1

    @rule(number=picks, seed=seeds)
    def change(self, number: int, seed: int) -> None:
        if picked := self._pick(number, _KINDS_OF_PICTURE):
            self._write(*picked, _picture(seed))
            self.done["change"] += 1

    @rule(number=picks)
    def spoil(self, number: int) -> None:
        picked = self._pick(number, (*_KINDS_OF_PICTURE, ".zip", ".txt"))
        # What is wrong with that one depends on whether it is a sidecar or a list.
        if picked and not picked[1].endswith("captions.txt"):
            self._write(*picked, b"\xff\xfeno picture any more")
            self.done["break"] += 1

    @rule(number=picks)
    def touch(self, number: int) -> None:
        if picked := self._pick(number):
            now = self._now()
            root, name = picked
            os.utime(self._at(root) / name, (now, now))
            self.stale.add(root)
            self.done["touch"] += 1

    @rule(number=picks, stem=stems, kind=st.sampled_from(_KINDS_OF_PICTURE))
    def rename(self, number: int, stem: str, kind: str) -> None:
        if picked := self._pick(number, _KINDS_OF_PICTURE):
            root, name = picked
            self._move(root, name, root, str(Path(name).with_name(stem + kind)))
            self.done["rename"] += 1

    @rule(number=picks, root=roots, folder=folders)
    def move(self, number: int, root: str, folder: str) -> None:
        """Any file, into another folder."""
        picked = self._pick(number)
        if picked and root not in self.away:
            self._move(*picked, root, folder + Path(picked[1]).name)
            self.done["move"] += 1

    @rule(number=picks, root=roots, name=places, dated=st.booleans())
    def copy(self, number: int, root: str, name: str, dated: bool) -> None:
        """`dated`: with the time of the original, as `cp -p` and many drives have it."""
        picked = self._pick(number, _KINDS_OF_PICTURE)
        if picked and root not in self.away:
            original = self._at(picked[0]) / picked[1]
            at = int(original.stat().st_mtime)
            self._write(root, name, original.read_bytes())
            if dated:
                os.utime(self._at(root) / name, (at, at))
            self.done["copy"] += 1

    @rule(number=picks)
    def delete(self, number: int) -> None:
        if picked := self._pick(number):
            root, name = picked
            (self._at(root) / name).replace(self.trash / f"{root}%{name.replace('/', '%')}")
            self.stale.add(root)
            self._keep_one(root)
            self.done["delete"] += 1

    @precondition(lambda self: any(self.trash.iterdir()))
    @rule(number=picks)
    def bring_back(self, number: int) -> None:
        thrown = sorted(self.trash.iterdir())
        path = thrown[number % len(thrown)]
        root, _, name = path.name.partition("%")
        if root not in self.away:
            home = self._at(root) / name.replace("%", "/")
            home.parent.mkdir(parents=True, exist_ok=True)
            path.replace(home)
            self.stale.add(root)
            self.done["bring back"] += 1

    @rule(
        root=roots,
        name=st.sampled_from(["x.zip", "in/y.zip"]),
        members=st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True),
        shift=st.integers(0, 2),
    )
    def archive(self, root: str, name: str, members: list[int], shift: int) -> None:
        if root in self.away:
            return
        path = self._at(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as file:
            for n in members:
                content = 60 + n + shift
                file.writestr(f"z{n}.jpg", _titled(content, f"said in an archive {content % 3}"))
        self._write(root, name, path.read_bytes())
        self.done["archive"] += 1

    @rule(
        root=roots, folder=folders, lines=st.lists(st.tuples(named, st.integers(0, 5)), max_size=4)
    )
    def captions(self, root: str, folder: str, lines: list[tuple[str | None, int]]) -> None:
        if root not in self.away:
            records = [
                json.dumps({"text": f"line {n}"} | ({} if name is None else {"image": name}))
                for name, n in lines
            ]
            self._write(root, f"{folder}captions.jsonl", "\n".join([*records, ""]).encode())
            self.done["captions"] += 1

    @rule(number=picks, said=st.integers(0, 3), full=st.booleans())
    def sidecar(self, number: int, said: int, full: bool) -> None:
        if picked := self._pick(number, _KINDS_OF_PICTURE):
            root, name = picked
            beside = f"{name}.txt" if full else str(Path(name).with_suffix(".txt"))
            self._write(root, beside, f"beside number {said}".encode())
            self.done["sidecar"] += 1

    # --- drives ---------------------------------------------------------------------------------

    @rule(root=roots, mount_point_stays=st.booleans())
    def unmount(self, root: str, mount_point_stays: bool) -> None:
        if root not in self.away:
            self._at(root).rename(self.world / f"{root} unplugged")
            if mount_point_stays:
                self._at(root).mkdir()
            self.away.add(root)
            self.done["unmount"] += 1

    @precondition(lambda self: self.away)
    @rule(number=picks)
    def mount(self, number: int) -> None:
        self._mount(sorted(self.away)[number % len(self.away)])
        self.done["return"] += 1

    def _mount(self, root: str) -> None:
        if self._at(root).exists():
            self._at(root).rmdir()
        (self.world / f"{root} unplugged").rename(self._at(root))
        self.away.remove(root)

    # --- the library ----------------------------------------------------------------------------

    def _index(
        self, *targets: Path, model: str | None = None, die_at: tuple[str, int] | None = None
    ) -> dict[str, Any] | None:
        if model is None and self._model() is None:
            model = self.models[0]
        before = vectors(self.library)
        report = self.forks.call(
            "index",
            library=str(self.library),
            targets=list(map(str, targets)),
            model=model,
            die_at=die_at,
        )
        self.done["runs"] += 1
        self.done["kills"] += report is None
        lost = before - vectors(self.library)
        assert not lost, f"vectors lost: {lost}"
        assert not (wrong := problems(self.library, finished=False)), wrong
        if report is not None and (model is None or self._model() == model):
            read = [self._at(r) in targets if targets else self._is_source(r) for r in _ROOTS]
            self.stale -= {
                root for root, done in zip(_ROOTS, read, strict=True) if done
            } - self.away
        if self.reader is None and self._model() is not None:
            self.reader = Library(self.library, device="cpu")
        return report

    def _open(self) -> Library | None:
        """A fresh look at the library; None while there is nothing to look at."""
        try:
            return Library(self.library, device="cpu")
        except LibraryNotFoundError:
            return None

    def _model(self) -> str | None:
        """The model that searches use; None while there is none."""
        library = self._open()
        if library is None:
            return None
        with library:
            return None if library.space is None else library.space.name

    def _is_source(self, root: str, part: str = "") -> bool:
        library = self._open()
        if library is None:
            return False
        with library:
            location = str(self._at(root) / part)
            return location in {source.location for source in library.sources()}

    @rule(die_at=ends)
    def index_all(self, die_at: tuple[str, int] | None) -> None:
        self._index(die_at=die_at)
        self.done["index all"] += 1

    @rule(root=roots, die_at=ends)
    def index_one(self, root: str, die_at: tuple[str, int] | None) -> None:
        if self._at(root).exists():
            self._index(self._at(root), die_at=die_at)
            self.done["index one"] += 1

    @rule(root=roots, part=st.sampled_from(_PARTS), die_at=ends)
    def index_part(self, root: str, part: str, die_at: tuple[str, int] | None) -> None:
        if (self._at(root) / part).exists():
            self._index(self._at(root) / part, die_at=die_at)
            self.done["index part"] += 1

    @rule(number=st.integers(0, 1), root=st.none() | roots, die_at=ends)
    def switch_space(self, number: int, root: str | None, die_at: tuple[str, int] | None) -> None:
        if root is None or self._at(root).exists():
            before = self._model()
            targets = [] if root is None else [self._at(root)]
            self._index(*targets, model=self.models[number], die_at=die_at)
            self.done["switch asked"] += 1
            self.done["switch done"] += before is not None and self._model() != before

    def _manage(self, action: str, die_at: tuple[str, int] | None, **given: Any) -> None:
        answer = self.forks.call(action, library=str(self.library), die_at=die_at, **given)
        self.done["kills"] += answer is None
        refused = answer is not None and "refused" in answer
        self.done[f"{action} refused" if refused else action] += 1
        assert not (wrong := problems(self.library, finished=False)), wrong

    @precondition(lambda self: self._model() is not None)
    @rule(root=roots, die_at=ends)
    def relocate(self, root: str, die_at: tuple[str, int] | None) -> None:
        if root in self.away:
            return
        old = self._at(root)
        self.moves += 1
        self.folder[root] = f"{root} {self.moves}"
        old.rename(self._at(root))
        given = {"old": str(old), "new": str(self._at(root))}
        self._manage("relocate", die_at, **given)
        if die_at is not None:
            self._manage("relocate", None, **given)  # refused if it was done before the kill

    @precondition(lambda self: self._model() is not None)
    @rule(root=roots, part=st.sampled_from(["", "", *_PARTS]), die_at=ends)
    def remove(self, root: str, part: str, die_at: tuple[str, int] | None) -> None:
        if self._is_source(root, part):
            self._manage("remove", die_at, source=str(self._at(root) / part))
            self.stale.add(root)

    @precondition(lambda self: self._model() is not None)
    @rule(die_at=ends)
    def forget(self, die_at: tuple[str, int] | None) -> None:
        self._manage("forget", die_at, source=None)

    @precondition(lambda self: self._model() is not None)
    @rule(number=st.integers(0, 1), action=st.sampled_from(["use", "drop"]), die_at=ends)
    def spaces(self, number: int, action: str, die_at: tuple[str, int] | None) -> None:
        self._manage(action, die_at, model=self.models[number])

    @rule(copied=st.booleans())
    def move_library(self, copied: bool) -> None:
        if not self.library.exists():
            return
        self._close()
        self.moves += 1
        target = self.world / f"library {self.moves}"
        if copied:
            shutil.copytree(self.library, target)
        else:
            self.library.rename(target)
        self.library = target
        self.done["library moved"] += 1

    @rule()
    def reopen(self) -> None:
        self._close()
        if self._model() is not None:
            self.reader = Library(self.library, device="cpu")
        self.done["reopen"] += 1

    def _close(self) -> None:
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    @rule()
    def look(self) -> None:
        """A reader that stays open sees what one sees that comes now."""
        if self.reader is not None:
            self._same(
                found_in(self.reader, self.world, _QUERIES),
                found(self.library, self.world, _QUERIES),
            )
            self.done["look"] += 1

    # --- the property ---------------------------------------------------------------------------

    def _same(self, ours: list[dict[Any, float]], expected: list[dict[Any, float]]) -> None:
        for query, (mine, theirs) in enumerate(zip(ours, expected, strict=True)):
            only = sorted(map(str, mine.keys() - theirs.keys()))
            lacking = sorted(map(str, theirs.keys() - mine.keys()))
            difference = [f"only here: {what}" for what in only]
            difference += [f"only in a clean library: {what}" for what in lacking]
            assert not difference, f"query {query}: {difference}"
            scores = {str(w): (mine[w], theirs[w]) for w in mine if abs(mine[w] - theirs[w]) > 1e-3}
            assert not scores, f"{query}: scores {scores}"

    def check(self) -> None:
        unplugged = sorted(self.away)
        kept = None
        if self.away and not (self.away & self.stale) and self._model() is not None:
            # What is unplugged stays as it was, whatever else is brought up to date.
            self._index(*(self._at(root) for root in _ROOTS if root not in self.away))
            kept = self._results()
        for root in unplugged:
            self._mount(root)
        for root in _ROOTS:
            for part in _PARTS:
                # What was named by itself and is empty now is taken for an unplugged drive.
                if self._is_source(root, part) and not any((self._at(root) / part).rglob("*.*")):
                    self._write(root, f"{part}/p0.png", _picture(0))
        self._index(*map(self._at, _ROOTS))
        again = self._index(*map(self._at, _ROOTS))
        assert again is not None
        assert again["encoded"] == 0
        assert not (wrong := problems(self.library, finished=True)), wrong
        clean = self.world / "clean"
        shutil.rmtree(clean, ignore_errors=True)
        self.forks.call(
            "index",
            library=str(clean),
            targets=[str(self._at(root)) for root in _ROOTS],
            model=self._model(),
        )
        expected = found(clean, self.world, _QUERIES)
        self._same(self._results(), expected)
        if kept is not None:
            self._same(kept, expected)
            self.done["checks while unplugged"] += 1
        self._same_books(clean)
        self.done["checks"] += 1

    def _results(self) -> list[dict[Any, float]]:
        """What the reader that stayed open finds."""
        if self.reader is None:
            self.reader = Library(self.library, device="cpu")
        return found_in(self.reader, self.world, _QUERIES)

    def _same_books(self, clean: Path) -> None:
        """Sources, failures and counts are those of a clean library, too."""
        books = []
        for path in (self.library, clean):
            with Library(path, device="cpu") as library:
                status = library.status()
                books.append(
                    {
                        "sources": [source.location for source in library.sources()],
                        "failures": sorted((f.path, f.reason) for f in library.failures()),
                        "counts": (status.images, status.texts, status.links, status.carried),
                    }
                )
        for what, ours in books[0].items():
            assert ours == books[1][what], (
                f"{what}: {ours}, and in a clean library {books[1][what]}"
            )

    def teardown(self) -> None:
        try:
            self.check()
        finally:
            self._close()
            shutil.rmtree(self.world)


# --- the run -----------------------------------------------------------------------------------


def prepare(work: Path) -> None:
    """Gives the machine its models, its place and the process that starts the runs."""
    import torch

    for name in [name for name in os.environ if name.startswith("MMSEARCH_")]:
        del os.environ[name]
    os.environ["XDG_CACHE_HOME"] = str(work / "cache")
    torch.set_num_threads(1)
    models = work / "models"
    Interleavings.models = (
        save_model(models / "first"),
        save_model(models / "second", seed=1, dim=32),
    )
    Interleavings.work = work
    Interleavings.forks = Forks(Interleavings.models)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--steps", type=int, default=30, help="steps of an example, at most")
    parser.add_argument("--seed", type=int, help="another one than the always same")
    parser.add_argument("--no-shrink", action="store_true", help="show a difference as it came")
    parser.add_argument("--out", type=Path, help="where to write the table as JSON")
    given = parser.parse_args()
    profile = settings(
        max_examples=given.examples,
        stateful_step_count=given.steps,
        derandomize=given.seed is None,
        deadline=None,
        database=None,
        phases=[Phase.generate] + [Phase.shrink] * (not given.no_shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mmsearch-interleavings-") as folder:
        prepare(Path(folder))
        machine = Interleavings
        if given.seed is not None:
            machine = hypothesis.seed(given.seed)(machine)
        run_state_machine_as_test(machine, settings=profile)
    # Hypothesis ends with an exception at the first difference.
    table = dict(Interleavings.done) | {
        "differences": 0,
        "seconds": round(time.monotonic() - started, 1),
    }
    for what, number in table.items():
        sys.stdout.write(f"{what:24}{number:>10,}\n")
    if given.out is not None:
        given.out.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
