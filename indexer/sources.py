"""Walk a folder: which pictures, archives, caption files and sidecars are in it.

Names only, and what stat says: no file is opened (but for .mmsearchignore).
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from indexer import beside
from indexer.ignore import IGNORE_FILE, Rule, excluded, of_file, rules_of
from indexer.texts import is_caption_file, sidecar_for
from mmsearch.archive import is_archive
from mmsearch.decode import IMAGE_SUFFIXES
from mmsearch.errors import SourceError, os_reason
from mmsearch.filenames import real, relative
from mmsearch.filetimes import modified_ns
from mmsearch.overview import (
    ScanProblem,
)
from mmsearch.raw import Developed, is_raw_name

Kind = Literal["image", "archive", "texts", "sidecar"]

#: Why a link is passed over that `follow_links` would read.
LINK = "a symbolic link, and links are not followed"

# What operating systems, network drives and photo programs leave beside people's files; lower case.
IGNORED_NAMES = frozenset({
    "@eadir", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "recycler", "__macosx",
    "lost+found", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini",
    "ipod photo cache", "node_modules", "__pycache__",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file to index. `path` is relative to the root, '/'-separated, undecodable bytes kept
    (surrogateescape); `of` is the path of the picture that a sidecar describes; `beside` notes what
    lies beside a picture (`indexer.beside`), None where that could not be looked at."""

    path: str
    size: int
    mtime_ns: int
    kind: Kind
    of: str | None = None
    beside: str | None = beside.NONE


@dataclass(slots=True)
class Sights:
    """What a walk met besides what it gives; complete once the walk has come to its end.

    any_file: whether any visible file lies there, of whatever kind, excluded or not.
    empty: each folder in which nothing visible lies, the root excepted: its path, and when
        something last came or went there (its ctime, which nobody can set), in ns.
    developed: how many raw files were passed over since the same picture lies beside them.
    """

    any_file: bool = False
    empty: list[tuple[str, int]] = field(default_factory=list)
    developed: int = 0


#: Whether the file of this path, size in bytes and mtime in ns is known as unreadable.
Unreadable = Callable[[str, int, int], bool]


def _nothing(_path: str, _size: int, _mtime_ns: int) -> bool:
    return False


def scan(
    root: Path,
    *,
    exclude: Sequence[str] = (),
    follow_links: bool = False,
    skip: Path | None = None,
    under: str = "",
    sights: Sights | None = None,
    unreadable: Unreadable = _nothing,
) -> Iterator[FileEntry | ScanProblem]:
    """Walk `root`: in each folder the files by name, then its folders by name.

    exclude: patterns as in .gitignore, read without case: "*.png" matches names, "2019/raw*" paths
        below the root ("*" stays within a name, "**" is any folders), "old/" folders only,
        "!keep.png" takes back what an earlier one excluded. A file .mmsearchignore holds such lines
        for its folder and those below. Hidden files and folders and IGNORED_NAMES are never read.
    follow_links: symbolic links are read as what they point to, wherever that is, linked folders
        after all others; a folder that was read before is not read again, so loops end. Otherwise
        links to pictures and folders are ScanProblems.
    skip: a folder not to descend into (the library itself).
    under: only this subtree, as a path relative to the root; nothing if it is gone.
    sights: takes what else was met.
    unreadable: whether a picture is known as one that cannot be read.

    A raw file beside which the same picture lies in another format (IMG_1.NEF, img_1.jpg) is passed
    over, unless that cannot be read. A folder or entry that cannot be read is a ScanProblem, and
    the walk goes on. Raises SourceError when the root itself is missing, no folder or unreadable.
    """
    base = real(root)
    try:
        if not stat.S_ISDIR(os.stat(base).st_mode):  # noqa: PTH116 -- str paths keep odd bytes
            raise SourceError(str(root), "not a folder")
        with os.scandir(base):
            pass
    except OSError as exc:
        raise SourceError(str(root), os_reason(exc)) from exc
    return _walk(
        base,
        under.strip("/"),
        rules_of(exclude, ""),
        follow_links,
        real(skip) if skip is not None else None,
        sights or Sights(),
        unreadable,
    )


