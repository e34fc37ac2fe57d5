"""Which links would be others if something came to the library that is not in it now.

A picture that was guessed stands only as long as the library does not know the folder, or the
archive, that the text names. What comes later must leave the links that a run over all of it would
make, and it comes in many small transactions, so what the guesses depend on is kept in memory; but
for the first few of them, since most runs have no more: these look for what names just those
folders, which takes a tenth of the time in a large library.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import sqlalchemy as sa

from mmsearch.store.guesses import holders_of
from mmsearch.store.incoming import stage
from mmsearch.store.naming import Holder, Sources, beside, from_root, is_bare
from mmsearch.store.schema import image, incoming, stored_path, text_
from mmsearch.store.transaction import folder_of, is_not_ascii

#: Where the connection, the only one to write, keeps its claims.
_KEPT = "claims of guessed links"
_REF = sa.func.replace(text_.c.image_ref, "\\", "/", type_=text_.c.image_ref.type)
_FOLDER = folder_of(_REF)
#: How many looks of this connection were for some folders only, how many may be, and at how many.
_LOOKS = "looks for guessed links"
_FEW_LOOKS = 3
_FEW_HOLDERS = 20


class _Group(NamedTuple):
    """Texts of one file that name pictures in the same folder."""

    source_id: int
    path: str
    image_ref: str  # ends with the slash
    origin: str = "file"


class Claims:
    """Texts with a guessed picture, by the folders and archives that must stay unknown for it."""

    def __init__(
        self, connection: sa.Connection, holders: Collection[Holder] | None = None
    ) -> None:
        """holders: of texts that name one of these at least; None: of all."""
        self._holders: dict[Holder, set[_Group]] = {}
        # Also those whose names lead into no source: one that moves may come to be there.
        self._guessed: set[_Group] = set()
        sources = Sources(connection)
        for *of, source_id, folder in connection.execute(_groups(holders)).all():
            group = _Group(*of)
            name = group._replace(image_ref=f"{group.image_ref}x")
            if is_bare(name.image_ref):
                continue
            meant = holders_of(beside(name, sources) + from_root(name, sources))
            if not any(id_ == source_id and _lies_in(folder, path) for id_, path in meant):
                self._guessed.add(group)
                for holder in meant:
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


def claims_on(connection: sa.Connection, holders: Collection[Holder]) -> Claims:
    """The claims on these folders and archives at least."""
    looks = connection.info.get(_LOOKS, 0)
    if _KEPT in connection.info or looks >= _FEW_LOOKS or len(holders) > _FEW_HOLDERS:
        return claims_of(connection)
    connection.info[_LOOKS] = looks + 1
    return Claims(connection, holders)


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


def _groups(holders: Collection[Holder] | None) -> sa.Select[Any]:
    """Texts that name a folder and have a picture, by file and folder: and where the picture is.

    holders: those that may name one of these; some others may be among them. None: all.
    """
    statement = (
        sa.select(
            text_.c.source_id, text_.c.path, _FOLDER.label("ref"), image.c.source_id, image.c.folder
        )
        .join(image, image.c.id == text_.c.image_id)
        .where(text_.c.origin == "file")
        .distinct()
    )
    if holders is not None:
        # As the rows lie: all of them are looked at, and few are of use.
        statement = statement.with_hint(text_, "NOT INDEXED", "sqlite").where(_may_name(holders))
    return statement.where(sa.func.instr(_REF, "/") > 0)


def _may_name(holders: Collection[Holder]) -> sa.ColumnElement[bool]:
    """Whether a text may name one of these: its last part stands in the name, unless that goes up
    again, or is written in another way."""
    parts = {stored_path(path.rpartition("/")[2]) for _, path in holders}
    wanted = [f"{part}{slash}" for part in sorted(parts) for slash in "/\\"]
    return sa.or_(
        *(sa.func.instr(text_.c.image_ref, each) > 0 for each in [*wanted, "..", "%"]),
        is_not_ascii(text_.c.image_ref),
    )


def _lies_in(folder: str, holder: str) -> bool:
    return not holder or folder.startswith(f"{holder}/")
