"""Systems that lack what Linux has: Windows, as far as it can be told from here."""

from __future__ import annotations

import json
import ntpath
import os
import subprocess
import sys
from pathlib import Path

import pytest
from collection import encoded, write

from indexer.exchange.places import Places
from mmsearch import filenames
from mmsearch.errors import RefusedError
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


def test_names_are_written_alike_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmsearch.filenames.os", _Windows())
    for given in (r"C:\Users\me\Photos", "C:/Users/me/Photos", r"C:/Users\me\Photos\."):
        assert filenames.real(given) == filenames.spelled(given) == "C:/Users/me/Photos"
    photos = filenames.real(r"C:\Users\me\Photos")
    assert filenames.joined(photos, "2019/a.jpg") == "C:/Users/me/Photos/2019/a.jpg"
    assert filenames.joined(photos, r"2019\a.jpg") == "C:/Users/me/Photos/2019/a.jpg"
    assert filenames.joined(photos, r"D:\b.jpg") == "D:/b.jpg"
    assert filenames.straightened(f"{photos}/2019/../b.jpg") == f"{photos}/b.jpg"
    assert filenames.relative(r"C:\Users\me\Photos\2019\a.jpg", photos) == "2019/a.jpg"
    assert filenames.relative(photos, photos) == ""
    assert filenames.shared([f"{photos}/2019/a", f"{photos}/2020/b"]) == photos
    assert filenames.shared(["2019/1/a", "2019/2/b"]) == "2019"
    assert filenames.real(r"\\server\share\x") == "//server/share/x"
    for apart in (["C:/Photos", r"D:\Photos"], ["C:/Photos", "2019"], ["C:/Photos", ""]):
        assert filenames.shared(apart) == ""
    with pytest.raises(ValueError, match="empty"):
        filenames.shared([])


def test_pictures_on_several_drives_of_windows_have_no_folder_in_common(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mmsearch.filenames.os", _Windows())
    monkeypatch.setattr(Places, "locate", lambda _, name: (filenames.spelled(name), ""))
    places = Places([], [], None)
    places.survey([r"C:\Users\me\a.jpg", r"D:\Photos\2019\b.jpg", r"D:\Photos\2019\c.jpg"])
    with pytest.raises(RefusedError, match=r"^the pictures have no folder in common\. Say"):
        places.settle()


def test_a_backslash_is_one_of_the_name_where_it_may_be(tmp_path: Path) -> None:
    odd = tmp_path / "a\\b"
    assert filenames.real(odd) == filenames.joined(str(tmp_path), "a\\b") == str(odd)


class _Windows:
    name = "nt"
    sep = ntpath.sep
    path = ntpath

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)
