"""Pictures through a GPU. What needs one is marked; the rest runs with a stand-in for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_models import MakeModel

from mmsearch.encode import load_encoder
from mmsearch.errors import EncodeError


def noise(count: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, size, size), dtype=np.uint8)


@dataclass
class _Flight:
    batch: NDArray[np.uint8]


@dataclass
class StandIn:
    """What CudaPictures does, without a GPU: memory for `holds` pictures; each takes a second."""

    encode: Any
    holds: int = 1 << 30
    events: list[str] = field(default_factory=list)
    recorded: list[int] = field(default_factory=list)

    def start(self, batch: NDArray[np.uint8]) -> _Flight:
        import torch

        self.events.append(f"start {len(batch)}")
        if len(batch) > self.holds:
            raise torch.OutOfMemoryError("as a small GPU would")
        return _Flight(batch.copy())

    def finish(self, flight: _Flight) -> tuple[Any, bool, float]:
        import torch

        batch = flight.batch
        self.events.append(f"finish {len(batch)}")
        with torch.inference_mode():
            vectors, good = self.encode(torch.from_numpy(batch))
        return vectors.numpy(), bool(good), 1.0 + 0.01 * len(batch)

    def record(self, batch: NDArray[np.uint8]) -> None:
        if len(batch) not in self.recorded:
            self.recorded.append(len(batch))


def with_stand_in(name: str, **options: Any) -> tuple[Any, StandIn]:
    encoder: Any = load_encoder(name, device="cpu", dtype="fp32")
    device = StandIn(encoder._image_vectors, **options)
    encoder._cuda = device
    return encoder, device


def test_batches_overlap_and_come_in_order(make_model: MakeModel) -> None:
    name = f"local-dir:{make_model('vit')}"
    plain = load_encoder(name, device="cpu", dtype="fp32")
    encoder, device = with_stand_in(name)
    batches = [noise(n, plain.image_size, seed=n) for n in (4, 2, 0, 3)]
    found = list(encoder.encode_batches(iter(batches)))
    for vectors, batch in zip(found, batches, strict=True):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, plain.encode_images(batch), atol=2e-6)
    assert device.events[:4] == ["start 4", "start 2", "finish 4", "finish 2"]
    np.testing.assert_allclose(encoder.encode_images(batches[0]), found[0], atol=2e-6)


def test_a_batch_that_does_not_fit_is_halved_and_nothing_lost(make_model: MakeModel) -> None:
    name = f"local-dir:{make_model('vit')}"
    plain = load_encoder(name, device="cpu", dtype="fp32")
    encoder, device = with_stand_in(name, holds=3)
    batches = [noise(n, plain.image_size, seed=n) for n in (2, 11, 3, 1)]
    found = list(encoder.encode_batches(iter(batches)))
    for vectors, batch in zip(found, batches, strict=True):
        np.testing.assert_allclose(vectors, plain.encode_images(batch), atol=2e-6)
    assert (encoder.batch_size, encoder._pictures.most) == (2, 2)
    device.holds = 0
    with pytest.raises(EncodeError, match="too little memory for one input"):
        list(encoder.encode_batches(batches))


def test_a_size_that_stays_is_recorded(make_model: MakeModel) -> None:
    encoder, device = with_stand_in(f"local-dir:{make_model('vit')}")
    side = encoder.image_size
    for _ in range(3):
        list(encoder.encode_batches(noise(encoder.batch_size, side) for _ in range(5)))
    assert encoder._pictures.settled
    assert encoder.batch_size == 64
    list(encoder.encode_batches([noise(3, side), noise(64, side), noise(64, side), noise(5, side)]))
    assert device.recorded == [64]


def test_a_vector_without_direction_is_an_error(make_model: MakeModel) -> None:
    encoder, device = with_stand_in(f"local-dir:{make_model('vit')}")
    batches = [noise(2, encoder.image_size)] * 3
    finish = device.finish

    def bad(flight: Any) -> tuple[Any, bool, float]:
        vectors, _, seconds = finish(flight)
        return vectors, len([e for e in device.events if e.startswith("finish")]) != 2, seconds

    device.finish = bad  # type: ignore[method-assign]
    stream = encoder.encode_batches(batches)
    assert next(stream).shape == (2, encoder.space.dim)
    with pytest.raises(EncodeError, match="not finite or is zero"):
        next(stream)
    started = sum(event.startswith("start") for event in device.events)
    finished = sum(event.startswith("finish") for event in device.events)
    assert started == finished  # nothing stays in flight


# --- with a GPU -----------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("kind", ["vit", "resnet", "cnn", "custom"])
def test_a_stream_of_batches_on_a_gpu(kind: str, make_model: MakeModel) -> None:
    name = f"local-dir:{make_model(kind)}"
    cpu = load_encoder(name, device="cpu", dtype="fp32")
    for dtype, least in (("fp32", 0.999999), ("auto", 0.999)):
        encoder = load_encoder(name, device="cuda", dtype=dtype)
        # More than the memory of a batch that is used again, of sizes that go up and down.
        batches = [noise(n, cpu.image_size, seed=n) for n in (5, 64, 1, 0, 33, 64, 7)]
        for vectors, batch in zip(encoder.encode_batches(iter(batches)), batches, strict=True):
            assert vectors.shape == (len(batch), cpu.space.dim)
            expected = cpu.encode_images(batch)
            assert ((vectors * expected).sum(axis=1) >= least).all()


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("kind", ["vit", "resnet", "cnn"])
def test_a_recorded_run_gives_the_same_vectors_on_a_gpu(kind: str, make_model: MakeModel) -> None:
    import torch

    from mmsearch.encode.cuda import _Recorded

    encoder: Any = load_encoder(f"local-dir:{make_model(kind)}", device="cuda")
    side = encoder.image_size
    batches = [noise(16, side, seed=n) for n in range(4)]
    expected = [encoder.encode_images(batch) for batch in batches]
    pictures = encoder._cuda
    with torch.inference_mode():
        pictures._recorded = _Recorded(encoder._image_vectors, torch.from_numpy(batches[0]).cuda())
    for _ in range(2):
        found = list(encoder.encode_batches(iter(batches)))
        for vectors, usual in zip(found, expected, strict=True):
            assert ((vectors * usual).sum(axis=1) >= 0.9999).all()
    # By the way that is taken in an indexing run, whatever it decides.
    pictures.record(batches[0])
    assert pictures._tried == {16}
    found = list(encoder.encode_batches(iter(batches)))
    for vectors, usual in zip(found, expected, strict=True):
        assert ((vectors * usual).sum(axis=1) >= 0.9999).all()


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_a_recording_that_fails_leaves_the_usual_way_on_a_gpu(make_model: MakeModel) -> None:
    import torch

    encoder: Any = load_encoder(f"local-dir:{make_model('vit')}", device="cuda")
    batch = noise(8, encoder.image_size)
    expected = encoder.encode_images(batch)
    pictures = encoder._cuda
    usual = pictures._encode

    def waits(pixels: Any) -> Any:
        vectors, good = usual(pixels)
        good.item()  # cannot be captured
        return vectors, good

    pictures._encode = waits
    stream = torch.cuda.current_stream()
    pictures.record(batch)
    assert pictures._recorded is None
    assert torch.cuda.current_stream() == stream
    assert not torch.cuda.is_current_stream_capturing()
    for vectors in encoder.encode_batches([batch] * 3):
        assert ((vectors * expected).sum(axis=1) >= 0.9999).all()


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_memory_that_ends_halves_the_batch_on_a_gpu(make_model: MakeModel) -> None:
    import torch

    encoder: Any = load_encoder(f"local-dir:{make_model('vit')}", device="cuda")
    batches = [noise(n, encoder.image_size, seed=n) for n in (16, 16, 4)]
    expected = [encoder.encode_images(batch) for batch in batches]
    usual = encoder._cuda._encode

    def small(pixels: Any) -> Any:
        if len(pixels) > 5:
            usual(pixels)  # work in flight, as there is when memory ends midway
            raise torch.OutOfMemoryError("as a small GPU would")
        return usual(pixels)

    encoder._cuda._encode = small
    for vectors, right in zip(encoder.encode_batches(iter(batches)), expected, strict=True):
        assert ((vectors * right).sum(axis=1) >= 0.9999).all()
    assert encoder._pictures.most == 4


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_texts_on_a_gpu_in_any_company(make_model: MakeModel) -> None:
    encoder = load_encoder(f"local-dir:{make_model('vit')}", device="cuda")
    texts = [f"{'very ' * (n % 9)}small dog number {n}" for n in range(500)]
    together = encoder.encode_texts(texts)
    for n in (0, 7, 64, 499):
        assert float(encoder.encode_texts([texts[n]])[0] @ together[n]) >= 0.9999
