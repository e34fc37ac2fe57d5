"""The runs that are disturbed: a library as it was before, a folder, a command, what must come."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import zipfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ledger
from collection import encoded, found, save_model, titled, write, write_captions
from ledger import Ledger
from victim import Outcome, Strike, command, result

QUERIES = ("line 7 of the captions", "waves")
_CPU = ("--device", "cpu", "--dtype", "fp32")


@dataclass(frozen=True, slots=True)
class Scene:
    """A command on a library, and how it goes when nothing disturbs it.

    base: the library as it was before; None where there is none. root: the folder of pictures.
    arguments: of the command; COPY stands for a folder beside the library, see `copy_of`.
    ledger, found: what the library holds then, and what searches find: a clean library that was
    made from the same files at once finds the same.
    """

    name: str
    state: str
    base: Path | None
    arguments: tuple[str, ...]
    clean: Outcome
    root: Path
    ledger: Ledger
    found: list[dict[Any, float]]
    before: Ledger


def copy_of(library: Path) -> Path:
    """Where the backup of a library goes."""
    return library.with_name(f"{library.name}-copy")


class Stage:
    """A work folder with two states of one folder of pictures, and the scenes played on it."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.photos = work / "photos"
        self.elsewhere = work / "elsewhere"
        self.scratch = work / "scratch"
        self.scratch.mkdir(parents=True)
        self.model = save_model(work / "models" / "first")
        self.other_model = save_model(work / "models" / "second", seed=1, dim=32)
        self._state = "first"
        _first(self.photos)
        _later(self.photos, work / "state-later")
        shutil.copytree(self.photos, self.elsewhere, copy_function=shutil.copy2)

    def show(self, state: str) -> None:
        """Makes the folder of pictures the `first` or the `later` one."""
        if state != self._state:
            self.photos.rename(self.work / f"state-{self._state}")
            (self.work / f"state-{state}").rename(self.photos)
            self._state = state

    def scenes(self) -> list[Scene]:
        """Every scene, played once undisturbed. Raises RuntimeError when that goes wrong."""
        work, photos, with_model = self.work, str(self.photos), ("--model", self.model)
        indexed, part = work / "base-indexed", work / "base-part"
        self._play(indexed, "index", photos, *with_model, *_CPU)
        self._play(part, "index", str(self.photos / "1"), *with_model, *_CPU)
        old = _as_schema_0001(indexed, work / "base-old")
        fresh = {
            ("first", self.model): work / "fresh-first",
            ("later", self.model): work / "fresh-later",
            ("first", self.other_model): work / "fresh-other",
        }
        for (state, model), library in fresh.items():
            self.show(state)
            self._play(library, "index", photos, "--model", model, *_CPU)
        switch = ("index", "--model", self.other_model, *_CPU)
        first, later, other = fresh.values()
        self.show("first")
        moved, both = work / "fresh-moved", work / "base-both"
        elsewhere = str(self.elsewhere)
        self._play(moved, "index", elsewhere, *with_model, *_CPU)
        self._play(both, "index", photos, elsewhere, *with_model, *_CPU)
        relocate = ("sources", "relocate", photos, elsewhere)
        damaged = _with_damaged_index(indexed, work / "base-damaged")
        tagged = [str(self.photos / "0" / f"{n:03}.png") for n in range(0, 12, 3)]
        return [
            self._scene("new", "first", None, ("index", photos, *with_model, *_CPU), first),
            self._scene("changed", "later", indexed, ("index", *_CPU), later),
            self._scene("switch", "first", indexed, switch, other),
            self._scene("adopt", "first", part, ("index", photos, *_CPU), first),
            self._scene("migrate", "first", old, ("index", *_CPU), first),
            self._scene("relocate", "first", indexed, relocate, moved, self.elsewhere),
            self._scene("remove", "first", both, ("sources", "remove", elsewhere, "--yes"), first),
            self._scene(
                "drop", "first", work / "clean-switch", ("spaces", "drop", self.model, "-y"), other
            ),
            self._scene(
                "use", "first", work / "clean-switch", ("spaces", "use", self.model), first
            ),
            self._scene(
                "forget", "later", work / "clean-changed", ("sources", "forget", "--yes"), later
            ),
            self._scene("tag", "first", indexed, ("tags", "add", "calm", *tagged), first),
            self._scene("repair", "first", damaged, ("doctor", "--repair"), first),
            self._scene("backup", "first", indexed, ("backup", "--with-index", "COPY"), first),
        ]

    def run(self, library: Path, arguments: Sequence[str], strike: Strike) -> Outcome:
        """The command of a scene on its library."""
        copy = str(copy_of(library))
        arguments = [copy if argument == "COPY" else argument for argument in arguments]
        return command(arguments, library, strike, self.scratch)

    def _play(self, library: Path, *arguments: str) -> Outcome:
        outcome = self.run(library, arguments, Strike())
        if outcome.code != 0 or told(outcome):
            raise RuntimeError(f"mmsearch {' '.join(arguments)}: {outcome}")
        return outcome

    def _scene(
        self,
        name: str,
        state: str,
        base: Path | None,
        arguments: tuple[str, ...],
        fresh: Path,
        root: Path | None = None,
    ) -> Scene:
        root = root or self.photos
        self.show(state)
        library = self.work / f"clean-{name}"
        before = Ledger() if base is None else ledger.read(base)
        if base is not None:
            shutil.copytree(base, library)
        clean = self._play(library, *arguments)
        after = ledger.read(library)
        expected = self.found(fresh, root)
        mine = self.found(library, root)
        if [set(table) for table in mine] != [set(table) for table in expected]:
            raise RuntimeError(f"{name}: undisturbed, it does not find what a new library finds")
        if after.problems or after.revision - before.revision != clean.commits:
            raise RuntimeError(f"{name}: undisturbed, {after.problems}, {clean.commits} commits")
        return Scene(name, state, base, arguments, clean, root, after, expected, before)

    def found(self, library: Path, root: Path) -> list[dict[Any, float]]:
        """What searches find in a library, looked up by a process of its own."""
        return list(result(lambda: found(library, root, QUERIES), self.scratch))


