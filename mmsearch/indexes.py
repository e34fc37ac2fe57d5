"""The vector indexes of one library in one space, kept in step with its catalog."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.index import manifest, measured
from mmsearch.store.lock import optimizing
from mmsearch.types import MODALITIES, Modality, Space

if TYPE_CHECKING:
    from mmsearch.index.flat import FlatIndex
    from mmsearch.index.manifest import Manifest
    from mmsearch.store import Catalog

logger = logging.getLogger(__name__)


class Indexes:
    """One index for each modality, opened when it is first asked for. One thread at a time."""

    def __init__(self, folder: Path, catalog: Catalog, space_id: int, space: Space) -> None:
        """folder: where the index files lie, if there are any."""
        self._folder = folder
        self._catalog = catalog
        self._space_id = space_id
        self._space = space
        self._origin = catalog.space_origin(space_id)
        self._open: dict[Modality, FlatIndex] = {}
        self._overgrown = False
        self._device = "cpu"
        # The newest manifest that each open index was compared with.
        self._compared: dict[Modality, Manifest | None] = {}
        # What was last seen of the approximate index beside each.
        self._seen: dict[Modality, tuple[int, ...]] = {}

    def get(self, modality: Modality, *, device: str = "cpu") -> FlatIndex:
        """The index of one modality, as the catalog was when it was opened or last refreshed.

        device: where one that is opened now searches, "cpu" or "cuda".
        """
        index = self._open.get(modality)
        if index is None:
            self._device = device
            seen = self._look(modality)
            index = self._load(modality)
            self._catch_up(index)
            self._open[modality] = index
            self._compared[modality] = index.loaded
            self._seen[modality] = seen
            self._overgrown |= index.overgrown
        return index

    def opened(self, modality: Modality) -> FlatIndex | None:
        """The same if it is open already. Safe beside what changes the indexes."""
        return self._open.get(modality)

    def all_opened(self) -> dict[Modality, FlatIndex]:
        """All that are open."""
        return dict(self._open)

    @property
    def waiting(self) -> bool:
        """Whether an open index would do well to change to a file, if another process wrote one.

        Safe beside what changes the indexes; costs a look at each.
        """
        return self._overgrown or any(
            self._look(modality) != seen for modality, seen in list(self._seen.items())
        )

    def refresh(self) -> None:
        """Takes in what was committed since."""
        for modality in self._open:
            self._take_merged(modality)
            self._catch_up(self._open[modality])
        self._overgrown = any(index.overgrown for index in self._open.values())

    def disowned(self) -> bool:
        """Whether the catalog lets go of all indexes so far, because a repair took vectors back."""
        return self._catalog.space_origin(self._space_id) != self._origin

    def take_merged(self) -> None:
        """Changes to the files that another process wrote, where an index would do well to.

        So a process that runs for months lets go of what was hidden, and of its memory.
        """
        for modality in self._open:
            self._take_merged(modality)

    def _newer(self, modality: Modality) -> Manifest | None:
        about = manifest.read(self._file(modality))
        return None if about == self._compared[modality] else about

    def _take_merged(self, modality: Modality) -> None:
        seen = self._look(modality)
        optimized = seen != self._seen[modality]
        self._seen[modality] = seen
        about = self._newer(modality) if self._open[modality].overgrown or optimized else None
        if about is not None:
            self._compared[modality] = about  # if it is of no use, not to be tried again and again
            index = self._load(modality)
            if index.loaded is not None:
                self._catch_up(index)
                self._open[modality] = index
        elif optimized:
            self._take_fast(modality)

    def _take_fast(self, modality: Modality) -> None:
        """Changes to the approximate index that lies beside the file now, or to none."""
        from mmsearch.index import fast

        index = self._open[modality]
        if index.loaded is not None:
            index.fast = fast.load(self._file(modality), index.loaded)

    def _file(self, modality: Modality) -> Path:
        return manifest.index_file(self._folder, self._space, modality)

    def _look(self, modality: Modality) -> tuple[int, ...]:
        """What changes with the approximate index of a modality; () where there is none."""
        try:
            found = measured.about_file(self._file(modality)).stat()
        except OSError:
            return ()
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    def save(self) -> None:
        """Writes the files that are worth writing anew. Only for the writer."""
        for modality in MODALITIES:
            self._save(modality)
            self._refit(modality)

    def _refit(self, modality: Modality) -> None:
        """Makes the approximate index one of the file, should that have been written anew."""
        path = self._file(modality)
        about, base = measured.read(path), manifest.read(path)
        fits = about is None or base is None or about.base == measured.tie(base)
        if fits and not measured.leftovers(path):
            return
        with optimizing(self._folder) as alone:
            if not alone:
                return  # who builds one now makes it one of this file
            measured.tidy(path)
            if fits:
                return
            from mmsearch.index import fast
            from mmsearch.index.flat import FlatIndex

            index = FlatIndex.load(self._folder, self._space, modality, origin=self._origin)
            if index.loaded is not None:
                fast.refit(path, index.loaded, index.rows())

    def _save(self, modality: Modality) -> None:
        path = self._file(modality)
        if modality not in self._open:
            if self._up_to_date(path, modality):
                return
            if self._mostly_new(path, modality):
                self._build(modality)
                return
        index = self.get(modality)
        about = index.loaded
        useless = about is None and path.exists()
        behind = about is not None and _far_behind(about, index.last_seq)
        if index.overgrown or useless or behind:
            index.save(self._folder)
            # To be opened from the file: that holds less.
            del self._open[modality], self._seen[modality]
        elif about is not None and not index.delta:
            self._amend(path, about, index.last_seq, *index.last)

    def _mostly_new(self, path: Path, modality: Modality) -> bool:
        """Whether a file has less of what is to be in it than is not."""
        about = manifest.read(path)
        count = self._catalog.vectors.count(self._space_id, modality)
        return about is None or count > 2 * about.ntotal

    def _build(self, modality: Modality) -> None:
        """Writes a file out of the catalog: an index of it all need not be in memory."""
        from mmsearch.index.flat import build

        vectors = self._catalog.vectors
        last = vectors.last()
        assert last is not None  # otherwise the file, or that there is none, is up to date
        build(
            self._folder,
            self._space,
            modality,
            (
                vectors.visible(self._space_id, modality),
                vectors.of_visible(self._space_id, modality),
            ),
            hidden=self._catalog.hidden(modality),
            last_seq=last[0],
            last=(last[1], manifest.digest(last[2])),
            origin=self._origin,
        )

    def _up_to_date(self, path: Path, modality: Modality) -> bool:
        """Whether a file need not be written anew, as far as that can be told without FAISS."""
        from mmsearch.index.positions import among

        last = self._catalog.vectors.last()
        try:
            about = manifest.trusted(path, self._space, modality, self._origin)
            if about is None or last is None or not self._came_last(about):
                return about is None and not self._catalog.vectors.exist(self._space_id, modality)
            _, left_out = manifest.read_ids(path, about)
        except OSError:
            return False
        hidden = self._catalog.hidden(modality)
        came = self._catalog.vectors.count_after(self._space_id, modality, about.last_seq)
        came += int((~among(left_out, hidden)).sum())
        # More than that, where contents were hidden before they had a vector in this space.
        went = int((~among(hidden, left_out)).sum())
        if manifest.overgrown(came, went, about.ntotal + came - went):
            return False
        if came:
            return not _far_behind(about, last[0])
        self._amend(path, about, last[0], last[1], manifest.digest(last[2]))
        return True

    def _amend(self, path: Path, about: Manifest, last_seq: int, content: int, vector: str) -> None:
        """Notes that a file, to which nothing came, covers the catalog up to `last_seq`."""
        now = replace(about, last_seq=last_seq, last_content=content, last_vector=vector)
        if now != about:
            manifest.amend(path, now)

    # --- against the catalog --------------------------------------------------------------------

    def _load(self, modality: Modality) -> FlatIndex:
        from mmsearch.index.flat import FlatIndex

        origin, device = self._origin, self._device
        index = FlatIndex.load(self._folder, self._space, modality, origin=origin, device=device)
        if not self._agrees(index):
            logger.warning("the index is not of this catalog: rebuilding")
            index = FlatIndex(self._space, modality, origin=origin, device=device)
        return index

    def _agrees(self, index: FlatIndex) -> bool:
        """Whether an index can be of this catalog, and not of what it was before it was restored
        from an older copy."""
        about = index.loaded
        if about is None or not about.last_seq:
            return True
        if self._catalog.vectors.at(about.last_seq) is not None:
            return self._came_last(about)
        if self._catalog.vectors.last_seq_given() < about.last_seq:
            return False
        # What came last was forgotten for good. Then the last that is still there tells.
        came = self._catalog.vectors.down_from(self._space_id, index.modality, about.last_seq)
        for content, vector in came:
            if not index.leaves_out(content):
                return index.vector(content) == vector
        return not index.total

    def _came_last(self, about: Manifest) -> bool:
        """Whether that came last up to `last_seq` which a file says did."""
        found = self._catalog.vectors.at(about.last_seq)
        return found is not None and (found[0], manifest.digest(found[1])) == (
            about.last_content,
            about.last_vector,
        )

    def _catch_up(self, index: FlatIndex) -> None:
        last = self._catalog.vectors.last() or (0, 0, b"")
        if last[0] > index.last_seq:
            new = self._catalog.vectors.after(
                self._space_id, index.modality, index.last_seq, up_to=last[0]
            )
            for last_seq, ids, vectors in new:
                index.add(last_seq, ids, vectors)
        # It may lie before what the index covers: what came later was forgotten for good.
        index.covers(*last)
        hidden = self._catalog.hidden(index.modality)
        for ids, vectors in self._catalog.vectors.of(
            self._space_id, index.lacking(hidden).tolist()
        ):
            index.restore(ids, vectors)
        index.hide(hidden)


def _far_behind(about: Manifest, last_seq: int) -> bool:
    """Whether opening a file takes reading past much of the catalog."""
    return manifest.overgrown(last_seq - about.last_seq, 0, last_seq)
