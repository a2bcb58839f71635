# SPDX-License-Identifier: GPL-2.0-or-later
"""What revisions lack, and answer differently, is what the reference says (revisions.md)."""

from __future__ import annotations

import errno

import pytest

from interposer.checking.differences import below, lacking, other_errnos, other_numbers, refusing, refusing_two, unlike


@pytest.mark.parametrize(
    ("name", "revisions"),
    [
        ("KDBUS_CMD_NAME_LIST", ("219", "4", "final")),
        ("KDBUS_CMD_LIST", ("2", "3")),
        ("KDBUS_CMD_SEND", ()),
        ("KDBUS_ITEM_PAYLOAD_VEC", ()),
        ("KDBUS_ITEM_CANCEL_FD", ("2",)),
        ("KDBUS_MSG_SIGNAL", ("2",)),
        ("KDBUS_ITEM_DST_ID", ("2", "3", "219", "4")),
        ("KDBUS_NAME_PRIMARY", ("2", "3", "219", "4")),
        ("KDBUS_NO_SUCH_FLAG", ("2", "3", "219", "4", "final")),
    ],
)
def test_what_is_lacking(name: str, revisions: tuple[str, ...]) -> None:
    assert lacking(name) == revisions


def test_numbers() -> None:
    assert other_numbers("HELLO", "3") == ("2", "219", "4", "final")
    assert other_numbers("HELLO", "final") == ("2", "3")
    assert other_numbers("LIST", "final") == ()


def test_errnos() -> None:
    assert other_errnos("NoSuchMatch", errno.ENOENT, "3")[errno.EBADSLT] == ["219", "4", "final"]
    assert other_errnos("NoSuchMatch", errno.EBADSLT, "final") == {errno.ENOENT: ["2", "3"]}
    assert other_errnos("NoMessageOfPriority", errno.ENOMSG, "3") == {errno.EAGAIN: ["4", "final"]}
    assert other_errnos("ReplyNotExpected", errno.EBADSLT, "final") == {errno.EPERM: ["2", "3", "219", "4"]}
    assert other_errnos("RepeatedItem", errno.EINVAL, "final", "SEND") == {errno.EEXIST: ["2", "3", "219", "4"]}
    assert other_errnos("DuplicateItem", errno.EEXIST, "219", "SEND") == {errno.EINVAL: ["final"]}
    assert other_errnos("NoSuchName", errno.ESRCH, "3") == {}
    assert other_errnos("Injected", errno.ENOBUFS, "3") == {}
    assert other_errnos("ProcessLookupError", errno.ESRCH, "3") == {}


def test_version_4_means_other_things_than_the_final_revision() -> None:
    assert unlike("own_broadcasts", "final") == unlike("one_claim_per_name", "final") == ("2", "3", "219", "4")
    assert unlike("silent_unicast_signals", "final") == ("2", "3")
    assert unlike("counts_messages", "219") == ("4", "final")
    assert unlike("requires_metadata", "3") == ("final",)
    assert refusing("BUS_MAKE", "ATTACH_FLAGS_RECV", "final") == ("final",)
    assert refusing("HELLO", "ID", "3") == ("219", "4", "final")


def test_items_that_may_be_there_once() -> None:
    assert refusing_two("CONN_UPDATE", "ATTACH_FLAGS_SEND", "3") == ("219", "4", "final")
    assert refusing_two("CONN_UPDATE", "NAME", "3") == refusing_two("HELLO", "ID", "3") == ()


def test_limits() -> None:
    assert below("matches_per_connection", 256, "final") == ()
    assert below("matches_per_connection", 257, "final") == ("2", "3", "219", "4")
    assert below("names_per_connection", 65, "3") == ("2",)
    assert below("names_per_connection", 65, "2") == ()
