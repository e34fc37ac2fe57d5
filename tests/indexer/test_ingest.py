"""Indexing runs: what is new is read, what is known is not, what is gone is forgotten."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from collection import (
    encoded,
    failures,
    found,
    names,
    run,
    same,
    save_model,
    texts,
    titled,
    unchanged,
    write,
    write_captions,
    zip_of,
)

from indexer.cli import summary
from indexer.ingest import Options, index
from indexer.report import Silence
from mmsearch.doctor import doctor
from mmsearch.encode.protocol import Encoder
from mmsearch.errors import (
    LibraryLockedError,
    ModelUnavailableError,
    SourceError,
    SpaceMismatchError,
)
from mmsearch.library import Library
from mmsearch.store.lock import writing


class _NoModel:
    """In the place of load_encoder: fails the test that loads a model."""

    def __call__(self, *_args: object, **_kwargs: object) -> Encoder:
        raise AssertionError("a model was loaded")


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr("mmsearch.encode.load_encoder", _NoModel())
    return monkeypatch


# --- pictures -----------------------------------------------------------------------------------


def test_second_run_reads_nothing(
    library: Path, photos: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(library, photos, model=model)
    assert (first.files, first.encoded_images, first.known) == (4, 4, 0)
    assert (first.model, first.device, first.dtype) == (model, "cpu", "fp32")
    monkeypatch.setattr("mmsearch.encode.load_encoder", _NoModel())
    for report in (run(library, photos), run(library), run(library, photos, model=model)):
        assert unchanged(report)
        assert report.files == 4
        assert report.device is None


def test_only_what_is_new_or_changed_is_encoded(library: Path, photos: Path, model: str) -> None:
    run(library, photos, model=model)
    write(photos / "new" / "4.png", encoded(4))
    write(photos / "1.png", encoded(11))
    report = run(library)
    assert (report.files, report.encoded_images, report.known, report.missing) == (5, 2, 0, 0)
    assert names(library) == ["0.png", "1.png", "2.png", "3.png", "new/4.png"]
    with Library(library, device="cpu") as lib:
        assert lib.search(image=encoded(11), k=1)[0].image.path.endswith("/1.png")
        assert lib.search(image=encoded(1), k=1)[0].score < 0.999


def test_touched_renamed_and_copied_files_are_not_encoded(
    library: Path, photos: Path, model: str
) -> None:
    run(library, photos, model=model)
    os.utime(photos / "0.png", (1, 1))
    (photos / "sub").mkdir()
    (photos / "1.png").rename(photos / "sub" / "renamed.png")
    shutil.copy(photos / "2.png", photos / "copy.png")
    report = run(library)
    assert (report.encoded_images, report.known, report.missing) == (0, 3, 1)
    assert names(library) == ["0.png", "2.png", "3.png", "copy.png", "sub/renamed.png"]
    with Library(library) as lib:
        assert lib.status().images == 5
        assert lib.status().index[0].vectors == 4


def test_copies_within_one_run_are_encoded_once(library: Path, photos: Path, model: str) -> None:
    for n in range(4):
        shutil.copy(photos / "0.png", photos / f"copy{n}.png")
    report = run(library, photos, model=model)
    assert (report.encoded_images, report.known) == (4, 4)
    with Library(library, device="cpu") as lib:
        assert len(lib.search("waves", k=100)) == 4


class _Stopped(Silence):
    """Ctrl-C while files are being looked for."""

    def scanning(self, location: str, files: int) -> None:
        raise KeyboardInterrupt


def test_a_run_stopped_before_anything_was_encoded_keeps_its_model(
    library: Path, photos: Path, model: str, tmp_path: Path
) -> None:
    first = Options(model=save_model(tmp_path / "first", seed=5), device="cpu")
    assert index(library, [photos], options=first, progress=_Stopped()).stopped
    assert run(library, photos).model == first.model
    # Where there are no vectors yet, another one is no move to it.
    other = tmp_path / "other"
    index(other, [photos], options=first, progress=_Stopped())
    report = run(other, photos, model=model)
    assert (report.model, report.old_space) == (model, None)


def test_deleted_and_returned(library: Path, photos: Path, model: str) -> None:
    run(library, photos, model=model)
    data, stat = (photos / "2.png").read_bytes(), (photos / "2.png").stat()
    (photos / "2.png").unlink()
    assert run(library).missing == 1
    assert names(library) == ["0.png", "1.png", "3.png"]
    (photos / "2.png").write_bytes(data)
    os.utime(photos / "2.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    report = run(library)
    assert (report.returned, report.encoded_images) == (1, 0)
    assert report.device is None
    (photos / "2.png").unlink()
    run(library)
    (photos / "2.png").write_bytes(data)  # the same bytes at another time
    report = run(library)
    assert (report.encoded_images, report.known) == (0, 1)
    assert names(library) == ["0.png", "1.png", "2.png", "3.png"]


def test_picture_that_breaks_and_is_mended(library: Path, photos: Path, model: str) -> None:
    write(photos / "0.png", titled(0, "a title"), at=1000)
    run(library, photos, model=model)
    assert texts(library) == ["a title"]
    write(photos / "0.png", b"broken now", at=2000)
    assert run(library).failed == 1
    assert names(library) == ["1.png", "2.png", "3.png"]
    assert texts(library) == []
    assert list(failures(library)) == ["0.png"]
    assert unchanged(run(library))
    write(photos / "0.png", titled(0, "a title"), at=1000)
    assert run(library).encoded_images == 0
    assert failures(library) == {}
    assert names(library) == ["0.png", "1.png", "2.png", "3.png"]
    assert texts(library) == ["a title"]


def test_parts_of_a_source(library: Path, photos: Path, model: str) -> None:
    write(photos / "2019" / "a.png", encoded(10))
    write(photos / "2020" / "b.png", encoded(11))
    run(library, photos, model=model)
    (photos / "2020" / "b.png").unlink()
    write(photos / "2019" / "c.png", encoded(12))
    report = run(library, photos / "2019")
    assert (report.files, report.encoded_images, report.missing) == (2, 1, 0)
    assert run(library, photos / "2019" / "c.png").files == 1
    with Library(library) as lib:
        assert [s.location for s in lib.sources()] == [str(photos)]
    assert run(library).missing == 1


def test_single_file_comes_and_goes(library: Path, photos: Path, model: str) -> None:
    run(library, photos / "0.png", model=model)
    run(library, photos / "1.png", photos / "1.png")
    assert names(library) == ["0.png", "1.png"]
    (photos / "1.png").unlink()
    assert run(library).missing == 1
    assert names(library) == ["0.png"]
    # The folder takes the single files over.
    run(library, photos)
    with Library(library) as lib:
        assert [(s.kind, s.location) for s in lib.sources() if s.images] == [
            ("folder", str(photos))
        ]
    assert names(library) == ["0.png", "2.png", "3.png"]


def test_inner_folder_first_then_the_outer(library: Path, photos: Path, model: str) -> None:
    write(photos / "in" / "a.png", encoded(10))
    write_captions(photos / "in" / "captions.jsonl", [("a.png", "of a")])
    run(library, photos / "in", model=model)
    report = run(library, photos)
    assert (report.encoded_images, report.missing, report.texts) == (4, 0, 0)
    with Library(library) as lib:
        (source,) = lib.sources()
        assert (source.location, source.images, source.texts) == (str(photos), 5, 1)
    assert unchanged(run(library))


def test_hidden_things_are_read_when_they_are_named(
    library: Path, photos: Path, model: str
) -> None:
    write(photos / ".secret" / "a.png", encoded(10))
    run(library, photos, model=model)
    assert run(library, photos / ".secret").encoded_images == 1
    for _ in range(2):
        assert unchanged(run(library))
        assert unchanged(run(library, photos))
    assert ".secret/a.png" in names(library)


def test_exclude_and_links_are_kept_with_the_source(
    library: Path, photos: Path, model: str, tmp_path: Path
) -> None:
    write(tmp_path / "elsewhere" / "e.png", encoded(10))
    (photos / "link").symlink_to(tmp_path / "elsewhere")
    report = run(library, photos, model=model, exclude=("0*",), follow_links=True)
    assert report.encoded_images == 4
    assert names(library) == ["1.png", "2.png", "3.png", "link/e.png"]
    assert unchanged(run(library))
    assert run(library, photos, exclude=("1*",), follow_links=False).missing == 2
    assert names(library) == ["0.png", "2.png", "3.png"]


@pytest.fixture
def album(photos: Path) -> Path:
    """Photos with folders in them; what is in those called private is for nobody."""
    for n, name in enumerate(["private/p.png", "a/b.png", "a/private/p.png", "a/c/d.png"]):
        write(photos / name, encoded(10 + n))
    return photos


def patterns(library: Path) -> dict[str, tuple[str, ...]]:
    with Library(library) as lib:
        return {source.location: source.exclude for source in lib.sources()}


def test_patterns_of_a_folder_are_added_to_those_of_its_source(
    library: Path, album: Path, model: str
) -> None:
    run(library, album, model=model, exclude=("private/",))
    all_names = ["0.png", "1.png", "2.png", "3.png", "a/b.png", "a/c/d.png"]
    assert names(library) == all_names
    report = run(library, album / "a", album / "a" / "c", exclude=("b*", "/d.png"))
    added = ("/a/**/b*", "/a/d.png", "/a/c/**/b*", "/a/c/d.png")
    assert patterns(library) == {str(album): ("private/", *added)}
    assert report.warnings == [
        f"the patterns of what is left out of {album} change from private/ to "
        "private/ '/a/**/b*' /a/d.png '/a/c/**/b*' /a/c/d.png"
    ]
    for _ in range(2):  # and so they stay
        assert run(library).warnings == []
        assert run(library, album / "a", album / "a" / "c", exclude=("b*", "/d.png")).warnings == []
        assert names(library) == all_names[:4]
    run(library, album / "0.png", exclude=("1*",))  # a file has nothing to leave out
    assert len(patterns(library)[str(album)]) == 5


def test_a_named_folder_that_patterns_leave_out_is_warned_of(
    library: Path, album: Path, model: str
) -> None:
    run(library, album, model=model, exclude=("private/", "3.png"))
    assert run(library, album / "a", album / "0.png").warnings == []
    report = run(library, album / "private", album / "3.png")
    assert report.encoded_images == 2
    assert [w.partition(" by patterns")[0] for w in report.warnings] == [
        f"{album / name} is left out of {album}" for name in ("private", "3.png")
    ]
    assert f"mmsearch index {album} --exclude PATTERN" in report.warnings[0]
    assert run(library).missing == 2


def test_of_a_file_of_texts_that_is_gone_no_pictures_are_kept(
    library: Path, photos: Path, model: str, tmp_path: Path
) -> None:
    captions = tmp_path / "elsewhere" / "captions.txt"
    write(captions, b"0.png\ta boat\n")
    write(captions.with_name("other.doc"), b"")
    run(library, captions=[captions], model=model)
    shutil.rmtree(captions.parent)
    (warning,) = run(library).warnings
    assert "what it held is kept" in warning


def test_patterns_of_a_source_replace_those_of_before_and_the_run_says_so(
    library: Path, album: Path, model: str
) -> None:
    run(library, album, model=model, exclude=("private/", "[0-2]*"))
    assert run(library, album, exclude=("private/", "[0-2]*")).warnings == []
    report = run(library, album, album / "a", exclude=("private/",))
    assert report.warnings == [
        f"the patterns of what is left out of {album} change from private/ '[0-2]*' to private/"
    ]
    assert "0.png" in names(library)
    report = run(library, exclude=("",))
    assert report.warnings[0].endswith("change from private/ to none")
    assert "private/p.png" in names(library)


def test_a_folder_that_takes_a_source_in_takes_its_patterns_over(
    library: Path, album: Path, model: str
) -> None:
    run(library, album / "a", model=model, exclude=("private/", "/b*", "!/b.png"))
    assert names(library) == ["a/b.png", "a/c/d.png"]
    report = run(library, album)
    assert report.encoded_images == 5
    carried = ("/a/**/private/", "/a/b*", "!/a/b.png")
    assert patterns(library) == {str(album): carried}
    for _ in range(2):
        assert "private/p.png" in names(library)
        assert "a/b.png" in names(library)
        assert "a/private/p.png" not in names(library)
        assert run(library).warnings == []


def test_a_source_that_is_not_taken_in_keeps_its_patterns_to_itself(
    library: Path, album: Path, model: str
) -> None:
    run(library, album / "a", model=model, exclude=("private/",))
    run(library, album, exclude=("/a/",))
    assert patterns(library) == {str(album): ("/a/",), str(album / "a"): ("private/",)}
    # Now it is taken in, by a run that was given other patterns.
    run(library, album, exclude=("0*",))
    assert patterns(library) == {str(album): ("0*", "/a/**/private/")}
    assert "a/private/p.png" not in names(library)


# --- sources that are not there -------------------------------------------------------------------


@pytest.mark.parametrize("new", [0, 1])
def test_what_is_passed_over_is_told_whether_or_not_anything_is_new(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, new: int
) -> None:
    root = tmp_path / "root"
    (root / "closed").mkdir(parents=True)
    for n in range(new):
        write(root / f"{n}.png", encoded(n))
    write(tmp_path / "elsewhere.png", encoded(7))
    (root / "link.png").symlink_to(tmp_path / "elsewhere.png")
    (root / "links").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.png")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if os.fspath(path).rstrip("/").endswith("/closed"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = run(library, root, model=model)
    assert (report.skipped, report.links, report.closed) == (4, 2, 1)
    lines = summary(report).splitlines()
    assert lines[0].startswith("1 picture encoded" if new else "Nothing new: 0 pictures")
    assert lines[1:-1] == [
        "1 file or folder that could not be looked at: mmsearch status --failed",
        "2 links passed over (--follow-links reads what they lead to): mmsearch status --failed",
        "1 pipe or the like passed over: mmsearch status --failed",
    ]


def test_unplugged_drive_forgets_nothing(library: Path, photos: Path, model: str) -> None:
    run(library, photos, model=model)
    away = photos.with_name("away")
    photos.rename(away)
    report = run(library)
    assert unchanged(report)
    assert "unplugged" in report.warnings[0]
    photos.mkdir()  # the empty mount point
    report = run(library)
    assert unchanged(report)
    assert "unmounted" in report.warnings[0]
    assert len(names(library)) == 4
    photos.rmdir()
    away.rename(photos)
    assert run(library).warnings == []


def _unlistable(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The folder can be found but not listed, also by root."""
    scandir = os.scandir

    def refusing(path: str = ".") -> object:
        if os.fspath(path).rstrip("/") == str(folder):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)


