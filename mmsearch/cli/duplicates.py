"""`mmsearch duplicates`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmsearch.cli.options import (
    condition_of,
    json_option,
    library_option,
    open_library,
    print_json,
    printable,
    said,
    where_option,
)
from mmsearch.filenames import real
from mmsearch.plaintext import counted
from mmsearch.types import ImageRecord

if TYPE_CHECKING:
    from mmsearch.duplicates import PixelCheck
    from mmsearch.filters import Filter
    from mmsearch.library import Library
    from mmsearch.types import Pixels


@dataclass(frozen=True, slots=True)
class _Group:
    """Pictures that are alike, the best first, with the cosine of each to it.

    Of the paths of one file (links) only one is there, that of the file itself if it is known.
    """

    pictures: tuple[ImageRecord, ...]
    similarities: tuple[float, ...]

    @property
    def files(self) -> int:
        return sum(1 + len(picture.copies) for picture in self.pictures)

    @property
    def beyond(self) -> int:
        """Bytes of all files but the best one."""
        total = sum((1 + len(picture.copies)) * picture.bytes for picture in self.pictures)
        return total - self.pictures[0].bytes

    def to_move(self) -> list[str]:
        """The files that may go, because a better one or a copy is there now and stays.

        Neither links nor members of archives, and never the only file that is there.
        """
        paths = (path for picture in self.pictures for path in (picture.path, *picture.copies))
        there = [path for path in paths if os.path.isfile(path)]  # noqa: PTH113 -- odd bytes
        return [path for path in there[1:] if not os.path.islink(path)]  # noqa: PTH114


@click.command()
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    help="The cosine similarity from which on pictures are near-duplicates.  "
    "[default: 0.94; 0.85 with --check-pixels]",
)
@click.option("--exact-only", is_flag=True, help="Only copies: files of the same bytes.")
@click.option(
    "--burst",
    "burst_s",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Pictures taken within so many seconds of each other need to be less alike.",
)
@click.option(
    "--burst-threshold",
    type=click.FloatRange(0, 1, min_open=True),
    help="The similarity that those need.  [default: 0.85]",
)
@click.option(
    "--check-pixels",
    is_flag=True,
    help="Confirm by the pixels of small versions: for models that confuse pictures. Reads files.",
)
@where_option("Only among what this filter lets through.", "-w")
@click.option("--limit", type=click.IntRange(1), help="Show at most so many groups.")
@click.option(
    "--paths",
    is_flag=True,
    help="Print the paths of all files but the best of each group; no links, nothing in archives.",
)
@click.option("-0", "null", is_flag=True, help="With --paths: separate them by NUL (xargs -0).")
@json_option
@library_option
def duplicates(
    threshold: float | None,
    exact_only: bool,
    burst_s: float | None,
    burst_threshold: float | None,
    check_pixels: bool,
    where: tuple[str, ...],
    limit: int | None,
    paths: bool,
    null: bool,
    as_json: bool,
    library: Path | None,
) -> None:
    """List copies and near-duplicates, in groups, the largest first. Nothing is ever deleted.

    The best picture of a group comes first: the one of most pixels, then of most bytes. Every other
    one is alike to it. A file and the links to it are one file. The stored vectors are compared; no
    picture is opened.

    \b
      mmsearch duplicates
      mmsearch duplicates --exact-only
      mmsearch duplicates --burst 5
      mmsearch duplicates --paths -0 | xargs -0 mv -n -t ~/to-look-at
    """
    from mmsearch.duplicates import (
        BURST_THRESHOLD,
        CHECKED_THRESHOLD,
        THRESHOLD,
        PixelCheck,
    )

    if null and not paths:
        raise click.UsageError("-0 goes with --paths")
    if paths and as_json:
        raise click.UsageError("--paths and --json exclude each other: leave one out")
    if exact_only and (alike := said("threshold", "burst_s", "burst_threshold", "check_pixels")):
        name = {"burst_s": "--burst"}.get(alike[0], f"--{alike[0].replace('_', '-')}")
        raise click.UsageError(f"{name} is for near-duplicates, and --exact-only leaves them out")
    if burst_threshold is not None and burst_s is None:
        raise click.UsageError("--burst-threshold goes with --burst")
    condition = condition_of(where)
    usual = CHECKED_THRESHOLD if check_pixels else THRESHOLD
    least = usual if threshold is None else threshold
    with open_library(library) as lib:
        check = PixelCheck(lambda id_: _small(lib, id_)) if check_pixels else None
        groups = _groups(
            lib, least, burst_s, burst_threshold or BURST_THRESHOLD, check, condition, exact_only
        )
    if check is not None and check.unread:
        click.echo(f"{counted(check.unread, 'picture')} could not be read, and left out", err=True)
    shown = groups[:limit]
    if as_json:
        print_json(
            {
                "threshold": None if exact_only else least,
                "burst_seconds": burst_s,
                "groups": [_document(group) for group in shown],
                "total_groups": len(groups),
                "total_files": sum(group.files for group in groups),
                "bytes_beyond_the_best": sum(group.beyond for group in groups),
            }
        )
    elif paths:
        end = b"\0" if null else b"\n"
        for group in shown:
            for path in group.to_move():
                sys.stdout.buffer.write(os.fsencode(path) + end)
        sys.stdout.buffer.flush()
    else:
        _print(shown, groups)


def _groups(
    lib: Library,
    threshold: float,
    burst_s: float | None,
    burst_threshold: float,
    check: PixelCheck | None,
    condition: Filter | None,
    exact_only: bool,
) -> list[_Group]:
    only = None if condition is None else lib.catalog.select(condition, "image")
    found: list[tuple[tuple[int, ...], tuple[float, ...]]] = []
    active = lib.catalog.active_space()
    if not exact_only and active is not None:
        from mmsearch.duplicates import find

        found = [
            (group.ids, group.similarities)
            for group in find(
                lib.catalog,
                active[0],
                threshold=threshold,
                burst_s=burst_s,
                burst_threshold=burst_threshold,
                confirm=check,
                only=only,
            )
        ]
    met = {id_ for ids, _ in found for id_ in ids}
    allowed = None if only is None else set(only.tolist())
    found += [
        ((id_,), (1.0,))
        for id_ in lib.catalog.sizes.copied()
        if id_ not in met and (allowed is None or id_ in allowed)
    ]
    records = lib.catalog.image_records([id_ for ids, _ in found for id_ in ids])
    groups = []
    for ids, similarities in found:
        # What was hidden meanwhile has no record.
        there = [(records[i], s) for i, s in zip(ids, similarities, strict=True) if i in records]
        group = _without_links(there)
        if group.files > 1:
            groups.append(group)
    return sorted(groups, key=lambda group: (-group.files, -group.beyond, group.pictures[0].id))


def _without_links(pictures: Sequence[tuple[ImageRecord, float]]) -> _Group:
    """The group of these pictures and cosines, with one path for each file.

    Links, also hard ones, and folders read with --follow-links give a file several: who moves "the
    copy" away would be left with a link to nothing.
    """
    met: set[tuple[int, int]] = set()
    kept = []
    for picture, similarity in pictures:
        paths = []
        for path in sorted((picture.path, *picture.copies), key=_remoteness):
            try:
                info = os.stat(path)  # noqa: PTH116 -- str paths keep odd bytes
            except OSError:
                paths.append(path)  # a member of an archive, or not there now
                continue
            if (info.st_dev, info.st_ino) not in met:
                met.add((info.st_dev, info.st_ino))
                paths.append(path)
        if paths:
            kept.append((replace(picture, path=paths[0], copies=tuple(paths[1:])), similarity))
    return _Group(tuple(p for p, _ in kept), tuple(s for _, s in kept))


def _remoteness(path: str) -> int:
    """0 for a file by its own name, 1 for one behind a link, 2 for what is no file now."""
    if not os.path.isfile(path):  # noqa: PTH113
        return 2
    return int(real(path) != path)


def _small(lib: Library, id_: int) -> Pixels | None:
    """The pixels of a picture's thumbnail; None where its file cannot be read."""
    from mmsearch.decode import decode
    from mmsearch.errors import MmsearchError
    from mmsearch.types import DEFAULT_LIMITS

    try:
        thumbnail = lib.thumbnail(id_, 256)
        return decode(thumbnail, source=str(id_), limits=DEFAULT_LIMITS, min_side=16).pixels
    except MmsearchError:
        return None


