"""What the counts of the filters need, read before a person opens the page and waits for it.

Of a million pictures that takes seconds after the start, and most of one after each commit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from mmsearch.errors import MmsearchError

if TYPE_CHECKING:
    from mmsearch.serve.service import Service

log = logging.getLogger(__name__)

#: How often is looked for commits. While they come in faster nothing is read: it would be for
#: nothing.
EVERY_S = 2.0
#: Reading takes one part in so many of the time, at most.
_SHARE = 20


async def keep_counted(service: Service) -> None:
    """Reads it now, and again whenever something was committed and a moment has passed, until it is
    cancelled. Requests that come meanwhile wait for a small part of it at most."""
    catalog = service.library.catalog
    last = read = None
    while True:
        pause = EVERY_S
        try:
            revision = await service.read(catalog.revision)
            if revision != read and (read is None or revision == last):
                began = time.monotonic()
                parts = catalog.warm_facets()
                while await service.read(next, parts, True) is None:
                    pass
                read = revision
                pause = max(pause, _SHARE * (time.monotonic() - began))
            last = revision
        except MmsearchError as exc:
            # Who asks for the counts is told; the service goes on, and the library may come back.
            log.debug("the counts of the filters could not be made ready: %s", exc)
        await asyncio.sleep(pause)