def told(outcome: Outcome) -> list[str]:
    """What a run wrote on stderr, without what undisturbed ones write too."""
    usual = ("warning: texts that name", "WARNING: the catalog is brought")
    return [line for line in outcome.stderr.splitlines() if not line.startswith(usual)]


def _as_schema_0001(library: Path, copy: Path) -> Path:
    """A copy as the first schema had it."""
    shutil.copytree(library, copy)
    with closing(sqlite3.connect(copy / "catalog.db")) as connection:
        triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in triggers.fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        for table in (
            "tag",
            "words_stale",
            "image_words",
            "text_words",
            "details_stale",
            "takeout_file",
            "takeout_part",
        ):
            connection.execute(f"DROP TABLE {table}")
        for index, table, column in (
            ("ix_image_folder", "image", "folder"),
            ("ix_source_name", "source", "name"),
        ):
            connection.execute(f"DROP INDEX {index}")
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.execute("DROP INDEX ix_picture_changed")
        for table, column in (
            ("picture", "added_at"),
            ("picture", "own"),
            ("picture", "changed"),
            ("image", "beside"),
            ("image", "told"),
        ):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
        connection.commit()
    return copy


def _with_damaged_index(library: Path, copy: Path) -> Path:
    """A copy with index files whose first vectors are zero: only the doctor notices."""
    shutil.copytree(library, copy)
    for file in (copy / "index").glob("*.faiss"):
        about = json.loads(file.with_suffix(".json").read_text())
        data = bytearray(file.read_bytes())
        start = vectors_start(data, about)
        size = 2 * about["dim"] * min(8, about["ntotal"])
        data[start : start + size] = bytes(size)
        file.write_bytes(data)
    return copy


def vectors_start(data: bytearray, about: dict[str, Any]) -> int:
    """Where the vectors begin in an index file with this manifest: before the ids, at its end."""
    ids = 8 * (about["ntotal"] + about.get("left_out", 0))
    # The ids come after how many there are.
    return len(data) - ids - 8 - 2 * about["dim"] * about["ntotal"]


def _zip(path: Path, seeds: Sequence[int]) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for seed in seeds:
            file.writestr(f"in/{seed}.png", encoded(seed))


def _first(root: Path) -> None:
    """Pictures in folders, copies, broken ones, archives, texts of every kind."""
    for n in range(30):
        write(root / str(n % 3) / f"{n:03}.png", encoded(n))
    for n in range(4):
        write(root / f"said{n}.jpg", titled(200 + n, f"what picture {n} says"))
        write(root / f"said{n}.txt", f"what stands beside {n}".encode())
        write(root / "2" / f"copy{n}.png", encoded(n))
        write(root / f"bad{n}.jpg", b"no picture")
    _zip(root / "a.zip", range(300, 304))
    _zip(root / "b.zip", range(306, 310))
    lines = [(f"{n:03}.png", f"line {n} of the captions") for n in range(30)]
    write_captions(root / "captions.jsonl", [*lines, (None, "free")])


def _later(first: Path, root: Path) -> None:
    """The same after some days: added, changed, moved, copied, deleted, mended."""
    shutil.copytree(first, root, copy_function=shutil.copy2)
    for n in range(5):
        (root / str(n % 3) / f"{n:03}.png").unlink()
    for n in range(5, 9):
        write(root / str(n % 3) / f"{n:03}.png", encoded(400 + n))
    (root / "moved").mkdir()
    for n in range(9, 15):
        (root / str(n % 3) / f"{n:03}.png").rename(root / "moved" / f"{n:03}.png")
    for n in range(20):
        write(root / "added" / f"{n}.png", encoded(500 + n))
    for n in range(20, 24):
        shutil.copy2(root / str(n % 3) / f"{n:03}.png", root / "added" / f"again{n}.png")
    write(root / "bad0.jpg", encoded(600, "JPEG"))
    write(root / "said0.jpg", titled(200, "what it says now"))
    write(root / "said1.txt", b"another text beside")
    (root / "said2.txt").unlink()
    _zip(root / "a.zip", [*range(302, 304), 320, 321])
    (root / "b.zip").unlink()
    lines = [(f"{n:03}.png", f"line {n} of the captions, again") for n in range(0, 30, 2)]
    kept = [(f"{n:03}.png", f"line {n} of the captions") for n in range(1, 30, 2)]
    write_captions(root / "captions.jsonl", [*lines, *kept, (None, "free")])
    # Files written within the clock's tick of the first ones would pass for unchanged.
    stamp = int(os.stat(first / "captions.jsonl").st_mtime) + 100  # noqa: PTH116
    for name in ("a.zip", "captions.jsonl", "said0.jpg", "said1.txt", "bad0.jpg"):
        os.utime(root / name, (stamp, stamp))
