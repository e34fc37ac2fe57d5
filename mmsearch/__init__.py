"""mmsearch: search photos by words and words by photos.

    import mmsearch

    with mmsearch.open("~/library") as library:
        for hit in library.search("a red kite over a beach", k=5):
            print(f"{hit.score:.3f} {hit.image.path}")

Importing this package is instant; the heavy libraries are loaded when a library is opened.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mmsearch.client import AsyncClient, Client
    from mmsearch.library import Library
    from mmsearch.types import DecodeLimits

__all__ = ["AsyncClient", "Client", "__version__", "open"]


def open(
    path: str | PathLike[str] | None = None,
    *,
    device: str = "auto",
    limits: DecodeLimits | None = None,
) -> Library:
    """The library at `path`, opened for searching.

    path: a library folder, as `mmsearch index` makes it; None is MMSEARCH_LIBRARY or the
        platform's data folder. device: "auto", "cpu", "cuda", "mps"; where queries are encoded.

    Raises:
        EncodeError: `device` names none.
        LibraryNotFoundError: there is no library there.
        SchemaVersionError: it was written by a newer mmsearch.
    """
    from mmsearch.filenames import from_home
    from mmsearch.library import Library

    if path is None:
        from mmsearch.settings import Settings

        path = Settings().library
    return Library(from_home(path), device=device, limits=limits)


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "Client"):
        from mmsearch import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
