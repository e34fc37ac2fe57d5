"""What one process has open of a library, kept up to date with what others commit."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.backgrounds import Backgrounds
from mmsearch.errors import IndexMissingError, ModelUnavailableError, SpaceMismatchError
from mmsearch.indexes import Indexes
from mmsearch.sharing import SharedLock
from mmsearch.types import Modality, Space

if TYPE_CHECKING:
    from mmsearch.encode import Encoder
    from mmsearch.index.flat import FlatIndex
    from mmsearch.queryencoder import QueryEncoder
    from mmsearch.relevance import Background
    from mmsearch.store import Catalog
    from mmsearch.types import Vectors

logger = logging.getLogger(__name__)


class Opened:
    """The active space of a library, its indexes and its background. Thread-safe.

    Searches share it; what changes it has it alone. The indexes are opened at the first search.
    """

    def __init__(self, path: Path, folder: Path, catalog: Catalog, encoding: QueryEncoder) -> None:
        """path: of the library. folder: of its index files. encoding: what encodes questions."""
        self._path = path
        self._folder = folder
        self._catalog = catalog
        self._encoding = encoding
        self._lock = SharedLock()
        self._indexes: Indexes | None = None
        self._backgrounds: Backgrounds | None = None
        self._active: tuple[int, Space] | None = None
        self._revision = -1

    def close(self) -> None:
        """Lets go of the indexes; they are opened anew where they are asked for."""
        with self._lock.alone():
            self._indexes = self._backgrounds = self._active = None
            self._revision = -1

    # --- the space ------------------------------------------------------------------------------

    @property
    def known(self) -> tuple[int, Space] | None:
        """The active space with its id, as the catalog was last taken in: never waits."""
        return self._active

    @property
    def active(self) -> tuple[int, Space] | None:
        """The same as the catalog is now; None while nothing is indexed."""
        self.refresh()
        return self._active

    def need(self) -> tuple[int, Space]:
        """The same. Raises IndexMissingError where there is none."""
        active = self.active
        if active is None:
            raise IndexMissingError(
                f"the library at {self._path} is empty. Fill it with: mmsearch index FOLDER"
            )
        return active

    def refresh(self) -> bool:
        """Takes in what was committed since the last look; True when there was something."""
        if self._lock.is_shared_here:
            return False  # in the middle of a search, for which nothing may change
        revision = self._catalog.revision()
        if revision == self._revision:
            if self._indexes is not None and self._indexes.waiting:
                with self._lock.alone():
                    if self._indexes is not None:
                        self._indexes.take_merged()
            return False
        with self._lock.alone():
            if revision == self._revision:
                return True  # another thread was quicker
            active = self._catalog.active_space()
            if active != self._active or (self._indexes and self._indexes.disowned()):
                self._indexes = active and Indexes(self._folder, self._catalog, *active)
                self._backgrounds = active and Backgrounds(
                    self._folder, active[1], keep=not self._catalog.read_only
                )
                self._active = active
            if self._indexes is not None:
                self._indexes.refresh()
            self._revision = revision
        return True

    # --- the indexes ----------------------------------------------------------------------------

    def index(self, modality: Modality) -> FlatIndex:
        """The index of one modality, as far as the catalog was last taken in."""
        with self._lock.shared():
            index = None if self._indexes is None else self._indexes.opened(modality)
        if index is not None:
            return index
        with self._lock.alone():
            self.need()  # closed or emptied meanwhile
            assert self._indexes is not None
            return self._indexes.get(modality, device=self._encoding.loaded_device)

    def searching(self) -> AbstractContextManager[None]:
        """Within, no index changes. On a GPU only one thread may search."""
        on_gpu = self._encoding.loaded_device.startswith("cuda")
        return self._lock.alone() if on_gpu else self._lock.shared()

    def sizes(self) -> dict[Modality, dict[str, int]]:
        """Vectors of each index that is open: found, hidden, and not in its file yet (unsaved)."""
        with self._lock.shared():
            opened = {} if self._indexes is None else self._indexes.all_opened()
            return {
                modality: {"found": len(index), "hidden": index.gone, "unsaved": index.delta}
                for modality, index in opened.items()
            }

    def save(self) -> None:
        """Writes the index files, where enough is new to be worth it. Only for the writer."""
        self.refresh()
        with self._lock.alone():
            if self._indexes is not None:
                self._indexes.save()

    # --- the background -------------------------------------------------------------------------

    def background(
        self, pictures: FlatIndex, texts: FlatIndex, captions: Vectors
    ) -> Background | None:
        """What relevance is told by, from these indexes of the library."""
        backgrounds = self._backgrounds
        return None if backgrounds is None else backgrounds.get(pictures, texts, captions)

    def captions(self, space: Space) -> Vectors | None:
        """The vectors of everyday captions; None where the model that makes them is not here."""
        backgrounds = self._backgrounds
        if backgrounds is None or backgrounds.space != space:
            return None
        try:
            return backgrounds.captions(lambda texts: self._encoding.texts(space, texts))
        except (ModelUnavailableError, SpaceMismatchError) as exc:
            # Pictures like one of the library are found without the model.
            logger.info("no relevance can be told: %s", exc)
            return None

    def save_captions(self, encoder: Encoder) -> None:
        """Writes them, unless they are there, so that no search has to wait.

        encoder: a model at hand; nothing is done when it is not that of the active space.
        """
        active = self.active
        if active is not None and active[1] == encoder.space and self._backgrounds is not None:
            self._backgrounds.captions(encoder.encode_texts)
