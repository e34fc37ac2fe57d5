"""One disturbed run after another, and the account of what came of each."""

from __future__ import annotations

import errno
import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ledger
from collection import same
from ledger import Ledger
from scenes import Scene, Stage, copy_of, told
from shim import Fault
from victim import Outcome, Strike, random_strike, result

#: What a disk answers: full, over quota, broken, taken away by the system after an error.
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
#: A message says what to do.
_REMEDY = re.compile(r"[Ff]ree some space|again|restore|can be|check|chooses|by hand")
_NEVER = re.compile(r"Traceback|is locked|sqlite3\.|sqlalche|\[Errno", re.IGNORECASE)

FAILINGS = ("lost", "doubled", "reopening", "differs", "unclear", "hung", "left over")


def partial_of(copy: Path) -> Path:
    """What a backup is called until it is whole."""
    return copy.with_name(f"{copy.name}.partial")


@dataclass(slots=True)
class Account:
    """tried: strikes that hit, by kind. wrong: (failing, what happened), to be empty.

    refused and finished: what became of the runs whose disk failed. points: all that were reached,
    struck: those where a run was killed.
    """

    tried: Counter[str] = field(default_factory=Counter)
    wrong: list[dict[str, str]] = field(default_factory=list)
    refused: int = 0
    finished: int = 0
    messages: Counter[str] = field(default_factory=Counter)
    points: set[str] = field(default_factory=set)
    struck: set[str] = field(default_factory=set)
    hits: Counter[str] = field(default_factory=Counter)

    def count(self, kind: str, failing: str) -> int:
        return sum(w["kind"] == kind and w["failing"] == failing for w in self.wrong)