def test_a_source_that_cannot_be_listed_holds_up_no_other(
    tmp_path: Path, library: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [tmp_path / "photos" / name for name in "abc"]
    for n, source in enumerate(sources):
        write(source / "old.png", encoded(n))
    run(library, *sources, model=model)
    for n, source in enumerate(sources):
        write(source / "new.png", encoded(10 + n))
    with monkeypatch.context() as patch:
        _unlistable(patch, sources[1])
        report = run(library)
        assert [w for w in report.warnings if str(sources[1]) in w and "are kept" in w]
        assert names(library) == ["a/new.png", "a/old.png", "b/old.png", "c/new.png", "c/old.png"]
        write(sources[2] / "newer.png", encoded(20))
        with pytest.raises(SourceError) as caught:  # who names it is told that it failed
            run(library, *sources)
        assert caught.value.path == str(sources[1])
        assert "c/newer.png" in names(library)
    assert run(library).encoded_images == 1
    assert len(names(library)) == 7


@pytest.mark.parametrize("year", [1969, 2300])
def test_files_of_any_date_are_read_once(
    library: Path, photos: Path, model: str, year: int
) -> None:
    since = datetime(year, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    seconds = int(since.total_seconds())
    for path in (photos / "0.png", write(photos / "1.txt", b"a text beside it")):
        os.utime(path, (seconds, seconds))
        if int(path.stat().st_mtime) != seconds:
            pytest.skip("this file system does not keep such dates")
    assert run(library, photos, model=model).failed == 0
    assert names(library) == [f"{n}.png" for n in range(4)]
    assert not run(library).changed
    assert {f.state for f in doctor(library) if f.check == "files"} == {"ok"}


def test_what_is_named_must_be_there_and_of_use(library: Path, photos: Path, model: str) -> None:
    write(photos / "movie.mp4", b"x")
    for path in (photos / "none", photos / "movie.mp4"):
        with pytest.raises(SourceError) as caught:
            run(library, path, model=model)
        assert caught.value.path == str(path)
    with pytest.raises(SourceError, match="takes a file"):
        run(library, captions=[photos], model=model)
    with pytest.raises(ModelUnavailableError):
        run(library, photos, model="no/such-model")
    run(library, photos, model=model)
    with writing(library), pytest.raises(LibraryLockedError):
        run(library)


def test_library_inside_its_source_is_not_read(photos: Path, model: str) -> None:
    run(photos / "library", photos, model=model)
    with Library(photos / "library", device="cpu") as lib:
        for hit in lib.search("waves", k=10):
            lib.thumbnail(hit.image.id)
    assert unchanged(run(photos / "library"))


# --- files that the system refuses ----------------------------------------------------------------


def test_files_that_are_closed_for_a_while_lose_nothing(
    library: Path, photos: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the system refuses is tried again, though the files are the same."""
    zip_of(photos / "z.zip", a=encoded(10))
    write_captions(photos / "captions.jsonl", [("0.png", "of nought")])
    write(photos / "1.txt", b"beside one")
    run(library, photos, model=model)
    before = names(library), texts(library)
    for name in ("z.zip", "captions.jsonl", "1.txt", "2.png"):
        os.utime(photos / name, (5000, 5000))
    import builtins

    real, closed = builtins.open, {"z.zip", "captions.jsonl", "1.txt", "2.png"}

    def refuse(path: object, *args: object, **kwargs: object) -> object:
        if isinstance(path, str | Path) and Path(path).name in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        patch.setattr("io.open", refuse)
        run(library)
        assert set(failures(library)) == closed
        assert (names(library), texts(library)) == before
        patch.setattr("mmsearch.encode.load_encoder", _NoModel())
        run(library)  # none of them opens: no model is loaded
    run(library)
    assert failures(library) == {}
    assert (names(library), texts(library)) == before


# --- texts ----------------------------------------------------------------------------------------


def test_caption_files(library: Path, photos: Path, model: str) -> None:
    captions = write_captions(
        photos / "captions.jsonl",
        [("0.png", "of nought"), ("0.png", "of nought"), ("1.png", "of one"), ("9.png", "of nine")],
    )
    report = run(library, photos, captions=[captions], model=model)
    assert (report.texts, report.encoded_texts, report.linked) == (4, 3, 3)
    assert "not in the library: 1;" in report.warnings[0]
    assert "9.png" in failures(library)["captions.jsonl:4"]
    assert unchanged(run(library, photos, captions=[captions]))
    write(photos / "9.png", encoded(9))
    assert run(library).linked == 1
    assert failures(library) == {}
    write_captions(captions, [("0.png", "of nought"), ("1.png", "another of one")])
    report = run(library)
    assert (report.texts, report.encoded_texts, report.linked) == (2, 1, 2)
    assert texts(library) == ["another of one", "of nought"]
    captions.unlink()
    run(library)
    assert texts(library) == []


def test_a_list_of_texts_by_any_name_inside_the_folder(
    library: Path, photos: Path, model: str
) -> None:
    listed = write(photos / "my list.csv", b"image,caption\n0.png,of nought\n1.png,of one\n")
    report = run(library, photos, captions=[listed], model=model)
    assert (report.texts, report.linked) == (2, 2)
    for _ in range(2):
        for again in (run(library, photos, captions=[listed]), run(library, photos), run(library)):
            assert unchanged(again)
        assert texts(library) == ["of nought", "of one"]
    with Library(library) as lib:
        assert lib.status().links == 2


def test_caption_file_named_before_its_folder(library: Path, photos: Path, model: str) -> None:
    captions = write_captions(photos / "captions.jsonl", [("0.png", "of nought")])
    run(library, captions=[captions], model=model)
    assert list(failures(library)) == ["captions.jsonl:1"]
    report = run(library, photos)
    assert (report.texts, report.linked) == (0, 1)
    assert failures(library) == {}
    with Library(library) as lib:
        assert (lib.status().texts, lib.status().links) == (1, 1)


def test_sidecars(library: Path, photos: Path, model: str) -> None:
    write(photos / "0.txt", b"beside nought")
    write(photos / "1.png.txt", b"beside one")
    write(photos / "stray.txt", b"beside nothing")
    write(photos / "2.txt", b"\xff\xfe")
    report = run(library, photos, model=model)
    assert (report.texts, report.linked, report.failed) == (2, 2, 1)
    assert list(failures(library)) == ["2.txt"]
    assert unchanged(run(library))
    write(photos / "2.txt", b"beside two", at=5000)
    write(photos / "0.txt", b"still beside nought", at=5000)
    (photos / "1.png.txt").unlink()
    run(library)
    assert failures(library) == {}
    assert texts(library) == ["beside two", "still beside nought"]
    write(photos / "0.txt", b"", at=6000)
    run(library)
    assert texts(library) == ["beside two"]
    with Library(library, device="cpu") as lib:
        two = lib.search(image=photos / "2.png", k=1)[0]
        assert two.captions == ("beside two",)


def test_what_pictures_say_of_themselves(library: Path, photos: Path, model: str) -> None:
    write(photos / "0.png", titled(0, "a red kite"))
    write(photos / "copy.jpg", titled(0, "a red kite"))
    report = run(library, photos, model=model)
    assert (report.carried, report.texts, report.encoded_texts) == (2, 0, 1)
    assert texts(library) == ["a red kite"]
    with Library(library, device="cpu") as lib:
        hit = lib.search(image=photos / "0.png", k=1)[0]
        assert hit.captions == ("a red kite",)
        assert lib.search_texts("a red kite", k=1)[0].text.image_ids == (hit.image.id,)
        assert lib.status().carried == 2
    write(photos / "0.png", titled(0, "a blue kite"))
    run(library)
    assert texts(library) == ["a blue kite", "a red kite"]
    (photos / "copy.jpg").unlink()
    run(library)
    assert texts(library) == ["a blue kite"]


# --- models ---------------------------------------------------------------------------------------


def test_model_switch_happens_beside(
    library: Path, photos: Path, model: str, other_model: str, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere" / "photos"
    write(elsewhere / "e.png", encoded(30))
    zip_of(elsewhere / "z.zip", a=encoded(31))
    write_captions(photos / "captions.jsonl", [("0.png", "of nought")])
    write(photos / "1.txt", b"beside one")
    run(library, photos, elsewhere, model=model)
    before = found(library, tmp_path, ["waves", "of nought"])
    report = run(library, photos, model=other_model)  # the other source comes along
    assert report.encoded_images == 6
    assert report.encoded_texts == 2
    with Library(library, device="cpu") as lib:
        assert lib.space is not None
        assert lib.space.name == other_model
        assert [(s.images, s.texts) for s in lib.status().spaces] == [(6, 2), (6, 2)]
    after = found(library, tmp_path, ["waves", "of nought"])
    assert not same(after, before)
    clean = tmp_path / "clean"
    run(clean, photos, elsewhere, model=other_model)
    assert same(after, found(clean, tmp_path, ["waves", "of nought"]))
    assert unchanged(run(library))
    report = run(library, model=model)
    assert (report.encoded_images, report.encoded_texts) == (0, 0)
    assert same(found(library, tmp_path, ["waves", "of nought"]), before)


def test_model_switch_waits_for_what_cannot_be_read(
    library: Path, photos: Path, model: str, other_model: str, tmp_path: Path
) -> None:
    drive = tmp_path / "drive" / "photos"
    write(drive / "d.png", encoded(30))
    run(library, photos, drive, model=model)
    drive.parent.rename(tmp_path / "away")
    report = run(library, photos, model=other_model)
    assert any("searches stay with" in warning for warning in report.warnings)
    assert names(library) == ["0.png", "1.png", "2.png", "3.png", "d.png"]
    (tmp_path / "away").rename(drive.parent)
    report = run(library, photos, model=other_model)
    assert (report.encoded_images, report.warnings) == (1, [])
    assert names(library) == ["0.png", "1.png", "2.png", "3.png", "d.png"]
    with Library(library) as lib:
        assert lib.space is not None
        assert lib.space.name == other_model


def test_reference_preprocessing_gives_the_same_pictures(
    library: Path, photos: Path, model: str
) -> None:
    report = index(
        library, [photos], options=replace(Options(model=model, device="cpu"), reference=True)
    )
    assert report.encoded_images == 4
    assert names(library) == ["0.png", "1.png", "2.png", "3.png"]


def test_interrupted_before_linking_is_linked_by_the_next_run(
    library: Path, photos: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_captions(photos / "captions.jsonl", [("0.png", "of nought")])

    class KilledError(Exception):
        pass

    def killed(*_args: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("mmsearch.store.writer.CatalogWriter.link", killed)
        with pytest.raises(KilledError):
            run(library, photos, model=model)
    monkeypatch.setattr("mmsearch.encode.load_encoder", _NoModel())
    assert run(library).linked == 1
    assert sorted(f.suffix for f in (library / "index").iterdir()) == [
        ".faiss", ".faiss", ".json", ".json",
    ]  # fmt: skip


def test_other_weights_under_the_same_name_are_noticed(
    library: Path, photos: Path, tmp_path: Path
) -> None:
    """Once noticed, everything is embedded anew beside the old space, which is left then."""
    name = save_model(tmp_path / "model", seed=1)
    run(library, photos, model=name)
    with Library(library, device="cpu") as lib:
        old = lib.space
    shutil.rmtree(tmp_path / "model")
    save_model(tmp_path / "model", seed=2)
    with Library(library, device="cpu") as lib, pytest.raises(SpaceMismatchError):
        lib.search("waves")
    report = run(library, photos)
    assert report.encoded_images == report.files
    assert "weights" in " ".join(report.warnings)
    with Library(library, device="cpu") as lib:
        assert lib.space is not None
        assert lib.space != old
        assert len(lib.search("waves", k=100)) == report.files
    assert unchanged(run(library, photos))


@pytest.mark.parametrize("loaded", [False, True])
def test_a_model_that_was_moved_is_found_at_its_new_place(
    library: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: bool
) -> None:
    """The space is that of the weights, and called as they were named last. `loaded`: which weights
    they are is not known before, as with a single file at a new place."""
    run(library, photos, model=save_model(tmp_path / "first", seed=1))
    if loaded:
        monkeypatch.setattr("indexer.ingest.space_at_hand", lambda _name: None)
    with Library(library, device="cpu") as service:
        before = service.space
        assert before is not None
        (tmp_path / "first").rename(tmp_path / "second")
        name = f"local-dir:{tmp_path / 'second'}"
        report = run(library, photos, model=name)
        assert unchanged(report)
        assert (report.device is not None, report.warnings) == (loaded, [])
        assert service.refresh()
        assert service.space == replace(before, name=name)
        assert [s.space.name for s in service.status().spaces] == [name]
        assert len(service.search("waves", k=100)) == report.files
    assert names(library) == ["0.png", "1.png", "2.png", "3.png"]
    assert unchanged(run(library))
