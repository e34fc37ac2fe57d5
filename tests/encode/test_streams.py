"""A batch in parts, each on a thread of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_models import MakeModel

from mmsearch.encode import load_encoder, load_text_encoder, streams


@pytest.fixture
def two() -> Iterator[None]:
    """Two threads of torch's, so two streams."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def pictures(count: int, side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


@pytest.mark.parametrize(
    ("sizes", "least", "cores", "ends"),
    [
        ([1] * 32, 8, 1, [32]),
        ([1] * 32, 8, 2, [16, 32]),
        ([1] * 33, 8, 4, [8, 16, 25, 33]),
        ([1] * 32, 8, 16, [8, 16, 24, 32]),
        ([1] * 15, 8, 2, [15]),
        ([1] * 8, 8, 2, [8]),
        ([1], 8, 2, [1]),
        ([], 8, 2, [0]),
        # By size, not by number.
        ([1, 1, 1, 1, 2, 3, 5], 1, 2, [5, 7]),
        # No part is empty, however large one thing is.
        ([1, 1, 100], 1, 3, [2, 3]),
    ],
)
def test_parts_are_equally_large(
    sizes: list[int],
    least: int,
    cores: int,
    ends: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "count", lambda: cores)
    parts = streams.parts(sizes, least)
    assert [part.start for part in parts] == [0, *ends[:-1]]
    assert [part.stop for part in parts] == ends


