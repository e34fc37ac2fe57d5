"""The failing disk of faults.c: compiled when needed, loaded before libc, armed by a call."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).with_name("faults.c")


@dataclass(frozen=True, slots=True)
class Fault:
    """Which write below a folder fails, and how.

    nth: 1 is the first; 0 lets all pass and only counts. code: an errno, 0 kills the process.
    persistent: all later ones fail too. torn: half of the data is written before.
    """

    nth: int = 0
    code: int = 0
    persistent: bool = False
    torn: bool = False


def lacking() -> str | None:
    """Why writes cannot be made to fail here; None where they can."""
    if not sys.platform.startswith("linux"):
        return "LD_PRELOAD and /proc are of Linux"
    if shutil.which("cc") is None:
        return "there is no C compiler (cc)"
    return None


def compiled(folder: Path) -> Path:
    """Compiles the library into `folder`. Raises CalledProcessError when the compiler fails."""
    library = folder / "faults.so"
    command = ["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl"]
    subprocess.run(command, check=True)
    return library


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process in which faults can be armed."""
    return {"LD_PRELOAD": str(compiled(folder))} if lacking() is None else {}


class Shim:
    """The library as this process has it loaded; `there` tells whether it has."""

    def __init__(self) -> None:
        self._calls = ctypes.CDLL(None)
        self.there = "faults.so" in os.environ.get("LD_PRELOAD", "")
        if self.there:
            self._calls.faults_count.restype = ctypes.c_long
            self._calls.faults_fired.restype = ctypes.c_long
            self._calls.faults_what.restype = ctypes.c_char_p

    def reset(self) -> None:
        """Before a fork: the counts of the last child are forgotten."""
        if self.there:
            self._calls.faults_reset()

    def arm(self, folder: Path, fault: Fault) -> None:
        """In the child: from now on its writes below `folder` are counted, and fail as asked."""
        if self.there:
            self._calls.faults_arm(
                os.fsencode(folder),
                ctypes.c_long(fault.nth),
                fault.code,
                int(fault.persistent),
                int(fault.torn),
            )

    def disarm(self) -> None:
        """In the child: what comes now passes (its counts stay)."""
        if self.there:
            self._calls.faults_arm(b"/nowhere", ctypes.c_long(0), 0, 0, 0)

    @property
    def count(self) -> int:
        """Writes that the last child began."""
        return int(self._calls.faults_count()) if self.there else 0

    @property
    def fired(self) -> int:
        """How many of them failed."""
        return int(self._calls.faults_fired()) if self.there else 0

    @property
    def what(self) -> str:
        """The first of them: the operation and the path below the folder."""
        return str(self._calls.faults_what().decode(errors="replace")) if self.there else ""
