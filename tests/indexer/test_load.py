"""The loader: order, bounds, and files whose decoding or reading does not end."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from collection import encoded, picture, run, write
from PIL import Image

from indexer import load, prepare
from indexer.clock import PREPARING, Clock
from indexer.load import Loader
from indexer.prepare import Job, Loaded
from mmsearch.decode import Picture, decode
from mmsearch.encode import load_encoder
from mmsearch.encode.preprocess import preprocessor
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

    monkeypatch.setattr(prepare, "decode", waiting)
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


def test_no_more_bytes_are_held_than_allowed() -> None:
    """Members of an archive, whose bytes are at hand, and what is prepared of them."""
    given = jobs(*map(str, range(40)))
    sizes = [len(job.data or b"") for job in given]
    taken = 0

    def counted() -> Iterator[Job]:
        nonlocal taken
        for job in given:
            taken += 1
            yield job

    most = 5 * max(sizes)
    loader = Loader(
        lambda: ENCODER, lambda digest: None, limits=DecodeLimits(), threads=2, max_bytes=most
    )
    for done, item in enumerate(loader.load(counted(), 1000), 1):
        # The one that was one too many is among them, and the one that has just come out.
        assert sum(sizes[done - 1 : taken]) <= most + max(sizes)
        assert item.job.data is None  # let go of when it was decoded
    assert taken == 40


def test_prepared_pictures_count_among_the_bytes(tmp_path: Path) -> None:
    """Files have no bytes before they are read; what is made of them has."""
    for seed in range(30):
        write(tmp_path / f"{seed}.png", encoded(seed))
    taken = 0

    def counted() -> Iterator[Job]:
        nonlocal taken
        for seed in range(30):
            taken += 1
            yield Job(f"{seed}.png", str(tmp_path / f"{seed}.png"))

    square = 3 * 8 * 8
    loader = Loader(
        lambda: ENCODER, lambda digest: None, limits=DecodeLimits(), threads=2, max_bytes=4 * square
    )
    ahead = 12
    for done, item in enumerate(loader.load(counted(), lambda: ahead), 1):
        assert item.pixels is not None
        # How large they are is known once there is one; until then the number alone counts.
        assert taken <= done + (ahead if done < ahead else 5)


def test_the_time_of_every_stage_is_told(tmp_path: Path) -> None:
    write(tmp_path / "a.png", encoded(1))
    clock = Clock()
    loader = Loader(
        lambda: ENCODER, lambda digest: None, limits=DecodeLimits(), threads=1, clock=clock
    )
    began = perf_counter()
    assert len(list(loader.load([Job("a.png", str(tmp_path / "a.png"))], 2))) == 1
    whole, seconds = perf_counter() - began, clock.seconds
    assert all(seconds[stage] > 0 for stage in PREPARING)
    assert 0 <= sum(seconds[stage] for stage in (*PREPARING, "wait for room")) <= whole


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [(1500, 1130), (90, 61)])
def test_reference_is_what_open_clip_makes_of_the_file(kind: str, size: tuple[int, int]) -> None:
    """To the last bit: decoded at full size, and resized by Pillow."""
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from torchvision.transforms import Normalize

    config = {
        "size": 64,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    data = noisy(size, kind)
    transform = image_transform_v2(PreprocessCfg(**config), is_train=False)
    assert isinstance(transform.transforms.pop(), Normalize)
    expected = (transform(Image.open(io.BytesIO(data))) * 255).round().byte().numpy()
    found = {}
    for reference in (True, False):
        encoder: Any = SimpleNamespace(
            image_size=64, preprocess=preprocessor(config, reference=reference)
        )
        loader = Loader(
            lambda encoder=encoder: encoder,  # type: ignore[misc]
            lambda digest: None,
            limits=DecodeLimits(),
            reference=reference,
        )
        (item,) = loader.load([Job("x", "x", "x", data=data)], 1)
        assert item.pixels is not None
        found[reference] = item.pixels.astype(int)
    np.testing.assert_array_equal(found[True], expected)
    # The other way is another way: this test tells them apart.
    assert (found[False] != expected).any()
    assert np.abs(found[False] - expected).mean() < 2


def noisy(size: tuple[int, int], kind: str) -> bytes:
    """A picture of waves with grain, whose resized form depends on how it was decoded."""
    rng = np.random.default_rng(7)
    waves = np.asarray(picture(3, 200).resize(size)).astype(float)
    pixels = np.clip(waves + rng.normal(0, 12, waves.shape), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, quality=90)
    return out.getvalue()


def test_vectors_are_close_to_those_of_the_reference() -> None:
    """Postcards enlarged to what a camera makes, so that they are decoded at reduced size; by the
    model that was trained on such pictures. (tests/benchmarks/pipeline.py: on photographs.)"""
    cards = sorted((Path(__file__).parents[2] / "data/postcards").glob("*.jpg"))[:24]
    jobs = []
    for number, card in enumerate(cards):
        out = io.BytesIO()
        size = (1200 + 40 * number, 900 + 50 * number)
        Image.open(card).resize(size, Image.Resampling.LANCZOS).save(out, "JPEG", quality=88)
        jobs.append(Job(card.name, card.name, "m", data=out.getvalue()))
    vectors = []
    for reference in (True, False):
        encoder = load_encoder("tiny", device="cpu", dtype="fp32", reference=reference)
        loader = Loader(
            lambda encoder=encoder: encoder,  # type: ignore[misc]
            lambda digest: None,
            limits=DecodeLimits(),
            reference=reference,
        )
        pixels = [item.pixels for item in loader.load(jobs, 8) if item.pixels is not None]
        vectors.append(encoder.encode_images(np.stack(pixels)))
    cosines = (vectors[0] * vectors[1]).sum(axis=1)
    assert len(cosines) == 24
    assert np.median(cosines) >= 0.998
    assert np.quantile(cosines, 0.01) >= 0.99


def test_files_that_hang_are_failures_and_the_others_are_read(stuck: threading.Event) -> None:
    names = ["a", "stuck 1", "b", "stuck 2", "stuck 3", "c", "d"]
    seconds = 0.5  # enough for the others, also on a machine that has a lot to do
    items = loaded(jobs(*names), seconds=seconds)
    assert [item.job.path for item in items] == names
    for item in items:
        if item.job.path.startswith("stuck"):
            assert item.reason is not None
            assert item.reason.startswith(f"took longer than {seconds} s to decode")
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
