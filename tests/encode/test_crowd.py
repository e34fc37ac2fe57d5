"""All threads or one, by what both took lately."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch

from mmsearch.encode.crowd import Threads

#: What a unit of work takes four threads and one, without and beside others.
QUIET = {4: 0.02, 1: 0.04}
CROWDED = {4: 1.0, 1: 0.12}


class Machine:
    """Time that passes only where work is done."""

    def __init__(self) -> None:
        self.now = 100.0
        self.takes = QUIET
        self.threads = Threads(lambda: self.now)

    def work(self, amount: float = 1.0, *, after: float = 0.5) -> int:
        """By how many threads some work is done."""
        self.now += after
        with self.threads.chosen(amount):
            used = torch.get_num_threads()
            self.now += self.takes[used] * amount
        return used


@pytest.fixture
def machine() -> Iterator[Machine]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    machine = Machine()
    assert [machine.work() for _ in range(4)] == [4, 4, 1, 4]  # one is tried once
    yield machine
    torch.set_num_threads(before)


def test_a_quiet_machine_uses_all(machine: Machine) -> None:
    assert {machine.work(amount) for amount in (1, 32, 1, 5) * 20} == {4}


def test_beside_others_one_works_until_they_are_gone(machine: Machine) -> None:
    machine.takes = CROWDED
    # It may be over soon.
    assert [machine.work(after=0.3) for _ in range(9)] == [4, 1, 1, 4] + [1] * 5
    machine.takes = QUIET
    # The first is so much quicker than before that all are tried again before their time.
    assert [machine.work() for _ in range(4)] == [1, 4, 4, 4]


def test_as_long_as_others_work_all_are_tried_ever_less_often(machine: Machine) -> None:
    machine.takes = CROWDED
    used = [machine.work(after=0.9) for _ in range(1000)]
    tried = [n for n, threads in enumerate(used) if threads == 4]
    between = [b - a for a, b in itertools.pairwise(tried)]
    assert between[:2] == [2, 6]
    assert between == sorted(between)
    assert 100 < between[-1] < 130
    machine.takes = QUIET
    machine.work()
    machine.work()
    machine.takes = CROWDED
    assert [machine.work(after=0.1) for _ in range(2)] == [4, 1]
    assert machine.work(after=0.6) == 4  # the pauses are short again


def test_beside_others_from_the_start_on(machine: Machine) -> None:
    machine = Machine()
    machine.takes = CROWDED
    assert [machine.work() for _ in range(8)] == [4, 4, 1, 4, 1, 4, 1, 1]


def test_one_hiccup_costs_one_call(machine: Machine) -> None:
    """All were held up once, by what is over already, or by what holds up one as much."""
    machine.takes = {4: 0.09, 1: 0.05}
    assert machine.work() == 4
    machine.takes = QUIET | {1: 0.05}
    assert [machine.work(after=0.1) for _ in range(5)] == [1, 4, 4, 4, 4]


def test_one_that_takes_a_little_longer_changes_nothing(machine: Machine) -> None:
    machine.takes = {4: 0.035, 1: 0.04}
    assert {machine.work() for _ in range(20)} == {4}


def test_what_fails_is_not_counted_and_the_number_is_put_back(machine: Machine) -> None:
    machine.takes = CROWDED
    machine.work()
    for _ in range(3):
        with pytest.raises(RuntimeError, match="by 1"), machine.threads.chosen(1):
            raise RuntimeError(f"by {torch.get_num_threads()}")
        assert torch.get_num_threads() == 4
    assert machine.work() == 1


def test_with_one_thread_there_is_no_choice(machine: Machine) -> None:
    torch.set_num_threads(1)
    machine.takes = {1: 5.0}
    assert {machine.work() for _ in range(5)} == {1}
