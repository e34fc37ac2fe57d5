"""Systems that lack what Linux has: Windows, as far as it can be told from here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from collection import encoded, write

from mmsearch.store.lock import writer_of, writing

#: Takes away what Windows does not have, imports all there is, and indexes a folder.
WITHOUT = """
import importlib, json, os, pkgutil, signal, sys

for module, names in {
    signal: ("SIGBUS", "SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "pthread_sigmask"),
    os: ("sched_getaffinity", "geteuid", "memfd_create", "O_NOFOLLOW", "O_DIRECTORY", "killpg"),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.modules["fcntl"] = sys.modules["resource"] = sys.modules["pwd"] = None

import indexer, mmsearch

failed = {}
for package in (mmsearch, indexer):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__") and ".migrations" not in found.name:
            try:
                importlib.import_module(found.name)
            except Exception as exc:
                failed[found.name] = repr(exc)
print(json.dumps(failed))

from mmsearch.cli import main
main()
"""


@pytest.mark.slow
def test_all_is_imported_and_a_folder_indexed_where_only_windows_names_are(tmp_path: Path) -> None:
    write(tmp_path / "pictures" / "a.png", encoded(1))
    library = tmp_path / "library"
    arguments = ["index", "--model", "tiny", "--json", tmp_path / "pictures"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "-l", library, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    failed, report = done.stdout.split("\n", 1)
    assert json.loads(failed) == {}
    assert json.loads(report)["encoded_images"] == 1


def test_a_writer_is_named_where_files_have_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.store.lock.fcntl", None)
    with writing(tmp_path):
        assert writer_of(tmp_path) == os.getpid()
    assert writer_of(tmp_path) is None
