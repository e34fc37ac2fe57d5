"""The catalog: one SQLite file that holds everything a library knows. Sole owner of SQL."""

from mmsearch.store.catalog import Catalog
from mmsearch.store.rows import FailureRow, ImageRow, Pending, TextRow
from mmsearch.store.writer import CatalogWriter

__all__ = ["Catalog", "CatalogWriter", "FailureRow", "ImageRow", "Pending", "TextRow"]
