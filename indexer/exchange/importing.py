"""`mmsearch import`: vectors that were computed elsewhere into a library, without encoding.

Texts come first, so that what pictures say of themselves finds its vectors among them. The tables
of texts become sources of the library, as any file of captions is one; pictures belong to the
folders they lie in. A batch is one transaction: what a killed run has committed, the next one finds
and passes over.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from time import monotonic

from indexer.exchange.intake import ImportReport, Intake, check_space
from indexer.exchange.layout import Found, find, read_columns
from indexer.exchange.places import Places
from indexer.exchange.vectors import verify
from indexer.report import Progress, Silence
from mmsearch.encode import load_encoder, presets, space_at_hand
from mmsearch.errors import RefusedError
from mmsearch.library import CATALOG_NAME, Library
from mmsearch.overview import (
    SourcePlace,
)
from mmsearch.store import Catalog, CatalogWriter
from mmsearch.store.lock import writing
from mmsearch.types import (
    DEFAULT_LIMITS,
    DecodeLimits,
    Space,
)

_ROWS_A_SURVEY = 4096


def import_embeddings(
    library: Path,
    folder: Path,
    *,
    images: Path | None = None,
    model: str | None = None,
    sample: int = 0,
    device: str = "auto",
    limits: DecodeLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> ImportReport:
    """Takes the embeddings in `folder` into a library, which is made if need be.

    images: the folder where the pictures lie now. model: whose vectors they are; needed where no
    mmsearch.json says it. sample: so many pictures (or else texts) are encoded and compared first.

    Ctrl-C ends the import after the batch in hand, with `stopped` set.

    Raises:
        SourceError: there are no embeddings there, or they cannot be read.
        RefusedError: they are not what they should be: another model's than the library's, of
            another dimension, of several runs, unlike what the model makes.
        ModelUnavailableError: the model is unknown, or is needed (for its fingerprint, or for the
            sample) and is not here.
        LibraryLockedError, SchemaVersionError, StoreError: the library cannot be written.
    """
    found = find(folder)
    space = _space(library, found, model, device)
    report = ImportReport(str(library), space.name)
    started = monotonic()
    # What is wrong with the request is told before a library is made for it.
    places = _places(library, found, space, images)
    if sample:
        report.cosines = verify(found, space, places, sample, device=device, limits=limits)
    with (
        writing(library),
        closing(CatalogWriter(library / CATALOG_NAME)) as writer,
        closing(Catalog(library / CATALOG_NAME)) as catalog,
    ):
        check_space(library, catalog, space)
        run = Intake(catalog, writer, space, places, limits, report, progress or Silence())
        try:
            run.take(found)
        except KeyboardInterrupt:
            report.stopped = True
        report.linked = writer.link().linked
        with Library(library) as opened:
            opened.save_indexes()
    report.seconds = monotonic() - started
    return report


# --- whose vectors they are ---------------------------------------------------------------------


def _space(library: Path, found: Found, model: str | None, device: str) -> Space:
    """The space of the vectors. Loads the model only where nothing else tells its fingerprint."""
    name = None if model is None else presets.resolve(model)
    if found.space is not None:
        if name is not None and name != found.space.name:
            raise RefusedError(
                f"{found.root} holds vectors of {found.space.name}, as its mmsearch.json says: "
                "leave --model out"
            )
        return found.space
    if name is None:
        raise RefusedError(
            f"{found.root} has no mmsearch.json, so nothing tells which model made its vectors: "
            "say it with --model NAME (clip-retrieval's own default, ViT-B/32, is "
            "ViT-B-32-quickgelu/openai here), and add --verify to be sure"
        )
    space = _held(library, name) or space_at_hand(name)
    if space is None:
        space = load_encoder(name, device=device).space
    if space.dim != found.dim:
        raise RefusedError(
            f"{found.root} holds vectors of {found.dim} dimensions, and {name} makes "
            f"{space.dim}: they are another model's"
        )
    return space


def _held(library: Path, name: str) -> Space | None:
    """The space that searches of the library use, if it is this model's."""
    if not (library / CATALOG_NAME).exists():
        return None
    with closing(Catalog(library / CATALOG_NAME)) as catalog:
        active = catalog.active_space()
    return active[1] if active is not None and active[1].name == name else None


def _places(library: Path, found: Found, space: Space, images: Path | None) -> Places:
    """Where the pictures are. Raises RefusedError, also for a library of another space."""
    known: Sequence[SourcePlace] = ()
    if (library / CATALOG_NAME).exists():
        with closing(Catalog(library / CATALOG_NAME)) as catalog:
            check_space(library, catalog, space)
            known = catalog.places()
    places = Places(known, found.sources, images)
    for shard in found.pictures:
        for _, columns in read_columns(shard, ["image_path"], _ROWS_A_SURVEY):
            places.survey(columns["image_path"])
    places.settle()
    return places
