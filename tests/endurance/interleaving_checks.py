"""What a catalog must be at every moment, and what must be the same as in a clean library."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from mmsearch.library import Library

_HELD = " UNION ALL ".join(
    f"SELECT content_id FROM {table} WHERE missing_since IS NULL" for table in ("image", "text")
)
_PROBLEMS = {
    "hidden, yet held by a file": f"SELECT id FROM content WHERE hidden AND id IN ({_HELD})",
    "held by no file, yet not hidden": f"""
        SELECT id FROM content WHERE NOT hidden AND id NOT IN ({_HELD})""",
    "a link to a picture that is gone": """
        SELECT text.id FROM text JOIN image ON image.id = image_id
        WHERE image.missing_since IS NOT NULL AND text.missing_since IS NULL""",
    "details that a commit left stale": "SELECT content_id FROM details_stale",
    "two active spaces": "SELECT 1 FROM space WHERE active GROUP BY active HAVING count(*) > 1",
}
_UNANSWERED = """
    SELECT id FROM content WHERE NOT hidden AND id NOT IN
    (SELECT content_id FROM embedding JOIN space ON space.id = space_id WHERE active)"""


_DETAILS = """
    SELECT location, path, member, title, description, keywords, taken_at, latitude, longitude, told
    FROM image JOIN picture USING (content_id) JOIN source ON source.id = source_id
    WHERE missing_since IS NULL ORDER BY location, path, member"""


def _details(library: Path) -> list[str]:
    """What is known of every picture that is there, read with nothing of mmsearch."""
    with contextlib.closing(sqlite3.connect(library / "catalog.db")) as connection:
        connection.text_factory = bytes
        return [str(row) for row in connection.execute(_DETAILS)]


def problems(library: Path, *, finished: bool) -> list[str]:
    """What is wrong in a catalog, read with nothing of mmsearch. finished: no run is due."""
    path = library / "catalog.db"
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(path)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'state'").fetchall():
            return []
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
        found = [row for row in found if row != "ok"]
        found += [str(row) for row in connection.execute("PRAGMA foreign_key_check")]
        queries = _PROBLEMS | ({"without a vector": _UNANSWERED} if finished else {})
        for what, query in queries.items():
            found += [f"{what}: {row[0]}" for row in connection.execute(query)]
    return found


def vectors(library: Path) -> set[tuple[int, int]]:
    """The vectors that a catalog holds, by space and content."""
    path = library / "catalog.db"
    if not path.exists():
        return set()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        try:
            return set(connection.execute("SELECT space_id, content_id FROM embedding"))
        except sqlite3.OperationalError:
            return set()  # killed before the tables were made


def same_results(ours: list[dict[Any, float]], expected: list[dict[Any, float]]) -> None:
    """Fails when these are not the same results of the same queries."""
    for query, (mine, theirs) in enumerate(zip(ours, expected, strict=True)):
        only = sorted(map(str, mine.keys() - theirs.keys()))
        lacking = sorted(map(str, theirs.keys() - mine.keys()))
        difference = [f"only here: {what}" for what in only]
        difference += [f"only in a clean library: {what}" for what in lacking]
        assert not difference, f"query {query}: {difference}"
        scores = {str(w): (mine[w], theirs[w]) for w in mine if abs(mine[w] - theirs[w]) > 1e-3}
        assert not scores, f"{query}: scores {scores}"


def same_books(library: Path, clean: Path) -> None:
    """Fails unless sources, failures and counts are those of a clean library."""
    books = []
    for path in (library, clean):
        with Library(path, device="cpu") as opened:
            status = opened.status()
            books.append(
                {
                    "sources": [source.location for source in opened.sources()],
                    "failures": sorted((f.path, f.reason) for f in opened.failures()),
                    "counts": (status.images, status.texts, status.links, status.carried),
                    "details": _details(path),
                }
            )
    for what, ours in books[0].items():
        assert ours == books[1][what], f"{what}: {ours}, and in a clean library {books[1][what]}"
