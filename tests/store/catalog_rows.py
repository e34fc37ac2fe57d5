"""Rows for tests of the store: contents are made of a letter, vectors follow from them."""

from __future__ import annotations

import hashlib

import numpy as np

from mmsearch.store import FailureRow, ImageRow, Pending, TextRow
from mmsearch.types import PictureInfo, Space

DIM = 8
SPACE = Space("some/model", DIM, "f" * 64, "as it is")
OTHER = Space("other/model", DIM, "e" * 64, "as it is")
INFO = PictureInfo("JPEG", 64, 48, keywords=("kite", "beach"))


def digest(content: str) -> bytes:
    return hashlib.sha256(content.encode()).digest()


def vector(content: str) -> np.ndarray:
    rng = np.random.default_rng(int.from_bytes(digest(content)[:8], "big"))
    v = rng.standard_normal(DIM).astype(np.float32)
    return v / np.linalg.norm(v)


def image(
    source_id: int,
    path: str,
    content: str,
    *,
    member: str = "",
    size: int = 1,
    mtime_ns: int = 1,
    known: bool = False,
) -> ImageRow:
    return ImageRow(
        source_id,
        path,
        member,
        size,
        mtime_ns,
        digest(content),
        None if known else INFO,
        None if known else vector(content),
    )


def text(
    source_id: int,
    path: str,
    key: str,
    body: str,
    ref: str | None = None,
    *,
    origin: str = "file",
    member: str = "",
) -> TextRow:
    return TextRow(
        source_id, path, member, key, origin, body, digest(body), ref, vector("text " + body)
    )


def failure(
    source_id: int, path: str, *, key: str = "", mtime_ns: int = 1, transient: bool = False
) -> FailureRow:
    return FailureRow(source_id, path, "", key, 1, mtime_ns, "broken", transient)


def saw(path: str, kind: str = "image", *, mtime_ns: int = 1, of: str | None = None) -> Pending:
    return Pending(path, kind, 1, mtime_ns, of)
