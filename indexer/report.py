"""What an indexing run tells while it runs, and at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


class Progress(Protocol):
    """Told what happens, from one thread. All numbers are items."""

    def scanning(self, location: str, files: int) -> None:
        """`files` were seen so far in a source."""

    def loading_model(self, name: str) -> None:
        """The model is being loaded (and fetched, if it is not here yet)."""

    def started(self, what: str, total: int | None) -> None:
        """`total` items of a kind ("images", "texts") are to be done; None: not known before."""

    def limited(self, skipped: int, bottleneck: str | None) -> None:
        """So many items of the run could not be used so far; the stage (`indexer.clock`) that the
        run goes as fast as, where that is known. Told before `advanced`."""

    def advanced(self, done: int) -> None:
        """So many more are committed."""


class Silence:
    """Progress for nobody."""

    def scanning(self, location: str, files: int) -> None: ...

    def loading_model(self, name: str) -> None: ...

    def started(self, what: str, total: int | None) -> None: ...

    def limited(self, skipped: int, bottleneck: str | None) -> None: ...

    def advanced(self, done: int) -> None: ...


_OF_SCANS = ("files", "skipped", "links", "closed", "developed")


@dataclass(slots=True)
class Report:
    """The outcome of a run.

    files: pictures seen by the scan. encoded_images, encoded_texts: contents that went through the
    model. known: files that are copies of known pictures, or were moved. texts: read from caption
    files and sidecars; linked: those of them that found their picture; carried: texts that
    pictures carry themselves. told: known pictures that other files lie beside than before. failed:
    inputs of this run that could not be used; skipped: what was passed over in folders, which every
    run tells again; of it, links: that are not followed, closed: files and folders that could not
    be looked at. developed: raw files beside which the same picture lies, which is read.
    picture_seconds: of `seconds`, reading and encoding pictures, the loading of the model left out.
    missing, returned: files gone and come back since the last run. old_space: names the space that
    searches used before the run switched them to its own.
    """

    library: str
    files: int = 0
    encoded_images: int = 0
    known: int = 0
    encoded_texts: int = 0
    texts: int = 0
    carried: int = 0
    told: int = 0
    linked: int = 0
    failed: int = 0
    skipped: int = 0
    links: int = 0
    closed: int = 0
    developed: int = 0
    missing: int = 0
    returned: int = 0
    seconds: float = 0.0
    picture_seconds: float = 0.0
    model: str | None = None
    device: str | None = None
    dtype: str | None = None
    stopped: bool = False
    old_space: str | None = None
    warnings: list[str] = field(default_factory=list)

    def scanned(self) -> tuple[int, ...]:
        """What the scans so far have counted."""
        return tuple(getattr(self, name) for name in _OF_SCANS)

    def take_back(self, scanned: tuple[int, ...]) -> None:
        """Forgets what scans have counted since: all of it is looked at once more."""
        for name, count in zip(_OF_SCANS, scanned, strict=True):
            setattr(self, name, count)

    @property
    def changed(self) -> bool:
        """Whether the run wrote anything down that was not known before."""
        new = self.encoded_images + self.known + self.texts + self.carried + self.failed
        new += self.told
        return bool(new or self.missing or self.returned)
