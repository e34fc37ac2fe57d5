"""One writer at a time, across processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmsearch.errors import LibraryLockedError, StoreError
from mmsearch.store.lock import writer_of, writing

HOLDER = """
import sys
from pathlib import Path
from mmsearch.store.lock import writing
with writing(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_process_is_told_who_holds_it_until_that_dies(tmp_path: Path) -> None:
    library = tmp_path / "library"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, library], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LibraryLockedError) as caught, writing(library):
            pass
        assert caught.value.pid == holder.pid
        assert str(holder.pid) in str(caught.value)
        assert (library / "writer.pid").exists()
        holder.kill()
    with writing(library):
        pass
    assert not (library / "writer.pid").exists()


def test_who_was_killed_writes_no_longer_whoever_has_its_number_now(tmp_path: Path) -> None:
    """In a container it is soon another's, and what began first has the same in each."""
    library = tmp_path / "library"
    assert writer_of(library) is None
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, library], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert writer_of(library) == holder.pid
        assert writer_of(library) == holder.pid  # to ask changes nothing
        holder.kill()
    (library / "writer.pid").write_text(str(os.getpid()), encoding="ascii")
    assert writer_of(library) is None
    with writing(library):
        assert writer_of(library) == os.getpid()
    assert writer_of(library) is None


def test_second_writer_in_one_process(tmp_path: Path) -> None:
    with writing(tmp_path), pytest.raises(LibraryLockedError), writing(tmp_path):
        pass
    with writing(tmp_path):
        pass


def test_a_library_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"), writing(tmp_path / "file" / "x"):
        pass