def covering(
    root: str,
    path: str,
    *,
    exclude: Sequence[str] = (),
    follow_links: bool = False,
    skip: str | None = None,
) -> str | None:
    """The smallest folder whose scan() takes in what happened at `path`; None if it passes it over.

    root, path: absolute; skip: as in scan(), resolved. What is returned is relative to the root and
    exists ("" is the root). What happened may be anything: `path` may be a file, a folder or gone.
    """
    rules = rules_of(exclude, "")
    below = relative(path, root)
    names = below.split("/") if below else []
    at = ""
    for place, name in enumerate(names):
        last = place == len(names) - 1
        if last and name == IGNORE_FILE:
            return at.rstrip("/")
        if name[0] == "." or name.lower() in IGNORED_NAMES:
            return None
        rules += of_file(f"{root}/{at}{IGNORE_FILE}", at)
        here = at + name
        full = f"{root}/{here}"
        if full == skip:
            return None
        try:
            mode = os.lstat(full).st_mode
        except OSError:
            return at.rstrip("/")  # gone
        if stat.S_ISLNK(mode) and not (last and not os.path.isdir(full)):  # noqa: PTH112
            # What a link leads to may lie elsewhere in the folder too: all of it is looked at.
            return "" if follow_links else None
        folder = stat.S_ISDIR(mode)
        if rules and excluded(rules, here, name, folder):
            return None
        if not folder:
            return at.rstrip("/")
        at = here + "/"
    return at.rstrip("/")


def entry_for(path: Path) -> FileEntry | ScanProblem:
    """A single file as scan() would give it, its name as the path; any text file counts as texts.

    Raises SourceError if there is no such file.
    """
    try:
        info = path.stat()
    except OSError as exc:
        raise SourceError(str(path), os_reason(exc)) from exc
    if not stat.S_ISREG(info.st_mode):
        return ScanProblem(path.name, _not_a_file(info.st_mode))
    kind = kind_of(path.name)
    if kind is None:
        from indexer.texts import TEXT_SUFFIXES

        if path.suffix.lower() not in TEXT_SUFFIXES:
            return ScanProblem(path.name, "neither a picture, an archive nor a file of texts")
        kind = "texts"
    return FileEntry(path.name, info.st_size, modified_ns(info), kind)


def kind_of(name: str) -> Kind | None:
    """What a file of this name is taken for inside a folder; sidecars need their neighbours."""
    lower = name.lower()
    at = lower.rfind(".")
    if at > 0 and lower[at:] in IMAGE_SUFFIXES:
        return "image"
    if is_archive(lower):
        return "archive"
    return "texts" if is_caption_file(name) else None


def _walk(
    base: str,
    under: str,
    rules: tuple[Rule, ...],
    follow_links: bool,
    skip: str | None,
    sights: Sights,
    unreadable: Unreadable,
) -> Iterator[FileEntry | ScanProblem]:
    start = f"{under}/" if under else ""
    for at in (i for i, mark in enumerate(f"/{under}" if under else "") if mark == "/"):
        rules += of_file(f"{base}/{under[:at]}{IGNORE_FILE}", under[:at])
    if under and not os.path.isdir(f"{base}/{under}"):  # noqa: PTH112
        yield from _one(base, under, rules, follow_links, sights, unreadable)
        return
    seen: set[tuple[int, int]] = set()
    # Path relative to the root with a trailing slash, and the rules that hold there; last is next.
    folders = [(start, rules)]
    # Links come after all real folders, so that what both lead to is found under its own name.
    links: deque[tuple[str, tuple[Rule, ...]]] = deque()
    while folders or links:
        through_link = not folders
        prefix, rules = folders.pop() if folders else links.popleft()
        where = f"{base}/{prefix}"
        if skip is not None and (where.rstrip("/") or "/") == skip:
            continue
        try:
            if follow_links:
                info = os.stat(where)  # noqa: PTH116
                if (info.st_dev, info.st_ino) in seen:
                    if through_link:
                        yield ScanProblem(
                            prefix.rstrip("/"), "a link to a folder that was read before"
                        )
                    continue
                seen.add((info.st_dev, info.st_ino))
                if skip is not None and real(where) == skip:
                    continue
            with os.scandir(where) as listing:
                entries = sorted(listing, key=_name)
            if prefix and not any(map(_is_visible, entries)):
                sights.empty.append((prefix.rstrip("/"), os.stat(where).st_ctime_ns))  # noqa: PTH116
        except OSError as exc:
            yield ScanProblem(prefix.rstrip("/"), os_reason(exc), closed=True)
            continue
        if any(entry.name == IGNORE_FILE for entry in entries):
            rules += of_file(where + IGNORE_FILE, prefix)
        below: list[os.DirEntry[str]] = []
        yield from _folder(entries, prefix, rules, follow_links, below, sights, unreadable)
        links.extend((f"{prefix}{e.name}/", rules) for e in below if e.is_symlink())
        folders.extend((f"{prefix}{e.name}/", rules) for e in reversed(below) if not e.is_symlink())


