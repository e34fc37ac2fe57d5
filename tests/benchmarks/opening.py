"""How long it takes to open a large library and answer the first query, in a fresh process."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from mmsearch.library import CATALOG_NAME, INDEX_FOLDER, Library
from mmsearch.store import CatalogWriter, ImageRow
from mmsearch.types import PictureInfo, Space

_ROWS = 10_000
_REPEATS = 5
#: In a process of its own: from before the imports to the pictures' records.
_FIRST = """
import time
began = time.perf_counter()
import json, sys
import numpy as np
import mmsearch
xq = np.load(sys.argv[2])
with mmsearch.open(sys.argv[1], device="cpu") as library:
    index = library.index("image")
    opened = time.perf_counter()
    found = index.search(xq, 10)[0]
    records = library.catalog.image_records(found.ids.tolist())
    ended = time.perf_counter()
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    private = sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))
    print(json.dumps({
        "open_s": ended - began, "opened_s": opened - began, "names": [
            records[id_].path for id_ in found.ids.tolist()
        ], "private_mb": private / 1000, "torch": "torch" in sys.modules,
    }))
"""


def fill(folder: Path, n: int, dim: int) -> float:
    """A library of so many pictures of random vectors; seconds that the writing took."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    info = PictureInfo("JPEG", 4000, 3000)
    began = time.perf_counter()
    with closing(CatalogWriter(folder / CATALOG_NAME)) as writer:
        in_space = writer.ensure_space(Space("made/up", dim, "f" * 64, ""))
        source = writer.ensure_source("/photos", "folder", (), False)
        for start in range(0, n, _ROWS):
            xb = rng.standard_normal((min(_ROWS, n - start), dim), dtype=np.float32)
            xb /= np.linalg.norm(xb, axis=1, keepdims=True)
            writer.commit(
                in_space,
                images=[
                    ImageRow(
                        source, f"{number // 1000:04}/picture {number:07}.jpg", "", 4 << 20, 1,
                        number.to_bytes(32, "big"), info, vector,
                    )
                    for number, vector in enumerate(xb, start)
                ],
            )  # fmt: skip
        writer.activate(in_space)
    with Library(folder, device="cpu") as library:
        library.save_indexes()
    return time.perf_counter() - began


def measure(n: int, dim: int, work: Path) -> dict[str, Any]:
    """Made in `work`, unless it is there."""
    folder = work / f"library-{n}x{dim}"
    made = folder / "made.json"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(json.dumps(fill(folder, n, dim)))
    query = work / "query.npy"
    xq = np.random.default_rng(5).standard_normal((1, dim), dtype=np.float32)
    np.save(query, xq / np.linalg.norm(xq))
    first = _first(folder, query)
    warm = [_first(folder, query) for _ in range(_REPEATS)]
    _forget(folder)
    cold = _first(folder, query)
    assert all(one["names"] == first["names"] for one in [*warm, cold])
    result = {
        "vectors": n,
        "fill_seconds": json.loads(made.read_text()),
        "open_s": statistics.median(one["open_s"] for one in warm),
        "opened_s": statistics.median(one["opened_s"] for one in warm),
        "cold_s": cold["open_s"],
        "private_mb": warm[-1]["private_mb"],
        "torch": warm[-1]["torch"],
    }
    print(
        f"\na library of {n:,} pictures, written in {result['fill_seconds']:.0f} s: from before "
        f"the imports to the first answer {result['open_s']:.2f} s (open after "
        f"{result['opened_s']:.2f} s), {result['cold_s']:.2f} s with none of its files in the "
        f"page cache; {result['private_mb']:.0f} MB of its own; torch "
        f"{'loaded' if result['torch'] else 'not loaded'}",
        flush=True,
    )
    return result


def _first(folder: Path, query: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", _FIRST, str(folder), str(query)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def _forget(folder: Path) -> None:
    """Drops the library's files from the page cache."""
    os.sync()
    for path in [folder / CATALOG_NAME, *(folder / INDEX_FOLDER).iterdir()]:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
