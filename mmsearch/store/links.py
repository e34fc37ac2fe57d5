"""Which picture a text was written for: from the name in the text to a row of the catalog."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from mmsearch.store.schema import failure, image, source, text_

_TEXTS_A_CHUNK = 2000


@dataclass(frozen=True, slots=True)
class Linked:
    """How many texts found their picture now, and how many name one that is not there.

    What pictures carry themselves is linked too, but not counted.
    """

    linked: int
    unknown: int


@dataclass(frozen=True, slots=True)
class _Source:
    id: int
    folder: str  # with a trailing slash


def link_texts(connection: sa.Connection) -> Linked:
    """Links every text that names a picture and is not linked yet. The caller commits.

    A name is looked up beside the text's own file, then from the root of its source, then, if
    exactly one picture of the library has that file name, anywhere. What stays unknown is recorded
    as a failure of that text, which is searchable all the same.
    """
    sources = [
        _Source(row.id, _folder(row.location, row.kind).rstrip("/") + "/")
        for row in connection.execute(sa.select(source))
    ]
    folders = {s.id: s.folder for s in sources}
    # The innermost source first, so that a path belongs to the closest one.
    sources.sort(key=lambda s: -len(s.folder))
    linked = unknown = last = 0
    while True:
        rows = connection.execute(
            sa.select(text_)
            .where(text_.c.image_ref.is_not(None), text_.c.image_id.is_(None), text_.c.id > last)
            .order_by(text_.c.id)
            .limit(_TEXTS_A_CHUNK)
        ).all()
        if not rows:
            return Linked(linked, unknown)
        last = rows[-1].id
        found, reasons = _resolve(connection, rows, sources, folders)
        if found:
            connection.execute(
                sa.update(text_)
                .where(text_.c.id == sa.bindparam("t"))
                .values(image_id=sa.bindparam("i")),
                [{"t": text_id, "i": image_id} for text_id, image_id in found.items()],
            )
            connection.execute(
                sa.delete(failure).where(
                    failure.c.source_id == sa.bindparam("s"),
                    failure.c.path == sa.bindparam("p", type_=failure.c.path.type),
                    failure.c.member == "",
                    failure.c.key == sa.bindparam("k"),
                ),
                [{"s": r.source_id, "p": r.path, "k": r.key} for r in rows if r.id in found],
            )
        lost = [row for row in rows if row.id not in found]
        if lost:
            connection.execute(
                insert(failure).on_conflict_do_nothing(),
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
            )
        linked += sum(row.id in found and row.origin != "embedded" for row in rows)
        unknown += len(lost)


def _folder(location: str, kind: str) -> str:
    return location if kind == "folder" else os.path.dirname(location)  # noqa: PTH120


def _candidates(
    row: sa.Row[Any], sources: list[_Source], folders: dict[int, str]
) -> list[tuple[int, str, str]]:
    """Places the name may mean, best first: (source id, path in it, member)."""
    if row.origin == "embedded":
        return [(row.source_id, row.path, row.member)]
    root = folders[row.source_id]
    beside = os.path.dirname(os.path.join(root, row.path))  # noqa: PTH118, PTH120
    name = row.image_ref.replace("\\", "/") if os.sep == "/" else row.image_ref
    places = []
    for base in (beside, root):
        path = os.path.normpath(os.path.join(base, name))  # noqa: PTH118
        inside = next((s for s in sources if path.startswith(s.folder)), None)
        if inside is not None:
            places.append((inside.id, path[len(inside.folder) :], ""))
    return places


def _resolve(
    connection: sa.Connection,
    rows: Any,
    sources: list[_Source],
    folders: dict[int, str],
) -> tuple[dict[int, int], dict[int, str]]:
    """For a chunk of texts: text id → image row id, and for the others the reason."""
    places = {row.id: _candidates(row, sources, folders) for row in rows}
    wanted: dict[int, set[str]] = defaultdict(set)
    for candidates in places.values():
        for source_id, path, _ in candidates:
            wanted[source_id].add(path)
    known: dict[tuple[int, str, str], int] = {}
    for source_id, paths in wanted.items():
        for found in connection.execute(
            sa.select(image.c.id, image.c.path, image.c.member).where(
                image.c.source_id == source_id, image.c.path.in_(list(paths))
            )
        ):
            known[source_id, found.path, found.member] = found.id
    names = {row.id: row.image_ref.replace("\\", "/").rpartition("/")[2] for row in rows}
    same_name = {
        found.name: (found.id, found.n)
        for found in connection.execute(
            sa.select(
                image.c.name,
                sa.func.min(image.c.id).label("id"),
                sa.func.count(image.c.content_id.distinct()).label("n"),
            )
            .where(image.c.name.in_(list(set(names.values()))))
            .group_by(image.c.name)
        )
    }
    found_rows: dict[int, int] = {}
    reasons: dict[int, str] = {}
    for row in rows:
        hit = next((known[place] for place in places[row.id] if place in known), None)
        by_name, n = same_name.get(names[row.id], (None, 0))
        if hit is None and n == 1:
            hit = by_name
        if hit is not None:
            found_rows[row.id] = hit
        elif n > 1:
            reasons[row.id] = f"names the picture {row.image_ref!r}: {n} pictures are called that"
        else:
            reasons[row.id] = f"names the picture {row.image_ref!r}, which is not in the library"
    return found_rows, reasons
