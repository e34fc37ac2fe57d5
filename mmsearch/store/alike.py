"""Pictures whose names are those in texts but for letter case, the way of accents, or "%20".

File systems and programs change these on the way: a camera's IMG_9.JPG becomes img_9.jpg, a Mac
writes an accent as a letter of its own, a web page has no blanks. The catalog has no index of such
names, so they are looked for in one pass over all pictures, for many texts together.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

import sqlalchemy as sa

from mmsearch.store.guesses import failed_at
from mmsearch.store.incoming import stage
from mmsearch.store.naming import Place, Sources, beside, from_root, is_bare, last_part
from mmsearch.store.schema import image, incoming
from mmsearch.store.transaction import is_not_ascii

_UNLINK = (
    "UPDATE text SET image_id = NULL WHERE id IN ("
    "SELECT t.id FROM incoming AS p CROSS JOIN image AS i ON i.name = p.path "
    "CROSS JOIN text AS t ON t.image_id = i.id WHERE t.origin = 'file' "
    # Linked by a name that is not that of the picture, letter by letter.
    "AND substr('/' || replace(t.image_ref, '\\', '/'), -length(i.name) - 1) <> '/' || i.name)"
)


class _Text(NamedTuple):
    """What of a text tells which picture it means; see `beside`."""

    id: int
    source_id: int
    path: str
    member: str
    origin: str
    image_ref: str


def find_alike(connection: sa.Connection, rows: Iterable[Any], sources: Sources) -> dict[int, int]:
    """For texts of files without a picture: text id → image row id, of those that have one now.

    It must be the only one: at the places that the name may mean, beside the text before from the
    root; or, for a name alone, in the library. The name as it stands comes before the one without
    "%20". Nothing where a file of the very name could not be read.
    """
    texts = [
        _Text(row.id, row.source_id, row.path, row.member, row.origin, row.image_ref)
        for row in rows
    ]
    pictures = _Pictures(
        connection, {folded(last_part(ref)) for text in texts for ref in _spellings(text.image_ref)}
    )
    found: dict[int, int] = {}
    places: dict[int, list[Place]] = {}
    for text in texts if pictures.any else ():
        picture = pictures.of(text, sources)
        if picture is not None:
            found[text.id] = picture
            places[text.id] = beside(text, sources) + from_root(text, sources)
    failed = failed_at(connection, places)
    return {text_id: picture for text_id, picture in found.items() if text_id not in failed}


def unlink_alike(connection: sa.Connection, names: Collection[str]) -> None:
    """Leaves texts to `link_texts` that have a picture called nearly so: these may be better.

    Nearly: as programs commonly rewrite a name. Of mixtures nobody comes upon, links may stay that
    another order would not have made.
    """
    stage(connection, ((0, each, "", "", b"") for name in names for each in _rewritten(name)))
    connection.exec_driver_sql(_UNLINK)


def folded(name: str) -> str:
    """What is the same of names that are alike."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class _Pictures:
    """The pictures whose folded file names are wanted."""

    def __init__(self, connection: sa.Connection, wanted: set[str]) -> None:
        #: Where, or by which file name, folded → content id → the first of its rows.
        self._at: dict[tuple[int, str], dict[int, int]] = {}
        self._called: dict[str, dict[int, int]] = {}
        stage(connection, ((0, name, "", "", b"") for name in wanted))
        # SQLite's lower() knows ASCII: the others are looked at one by one.
        may_be = sa.or_(
            sa.func.lower(image.c.name).in_(sa.select(incoming.c.path)),
            is_not_ascii(image.c.name),
        )
        for row in connection.execute(
            sa.select(
                image.c.id, image.c.source_id, image.c.folder, image.c.name, image.c.content_id
            )
            .with_hint(image, "INDEXED BY ix_image_folder", "sqlite")
            .where(image.c.missing_since.is_(None), may_be)
        ):
            name = folded(row.name)
            if name in wanted:
                place = (row.source_id, folded(row.folder + row.name))
                for known in (self._at.setdefault(place, {}), self._called.setdefault(name, {})):
                    known[row.content_id] = min(row.id, known.get(row.content_id, row.id))

    @property
    def any(self) -> bool:
        return bool(self._called)

    def of(self, text: _Text, sources: Sources) -> int | None:
        """The one picture that a text means, if there is one."""
        for ref in _spellings(text.image_ref):
            called = self._called.get(folded(last_part(ref)))
            if called is None:
                continue
            meant = text._replace(image_ref=ref)
            for places in (beside(meant, sources), from_root(meant, sources)):
                there: dict[int, int] = {}
                for place in places:
                    there |= self._at.get(_shown(place), {})
                if there:
                    return _only(there)
            if is_bare(ref):
                return _only(called)
        return None


def _only(pictures: dict[int, int]) -> int | None:
    return next(iter(pictures.values())) if len(pictures) == 1 else None


def _shown(place: Place) -> tuple[int, str]:
    source_id, path, member = place
    return source_id, folded(f"{path}!/{member}" if member else path)


def _spellings(ref: str) -> Sequence[str]:
    if "%" not in ref:
        return (ref,)
    return (ref, unquote(ref, errors="surrogateescape"))


def _rewritten(name: str) -> set[str]:
    """A name in the ways that programs write it."""
    found = set()
    for form in ("NFC", "NFD"):
        stem, dot, ending = unicodedata.normalize(form, name).rpartition(".")
        for one in (stem, stem.lower(), stem.upper(), stem.title(), stem.capitalize()):
            found |= {one + dot + each for each in (ending, ending.lower(), ending.upper())}
    return {name} | found
