"""scan: real folders with everything that lies about in them."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from indexer import sources
from indexer.sources import FileEntry, entry_for, kind_of, scan
from mmsearch.errors import MmsearchError, SourceError
from mmsearch.overview import (
    ScanProblem,
)

needs_permissions = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="the superuser may read everything"
)


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


def paths(root: Path, **options: object) -> list[str]:
    return [entry.path for entry in scan(root, **options) if isinstance(entry, FileEntry)]  # type: ignore[arg-type]


def problems(root: Path, **options: object) -> dict[str, str]:
    return {
        found.path: found.reason
        for found in scan(root, **options)  # type: ignore[arg-type]
        if isinstance(found, ScanProblem)
    }


def test_kinds_sizes_and_order(tmp_path: Path) -> None:
    put(tmp_path, "b.jpg", "a.JPEG", "z/c.png", "k/d.heic", "k/l/e.webp", "pack.zip", "x.tar.gz",
        "captions.csv", "notes.txt", "data.json", "film.mp4", "README.md", "noending")  # fmt: skip
    entries = [entry for entry in scan(tmp_path) if isinstance(entry, FileEntry)]
    assert [(entry.path, entry.kind) for entry in entries] == [
        ("a.JPEG", "image"),
        ("b.jpg", "image"),
        ("captions.csv", "texts"),
        ("pack.zip", "archive"),
        ("x.tar.gz", "archive"),
        ("k/d.heic", "image"),
        ("k/l/e.webp", "image"),
        ("z/c.png", "image"),
    ]
    for entry in entries:
        info = (tmp_path / entry.path).stat()
        assert (entry.size, entry.mtime_ns) == (info.st_size, info.st_mtime_ns)
        assert entry.of is None
    assert problems(tmp_path) == {}


def test_hidden_and_well_known_names_are_ignored(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", ".b.jpg", "._a.jpg", ".thumbnails/c.png", "@eaDir/a.jpg/t.jpg",
        "#recycle/d.jpg", "$RECYCLE.BIN/e.jpg", "__MACOSX/f.jpg", "lost+found/g.jpg",
        "System Volume Information/h.jpg", "Thumbs.db")  # fmt: skip
    assert paths(tmp_path) == ["a.jpg"]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ((), ["a.jpg", "b.PNG", "2019/a.jpg", "2019/raw1/c.jpg", "old/a.jpg", "old/deep/d.jpg"]),
        (("*.png",), ["a.jpg", "2019/a.jpg", "2019/raw1/c.jpg", "old/a.jpg", "old/deep/d.jpg"]),
        (("a.jpg",), ["b.PNG", "2019/raw1/c.jpg", "old/deep/d.jpg"]),
        (("/a.jpg",), ["b.PNG", "2019/raw1/c.jpg", "old/deep/d.jpg"]),
        (("old/",), ["a.jpg", "b.PNG", "2019/a.jpg", "2019/raw1/c.jpg"]),
        (("a.jpg/",), ["a.jpg", "b.PNG", "2019/a.jpg", "2019/raw1/c.jpg", "old/a.jpg",
                       "old/deep/d.jpg"]),
        (("2019/raw*",), ["a.jpg", "b.PNG", "2019/a.jpg", "old/a.jpg", "old/deep/d.jpg"]),
        (("old", "2019"), ["a.jpg", "b.PNG"]),
        (("**/deep/*",), ["a.jpg", "b.PNG", "2019/a.jpg", "2019/raw1/c.jpg", "old/a.jpg"]),
        (("*.jpg", "!c.jpg"), ["b.PNG", "2019/raw1/c.jpg"]),
        (("", "# all", "*.[jJ]pg"), ["b.PNG"]),
    ],
)  # fmt: skip
def test_exclude(tmp_path: Path, exclude: tuple[str, ...], left: list[str]) -> None:
    put(tmp_path, "a.jpg", "b.PNG", "2019/a.jpg", "2019/raw1/c.jpg", "old/a.jpg", "old/deep/d.jpg")
    if exclude == ("/a.jpg",):
        left = ["b.PNG", "2019/a.jpg", "2019/raw1/c.jpg", "old/a.jpg", "old/deep/d.jpg"]
    assert paths(tmp_path, exclude=exclude) == left


def test_ignore_file_holds_for_its_folder_and_below(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "x/a.png", "x/b.jpg", "x/y/a.png", "x/y/keep.png", "x/sub/c.jpg")
    (tmp_path / "x" / ".mmsearchignore").write_text("# no PNGs\n*.png\n/sub/\n", "utf-8")
    (tmp_path / "x" / "y" / ".mmsearchignore").write_text("!keep.png\n", "utf-8")
    assert paths(tmp_path) == ["a.png", "x/b.jpg", "x/y/keep.png"]
    assert paths(tmp_path, under="x/y") == ["x/y/keep.png"]
    put(tmp_path, "x/y/w/d.png", "x/y/w/e.jpg")
    assert paths(tmp_path, under="x/y/w") == ["x/y/w/e.jpg"]


def test_library_folder_is_not_descended(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "library/thumbs/b.webp", "x/library/c.jpg")
    assert paths(tmp_path, skip=tmp_path / "library") == ["a.jpg", "x/library/c.jpg"]
    (tmp_path / "link").symlink_to(tmp_path / "library")
    assert paths(tmp_path, skip=tmp_path / "link") == ["a.jpg", "x/library/c.jpg"]
    assert paths(tmp_path, skip=tmp_path / "library", follow_links=True) == [
        "a.jpg", "x/library/c.jpg",
    ]  # fmt: skip


def test_under(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "x/b.jpg", "x/y/c.jpg", "xy/d.jpg")
    assert paths(tmp_path, under="x") == ["x/b.jpg", "x/y/c.jpg"]
    assert paths(tmp_path, under="x/y/") == ["x/y/c.jpg"]
    assert paths(tmp_path, under="x/b.jpg") == ["x/b.jpg"]
    assert paths(tmp_path, under="gone") == []
    assert paths(tmp_path, under="gone.jpg") == []


def test_links_are_reported_or_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    put(outside, "a.jpg", "deep/b.jpg", "notes.md")
    root = tmp_path / "root"
    put(root, "own.jpg")
    (root / "folder").symlink_to(outside)
    (root / "one.jpg").symlink_to(outside / "a.jpg")
    (root / "notes.md").symlink_to(outside / "notes.md")
    assert paths(root) == ["own.jpg"]
    assert set(problems(root)) == {"folder", "one.jpg"}
    followed = ["one.jpg", "own.jpg", "folder/a.jpg", "folder/deep/b.jpg"]
    assert paths(root, follow_links=True) == followed
    assert problems(root, follow_links=True) == {}
    entry = next(e for e in scan(root, follow_links=True) if e.path == "one.jpg")
    assert isinstance(entry, FileEntry)
    assert entry.size == len("a.jpg")


def test_linked_folders_keep_their_own_names(tmp_path: Path) -> None:
    put(tmp_path / "root", "z/a.jpg", "z/deep/b.jpg")
    put(tmp_path, "other/c.jpg")
    root = tmp_path / "root"
    (root / "a").symlink_to(root / "z")
    (root / "up").symlink_to(tmp_path)
    assert paths(root, follow_links=True) == ["z/a.jpg", "z/deep/b.jpg", "up/other/c.jpg"]
    assert set(problems(root, follow_links=True)) == {"a"}


def test_loops_and_broken_links(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "x/b.jpg")
    (tmp_path / "x" / "up").symlink_to(tmp_path)
    (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    assert paths(tmp_path) == ["a.jpg", "x/b.jpg"]
    assert paths(tmp_path, follow_links=True) == ["a.jpg", "x/b.jpg"]
    assert problems(tmp_path, follow_links=True) == {
        "x/up": "a link to a folder that was read before",
        "self.jpg": "a symbolic link that leads to itself",
        "broken.jpg": "not found",
    }


def test_pipes_and_sockets_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock.png")
        assert problems(tmp_path) == {
            "pipe.jpg": "a named pipe, not a file",
            "sock.png": "a socket, not a file",
        }
    assert paths(tmp_path) == ["a.jpg"]


def test_directory_that_is_called_like_a_picture(tmp_path: Path) -> None:
    put(tmp_path, "x.jpg/y.jpg", "captions.txt/z.png", "a.zip/b.jpg")
    assert paths(tmp_path) == ["a.zip/b.jpg", "captions.txt/z.png", "x.jpg/y.jpg"]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    put(tmp_path, name, "ünï/日本.jpg", "line\nbreak.jpg")
    found = paths(tmp_path)
    assert found == [name, "line\nbreak.jpg", "ünï/日本.jpg"]
    assert (tmp_path / found[0]).read_bytes() == b"caf\xe9.jpg"


@needs_permissions
def test_unreadable_folder(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "closed/b.jpg", "z/c.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        assert paths(tmp_path) == ["a.jpg", "z/c.jpg"]
        assert problems(tmp_path) == {"closed": "no permission to read it"}
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for whoever runs this as the superuser."""
    put(tmp_path, "a.jpg", "closed/b.jpg", "z/c.jpg")
    real = os.scandir

    def refuse(where: str) -> object:
        if "closed" in where:
            raise PermissionError(13, "Permission denied")
        return real(where)

    monkeypatch.setattr(sources.os, "scandir", refuse)
    assert paths(tmp_path) == ["a.jpg", "z/c.jpg"]
    assert problems(tmp_path) == {"closed": "no permission to read it"}


