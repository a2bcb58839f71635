# SPDX-License-Identifier: GPL-2.0-or-later
"""Which connections are lent, and when: programs that take turns in various ways, and what lending costs them."""

from __future__ import annotations

import pytest

from interposer.supervisor.busy import MOST, PER_CALL, Busy


class Lending:
    """What `interposer.supervisor.flows` does with `Busy`, for connections that can all be lent."""

    def __init__(self) -> None:
        self.busy = Busy()
        self.waiting: dict[int, int] = {}
        self.lent: set[int] = set()
        self.weight = 0
        """Of all that was lent."""
        self.broker = 0
        """Calls that the broker has served."""
        self._used: dict[int, None] = {}
        self._served = 0

    def call(self, number: int, *, hot: bool = True) -> None:
        """A call on a connection; one that is not `hot` is the broker's in any case, and makes nothing busy."""
        if hot and number in self.lent:
            self._served += 1
            self._used[number] = None
            return
        if self.lent:
            self.busy.returned(self._served)
            for used in self._used:
                self.busy.used(used)
        self.broker += 1
        self._served = 0
        self._used = {}
        self.lent = set()
        if hot:
            self.busy.used(number)
        if self.busy.is_due():
            chosen = self.busy.choose(lambda each: self.waiting.get(each, 0))
            self.busy.lent(chosen, 0)
            self.lent = set(chosen)
            self.weight += len(chosen) + sum(self.waiting.get(each, 0) for each in chosen)

    def signal_to(self, receivers: int) -> None:
        """A broadcast, which is the broker's, and then RECV and FREE of each receiver."""
        self.waiting = dict.fromkeys(range(1, receivers + 1), 1)
        self.call(0, hot=False)
        for number in range(1, receivers + 1):
            self.call(number)
            self.call(number)
            self.waiting[number] = 0


def test_what_was_used_last_comes_first() -> None:
    busy = Busy()
    assert not busy.is_due()
    for number in (3, 1, 2, 3):
        busy.used(number)
    assert busy.is_due()
    assert busy.choose(lambda _: 0) == [3, 2, 1]
    busy.forget(2)
    busy.forget(2)
    assert busy.choose(lambda _: 0) == [3, 1]


@pytest.mark.parametrize("receivers", [1, 10, 100, 1000, MOST // 2 - 1])
def test_all_who_take_turns_are_lent(receivers: int) -> None:
    """A broadcast, and then each receiver makes two calls: the broker comes to serve the broadcasts alone."""
    lending = Lending()
    for _ in range(20):
        lending.signal_to(receivers)
    before = lending.broker
    for _ in range(5):
        lending.signal_to(receivers)
    assert lending.broker - before == 5


@pytest.mark.parametrize("idle", [1, 300, 3000])
def test_what_does_not_pay_costs_no_more_than_the_calls(idle: int) -> None:
    """One makes calls that are the broker's; others are busy enough to be lent, but make too few to be worth it."""
    lending = Lending()
    for number in range(1, idle + 1):
        lending.busy.used(number)
    for turn in range(20 * MOST // PER_CALL):
        lending.call(0, hot=False)
        lending.busy.used(turn % idle + 1)
    assert lending.weight <= PER_CALL * lending.broker + 8 * MOST


def test_lending_that_has_paid_is_done_again_at_once() -> None:
    lending = Lending()
    lending.call(1)
    for _ in range(40):
        lending.call(0, hot=False)
        if not lending.lent:
            lending.call(1)
    while not lending.lent:
        lending.call(1)
    for _ in range(3):
        for _ in range(10):
            lending.call(1)
        lending.call(0, hot=False)
        assert lending.lent == {1}


def test_what_is_not_used_any_more_is_not_lent_any_more() -> None:
    busy = Busy()
    busy.used(1)
    for _ in range(1100):
        busy.used(2)
        busy.choose(lambda _: 0)
    assert busy.choose(lambda _: 0) == [2]


def test_so_much_is_lent_and_no_more() -> None:
    busy = Busy()
    for number in range(MOST + 10):
        busy.used(number)
    assert len(busy) == MOST
    assert busy.choose(lambda _: 0) == list(range(MOST + 9, 9, -1))
    assert len(busy.choose(lambda _: 1)) == MOST // 2
    latest = MOST + 9
    assert latest not in busy.choose(lambda number: MOST if number == latest else 0)


def test_what_is_refused_is_not_tried_again_soon() -> None:
    busy = Busy()
    busy.used(1)
    busy.lent(busy.choose(lambda _: 10 * PER_CALL - 1), 10 * PER_CALL)
    busy.refused()
    assert [busy.is_due() for _ in range(21)] == [False] * 20 + [True]


def test_what_cannot_be_lent_weighs_nothing() -> None:
    """Two calls are enough for what was lent; what was only looked at did not have to be handed out."""
    busy = Busy()
    for number in (1, 2):
        busy.used(number)
    busy.choose(lambda number: 100 * PER_CALL if number == 2 else 0)
    busy.lent([1], 0)
    busy.returned(2)
    assert busy.is_due()
    busy.choose(lambda _: 0)
    busy.lent([1], 0)
    busy.returned(1)
    assert not busy.is_due()
