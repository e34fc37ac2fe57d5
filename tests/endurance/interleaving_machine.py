"""The library of the folders, all that may happen to it, and what must be so in the end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

from collection import found, found_in
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from interleaving_checks import problems, same_books, same_results, vectors
from interleaving_folders import PARTS, ROOTS, Folders, picture, roots
from interleaving_runs import Forks

from mmsearch.errors import LibraryNotFoundError
from mmsearch.library import Library

# A picture that never is in the library: of one that is, the vector is at hand in full precision.
_QUERIES: list[str | bytes] = ["waves", "line 3", "titled 2", "said by 2", picture(99)]

kills = st.tuples(st.just("point"), st.integers(1, 30)) | st.tuples(
    st.just("statement"), st.integers(1, 150)
)
#: Most runs come to their end.
ends = st.one_of(st.none(), st.none(), kills)


class Interleavings(Folders):
    """The folders and their library."""

    forks: ClassVar[Forks]
    models: ClassVar[tuple[str, str]]

    def __init__(self) -> None:
        super().__init__()
        self.library = self.world / "library"
        self.reader: Library | None = None
        self.moves = 0

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
            read = [self._at(r) in targets if targets else self._is_source(r) for r in ROOTS]
            self.stale -= {root for root, done in zip(ROOTS, read, strict=True) if done} - self.away
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

    @rule(root=roots, part=st.sampled_from(PARTS), die_at=ends)
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
    @rule(root=roots, part=st.sampled_from(["", "", *PARTS]), die_at=ends)
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
            same_results(
                found_in(self.reader, self.world, _QUERIES),
                found(self.library, self.world, _QUERIES),
            )
            self.done["look"] += 1

    # --- the property ---------------------------------------------------------------------------

    def check(self) -> None:
        unplugged = sorted(self.away)
        kept = None
        if self.away and not (self.away & self.stale) and self._model() is not None:
            # What is unplugged stays as it was, whatever else is brought up to date.
            self._index(*(self._at(root) for root in ROOTS if root not in self.away))
            kept = self._results()
        for root in unplugged:
            self._mount(root)
        for root in ROOTS:
            for part in PARTS:
                # What was named by itself and is empty now is taken for an unplugged drive.
                if self._is_source(root, part) and not any((self._at(root) / part).rglob("*.*")):
                    self._write(root, f"{part}/p0.png", picture(0))
        self._index(*map(self._at, ROOTS))
        again = self._index(*map(self._at, ROOTS))
        assert again is not None
        assert again["encoded"] == 0
        assert not (wrong := problems(self.library, finished=True)), wrong
        clean = self.world / "clean"
        shutil.rmtree(clean, ignore_errors=True)
        self.forks.call(
            "index",
            library=str(clean),
            targets=[str(self._at(root)) for root in ROOTS],
            model=self._model(),
        )
        expected = found(clean, self.world, _QUERIES)
        same_results(self._results(), expected)
        if kept is not None:
            same_results(kept, expected)
            self.done["checks while unplugged"] += 1
        same_books(self.library, clean)
        self.done["checks"] += 1

    def _results(self) -> list[dict[Any, float]]:
        """What the reader that stayed open finds."""
        if self.reader is None:
            self.reader = Library(self.library, device="cpu")
        return found_in(self.reader, self.world, _QUERIES)

    def teardown(self) -> None:
        try:
            self.check()
        finally:
            self._close()
            shutil.rmtree(self.world)
