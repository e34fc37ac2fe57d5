"""Lines of an ignore list mean what they mean in .gitignore."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from indexer.ignore import placed
from indexer.sources import FileEntry, scan

FILES = (
    "2019/one.jpg",
    "2019/trip/two.jpg",
    "a/b/three.jpg",
    "a/x/b/three.jpg",
    "a/x/y/b/three.jpg",
    "a/b.jpg",
    "a/z.jpg",
    "a/[1].jpg",
    "a/1.jpg",
    "*.jpg",
    "#1.jpg",
    "!1.jpg",
    "end .jpg/1.jpg",
    "new\nline.jpg",
    "b/a/b.jpg",
)

CASES: list[tuple[tuple[str, ...], set[str]]] = [
    (("2019/*.jpg",), {"2019/one.jpg"}),
    (("2019/*",), {"2019/one.jpg", "2019/trip/two.jpg"}),
    (("2019/**",), {"2019/one.jpg", "2019/trip/two.jpg"}),
    (("/2019/**/two.jpg",), {"2019/trip/two.jpg"}),
    (("a/**/b",), {"a/b/three.jpg", "a/x/b/three.jpg", "a/x/y/b/three.jpg"}),
    (("a/**/**/b/",), {"a/b/three.jpg", "a/x/b/three.jpg", "a/x/y/b/three.jpg"}),
    (("a/*/b",), {"a/x/b/three.jpg"}),
    (("**/x/**/three.jpg",), {"a/x/b/three.jpg", "a/x/y/b/three.jpg"}),
    (("**/b/*.jpg",), {"a/b/three.jpg", "a/x/b/three.jpg", "a/x/y/b/three.jpg"}),
    (("**/a/b.jpg",), {"a/b.jpg", "b/a/b.jpg"}),
    (("a/b.jpg",), {"a/b.jpg"}),
    (("**/z.jpg",), {"a/z.jpg"}),
    (("a?b*",), set()),
    (("a/[^z].jpg",), {"a/b.jpg", "a/1.jpg"}),
    (("a/[!z].jpg",), {"a/b.jpg", "a/1.jpg"}),
    (("a/[a-c].jpg",), {"a/b.jpg"}),
    (("a[+-0]b.jpg",), set()),
    (("a/[[:digit:]].jpg",), {"a/1.jpg"}),
    (("a/[]1].jpg",), {"a/1.jpg"}),
    (("a/[z-a].jpg",), {"a/z.jpg"}),
    ((r"a/\[1].jpg",), {"a/[1].jpg"}),
    ((r"\[1\].jpg",), {"a/[1].jpg"}),
    (("[[]1].jpg",), {"a/[1].jpg"}),
    ((r"\*.jpg",), {"*.jpg"}),
    ((r"\#1.jpg",), {"#1.jpg"}),
    (("#1.jpg",), set()),
    ((r"\!1.jpg",), {"!1.jpg"}),
    (("end*/  ",), {"end .jpg/1.jpg"}),
    (("end .jpg  ",), {"end .jpg/1.jpg"}),
    ((r"end\ .jpg\ ",), set()),
    (("new*line.jpg",), {"new\nline.jpg"}),
    (("new?line.jpg",), {"new\nline.jpg"}),
    (("/*", "!/a/", "/a/*", "!/a/1.*"), {*FILES} - {"a/1.jpg"}),
    (("/**", "!/*.jpg"), {f for f in FILES if "/" in f}),
    (("", "/", "!"), set()),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def left_out(root: Path, *exclude: str) -> set[str]:
    """Which of the files."""
    return {*FILES} - {e.path for e in scan(root, exclude=exclude) if isinstance(e, FileEntry)}


@pytest.mark.parametrize(("exclude", "expected"), CASES)
def test_patterns(photos: Path, exclude: tuple[str, ...], expected: set[str]) -> None:
    assert left_out(photos, *exclude) == expected


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_patterns_of_a_file(photos: Path, newline: str) -> None:
    ignore = photos / "a" / ".mmsearchignore"
    ignore.write_text(newline.join(["[^z].jpg", "x/*/b", "/b/  "]), "utf-8", newline="")
    try:
        expected = {"a/b.jpg", "a/1.jpg", "a/x/y/b/three.jpg", "a/b/three.jpg"}
        assert left_out(photos) == expected
    finally:
        ignore.unlink()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_table_is_what_git_says(photos: Path, tmp_path: Path) -> None:
    git = ["git", "-c", "core.ignoreCase=true", f"--git-dir={tmp_path}/git"]
    subprocess.run([*git, "init", "-q"], check=True, cwd=photos)
    for exclude, expected in CASES:
        patterns = tmp_path / "patterns"
        patterns.write_text("\n".join(exclude) + "\n", "utf-8")
        options = ("-c", f"core.excludesFile={patterns}", f"--work-tree={photos}")
        told = subprocess.run(
            [*git, *options, "check-ignore", "--no-index", "-z", "--stdin"],
            input="\0".join(FILES).encode(),
            stdout=subprocess.PIPE,
            cwd=photos,
        ).stdout
        assert {*filter(None, told.decode().split("\0"))} == expected, exclude


def test_without_case_and_with_odd_bytes(tmp_path: Path) -> None:
    for name in ("Old/A.JPG", "caf\udce9/x.jpg", "caf\udce9.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def left(*exclude: str) -> list[str]:
        return [e.path for e in scan(tmp_path, exclude=exclude) if isinstance(e, FileEntry)]

    assert left("old/[a-c].jpg", "caf?/*", "caf\udce9.jpg") == []
    assert left("old/[^A].jpg", "[^\udce9]/*") == ["caf\udce9.jpg", "Old/A.JPG", "caf\udce9/x.jpg"]


def test_a_bracket_that_is_not_closed_is_one_of_the_name(tmp_path: Path) -> None:
    (tmp_path / "a[1.jpg").touch()
    assert [*scan(tmp_path, exclude=["*[1.*"])] == []


def test_no_pattern_takes_long(tmp_path: Path) -> None:
    deep = tmp_path / "/".join(["a" * 40] * 20)
    deep.mkdir(parents=True)
    (deep / ("a" * 200 + ".jpg")).touch()
    for pattern in ("*a" * 200 + "b", "**/a*/" * 60 + "b", "/" + "**/*a*a*a/" * 40 + "*a*a*b"):
        assert len([*scan(tmp_path, exclude=[pattern])]) == 1


@pytest.mark.parametrize("folder", ["a", "a/x", "b", "end .jpg", "end .jpg/[1]*\\?"])
def test_lines_of_a_folder_placed_further_up(tmp_path: Path, folder: str) -> None:
    """They mean there what they mean in a list of the folder itself."""
    inside = [f"{folder}/{file}" for file in FILES]
    for name in (*FILES, *inside):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    ignore = tmp_path / folder / ".mmsearchignore"
    for exclude, _ in CASES:
        up = [line for pattern in exclude if (line := placed(pattern, folder)) is not None]
        ignore.unlink(missing_ok=True)
        found = [*scan(tmp_path, exclude=up)]
        ignore.write_text("\n".join(exclude), "utf-8")
        assert found == [*scan(tmp_path)], exclude
