"""From what the user names to sources and the parts of them to scan."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from indexer.sources import IGNORED_NAMES, FileEntry, Sights, entry_for, kind_of, scan
from mmsearch.errors import SourceError
from mmsearch.overview import (
    ScanProblem,
    SourceRecord,
)


@dataclass(frozen=True, slots=True)
class Target:
    """A source, or a part of one, to bring up to date.

    location: absolute path of the source. under: the part, relative to it ("" is all of it).
    read_at: when it was last read as a whole; UTC, without a zone.
    """

    location: str
    kind: str
    under: str = ""
    exclude: tuple[str, ...] = ()
    follow_links: bool = False
    read_at: datetime | None = None

    @property
    def folder(self) -> str:
        """What the paths of the source's files are relative to."""
        return self.location if self.kind == "folder" else os.path.dirname(self.location)  # noqa: PTH120

    def absolute(self, path: str) -> str:
        return os.path.join(self.folder, path)  # noqa: PTH118 -- names with surrogates, by the million

    def is_there(self) -> bool:
        """Whether the source can be reached: of a file that is gone, its folder and what else."""
        if os.path.exists(self.location):  # noqa: PTH110
            return True
        if self.kind != "file":
            return False
        try:
            with os.scandir(self.folder) as others:
                # An empty folder is what remains of a drive that was unplugged.
                return any(True for _ in others)
        except OSError:
            return False

    def is_out_of_reach(self) -> bool:
        """Whether a part was not found where its source is, or not because that is not there.

        So it is when the drive goes between the choice of the part and the end of its scan.
        """
        if not self.under:
            return False
        try:
            with os.scandir(self.location) as entries:
                return next(entries, None) is None or not os.path.lexists(self.absolute(self.under))
        except OSError:
            return True

    def scan(self, skip: Path, sights: Sights | None = None) -> Iterator[FileEntry | ScanProblem]:
        """The files of the target; `skip` is a folder not to enter, `sights` as in `scan`."""
        if self.kind == "file":
            gone = not os.path.lexists(self.location)
            return iter([] if gone else [entry_for(Path(self.location))])
        return scan(
            Path(self.location),
            exclude=self.exclude,
            follow_links=self.follow_links,
            skip=skip,
            under=self.under,
            sights=sights,
        )


def check_path(path: Path) -> None:
    """Raises SourceError when there is nothing at `path`."""
    if not path.exists():
        raise SourceError(str(path), "there is no such file or folder")


def find_targets(
    known: Sequence[SourceRecord],
    paths: Sequence[Path],
    captions: Sequence[Path],
    *,
    exclude: tuple[str, ...] = (),
    follow_links: bool | None = None,
    library: Path | None = None,
) -> list[Target]:
    """The targets that the user's paths mean; without any, every source of the library.

    A path inside a folder that is a source already is a part of that source. Options that are not
    given stay as the source has them.

    library: its own folder, which no scan of a folder around it enters: what lies in there (such
        as what was uploaded) is a source of its own.

    Raises:
        SourceError: a path is not there.
    """
    own = None if library is None else os.path.realpath(library)
    if not paths and not captions:
        return [_known(source, exclude, follow_links) for source in known]
    targets: dict[tuple[str, str], Target] = {}
    folders = {s.location: s for s in known if s.kind == "folder"}
    named: list[tuple[Path, bool]] = [(p, False) for p in paths] + [(p, True) for p in captions]
    for path, is_captions in named:
        check_path(path)
        absolute = os.path.realpath(path)
        around = [*folders, *(t.location for t in targets.values())]
        if own is not None and _is_within(absolute, own):
            around = [folder for folder in around if _is_within(folder, own)]
        inside = _innermost(around, absolute)
        is_folder = path.is_dir()
        if is_captions and is_folder:
            raise SourceError(str(path), "--captions takes a file; give folders without it")
        if not is_folder and isinstance(problem := entry_for(path), ScanProblem):
            raise SourceError(str(path), problem.reason)
        if inside is not None and _is_found_in(inside, absolute, is_folder):
            base = folders.get(inside)
            options = *_options(base, exclude, follow_links), base.indexed_at if base else None
            under = os.path.relpath(absolute, inside)
            under = "" if under == "." else under.replace(os.sep, "/")
            target = Target(inside, "folder", under, *options)
        else:
            kind = "folder" if is_folder else "file"
            target = Target(absolute, kind, "", exclude, bool(follow_links))
        covering = targets.get((target.location, ""))
        if covering is None:
            targets[target.location, target.under] = target
    return list(targets.values())


def parts_of(known: Sequence[SourceRecord], parts: Mapping[str, Sequence[str]]) -> list[Target]:
    """The targets that are parts of sources: location of a source → paths below it ("": all).

    A source that the library no longer has is passed over; of a path that is gone, the nearest
    folder above it that is there is taken.
    """
    targets: dict[tuple[str, str], Target] = {}
    for source in known:
        whole = _known(source, (), None)
        for path in parts.get(source.location, ()):
            under = path if source.kind == "folder" else ""
            while under and not os.path.isdir(whole.absolute(under)):  # noqa: PTH112
                under = under.rpartition("/")[0]
            targets[source.location, under] = replace(whole, under=under)
    return [t for t in targets.values() if not t.under or (t.location, "") not in targets]


def _options(
    source: SourceRecord | None, exclude: tuple[str, ...], follow_links: bool | None
) -> tuple[tuple[str, ...], bool]:
    kept = source.exclude if source is not None else ()
    links = source.follow_links if source is not None else False
    return exclude or kept, links if follow_links is None else follow_links


def _known(source: SourceRecord, exclude: tuple[str, ...], follow_links: bool | None) -> Target:
    options = _options(source, exclude, follow_links)
    return Target(source.location, source.kind, "", *options, source.indexed_at)


def _is_found_in(folder: str, path: str, is_folder: bool) -> bool:
    """Whether a scan of the folder comes upon the path by itself; else it is a source of its own.

    The folder's patterns are not asked: what they exclude is read when it is named, and only then.
    """
    parts = Path(os.path.relpath(path, folder)).parts or ("",)
    hidden = any(p.startswith(".") or p.lower() in IGNORED_NAMES for p in parts)
    return not hidden and (is_folder or kind_of(parts[-1]) is not None)


def _innermost(folders: Sequence[str], path: str) -> str | None:
    return max((f for f in folders if _is_within(path, f)), key=len, default=None)


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
