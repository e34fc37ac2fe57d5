"""What was sent over HTTP to be kept: a folder of the library that is a source like any other.

Pictures lie there under their names, made unique by their content; texts are the lines of one file.
`mmsearch index` reads both. Nothing outside of this folder is ever written or deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mmsearch.decode import decode
from mmsearch.errors import StoreError
from mmsearch.filenames import real
from mmsearch.filetimes import modified_ns
from mmsearch.library import UPLOADS_FOLDER
from mmsearch.plaintext import clean
from mmsearch.raw import FORMATS, OTHER_RAW
from mmsearch.store.catalog import Catalog
from mmsearch.store.sourcefiles import files_of
from mmsearch.types import DecodeLimits
from mmsearch.watchdog import Workers

TEXTS_NAME = "captions.jsonl"
MAX_TEXT_CHARS = 10_000
#: What its file holds while there are none: an empty one would count as a file that failed.
_NO_TEXTS = b"\n"

#: By the format that decoding found, never by the name that was sent.
_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "AVIF": ".avif",
    "HEIF": ".heic",
    **{name: f".{name.lower()}" for name in FORMATS - {OTHER_RAW}},
    OTHER_RAW: ".dng",
}
_MAX_STEM = 60
_WORKERS = 2
_MAX_STUCK = 2
_LOCK_S = 10


class Uploads:
    """The folder `uploads` of a library. Its calls block; from any thread."""

    def __init__(self, library: Path, limits: DecodeLimits) -> None:
        self._library = library
        self._limits = limits
        self._decoders = Workers(
            _WORKERS, limits.max_seconds, name="mmsearch-upload", max_stuck=_MAX_STUCK
        )

    @property
    def folder(self) -> Path:
        """Where they lie, as the catalog names it. It need not be there yet."""
        return self._library.resolve() / UPLOADS_FOLDER

    @property
    def texts(self) -> Path:
        """The file of texts in it."""
        return self.folder / TEXTS_NAME

    def add_picture(self, data: bytes, name: str) -> Path:
        """Keeps a picture; the same bytes again are the same file. Its place.

        Raises:
            DecodeError: it is no picture that the library could show, or too large.
            StoreError: it cannot be written.
        """
        found = self._decoders.run(
            lambda: decode(data, source="the picture", limits=self._limits, min_side=64).info,
            "the picture",
        )
        digest = hashlib.sha256(data).hexdigest()[:16]
        return self._write(f"{_stem(name)}-{digest}{_SUFFIXES[found.format]}", data, digest)

    def add_text(self, body: str, picture: str | None = None) -> Path:
        """Keeps a text, written for the picture with this path if there is one. Its file.

        Raises StoreError: it cannot be written.
        """
        line = json.dumps({"text": body} | ({"image": picture} if picture is not None else {}))
        self._change_texts(lambda lines: lines if line in lines else [*lines, line])
        return self.texts

    def are_owed_a_run(self, catalog: Catalog) -> bool:
        """Whether something was sent or deleted here that the catalog does not know of yet."""
        there = self._files()
        # A folder without any file is one of an absent drive: then nothing counts as gone.
        if not there:
            return False
        known = files_of(catalog, real(self.folder))
        if known is None:
            # Read already, under the name that it had before the library was moved: people say so
            # by `sources relocate`, which could not be done once it was a source by this name too.
            return not any(
                Path(record.location).name == UPLOADS_FOLDER and not Path(record.location).exists()
                for record in catalog.places()
            )
        if known.gone or not known.held <= there.keys():
            return True
        return any(
            (name, *facts) not in known.read
            # Of a file without texts nothing is kept, not even that it was read.
            and (name != TEXTS_NAME or facts[0] > len(_NO_TEXTS) or name in known.held)
            for name, facts in there.items()
        )

    def _files(self) -> dict[str, tuple[int, int]]:
        """Size and time of what lies there, as scans see it, by name; nothing without a folder."""
        suffixes = tuple(_SUFFIXES.values())
        found: dict[str, tuple[int, int]] = {}
        with suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(".") or not (name == TEXTS_NAME or name.endswith(suffixes)):
                    continue
                with suppress(FileNotFoundError):
                    info = entry.stat()
                    found[name] = (info.st_size, modified_ns(info))
        return found

    def holds(self, path: str) -> bool:
        """Whether a file of the catalog is one of these."""
        return Path(path).parent == self.folder

    def remove_pictures(self, paths: list[str]) -> None:
        """Deletes these files of the folder. Raises StoreError."""
        for path in paths:
            assert self.holds(path)
            try:
                Path(path).unlink(missing_ok=True)
            except OSError as exc:
                raise self._unwritable(exc) from exc

    def remove_text(self, body: str) -> int:
        """Deletes the lines that are this text. How many there were. Raises StoreError."""
        wanted = clean(body)
        return self._remove_lines(lambda line: _text_of(line) == wanted)

    def remove_texts_of(self, paths: list[str]) -> int:
        """Deletes the lines that name one of these files of the folder, by path or name alone. How
        many there were. Raises StoreError."""
        names = {*paths, *(Path(path).name for path in paths)}
        return self._remove_lines(lambda line: _picture_of(line) in names)

    def _remove_lines(self, doomed: Callable[[str], bool]) -> int:
        removed = 0

        def without(lines: list[str]) -> list[str]:
            nonlocal removed
            kept = [line for line in lines if not doomed(line)]
            removed = len(lines) - len(kept)
            return kept

        self._change_texts(without)
        return removed

    def _change_texts(self, change: Callable[[list[str]], list[str]]) -> None:
        file = self.texts
        self._make_folder()
        try:
            with FileLock(self.folder / f".{TEXTS_NAME}.lock", timeout=_LOCK_S):
                before = _lines(file)
                after = change(before)
                if after != before:
                    self._put(file, "".join(line + "\n" for line in after).encode() or _NO_TEXTS)
        except Timeout as exc:
            raise StoreError(f"another process is changing {file}; try again") from exc
        except OSError as exc:
            raise self._unwritable(exc) from exc

    def _write(self, name: str, data: bytes, digest: str) -> Path:
        self._make_folder()
        try:
            for known in self.folder.glob(f"*-{digest}.*"):
                return known
            self._put(self.folder / name, data)
        except OSError as exc:
            raise self._unwritable(exc) from exc
        return self.folder / name

    def _make_folder(self) -> None:
        """With the file of texts, always: a folder without any file is one of an absent drive."""
        try:
            self.folder.mkdir(exist_ok=True)
            with self.texts.open("ab") as texts:
                if not texts.tell():
                    texts.write(_NO_TEXTS)
        except OSError as exc:
            raise self._unwritable(exc) from exc

    def _put(self, file: Path, data: bytes) -> None:
        """The file with these bytes, or as it was before: hidden from scans until it is whole."""
        fresh = self.folder / f".{secrets.token_hex(8)}.new"
        try:
            with fresh.open("xb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            fresh.replace(file)
        finally:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)

    def _unwritable(self, exc: OSError) -> StoreError:
        return StoreError(
            f"{self.folder} cannot be written: {exc.strerror or exc}. Check that its disk has free "
            "space and can be written"
        )


def _stem(name: str) -> str:
    """What a picture is called, of the name that was sent: no folders, nothing hidden or odd."""
    last = re.split(r"[/\\]", name)[-1]
    stem = last.rpartition(".")[0] or last
    plain = "".join(c if c.isalnum() or c in " _-()" else "_" for c in stem)
    short = plain.encode("utf-8", "replace")[:_MAX_STEM].decode("utf-8", "ignore")
    return short.strip(" _-") or "picture"


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text.split("\n") if line.strip()]


def _text_of(line: str) -> str | None:
    try:
        return clean(str(json.loads(line)["text"]))
    except (ValueError, KeyError, TypeError):
        return None  # not written here


def _picture_of(line: str) -> str | None:
    try:
        return str(json.loads(line)["image"])
    except (ValueError, KeyError, TypeError):
        return None
