"""From what the user names to sources and the parts of them to scan."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from indexer.ignore import placed
from indexer.sources import (
    IGNORED_NAMES,
    FileEntry,
    Sights,
    Unreadable,
    covering,
    entry_for,
    kind_of,
    scan,
)
from mmsearch.errors import SourceError
from mmsearch.filenames import joined, real, relative
from mmsearch.overview import (
    ScanProblem,
    SourcePlace,
)


@dataclass(frozen=True, slots=True)
class Target:
    """A source, or a part of one, to bring up to date.

    location: absolute path of the source. under: the part, relative to it ("" is all of it).
    read_at: when it was last read as a whole; UTC, without a zone. excluded_before: what `exclude`
    was so far; None for a new source.
    """

    location: str
    kind: str
    under: str = ""
    exclude: tuple[str, ...] = ()
    follow_links: bool = False
    read_at: datetime | None = None
    excluded_before: tuple[str, ...] | None = None

    @property
    def folder(self) -> str:
        """What the paths of the source's files are relative to."""
        return self.location if self.kind == "folder" else os.path.dirname(self.location)  # noqa: PTH120

    def absolute(self, path: str) -> str:
        return joined(self.folder, path)

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

    def is_left_out(self) -> bool:
        """Whether this part is read only because it was named: patterns leave it out otherwise."""
        if not self.under or not os.path.lexists(self.absolute(self.under)):
            return False
        met = covering(
            self.location,
            self.absolute(self.under),
            exclude=self.exclude,
            follow_links=self.follow_links,
        )
        return met is None

    def scan(
        self, skip: Path, sights: Sights, unreadable: Unreadable
    ) -> Iterator[FileEntry | ScanProblem]:
        """The files of the target; `skip` is a folder not to enter, the others as in `scan`."""
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
            unreadable=unreadable,
        )


def check_path(path: Path) -> None:
    """Raises SourceError when there is nothing at `path`."""
    if not path.exists():
        raise SourceError(str(path), "there is no such file or folder")


def find_targets(
    known: Sequence[SourcePlace],
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

    exclude: replaces the patterns of sources; of a folder in one, it is added to the source's, for
        that folder only.
    library: its own folder, which no scan of a folder around it enters: what lies in there (such
        as what was uploaded) is a source of its own.

    Raises:
        SourceError: a path is not there.
    """
    own = None if library is None else real(library)
    patterns = {source.location: source.exclude for source in known}
    if not paths and not captions:
        if exclude:
            patterns |= {s.location: _own(exclude) for s in known if s.kind == "folder"}
        return _with_patterns([_known(source, follow_links) for source in known], known, patterns)
    targets: dict[tuple[str, str], Target] = {}
    folders = {s.location: s for s in known if s.kind == "folder"}
    named: list[tuple[Path, bool]] = [(p, False) for p in paths] + [(p, True) for p in captions]
    for path, is_captions in named:
        check_path(path)
        absolute = real(path)
        around = [*folders, *(t.location for t in targets.values())]
        if own is not None and is_within(absolute, own):
            around = [folder for folder in around if is_within(folder, own)]
        inside = _innermost(around, absolute)
        is_folder = path.is_dir()
        if is_captions and is_folder:
            raise SourceError(str(path), "--captions takes a file; give folders without it")
        if not is_folder and isinstance(problem := entry_for(path), ScanProblem):
            raise SourceError(str(path), problem.reason)
        if inside is not None and _is_found_in(inside, absolute, is_folder):
            if (inside, "") in targets:
                continue
            under = relative(absolute, inside)
            target = replace(_known(folders[inside], follow_links), under=under)
        else:
            kind = "folder" if is_folder else "file"
            target = Target(absolute, kind, follow_links=bool(follow_links))
            if (absolute, "") in targets:
                continue
        targets[target.location, target.under] = target
        if exclude and is_folder:
            kept = patterns.get(target.location, ())
            patterns[target.location] = (
                _joined(kept, exclude, target.under) if target.under else _own(exclude)
            )
    return _with_patterns(targets.values(), known, patterns)


def parts_of(known: Sequence[SourcePlace], parts: Mapping[str, Sequence[str]]) -> list[Target]:
    """The targets that are parts of sources: location of a source → paths below it ("": all).

    A source that the library no longer has is passed over; of a path that is gone, the nearest
    folder above it that is there is taken.
    """
    targets: dict[tuple[str, str], Target] = {}
    for source in known:
        whole = _known(source, None)
        for path in parts.get(source.location, ()):
            under = path if source.kind == "folder" else ""
            while under and not os.path.isdir(whole.absolute(under)):  # noqa: PTH112
                under = under.rpartition("/")[0]
            targets[source.location, under] = replace(whole, under=under)
    return _with_patterns(
        [t for t in targets.values() if not t.under or (t.location, "") not in targets],
        known,
        {source.location: source.exclude for source in known},
    )


def _known(source: SourcePlace, follow_links: bool | None) -> Target:
    """The whole of a source, with its own patterns."""
    return Target(
        source.location,
        source.kind,
        exclude=source.exclude,
        follow_links=source.follow_links if follow_links is None else follow_links,
        read_at=source.indexed_at,
        excluded_before=source.exclude,
    )


def _own(exclude: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns that a source is given; an empty one, alone, stands for none."""
    return tuple(pattern for pattern in exclude if pattern)


def _joined(kept: tuple[str, ...], added: Sequence[str], folder: str) -> tuple[str, ...]:
    """The patterns of a source and those of a folder in it, which have the last word there."""
    found = (placed(pattern, folder) for pattern in added)
    new = tuple(dict.fromkeys(pattern for pattern in found if pattern is not None))
    return *(pattern for pattern in kept if pattern not in new), *new


def _with_patterns(
    targets: Iterable[Target],
    known: Sequence[SourcePlace],
    patterns: Mapping[str, tuple[str, ...]],
) -> list[Target]:
    """The targets with these patterns (location → of the source), and those of what they adopt.

    Sources inside a folder become part of it once its scan meets their files. It must not read what
    they leave out even then, so it has their patterns before.
    """
    return [replace(t, exclude=_with_inner(t, known, patterns)) for t in targets]


def _with_inner(
    target: Target, known: Sequence[SourcePlace], patterns: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    exclude = patterns.get(target.location, ())
    if target.kind == "file":
        return exclude
    for inner in known:
        theirs = patterns.get(inner.location, ())
        if not theirs or inner.kind == "file" or inner.location == target.location:
            continue
        if not is_within(inner.location, target.location):
            continue
        met = covering(
            target.location, inner.location, exclude=exclude, follow_links=target.follow_links
        )
        if met is not None:
            place = relative(inner.location, target.location)
            exclude = _joined(exclude, theirs, place)
    return exclude


def _is_found_in(folder: str, path: str, is_folder: bool) -> bool:
    """Whether a scan of the folder comes upon the path by itself; else it is a source of its own.

    The folder's patterns are not asked: what they exclude is read when it is named, and only then.
    """
    parts = relative(path, folder).split("/")
    hidden = any(p.startswith(".") or p.lower() in IGNORED_NAMES for p in parts)
    return not hidden and (is_folder or kind_of(parts[-1]) is not None)


def _innermost(folders: Sequence[str], path: str) -> str | None:
    return max((f for f in folders if is_within(path, f)), key=len, default=None)


def is_within(path: str, folder: str) -> bool:
    """Whether a path is a folder's own, or of something in it; in "" lies every relative path."""
    return not folder or path == folder or path.startswith(folder.rstrip("/") + "/")
