"""One writer at a time, across processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmsearch.errors import LibraryLockedError, StoreError
from mmsearch.store.lock import writer_of, writing

HOLDER = """
import os, sys
from pathlib import Path
from mmsearch.store.lock import writing
if len(sys.argv) > 2:
    os.getpid = lambda: int(sys.argv[2])
with writing(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(library: Path, *pid: str) -> Iterator[subprocess.Popen[bytes]]:
    """By another process, which takes this for its number."""
    command = [sys.executable, "-c", HOLDER, library, *pid]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield holder


def test_second_process_is_told_who_holds_it_until_that_dies(tmp_path: Path) -> None:
    library = tmp_path / "library"
    with held(library) as holder:
        assert writer_of(library) == holder.pid
        with pytest.raises(LibraryLockedError) as caught, writing(library):
            pass
        assert caught.value.pid == holder.pid
        assert str(holder.pid) in str(caught.value)
        assert (library / "writer.pid").exists()
        holder.kill()
    assert writer_of(library) is None
    with writing(library):
        assert writer_of(library) == os.getpid()
    assert writer_of(library) is None
    assert not (library / "writer.pid").exists()


def test_second_writer_in_one_process(tmp_path: Path) -> None:
    with writing(tmp_path), pytest.raises(LibraryLockedError), writing(tmp_path):
        pass
    with writing(tmp_path):
        pass


def test_a_library_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"), writing(tmp_path / "file" / "x"):
        pass


def test_numbers_of_processes_mean_nothing_in_another_container(tmp_path: Path) -> None:
    library = tmp_path / "library"
    with held(library, "87654321") as holder:  # no process here has that number
        assert writer_of(library) == 87654321
        holder.kill()
    # Left by a writer that was killed, and the number of one that lives here.
    (library / "writer.pid").write_text(str(os.getpid()), encoding="ascii")
    assert writer_of(library) is None