def _folder(
    entries: list[os.DirEntry[str]],
    prefix: str,
    rules: tuple[Rule, ...],
    follow_links: bool,
    below: list[os.DirEntry[str]],
    sights: Sights,
    unreadable: Unreadable,
) -> Iterator[FileEntry | ScanProblem]:
    """The files of one folder; its folders are added to `below`."""
    files: list[os.DirEntry[str]] = []
    yield from _looked_at(entries, prefix, rules, follow_links, below, files, sights)
    together = _Together(files, prefix, unreadable)
    sights.developed += len(together.same)
    yield from together.closed()
    yield from (found for entry in files if (found := together.entry(entry)) is not None)


def _looked_at(
    entries: list[os.DirEntry[str]],
    prefix: str,
    rules: tuple[Rule, ...],
    follow_links: bool,
    below: list[os.DirEntry[str]],
    files: list[os.DirEntry[str]],
    sights: Sights,
) -> Iterator[ScanProblem]:
    """What of one folder is to be read: its folders are added to `below`, its files to `files`."""
    for entry in entries:
        name = entry.name
        if not _is_visible(entry):
            continue
        path = prefix + name
        try:
            link = entry.is_symlink()
            folder = entry.is_dir(follow_symlinks=follow_links or link)
            sights.any_file |= not folder
            if rules and excluded(rules, path, name, folder):
                continue
            if link and not follow_links:
                if folder or kind_of(name) or not os.path.lexists(entry.path):
                    yield ScanProblem(path, LINK)
            elif folder:
                below.append(entry)
            elif entry.is_file():
                files.append(entry)
            else:
                # stat() of a broken or circular link raises, and says why
                yield ScanProblem(path, _not_a_file(entry.stat().st_mode))
        except OSError as exc:
            yield ScanProblem(path, os_reason(exc), closed=True)


class _Together:
    """The files of one folder: which of them are what is seen from their names together."""

    def __init__(
        self, files: Sequence[os.DirEntry[str]], prefix: str, unreadable: Unreadable
    ) -> None:
        """same: the raw files that are passed over, and the same picture beside each."""
        self._prefix = prefix
        self._kinds = {entry.name: kind_of(entry.name) for entry in files}
        images = [name for name, kind in self._kinds.items() if kind == "image"]
        raws = [name for name in images if is_raw_name(name)]
        bad = self._bad(files, unreadable) if raws else frozenset()
        developed = Developed(name for name in images if name not in bad) if raws else Developed()
        self.same = {name: of for name in raws if (of := developed.of(name)) is not None}
        # What tells of one that cannot be read tells of the raw file that is read in its place.
        broken, instead = Developed(sorted(bad)), dict[str, str]()
        for name in raws if bad else ():
            of = broken.of(name)
            if of is not None and name not in self.same:
                instead.setdefault(of, name)
        same = self.same | instead
        pictures = [name for name in images if name not in same] if same else images
        texts = any(name.lower().endswith(".txt") for name in self._kinds)
        self._described = Described(pictures, same) if texts else Described(())
        tell = {
            entry.name: entry
            for entry in files
            if beside.is_beside(entry.name) and self._kinds[entry.name] is None
        }
        self._around = beside.Around(tell, pictures if tell else (), same if tell else {})

    def _bad(self, files: Sequence[os.DirEntry[str]], unreadable: Unreadable) -> frozenset[str]:
        """The pictures that cannot be read, raw files aside."""
        found = set()
        for entry in files:
            if self._kinds[entry.name] == "image" and not is_raw_name(entry.name):
                try:
                    info = entry.stat()
                except OSError:
                    continue
                if unreadable(self._prefix + entry.name, info.st_size, modified_ns(info)):
                    found.add(entry.name)
        return frozenset(found)

    def closed(self) -> Iterator[ScanProblem]:
        """The files about pictures that could not be looked at."""
        for name, exc in self._around.closed:
            yield ScanProblem(self._prefix + name, os_reason(exc), closed=True)

    def entry(self, entry: os.DirEntry[str]) -> FileEntry | ScanProblem | None:
        """What one of them is to be read as; None: not at all."""
        name = entry.name
        kind, of = self._kinds[name], None
        if name in self.same:
            return None
        if name.lower().endswith(".txt") and (of := self._described.by(name)) is not None:
            kind, of = "sidecar", self._prefix + of
        if kind is None:
            return None
        try:
            info = entry.stat()
        except OSError as exc:
            return ScanProblem(self._prefix + name, os_reason(exc), closed=True)
        near = self._around.of(name) if kind == "image" else beside.NONE
        return FileEntry(self._prefix + name, info.st_size, modified_ns(info), kind, of, near)


