"""Whatever happens to a folder in whatever order, searches are those of one clean run."""

from __future__ import annotations

import os
import random
import shutil
import zipfile
from pathlib import Path

import pytest
from collection import encoded, found, run, same, titled, write, write_captions

ROUNDS = 4
STEPS = 14
QUERIES = ["waves", "line 3"]


class Folder:
    """A folder of pictures and texts that things happen to, by chance."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.away = root.with_name("away")
        self.chance = random.Random(seed)
        self.clock = 1_000_000_000
        for n in range(5):
            write(root / f"p{n}.png", encoded(n), at=self._now())
        self.away.mkdir()

    def _now(self) -> int:
        """A time of its own for every write: what changes has another one."""
        self.clock += 10
        return self.clock

    def _pictures(self) -> list[Path]:
        return sorted(p for p in self.root.rglob("*") if p.suffix in (".png", ".jpg"))

    def _new_name(self) -> Path:
        folder = self.chance.choice(["", "in/", "in/deep/", "caf\udce9/"])
        name = self.chance.choice("0123456789abcdef")
        return self.root / f"{folder}{name}{self.chance.choice(['.png', '.jpg'])}"

    def step(self) -> str:
        steps = (self.add, self.add, self.remove, self.rename, self.copy, self.back, self.change,
                 self.break_, self.archive, self.caption, self.sidecar, self.touch)  # fmt: skip
        chosen = self.chance.choice(steps)
        chosen()
        return chosen.__name__

    def add(self) -> None:
        seed = self.chance.randrange(40)
        said = self.chance.random() < 0.3
        data = titled(seed, f"said by {seed % 5}") if said else encoded(seed)
        write(self._new_name(), data, at=self._now())

    def remove(self) -> None:
        """Into another folder, from where it may come back."""
        for path in self.chance.sample(self._pictures(), k=min(2, len(self._pictures()))):
            flat = str(path.relative_to(self.root)).replace("/", "%")
            path.replace(self.away / flat)

    def back(self) -> None:
        for path in sorted(self.away.iterdir()):
            if self.chance.random() < 0.5:
                home = self.root / path.name.replace("%", "/")
                home.parent.mkdir(parents=True, exist_ok=True)
                path.replace(home)

    def rename(self) -> None:
        for path in self._pictures()[:1]:
            target = self._new_name()
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)

    def copy(self) -> None:
        for path in self._pictures()[-1:]:
            write(self._new_name(), path.read_bytes(), at=self._now())

    def change(self) -> None:
        for path in self._pictures()[1:2]:
            write(path, encoded(self.chance.randrange(40)), at=self._now())

    def break_(self) -> None:
        for path in self._pictures()[2:3]:
            write(path, b"no picture any more", at=self._now())

    def touch(self) -> None:
        for path in self._pictures():
            now = self._now()
            os.utime(path, (now, now))

    def archive(self) -> None:
        path = self.root / f"{self.chance.choice('xy')}.zip"
        if path.exists() and self.chance.random() < 0.4:
            path.unlink()
            return
        with zipfile.ZipFile(path, "w") as file:
            for n in self.chance.sample(range(8), k=3):
                # A name stands for one picture: which of two captions mean is not the point here.
                file.writestr(f"z{n}.jpg", titled(60 + n, f"said in an archive {n % 3}"))
        now = self._now()
        os.utime(path, (now, now))

    def caption(self) -> None:
        path = self.root / "captions.jsonl"
        if path.exists() and self.chance.random() < 0.3:
            path.unlink()
            return
        # Names that mean one place or none. A second picture of a name that comes later is not
        # held against a text that had found the first: a clean run would call it ambiguous.
        names = ["p0.png", "p1.png", "p2.png", "absent.jpg", None]
        lines = [(self.chance.choice(names), f"line {n}") for n in range(6)]
        write_captions(path, lines)
        now = self._now()
        os.utime(path, (now, now))

    def sidecar(self) -> None:
        for path in self._pictures()[:1]:
            beside = path.with_suffix(".txt")
            if beside.exists() and self.chance.random() < 0.4:
                beside.unlink()
            else:
                text = f"beside number {self.chance.randrange(4)}"
                write(beside, text.encode(), at=self._now())


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_any_order(tmp_path: Path, model: str, seed: int) -> None:
    folder = Folder(tmp_path / "photos", seed)
    library = tmp_path / "library"
    run(library, folder.root, model=model)
    history = []
    for number in range(STEPS):
        history.append(folder.step())
        if folder.chance.random() < 0.6 or number == STEPS - 1:
            run(library, folder.root)
            history.append("index")
        if number % 7 == 6 or number == STEPS - 1:
            if history[-1] != "index":
                run(library)
            clean = tmp_path / "clean"
            shutil.rmtree(clean, ignore_errors=True)
            run(clean, folder.root, model=model)
            ours = found(library, folder.root, QUERIES)
            expected = found(clean, folder.root, QUERIES)
            for mine, theirs in zip(ours, expected, strict=True):
                assert mine.keys() == theirs.keys(), history
            assert same(ours, expected), history
            assert run(library).encoded_images == 0
