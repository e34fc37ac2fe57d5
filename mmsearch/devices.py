"""Names of the devices that a model may run on, told from mistakes without importing torch."""

from __future__ import annotations

import re

_NAME = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,4})?")


def check(name: str, *, several: bool = False) -> str:
    """The name as it is given. several: or some with commas between them, a process each.

    Raises ValueError for what can be none on any machine.
    """
    parts = [part.strip() for part in name.split(",")] if several else [name]
    wrong = next((part for part in parts if not _NAME.fullmatch(part)), None)
    if wrong is not None:
        kinds = "auto, cpu, mps, cuda, or one of several as cuda:1"
        raise ValueError(f"{wrong!r} is no device: {kinds}")
    return name