def test_root_that_cannot_be_walked(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    for root, said in ((tmp_path / "gone", "not found"), (tmp_path / "a.jpg", "not a folder")):
        with pytest.raises(SourceError) as caught:
            scan(root)  # at the call, not at the first item
        assert caught.value.path == str(root)
        assert said in caught.value.reason
        assert isinstance(caught.value, MmsearchError)


def test_root_that_is_a_link(tmp_path: Path) -> None:
    put(tmp_path / "real", "a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert paths(tmp_path / "link") == ["a.jpg"]


def test_very_deep_folders(tmp_path: Path) -> None:
    where = str(tmp_path)
    for _ in range(sys.getrecursionlimit() + 50):
        where += "/d"
        os.mkdir(where)  # noqa: PTH102 -- Path.mkdir(parents=True) recurses
    Path(where, "a.jpg").write_bytes(b"")
    assert len(paths(tmp_path)) == 1
    while where != str(tmp_path):  # neither does pytest's own clean-up like such depths
        for name in os.listdir(where):  # noqa: PTH208
            full = f"{where}/{name}"
            os.rmdir(full) if name == "d" else os.unlink(full)  # noqa: PTH106, PTH108
        where = where[:-2]


def test_folder_that_goes_away_during_the_walk(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "x/b.jpg", "z/c.jpg")
    walk = scan(tmp_path)
    assert next(walk).path == "a.jpg"
    (tmp_path / "x" / "b.jpg").unlink()
    (tmp_path / "x").rmdir()
    assert [found.path for found in walk] == ["x", "z/c.jpg"]


def test_sidecars(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "a.txt", "b.JPG", "b.jpg.txt", "c.txt", "d.png.txt", "x/e.webp",
        "x/E.TXT", "x/a.txt", "captions.txt", "y/captions.txt", "y/captions.jpg")  # fmt: skip
    sidecars = {
        entry.path: (entry.kind, entry.of)
        for entry in scan(tmp_path)
        if isinstance(entry, FileEntry) and entry.kind != "image"
    }
    assert sidecars == {
        "a.txt": ("sidecar", "a.jpg"),
        "b.jpg.txt": ("sidecar", "b.JPG"),
        "captions.txt": ("texts", None),
        "x/E.TXT": ("sidecar", "x/e.webp"),
        "y/captions.txt": ("sidecar", "y/captions.jpg"),
    }


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("IMG.jpg", "img.jpg", "IMG.txt", "img.txt", "img.jpg.txt", "IMG.jpg.txt"),
         {"IMG.txt": "IMG.jpg", "img.txt": "img.jpg", "img.jpg.txt": "img.jpg",
          "IMG.jpg.txt": "IMG.jpg"}),
        (("IMG.JPG", "img.JPG", "IMG.txt", "img.TXT", "img.jpg.txt", "img.JPG.txt"),
         {"IMG.txt": "IMG.JPG", "img.TXT": "img.JPG", "img.jpg.txt": "img.JPG",
          "img.JPG.txt": "img.JPG"}),
        (("a.JPG", "a.jpg", "a.txt", "A.txt", "a.JPG.txt", "a.Jpg.txt"),
         {"a.txt": "a.jpg", "A.txt": "a.JPG", "a.JPG.txt": "a.JPG", "a.Jpg.txt": "a.JPG"}),
        (("IMG.jpg", "img.png", "IMG.txt", "img.txt"),
         {"IMG.txt": "IMG.jpg", "img.txt": "img.png"}),
    ],
)  # fmt: skip
def test_sidecars_of_pictures_that_differ_by_case(
    tmp_path: Path, names: tuple[str, ...], wanted: dict[str, str]
) -> None:
    put(tmp_path, *names)
    if len(list(tmp_path.iterdir())) < len(names):
        pytest.skip("the file system has no names that differ by case")
    entries = [entry for entry in scan(tmp_path) if isinstance(entry, FileEntry)]
    assert {entry.path: entry.of for entry in entries if entry.kind == "sidecar"} == wanted


