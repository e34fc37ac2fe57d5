"""What the routes share: the library, the settings, and the threads of blocking calls."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

from mmsearch.errors import MmsearchError
from mmsearch.settings import Settings

if TYPE_CHECKING:
    from mmsearch.library import Library
    from mmsearch.query import QueryPicture

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

#: Reading a file or making a thumbnail waits for the disk or leaves the interpreter lock.
FILE_THREADS = 4
#: Decoding of uploads. They have threads of their own: a hostile one takes its time, all of it.
UPLOAD_THREADS = 2


class Service:
    """One library being served.

    Its calls block, so they run in threads and the event loop is never held: one thread owns the
    model and the index, a few others read the catalog and files. One inference thread, because the
    model uses all cores by itself (two at once only wait for each other), and a GPU index must not
    be searched by two threads.
    """

    def __init__(self, library: Library, settings: Settings) -> None:
        self.library = library
        self.settings = settings
        self._inference = ThreadPoolExecutor(1, thread_name_prefix="mmsearch-inference")
        self._files = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="mmsearch-files")
        self._uploads = ThreadPoolExecutor(UPLOAD_THREADS, thread_name_prefix="mmsearch-uploads")
        self.state: Literal["warming", "ready", "failed"] = "warming"
        self.problem: str | None = None

    async def infer(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what encodes or searches; calls are answered in the order they came."""
        loop = asyncio.get_running_loop()
        work = functools.partial(call, *args, **kwargs)
        return await loop.run_in_executor(self._inference, work)

    async def read(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what reads the catalog or a file."""
        loop = asyncio.get_running_loop()
        work = functools.partial(call, *args, **kwargs)
        return await loop.run_in_executor(self._files, work)

    async def picture(self, data: bytes) -> QueryPicture:
        """An uploaded picture, decoded unless the library knows it; the model's thread goes on
        meanwhile. Raises DecodeError, OverloadedError."""
        loop = asyncio.get_running_loop()
        picture = await self.read(self.library.look_up, data)
        if picture.content_id is not None:
            return picture
        side = await self.infer(self.library.picture_side)
        return await loop.run_in_executor(self._uploads, self.library.decode_picture, picture, side)

    def model(self) -> str | None:
        """The name of the active space's model; None in an empty library. Blocks: may read."""
        space = self.library.space
        return None if space is None else space.name

    async def answer(
        self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[T, str | None]:
        """What a searching call returns, and the name of the model it was answered with."""

        def work() -> tuple[T, str | None]:
            return call(*args, **kwargs), self.model()

        return await self.infer(work)

    async def encode_and_answer(
        self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[T, str | None]:
        """The same for a call that needs the model."""
        result = await self.answer(call, *args, **kwargs)
        # It has worked, so the model is there (also when it was not at the start).
        self.state, self.problem = "ready", None
        return result

    async def warm(self) -> None:
        """Load the model in the inference thread; questions that come meanwhile wait behind it."""
        try:
            await self.infer(self.library.warm)
        except MmsearchError as exc:
            # The page, the files and the status still work; a search says the same again.
            log.error("the model could not be loaded: %s", exc)
            self.state, self.problem = "failed", str(exc)
        except Exception:  # an edge: nobody awaits this task
            log.exception("the model could not be loaded")
            self.state, self.problem = "failed", "the model could not be loaded; the log says why"
        else:
            self.state, self.problem = "ready", None

    def close(self) -> None:
        """Let running calls end, drop those that wait."""
        self._inference.shutdown(wait=False, cancel_futures=True)
        self._files.shutdown(wait=False, cancel_futures=True)
        self._uploads.shutdown(wait=False, cancel_futures=True)
