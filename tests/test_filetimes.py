"""Times of files that the catalog can keep."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import cast

import pytest

from mmsearch.filetimes import modified_ns


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (1_600_000_000_123_456_789, 1_600_000_000_123_456_789),
        (-11_644_473_600_000_000_000, 0),  # 1601, as NTFS says where it knows no time
        (-1, 0),
        (10_413_792_000_000_000_000, 2**63 - 1),  # 2300
    ],
)
def test_every_time_fits(told: int, kept: int) -> None:
    assert modified_ns(cast(os.stat_result, SimpleNamespace(st_mtime_ns=told))) == kept