def _document(group: _Group) -> dict[str, Any]:
    return {
        "files": group.files,
        "bytes_beyond_the_best": group.beyond,
        "pictures": [
            {
                "id": picture.id,
                "similarity": round(similarity, 6),
                "path": picture.path,
                "copies": list(picture.copies),
                "width": picture.info.width,
                "height": picture.info.height,
                "bytes": picture.bytes,
                "taken_at": picture.info.taken_at.isoformat() if picture.info.taken_at else None,
            }
            for picture, similarity in zip(group.pictures, group.similarities, strict=True)
        ],
    }


def _print(shown: Sequence[_Group], groups: Sequence[_Group]) -> None:
    if not groups:
        click.echo("No duplicates were found.", err=True)
        return
    for group in shown:
        click.echo(f"{counted(group.files, 'file')}, {_megabytes(group.beyond)} beyond the best")
        for picture, similarity in zip(group.pictures, group.similarities, strict=True):
            facts = f"{picture.info.width}×{picture.info.height}, {_megabytes(picture.bytes)}"
            click.echo(f"  {similarity:.3f}  {printable(_short(picture.path))}  ({facts})")
            for copy in picture.copies:
                click.echo(f"   copy  {printable(_short(copy))}")
    hidden = len(groups) - len(shown)
    files, beyond = sum(g.files for g in groups), sum(g.beyond for g in groups)
    click.echo(
        f"{counted(len(groups), 'group')}, {counted(files, 'file')}, "
        f"{_megabytes(beyond)} beyond the best of each"
        + (f" ({hidden:,} of the groups not shown)" if hidden else ""),
        err=True,
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.1f} kB"


def _short(path: str) -> str:
    """Relative to the current folder when the picture lies in it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (ValueError, FileNotFoundError):
        return path