class Described:
    """Pictures, and which of them sidecars describe."""

    def __init__(
        self, pictures: Sequence[str], same: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """pictures: sorted names, or paths. same: of raw files that are passed over, the picture
        beside each: what describes the one describes the other."""
        self._as_written: dict[str, str] = {}  # also with the ending in lower case
        self._lower: dict[str, str] = {}
        for name in pictures:
            stem, _, suffix = name.rpartition(".")
            # Capitals sort before the rest: the picture whose very name this is comes last, and
            # stays.
            self._as_written[f"{stem}.{suffix.lower()}"] = self._as_written[name] = name
            self._lower.setdefault(name.lower(), name)
        for name, picture in same.items():
            self._lower.setdefault(name.lower(), picture)

    def by(self, text: str) -> str | None:
        """The picture that a file of this name, or path, describes."""
        candidates = sidecar_for(text)
        # Those in the text's own case first: two pictures may differ by nothing else.
        same = (self._as_written.get(candidate) for candidate in candidates)
        alike = (self._lower.get(candidate.lower()) for candidate in candidates)
        return next((picture for picture in chain(same, alike) if picture is not None), None)


def _one(
    base: str,
    path: str,
    rules: tuple[Rule, ...],
    follow_links: bool,
    sights: Sights,
    unreadable: Unreadable,
) -> Iterator[FileEntry | ScanProblem]:
    """scan(under=...) of what is no folder: a single file, or nothing if it is gone.

    Patterns do not keep it away, nor that it is a link; what lies beside it counts as in a scan of
    its folder.
    """
    full = Path(base, path)
    if kind_of(full.name) is None or not os.path.lexists(full):
        return
    prefix = path[: len(path) - len(full.name)]
    files: list[os.DirEntry[str]] = []
    try:
        mode = full.stat().st_mode
        if not stat.S_ISREG(mode):
            yield ScanProblem(path, _not_a_file(mode))
            return
        with os.scandir(full.parent) as listing:
            entries = sorted(listing, key=_name)
    except OSError as exc:
        yield ScanProblem(path, os_reason(exc), closed=True)
        return
    others = [e for e in entries if e.name != full.name]
    deque(_looked_at(others, prefix, rules, follow_links, [], files, Sights()), maxlen=0)
    own = [e for e in entries if e.name == full.name]
    together = _Together(sorted([*files, *own], key=_name), prefix, unreadable)
    sights.developed += full.name in together.same
    yield from together.closed()
    yield from (found for entry in own if (found := together.entry(entry)) is not None)


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _is_link(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink()
    except OSError:  # a drive that does not even tell what it is
        return True


def _is_visible(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    return name[0] != "." and name.lower() not in IGNORED_NAMES


# -- reasons -------------------------------------------------------------------------------------


def _not_a_file(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe, not a file"
    if stat.S_ISSOCK(mode):
        return "a socket, not a file"
    if stat.S_ISDIR(mode):
        return "a folder, not a file"
    return "a device, not a file"
