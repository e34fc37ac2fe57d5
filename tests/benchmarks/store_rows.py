"""Pictures and captions as an indexing run hands them to the catalog, by number, always the same.

Of a thousand pictures: 300 lie in a folder (named by year and event), 900 say when they were taken
and with which of 40 cameras, 400 where, 200 carry keywords (50 a folder share them, as albums do),
20 are copies of others. Vectors are random, of 512 dimensions, fp32 as encoders give them. Captions
are sentences of 8 to 14 words by Zipf's law over a vocabulary of 20,000, and name their picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache

import numpy as np
from words_cost import spelt

from mmsearch.store import ImageRow, TextRow
from mmsearch.types import PictureInfo, Space

DIM = 512
SPACE = Space("bench", DIM, "b" * 64, "none")
CAPTIONS_FILE = "captions.jsonl"
_FOLDER = 300
_LANDS = ("Norway", "Peru", "Kenya", "Japan", "Italy", "Germany", "France", "Spain")
_THINGS = ("holiday", "birthday", "wedding", "hike", "concert", "garden", "museum")
_MAKERS = ("Canon EOS", "NIKON D", "SONY ILCE-", "Apple iPhone", "FUJIFILM X-T")
_START = datetime(2008, 1, 1, 8)


def folder(n: int) -> str:
    """The folder of picture n."""
    f = n // _FOLDER
    day = _START + timedelta(days=f % 5840)
    return f"{day:%Y}/{day:%Y-%m-%d} {_LANDS[f % 8]} {_THINGS[f % 7]} {f:05}"


def path_of(n: int) -> str:
    return f"{folder(n)}/IMG_{n % 10_000:04}.jpg"  # cameras count to 9999


def hash_of(n: int) -> bytes:
    if n % 50 == 49:
        n -= 17  # a copy
    return hashlib.sha256(b"picture %d" % n).digest()


def info_of(n: int) -> PictureInfo:
    f = n // _FOLDER
    says = n % 10 != 3
    located = n % 5 in (0, 2)
    keywords = ()
    if n % 5 == 4:
        keywords = (_LANDS[f % 8].lower(), _THINGS[f % 7], spelt(f * 6 + n // 50 % 6))
    return PictureInfo(
        format="JPEG",
        width=4032 if n % 3 else 3024,
        height=3024 if n % 3 else 4032,
        taken_at=_START + timedelta(days=f % 5840, seconds=97 * (n % _FOLDER)) if says else None,
        camera=f"{_MAKERS[f % 5]}{f * 7 % 8}" if says else None,
        latitude=round(40 + (f * 37 % 2000) / 100 + n % 100 / 1e4, 6) if located else None,
        longitude=round(-10 + (f * 53 % 3000) / 100 + n % 100 / 1e4, 6) if located else None,
        keywords=keywords,
    )


@cache
def vectors() -> np.ndarray:
    """(5000, 512) float32, unit norm; picture n has row n % 5000."""
    xb = np.random.default_rng(0).standard_normal((5000, DIM), dtype=np.float32)
    return xb / np.linalg.norm(xb, axis=1, keepdims=True)


def pictures(source: int, numbers: Sequence[int]) -> list[ImageRow]:
    """New pictures; a copy brings no vector, as in a run."""
    xb = vectors()
    return [
        ImageRow(
            source,
            path_of(n),
            "",
            3_000_000 + n % 1_000_003,
            1_700_000_000_000_000_000 + 1_000_003 * n,
            hash_of(n),
            None if n % 50 == 49 else info_of(n),
            None if n % 50 == 49 else xb[n % len(xb)],
        )
        for n in numbers
    ]


def carried(source: int, numbers: Sequence[int], known: set[bytes]) -> list[TextRow]:
    """What these pictures say of themselves. `known`: texts that have vectors; grows."""
    xb = vectors()
    rows = []
    for n in numbers:
        keywords = info_of(n).keywords
        if n % 50 == 49:
            keywords = info_of(n - 17).keywords
        if not keywords:
            continue
        body = ", ".join(keywords)
        digest = hashlib.sha256(body.encode()).digest()
        new = digest not in known
        known.add(digest)
        path = path_of(n)
        rows.append(
            TextRow(
                source, path, "", "keywords", "embedded", body, digest, path,
                xb[n % len(xb)] if new else None,
            )
        )  # fmt: skip
    return rows


@cache
def _words() -> np.ndarray:
    rng = np.random.default_rng(1)
    weights = 1 / np.arange(1, 20_001)
    return rng.choice(20_000, 100_000, p=weights / weights.sum())


def caption(n: int) -> str:
    """A sentence; no two are the same."""
    words, at = _words(), n * 11 % 99_980
    some = " ".join(map(_spelt, words[at : at + 8 + n % 7].tolist()))
    return f"{some} {_spelt(n)}"


_spelt = cache(spelt)


def captions(source: int, numbers: Sequence[int]) -> list[TextRow]:
    """A caption of each of these pictures, in one file."""
    xb = vectors()
    rows = []
    for n in numbers:
        body = caption(n)
        digest = hashlib.sha256(body.encode()).digest()
        rows.append(
            TextRow(
                source, CAPTIONS_FILE, "", str(n + 1), "file", body, digest, path_of(n),
                xb[n % len(xb)],
            )
        )  # fmt: skip
    return rows
