"""What cannot be reached is kept; what was deleted is not."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tarfile
import zipfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from collection import encoded, failing_drive, run, save_model, titled, write

from indexer import load
from indexer.ingest import index_parts
from indexer.prepare import Job, Loaded
from indexer.targets import Target
from mmsearch import archive
from mmsearch.errors import LibraryNotFoundError
from mmsearch.library import Library


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    write(root / "a.png", encoded(0))
    for n in range(1, 4):
        write(root / "nas" / "2020" / f"{n}.png", encoded(n))
    write(root / "nas" / "4.png", encoded(4))
    return root


@pytest.fixture
def library(tmp_path: Path, photos: Path, model: str) -> Path:
    run(tmp_path / "library", photos, model=model)
    return tmp_path / "library"


def count(library: Path) -> int:
    with Library(library) as lib:
        return lib.status().images


def read_later(library: Path, **later: float) -> None:
    """As if the source had been read, with all its files, that much later than now.

    A folder's ctime, which tells when its files were deleted, cannot be set; the other side can.
    """
    at = (datetime.now(UTC) + timedelta(**later)).strftime("%Y-%m-%d %H:%M:%S.%f")
    with closing(sqlite3.connect(library / "catalog.db")) as connection:
        connection.execute("UPDATE source SET indexed_at = ?", (at,))
        connection.commit()


def unmount(photos: Path) -> None:
    """A drive at photos/nas goes; what remains is the folder that it was mounted on."""
    (photos / "nas").rename(photos.with_name("drive"))
    (photos / "nas").mkdir()


def mount(photos: Path) -> None:
    (photos / "nas").rmdir()
    photos.with_name("drive").rename(photos / "nas")


def test_a_mount_point_inside_a_source(library: Path, photos: Path) -> None:
    unmount(photos)
    write(photos / "nas" / ".is-not-mounted", b"")
    read_later(library, days=2)
    for _ in range(2):
        report = run(library)
        assert not report.changed
        assert str(photos / "nas") in report.warnings[0]
        assert "unmounted" in report.warnings[0]
        assert count(library) == 5
        read_later(library, days=2)
    report = run(library, photos / "nas")
    assert (report.changed, len(report.warnings)) == (False, 1)
    (photos / "nas" / ".is-not-mounted").unlink()
    mount(photos)
    report = run(library)
    assert (report.changed, report.warnings) == (False, [])
    assert count(library) == 5


@pytest.mark.parametrize("part", [False, True])
def test_a_folder_emptied_by_hand(library: Path, photos: Path, part: bool) -> None:
    shutil.rmtree(photos / "nas" / "2020")
    (photos / "nas" / "4.png").unlink()
    report = run(library, photos / "nas") if part else run(library)
    assert (report.missing, report.warnings) == (4, [])
    assert count(library) == 1
    read_later(library, days=2)
    assert run(library).warnings == []  # nothing is known of it any more


@pytest.mark.parametrize("left", ["4.txt", "nas/film.mp4", "raw/excluded.png", "link.lnk"])
def test_a_source_whose_last_picture_was_deleted(library: Path, photos: Path, left: str) -> None:
    """A file that is not read lies there: so does the drive, and what is gone was deleted."""
    for path in photos.rglob("*.png"):
        path.unlink()
    (photos / left).parent.mkdir(exist_ok=True)
    if left.endswith(".lnk"):
        (photos / left).symlink_to(photos / "none")
    else:
        write(photos / left, b"x")
    report = run(library, photos, exclude=("excluded*",))
    assert report.missing == 5
    assert not [warning for warning in report.warnings if "the patterns of" not in warning]
    assert count(library) == 0


@pytest.mark.parametrize("left", ["nas/", ".is-not-mounted", "lost+found/", "raw/.DS_Store"])
def test_a_source_without_any_file(library: Path, photos: Path, left: str) -> None:
    """Folders, and what systems leave behind, lie in mount points too."""
    shutil.rmtree(photos)
    (photos / left).parent.mkdir(parents=True)
    if left.endswith("/"):
        (photos / left).mkdir()
    else:
        write(photos / left, b"x")
    report = run(library)
    assert not report.changed
    assert "unmounted" in report.warnings[0]
    assert count(library) == 5


def test_clocks_may_differ_by_hours(library: Path, photos: Path) -> None:
    shutil.rmtree(photos / "nas" / "2020")
    (photos / "nas" / "2020").mkdir()
    read_later(library, hours=14)
    assert run(library).missing == 3


def test_a_part_that_was_read_says_nothing_of_the_rest(library: Path, photos: Path) -> None:
    """Only a run on all of a source is one after which its folders are known to be full."""
    with Library(library) as lib:
        before = lib.sources()[0].indexed_at
    run(library, photos / "nas" / "2020")
    with Library(library) as lib:
        assert lib.sources()[0].indexed_at == before


def test_a_folder_that_was_deleted(library: Path, photos: Path) -> None:
    shutil.rmtree(photos / "nas")
    read_later(library, days=2)
    report = run(library)
    assert (report.missing, report.warnings) == (4, [])


def test_a_folder_that_cannot_be_read(
    library: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def refuse(path: str) -> object:
        if "nas" in str(path):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        report = run(library)
    assert (report.missing, report.skipped) == (0, 1)
    assert count(library) == 5
    assert not run(library).changed


def test_a_file_whose_folder_is_empty(tmp_path: Path, model: str) -> None:
    single = write(tmp_path / "stick" / "0.png", encoded(0))
    library = tmp_path / "library"
    run(library, single, model=model)
    single.unlink()
    assert "unplugged" in run(library).warnings[0]
    single.parent.rmdir()
    assert "unplugged" in run(library).warnings[0]
    assert count(library) == 1
    write(tmp_path / "stick" / "other.png", encoded(1))
    assert run(library).missing == 1


def test_the_target_of_a_link(library: Path, photos: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere / "e.png", encoded(9))
    (photos / "link").symlink_to(elsewhere)
    assert run(library, photos, follow_links=True).encoded_images == 1
    elsewhere.rename(tmp_path / "away")
    report = run(library)
    assert (report.missing, count(library)) == (0, 6)
    elsewhere.mkdir()
    read_later(library, days=2)
    report = run(library)
    assert (report.missing, count(library)) == (0, 6)
    assert "unmounted" in report.warnings[0]
    (photos / "link").unlink()
    assert run(library).missing == 1


def test_a_part_whose_drive_goes_while_it_is_read(
    library: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Target.scan

    def scan(self: Target, *args: object) -> object:
        entries = list(real(self, *args))  # type: ignore[arg-type]
        photos.rename(photos.with_name("away"))
        return iter(entries[:1])

    with monkeypatch.context() as patch:
        patch.setattr(Target, "scan", scan)
        report = index_parts(library, {str(photos): ["nas/2020"]})
    assert (report.missing, count(library)) == (0, 5)
    assert "unplugged" in report.warnings[0]


def test_parts_that_are_gone(library: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "nas" / "4.png").unlink()
    shutil.rmtree(photos / "nas" / "2020")
    write(photos / "nas" / "5.png", encoded(5))
    parts = {str(photos): ["nas/2020/deep", "nas/2020"], str(tmp_path / "no source"): [""]}
    report = index_parts(library, parts)
    assert (report.files, report.missing, report.encoded_images) == (1, 4, 1)
    with pytest.raises(LibraryNotFoundError):
        index_parts(tmp_path / "none", {})
    assert not (tmp_path / "none").exists()


# --- archives -------------------------------------------------------------------------------------


def zip_of(path: Path, members: dict[str, bytes], *, at: int) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    os.utime(path, (at, at))


def inside(library: Path, folder: Path) -> list[str]:
    """The pictures in archives that a search finds."""
    with Library(library, device="cpu") as lib:
        paths = [hit.image.path for hit in lib.search("waves", k=1000, words=False)]
    return sorted(path.removeprefix(f"{folder}/") for path in paths if "!/" in path)


def failures(library: Path, folder: Path) -> dict[str, str]:
    with Library(library) as lib:
        return {f.path.removeprefix(f"{folder}/"): f.reason for f in lib.failures()}


def test_a_read_error_in_the_middle_of_an_archive(tmp_path: Path, model: str) -> None:
    library, folder = tmp_path / "library", tmp_path / "photos"
    path = folder / "a.tar"
    for n in range(6):
        write(tmp_path / "parts" / f"{n}.jpg", titled(n, f"number {n}"))
    folder.mkdir()
    with tarfile.open(path, "w") as packed:
        packed.add(tmp_path / "parts", "")
    run(library, folder, model=model)
    before = inside(library, folder)
    assert len(before) == 6
    os.utime(path, (1000, 1000))  # so it is read again
    with failing_drive(path, path.stat().st_size // 2):
        report = run(library)
    assert report.failed == 1
    assert failures(library, folder) == {"a.tar": "input/output error"}
    assert inside(library, folder) == before
    with Library(library, device="cpu") as lib:
        assert len(lib.search_texts("number", k=100)) == 6
    report = run(library)
    assert (report.encoded_images, report.known, report.failed) == (0, 6, 0)
    assert failures(library, folder) == {}
    assert inside(library, folder) == before
    assert run(library).known == 0  # it was read to its end


def test_a_new_archive_whose_drive_fails_is_read_by_the_next_run(
    tmp_path: Path, model: str
) -> None:
    library, folder = tmp_path / "library", tmp_path / "photos"
    write(folder / "0.png", encoded(0))
    zip_of(folder / "a.zip", {f"{n}.png": encoded(n) for n in range(1, 6)}, at=1000)
    with failing_drive(folder / "a.zip", 0, errno.ESTALE):
        assert run(library, folder, model=model).failed == 1
    assert inside(library, folder) == []
    report = run(library)
    assert (report.encoded_images, report.failed) == (5, 0)
    assert failures(library, folder) == {}


def test_a_drive_that_goes_while_the_model_is_switched(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, folder = tmp_path / "library", tmp_path / "photos"
    write(folder / "0.png", encoded(0))
    zip_of(folder / "a.zip", {f"{n}.png": encoded(n) for n in range(1, 4)}, at=1000)
    run(library, folder, model=model)
    real = Path.open

    def gone(self: Path, *args: object, **kwargs: object) -> object:
        if self.name == "a.zip":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(self))
        return real(self, *args, **kwargs)  # type: ignore[call-overload]

    other = save_model(tmp_path / "other", seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", gone)
        report = run(library, folder, model=other)
    assert any("searches stay with" in warning for warning in report.warnings)
    assert len(inside(library, folder)) == 3
    report = run(library, folder, model=other)
    assert report.encoded_images == 3
    assert report.old_space is not None
    assert len(inside(library, folder)) == 3


def test_an_archive_on_a_slow_drive(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, folder = tmp_path / "library", tmp_path / "photos"
    write(tmp_path / "1.png", encoded(1))
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as packed:
        packed.add(tmp_path / "1.png", "1.png")
    with monkeypatch.context() as patch:
        limits = archive.ArchiveLimits(max_seconds=-1)
        real = archive.contents
        patch.setattr(archive, "contents", lambda path, **more: real(path, limits, **more))
        assert run(library, folder, model=model).failed == 1
    assert "without coming to another picture" in failures(library, folder)["a.tar"]
    assert run(library).encoded_images == 1


@pytest.mark.parametrize("cut", [False, True])
def test_a_picture_of_an_archive_that_is_to_be_tried_again(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, cut: bool
) -> None:
    """cut: the archive ends too early besides, which by itself is a reason not to read it again."""
    library, folder = tmp_path / "library", tmp_path / "photos"
    folder.mkdir()
    for n in range(3):
        write(tmp_path / "parts" / f"{n}.png", encoded(n))
    with tarfile.open(folder / "a.tar", "w") as packed:
        for n in range(3):
            packed.add(tmp_path / "parts" / f"{n}.png", f"{n}.png")
    run(library, folder, model=model)
    before = inside(library, folder)
    assert len(before) == 3
    if cut:
        end = (folder / "a.tar").read_bytes().index(encoded(2)) + 100
        os.truncate(folder / "a.tar", end)
    os.utime(folder / "a.tar", (1000, 1000))
    real = load.read

    def refuse(job: Job, *args: object) -> object:
        if job.member == "1.png":
            return Loaded(job, job.size, job.mtime_ns, reason="out of memory", transient=True)
        return real(job, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(load, "read", refuse)
        assert run(library).failed == 1 + cut
        assert failures(library, folder)["a.tar!/1.png"] == "out of memory"
        assert inside(library, folder) == before
    report = run(library)
    assert (report.encoded_images, report.known, report.failed) == (0, 3 - cut, cut)
    assert list(failures(library, folder)) == ["a.tar"] * cut
    assert inside(library, folder) == before[: 3 - cut]
    assert run(library).known == 0
