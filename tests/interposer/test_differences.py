# SPDX-License-Identifier: GPL-2.0-or-later
"""What revisions lack, and answer differently, is what the reference says (revisions.md)."""

from __future__ import annotations

import errno

import pytest

from interposer.checking.differences import lacking, other_errnos, other_numbers


@pytest.mark.parametrize(
    ("name", "revisions"),
    [
        ("KDBUS_CMD_NAME_LIST", ("219", "final")),
        ("KDBUS_CMD_LIST", ("2", "3")),
        ("KDBUS_CMD_SEND", ()),
        ("KDBUS_ITEM_PAYLOAD_VEC", ()),
        ("KDBUS_ITEM_CANCEL_FD", ("2",)),
        ("KDBUS_MSG_SIGNAL", ("2",)),
        ("KDBUS_NO_SUCH_FLAG", ("2", "3", "219", "final")),
    ],
)
def test_what_is_lacking(name: str, revisions: tuple[str, ...]) -> None:
    assert lacking(name) == revisions


def test_numbers() -> None:
    assert other_numbers("HELLO", "3") == ("2", "219", "final")
    assert other_numbers("HELLO", "final") == ("2", "3")
    assert other_numbers("LIST", "final") == ()


def test_errnos() -> None:
    assert other_errnos("NoSuchMatch", errno.ENOENT, "3")[errno.EBADSLT] == ["219", "final"]
    assert other_errnos("NoSuchMatch", errno.EBADSLT, "final") == {errno.ENOENT: ["2", "3"]}
    assert other_errnos("NoSuchName", errno.ESRCH, "3") == {}
    assert other_errnos("Injected", errno.ENOBUFS, "3") == {}
    assert other_errnos("ProcessLookupError", errno.ESRCH, "3") == {}
