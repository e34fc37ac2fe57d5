from __future__ import annotations

import pytest

from mmsearch.encode.batchsize import BatchSize


def run(size: BatchSize, rate_at: dict[int, float], memory: int = 1 << 30) -> list[int]:
    """The sizes that a run comes through until it stays with one, on a machine of these rates
    (inputs a second by batch size)."""
    seen = [size.size]
    for _ in range(100):
        if size.size > memory:
            size.too_large(size.size)
        else:
            size.took(size.size, size.size / rate_at[size.size])
        if size.size != seen[-1]:
            seen.append(size.size)
    assert size.settled
    return seen


def test_it_grows_while_that_makes_it_faster() -> None:
    rates = {16: 30.0, 32: 40.0, 64: 50.0, 128: 50.5, 256: 90.0}
    # 128 was no better than 64, so that 256 is never tried.
    assert run(BatchSize(16, 1024), rates) == [16, 32, 64, 128, 64]


def test_it_stays_where_more_is_no_better_or_not_allowed() -> None:
    assert run(BatchSize(16, 64), {16: 30.0, 32: 25.0}) == [16, 32, 16]
    assert run(BatchSize(16, 64), {16: 30.0, 32: 40.0, 64: 60.0}) == [16, 32, 64]
    assert run(BatchSize(16, 16), {16: 30.0}) == [16]
    assert BatchSize(64, 10).size == 10


def test_it_stops_growing_where_memory_ends() -> None:
    rates = {16: 30.0, 32: 40.0, 64: 50.0, 128: 60.0}
    size = BatchSize(16, 1024)
    assert run(size, rates, memory=100) == [16, 32, 64, 128, 64]
    assert size.most == 64
    # Another program took memory meanwhile.
    size.too_large(64)
    assert (size.size, size.most, size.settled) == (32, 32, True)


def test_a_slow_batch_among_quick_ones_does_not_count() -> None:
    size = BatchSize(8, 1024)
    for seconds in (9.0, 1.0, 4.0):  # the first of a size always is slow
        size.took(8, seconds)
    assert size.size == 16
    for seconds in (9.0, 1.9, 1.8):  # 8.9 a second, against 8
        size.took(16, seconds)
    assert size.size == 32


@pytest.mark.parametrize("count", [7, 9, 1])
def test_batches_of_other_sizes_tell_nothing(count: int) -> None:
    size = BatchSize(8, 1024)
    for _ in range(20):
        size.took(count, 1.0)
    assert (size.size, size.settled) == (8, False)
