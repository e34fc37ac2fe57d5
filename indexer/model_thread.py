"""The thread that runs the model while another one writes what it made before."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, Generic, TypeVar

from indexer.clock import Clock

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encode import Encoder
    from mmsearch.types import Vectors

T = TypeVar("T")


@dataclass(slots=True)
class _Order(Generic[T]):
    """What is to be encoded; `texts` does the rest of the work that needs the model."""

    pixels: NDArray[np.uint8]
    texts: Callable[[], T]
    wrote: tuple[float, float]
    made: T | None = None
    done: Future[tuple[Vectors, T]] = field(default_factory=Future)


class ModelThread(Generic[T]):
    """Encodes one batch after the other, in a thread of its own, the only one to use the model.

    A context: at its end what has not been begun is dropped.
    """

    def __init__(self, encoder: Encoder, clock: Clock) -> None:
        self._encoder = encoder
        self._clock = clock
        self._orders: SimpleQueue[_Order[T] | None] = SimpleQueue()
        self._flying: deque[_Order[T]] = deque()
        self._stop = False
        self._idle = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def __enter__(self) -> ModelThread[T]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._orders.put(None)
        self._thread.join()

    @property
    def idle(self) -> bool:
        """Whether it waits for something to do."""
        return self._idle and self._orders.empty()

    def put(
        self, pixels: NDArray[np.uint8], texts: Callable[[], T], wrote: tuple[float, float]
    ) -> Future[tuple[Vectors, T]]:
        """The vectors of a batch, which may be empty, and what `texts` returns, once they are made.

        That may be no earlier than the next batch is put or `finish` is called: batches overlap.
        texts: called in the model's thread. wrote: when the caller last
        wrote to the catalog (from, to), by `perf_counter`.
        """
        order = _Order(pixels, texts, wrote)
        self._orders.put(order)
        return order.done

    def finish(self) -> None:
        """No more will be put."""
        self._orders.put(None)

    def _work(self) -> None:
        try:
            for vectors in self._encoder.encode_batches(self._batches()):
                order = self._flying.popleft()
                order.done.set_result((vectors, order.made))  # type: ignore[arg-type]
        except BaseException as exc:  # noqa: BLE001 -- raised where the result is asked for
            for order in self._flying:
                order.done.set_exception(exc)
            while (left := self._orders.get()) is not None:
                left.done.set_exception(exc)

    def _batches(self) -> Iterator[NDArray[np.uint8]]:
        while True:
            waited = perf_counter()
            self._idle = True
            order = self._orders.get()
            self._idle = False
            if order is None or self._stop:
                return
            began = perf_counter()
            self._clock.add(list(_waits(waited, began, order.wrote)))
            self._flying.append(order)
            order.made = order.texts()
            encoding = perf_counter()
            yield order.pixels
            self._clock.add(
                [("encode texts", began, encoding), ("encode", encoding, perf_counter())]
            )


def _waits(
    began: float, ended: float, wrote: tuple[float, float]
) -> Iterator[tuple[str, float, float]]:
    """The wait of the model as that for the writer, while it wrote, and that for pixels."""
    first, last = max(began, wrote[0]), min(ended, wrote[1])
    if first >= last:
        yield "wait for pixels", began, ended
        return
    if began < first:
        yield "wait for pixels", began, first
    yield "wait for writes", first, last
    if last < ended:
        yield "wait for pixels", last, ended
