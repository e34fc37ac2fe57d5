"""The catalog: one SQLite file that holds everything a library knows. Sole owner of SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmsearch.store.catalog import Catalog
from mmsearch.store.rows import FailureRow, ImageRow, Pending, TakeoutFile, TextRow, ToldRow

if TYPE_CHECKING:
    from mmsearch.store.writer import CatalogWriter

__all__ = [
    "Catalog",
    "CatalogWriter",
    "FailureRow",
    "ImageRow",
    "Pending",
    "TakeoutFile",
    "TextRow",
    "ToldRow",
]


def __getattr__(name: str) -> Any:
    # At first use: who only searches need not wait for it.
    if name == "CatalogWriter":
        from mmsearch.store.writer import CatalogWriter

        return CatalogWriter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
