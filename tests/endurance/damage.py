"""Damage to what is derived, between two runs: index files, manifests, captions, thumbnails."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import ledger
from collection import same
from scenes import Scene, Stage, told, vectors_start
from trials import Account
from victim import Strike, command, result


class Damages:
    """Damages copies of finished libraries; searches must find the same, at once and later."""

    def __init__(self, stage: Stage, scenes: list[Scene], account: Account, seed: int) -> None:
        self._stage = stage
        # Where contents were hidden, and where not; "changed" began as a copy of `base-indexed`.
        self._scenes = [scene for scene in scenes if scene.name in ("changed", "new")]
        self._account = account
        self._chance = random.Random(seed)
        self._kinds: dict[str, Callable[[Path], str]] = {
            "index file deleted": self._deleted,
            "index file cut short": self._cut,
            "index file grown": self._grown,
            "index file flipped": self._flipped,
            "manifest deleted": self._no_manifest,
            "manifest flipped": self._flipped_manifest,
            "manifest garbled": self._garbled,
            "index of another library": self._of_another,
            "index of another space": self._of_another_space,
            "index of the other modality": self._swapped,
            "index of an older time": self._stale,
            "thumbnails cut short": self._thumbnails,
            "captions cut short": self._cut_captions,
            "captions flipped": self._flipped_captions,
        }

    def play(self, most: int) -> None:
        """`most` damages, every kind as often."""
        kinds = list(self._kinds)
        self._chance.shuffle(kinds)
        for number in range(most):
            self._damage(kinds[number % len(kinds)], self._scenes[number // len(kinds) % 2])

    def _damage(self, kind: str, scene: Scene) -> None:
        stage, account = self._stage, self._account
        if kind == "index of an older time":
            scene = next(s for s in self._scenes if s.name == "changed")
        stage.show(scene.state)
        library = stage.work / "damaged"
        shutil.copytree(stage.work / f"clean-{scene.name}", library)

        def wrong(failing: str, what: object) -> None:
            what = f"{where}: {what}"[-2000:]
            account.wrong.append(
                {"failing": failing, "kind": kind, "scene": scene.name, "strike": "", "what": what}
            )

        where = self._kinds[kind](library)
        account.tried[kind] += 1
        if where == "TORN":
            wrong("differs", "torn thumbnails are shown")
        for when in ("at once", "after a run"):
            try:
                if not same(stage.found(library, scene.root), scene.found):
                    wrong("differs", f"searches find something else {when}")
            except RuntimeError as exc:
                wrong("reopening", exc)
            if when == "at once":
                outcome = command(("index", "--device", "cpu"), library, Strike(), stage.scratch)
                lines = [line for line in told(outcome) if "rebuilding" not in line]
                if outcome.code != 0 or lines:
                    wrong("unclear", f"exit code {outcome.code}: {outcome.stderr}")
        if ledger.differences(ledger.read(library), scene.ledger):
            wrong("lost", "the catalog is another one")
        for file in ledger.left_over(library):
            wrong("left over", file)
        shutil.rmtree(library)

    # --- the kinds ------------------------------------------------------------------------------

    def _file(self, library: Path) -> Path:
        return self._chance.choice(sorted((library / "index").glob("*.faiss")))

    def _deleted(self, library: Path) -> str:
        file = self._file(library)
        file.unlink()
        return file.name

    def _cut(self, library: Path) -> str:
        file = self._file(library)
        kept = self._chance.randrange(file.stat().st_size)
        file.write_bytes(file.read_bytes()[:kept])
        return f"{file.name}: {kept} bytes kept"

    def _grown(self, library: Path) -> str:
        file = self._file(library)
        file.write_bytes(file.read_bytes() + self._chance.randbytes(8))
        return file.name

    def _flipped(self, library: Path) -> str:
        """Anywhere but in the vectors: damage there is for `mmsearch doctor` to find."""
        file = self._file(library)
        data, about = (
            bytearray(file.read_bytes()),
            json.loads(file.with_suffix(".json").read_text()),
        )
        start = vectors_start(data, about)
        end = start + 2 * about["dim"] * about["ntotal"]
        places = [*range(start), *range(end, len(data))]
        return f"{file.name}: {self._flip(file, data, self._chance.choice(places))}"

    def _flip(self, file: Path, data: bytearray, place: int) -> str:
        bit = self._chance.randrange(8)
        data[place] ^= 1 << bit
        file.write_bytes(data)
        return f"byte {place}, bit {bit}"

    def _no_manifest(self, library: Path) -> str:
        file = self._file(library).with_suffix(".json")
        file.unlink()
        return file.name

    def _flipped_manifest(self, library: Path) -> str:
        file = self._file(library).with_suffix(".json")
        data = bytearray(file.read_bytes())
        return f"{file.name}: {self._flip(file, data, self._chance.randrange(len(data)))}"

    def _garbled(self, library: Path) -> str:
        file = self._file(library).with_suffix(".json")
        text = self._chance.choice(["", "{}", "[]", "null", "{", '{"space": 1}', "\x00" * 300])
        file.write_text(text)
        return f"{file.name}: {text!r}"

    def _of_another(self, library: Path) -> str:
        return self._take(library, self._stage.work / "clean-adopt")

    def _take(self, library: Path, other: Path) -> str:
        """The files of another library, or only the manifests, or only the others."""
        suffix = self._chance.choice(["*", "*.json", "*.faiss"])
        for file in (other / "index").glob(suffix):
            shutil.copy(file, library / "index" / file.name)
        return f"{suffix} of {other.name}"

    def _of_another_space(self, library: Path) -> str:
        file = self._file(library)
        modality = file.stem.rpartition("-")[2]
        other = self._stage.work / "fresh-other" / "index"
        suffixes = self._chance.choice([(".faiss", ".json"), (".faiss",), (".json",)])
        for suffix in suffixes:
            (found,) = other.glob(f"*-{modality}{suffix}")
            shutil.copy(found, file.with_suffix(suffix))
        return f"{suffixes} {modality}"

    def _swapped(self, library: Path) -> str:
        first, second = sorted((library / "index").glob("*.faiss"))
        suffixes = self._chance.choice([(".faiss", ".json"), (".faiss",), (".json",)])
        for suffix in suffixes:
            ours, theirs = first.with_suffix(suffix), second.with_suffix(suffix)
            kept = ours.read_bytes()
            ours.write_bytes(theirs.read_bytes())
            theirs.write_bytes(kept)
        return str(suffixes)

    def _stale(self, library: Path) -> str:
        return self._take(library, self._stage.work / "base-indexed")

    def _cut_captions(self, library: Path) -> str:
        (file,) = (library / "index").glob("*-captions.f32")
        kept = self._chance.randrange(file.stat().st_size)
        file.write_bytes(file.read_bytes()[:kept])
        return f"{file.name}: {kept} bytes kept"

    def _flipped_captions(self, library: Path) -> str:
        (file,) = (library / "index").glob("*-captions.f32")
        data = bytearray(file.read_bytes())
        return f"{file.name}: {self._flip(file, data, self._chance.randrange(len(data)))}"

    def _thumbnails(self, library: Path) -> str:
        from mmsearch.library import Library

        def thumbnails() -> list[tuple[int, bytes]]:
            with Library(library, device="cpu") as opened:
                found = [hit.image.id for hit in opened.search("waves", k=5)]
                return [(id_, opened.thumbnail(id_, 256)) for id_ in found]

        whole = result(thumbnails, self._stage.scratch)
        files = sorted((library / "thumbs").rglob("*.webp"))
        for file in files:
            file.write_bytes(file.read_bytes()[: self._chance.randrange(file.stat().st_size)])
        again = result(thumbnails, self._stage.scratch)
        if len(files) != len(whole) or again != whole:
            return "TORN"
        return f"{len(files)} thumbnails"
