"""The model's thread: order, what overlaps, errors, ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from collection import encoded, run, titled, write

from indexer import picture_stage
from indexer.clock import Clock
from indexer.model_thread import ModelThread
from mmsearch.encode.openclip import OpenClipEncoder
from mmsearch.errors import EncodeError
from mmsearch.store import CatalogWriter

_NEVER = (0.0, 0.0)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few pictures are several."""
    monkeypatch.setattr(OpenClipEncoder, "batch_size", property(lambda _: 16))


class Doubling:
    """Vectors are pixels times two; `ahead` batches are taken before the first comes out."""

    def __init__(self, ahead: int = 0) -> None:
        self._ahead = ahead

    def encode_batches(self, batches: Iterable[Any]) -> Iterator[Any]:
        held: list[Any] = []
        for batch in batches:
            if len(batch) and batch[0] == 99:
                raise EncodeError("no ninety-nines")
            held.append(2 * batch)
            if len(held) > self._ahead:
                yield held.pop(0)
        yield from held


def model(ahead: int = 0) -> ModelThread[str]:
    return ModelThread(Doubling(ahead), Clock())  # type: ignore[arg-type]


@pytest.mark.parametrize("ahead", [0, 1])
def test_results_come_in_order(ahead: int) -> None:
    batches = [np.arange(n, n + n % 3) for n in range(20)]
    with model(ahead) as thread:
        found = [
            thread.put(batch, lambda n=n: f"text {n}", _NEVER)  # type: ignore[misc]
            for n, batch in enumerate(batches)
        ]
        thread.finish()
        for n, (batch, future) in enumerate(zip(batches, found, strict=True)):
            vectors, text = future.result()
            np.testing.assert_array_equal(vectors, 2 * batch)
            assert text == f"text {n}"


def test_an_error_is_raised_for_the_batch_and_all_after_it() -> None:
    def bad() -> str:
        raise EncodeError("no text")

    with model() as thread:
        good = thread.put(np.array([1]), str, _NEVER)
        wrong = [thread.put(np.array([99]), str, _NEVER), thread.put(np.array([2]), str, _NEVER)]
        assert good.result()[1] == ""
        for future in wrong:
            with pytest.raises(EncodeError, match="ninety-nines"):
                future.result()
    with model() as thread, pytest.raises(EncodeError, match="no text"):
        thread.put(np.array([1]), bad, _NEVER).result()


class Slow:
    """Texts that take until they are released."""

    def __init__(self) -> None:
        self.begun, self.release = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        self.release.wait()
        return ""


def test_what_was_not_begun_is_dropped_at_the_end() -> None:
    slow = Slow()

    def release_at_the_end() -> None:
        while not thread._stop:
            time.sleep(0.001)
        slow.release.set()

    with model() as thread:
        first = thread.put(np.array([1]), slow, _NEVER)
        second = thread.put(np.array([2]), str, _NEVER)
        slow.begun.wait()
        threading.Thread(target=release_at_the_end).start()
    assert first.done()
    assert not second.done()


def test_waits_of_the_model_are_told_apart() -> None:
    clock = Clock()
    with ModelThread[str](Doubling(), clock) as thread:  # type: ignore[arg-type]
        # From the dawn of time to its end the caller wrote.
        thread.put(np.array([1]), str, (0.0, float("inf"))).result()
        assert clock.seconds["wait for pixels"] == 0
        written = clock.seconds["wait for writes"]
        assert written > 0
        thread.put(np.array([1]), str, _NEVER).result()
        assert clock.seconds["wait for writes"] == written
        assert clock.seconds["wait for pixels"] > 0
    assert clock.seconds["encode"] > 0