@pytest.mark.parametrize(
    ("threads", "count"), [(1, 1), (2, 2), (8, 8), (16, 16), (17, 8), (24, 12), (32, 16), (96, 16)]
)
def test_no_core_is_left_over_where_several_share_a_part(
    threads: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert streams.count() == count
    assert threads - count * (threads // count) <= 1


@pytest.mark.usefixtures("two")
def test_works_run_side_by_side_and_in_order() -> None:
    both = threading.Barrier(2)
    threads: dict[int, tuple[str, int]] = {}

    def work(number: int) -> int:
        if number < 2:
            both.wait(60)  # which only both together pass
        threads[number] = (threading.current_thread().name, torch.get_num_threads())
        return number

    running = streams.Running([lambda n=number: work(n) for number in range(7)])
    assert running.results() == list(range(7))
    assert running.seconds > 0
    assert len({name for name, _ in threads.values()}) <= 2
    assert all(name.startswith("mmsearch-stream") for name, _ in threads.values())
    assert {number for _, number in threads.values()} == {1}


@pytest.mark.usefixtures("two")
def test_what_one_raises_is_raised_and_the_next_batch_is_as_good_as_ever() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 0:
            raise ValueError("a broken part")
        return number

    works: list[Callable[[], int]] = [lambda n=number: work(n) for number in range(1000)]  # type: ignore[misc]
    running = streams.Running(works)
    with pytest.raises(ValueError, match="a broken part"):
        running.results()
    assert len(begun) < 1000
    assert streams.Running(works[1:20]).results() == list(range(1, 20))


@pytest.mark.usefixtures("two")
def test_threads_that_begin_later_have_as_many_of_torchs_as_ever() -> None:
    """torch gives new threads the number that was set last, by whatever thread."""
    found: list[int] = []
    streams.Running([lambda: 0, lambda: 1]).results()
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [2] == [torch.get_num_threads()]


def test_in_a_process_that_was_forked() -> None:
    script = """
import os, torch
torch.set_num_threads(2)
from mmsearch.encode import streams
works = [lambda: 1, lambda: 2, lambda: 3]
assert streams.Running(works).results() == [1, 2, 3]
child = os.fork()
if not child:
    os._exit(0 if streams.Running(works).results() == [1, 2, 3] else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


class _Seen:
    """Notes how many inputs each call had, and in what thread."""

    def __init__(self, inner: Callable[[Any], Any]) -> None:
        self._inner = inner
        self.calls: list[tuple[str, int]] = []

    def __call__(self, inputs: Any) -> Any:
        self.calls.append((threading.current_thread().name, len(inputs)))
        return self._inner(inputs)

    @property
    def in_streams(self) -> list[int]:
        return sorted(n for name, n in self.calls if name.startswith("mmsearch-stream"))


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_pictures_in_parts_have_the_vectors_they_have_together(
    kind: str, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder: Any = load_encoder(f"local-dir:{make_model(kind)}", device="cpu", dtype="fp32")
    batches = [pictures(n, encoder.image_size) for n in (64, 3, 0, 70)]
    with monkeypatch.context() as patch:
        patch.setattr(streams, "count", lambda: 1)
        expected = [encoder.encode_images(batch) for batch in batches]
    seen = _Seen(encoder._model.encode_image)
    monkeypatch.setattr(encoder._model, "encode_image", seen)
    for found in (encoder.encode_batches(iter(batches)), map(encoder.encode_images, batches)):
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-6)
    # No more than a batch holds at once, which are 64.
    assert seen.in_streams == sorted(2 * [32, 32, 32, 32])


@pytest.mark.usefixtures("two")
def test_the_next_batch_begins_before_the_one_before_is_asked_for(make_model: MakeModel) -> None:
    encoder = load_encoder(f"local-dir:{make_model('resnet')}", device="cpu")
    fetched: list[int] = []

    def batches() -> Iterator[NDArray[np.uint8]]:
        for number in range(3):
            fetched.append(number)
            yield pictures(16, encoder.image_size)

    stream = encoder.encode_batches(batches())
    next(stream)
    assert fetched == [0, 1]
    assert len(list(stream)) == 2


@pytest.mark.usefixtures("two")
def test_a_divided_batch_that_memory_does_not_hold_is_halved(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder: Any = load_encoder(f"local-dir:{make_model('vit')}", device="cpu", dtype="fp32")
    batch = pictures(64, encoder.image_size)
    expected = encoder.encode_images(batch)
    inner = encoder._model.encode_image

    def small(values: Any) -> Any:
        if len(values) > 20:
            raise torch.OutOfMemoryError("as a small device would")
        return inner(values)

    monkeypatch.setattr(encoder._model, "encode_image", small)
    for found in ([encoder.encode_images(batch)], encoder.encode_batches([batch] * 2)):
        for vectors in found:
            np.testing.assert_allclose(vectors, expected, atol=2e-6)
    assert encoder.batch_size <= 20


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("kind", ["vit", "bidirectional"])
def test_texts_in_parts_have_the_vectors_they_have_together(
    kind: str, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder: Any = load_encoder(f"local-dir:{make_model(kind)}", device="cpu", dtype="fp32")
    texts = [f"{'very ' * (n % 12)}small dog number {n}" for n in range(150)]
    with monkeypatch.context() as patch:
        patch.setattr(streams, "count", lambda: 1)
        expected = encoder.encode_texts(texts)
    name = "_cut_text_features" if kind == "vit" else "_text_features"
    seen = _Seen(getattr(encoder, name))
    monkeypatch.setattr(encoder, name, seen)
    np.testing.assert_allclose(encoder.encode_texts(texts), expected, atol=2e-6)
    assert len(seen.in_streams) >= 2
    assert sum(seen.in_streams) == len(texts)
    seen.calls.clear()
    np.testing.assert_allclose(encoder.encode_texts(texts[:2]), expected[:2], atol=2e-6)
    assert seen.in_streams == []


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("half", [False, True])
def test_texts_of_questions_in_parts(
    half: bool, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.encode.text_tower_torch.in_half_precision", lambda: half)
    monkeypatch.setattr("mmsearch.encode.text_tower._LARGE", 0)
    texts = [f"{'very ' * (n % 7)}small dog number {n}" for n in range(64)]
    light: Any = load_text_encoder(f"local-dir:{make_model('vit')}")
    with monkeypatch.context() as patch:
        patch.setattr(streams, "count", lambda: 1)
        expected = light.encode_texts(texts)
    seen: list[tuple[str, int]] = []
    inner = light._torch._features

    def features(embedded: Any, ends: Any) -> Any:
        seen.append((threading.current_thread().name, embedded.shape[1]))
        assert embedded.shape[1] == ends.max() + 1  # nothing behind the longest one's end
        return inner(embedded, ends)

    monkeypatch.setattr(light._torch, "_features", features)
    np.testing.assert_allclose(light.encode_texts(texts), expected, atol=5e-3 if half else 2e-6)
    assert len(seen) == 4  # 32 texts at once, twice, in two parts each
    assert all(name.startswith("mmsearch-stream") for name, _ in seen)
