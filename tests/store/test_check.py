"""The doctor's checks go through a catalog in parts: a larger one takes no more memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from catalog_rows import SPACE, image, text

from mmsearch.index.check import recall
from mmsearch.index.flat import FlatIndex
from mmsearch.store import CatalogWriter
from mmsearch.store.check import CatalogCheck
from mmsearch.store.mend import examined
from mmsearch.told import Details, Told, told_json

SMALL, LARGE = 500, 5000
_A_PART = 200


def filled(path: Path, n: int) -> Path:
    """n pictures, of each of which a file beside it tells something, and a caption of each. No two
    have the same words."""
    told = told_json(Told(over=Details(title="told")))
    with closing(CatalogWriter(path)) as writer:
        space_id = writer.ensure_space(SPACE)
        source = writer.ensure_source("/photos", "folder", (), False)
        writer.commit(
            space_id,
            [
                replace(image(source, f"p{k}/x{k}.jpg", f"picture {k}"), beside="[1]", told=told)
                for k in range(n)
            ],
            [text(source, "c.csv", str(k), f"words of {k} and q{k}y") for k in range(n)],
        )
    return path


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("check")
    return filled(folder / "small.db", SMALL), filled(folder / "large.db", LARGE)


CHECKS: dict[str, tuple[Callable[[CatalogCheck], Any], Callable[[Any], bool], int]] = {
    # What is asked, whether the answer is that all is well, and bytes a content that may be kept.
    "words": (CatalogCheck.words, lambda found: not found, 4),
    "details": (CatalogCheck.unsettled, lambda found: found == ([], []), 4),
    "vectors": (lambda check: check.bad_vectors(1, SPACE.dim), lambda found: not found.ids, 4),
    "ids": (
        lambda check: check.with_vector(1, "image", 1 << 40),
        lambda found: len(found) in (SMALL, LARGE) and bool((np.diff(found) > 0).all()),
        40,  # eight once they are sorted, and their digits before
    ),
}


@pytest.mark.parametrize("check", CHECKS)
def test_checks_take_as_much_memory_of_a_large_catalog(
    catalogs: tuple[Path, Path], check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("word_check._IDS_A_CHUNK", "details._CONTENTS_A_CHUNK", "check._ROWS_A_CHUNK"):
        monkeypatch.setattr(f"mmsearch.store.{name}", _A_PART)
    ask, is_well, bytes_a_content = CHECKS[check]
    peaks = []
    for path in catalogs:
        with examined(path) as (looks, _):
            assert is_well(ask(looks))  # and what is remembered for good is
            tracemalloc.start()
            try:
                ask(looks)
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
    assert peaks[1] < 1.25 * peaks[0] + bytes_a_content * (LARGE - SMALL), peaks


@pytest.mark.parametrize("n", [0, 1, 7, 300, 5000])
def test_what_is_truly_nearest_is_found_in_parts(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole index finds it all; one that lacks a tenth of what is nearest, nine tenths."""
    monkeypatch.setattr("mmsearch.index.check._ROWS_A_PRODUCT", 64)
    rng = np.random.default_rng(n)
    xb = rng.standard_normal((n, SPACE.dim), dtype=np.float32)
    xb = (xb / np.linalg.norm(xb, axis=1, keepdims=True)).astype(np.float16)
    xq = rng.standard_normal((20, SPACE.dim), dtype=np.float32)
    xq /= np.linalg.norm(xq, axis=1, keepdims=True)
    ids = np.arange(10, 10 + n)
    hidden = ids[::5]
    index = FlatIndex(SPACE, "image")
    if n:
        index.add(1, ids, xb)
    index.hide(hidden)
    chunks = [(ids[a : a + 1000], xb[a : a + 1000]) for a in range(0, n, 1000)]
    assert recall(index, xq, chunks, hidden, 10) == 1
    if n == 5000:
        shown = np.setdiff1d(ids, hidden)
        scores = xq @ xb[shown - 10].astype(np.float32).T
        nearest = shown[np.argmax(scores, axis=1)]
        index.hide(np.union1d(hidden, nearest))
        lost = np.isin(shown[np.argsort(-scores, axis=1)[:, :10]], nearest).mean()
        # (What comes in its place may be as near as the last of the ten, to a thousandth.)
        assert recall(index, xq, chunks, hidden, 10) == pytest.approx(1 - lost, abs=0.05)
