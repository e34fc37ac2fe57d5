"""Which picture a text was written for: from the name in the text to a row of the catalog."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from mmsearch.batches import batches
from mmsearch.store.schema import failure, image, source, text_
from mmsearch.store.transaction import VALUES_A_QUERY, folder_of

_TEXTS_A_CHUNK = 2000


@dataclass(frozen=True, slots=True)
class Linked:
    """How many texts found their picture now, and how many name one that is not there.

    What pictures carry themselves is linked too, but not counted. changed: anything was written.
    """

    linked: int
    unknown: int
    changed: bool


class _Sources:
    """Which sources a path may lie in."""

    def __init__(self, connection: sa.Connection) -> None:
        rows = connection.execute(sa.select(source.c.id, source.c.location, source.c.kind)).all()
        self.roots = {row.id: _folder(row.location, row.kind) for row in rows}
        self._folders = {row.location: row.id for row in rows if row.kind == "folder"}
        self._files = {row.location: row.id for row in rows if row.kind != "folder"}

    def places(self, path: str) -> Iterator[tuple[int, str]]:
        """(source id, path in it) for an absolute path, the innermost source first."""
        if path in self._files:
            yield self._files[path], path.rpartition("/")[2]
        at = path.rfind("/")
        while at >= 0:
            folder = path[:at] or "/"
            if folder in self._folders:
                yield self._folders[folder], path[at + 1 :]
            at = path.rfind("/", 0, at)


def link_texts(connection: sa.Connection) -> Linked:
    """Links every text that names a picture and is not linked yet. The caller commits.

    What lies beside a picture is that picture's, as what it carries itself is. Any other name is
    looked up beside the text's own file, then from the root of its source, then, if exactly one
    picture of the library has that file name, anywhere. What stays unknown is recorded as a failure
    of that text, which is searchable all the same.
    """
    sources = _Sources(connection)
    linked = unknown = last = written = 0
    while True:
        rows = connection.execute(
            sa.select(text_)
            .where(text_.c.image_ref.is_not(None), text_.c.image_id.is_(None), text_.c.id > last)
            .where(text_.c.missing_since.is_(None))
            .order_by(text_.c.id)
            .limit(_TEXTS_A_CHUNK)
        ).all()
        if not rows:
            return Linked(linked, unknown, written > 0)
        last = rows[-1].id
        found, reasons = _resolve(connection, rows, sources)
        written += len(found)
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


def relink(connection: sa.Connection, names: Sequence[str]) -> None:
    """Looks anew for what texts mean that are linked to pictures with these file names.

    For when such pictures came or became others: a better place for the name may be taken now, or
    it may mean several pictures, and then none. In the same transaction, so that a kill leaves no
    link that a clean run would not make. When pictures go, the texts linked to them are unlinked,
    and all other links hold. The caller commits.
    """
    for part in batches(names, VALUES_A_QUERY):
        linked = connection.execute(
            _linked_from_afar(image.c.name.in_(part)).order_by(text_.c.id)
        ).all()
        sources = _Sources(connection) if linked else None
        for rows in batches(linked, _TEXTS_A_CHUNK):
            assert sources is not None
            found, _ = _resolve(connection, rows, sources)
            moved = [
                {"t": row.id, "i": found.get(row.id)}
                for row in rows
                if found.get(row.id) != row.image_id
            ]
            if moved:
                connection.execute(
                    sa.update(text_)
                    .where(text_.c.id == sa.bindparam("t"))
                    .values(image_id=sa.bindparam("i")),
                    moved,
                )


def unlink_from_afar(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    """The same for any number of pictures, or texts, left to link_texts at the end of the run.

    which: a condition on rows of `image` and the texts linked to them.
    """
    texts = _linked_from_afar(which).with_only_columns(text_.c.id)
    connection.execute(sa.update(text_).where(text_.c.id.in_(texts)).values(image_id=None))


def _linked_from_afar(which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Those linked texts of files, but for those that have their picture beside them.

    That place is the best there is, so nothing that comes changes their links.
    """
    beside = sa.and_(
        image.c.source_id == text_.c.source_id,
        image.c.path == folder_of(text_.c.path) + text_.c.image_ref,
        image.c.member == "",
    )
    return (
        sa.select(text_)
        .join(image, image.c.id == text_.c.image_id)
        .where(which, text_.c.origin == "file", ~beside)
    )


def _folder(location: str, kind: str) -> str:
    return location if kind == "folder" else os.path.dirname(location)  # noqa: PTH120


def _candidates(row: sa.Row[Any], sources: _Sources) -> list[tuple[int, str, str]]:
    """Places the name may mean, best first: (source id, path in it, member)."""
    if row.origin == "embedded":
        return [(row.source_id, row.path, row.member)]
    if row.origin == "sidecar":
        parent, slash, _ = row.path.rpartition("/")
        return [(row.source_id, parent + slash + row.image_ref, "")]
    root = sources.roots[row.source_id]
    beside = os.path.dirname(os.path.join(root, row.path))  # noqa: PTH118, PTH120
    name = row.image_ref.replace("\\", "/") if os.sep == "/" else row.image_ref
    places = []
    for base in (beside, root):
        path = os.path.normpath(os.path.join(base, name))  # noqa: PTH118
        places += [(source_id, inner, "") for source_id, inner in sources.places(path)]
    return places


def _resolve(
    connection: sa.Connection,
    rows: Any,
    sources: _Sources,
) -> tuple[dict[int, int], dict[int, str]]:
    """For a chunk of texts: text id → image row id, and for the others the reason."""
    places = {row.id: _candidates(row, sources) for row in rows}
    wanted: dict[int, set[str]] = defaultdict(set)
    for candidates in places.values():
        for source_id, path, _ in candidates:
            wanted[source_id].add(path)
    known: dict[tuple[int, str, str], int] = {}
    for source_id, paths in wanted.items():
        for found in connection.execute(
            sa.select(image.c.id, image.c.path, image.c.member).where(
                image.c.source_id == source_id,
                image.c.path.in_(list(paths)),
                image.c.missing_since.is_(None),
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
            .where(image.c.name.in_(list(set(names.values()))), image.c.missing_since.is_(None))
            .group_by(image.c.name)
        )
    }
    found_rows: dict[int, int] = {}
    reasons: dict[int, str] = {}
    for row in rows:
        hit = next((known[place] for place in places[row.id] if place in known), None)
        by_name, n = same_name.get(names[row.id], (None, 0))
        if hit is None and n == 1 and row.origin == "file":
            hit = by_name
        if hit is not None:
            found_rows[row.id] = hit
        elif n > 1 and row.origin == "file":
            reasons[row.id] = f"names the picture {row.image_ref!r}: {n} pictures are called that"
        else:
            reasons[row.id] = f"names the picture {row.image_ref!r}, which is not in the library"
    return found_rows, reasons
