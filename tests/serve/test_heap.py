from __future__ import annotations

import asyncio
import ctypes
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from mmsearch.serve import heap

on_glibc = pytest.mark.skipif(heap._glibc() is None, reason="the C library is not glibc")

# Blocks in a heap with every other one freed: none of it lies at the heap's end.
_HOLES = """
import ctypes, re
from pathlib import Path
from mmsearch.serve import heap

def resident():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
size = 64 << 10
blocks = [libc.malloc(size) for _ in range(2000)]
for block in blocks:
    ctypes.memset(block, 1, size)
for block in blocks[::2]:
    libc.free(block)
before = resident()
print(heap.bound(), heap.trim(), before - resident())
"""


@on_glibc
def test_free_pages_amid_what_is_in_use_are_returned() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _HOLES],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    bounded, trimmed, returned_mb = run.stdout.split()
    assert (bounded, trimmed) == ("True", "True")
    assert int(returned_mb) > 40  # of the 62 that were freed; some pages are shared with neighbours


def test_it_is_done_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_glibc", lambda: ctypes)

    async def twice() -> int:
        done = 0
        again = asyncio.Event()
        loop = asyncio.get_running_loop()

        def trim() -> bool:
            nonlocal done
            done += 1
            if done == 2:
                loop.call_soon_threadsafe(again.set)
            return True

        monkeypatch.setattr(heap, "trim", trim)
        trimming = asyncio.create_task(heap.keep_trimmed(0.001))
        await again.wait()
        trimming.cancel()
        with suppress(asyncio.CancelledError):
            await trimming
        return done

    assert asyncio.run(twice()) >= 2


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    heap._glibc.cache_clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    try:
        assert not heap.bound()
        assert not heap.trim()
        asyncio.run(heap.keep_trimmed(3600))  # returns at once
    finally:
        heap._glibc.cache_clear()
