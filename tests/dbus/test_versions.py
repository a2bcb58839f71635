# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages in either version of the wire format, told apart by their own bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from kdbus.dbus.errors import Malformed
from kdbus.dbus.message import method_call
from kdbus.dbus.versions import CLASSIC, GVARIANT, Version, build, parse, version_of

CALL = replace(method_call(":1.7", "/a", "a.b", "M", "su", ("x", 1)), cookie=5)


@pytest.mark.parametrize("version", [CLASSIC, GVARIANT])
@pytest.mark.parametrize("order", ["little", "big"])
def test_there_and_back(version: Version, order: Literal["little", "big"]) -> None:
    data = build(CALL, version, order=order)
    assert version_of(data) == version
    assert parse(memoryview(data)) == (CALL, version)


@pytest.mark.parametrize("data", [b"", b"l\1\0", b"l\1\0\0", b"l\1\0\3" + bytes(40), b"x\1\0\2" + bytes(40)])
def test_what_is_neither(data: bytes) -> None:
    assert version_of(data) is None
    with pytest.raises(Malformed, match="do not begin as a message"):
        parse(data)


@pytest.mark.parametrize("version", [CLASSIC, GVARIANT])
def test_what_only_begins_like_one(version: Version) -> None:
    with pytest.raises(Malformed):
        parse(build(CALL, version)[:-1])
