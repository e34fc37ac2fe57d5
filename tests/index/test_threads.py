"""How many threads FAISS and torch take, in a process that has both."""

from __future__ import annotations

import subprocess
import sys

_IN_A_THREAD = """
import torch
import faiss
from concurrent.futures import ThreadPoolExecutor
from mmsearch.index.threads import one_thread

def work():
    with one_thread():
        torch.zeros(8).half().float()
        within = faiss.omp_get_max_threads(), torch.get_num_threads()
    return (*within, faiss.omp_get_max_threads())

torch.set_num_threads(3)
with ThreadPoolExecutor(1, initializer=faiss.omp_set_num_threads, initargs=(2,)) as fresh:
    print(*fresh.submit(work).result())
"""


def test_a_thread_that_never_used_torch_works_alone() -> None:
    """torch takes its own number of threads when a thread first asks it for anything."""
    said = subprocess.check_output([sys.executable, "-c", _IN_A_THREAD], text=True)
    assert said.split() == ["1", "1", "2"]
