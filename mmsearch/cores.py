"""How many cores this process may run on."""

from __future__ import annotations

import os


def allowed() -> int:
    """At least 1. What a container's share of its machine allows is not looked at."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, there or 1)
