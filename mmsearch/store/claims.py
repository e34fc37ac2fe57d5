"""Which links would be others if something came to the library that is not in it now.

A picture that was guessed stands only as long as the library does not know the folder, or the
archive, that the text names. What comes later must leave the links that a run over all of it would
make, and it comes in many small transactions, so what the guesses depend on is kept in memory.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import sqlalchemy as sa

from mmsearch.store.guesses import holders_of
from mmsearch.store.incoming import stage
from mmsearch.store.naming import Holder, Sources, beside, from_root, is_bare
from mmsearch.store.schema import image, incoming, text_
from mmsearch.store.transaction import folder_of

#: Where the connection, the only one to write, keeps its claims.
_KEPT = "claims of guessed links"
_REF = sa.func.replace(text_.c.image_ref, "\\", "/", type_=text_.c.image_ref.type)
_FOLDER = folder_of(_REF)


class _Group(NamedTuple):
    """Texts of one file that name pictures in the same folder."""

    source_id: int
    path: str
    image_ref: str  # ends with the slash
    origin: str = "file"


class Claims:
    """Texts with a guessed picture, by the folders and archives that must stay unknown for it."""

    def __init__(self, connection: sa.Connection) -> None:
        self._holders: dict[Holder, set[_Group]] = {}
        # Also those whose names lead into no source: one that moves may come to be there.
        self._guessed: set[_Group] = set()
        sources = Sources(connection)
        for *of, source_id, folder in connection.execute(_groups()).all():
            group = _Group(*of)
            name = group._replace(image_ref=f"{group.image_ref}x")
            if is_bare(name.image_ref):
                continue
            holders = holders_of(beside(name, sources) + from_root(name, sources))
            if not any(id_ == source_id and _lies_in(folder, path) for id_, path in holders):
                self._guessed.add(group)
                for holder in holders:
                    self._holders.setdefault(holder, set()).add(group)

    def unlink(self, connection: sa.Connection, holders: Collection[Holder]) -> None:
        """Leaves texts to `link_texts` that name one of these, since they are known now."""
        hit = self._holders.keys() & holders
        self._unlink(connection, set().union(*(self._holders[each] for each in hit)))

    def unlink_all(self, connection: sa.Connection) -> None:
        """The same for all."""
        self._unlink(connection, self._guessed)

    def _unlink(self, connection: sa.Connection, groups: set[_Group]) -> None:
        if not groups:
            return
        stage(connection, ((g.source_id, g.path, g.image_ref, "", b"") for g in groups))
        which = sa.select(incoming.c.source_id, incoming.c.path, incoming.c.member)
        connection.execute(
            sa.update(text_)
            .where(text_.c.origin == "file", text_.c.image_id.is_not(None))
            .where(sa.tuple_(text_.c.source_id, text_.c.path, _FOLDER).in_(which))
            .values(image_id=None)
        )


def claims_of(connection: sa.Connection) -> Claims:
    """The claims on what this connection may write; read when they are asked for first."""
    claims = connection.info.get(_KEPT)
    if claims is None:
        claims = connection.info[_KEPT] = Claims(connection)
    assert isinstance(claims, Claims)
    return claims


def forget_claims(connection: sa.Connection) -> None:
    """After pictures were guessed, or sources became others."""
    connection.info.pop(_KEPT, None)


def _groups() -> sa.Select[Any]:
    """Texts that name a folder and have a picture, by file and folder: and where the picture is."""
    return (
        sa.select(
            text_.c.source_id, text_.c.path, _FOLDER.label("ref"), image.c.source_id, image.c.folder
        )
        .join(image, image.c.id == text_.c.image_id)
        .where(text_.c.origin == "file", sa.func.instr(_REF, "/") > 0)
        .distinct()
    )


def _lies_in(folder: str, holder: str) -> bool:
    return not holder or folder.startswith(f"{holder}/")
