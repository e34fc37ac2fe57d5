"""Names of files as people write them, and for libraries that do not take every name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