def test_excluded_pictures_have_no_sidecars(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "a.txt")
    assert paths(tmp_path, exclude=["*.jpg"]) == []


def test_single_files(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "my words.txt", "b.zip", "c.doc")
    kinds = {}
    for name in ("a.jpg", "my words.txt", "b.zip"):
        entry = entry_for(tmp_path / name)
        assert isinstance(entry, FileEntry)
        assert entry.path == name
        kinds[name] = entry.kind
    assert kinds == {"a.jpg": "image", "my words.txt": "texts", "b.zip": "archive"}
    assert isinstance(entry_for(tmp_path / "c.doc"), ScanProblem)
    assert isinstance(entry_for(tmp_path), ScanProblem)
    with pytest.raises(SourceError, match="not found"):
        entry_for(tmp_path / "gone.jpg")


def test_kind_of() -> None:
    assert kind_of("A.JPG") == "image"
    assert kind_of("a.tgz") == "archive"
    assert kind_of("captions_val2017.json") == "texts"
    assert kind_of("jpg") is None
    assert kind_of("a.txt") is None


# -- raw files -----------------------------------------------------------------------------------


def test_a_raw_file_beside_the_same_picture_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "a.NEF", "a.jpg", "b.dng", "c.CR2", "C.heic", "d.arw.jpg", "d.arw", "e.nef",
        "e.txt", "e.mov", "x/a.nef", "x/b.jpg", "f.raf", "f.dng", "g.orf", "g.png")  # fmt: skip
    sights = sources.Sights()
    found = [e.path for e in scan(tmp_path, sights=sights) if isinstance(e, FileEntry)]
    assert found == [
        "C.heic", "a.jpg", "b.dng", "d.arw.jpg", "e.nef", "e.txt", "f.dng", "f.raf", "g.png",
        "x/a.nef", "x/b.jpg",
    ]  # fmt: skip
    assert sights.developed == 4


