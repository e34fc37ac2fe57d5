"""The doctor's look at the catalog: the file, its rows, its vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmsearch.doctor.finding import NEXT_RUN, Finding, mended
from mmsearch.errors import StoreError
from mmsearch.overview import (
    SpaceStatus,
)
from mmsearch.plaintext import counted
from mmsearch.store import Catalog
from mmsearch.store import engine as db
from mmsearch.store.check import CatalogCheck
from mmsearch.store.connect import is_damage
from mmsearch.store.mend import CatalogMender, examined

_EITHER = ("picture or text", "pictures and texts")


def check_file(path: Path, *, repair: bool) -> Finding:
    """Whether the database is sound; its own indexes are all that can be mended of it."""
    if path.stat().st_size == 0:  # who opens it, writes its head
        return _empty("catalog", path)
    try:
        with examined(path) as (check, mender):
            found = check.integrity()
            if not found:
                size = path.stat().st_size / 1e6
                return Finding("catalog", "ok", f"SQLite finds nothing wrong in its {size:,.1f} MB")
            if not all(" index " in f" {line} " for line in found):
                return _damaged(path, "; ".join(found[:3]))
            if repair:
                mender.rebuild_table_indexes()
                if left := check.integrity():
                    return _damaged(path, "; ".join(left[:3]))
            wrong = f"the database's own indexes are wrong ({found[0]})"
            return mended("catalog", wrong, "built anew", repair=repair)
    except StoreError as exc:
        if not is_damage(exc):
            return Finding("catalog", "problem", str(exc))
        return _damaged(path, str(getattr(exc.__cause__, "orig", exc.__cause__)))


def _empty(check: str, path: Path) -> Finding:
    return Finding(
        check,
        "problem",
        f"{path} is empty. It is left as it is: put a backup in its place, or delete it and index "
        "your folders again",
    )


def _damaged(path: Path, how: str) -> Finding:
    kept = sorted(file.name for file in path.parent.glob(f"{path.name}.*.bak"))
    old = f" (or {kept[-1]}, as it was before its migration)" if kept else ""
    return Finding(
        "catalog",
        "problem",
        f"{path} is damaged ({' '.join(how.split())}). It is left as it is: put a backup{old} in "
        "its place, or move it away and index your folders again",
    )


def check_schema(path: Path, *, repair: bool) -> Finding:
    """Whether this mmsearch can read the catalog; an older one is migrated, as by any command."""
    try:
        before = db.schema_version(path)
        if before is None:
            return _empty("schema", path)
        if repair:
            db.prepare(path)  # the lock is held
        else:
            db.bring_up_to_date(path, read_only=not db.writable(path))
        now = db.schema_version(path)
    except StoreError as exc:
        return Finding("schema", "problem", str(exc))
    if before != now:
        return Finding("schema", "ok", f"{now}, brought there from {before} just now")
    return Finding("schema", "ok", f"{now}, the newest that this mmsearch knows")


def check_rows(
    check: CatalogCheck, mender: CatalogMender, catalog: Catalog, *, repair: bool
) -> Iterator[Finding]:
    """Everything that the catalog says, against itself."""
    yield _links(check, mender, repair=repair)
    yield _spaces(check, mender, repair=repair)
    for status in catalog.spaces():
        yield _vectors(check, mender, catalog, status, repair=repair)
    yield _details(check, mender, repair=repair)
    yield _visible(check, mender, repair=repair)
    yield _words(check, mender, repair=repair)
    active = catalog.active_space()
    if active is not None:
        yield from _complete(check, mender, active[0], repair=repair)


def _links(check: CatalogCheck, mender: CatalogMender, *, repair: bool) -> Finding:
    found = check.dangling()
    if not found:
        return Finding("rows", "ok", "every row points to rows that are there")
    if repair:
        mender.drop_dangling()
    which = ", ".join(f"{n:,} {pair}" for pair, n in found.items())
    return mended(
        "rows",
        f"rows point to rows that are not there ({which})",
        f"removed; {NEXT_RUN} reads their files again",
        repair=repair,
    )


def _spaces(check: CatalogCheck, mender: CatalogMender, *, repair: bool) -> Finding:
    active, every = check.active_spaces()
    if active == min(1, every):
        return Finding("models", "ok", f"{every:,}, searches use {active}")
    if repair:
        mender.choose_active_space()
    return mended(
        "models",
        f"searches use {active} of {every}",
        "they use the one with most vectors",
        repair=repair,
    )


def _vectors(
    check: CatalogCheck,
    mender: CatalogMender,
    catalog: Catalog,
    status: SpaceStatus,
    *,
    repair: bool,
) -> Finding:
    space = status.space
    known = catalog.find_space(space.name, space.fingerprint)
    assert known is not None
    found = check.bad_vectors(known[0], space.dim)
    if not found.ids:
        return Finding(
            "vectors",
            "ok",
            f"{found.checked:,} of {space.name}: each {space.dim} finite numbers, of norm 1",
        )
    if repair:
        mender.forget(found.ids, known[0])
    kinds = (
        ("of another length", found.wrong_length),
        ("not finite", found.not_finite),
        ("not of norm 1", found.not_unit),
    )
    which = ", ".join(f"{len(ids):,} {kind}" for kind, ids in kinds if ids)
    return mended(
        "vectors",
        f"{len(found.ids):,} of {found.checked:,} of {space.name} are bad ({which})",
        f"removed; {NEXT_RUN} encodes them again",
        repair=repair,
    )


def _details(check: CatalogCheck, mender: CatalogMender, *, repair: bool) -> Finding:
    found = check.bare()
    if not found:
        return _told(check, mender, repair=repair)
    if repair:
        mender.forget(found)
    return mended(
        "details",
        f"{counted(len(found), *_EITHER)} without any",
        f"their vectors are removed; {NEXT_RUN} reads them again",
        repair=repair,
    )


def _told(check: CatalogCheck, mender: CatalogMender, *, repair: bool) -> Finding:
    wrong, triggers = check.unsettled()
    if not wrong and not triggers:
        return Finding("details", "ok", "there for every picture and text")
    if repair:
        mender.settle_details()
    faults = []
    if wrong:
        faults.append(f"{len(wrong):,} pictures have others than they or files beside them say")
    if triggers:
        faults.append(f"changes go unnoticed (no {', '.join(triggers)})")
    return mended("details", "; ".join(faults), "put together anew", repair=repair)


def _visible(check: CatalogCheck, mender: CatalogMender, *, repair: bool) -> Finding:
    hidden, shown = check.wrongly_hidden(), check.wrongly_shown()
    if not hidden and not shown:
        return Finding("visible", "ok", "what files hold, and nothing else")
    if repair:
        mender.recompute_hidden()
    return mended(
        "visible",
        f"{len(hidden):,} hidden that files hold, {len(shown):,} shown that none does",
        "set right",
        repair=repair,
    )


def _words(check: CatalogCheck, mender: CatalogMender, *, repair: bool) -> Finding:
    found = check.words()
    if not found:
        return Finding(
            "words", "ok", f"those of {counted(found.contents, *_EITHER)} are as their rows say"
        )
    if repair:
        mender.rebuild_words()
    faults = []
    if found.wrong:
        of = counted(found.wrong, *_EITHER)
        faults.append(f"those of {of} are others than their rows say")
    if found.indexes:
        faults.append(f"the index of {' and of '.join(found.indexes)} does not agree with its rows")
    if found.triggers:
        faults.append(f"changes go unnoticed (no {', '.join(found.triggers)})")
    return mended("words", "; ".join(faults), "built anew", repair=repair)


def _complete(
    check: CatalogCheck, mender: CatalogMender, space_id: int, *, repair: bool
) -> Iterator[Finding]:
    waiting, passed_over = check.unread(space_id)
    if passed_over:
        if repair:
            mender.forget(passed_over, space_id)
        yield mended(
            "complete",
            f"{counted(len(passed_over), *_EITHER)} without a vector, counted as read",
            f"they do not any more; {NEXT_RUN} encodes them",
            repair=repair,
        )
    if waiting:
        yield Finding(
            "complete",
            "note",
            f"{counted(waiting, *_EITHER)} not encoded yet; {NEXT_RUN} does that",
        )
    if not waiting and not passed_over:
        yield Finding("complete", "ok", "every picture and text has its vector")
