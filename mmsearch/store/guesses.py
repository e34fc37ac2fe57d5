"""A picture for a text that names none at any place it may mean: the only one of that file name."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import sqlalchemy as sa

from mmsearch.batches import batches
from mmsearch.store.incoming import stage
from mmsearch.store.naming import Holder, Place, Sources, holder, is_bare, last_part
from mmsearch.store.schema import image
from mmsearch.store.transaction import VALUES_A_QUERY

#: The second column is the same as a file: an archive without its "!".
_KNOWN = (
    "SELECT p.n FROM incoming AS p WHERE EXISTS (SELECT 1 FROM image AS i "
    "WHERE i.source_id = p.source_id AND i.missing_since IS NULL "
    "AND i.folder >= p.path || '/' AND i.folder < p.path || '0') "
    "OR EXISTS (SELECT 1 FROM failure AS f WHERE f.source_id = p.source_id AND f.\"key\" = '' "
    "AND f.path >= p.path || '/' AND f.path < p.path || '0') "
    "OR EXISTS (SELECT 1 FROM failure AS f WHERE f.source_id = p.source_id AND f.\"key\" = '' "
    "AND f.path = p.member)"
)
_FAILED = (
    "SELECT p.n FROM incoming AS p CROSS JOIN failure AS f ON f.source_id = p.source_id "
    "AND f.path = p.path AND f.member = p.member AND f.\"key\" = ''"
)
_ANY_FAILED = "SELECT EXISTS (SELECT 1 FROM failure WHERE \"key\" = '')"
_INSIDE = (
    "SELECT p.n, min(i.id) FROM incoming AS p CROSS JOIN image AS i INDEXED BY ix_image_name "
    "ON i.name = p.member AND i.source_id = p.source_id WHERE i.missing_since IS NULL "
    "AND (p.path = '' OR (i.folder >= p.path || '/' AND i.folder < p.path || '0')) GROUP BY p.n"
)


def guess(
    connection: sa.Connection,
    rows: Sequence[Any],
    places: Mapping[int, Sequence[Place]],
    sources: Sources,
) -> tuple[dict[int, int], dict[int, str]]:
    """For texts of files: text id → image row id, and for the others the reason.

    places: text id → where the name may mean a picture, at none of which there is one. If one of
    them could not be read, that is the picture meant. If one lies in a folder or an archive that
    the library knows, no picture outside of it is: cameras give the same names again.
    """
    names = {row.id: last_part(row.image_ref) for row in rows}
    same_name = _of_name(connection, set(names.values()))
    if sources.any_failed is None:
        sources.any_failed = bool(connection.exec_driver_sql(_ANY_FAILED).scalar())
    failed = failed_at(connection, places) if sources.any_failed else set()
    single = {
        row.id
        for row in rows
        if row.id not in failed and same_name.get(names[row.id], (0, 0))[1] == 1
    }
    folders = {
        row.id: places[row.id] for row in rows if row.id in single and not is_bare(row.image_ref)
    }
    known = _known_holders(connection, folders, sources)
    inside = _inside(connection, {id_: (names[id_], each) for id_, each in known.items()})
    found: dict[int, int] = {}
    reasons: dict[int, str] = {}
    for row in rows:
        id_, n = same_name.get(names[row.id], (0, 0))
        named = f"names the picture {row.image_ref!r}"
        if row.id in failed:
            reasons[row.id] = f"{named}, which is not in the library: it could not be read"
        elif n > 1:
            reasons[row.id] = f"{named}: {n} pictures are called that"
        elif n == 0:
            reasons[row.id] = f"{named}, which is not in the library"
        elif row.id not in known:
            found[row.id] = id_
        elif row.id in inside:
            found[row.id] = inside[row.id]
        else:
            reasons[row.id] = (
                f"{named}, which is not in the library (one of that file name is, elsewhere)"
            )
    return found, reasons


def holders_of(places: Iterable[Place]) -> set[Holder]:
    """What lies around these places, as people may have written it: (source id, folder or archive).

    Not only letter by letter: file systems write an accent in two ways, and links have %20.
    """
    found = set()
    for place in places:
        folder = holder(place)
        found.add((place[0], folder))
        if "%" in folder:
            found.add((place[0], unquote(folder, errors="surrogateescape")))
        if not folder.isascii():
            found |= {(place[0], unicodedata.normalize(form, folder)) for form in ("NFC", "NFD")}
    return found


def known_of(connection: sa.Connection, holders: Collection[Holder]) -> set[Holder]:
    """Those of these folders and archives in or below which the library knows anything."""
    asked = list(holders)
    if not asked:
        return set()
    stage(connection, ((id_, path, path.removesuffix("!"), "", b"") for id_, path in asked))
    known = {asked[n] for n in connection.exec_driver_sql(_KNOWN).scalars()}
    # The top of a source is known with it.
    return known | {each for each in asked if not each[1]}


def _of_name(connection: sa.Connection, names: set[str]) -> dict[str, tuple[int, int]]:
    """File name → the first picture called that, and how many different ones are."""
    found: dict[str, tuple[int, int]] = {}
    for part in batches(names, VALUES_A_QUERY):
        for name, id_, n in connection.execute(
            sa.select(
                image.c.name, sa.func.min(image.c.id), sa.func.count(image.c.content_id.distinct())
            )
            .where(image.c.name.in_(part), image.c.missing_since.is_(None))
            .group_by(image.c.name)
        ).all():
            found[name] = (id_, n)
    return found


def failed_at(connection: sa.Connection, places: Mapping[int, Sequence[Place]]) -> set[int]:
    """The texts one of whose places could not be read."""
    owners = [text_id for text_id, each in places.items() for _ in each]
    if not owners:
        return set()
    stage(connection, ((*place, "", b"") for each in places.values() for place in each))
    return {owners[n] for n in connection.exec_driver_sql(_FAILED).scalars()}


def _known_holders(
    connection: sa.Connection, places: Mapping[int, Sequence[Place]], sources: Sources
) -> dict[int, list[Holder]]:
    """Text id → those folders and archives around its places that the library knows, if any."""
    around = {id_: holders_of(each) for id_, each in places.items()}
    known = sources.known
    asked = set().union(*around.values()).difference(known)
    yes = known_of(connection, asked)
    known |= {each: each in yes for each in asked}
    mine = {id_: [each for each in each_of if known[each]] for id_, each_of in around.items()}
    return {id_: holders for id_, holders in mine.items() if holders}


def _inside(
    connection: sa.Connection, wanted: Mapping[int, tuple[str, Sequence[Holder]]]
) -> dict[int, int]:
    """Text id → a picture of its file name below one of these folders or in these archives."""
    owners = [text_id for text_id, (_, holders) in wanted.items() for _ in holders]
    if not owners:
        return {}
    stage(
        connection,
        ((id_, path, name, "", b"") for name, holders in wanted.values() for id_, path in holders),
    )
    found: dict[int, int] = {}
    for n, image_id in sorted(map(tuple, connection.exec_driver_sql(_INSIDE).all())):
        found.setdefault(owners[n], image_id)
    return found
