"""Which picture a text was written for: from the name in the text to a row of the catalog."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from mmsearch.batches import batches
from mmsearch.store.alike import find_alike, unlink_alike
from mmsearch.store.claims import claims_of, claims_on, forget_claims
from mmsearch.store.guesses import guess, known_of
from mmsearch.store.incoming import images_at, stage
from mmsearch.store.naming import Holder, Place, Sources, all_holders, beside, from_root
from mmsearch.store.schema import failure, image, stored_path, text_
from mmsearch.store.transaction import folder_of, run_many

_TEXTS_A_CHUNK = 2000
#: Texts that are looked for together where that means to look at every picture.
_TEXTS_A_PASS = 100_000


@dataclass(frozen=True, slots=True)
class Linked:
    """How many texts found their picture now, and how many name one that is not there.

    What pictures carry themselves is linked too, but not counted. changed: anything was written.
    """

    linked: int
    unknown: int
    changed: bool


#: What of a text tells which picture it means.
_TEXTS = sa.select(
    text_.c.id,
    text_.c.source_id,
    text_.c.path,
    text_.c.member,
    text_.c.key,
    text_.c.origin,
    text_.c.image_ref,
    text_.c.image_id,
)
_LINK = "UPDATE text SET image_id = ? WHERE id = ?"
#: Texts of files that are linked to pictures whose names were staged as paths.
_LINKED = (
    "SELECT t.id FROM incoming AS p CROSS JOIN image AS i ON i.name = p.path "
    "CROSS JOIN text AS t ON t.image_id = i.id WHERE t.origin = 'file'"
)
_FORGET_FAILURE = (
    "DELETE FROM failure WHERE source_id = ? AND path = ? AND member = '' AND \"key\" = ?"
)
#: Whether any text came from a file of texts: remembered by the connection, the only one to write.
_OF_FILES = "texts of files"


def link_texts(connection: sa.Connection) -> Linked:
    """Links every text that names a picture and is not linked yet. The caller commits.

    What lies beside a picture is that picture's, as what it carries itself is. Any other name is
    looked up beside the text's own file, then from the root of its source, then, if exactly one
    picture of the library has that file name, anywhere (see `guess`), and at last without regard
    to letter case and the like (see `find_alike`). What stays unknown is recorded as a failure of
    that text, which is searchable all the same.
    """
    sources = Sources(connection)
    linked = unknown = last = written = 0
    while True:
        rows = _unlinked(connection, last, _TEXTS_A_CHUNK)
        if not rows:
            break
        last = rows[-1].id
        found, reasons = _resolve(connection, rows, sources)
        written += len(found)
        _write(connection, rows, found)
        lost = [row for row in rows if row.id not in found]
        if lost:
            statement = insert(failure)
            new_reason = statement.excluded.reason
            written += connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["source_id", "path", "member", "key"],
                    set_={"reason": new_reason, "at": statement.excluded.at},
                    where=failure.c.reason != new_reason,
                ),
                [
                    {
                        "source_id": row.source_id,
                        "path": row.path,
                        "member": row.member,
                        "key": row.key,
                        "size": 0,
                        "mtime_ns": 0,
                        "reason": reasons[row.id],
                        "transient": True,
                        "at": datetime.now(UTC).replace(tzinfo=None),
                    }
                    for row in lost
                ],
            ).rowcount
        linked += sum(row.id in found and row.origin != "embedded" for row in rows)
        unknown += len(lost)
    alike = _link_alike(connection, sources) if unknown else 0
    return Linked(linked + alike, unknown - alike, written + alike > 0)


def _link_alike(connection: sa.Connection, sources: Sources) -> int:
    """Links what is left by names that are only alike; returns how many texts."""
    last = linked = 0
    while rows := _unlinked(connection, last, _TEXTS_A_PASS):
        last = rows[-1].id
        rows = [row for row in rows if row.origin == "file"]
        found = find_alike(connection, rows, sources)
        _write(connection, rows, found)
        linked += len(found)
    return linked


def _unlinked(connection: sa.Connection, last: int, most: int) -> Sequence[Any]:
    """The next texts after one that name a picture and have none."""
    return connection.execute(
        _TEXTS.where(text_.c.image_ref.is_not(None), text_.c.image_id.is_(None), text_.c.id > last)
        .where(text_.c.missing_since.is_(None))
        .order_by(text_.c.id)
        .limit(most)
    ).all()


def _write(connection: sa.Connection, rows: Sequence[Any], found: dict[int, int]) -> None:
    """Links texts to the pictures found for them."""
    if not found:
        return
    mine = [row for row in rows if row.id in found]
    if any("/" in row.image_ref or "\\" in row.image_ref for row in mine):
        forget_claims(connection)
    run_many(connection, _LINK, [(image_id, id_) for id_, image_id in found.items()])
    if connection.scalar(sa.select(sa.exists(sa.select(failure.c.id)))):
        keys = [(row.source_id, stored_path(row.path), row.key) for row in mine]
        run_many(connection, _FORGET_FAILURE, keys)


def news(
    connection: sa.Connection, places: Iterable[Place], *, failed: bool = False
) -> set[Holder]:
    """The folders and archives that the library knows once there are pictures at these places, or
    what could not be used (`failed`).

    Of interest to `relink` alone: nothing where no texts are linked that it could find.
    """
    if not _any_of_files(connection):
        return set()
    around = {each for place in places for each in all_holders(place, failed=failed)}
    return around - known_of(connection, around)


def relink(connection: sa.Connection, places: Sequence[Place], new: Collection[Holder]) -> None:
    """Looks anew for what texts mean that may mean a picture at one of these places.

    For when pictures there came, became others or could not be read: a better place for the name
    may be taken now, or it may mean several pictures, and then none; or it is known now (`new`, as
    `news` said before) that they mean none outside of a folder. In the same transaction, so that a
    kill leaves no link that a clean run would not make. When pictures go, the texts linked to them
    are unlinked, and all other links hold. The caller commits.
    """
    if not places or not _any_of_files(connection):
        return
    unlink_guessed(connection, new)
    names = sorted({(member or path).rpartition("/")[2] for _, path, member in places})
    unlink_alike(connection, names)
    stage(connection, ((0, name, "", "", b"") for name in names))
    linked = connection.exec_driver_sql(_LINKED).scalars().all()
    sources = Sources(connection) if linked else None
    for part in batches(sorted(set(linked)), _TEXTS_A_CHUNK):
        assert sources is not None
        rows = connection.execute(_linked_from_afar(text_.c.id.in_(part))).all()
        found, _ = _resolve(connection, rows, sources)
        moved = [(found.get(row.id), row.id) for row in rows if found.get(row.id) != row.image_id]
        run_many(connection, _LINK, moved)


def note_texts_of_files(connection: sa.Connection, any_: bool) -> None:
    """Remembers that texts of files came: the only ones that `relink` has to look for."""
    if any_:
        connection.info[_OF_FILES] = True


def _any_of_files(connection: sa.Connection) -> bool:
    if _OF_FILES not in connection.info:
        there = sa.select(sa.exists(sa.select(text_.c.id).where(text_.c.origin == "file")))
        connection.info[_OF_FILES] = bool(connection.scalar(there))
    return bool(connection.info[_OF_FILES])


def unlink_from_afar(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    """The same for any number of pictures, or texts, left to link_texts at the end of the run.

    which: a condition on rows of `image` and the texts linked to them.
    """
    texts = _linked_from_afar(which).with_only_columns(text_.c.id)
    connection.execute(sa.update(text_).where(text_.c.id.in_(texts)).values(image_id=None))


def unlink_guessed(connection: sa.Connection, new: Collection[Holder] | None = None) -> None:
    """The same for texts that name one of these folders and were linked to a picture outside of it.

    None: for all such, since sources move.
    """
    if new is None:
        claims_of(connection).unlink_all(connection)
        forget_claims(connection)
    elif new:
        claims_on(connection, new).unlink(connection, new)


def _linked_from_afar(which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Those linked texts of files, but for those that have their picture beside them.

    That place is the best there is, so nothing that comes changes their links.
    """
    beside = sa.and_(
        image.c.source_id == text_.c.source_id,
        image.c.path == folder_of(text_.c.path) + text_.c.image_ref,
        image.c.member == "",
    )
    return _TEXTS.join(image, image.c.id == text_.c.image_id).where(
        which, text_.c.origin == "file", ~beside
    )