class Trials:
    """Plays scenes with strikes on copies of their libraries; `account` grows."""

    def __init__(self, stage: Stage, scenes: list[Scene], seed: int) -> None:
        self.stage = stage
        self.scenes = scenes
        self.account = Account()
        self._chance = random.Random(seed)
        self._number = 0

    # --- plans ----------------------------------------------------------------------------------

    def kills(self, most: int) -> None:
        """At least `most` kills: at every commit point, and at random places of every scene.

        If there are too many commit points for that, two thirds are at a sample of them.
        """
        points = [
            (scene, point) for scene in self.scenes for point in dict.fromkeys(scene.clean.points)
        ]
        self._chance.shuffle(points)
        # First one strike for each name; then, if there is room, each name in each scene.
        names: set[str] = set()
        firsts = [p for p in points if not (p[1] in names or names.add(p[1]))]  # type: ignore[func-returns-value]
        if 0 < 2 * most < 3 * len(firsts):
            firsts = firsts[: 2 * most // 3]
        others = [p for p in points if p not in firsts]
        plan = firsts + others[: max(0, (most - len(firsts)) // 2)]
        for number, (scene, point) in enumerate(plan if most else []):
            times = scene.clean.points.count(point)
            nths = {1, self._chance.randint(1, times)}
            if most < 2 * len(points):
                nths = {max(nths) if number % 2 else 1}
            for nth in sorted(nths):
                self._kill("point", scene, Strike(point=point, nth=nth))
        kinds = self._endless(["statement", "write", "moment", "point"])
        while sum(self.account.tried.values()) < most:
            scene = self._chance.choice(self.scenes)
            kind = next(kinds)
            self._kill(kind, scene, random_strike(self._chance, scene.clean, kind))

    def faults(self, most: int) -> None:
        """`most` writes that fail, once or from there on, at random places of every scene."""
        done = 0
        scenes = self._endless(self.scenes)
        for code in self._endless(ERRORS):
            if done >= most:
                return
            scene = next(scenes)
            fault = Fault(
                random_strike(self._chance, scene.clean, "write").fault.nth,
                code,
                persistent=self._chance.random() < 0.5,
                torn=self._chance.random() < 0.3,
            )
            done += self._fault(scene, fault)

    def full_disks(self, most: int) -> None:
        """`most` runs on a small disk with random room left on it."""
        disk = self.stage.work / "disk"
        disk.mkdir(exist_ok=True)
        for scene in self.scenes * (most // len(self.scenes) + 1):
            if most <= 0:
                return
            most -= 1
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
            try:
                self._full(scene, disk)
            finally:
                subprocess.run(["umount", disk], check=True)

    def _endless(self, values: Any) -> Iterator[Any]:
        while True:
            yield from values

    # --- trials ---------------------------------------------------------------------------------

    def _kill(self, kind: str, scene: Scene, strike: Strike) -> None:
        library = self._copy(scene)
        before, chain = scene.before, 0
        while True:
            outcome = self._run(scene, library, strike)
            if outcome.code != -9:
                break  # it was done before
            self.account.tried[kind] += 1
            self.account.struck |= {strike.point} - {""}
            before = self._checked(kind, scene, library, strike, outcome, before)
            chain += 1
            if chain == 3 or self._chance.random() < 0.6:
                break
            # And what goes on from there may be killed again.
            kind = self._chance.choice(["statement", "write", "moment"])
            strike = random_strike(self._chance, scene.clean, kind)
        if outcome.code != 0:
            self._finish(kind, scene, library, strike)
        self._remove(library)

    def _fault(self, scene: Scene, fault: Fault) -> bool:
        library = self._copy(scene)
        strike = Strike(fault=fault)
        kind = errno.errorcode[fault.code]
        outcome = self._run(scene, library, strike)
        hit = outcome.fired > 0
        if hit:
            self.account.tried[kind] += 1
            self.account.hits[re.sub(r"[0-9a-f]{16}", "…", outcome.what)] += 1
            self._judge(kind, scene, library, strike, outcome)
            self._checked(kind, scene, library, strike, outcome, scene.before)
            self._finish(kind, scene, library, strike)
        self._remove(library)
        return hit

    def _full(self, scene: Scene, disk: Path) -> None:
        library = disk / "library"
        if scene.base is not None:
            shutil.copytree(scene.base, library)
        ballast = disk / "ballast"
        room = shutil.disk_usage(disk).free - self._chance.randrange(0, 600_000, 4096)
        ballast.write_bytes(bytes(room))
        kind, strike = "full disk", Strike()
        outcome = self._run(scene, library, strike)
        self.account.tried[kind] += 1
        self._judge(kind, scene, library, strike, outcome, room=True)
        self._checked(kind, scene, library, strike, outcome, scene.before, full=True)
        ballast.unlink()
        self._finish(kind, scene, library, strike)

    def _copy(self, scene: Scene) -> Path:
        self._number += 1
        library = self.stage.work / f"trial-{self._number}"
        if scene.base is not None:
            shutil.copytree(scene.base, library)
        return library

    def _remove(self, library: Path) -> None:
        """The library may never have been there."""
        copy = copy_of(library)
        for folder in (library, copy, partial_of(copy)):
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, scene: Scene, library: Path, strike: Strike) -> Outcome:
        self.stage.show(scene.state)
        outcome = self.stage.run(library, scene.arguments, strike)
        self.account.points.update(outcome.points)
        return outcome

    # --- what is to hold ------------------------------------------------------------------------

    def _wrong(self, failing: str, kind: str, scene: Scene, strike: Strike, what: object) -> None:
        self.account.wrong.append(
            {
                "failing": failing,
                "kind": kind,
                "scene": scene.name,
                "strike": str(strike),
                "what": str(what)[:2000],
            }
        )

    def _judge(
        self,
        kind: str,
        scene: Scene,
        library: Path,
        strike: Strike,
        outcome: Outcome,
        *,
        room: bool = False,
    ) -> None:
        """A run whose disk failed ends well, or with exit code 1 and one clear line."""
        where = f"{outcome.what}: " if outcome.what else ""
        if outcome.code is None:
            self._wrong("hung", kind, scene, strike, where + outcome.stderr)
            return
        lines = told(outcome)
        if outcome.code == 0:
            self.account.finished += 1
            if lines:
                self._wrong("unclear", kind, scene, strike, where + "\n".join(lines))
            return
        self.account.refused += 1
        if scene.arguments[0] == "doctor" and lines[:-1] == []:
            # What is wrong is its answer.
            wrong = [row for row in outcome.stdout.splitlines() if row.startswith("problem ")]
            lines = [f"mmsearch: {row}" for row in wrong] or lines
        line = lines[0] if lines else ""
        self.account.messages[line.replace(str(library), "LIBRARY")] += 1
        clear = (
            outcome.code == 1
            and len(lines) == 1
            and line.startswith("mmsearch: ")
            and str(library) in line
            and _REMEDY.search(line)
            and not _NEVER.search(line)
        )
        if not clear:
            self._wrong("unclear", kind, scene, strike, where + "\n".join(lines))

    def _checked(
        self,
        kind: str,
        scene: Scene,
        library: Path,
        strike: Strike,
        outcome: Outcome,
        before: Ledger,
        *,
        full: bool = False,
    ) -> Ledger:
        """Reopens what a run left behind; the ledger of it."""
        answer = self._searched(kind, scene, library, strike, full=full)
        after = ledger.read(self._apart(library) if full else library)
        visible = after.visible
        if isinstance(answer, str):
            # Nothing committed yet, or of an older schema: told, not guessed.
            told = {
                "LibraryNotFoundError": not after.schema,
                "IndexMissingError": not visible,
                "SchemaVersionError": bool(after.schema) and after.schema == before.schema,
            }
            if not told.get(answer, full and answer == "StoreError"):
                self._wrong("reopening", kind, scene, strike, answer)
        elif answer is not None and answer != visible:
            self._wrong("reopening", kind, scene, strike, f"{answer} are found, not {visible}")
        for problem in after.problems:
            failing = "doubled" if problem.startswith("doubled") else "lost"
            self._wrong(failing, kind, scene, strike, problem)
        for gone in ledger.lost(before, after, scene.ledger):
            self._wrong("lost", kind, scene, strike, gone)
        for new in ledger.foreign(before, after, scene.ledger):
            self._wrong("doubled", kind, scene, strike, f"nobody wrote {new}")
        self._copied(kind, scene, library, strike)
        commits = after.revision - before.revision
        if not 0 <= commits - outcome.commits <= 1:
            what = f"{outcome.commits} commits were done, {commits} are there"
            self._wrong("lost", kind, scene, strike, what)
        return after

    def _searched(
        self, kind: str, scene: Scene, library: Path, strike: Strike, *, full: bool
    ) -> set[int] | str | None:
        """The pictures that a search in what is there finds, or the error's name; None: failed."""

        def search() -> set[int] | str:
            from mmsearch.errors import MmsearchError
            from mmsearch.library import Library

            try:
                with Library(library, device="cpu") as opened:
                    hits = opened.search("waves", k=10_000)
            except MmsearchError as exc:
                if type(exc).__name__ == "StoreError" and not (full and _REMEDY.search(str(exc))):
                    raise
                return type(exc).__name__
            return {hit.image.id for hit in hits}

        try:
            return result(search, self.stage.scratch)  # type: ignore[no-any-return]
        except RuntimeError as exc:
            self._wrong("reopening", kind, scene, strike, exc)
            return None

    def _finish(self, kind: str, scene: Scene, library: Path, strike: Strike) -> None:
        """Runs the same command undisturbed: the library is as if nothing had happened."""
        outcome = self._run(scene, library, Strike())
        # What moves or removes something is refused when it was done before.
        done = scene.arguments[0] != "index" and not ledger.differences(
            ledger.read(library), scene.ledger
        )
        if outcome.code != 0 and not (done and outcome.code == 1):
            failing = "hung" if outcome.code is None else "differs"
            self._wrong(failing, kind, scene, strike, f"cannot go on: {outcome.stderr}")
            return
        after = ledger.read(library)
        for problem in after.problems:
            self._wrong("doubled", kind, scene, strike, problem)
        for what in ledger.differences(after, scene.ledger):
            self._wrong("differs", kind, scene, strike, what)
        try:
            if not same(self.stage.found(library, scene.root), scene.found):
                self._wrong("differs", kind, scene, strike, "searches find something else")
        except RuntimeError as exc:
            self._wrong("differs", kind, scene, strike, exc)
        for file in ledger.left_over(library):
            self._wrong("left over", kind, scene, strike, file)
        copy = copy_of(library)
        if "COPY" in scene.arguments:
            if not copy.exists():
                self._wrong("differs", kind, scene, strike, "there is no copy")
            self._copied(kind, scene, library, strike)
            if partial_of(copy).exists():
                self._wrong("left over", kind, scene, strike, partial_of(copy).name)

    def _copied(self, kind: str, scene: Scene, library: Path, strike: Strike) -> None:
        """What has the name of a copy is a whole one."""
        copy = copy_of(library)
        if copy.exists():
            there = ledger.read(self._apart(copy))
            for what in (*there.problems, *ledger.differences(there, scene.ledger)):
                self._wrong("differs", kind, scene, strike, f"in the copy: {what}")

    def _apart(self, library: Path) -> Path:
        """A copy of its catalog: to look at one on a full disk, SQLite needs room."""
        apart = self.stage.work / "apart"
        shutil.rmtree(apart, ignore_errors=True)
        apart.mkdir()
        for file in library.glob("catalog.db*"):
            shutil.copy(file, apart)
        return apart
