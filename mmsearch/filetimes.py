"""When files were changed, as the catalog keeps it."""

from __future__ import annotations

import os

_LAST_NS = 2**63 - 1


def modified_ns(info: os.stat_result) -> int:
    """When a file was last changed, in nanoseconds since 1970.

    Some file systems allow times that 64 bits do not hold (after 2262) or that mean something else
    in the catalog (before 1970: to be read again). The nearest that is neither stands for them;
    NTFS says 1601 where it knows no time. All times that are compared must be of this kind.
    """
    return min(max(info.st_mtime_ns, 0), _LAST_NS)