def _resolve(
    connection: sa.Connection, rows: Sequence[Any], sources: Sources
) -> tuple[dict[int, int], dict[int, str]]:
    """For a chunk of texts: text id → image row id, and for the others the reason."""
    places = {row.id: beside(row, sources) for row in rows}
    found = _at(connection, list(places.items()))
    left = [row for row in rows if row.id not in found and row.origin == "file"]
    roots = [(row.id, from_root(row, sources)) for row in left]
    found |= _at(connection, roots)
    left = [row for row in left if row.id not in found]
    meant = {id_: places[id_] + more for id_, more in roots if id_ not in found}
    guessed, reasons = guess(connection, left, meant, sources) if left else ({}, {})
    found |= guessed
    for row in rows:
        if row.id not in found and row.id not in reasons:
            reasons[row.id] = f"names the picture {row.image_ref!r}, which is not in the library"
    return found, reasons


def _at(connection: sa.Connection, wanted: Sequence[tuple[int, list[Place]]]) -> dict[int, int]:
    """Text id → the first of its places (source id, path, member) where there is a picture."""
    owners = [text_id for text_id, places in wanted for _ in places]
    if not owners:
        return {}
    stage(connection, ((*place, "", b"") for _, places in wanted for place in places))
    found: dict[int, int] = {}
    for n, image_id in sorted(images_at(connection).items()):
        found.setdefault(owners[n], image_id)
    return found