def test_what_is_not_read_stands_for_no_raw_file(tmp_path: Path) -> None:
    put(tmp_path, "a.nef", "a.jpg", "b.nef", "c.nef", "c.jpg/x.png", "d.nef", ".d.jpg", "e.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "e.jpg")
    exclude = ("a.jpg",)
    assert paths(tmp_path, exclude=exclude) == [
        "a.nef", "b.nef", "c.nef", "d.nef", "e.jpg", "c.jpg/x.png",
    ]  # fmt: skip
    assert "b.nef" not in paths(tmp_path, follow_links=True)


def test_a_raw_file_that_is_named_is_judged_as_in_its_folder(tmp_path: Path) -> None:
    put(tmp_path, "x/a.nef", "x/a.jpg", "x/b.nef", "c.dng", "c.png", "y/d.nef", "y/d.jpg")
    (tmp_path / "y" / ".mmsearchignore").write_text("*.jpg\n")
    sights = sources.Sights()
    assert not list(scan(tmp_path, under="x/a.nef", sights=sights))
    assert sights.developed == 1
    assert paths(tmp_path, under="c.dng") == []
    assert paths(tmp_path, under="c.dng", exclude=("*.png",)) == ["c.dng"]
    for name in ("x/b.nef", "x/a.jpg", "y/d.nef"):
        assert paths(tmp_path, under=name) == [name]
    assert isinstance(entry_for(tmp_path / "x" / "a.nef"), FileEntry)


def test_what_describes_a_raw_file_describes_the_picture_that_is_read(tmp_path: Path) -> None:
    put(tmp_path, "a.nef", "a.nef.txt", "b.NEF", "B.jpg", "b.nef.txt", "c.nef", "c.jpg", "c.txt")
    of = {e.path: e.of for e in scan(tmp_path) if isinstance(e, FileEntry) and e.of}
    assert of == {"a.nef.txt": "a.nef", "b.nef.txt": "B.jpg", "c.txt": "c.jpg"}