def test_a_batch_is_encoded_while_the_one_before_is_written(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second batch is not done before the first is written, nor the other way round."""
    encoding, written, n = threading.Event(), threading.Event(), 0
    encode, commit = OpenClipEncoder.encode_images, CatalogWriter.commit

    def encode_images(self: OpenClipEncoder, batch: Any) -> Any:
        nonlocal n
        n += 1
        if n == 2:
            encoding.set()
            assert written.wait(20), "the writer waits for the model"
        return encode(self, batch)

    def committing(self: CatalogWriter, *arguments: Any, **named: Any) -> None:
        if named.get("images") and not written.is_set():
            assert encoding.wait(20), "the model waits for the writer"
            commit(self, *arguments, **named)
            written.set()
        else:
            commit(self, *arguments, **named)

    monkeypatch.setattr(picture_stage, "_A_TRANSACTION", 1)
    monkeypatch.setattr(OpenClipEncoder, "encode_images", encode_images)
    monkeypatch.setattr(CatalogWriter, "commit", committing)
    for seed in range(40):
        write(tmp_path / "photos" / f"{seed:02}.png", encoded(seed))
    report = run(tmp_path / "library", tmp_path / "photos", model=model)
    assert (report.encoded_images, report.failed) == (40, 0)
    assert n >= 2


def test_small_batches_are_written_together(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, sizes = CatalogWriter.commit, []

    def committing(self: CatalogWriter, *arguments: Any, **named: Any) -> None:
        sizes.append(len(named.get("images", [])))
        commit(self, *arguments, **named)

    monkeypatch.setattr(picture_stage, "_A_TRANSACTION", 50)
    monkeypatch.setattr(picture_stage, "_WAIT_S", 1000.0)
    monkeypatch.setattr(CatalogWriter, "commit", committing)
    for seed in range(150):
        write(tmp_path / "photos" / f"{seed:03}.png", encoded(seed))
    report = run(tmp_path / "library", tmp_path / "photos", model=model)
    assert report.encoded_images == sum(sizes) == 150
    batches = [size for size in sizes if size]
    assert all(size >= 50 for size in batches[:-1])
    assert len(batches) >= 2


def test_a_slow_model_is_not_given_all_there_is(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has was not written yet, and is lost if the process is killed."""
    outstanding: list[int] = []
    given: list[Any] = []
    put, encode = ModelThread.put, OpenClipEncoder.encode_images

    def putting(self: ModelThread[Any], *arguments: Any) -> Any:
        given.append(put(self, *arguments))
        outstanding.append(sum(not future.done() for future in given))
        return given[-1]

    def encode_images(self: OpenClipEncoder, batch: Any) -> Any:
        time.sleep(0.02)  # the pictures of the next are ready long before
        return encode(self, batch)

    monkeypatch.setattr(picture_stage, "_WAIT_S", 1000.0)
    monkeypatch.setattr(ModelThread, "put", putting)
    monkeypatch.setattr(OpenClipEncoder, "encode_images", encode_images)
    monkeypatch.setattr(OpenClipEncoder, "batch_size", property(lambda _: 4))
    for seed in range(60):
        write(tmp_path / "photos" / f"{seed:02}.png", encoded(seed))
    assert run(tmp_path / "library", tmp_path / "photos", model=model).encoded_images == 60
    assert len(outstanding) == 15
    assert max(outstanding) <= picture_stage._WITH_THE_MODEL + 1


def test_a_model_that_waits_is_given_few(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large the batches that it would take."""
    sizes: list[int] = []
    encode = OpenClipEncoder.encode_images

    def encode_images(self: OpenClipEncoder, batch: Any) -> Any:
        sizes.append(len(batch))
        return encode(self, batch)

    monkeypatch.setattr(picture_stage, "_FEW", 4)
    monkeypatch.setattr(OpenClipEncoder, "encode_images", encode_images)
    monkeypatch.setattr(OpenClipEncoder, "batch_size", property(lambda _: 1000))
    monkeypatch.setattr(picture_stage.ModelThread, "idle", property(lambda _: True))
    for seed in range(40):
        write(tmp_path / "photos" / f"{seed:02}.png", encoded(seed))
    report = run(tmp_path / "library", tmp_path / "photos", model=model)
    assert report.encoded_images == sum(sizes) == 40
    assert len(sizes) > 2
    assert set(sizes) == {4}


def test_idle_is_who_waits_for_something_to_do() -> None:
    slow = Slow()
    with model() as thread:
        first = thread.put(np.array([1]), slow, _NEVER)
        slow.begun.wait()
        assert not thread.idle
        second = thread.put(np.array([2]), str, _NEVER)
        slow.release.set()
        first.result()
        second.result()
        while not thread.idle:  # it is about to ask for the next
            pass


def test_copies_and_texts_that_follow_closely_are_encoded_once(tmp_path: Path, model: str) -> None:
    """In every batch something is met that is still on its way into the catalog."""
    for number in range(90):
        data = titled(number // 2 % 25, f"a kite {number // 20}")
        write(tmp_path / "photos" / f"{number:02}.jpg", data)
    report = run(tmp_path / "library", tmp_path / "photos", model=model)
    contents = {(number // 2 % 25, number // 20) for number in range(90)}
    assert report.encoded_images == len(contents)
    assert report.known == 90 - len(contents)
    assert (report.carried, report.encoded_texts) == (90, 5)
    again = run(tmp_path / "library")
    assert not again.changed


def test_a_text_that_comes_again_while_several_batches_are_unwritten(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_stage, "_WAIT_S", 1000.0)  # nothing is written before the end
    monkeypatch.setattr(OpenClipEncoder, "batch_size", property(lambda _: 4))
    for number in range(48):
        data = titled(number, f"a kite {number // 4 % 2}")  # one and the other in turn, by batches
        write(tmp_path / "photos" / f"{number:02}.jpg", data)
    report = run(tmp_path / "library", tmp_path / "photos", model=model)
    assert (report.encoded_images, report.carried, report.encoded_texts) == (48, 48, 2)


def test_an_error_of_the_model_is_noticed_at_once(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after all the pictures of a large batch were decoded for nothing."""
    given: list[int] = []
    put = ModelThread.put

    def putting(self: ModelThread[Any], pixels: Any, *arguments: Any) -> Any:
        given.append(len(pixels))
        return put(self, pixels, *arguments)

    def failing(self: OpenClipEncoder, batch: Any) -> Any:
        raise EncodeError("gave a vector that is zero")

    monkeypatch.setattr(picture_stage, "_WAIT_S", 1000.0)
    monkeypatch.setattr(ModelThread, "put", putting)
    monkeypatch.setattr(OpenClipEncoder, "encode_images", failing)
    monkeypatch.setattr(OpenClipEncoder, "batch_size", property(lambda _: 4))
    for seed in range(80):
        write(tmp_path / "photos" / f"{seed:02}.png", encoded(seed))
    with pytest.raises(EncodeError, match="zero"):
        run(tmp_path / "library", tmp_path / "photos", model=model)
    assert len(given) <= picture_stage._WITH_THE_MODEL + 1


def test_an_error_of_the_model_ends_the_run_and_keeps_what_was_written(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, n = OpenClipEncoder.encode_images, 0

    def failing(self: OpenClipEncoder, batch: Any) -> Any:
        nonlocal n
        n += 1
        if n == 3:
            raise EncodeError("gave a vector that is zero")
        return encode(self, batch)

    for seed in range(90):
        write(tmp_path / "photos" / f"{seed:02}.png", encoded(seed))
    with monkeypatch.context() as patch:
        patch.setattr(OpenClipEncoder, "encode_images", failing)
        with pytest.raises(EncodeError, match="zero"):
            run(tmp_path / "library", tmp_path / "photos", model=model)
    assert not [t for t in threading.enumerate() if t.name == "model"]
    report = run(tmp_path / "library", tmp_path / "photos", model=model)
    assert 0 < report.encoded_images < 90
