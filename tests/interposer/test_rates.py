# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens per second, out of what was counted at two moments."""

from __future__ import annotations

from typing import Any

import pytest

from interposer.watching.rates import ORDERS, Rates
from interposer.watching.show import Facts

SECOND = 1_000_000_000


def connection(number: int, traffic: dict[str, int] | None = None, **changed: Any) -> dict[str, Any]:
    counted = {"sent": 0, "sent_bytes": 0, "received": 0, "failed": 0, "replies": 0, "reply_ns": 0}
    return {
        "record": "connection",
        "domain": 0,
        "bus": "0-x",
        "id": number,
        "kind": "ordinary",
        "revision": "3",
        "pid": 7,
        "command": "peer\n",
        "executable": None,
        "names": [],
        "names_count": 0,
        "waits_for_names": [],
        "waits_for_names_count": 0,
        "activates": None,
        "pool": {"size": 1024, "used": 8 * number},
        "queue": {"messages": number},
        "traffic": None if traffic is None else {**counted, "longest_reply_ns": 0, **traffic},
        **changed,
    }


def facts(messages: int, *connections: dict[str, Any]) -> Facts:
    domain = {"record": "domain", "domain": 0, "messages": messages}
    buses = [
        {"record": "bus", "domain": 0, "bus": "0-x", "messages": None},
        {"record": "bus", "domain": 0, "bus": "0-y", "messages": messages},
    ]
    return Facts([domain, *buses, *connections])


def test_rates_are_differences_per_second() -> None:
    rates = Rates()
    rates.update(facts(10, connection(1, {"sent": 5, "sent_bytes": 50, "received": 1})), SECOND)
    (row,) = rates.rows
    assert (rates.total, row.sent, row.received, row.size) == (None, None, None, None)
    rates.update(facts(20, connection(1, {"sent": 9, "sent_bytes": 60, "received": 1})), 3 * SECOND)
    (row,) = rates.rows
    assert (rates.total, row.sent, row.received, row.size) == (10.0, 2.0, 0.0, 5.0)
    assert list(rates.history) == [10.0]
    assert row.command == r"peer\n"


def test_without_counts_there_is_only_the_total() -> None:
    rates = Rates()
    for number in (1, 2):
        rates.update(facts(10 * number, connection(1)), number * SECOND)
    (row,) = rates.rows
    assert (rates.total, row.sent, row.reply_ns, row.failed) == (20.0, None, None, 0)


def test_latency_is_that_of_the_last_replies() -> None:
    rates = Rates()
    slow = {"replies": 2, "reply_ns": 2000, "longest_reply_ns": 1500}
    for number, (traffic, mean) in enumerate(
        [
            ({}, None),
            (slow, 1000.0),
            ({**slow, "replies": 4, "reply_ns": 2200}, 100.0),
            ({**slow, "replies": 4, "reply_ns": 2200}, 550.0),
        ]
    ):
        rates.update(facts(0, connection(1, traffic)), number * SECOND)
        assert rates.rows[0].reply_ns == mean
    assert rates.rows[0].longest_ns == 1500


def test_who_comes_and_goes() -> None:
    rates = Rates()
    rates.update(facts(5, connection(1, {"sent": 5})), SECOND)
    rates.update(facts(0, connection(2, {"sent": 7})), 2 * SECOND)
    assert [(row.id, row.sent) for row in rates.rows] == [(2, None)]
    assert rates.total == 0, "never less than nothing"


@pytest.mark.parametrize(
    ("order", "ids"), [("messages", [2, 1, 3]), ("queue", [3, 2, 1]), ("latency", [1, 2, 3]), ("pool", [3, 2, 1])]
)
def test_orders(order: str, ids: list[int]) -> None:
    rates = Rates()
    for number in (0, 1):
        first = connection(1, {"replies": number, "reply_ns": 9 * number})
        rates.update(facts(0, first, connection(2, {"sent": number}), connection(3, {})), number * SECOND)
    assert [row.id for row in rates.ordered(order)] == ids
    assert [row.id for row in rates.ordered("id")] == [1, 2, 3]
    assert order in ORDERS
