"""Which database an address means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mmsearch.errors import EngineError

if TYPE_CHECKING:
    from mmsearch.mirror import Engine

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(//)?")
_POSTGRESQL = re.compile(r"postgres(ql)?(\+psycopg)?://")
_MILVUS = re.compile(r"milvus(\+https?://|:)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")


def is_address(text: str) -> bool:
    """Whether this is the address of a database, and no folder."""
    begins = _ADDRESS.match(text)
    return begins is not None and (bool(begins[1]) or text.startswith("milvus:"))


def engine_at(url: str, name: str) -> Engine:
    """The database at an address. name: what the mirror is called there.

    Raises:
        EngineError: there is none, or none of a kind that is known here.
    """
    if not _NAME.fullmatch(name):
        raise EngineError(
            f"{name!r} cannot be the name of a mirror: write letters, digits and _, at most 40"
        )
    if _POSTGRESQL.match(url):
        from mmsearch.store.postgresql import PostgreSQL

        return PostgreSQL(url, name)
    if _MILVUS.match(url):
        from indexer.exchange.milvus import Milvus

        return Milvus(url, name)
    raise EngineError(
        f"{url.partition(':')[0]!r} is no database that a library is mirrored into: write "
        "postgresql://user@host/database, milvus+http://host:19530 or milvus:FILE.db"
    )
