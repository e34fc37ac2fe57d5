"""Pictures with known captions to measure on: COCO, Flickr8k/30k, Karpathy's splits, folders.

Only names are read here, and texts; no picture is opened.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from indexer.sources import FileEntry, scan
from indexer.texts import TextItem, read_sidecar, read_texts
from indexer.texts.formats import MAX_JSON_BYTES
from indexer.texts.items import TEXT_NAMES, items_of, pick, picture_of
from mmsearch.encode.published import DatasetName
from mmsearch.errors import DecodeError, QueryError, SourceError, os_reason
from mmsearch.filenames import joined, real, straightened
from mmsearch.filters.globs import comparable
from mmsearch.plaintext import counted
from mmsearch.store.alike import folded


@dataclass(slots=True)
class Dataset:
    """Pictures, and the captions written for them.

    pictures: absolute paths, in the order in which captions name them. captions: (text, row of its
    picture). known_as: what its figures may be held against. missing: pictures that captions name
    and that are not there; bad: what else could not be used, with the reason.
    """

    name: str
    known_as: DatasetName | None = None
    pictures: list[str] = field(default_factory=list)
    captions: list[tuple[str, int]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Named:
    """A caption and the picture it names."""

    body: str
    picture: str


def read_captions(
    file: Path,
    images: Path,
    *,
    split: str | None = None,
    only: Path | None = None,
    most: int | None = None,
) -> Dataset:
    """The pictures of a caption file that lie in the folder `images`, with their captions.

    file: any file of texts that `mmsearch index --captions` reads (COCO's annotations, Flickr's
        tokens and tables), or one of Karpathy's dataset_*.json.
    split: of a file that has splits, which: "test" is what papers print figures of.
    only: a file with a picture's name a line, such as Flickr_8k.testImages.txt: no others.
    most: of each picture, so many captions at most, the first ones.

    Raises:
        SourceError: a file or the folder is not there.
        DecodeError: the file cannot be read.
        QueryError: nothing is left to measure; `split` is asked of a file that has none.
    """
    for path in (file, images, *([only] if only else ())):
        if not path.exists():
            raise SourceError(str(path), "no such file or folder")
    if not images.is_dir():
        raise SourceError(str(images), "not a folder")
    wanted = None if only is None else _names(only)
    found = Dataset(file.name, _known_as(file.name))
    places = _Places(images)
    named_at: dict[str, str | None] = {}
    #: By where they are: captions may name a picture in several ways.
    rows: dict[str, int] = {}
    counts: dict[int, int] = {}
    for named in _read(file, split, found):
        if not _is_wanted(named.picture, wanted):
            continue
        if named.picture not in named_at:
            named_at[named.picture] = places.find(named.picture)
            if named_at[named.picture] is None:
                found.missing.append(named.picture)
        place = named_at[named.picture]
        if place is None:
            continue
        row = rows.setdefault(place, len(rows))
        counts[row] = counts.get(row, 0) + 1
        if row == len(found.pictures):
            found.pictures.append(place)
        if most is None or counts[row] <= most:
            found.captions.append((named.body, row))
    if not found.captions:
        names = ("picture that it names is", "pictures that it names are")
        gone = f", {counted(len(found.missing), *names)} not in {images}"
        if only is not None and not found.missing:
            gone = f" that {only} names"
        raise QueryError(f"nothing to measure: {file} has no captions of pictures there{gone}")
    return found


def read_folder(folder: Path, *, only: Path | None = None, most: int | None = None) -> Dataset:
    """A folder of pictures with sidecars or caption files, found as `mmsearch index` finds them.

    Pictures without a caption are there too: they make the search harder, as in life. Archives are
    passed over, and so is what pictures say of themselves.

    only, most: as of `read_captions`.

    Raises:
        SourceError: it is not there, or the file `only` is not.
        QueryError: none of its pictures has a caption, of those that `only` names.
    """
    wanted = None if only is None else _names(only)
    root = real(folder)
    found = Dataset(folder.name or str(folder))
    texts: list[FileEntry] = []
    for entry in scan(folder):
        if not isinstance(entry, FileEntry):
            found.bad.append((entry.path, entry.reason))
        elif entry.kind == "image":
            found.pictures.append(f"{root}/{entry.path}")
        elif entry.kind == "archive":
            found.bad.append((entry.path, "an archive: only pictures in folders are measured on"))
        else:
            texts.append(entry)
    places = _Places(Path(root), found.pictures)
    found.pictures = [path for path in found.pictures if _is_wanted(path, wanted)]
    rows = {path: row for row, path in enumerate(found.pictures)}
    counts = dict.fromkeys(range(len(rows)), 0)

    def add(body: str, row: int) -> None:
        counts[row] += 1
        if most is None or counts[row] <= most:
            found.captions.append((body, row))

    for entry in texts:
        path = Path(root, entry.path)
        try:
            if entry.kind == "sidecar":
                row = rows.get(f"{root}/{entry.of}")
                if row is not None:
                    add(read_sidecar(path), row)
                continue
            for item in read_texts(path):
                if not isinstance(item, TextItem):
                    found.bad.append((f"{entry.path}:{item.key}", item.reason))
                elif item.image is not None:
                    place = places.find(item.image, os.path.dirname(entry.path))  # noqa: PTH120
                    if place is not None and place in rows:
                        add(item.body, rows[place])
                    elif _is_wanted(item.image, wanted):
                        found.missing.append(item.image)
        except DecodeError as exc:
            found.bad.append((entry.path, exc.reason))
    if not found.captions:
        named = "" if only is None else f" that {only} names"
        raise QueryError(
            f"nothing to measure: no picture in {folder}{named} has a caption. A caption stands in "
            "photo.txt beside photo.jpg, or in captions.jsonl: "
            '{"image": "photo.jpg", "text": "..."}'
        )
    return found


class _Places:
    """Where the pictures that captions name lie in a folder: by the rules of indexing, see
    mmsearch.store.links, as far as names tell."""

    def __init__(self, root: Path, known: Sequence[str] | None = None) -> None:
        """known: all pictures there, by their absolute paths; None to look for them if need be."""
        self._root = real(root)
        self._known = known
        self._there: _There | None = None

    def find(self, name: str, folder: str = "") -> str | None:
        """The absolute path of a picture, None where it is not there.

        In `folder` of the root, or in the root; else by its file name anywhere below, if no other
        picture is called that, and if it does not lie outside of a folder that the name tells and
        that has pictures; at last without regard to letter case and the like.
        """
        name = name.replace("\\", "/")
        bases = tuple(dict.fromkeys((folder, "")))
        for base in bases:
            path = self._at(base, name)
            if os.path.isfile(path):  # noqa: PTH113 -- by the ten thousand
                return path
        if self._there is None:
            self._there = _There(self._known if self._known is not None else self._walk())
        spellings = [name]
        if "%" in name:
            spellings.append(unquote(name, errors="surrogateescape"))
        meant = [[self._at(base, spelled) for base in bases] for spelled in spellings]
        if found := self._there.called(name.rpartition("/")[2], itertools.chain(*meant)):
            return found
        for spelled, paths in zip(spellings, meant, strict=True):
            for one in paths if "/" in spelled else (*paths, spelled):
                if found := self._there.alike(one):
                    return found
        return None

    def _at(self, base: str, name: str) -> str:
        path = straightened(joined(self._root, base, name))
        if not name.startswith("/"):
            return path
        parent, _, last = path.rpartition("/")
        return f"{real(parent)}/{last}"  # one picture by whichever links it is named

    def _walk(self) -> Iterator[str]:
        for entry in scan(Path(self._root)):
            if isinstance(entry, FileEntry) and entry.kind == "image":
                yield f"{self._root}/{entry.path}"


class _There:
    """The pictures of a folder by their names."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._by_name: dict[str, str | None] = {}
        #: Folded paths, and folded names: of several that are alike none is meant.
        self._by_folded: dict[str, str | None] = {}
        self._folders: set[str] = set()
        for path in paths:
            parent, _, last = path.rpartition("/")
            self._by_name[last] = None if last in self._by_name else path
            for key in (folded(path), folded(last)):
                self._by_folded[key] = None if key in self._by_folded else path
            parent = comparable(parent)
            while parent and parent not in self._folders:
                self._folders.add(parent)
                parent = parent.rpartition("/")[0]

    def called(self, name: str, places: Iterable[str]) -> str | None:
        """The only picture of that file name. places: where it is meant to be; none outside of
        their folders is, if there are pictures in any of these."""
        found = self._by_name.get(name)
        if found is None:
            return None
        parents = (comparable(place.rpartition("/")[0]) for place in places)
        known = [f"{parent}/" for parent in parents if parent in self._folders]
        return found if not known or comparable(found).startswith(tuple(known)) else None

    def alike(self, name: str) -> str | None:
        """The only picture of this path, or file name, but for letter case and accents."""
        return self._by_folded.get(folded(name))


