"""The doctor's look at the index files: against the catalog, and by searching."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.doctor.finding import NEXT_RUN, Finding, mended
from mmsearch.errors import os_reason
from mmsearch.index import manifest
from mmsearch.indexes import Indexes
from mmsearch.plaintext import counted
from mmsearch.store import Catalog
from mmsearch.store.check import CatalogCheck
from mmsearch.types import MODALITIES, Modality, Space

if TYPE_CHECKING:
    from mmsearch.index.check import Differences
    from mmsearch.types import Vectors

_QUERIES = 100
_K = 10
#: An exact index that finds less is at fault.
_RECALL_WANTED = 0.999
#: How often something is looked at again because others were writing meanwhile.
_TRIES = 3
#: And how long after: who puts two files in place may have to wait for a core in between.
_PAUSE_S = 0.5


class IndexDoctor:
    """Checks the index files in one folder, of all spaces of one catalog."""

    def __init__(self, folder: Path, check: CatalogCheck, catalog: Catalog, *, repair: bool):
        """repair: the caller holds the library's write lock."""
        self._folder = folder
        self._check = check
        self._catalog = catalog
        self._repair = repair

    def run(self) -> Iterator[Finding]:
        catalog = self._catalog
        strays = self._strays()
        spaces = [status.space for status in catalog.spaces()]
        active = catalog.active_space()
        for space in spaces:
            known = catalog.find_space(space.name, space.fingerprint)
            assert known is not None
            for modality in MODALITIES:
                yield from self._undisturbed("index", self._file, modality, *known)
                yield from self._undisturbed("index", self._fast, modality, *known)
        if active is not None:
            for modality in MODALITIES:
                yield from self._undisturbed("recall", self._recall, modality, *active)
        # Of a run at work files are there before it is written down whose they are.
        yield from self._of_nothing(sorted(strays & self._strays()))

    def _undisturbed(
        self,
        name: str,
        look: Callable[[Modality, int, Space], Finding | None],
        modality: Modality,
        space_id: int,
        space: Space,
    ) -> Iterator[Finding]:
        """What a check finds while nothing is committed: files and catalog are of one moment.

        What is wrong must be so twice in a row: the end of a run puts files in place without a
        commit, and for a moment they are of two times; on a busy machine for a longer one.
        """
        suspected = False
        for _ in range(_TRIES):
            revision = self._catalog.revision()
            try:
                finding = look(modality, space_id, space)
            except OSError as exc:
                finding = Finding(
                    name,
                    "problem",
                    f"{modality}: what lies in {self._folder} cannot be read ({os_reason(exc)}). "
                    "The catalog has everything: make it readable, or delete that folder",
                )
            if finding is None:
                return
            stands = revision == self._catalog.revision()
            if finding.state != "problem" or (stands and suspected):
                yield finding
                return
            suspected = stands
            time.sleep(_PAUSE_S)
        yield Finding(name, "note", f"{modality}: not checked, the library is being written")

    def _strays(self) -> set[Path]:
        from mmsearch.index.check import strays

        return set(strays(self._folder, self._catalog.origins()))

    def _of_nothing(self, found: list[Path]) -> Iterator[Finding]:
        if found:
            if self._repair:
                for path in found:
                    manifest.remove(path)
            names = ", ".join(path.name for path in found[:3])
            wrong = f"{counted(len(found), 'file is', 'files are')} of no model here ({names})"
            yield mended("index", wrong, "deleted", repair=self._repair)

    # --- one file -------------------------------------------------------------------------------

    def _file(self, modality: Modality, space_id: int, space: Space) -> Finding | None:
        from mmsearch.index.check import of_another_version, unusable

        path = manifest.index_file(self._folder, space, modality)
        if of_another_version(self._folder, space, modality) and not self._repair:
            old = f"{path.name} was written by another version of mmsearch"
            return Finding("index", "note", f"{old}; {NEXT_RUN} writes it anew")
        wrong = unusable(self._folder, space, modality, self._catalog.space_origin(space_id))
        if wrong is None and not path.exists():
            return self._no_file(path, modality, space_id, space)
        if wrong is None:
            found = self._differences(modality, space_id, space)
            if not found:
                return Finding(
                    "index",
                    "ok",
                    f"{path.name}: {counted(found.checked, 'vector')}, those of the catalog",
                )
            wrong = (
                f"{path.name} is not of this catalog (of {counted(found.checked, 'vector')} "
                f"{found.altered:,} altered, {found.strange:,} strange; {found.lacking:,} lacking)"
            )
        if self._repair:
            self._build(path, modality, space_id, space)
        return mended("index", wrong, "built anew from the catalog", repair=self._repair)

    def _fast(self, modality: Modality, _space_id: int, space: Space) -> Finding | None:
        from mmsearch.index import measured
        from mmsearch.index.check import fast_unusable

        path = manifest.index_file(self._folder, space, modality)
        wrong = fast_unusable(self._folder, space, modality)
        if wrong is not None:
            if self._repair:
                measured.remove(path)
            done = "deleted, searches compare everything; `mmsearch optimize` makes another"
            return mended("index", wrong, done, repair=self._repair)
        about, base = measured.read(path), manifest.read(path)
        if about is None:
            return None
        if base is None or about.base != measured.tie(base):
            old = f"{about.file} is of an older index file; searches compare everything"
            return Finding("index", "note", f"{old} until {NEXT_RUN} makes it fit")
        return Finding("index", "ok", f"{about.file}: {about.factory}, whole")

    def _no_file(
        self, path: Path, modality: Modality, space_id: int, space: Space
    ) -> Finding | None:
        active = self._catalog.active_space()
        if active is None or active[0] != space_id:
            return None  # not searched, so not needed
        if not self._catalog.vectors.exist(space_id, modality):
            return None
        if self._repair:
            self._build(path, modality, space_id, space)
            return Finding("index", "repaired", f"{path.name} was not there: built")
        return Finding(
            "index", "note", f"{path.name} is not there, and made at each start until {NEXT_RUN}"
        )

    def _differences(self, modality: Modality, space_id: int, space: Space) -> Differences:
        from mmsearch.index.check import Differences, differences

        path = manifest.index_file(self._folder, space, modality)
        origin = self._catalog.space_origin(space_id)
        about = manifest.trusted(path, space, modality, origin)
        if about is None:  # as of a moment ago there was one: it is looked at again
            return Differences(0, 0, 0, 0)
        return differences(
            path,
            about,
            self._check.with_vector(space_id, modality, about.last_seq),
            self._catalog.hidden(modality),
            lambda ids: self._catalog.vectors.of(space_id, ids),
        )

    def _build(self, path: Path, modality: Modality, space_id: int, space: Space) -> None:
        manifest.remove(path.with_suffix(".json"))
        manifest.remove(path)
        if self._catalog.vectors.exist(space_id, modality):
            Indexes(self._folder, self._catalog, space_id, space).get(modality).save(self._folder)

    # --- searching ------------------------------------------------------------------------------

    def _recall(self, modality: Modality, space_id: int, space: Space) -> Finding | None:
        from mmsearch.index.check import recall

        catalog = self._catalog
        if not catalog.vectors.exist(space_id, modality):
            return None
        xq = self._queries(space_id)
        found = recall(
            Indexes(self._folder, catalog, space_id, space).get(modality),
            xq,
            ((ids, vectors) for _, ids, vectors in catalog.vectors.after(space_id, modality, 0)),
            catalog.hidden(modality),
            _K,
        )
        asked = counted(len(xq), "query", "queries")
        message = f"{modality} index: {found:.3f} of the {_K} nearest found, {asked}"
        if found >= _RECALL_WANTED:
            return Finding("recall", "ok", message)
        return Finding(
            "recall",
            "problem",
            f"{message}; it should be 1. Delete {self._folder} and look again; if that does not "
            "help, it is a fault of mmsearch: please report it",
        )

    def _queries(self, space_id: int) -> Vectors:
        """(n, dim) float32: vectors of pictures and of texts, of both where there are both."""
        import numpy as np

        found = []
        for modality in MODALITIES:
            ids = self._check.with_vector(
                space_id, modality, self._catalog.vectors.last_seq_given()
            )
            step = max(1, 2 * len(ids) // _QUERIES)
            some = ids[::step][: _QUERIES // 2]
            found += [vectors for _, vectors in self._catalog.vectors.of(space_id, some.tolist())]
        return np.ascontiguousarray(np.concatenate(found), np.float32)
