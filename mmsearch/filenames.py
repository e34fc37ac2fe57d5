"""Names of files: written alike on every system, and for libraries that do not take every name.

Wherever a library or a run keeps the place of a file, "/" stands between the parts, on Windows too,
which opens such names as well as its own: so that a place begins with the folder it lies in, and a
library says the same of its files wherever it is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Of strings and by os.path: names may hold bytes that are no characters, and come by the million.


def real(path: str | Path) -> str:
    """The absolute path, without links."""
    return _alike(os.path.realpath(path))


def spelled(path: str | Path) -> str:
    """The absolute path as it is given: links stay."""
    return _alike(os.path.abspath(path))


def joined(folder: str, *names: str) -> str:
    """What these names mean in a folder."""
    return _alike(os.path.join(folder, *names))


def straightened(path: str) -> str:
    """A path without "." and ".."."""
    return _alike(os.path.normpath(path))


def relative(path: str, folder: str) -> str:
    """Where a path lies, as seen from a folder; "" is the folder itself."""
    seen = _alike(os.path.relpath(path, folder))
    return "" if seen == "." else seen


def shared(paths: Sequence[str]) -> str:
    """The longest path that all of these lie in; "" where there is none: they begin differently, or
    lie on several drives of Windows.

    Raises ValueError: there are no paths.
    """
    try:
        return _alike(os.path.commonpath(paths))
    except ValueError:
        if not paths:
            raise
        return ""


def _alike(path: str) -> str:
    return path if os.sep == "/" else path.replace(os.sep, "/")


def from_home(path: str | os.PathLike[str]) -> Path:
    """The path with the home folder for ~ or ~NAME, or as it is where nobody has one.

    `Path.expanduser` raises RuntimeError there.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111


@contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """A name of the file that FAISS and Arrow can open: they take none that is not UTF-8.

    It is good within the context; what they have opened or mapped stays so. Raises OSError.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield str(path)