def _known_as(name: str) -> DatasetName | None:
    lower = name.lower()
    if "coco" in lower or lower.startswith("captions_val20"):
        return "coco"
    return "flickr30k" if "flickr30k" in lower or lower == "results_20130124.token" else None


def _names(file: Path) -> set[str]:
    try:
        lines = file.read_text("utf-8-sig", "surrogateescape").splitlines()
    except OSError as exc:
        raise SourceError(str(file), os_reason(exc)) from exc
    return {line.strip().replace("\\", "/").rpartition("/")[2] for line in lines if line.strip()}


def _is_wanted(picture: str, wanted: set[str] | None) -> bool:
    """Whether a picture's path ends in one of these names, or in one and its ending, as Flickr30k
    Entities' test.txt has them; None are all."""
    if wanted is None:
        return True
    name = picture.replace("\\", "/").rpartition("/")[2]
    return name in wanted or name.rpartition(".")[0] in wanted


def _read(file: Path, split: str | None, into: Dataset) -> Iterator[_Named]:
    """The captions of a file, of one split if that is asked for."""
    suffix = file.suffix.lower()
    if suffix == ".json":
        document = _karpathy(file)
        if document is not None:
            yield from _of_split(document, split, into)
            return
    elif suffix in (".csv", ".tsv") and split is not None:
        yield from _table_of_split(file, split, into)
        return
    if split is not None:
        raise QueryError(
            f"{file.name} has no splits: leave --split out, or give one of Karpathy's "
            "dataset_*.json. --only FILE takes a list of the pictures to measure on"
        )
    for item in read_texts(file):
        if not isinstance(item, TextItem):
            into.bad.append((f"{file.name}:{item.key}", item.reason))
        elif item.image is not None:
            yield _Named(item.body, item.image)


