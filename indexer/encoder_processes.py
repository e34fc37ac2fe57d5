"""One process for each of several devices, behind the face of one encoder.

A process can drive one GPU well: the interpreter's lock, and torch's own threads, are each
device's alone. All that touches files and the catalog stays in the process that started them; they
get pictures ready for the model, and give vectors back.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import Queue
from typing import TYPE_CHECKING, Any

from mmsearch.encode import load_encoder, presets, weights
from mmsearch.errors import EncodeError, MmsearchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encode import Encoder
    from mmsearch.encode.preprocess import Preprocessor
    from mmsearch.types import Space, Vectors

#: Batches that a process takes in beyond the one it computes, so that it never waits for one and
#: who sends never waits for it.
_AHEAD = 2


@dataclass(frozen=True, slots=True)
class _Hello:
    """What a process says of its encoder once it is loaded."""

    space: Space
    logit_scale: float
    device: str
    dtype: str
    image_size: int
    batch_size: int


class EncoderProcesses:
    """See `mmsearch.encode.protocol.Encoder`; a batch is divided among the devices.

    Raises EncodeError also when a process ended (killed, out of memory). Not thread-safe.
    """

    def __init__(self, model: str, devices: Sequence[str], *, dtype: str, reference: bool) -> None:
        """Starts the processes, each of which loads the model on its device.

        Raises what `load_encoder` does.
        """
        from mmsearch.encode.preprocess import preprocessor

        files = weights.find(presets.resolve(model))  # fetched once, if it has to be
        self._preprocess = preprocessor(files.preprocess_cfg, reference=reference)
        self._members = [_Member(model, device, dtype) for device in devices]
        try:
            self._hellos: list[_Hello] = [m.receive("hello") for m in self._members]
        except BaseException:
            self.close()
            raise
        self._sizes: list[int] = [hello.batch_size for hello in self._hellos]

    def close(self) -> None:
        """Ends the processes."""
        for member in self._members:
            member.close()

    @property
    def space(self) -> Space:
        return self._hellos[0].space

    @property
    def logit_scale(self) -> float:
        return self._hellos[0].logit_scale

    @property
    def device(self) -> str:
        return " + ".join(hello.device for hello in self._hellos)

    @property
    def dtype(self) -> str:
        return self._hellos[0].dtype

    @property
    def image_size(self) -> int:
        return self._hellos[0].image_size

    @property
    def batch_size(self) -> int:
        return len(self._sizes) * min(self._sizes)

    @property
    def preprocess(self) -> Preprocessor:
        return self._preprocess

    def encode_images(self, batch: NDArray[np.uint8]) -> Vectors:
        (vectors,) = self.encode_batches([batch])
        return vectors

    def encode_batches(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Vectors]:
        import numpy as np

        flying, ended = 0, False
        try:
            for batch in batches:
                parts = np.array_split(batch, len(self._members))
                for member, part in zip(self._members, parts, strict=True):
                    member.send_pixels(part)
                flying += 1
                if flying > 1:  # the processes have the next one while they compute this
                    flying -= 1
                    yield self._gather()
            self._end()
            ended = True
            while flying:
                flying -= 1
                yield self._gather()
        finally:
            # Who stopped half-way left vectors behind; unless processes have died.
            with contextlib.suppress(EncodeError):
                if not ended:
                    self._end()
                for _ in range(flying):
                    self._gather()

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        self._members[0].send(("texts", list(texts)))
        vectors: Vectors = self._members[0].receive("texts")
        return vectors

    def _end(self) -> None:
        for member in self._members:
            member.send(("end", None))

    def _gather(self) -> Vectors:
        import numpy as np

        answers = [member.receive("pixels") for member in self._members]
        self._sizes = [size for _, size in answers]
        return np.ascontiguousarray(np.concatenate([vectors for vectors, _ in answers]))


class _Member:
    """A process, from outside."""

    def __init__(self, model: str, device: str, dtype: str) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self._device = device
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, model, device, dtype), name=f"encode {device}", daemon=True
        )
        self._process.start()
        theirs.close()
        self._waiting: deque[tuple[str, Any]] = deque()

    def send(self, order: tuple[str, Any]) -> None:
        try:
            self._connection.send(order)
        except OSError as exc:
            raise self._gone() from exc

    def send_pixels(self, pixels: NDArray[np.uint8]) -> None:
        self.send(("pixels", len(pixels)))
        try:
            if len(pixels):
                self._connection.send_bytes(pixels.data.cast("B"))
        except OSError as exc:
            raise self._gone() from exc

    def receive(self, kind: str) -> Any:
        """The next answer of a kind; others that come before it are kept."""
        for number, (other, content) in enumerate(self._waiting):
            if other == kind:
                del self._waiting[number]
                return content
        while True:
            try:
                got, content = self._connection.recv()
            except (EOFError, OSError) as exc:
                raise self._gone() from exc
            if got == "error":
                raise EncodeError(content)
            if got == kind:
                return content
            self._waiting.append((got, content))

    def _gone(self) -> EncodeError:
        return EncodeError(
            f"the process that encodes on {self._device} has ended (out of memory?). What was "
            "committed is kept: run the same command again"
        )

    def close(self) -> None:
        self._connection.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


# --- inside a process -----------------------------------------------------------------------------


def _work(connection: Connection, model: str, device: str, dtype: str) -> None:
    """Loads the model, answers orders until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who gives orders
    with contextlib.suppress(OSError):  # nobody is there any more
        try:
            encoder = load_encoder(model, device=device, dtype=dtype)
            hello = _Hello(
                encoder.space,
                encoder.logit_scale,
                encoder.device,
                encoder.dtype,
                encoder.image_size,
                encoder.batch_size,
            )
            connection.send(("hello", hello))
            _answer(connection, encoder)
        except MmsearchError as exc:
            connection.send(("error", str(exc)))


def _answer(connection: Connection, encoder: Encoder) -> None:
    orders: Queue[tuple[str, Any]] = Queue(_AHEAD)
    receiver = threading.Thread(
        target=_receive, args=(connection, orders, encoder.image_size), daemon=True
    )
    receiver.start()
    last = False

    def batches(kind: str, content: Any) -> Iterator[NDArray[np.uint8]]:
        nonlocal last
        while kind in ("pixels", "texts"):
            if kind == "pixels":
                yield content
            else:
                connection.send(("texts", encoder.encode_texts(content)))
            kind, content = orders.get()
        last = kind == "closed"

    while not last:
        for vectors in encoder.encode_batches(batches(*orders.get())):
            connection.send(("pixels", (vectors, encoder.batch_size)))


def _receive(connection: Connection, orders: Queue[tuple[str, Any]], side: int) -> None:
    """Takes orders from the pipe while the process computes."""
    import numpy as np

    try:
        while True:
            kind, content = connection.recv()
            if kind == "pixels":
                batch = np.empty((content, 3, side, side), np.uint8)
                if content:
                    connection.recv_bytes_into(batch.data.cast("B"))
                content = batch
            orders.put((kind, content))
    except (EOFError, OSError):
        orders.put(("closed", None))
