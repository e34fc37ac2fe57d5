"""A process that prepares pictures, from outside. See indexer.decoder_processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from indexer.decoder_work import JOB_FIELDS, STAGES, Recipe, Shared, work

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    import numpy as np
    from numpy.typing import NDArray

    from indexer.decoder_processes import Prepared

#: Orders that a process has at once, at most.
MOST_ORDERS = 32
#: How much longer than it may a process is left: all may have been stopped meanwhile (Ctrl-Z).
_GRACE_S = 1.0
#: What ending one that is killed may take.
END_S = 2.0


class Member:
    """A process, from outside."""

    def __init__(self, recipe: Recipe) -> None:
        """Raises OSError, EOFError."""
        # Forked from one that has imported what they need, and has no threads: torch's import takes
        # more than a second, and 16 at once more memory than they share.
        context = multiprocessing.get_context("forkserver")
        self.connection: Connection
        self.connection, theirs = context.Pipe()
        self._shared = Shared(MOST_ORDERS, recipe.side)
        self.process: BaseProcess = context.Process(
            target=work, args=(theirs, self._shared, recipe), name="decode", daemon=True
        )
        with theirs, contextlib.closing(self._shared):
            self.process.start()
        #: Whether it was heard of.
        self.has_begun = False
        self.orders: dict[int, Prepared] = {}
        self._has_one_alone = False
        self._places = list(range(MOST_ORDERS))
        #: Since when it was at what it was at when it was first found overdue, and when that was.
        self.suspected = 0.0
        self._suspected_at = 0.0

    @property
    def load(self) -> int:
        """How many orders it has; all that it may have, where it has one that is alone."""
        return MOST_ORDERS if self._has_one_alone and self.orders else len(self.orders)

    def give(self, order: Prepared) -> None:
        """Raises OSError when the process has ended. The order is among its own then only if it may
        have begun to take it in: what it ended before is no reason why."""
        assert order.job is not None
        number = self._places.pop()
        self.orders[number] = order
        self._has_one_alone = order.alone
        try:
            self.connection.send(("job", number, (*JOB_FIELDS(order.job), order.asks)))
        except OSError:
            if order.job.data is None:  # more than the pipe holds are only bytes of an archive
                self.free(number)
            raise

    def free(self, number: int) -> None:
        """An order is done: its place may be taken by another."""
        del self.orders[number]
        self._places.append(number)

    def pixels(self, number: int) -> NDArray[np.uint8]:
        """A copy of what it left of an order, (3, side, side)."""
        square: NDArray[np.uint8] = self._shared.squares[number].copy()
        return square

    @property
    def at(self) -> tuple[int, str, float]:
        """Which order it is at, -1 for none, at which stage, and since when (monotonic)."""
        number, stage, since = self._shared.at.tolist()
        return int(number), STAGES[int(stage)], since

    def is_overdue(self, seconds: float) -> bool:
        """Whether it has been at one stage of a picture for too long, twice looked at."""
        number, _, since = self.at
        now = time.monotonic()
        if number < 0 or now - since <= seconds:
            return False
        if self.suspected != since:
            self.suspected, self._suspected_at = since, now
        return now - self._suspected_at >= min(_GRACE_S, seconds)

    def kill(self, wait_s: float = 0.0) -> int | None:
        """Ends it; its exit code, None where it cannot be ended. wait_s: how long it may take to
        end by itself, which it is about to."""
        self.connection.close()
        self.process.join(wait_s)
        self.process.kill()
        self.process.join(END_S)
        return self.process.exitcode
