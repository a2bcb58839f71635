# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of versions 2 and 4 and of systemd 219, against the numbers that programs of the time were built with.

The numbers stand here once more, as those programs have them in their binaries; nothing is computed. That header and
tables agree is told by `tests/project/test_header.py`.
"""

from __future__ import annotations

from types import ModuleType

import pytest

from kdbus.abi import final, revision2, revision3, revision4, revision219
from kdbus.abi.layout import Struct

VERSION_2 = {
    "BUS_MAKE": 0x40189500,
    "ENDPOINT_MAKE": 0x40189510,
    "HELLO": 0xC0609520,
    "BYEBYE": 0x00009521,
    "MSG_SEND": 0xC0489530,
    "MSG_RECV": 0xC0209531,
    "MSG_CANCEL": 0x40109532,
    "FREE": 0x40189533,
    "NAME_ACQUIRE": 0xC0189540,
    "NAME_RELEASE": 0x40189541,
    "NAME_LIST": 0xC0189542,
    "CONN_INFO": 0xC0289550,
    "CONN_UPDATE": 0x40189551,
    "BUS_CREATOR_INFO": 0xC0289552,
    "ENDPOINT_UPDATE": 0x40189561,
    "MATCH_ADD": 0x40209570,
    "MATCH_REMOVE": 0x40209571,
}


def test_requests_of_version_2() -> None:
    assert {f"KDBUS_CMD_{name}": number for name, number in VERSION_2.items()} == revision2.REQUESTS


def test_what_version_2_shares_with_others() -> None:
    """The base of recognition: a number that two revisions share pins nothing by itself."""
    assert set(revision2.REQUESTS.values()) & set(revision3.REQUESTS.values()) == {0x00009521, 0xC0489530}
    assert set(revision2.REQUESTS.values()) & set(final.REQUESTS.values()) == {0x40189500, 0x40189510}


@pytest.mark.parametrize(
    ("constant", "number"),
    [
        ("KDBUS_ITEM_PAYLOAD_VEC", 1),
        ("KDBUS_ITEM_BLOOM_PARAMETER", 5),
        ("KDBUS_ITEM_MAKE_NAME", 9),
        ("KDBUS_ITEM_ATTACH_FLAGS_RECV", 0xB),
        ("KDBUS_ITEM_NAME", 0xD),
        ("KDBUS_ITEM_AUXGROUPS", 0x1002),
        ("KDBUS_ITEM_CONN_DESCRIPTION", 0x100C),
        ("KDBUS_ATTACH_AUXGROUPS", 4),
        ("KDBUS_ATTACH_CONN_DESCRIPTION", 0x1000),
        ("_KDBUS_ATTACH_ALL", 0x1FFF),
        ("KDBUS_MSG_SYNC_REPLY", 2),
        ("KDBUS_MSG_NO_AUTO_START", 4),
    ],
)
def test_constants_of_version_2(constant: str, number: int) -> None:
    assert revision2.CONSTANTS[constant] == number


@pytest.mark.parametrize(
    "constant",
    [
        "KDBUS_MSG_SIGNAL",
        "KDBUS_SEND_SYNC_REPLY",
        "KDBUS_ITEM_PIDS",
        "KDBUS_ATTACH_PIDS",
        "KDBUS_ITEM_CANCEL_FD",
        "KDBUS_ITEM_NEGOTIATE",
        "KDBUS_RECV_RETURN_INCOMPLETE_FDS",
    ],
)
def test_what_version_2_does_not_have(constant: str) -> None:
    assert constant not in revision2.CONSTANTS


def test_version_4_lacks_three_numbers_of_the_final_revision() -> None:
    assert revision4.REQUESTS == final.REQUESTS
    assert set(final.CONSTANTS) - set(revision4.CONSTANTS) == {
        "KDBUS_ITEM_DST_ID",
        "KDBUS_NAME_PRIMARY",
        "KDBUS_NAME_ACQUIRED",
    }


def test_two_requests_tell_systemd_219_from_version_4() -> None:
    differing = {name: number for name, number in revision219.REQUESTS.items() if revision4.REQUESTS[name] != number}
    assert differing == {"KDBUS_CMD_CONN_INFO": 0x80309584, "KDBUS_CMD_BUS_CREATOR_INFO": 0x80309585}


@pytest.mark.parametrize(
    ("tables", "size"), [(revision2, 40), (revision3, 32), (revision219, 32), (revision4, 64), (final, 64)]
)
def test_size_of_credentials(tables: ModuleType, size: int) -> None:
    assert tables.STRUCTS["kdbus_creds"].size == size


@pytest.mark.parametrize(
    "struct", [*revision2.STRUCTS.values(), *revision219.STRUCTS.values()], ids=lambda struct: struct.name
)
def test_fields_lie_within_their_structure(struct: Struct) -> None:
    assert all(field.offset + field.size <= struct.size for field in struct.fields)
