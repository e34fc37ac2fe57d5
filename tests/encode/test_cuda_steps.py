"""The steps of a batch through a GPU, with a stand-in for torch.cuda that does each at once.

What only a device can show (that copies and computing overlap, and do not meet) is in test_cuda.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mmsearch.encode.cuda import CudaPictures, CudaTexts

SIDE, DIM = 4, 6


class Device:
    """Keeps the time that is spent on it, in ms, and what is recorded at the moment."""

    def __init__(self, usual_ms: float, recorded_ms: float) -> None:
        self.now = 0.0
        self.usual_ms, self.recorded_ms = usual_ms, recorded_ms
        self.recording: Graph | None = None
        self.waits = 0
        self.wrong = False
        self.runs = 0

    def encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.recording is not None:
            made = compute(pixels)
            self.recording.calls.append((pixels, made))
            return made
        self.runs += 1
        self.now += self.usual_ms
        return compute(pixels)


def compute(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.linspace(-1, 1, 3 * SIDE * SIDE * DIM).view(-1, DIM)
    features = pixels.flatten(1).float() @ weights.cos() + 1
    return torch.nn.functional.normalize(features, dim=1), torch.ones(1, dtype=torch.bool)


class Graph:
    def __init__(self, device: Device) -> None:
        self.device = device
        self.calls: list[tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]] = []

    def replay(self) -> None:
        self.device.now += self.device.recorded_ms
        for pixels, (vectors, good) in self.calls:
            new, whole = compute(pixels)
            vectors.copy_(-new if self.device.wrong else new)
            good.copy_(whole)


class Event:
    def __init__(self, device: Device) -> None:
        self.device = device
        self.at: float | None = None

    def record(self, _stream: object = None) -> None:
        self.at = self.device.now

    def synchronize(self) -> None:
        assert self.at is not None
        self.device.waits += 1

    def elapsed_time(self, other: Event) -> float:
        assert self.at is not None
        assert other.at is not None
        return other.at - self.at


class Stream:
    def __init__(self, *_: object) -> None: ...

    def wait_event(self, event: Event) -> None:
        assert event.at is not None

    def wait_stream(self, stream: Stream) -> None: ...


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device(usual_ms=10, recorded_ms=2)

    @contextmanager
    def graph(graph: Graph, **_: object) -> Iterator[None]:
        made.recording = graph
        try:
            yield
        finally:
            made.recording = None

    empty = torch.empty

    def unpinned(*args: Any, pin_memory: bool = False, **named: Any) -> torch.Tensor:
        return empty(*args, **named)

    monkeypatch.setattr(torch, "empty", unpinned)
    for name, value in {
        "Stream": Stream,
        "Event": lambda *_: Event(made),
        "CUDAGraph": lambda: Graph(made),
        "graph": graph,
        "device": lambda _: nullcontext(),
        "stream": lambda _: nullcontext(),
        "current_stream": lambda *_: Stream(),
        "synchronize": lambda *_: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return made


def batch(count: int, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8)


def expected(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = compute(torch.from_numpy(pixels))[0].numpy()
    return vectors


def pictures_of(device: Device) -> CudaPictures:
    return CudaPictures(torch.device("cpu"), SIDE, DIM, device.encode)


def test_each_batch_has_its_own_vectors_and_memory_is_used_again(device: Device) -> None:
    pictures = pictures_of(device)
    flying = [(pictures.start(batch(n, n)), batch(n, n)) for n in (5, 3)]
    assert flying[0][0].slot is not flying[1][0].slot
    kept = []
    for n in (4, 5, 9, 2):
        flight, given = flying.pop(0)
        vectors, good, seconds = pictures.finish(flight)
        np.testing.assert_allclose(vectors, expected(given), atol=1e-6)
        assert good
        assert seconds == pytest.approx(0.01)
        kept.append((vectors, given))
        flying.append((pictures.start(batch(n, n)), batch(n, n)))
    for flight, given in flying:
        np.testing.assert_allclose(pictures.finish(flight)[0], expected(given), atol=1e-6)
    for vectors, given in kept:  # not a view of memory that is used again
        np.testing.assert_allclose(vectors, expected(given), atol=1e-6)
    assert len(pictures._free) <= 2


def test_a_batch_that_does_not_fit_leaves_its_memory_to_the_next(device: Device) -> None:
    pictures = pictures_of(device)
    first = pictures.start(batch(4))
    pictures._encode = lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError):
        pictures.start(batch(4, 1))
    assert len(pictures._free) == 1
    pictures._encode = device.encode
    np.testing.assert_allclose(pictures.finish(first)[0], expected(batch(4)), atol=1e-6)
    second = pictures.start(batch(4, 2))
    np.testing.assert_allclose(pictures.finish(second)[0], expected(batch(4, 2)), atol=1e-6)


def test_a_recording_that_is_quicker_is_used_for_its_size_only(device: Device) -> None:
    pictures = pictures_of(device)
    pictures.record(batch(8))
    tried = device.runs
    pictures.record(batch(8, 1))  # once for each size
    assert device.runs == tried
    for count, took in ((8, 0.002), (7, 0.01), (8, 0.002)):
        flights = [pictures.start(batch(count, seed)) for seed in (1, 2)]
        for flight, seed in zip(flights, (1, 2), strict=True):
            vectors, good, seconds = pictures.finish(flight)
            np.testing.assert_allclose(vectors, expected(batch(count, seed)), atol=1e-6)
            assert good
            assert seconds == pytest.approx(took)


@pytest.mark.parametrize("why", ["slow", "wrong", "fails"])
def test_a_recording_that_is_no_good_is_not_used(why: str, device: Device) -> None:
    pictures = pictures_of(device)
    if why == "slow":
        device.recorded_ms = 9.9
    elif why == "wrong":
        device.wrong = True
    else:
        usual = device.encode

        def waits(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if device.recording is not None:
                raise RuntimeError("operation not permitted when stream is capturing")
            return usual(pixels)

        pictures._encode = waits
    pictures.record(batch(8))
    assert pictures._recorded is None
    vectors, _, seconds = pictures.finish(pictures.start(batch(8, 3)))
    np.testing.assert_allclose(vectors, expected(batch(8, 3)), atol=1e-6)
    assert seconds == pytest.approx(0.01)


# --- few texts ------------------------------------------------------------------------------------


def texts_of(device: Device, monkeypatch: pytest.MonkeyPatch) -> tuple[CudaTexts, list[Any]]:
    """And the sizes that were recorded. A text's vector depends on its tokens up to the highest."""

    def meaning(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ends = tokens.argmax(dim=1, keepdim=True)
        inside = torch.arange(tokens.shape[1])[None] <= ends
        sums = (tokens * inside).double()
        features = sums.sum(dim=1, keepdim=True) * torch.linspace(0.1, 1, DIM) + ends
        vectors = torch.nn.functional.normalize(features.float(), dim=1)
        return vectors, torch.ones(1, dtype=torch.bool)

    monkeypatch.setattr(f"{__name__}.compute", meaning)
    recorded: list[Any] = []

    def encode(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if device.recording is not None:
            recorded.append(tuple(tokens.shape))
        return device.encode(tokens)

    return CudaTexts(torch.device("cpu"), 77, encode), recorded


def tokens(*lengths: int) -> NDArray[np.int64]:
    found = np.zeros((len(lengths), max(lengths)), np.int64)
    for row, length in enumerate(lengths):
        found[row, :length] = np.arange(3 + row, 3 + row + length)
        found[row, length - 1] = 49407
    return found


def test_few_texts_take_the_recording_of_the_next_size(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, recorded = texts_of(device, monkeypatch)
    for lengths in ((5,), (9,), (16,), (17,), (70,), (4, 16), (3, 5, 31), (9,) * 32):
        given = tokens(*lengths)
        found = texts.vectors(given)
        assert found is not None
        right, _ = compute(torch.from_numpy(given))
        assert found[0].shape == right.shape
        np.testing.assert_allclose(found[0], right.numpy(), atol=1e-6)
        assert found[1]
    assert recorded == [(1, 16), (1, 32), (1, 77), (8, 16), (8, 32), (32, 16)]


def test_many_texts_and_recordings_that_are_no_good_take_the_usual_way(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, recorded = texts_of(device, monkeypatch)
    assert texts.vectors(tokens(*[5] * 33)) is None
    assert texts.vectors(tokens(78)) is None
    assert not recorded
    device.recorded_ms = device.usual_ms
    assert texts.vectors(tokens(5)) is None
    assert texts.vectors(tokens(6)) is None
    assert recorded == [(1, 16)]  # tried once
