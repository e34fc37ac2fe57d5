"""The loader: order, bounds, and files whose decoding or reading does not end."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from collection import encoded, run, write

from indexer import load
from indexer.load import Job, Loaded, Loader
from mmsearch.decode import Picture, decode
from mmsearch.library import Library
from mmsearch.types import DecodeLimits

ENCODER: Any = SimpleNamespace(
    image_size=8, preprocess=lambda pixels: np.zeros((3, 8, 8), np.uint8)
)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Decoding of files called "stuck..." waits for this event, which comes after the test."""
    release = threading.Event()

    def waiting(data: bytes, *, source: str, **options: Any) -> Picture:
        if source.startswith("stuck"):
            release.wait()
        return decode(data, source=source, **options)

    monkeypatch.setattr(load, "decode", waiting)
    yield release
    release.set()


def jobs(*names: str) -> list[Job]:
    return [Job(name, name, name, 1, 1, encoded(n)) for n, name in enumerate(names)]


def loaded(
    given: list[Job], *, ahead: int = 4, seconds: float = 30, threads: int = 2
) -> list[Loaded]:
    limits = DecodeLimits(max_seconds=seconds)
    loader = Loader(lambda: ENCODER, lambda digest: None, limits=limits, threads=threads)
    return list(loader.load(given, ahead))


def test_outcomes_come_in_order() -> None:
    names = [f"{n}.png" for n in range(40)]
    assert [item.job.path for item in loaded(jobs(*names))] == names


def test_no_more_is_taken_than_may_be_ahead() -> None:
    taken = 0

    def given() -> Iterator[Job]:
        nonlocal taken
        for job in jobs(*map(str, range(30))):
            taken += 1
            yield job

    loader = Loader(lambda: ENCODER, lambda digest: None, limits=DecodeLimits(), threads=2)
    for done, _ in enumerate(loader.load(given(), 5), 1):
        assert taken <= done + 5


def test_files_that_hang_are_failures_and_the_others_are_read(stuck: threading.Event) -> None:
    names = ["a", "stuck 1", "b", "stuck 2", "stuck 3", "c", "d"]
    items = loaded(jobs(*names), seconds=0.1)
    assert [item.job.path for item in items] == names
    for item in items:
        if item.job.path.startswith("stuck"):
            assert item.reason is not None
            assert item.reason.startswith("took longer than 0.1 s to decode")
            assert not item.transient
        else:
            assert item.pixels is not None


def test_a_file_that_cannot_be_read_to_its_end_is_tried_again(tmp_path: Path) -> None:
    """A pipe stands for the drive that does not answer."""
    pipe = tmp_path / "x.jpg"
    os.mkfifo(pipe)
    (item,) = loaded([Job("x.jpg", str(pipe))], seconds=0.1)
    assert item.reason is not None
    assert "to read" in item.reason
    assert item.transient
    os.close(os.open(pipe, os.O_RDWR))  # lets the thread go


def test_after_too_many_the_rest_is_left_for_another_run(
    stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_MAX_STUCK", 3)
    items = loaded(jobs(*[f"stuck {n}" for n in range(3)], *"abcdefgh"), seconds=0.1, ahead=1)
    assert [item.transient for item in items] == [False] * 3 + [True] * 8
    assert all("Run the same command again" in str(item.reason) for item in items[3:])


def test_stopping_half_way_waits_for_no_stuck_file(stuck: threading.Event) -> None:
    limits = DecodeLimits(max_seconds=0.1)
    loader = Loader(lambda: ENCODER, lambda digest: None, limits=limits, threads=2)
    outcomes = loader.load(jobs("a", "b", "stuck 1", "stuck 2", "c"), 5)
    assert next(iter(outcomes)).job.path == "a"
    outcomes.close()  # type: ignore[attr-defined]


def test_a_run_goes_on_past_a_file_that_hangs(
    tmp_path: Path, model: str, stuck: threading.Event
) -> None:
    folder = tmp_path / "pictures"
    for seed, name in enumerate(("a.png", "stuck.png", "z.png")):
        write(folder / name, encoded(seed))
    limits = DecodeLimits(max_seconds=1)
    report = run(tmp_path / "library", folder, model=model, limits=limits)
    assert (report.encoded_images, report.failed) == (2, 1)
    with Library(tmp_path / "library") as library:
        (failure,) = library.failures()
    assert failure.path.endswith("stuck.png")
    assert "took longer than 1 s to decode" in failure.reason
    # Noted for good: it costs its time once.
    again = run(tmp_path / "library", folder, model=model, limits=limits)
    assert (again.encoded_images, again.failed) == (0, 0)