def _karpathy(file: Path) -> list[dict[str, Any]] | None:
    """The images of a file in the form of Karpathy's splits; None for another JSON file.

    https://cs.stanford.edu/people/karpathy/deepimagesent/: {"dataset": "coco", "images":
    [{"filename": ..., "filepath": ..., "split": "test", "sentences": [{"raw": ...}]}]}
    """
    try:
        data = file.read_bytes() if file.stat().st_size <= MAX_JSON_BYTES else b""
        value = json.loads(data)
    except OSError as exc:
        raise SourceError(str(file), os_reason(exc)) from exc
    except (ValueError, RecursionError):
        return None  # what is wrong with it, read_texts says
    images = value.get("images") if isinstance(value, dict) else None
    if not isinstance(images, list) or "annotations" in value:
        return None
    return [one for one in images if isinstance(one, dict)]


def _of_split(images: list[dict[str, Any]], split: str | None, into: Dataset) -> Iterator[_Named]:
    found = {str(one.get("split")) for one in images if one.get("split") is not None}
    _check_split(split, found)
    for number, one in enumerate(images):
        if split is not None and one.get("split") != split:
            continue
        texts, name, folder = pick(one, TEXT_NAMES), picture_of(one), one.get("filepath")
        if isinstance(name, str) and isinstance(folder, str) and folder:
            name = f"{folder.rstrip('/')}/{name}"
        yield from _named(str(number), texts, name, into)


def _table_of_split(file: Path, split: str, into: Dataset) -> Iterator[_Named]:
    """A table with a column "split", as flickr_annotations_30k.csv on the hub has it; its captions
    may be a list in JSON."""
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            table = csv.DictReader(lines, delimiter="\t" if file.suffix == ".tsv" else ",")
            if "split" not in (table.fieldnames or ()):
                _check_split(split, set())
            rows = list(table)
    except (OSError, csv.Error) as exc:
        reason = os_reason(exc) if isinstance(exc, OSError) else f"not a table ({exc})"
        raise DecodeError(str(file), reason) from exc
    _check_split(split, {row["split"] for row in rows if row["split"]})
    for number, row in enumerate(rows):
        if row["split"] == split:
            body = pick(row, TEXT_NAMES)
            if isinstance(body, str) and body.startswith("["):
                with contextlib.suppress(ValueError):  # a caption that begins with a bracket
                    body = json.loads(body)
            yield from _named(str(number), body, picture_of(row), into)


def _check_split(split: str | None, found: Iterable[str]) -> None:
    found = sorted(found)
    if split is not None and split not in found:
        has = f"it has: {', '.join(found)}" if found else "the file has no splits"
        raise QueryError(f"there is no split {split!r}; {has}")


def _named(key: str, body: object, name: object, into: Dataset) -> Iterator[_Named]:
    for item in items_of(key, body, name):
        if not isinstance(item, TextItem):
            into.bad.append((item.key, item.reason))
        elif item.image is not None:
            yield _Named(item.body, item.image)
