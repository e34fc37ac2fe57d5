"""The processes beside the trainer: one makes lessons, and draws their pictures when asked."""

from __future__ import annotations

import io
import multiprocessing as mp
import os
import queue
from dataclasses import dataclass
from typing import Any

import numpy as np
from lessons import PICTURE_PAIRS, TEXT_PAIRS, Lesson, LessonMaker
from PIL import Image

from mmsearch.postcards.draw import draw, encode_jpeg


@dataclass(frozen=True, slots=True)
class Drawn:
    """A lesson with its pictures, uint8 (n, side, side, 3)."""

    lesson: Lesson
    pictures: np.ndarray


class Feed:
    """Lessons from a background process. `side` 0: without pictures. Closing ends the process."""

    def __init__(
        self, seed: int, pairs: int, side: int, ahead: int = 4, workers: int = 1, others: int = 0
    ) -> None:
        # spawn: the trainer's threads and memory are not for copying.
        context = mp.get_context("spawn")
        self._queue: Any = context.Queue(maxsize=ahead)
        self._processes = [
            context.Process(
                target=_work, args=(self._queue, seed * 1000 + i, pairs, side, others), daemon=True
            )
            for i in range(workers)
        ]
        for process in self._processes:
            process.start()

    def get(self) -> Drawn:
        """The next lesson; waits for it."""
        while True:
            try:
                drawn: Drawn = self._queue.get(timeout=60)
            except queue.Empty:
                if not all(p.is_alive() for p in self._processes):
                    raise RuntimeError("a feeding process has died; its error is above") from None
            else:
                return drawn

    def get_nowait(self) -> Drawn | None:
        """The next lesson if one is ready."""
        try:
            drawn: Drawn = self._queue.get_nowait()
        except queue.Empty:
            return None
        return drawn

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
            process.join()


def _work(out: Any, seed: int, pairs: int, side: int, others: int) -> None:
    os.nice(3)  # the trainer comes first
    maker = LessonMaker(seed, PICTURE_PAIRS if side else TEXT_PAIRS)
    while True:
        # The pictures' trainer asks the teacher, not the text tower: it needs no captions.
        lesson = maker.lesson(pairs, others, texts=not side)
        pictures = np.zeros((len(lesson.scenes), side, side, 3), np.uint8)
        if side:
            for i, scene in enumerate(lesson.scenes):
                pictures[i] = picture(scene, side)
        out.put(Drawn(lesson, pictures))


def picture(scene: Any, side: int) -> np.ndarray:
    """`scene` drawn at `side` pixels, with the artefacts of JPEG; uint8 (side, side, 3)."""
    with Image.open(io.BytesIO(encode_jpeg(draw(scene, side), scene.seed))) as image:
        return np.asarray(image.convert("RGB"))
