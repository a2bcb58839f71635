# SPDX-License-Identifier: GPL-2.0-or-later
"""Descriptors among values."""

from __future__ import annotations

from typing import Any

import pytest

from kdbus.dbus.handles import replaced
from kdbus.dbus.values import Variant


@pytest.mark.parametrize(
    ("signature", "body", "wanted"),
    [
        ("h", (0,), ("#0",)),
        ("uhs", (0, 1, "x"), (0, "#1", "x")),
        ("ah", ([0, 1],), (["#0", "#1"],)),
        ("(uh)a(hs)", ((1, 0), [(1, "x")]), ((1, "#0"), [("#1", "x")])),
        ("a{sh}a{hs}", ({"x": 0}, {1: "x"}), ({"x": "#0"}, {"#1": "x"})),
        ("v", (Variant("(vu)", (Variant("ah", [2]), 3)),), (Variant("(vu)", (Variant("ah", ["#2"]), 3)),)),
        ("a{sv}", ({"x": Variant("u", 1)},), ({"x": Variant("u", 1)},)),
    ],
)
def test_each_is_replaced(signature: str, body: tuple[Any, ...], wanted: tuple[Any, ...]) -> None:
    assert replaced(signature, body, "#{}".format) == wanted


def test_other_values_are_not_touched() -> None:
    value = ["x"]
    assert replaced("as", (value,), lambda index: 1 / 0)[0] is value
