"""Folders of pictures and texts, and all that may happen to their files."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import ClassVar

from collection import encoded, titled, write
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

_KINDS_OF_PICTURE = (".png", ".jpg", ".nef")
_KINDS_BESIDE = (".xmp", ".json")
_KINDS_OF_FILE = (*_KINDS_OF_PICTURE, *_KINDS_BESIDE, ".txt", ".jsonl", ".zip")
_XMP = """<x xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:lr="http://ns.adobe.com/lightroom/1.0/"><rdf:Description dc:title="titled {0}"
 dc:subject="word {0}" exif:DateTimeOriginal="202{0}-01-01" exif:GPSLatitude="{0},30N"
 exif:GPSLongitude="5,0E"/></x>"""


@cache
def picture(seed: int) -> bytes:
    return encoded(seed)


@cache
def _titled(seed: int, title: str) -> bytes:
    return titled(seed, title)


def _google(said: int) -> bytes:
    taken = {"timestamp": str(1_600_000_000 + said)}
    about = {"title": f"title {said}", "description": f"said at Google {said}"}
    return json.dumps(about | {"photoTakenTime": taken}).encode()


ROOTS = ("photos", "more")
#: Parts of them that are indexed by themselves, and are sources if they come before the root.
PARTS = ("in", "in/deep")

roots = st.sampled_from(ROOTS)
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


class Folders(RuleBasedStateMachine):
    """Two folders of pictures and texts, to which things happen. Paths are relative to `world`."""

    work: ClassVar[Path]
    done: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.world = Path(tempfile.mkdtemp(dir=self.work))
        self.trash = self.world / "trash"
        self.trash.mkdir()
        self.clock = 1_000_000_000
        #: The folder that each root is now, in `world`.
        self.folder = {root: root for root in ROOTS}
        self.away: set[str] = set()
        # Folders where something happened since a run to its end, in the space searched in then.
        self.stale = set(ROOTS)
        self.done["examples"] += 1

    @initialize()
    def begin(self) -> None:
        for n in range(3):
            self._write("photos", f"p{n}.png", picture(n))
        self._write("photos", "in/a.png", picture(3))
        self._write("more", "b.jpg", _titled(4, "said by 4"))

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
            for root in ROOTS
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
            self._write(root, "p0.png", picture(0))

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
                root, name, _titled(seed, f"said by {seed % 5}") if speaks else picture(seed)
            )
            self.done["add"] += 1

    @rule(number=picks, seed=seeds)
    def change(self, number: int, seed: int) -> None:
        if picked := self._pick(number, _KINDS_OF_PICTURE):
            self._write(*picked, picture(seed))
            self.done["change"] += 1

    @rule(number=picks)
    def spoil(self, number: int) -> None:
        picked = self._pick(number, (*_KINDS_OF_PICTURE, ".zip", ".txt", ".xmp"))
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
                if (n + shift) % 2:
                    file.writestr(f"z{n}.jpg.xmp", _XMP.format(n % 4))
        self._write(root, name, path.read_bytes())
        self.done["archive"] += 1

    @rule(
        root=roots,
        folder=st.sampled_from(["", "in/"]),
        part=st.integers(1, 3),
        pictures=st.lists(st.integers(0, 4), max_size=3, unique=True),
        about=st.dictionaries(st.integers(0, 4), st.integers(0, 3), max_size=3),
        edited=st.booleans(),
    )
    def takeout(
        self,
        root: str,
        folder: str,
        part: int,
        pictures: list[int],
        about: dict[int, int],
        edited: bool,
    ) -> None:
        """A part of one of Google's exports: what is about a picture may lie in another part."""
        if root in self.away:
            return
        name = f"{folder}takeout-20251101T100000Z-00{part}.zip"
        path = self._at(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as file:
            for n in pictures:
                ending = "-edited" if edited and n % 2 else ""
                file.writestr(f"G/p{n}{ending}.jpg", _titled(80 + n, f"said by {n % 5}"))
            for n, said in about.items():
                # The last one is broken.
                data = _google(said)[: -5 if said == 3 else None]
                file.writestr(f"G/p{n}.jpg.supplemental-metadata.json", data)
        self._write(root, name, path.read_bytes())
        self.done["takeout"] += 1

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

    @rule(number=picks, said=st.integers(0, 3), full=st.booleans(), google=st.booleans())
    def tell(self, number: int, said: int, full: bool, google: bool) -> None:
        """What other programs write beside pictures."""
        if picked := self._pick(number, _KINDS_OF_PICTURE):
            root, name = picked
            of = name if full else name.rpartition(".")[0]
            data = _google(said) if google else _XMP.format(said).encode()
            self._write(root, of + (".json" if google else ".xmp"), data)
            self.done["tell"] += 1

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
