from __future__ import annotations

import sys

import numpy as np
import pytest

from mmsearch import blas


def test_the_number_of_threads_is_put_back() -> None:
    calls = blas._thread_calls()
    if calls is None:
        assert sys.platform != "linux", "numpy's wheels for Linux have OpenBLAS"
        pytest.skip("numpy has another BLAS here")
    get, _ = calls
    before = get()
    with blas.one_thread():
        assert get() == 1
        assert (np.ones((3, 4)) @ np.ones((4, 2)) == 4).all()
    assert get() == before
    with pytest.raises(KeyError), blas.one_thread():
        raise KeyError
    assert get() == before


def test_the_last_to_leave_puts_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    number = 4

    def put(threads: int) -> None:
        nonlocal number
        number = threads

    monkeypatch.setattr(blas, "_thread_calls", lambda: (lambda: number, put))
    first, second = blas.one_thread(), blas.one_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert number == 1
    with blas.one_thread():
        pass
    assert number == 1
    second.__exit__(None, None, None)
    assert number == 4


def test_without_openblas_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "_thread_calls", lambda: None)
    with blas.one_thread():
        pass
