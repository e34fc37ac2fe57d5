"""Names of files for libraries that do not take every name that a file may have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
