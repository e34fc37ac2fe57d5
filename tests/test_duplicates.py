"""Duplicates of a real library: versions of pictures, copies, bursts; and the look at pixels."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from collection import encoded, picture, run, write
from PIL import Image

from mmsearch.duplicates import PixelCheck, find, grey, likeness
from mmsearch.errors import QueryError
from mmsearch.library import CATALOG_NAME, Library
from mmsearch.store import Catalog, CatalogWriter, ImageRow
from mmsearch.types import PictureInfo, Space

DIM = 24
SPACE = Space("some/model", DIM, "f" * 64, "as it is")


def unit(rng: np.random.Generator, n: int) -> np.ndarray:
    rows = rng.standard_normal((n, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[tuple[Catalog, int, np.ndarray, list[PictureInfo]]]:
    """90 pictures in clusters of three, of various sizes and times; ids are 1 to 90."""
    rng = np.random.default_rng(0)
    centres = np.repeat(unit(rng, 30), 3, axis=0)
    vectors = centres + 0.06 * rng.standard_normal((90, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    start = datetime(2020, 1, 1)
    infos = [
        PictureInfo(
            "JPEG",
            int(rng.integers(1, 5)) * 100,
            100,
            taken_at=None if n % 4 == 0 else start + timedelta(seconds=int(rng.integers(0, 40))),
        )
        for n in range(90)
    ]
    path = tmp_path / CATALOG_NAME
    with closing(CatalogWriter(path)) as writer:
        space_id = writer.ensure_space(SPACE)
        source = writer.ensure_source("/photos", "folder", (), False)
        for n in range(90):
            row = ImageRow(
                source, f"{n:03}.jpg", "", 1000 + n % 7, 1, n.to_bytes(32, "big"), infos[n],
                vectors[n],
            )  # fmt: skip
            writer.commit(space_id, images=[row])
    with closing(Catalog(path)) as catalog:
        yield catalog, space_id, vectors.astype(np.float16).astype(np.float32), infos


def by_hand(
    vectors: np.ndarray,
    infos: list[PictureInfo],
    threshold: float,
    burst_s: float | None = None,
    burst_threshold: float = 0.0,
    only: set[int] | None = None,
) -> list[list[int]]:
    """The groups, by plain loops: ids from 1."""

    def alike(a: int, b: int) -> bool:
        cosine = float(vectors[a] @ vectors[b])
        one, other = infos[a].taken_at, infos[b].taken_at
        near = (
            burst_s is not None
            and one is not None
            and other is not None
            and abs((one - other).total_seconds()) <= burst_s
        )
        return cosine >= (min(threshold, burst_threshold) if near else threshold)

    order = sorted(
        (n for n in range(len(vectors)) if only is None or n + 1 in only),
        key=lambda n: (-infos[n].width * infos[n].height, -(1000 + n % 7), n),
    )
    groups: dict[int, list[int]] = {}
    for n in order:
        head = next((h for h in groups if alike(h, n)), None)
        groups.setdefault(n if head is None else head, []).append(n)
    found = [
        [
            h + 1,
            *(m + 1 for m in sorted(ms[1:], key=lambda m, h=h: -float(vectors[h] @ vectors[m]))),
        ]
        for h, ms in groups.items()
        if len(ms) > 1
    ]
    return sorted(found, key=lambda ids: (-len(ids), ids[0]))


@pytest.mark.parametrize("threshold", [0.99, 0.94, 0.9, 0.3])
def test_groups_are_those_of_plain_loops(
    filled: tuple[Catalog, int, np.ndarray, list[PictureInfo]], threshold: float
) -> None:
    catalog, space_id, vectors, infos = filled
    found = find(catalog, space_id, threshold=threshold)
    assert [list(group.ids) for group in found] == by_hand(vectors, infos, threshold)
    for group in found:
        head = vectors[group.ids[0] - 1]
        expected = [min(1.0, float(head @ vectors[id_ - 1])) for id_ in group.ids]
        np.testing.assert_allclose(group.similarities, expected, atol=1e-3)
        assert group.similarities[0] == 1


def test_bursts_and_parts_of_the_library(
    filled: tuple[Catalog, int, np.ndarray, list[PictureInfo]],
) -> None:
    catalog, space_id, vectors, infos = filled
    strict = by_hand(vectors, infos, 0.99)
    loose = by_hand(vectors, infos, 0.99, 10, 0.8)
    assert strict != loose
    found = find(catalog, space_id, threshold=0.99, burst_s=10, burst_threshold=0.8)
    assert [list(group.ids) for group in found] == loose
    only = set(range(1, 91, 2))
    part = find(catalog, space_id, threshold=0.9, only=np.array(sorted(only)))
    assert [list(g.ids) for g in part] == by_hand(vectors, infos, 0.9, only=only)
    assert part


def test_a_second_opinion_is_heard(
    filled: tuple[Catalog, int, np.ndarray, list[PictureInfo]],
) -> None:
    catalog, space_id, _, _ = filled
    assert find(catalog, space_id, confirm=lambda _one, _other: False) == []
    assert find(catalog, space_id, confirm=lambda _one, _other: True) == find(catalog, space_id)


def test_hidden_pictures_and_other_spaces_are_not_met(
    filled: tuple[Catalog, int, np.ndarray, list[PictureInfo]], tmp_path: Path
) -> None:
    catalog, space_id, _, _ = filled
    assert find(catalog, space_id)
    with closing(CatalogWriter(tmp_path / CATALOG_NAME)) as writer:
        other = writer.ensure_space(Space("other/model", DIM, "e" * 64, "as it is"))
        source = writer.ensure_source("/photos", "folder", (), False)
        writer.sources.remove(source, lambda _removal, _lost, _gone: None)
    assert find(catalog, space_id) == []
    assert find(catalog, other) == []


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.1])
def test_a_threshold_that_makes_no_sense(
    filled: tuple[Catalog, int, np.ndarray, list[PictureInfo]], threshold: float
) -> None:
    with pytest.raises(QueryError, match="threshold"):
        find(filled[0], filled[1], threshold=threshold)


# --- by pixels -----------------------------------------------------------------------------------


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("side", [1, 5, 16, 17, 40, 133])
def test_small_grey_versions_are_means_of_fields(side: int) -> None:
    image = np.random.default_rng(side).integers(0, 256, (side, side + 3, 3), dtype=np.uint8)
    small = grey(image)
    assert small.shape == (16, 16)
    luma = image.astype(np.float64) @ [0.299, 0.587, 0.114]
    if side >= 16:
        height, width = luma.shape
        for y in (0, 7, 15):
            for x in (0, 8, 15):
                rows = slice(y * height // 16, (y + 1) * height // 16)
                columns = slice(x * width // 16, (x + 1) * width // 16)
                assert small[y, x] == pytest.approx(luma[rows, columns].mean(), abs=0.01)


def test_versions_are_like_and_others_are_not() -> None:
    original = picture(1, 120)
    small = original.resize((50, 50))
    brighter = Image.fromarray(np.clip(pixels(original) * 1.2 + 10, 0, 255).astype(np.uint8))
    cropped = original.crop((4, 4, 118, 118))
    for version in (original, small, brighter, cropped, original.convert("L")):
        assert likeness(grey(pixels(original)), grey(pixels(version))) > 0.9
    others = [likeness(grey(pixels(original)), grey(pixels(picture(n, 120)))) for n in range(2, 30)]
    assert sum(other > 0.6 for other in others) <= 3  # waves that happen to run alike
    plain = grey(np.full((30, 30, 3), 9, np.uint8))
    assert likeness(plain, plain) == 1
    assert likeness(plain, grey(pixels(original))) == 0


def test_each_picture_is_read_once_and_what_cannot_be_read_is_like_none() -> None:
    read: list[int] = []

    def give(id_: int) -> np.ndarray | None:
        read.append(id_)
        return None if id_ == 3 else pixels(picture(1))

    check = PixelCheck(give)
    assert check(1, 2)
    assert check(2, 1)
    assert not check(1, 3)
    assert not check(3, 2)
    assert sorted(read) == [1, 2, 3]
    assert check.unread == 1


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model: str) -> Path:
    """A library of pictures, a version of one, and copies of two. Not to be written to."""
    root = tmp_path_factory.mktemp("duplicates")
    for n in range(6):
        write(root / "Photos" / f"{n}.png", encoded(n))
    jpeg = io.BytesIO()
    picture(0).save(jpeg, "JPEG", quality=97)
    write(root / "Photos" / "0 again.jpg", jpeg.getvalue())
    write(root / "Photos" / "sub" / "0 copy.png", encoded(0))
    write(root / "Photos" / "sub" / "5 copy.png", encoded(5))
    write(root / "Photos" / "sub" / "5 copy 2.png", encoded(5))
    run(root / "library", root / "Photos", model=model)
    return root


def command(root: Path, *args: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "mmsearch", "-l", root / "library", "duplicates", *args],
        capture_output=True,
        timeout=120,
        cwd=root,
    )


def names(document: dict) -> list[list[str]]:
    return [
        [Path(path).name for p in group["pictures"] for path in (p["path"], *p["copies"])]
        for group in document["groups"]
    ]


def test_copies_and_versions_are_listed_the_largest_group_first(made: Path) -> None:
    document = json.loads(command(made, "--exact-only", "--json").stdout)
    assert names(document) == [["5.png", "5 copy 2.png", "5 copy.png"], ["0.png", "0 copy.png"]]
    # The model's weights are random and find all pictures alike: the version is the nearest.
    with Library(made / "library", device="cpu") as library:
        ids = {Path(h.image.path).name: h.image.id for h in library.search("x", k=20)}
        vectors = library.catalog.vectors
        a, b = (vectors.get(1, ids[name]) for name in ("0.png", "0 again.jpg"))
        assert a is not None
        assert b is not None
        near = float((a @ b.T).item())
        others = [vectors.get(1, ids[f"{n}.png"]) for n in range(1, 6)]
        assert max(float((a @ v.T).item()) for v in others if v is not None) < near - 1e-4
    done = command(made, "--threshold", str(near - 1e-4), "--json")
    document = json.loads(done.stdout)
    number = next(n for n, group in enumerate(names(document)) if group[0] == "0.png")
    assert names(document)[number] == ["0.png", "0 copy.png", "0 again.jpg"]
    pictures = document["groups"][number]["pictures"]
    assert pictures[0]["similarity"] == 1
    assert pictures[1]["similarity"] == pytest.approx(near, abs=1e-3)
    size = (made / "Photos" / "0.png").stat().st_size
    again = (made / "Photos" / "0 again.jpg").stat().st_size
    assert document["groups"][number]["bytes_beyond_the_best"] == size + again
    assert document["total_files"] >= 6


def test_paths_are_those_of_all_but_the_best(made: Path) -> None:
    done = command(made, "--exact-only", "--paths", "-0")
    paths = done.stdout.split(b"\0")
    assert [Path(p.decode()).name for p in paths[:-1]] == [
        "5 copy 2.png",
        "5 copy.png",
        "0 copy.png",
    ]
    assert paths[-1] == b""
    assert all(Path(p.decode()).exists() for p in paths[:-1])
    assert command(made, "--exact-only", "--paths", "--limit", "1").stdout.count(b"\n") == 2


def test_for_people(made: Path) -> None:
    done = command(made, "--exact-only")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("3 files, ")
    assert lines[1].strip().startswith("1.000  Photos/5.png  (40×40, ")
    assert lines[2].strip() == "copy  Photos/sub/5 copy 2.png"
    assert b"2 groups, 5 files" in done.stderr


def test_pixels_confirm(made: Path) -> None:
    # Without them random weights call everything alike.
    everything = json.loads(command(made, "--threshold", "0.01", "--json").stdout)
    checked = json.loads(command(made, "--threshold", "0.01", "--check-pixels", "--json").stdout)
    assert len(everything["groups"][0]["pictures"]) > 2
    group = next(g for g in names(checked) if "0.png" in g)
    assert "0 again.jpg" in group
    assert len(group) < len(names(everything)[0])


def test_nothing_found_is_said(made: Path) -> None:
    done = command(made, "--threshold", "1", "--where", "format:gif")
    assert done.returncode == 0
    assert done.stdout == b""
    assert b"No duplicates were found." in done.stderr


def test_all_of_several_conditions_hold(made: Path) -> None:
    done = command(made, "--exact-only", "--json", "--where", "path:0*", "--where", "path:5*")
    assert json.loads(done.stdout)["groups"] == []
    done = command(made, "--exact-only", "--json", "--where", "format:png", "--where", "path:5*")
    assert [group[0] for group in names(json.loads(done.stdout))] == ["5.png"]


def test_an_option_that_would_do_nothing_is_told(made: Path) -> None:
    done = command(made, "--exact-only", "-0")
    assert done.returncode == 2
    assert b"-0 goes with --paths" in done.stderr


def to_move(root: Path) -> list[str]:
    """The paths that --paths prints, relative to `root`."""
    done = command(root, "--exact-only", "--paths", "-0")
    assert done.returncode == 0, done.stderr
    return [os.path.relpath(p, root) for p in done.stdout.decode().split("\0") if p]


def test_a_link_to_a_file_is_no_copy_of_it(tmp_path: Path, model: str) -> None:
    write(tmp_path / "Photos" / "0.png", encoded(0))
    write(tmp_path / "Photos" / "1.png", encoded(1))
    (tmp_path / "Albums").mkdir()
    (tmp_path / "Albums" / "best.png").symlink_to("../Photos/0.png")
    (tmp_path / "Albums" / "folder").symlink_to("../Photos")
    run(tmp_path / "library", tmp_path / "Albums", model=model, follow_links=True)
    run(tmp_path / "library", tmp_path / "Photos", model=model)
    (tmp_path / "Photos" / "hard.png").hardlink_to(tmp_path / "Photos" / "1.png")
    run(tmp_path / "library", model=model)
    assert to_move(tmp_path) == []
    assert json.loads(command(tmp_path, "--exact-only", "--json").stdout)["total_files"] == 0
    # A copy is one beside links, too, and what is kept is no link.
    write(tmp_path / "Photos" / "z" / "copy.png", encoded(0))
    run(tmp_path / "library", model=model)
    assert to_move(tmp_path) == ["Photos/z/copy.png"]
    document = json.loads(command(tmp_path, "--exact-only", "--json").stdout)
    assert names(document) == [["0.png", "copy.png"]]
    assert document["bytes_beyond_the_best"] == len(encoded(0))


def test_what_is_to_be_moved_is_there_is_no_member_and_leaves_one_file(
    tmp_path: Path, model: str
) -> None:
    write(tmp_path / "A" / "gone.png", encoded(0))
    write(tmp_path / "B" / "only.png", encoded(0))
    for name in ("1.png", "1 copy.png"):
        write(tmp_path / "B" / name, encoded(1))
    with zipfile.ZipFile(tmp_path / "A" / "a.zip", "w") as archive:
        archive.writestr("1.png", encoded(1))
        archive.writestr("2.png", encoded(2))
    write(tmp_path / "B" / "2.png", encoded(2))
    run(tmp_path / "library", tmp_path / "A", tmp_path / "B", model=model)
    (tmp_path / "A" / "gone.png").unlink()
    assert to_move(tmp_path) in (["B/1.png"], ["B/1 copy.png"])
