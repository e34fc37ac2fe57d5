"""What is forgotten for good leaves the index files of its library.

Of a few contents the vectors are overwritten where they stand (mmsearch.index.erase). Of more than
that, and in spaces that are not searched, the files are deleted, to be built anew from the catalog.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.errors import VectorIndexError
from mmsearch.index import manifest, measured
from mmsearch.store.lock import lock_is_there, optimizing
from mmsearch.types import MODALITIES, Modality, Space

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.index.manifest import Manifest
    from mmsearch.store import Catalog


@dataclass(frozen=True, slots=True)
class _Begun:
    """An index file without its manifest, which was `about`. at: what goes of it, by place."""

    path: Path
    space: Space
    modality: Modality
    about: Manifest
    at: NDArray[np.int64]


class Erasure:
    """Takes contents out of the index files in a folder. Only for the writer of the catalog.

    `begin` before they go from the catalog, `finish` once that is on the disk. In between nobody
    trusts the files: who opens the library then reads the catalog, and if it stays so, the next run
    builds them.
    """

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        self._folder = folder
        self._catalog = catalog
        self._begun: list[_Begun] = []

    def begin(self, ids: Sequence[int]) -> None:
        """ids: of contents of any modality. Raises StoreError: a file cannot be deleted."""
        import numpy as np

        self._begun = []
        wanted = np.unique(np.array(ids, np.int64))
        active = self._catalog.active_space()
        for space, origin in self._catalog.origins().items():
            if active is None or space != active[1]:
                _drop(self._folder, space, MODALITIES)
                continue
            for modality in MODALITIES:
                begun = self._look(space, modality, origin, wanted)
                if begun is None:
                    _drop(self._folder, space, [modality])
                elif len(begun.at) or begun.about.last_content in wanted:
                    manifest.withdraw(begun.path)
                    self._begun.append(begun)

    def _look(
        self, space: Space, modality: Modality, origin: str, ids: NDArray[np.int64]
    ) -> _Begun | None:
        """What goes of a file; None where that is to be written anew."""
        from mmsearch.index import erase

        path = manifest.index_file(self._folder, space, modality)
        try:
            about = manifest.trusted(path, space, modality, origin)
            if about is None:
                return None
            at = erase.places(path, about, ids)
        except OSError:
            return None
        if manifest.overgrown(0, len(at), about.ntotal):
            return None
        return _Begun(path, space, modality, about, at)

    def finish(self) -> None:
        """Raises StoreError: what is gone from the catalog could not be taken from a file."""
        begun, self._begun = self._begun, []
        for one in begun:
            if not self._overwrite(one):
                _drop(self._folder, one.space, [one.modality])

    def _overwrite(self, begun: _Begun) -> bool:
        """Whether the file holds nothing of it any more, and can be trusted again."""
        from mmsearch.index import erase

        last = self._catalog.vectors.last(up_to=begun.about.last_seq)
        if last is None:
            return False
        now = replace(
            begun.about,
            last_seq=last[0],
            last_content=last[1],
            last_vector=manifest.digest(last[2]),
        )
        try:
            if len(begun.at):
                with _alone(self._folder, begun.path) as alone:
                    if not alone:
                        return False
                    now = erase.overwrite(begun.path, now, begun.at)
                    erase.out_of_fast(begun.path, now, begun.at)
            manifest.amend(begun.path, now)
        except (OSError, VectorIndexError):
            return False
        return True


@contextmanager
def _alone(folder: Path, path: Path) -> Iterator[bool]:
    """Whether nobody reads vectors of an index file into codes. Takes the lock for that only where
    there may be somebody, or there are codes."""
    if lock_is_there(folder) or measured.about_file(path).exists():
        with optimizing(folder) as alone:
            yield alone
    else:
        yield True


def _drop(folder: Path, space: Space, modalities: Sequence[Modality]) -> None:
    """Leaves none of a space's vectors in its index files, whose next `save` makes them anew.

    What `mmsearch optimize` learned and measured stays: that takes minutes, and says nothing of a
    single picture. So do the captions of relevance.

    Raises StoreError when a file cannot be deleted, or the folder not be written.
    """
    for modality in modalities:
        path = manifest.index_file(folder, space, modality)
        keep: set[Path] = set()
        if not measured.about_file(path).exists():
            manifest.delete(folder, space, modality)
            continue
        with optimizing(folder) as alone:
            if alone:
                from mmsearch.index import fast

                about = fast.empty(path)
                if about is not None:
                    keep = {measured.about_file(path), path.with_name(about.file)}
            manifest.delete(folder, space, modality, keep=keep)
