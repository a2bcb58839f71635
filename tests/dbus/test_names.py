# SPDX-License-Identifier: GPL-2.0-or-later
"""Names and paths: D-Bus Specification, "Valid Names" and "Valid Object Paths"."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdbus.dbus import names
from kdbus.dbus.errors import InvalidName

BUS, KNOWN = names.check_bus_name, names.check_well_known
INTERFACE, MEMBER, PATH = names.check_interface, names.check_member, names.check_path


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (BUS, "org.example"), (BUS, "org.example-two._x9"), (BUS, ":1.42"), (BUS, ":x-y.0a"), (BUS, "-a.b"),
        (BUS, "a." + "b" * 253), (KNOWN, "org.example.Printer"), (INTERFACE, "org.example._1"), (MEMBER, "Frobate"),
        (MEMBER, "_1"), (MEMBER, "a" * 255), (PATH, "/"), (PATH, "/a"), (PATH, "/a_1/2"), (PATH, "/" + "a" * 1000),
    ],
)  # fmt: skip
def test_valid(check: Callable[[str], str], text: str) -> None:
    assert check(text) == text


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (BUS, ""), (BUS, "org"), (BUS, ".org.example"), (BUS, "org..example"), (BUS, "org.example."), (BUS, "org.9a"),
        (BUS, "org.exämple"), (BUS, ":"), (BUS, ":1"), (BUS, ":1."), (BUS, "org.a b"), (BUS, "a." + "b" * 254),
        (BUS, "org.example\n"), (KNOWN, ":1.42"), (INTERFACE, "org.example-two"), (INTERFACE, "org"), (MEMBER, ""),
        (MEMBER, "9a"), (MEMBER, "a.b"), (MEMBER, "a-b"), (MEMBER, "a" * 256), (MEMBER, "a\n"), (PATH, ""),
        (PATH, "a"), (PATH, "//"), (PATH, "/a/"), (PATH, "/a//b"), (PATH, "/a-b"), (PATH, "/ä"), (PATH, "/\n"),
    ],
)  # fmt: skip
def test_invalid(check: Callable[[str], str], text: str) -> None:
    with pytest.raises(InvalidName):
        check(text)


def test_unique_names_are_ids() -> None:
    assert names.unique_name(42) == ":1.42"
    assert names.connection_id(":1.42") == 42
    assert names.connection_id(":1.18446744073709551615") == (1 << 64) - 1
    assert names.connection_id("org.example.Printer") is None


@pytest.mark.parametrize("text", [":1.0", ":1.042", ":1.18446744073709551616", ":2.1", ":1.", ":1.+1", ":1.1\n"])
def test_other_unique_names_are_nobodys_on_kdbus(text: str) -> None:
    with pytest.raises(InvalidName):
        names.connection_id(text)


@pytest.mark.parametrize("identifier", [0, -1, 1 << 64])
def test_other_numbers_are_no_ids(identifier: int) -> None:
    with pytest.raises(InvalidName):
        names.unique_name(identifier)
