"""Several devices, one process each; two processes on the CPU stand for two GPUs."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from collection import encoded, found, run, same, titled, write

from indexer.encoder_processes import EncoderProcesses
from indexer.models import Models
from mmsearch.encode import Encoder, load_encoder
from mmsearch.errors import EncodeError, ModelUnavailableError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(model: str) -> Iterator[EncoderProcesses]:
    with closing(EncoderProcesses(model, ["cpu", "cpu"], dtype="fp32", reference=False)) as pair:
        yield pair


@pytest.fixture(scope="module")
def single(model: str) -> Encoder:
    return load_encoder(model, device="cpu", dtype="fp32")


def pictures(*counts: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8) for count in counts]


def test_it_says_of_itself_what_one_encoder_does(pair: EncoderProcesses, single: Encoder) -> None:
    assert pair.space == single.space
    assert (pair.dtype, pair.image_size) == (single.dtype, single.image_size)
    assert pair.logit_scale == single.logit_scale
    assert pair.device == "cpu + cpu"
    assert pair.batch_size % 2 == 0
    pixels = np.arange(50 * 60 * 3, dtype=np.uint8).reshape(50, 60, 3)
    np.testing.assert_array_equal(pair.preprocess(pixels), single.preprocess(pixels))


def test_vectors_are_those_of_one_encoder_in_their_order(
    pair: EncoderProcesses, single: Encoder
) -> None:
    batches = pictures(8, 1, 0, 5, 16, 2)
    for ours, batch in zip(pair.encode_batches(iter(batches)), batches, strict=True):
        assert ours.dtype == np.float32
        assert ours.flags.c_contiguous
        np.testing.assert_allclose(ours, single.encode_images(batch), atol=1e-5)
    np.testing.assert_allclose(
        pair.encode_images(batches[3]), single.encode_images(batches[3]), atol=1e-5
    )
    assert list(pair.encode_batches([])) == []


def test_texts_also_between_batches(pair: EncoderProcesses, single: Encoder) -> None:
    texts = ["a red kite", "two boats"]
    batches = pictures(4, 4, 4)
    said = []

    def given() -> Iterator[np.ndarray]:
        for batch in batches:
            said.append(pair.encode_texts(texts))
            yield batch

    vectors = list(pair.encode_batches(given()))
    for text in (*said, pair.encode_texts(texts)):
        np.testing.assert_allclose(text, single.encode_texts(texts), atol=1e-5)
    np.testing.assert_allclose(
        np.concatenate(vectors), single.encode_images(np.concatenate(batches)), atol=1e-5
    )


def test_who_stops_half_way_leaves_nothing_behind(pair: EncoderProcesses, single: Encoder) -> None:
    stream = pair.encode_batches(pictures(4, 4, 4))
    next(stream)
    stream.close()  # type: ignore[attr-defined]

    def failing() -> Iterator[np.ndarray]:
        yield from pictures(3)
        raise EncodeError("of the caller")

    with pytest.raises(EncodeError, match="of the caller"):
        list(pair.encode_batches(failing()))
    (batch,) = pictures(6)
    np.testing.assert_allclose(pair.encode_images(batch), single.encode_images(batch), atol=1e-5)


def test_a_process_that_dies_is_an_error_and_no_hang(model: str) -> None:
    before = set(multiprocessing.active_children())
    with closing(EncoderProcesses(model, ["cpu", "cpu"], dtype="fp32", reference=False)) as pair:
        mine = sorted(set(multiprocessing.active_children()) - before, key=lambda p: p.pid or 0)
        assert len(mine) == 2
        os.kill(mine[1].pid or 0, signal.SIGKILL)
        mine[1].join()
        with pytest.raises(EncodeError, match="process that encodes on cpu has ended"):
            pair.encode_images(pictures(400)[0])
    assert not set(multiprocessing.active_children()) - before


def test_what_cannot_be_loaded_is_told(model: str) -> None:
    with pytest.raises(EncodeError, match="nonsense"):
        EncoderProcesses(model, ["nonsense"], dtype="fp32", reference=False)
    with pytest.raises(ModelUnavailableError):
        EncoderProcesses("no such model", ["cpu"], dtype="fp32", reference=False)


def test_a_run_on_two_devices_is_like_one_on_one(tmp_path: Path, model: str) -> None:
    photos = tmp_path / "photos"
    for seed in range(70):
        data = titled(seed, f"a kite {seed}") if seed % 9 == 0 else encoded(seed)
        write(photos / f"{seed:02}.{'jpg' if seed % 9 == 0 else 'png'}", data)
    before = set(multiprocessing.active_children())
    two = run(tmp_path / "two", photos, model=model, device="cpu,cpu")
    assert not set(multiprocessing.active_children()) - before
    one = run(tmp_path / "one", photos, model=model)
    assert two.device == "cpu + cpu"
    assert (two.encoded_images, two.carried) == (one.encoded_images, one.carried) == (70, 8)
    queries = ["a kite 9", encoded(3), encoded(41)]
    ours, theirs = (found(tmp_path / name, photos, queries) for name in ("two", "one"))
    assert same(ours, theirs)


def test_models_keeps_processes_and_ends_them(model: str) -> None:
    before = set(multiprocessing.active_children())
    models = Models()

    def load(name: str) -> Encoder:
        return models.load(
            name, device="cpu,cpu", dtype="fp32", reference=False, on_load=lambda _: None
        )

    first = load(model)
    assert load(model) is first
    assert len(set(multiprocessing.active_children()) - before) == 2
    models.close()
    assert not set(multiprocessing.active_children()) - before
