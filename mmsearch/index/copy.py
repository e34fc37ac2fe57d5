"""Copies of index files, for a backup that need not build them anew. Needs no faiss."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from mmsearch.index import manifest, measured
from mmsearch.types import MODALITIES, Space


def copy_files(folder: Path, to: Path) -> None:
    """Copies the index files in `folder`, with their manifests, into the new folder `to`.

    A run may put a new file in the place of one meanwhile; then that one is left out. What they are
    worth beside a catalog, `adopt` tells.
    """
    to.mkdir()
    for path in sorted(folder.glob("*.faiss")):
        if ".fast-" in path.name:
            continue
        about = manifest.read(path)
        copy = to / path.name
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(path, copy)
            if copy.stat().st_size == getattr(about, "bytes", -1) and manifest.read(path) == about:
                shutil.copyfile(path.with_suffix(".json"), copy.with_suffix(".json"))
                if manifest.read(copy) == about:
                    _copy_fast(path, copy)
                    continue
        _remove(copy)


def adopt(folder: Path, origins: Mapping[Space, tuple[str, str]]) -> int:
    """Makes the index files in `folder` those of a copy of the catalog they are of.

    Others are deleted. origins: for each space of the copy its origin before and now. Returns how
    many files there are.
    """
    wanted = set()
    for space, (before, now) in origins.items():
        for modality in MODALITIES:
            path = manifest.index_file(folder, space, modality)
            about = manifest.read(path)
            if about is not None and (about.space, about.origin) == (space.fingerprint, before):
                text = json.dumps(asdict(replace(about, origin=now)), indent=1)
                path.with_suffix(".json").write_text(text, encoding="utf-8")
                wanted.add(path)
    for path in set(folder.glob("*.faiss")) - wanted:
        if ".fast-" not in path.name:
            measured.remove(path)
            _remove(path)
    return len(wanted)


def _copy_fast(path: Path, copy: Path) -> None:
    """Copies the approximate index beside an index file, if it is whole."""
    about = measured.read(path)
    if about is not None:
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(path.with_name(about.file), copy.with_name(about.file))
            shutil.copyfile(measured.about_file(path), measured.about_file(copy))
        now = measured.read(copy)
        if now is None or not measured.whole(copy, now):
            measured.remove(copy)


def _remove(path: Path) -> None:
    for file in (path, path.with_suffix(".json")):
        file.unlink(missing_ok=True)
