# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of the final revision, against the numbers that programs of the time were built with."""

from __future__ import annotations

import pytest

from kdbus.abi import final
from kdbus.abi.layout import Struct

NUMBERS = {
    "BUS_MAKE": 0x40189500,
    "ENDPOINT_MAKE": 0x40189510,
    "ENDPOINT_UPDATE": 0x40189511,
    "HELLO": 0xC0609580,
    "UPDATE": 0x40189581,
    "BYEBYE": 0x40189582,
    "FREE": 0x40209583,
    "CONN_INFO": 0x80389584,
    "BUS_CREATOR_INFO": 0x80389585,
    "LIST": 0x80289586,
    "SEND": 0x40389590,
    "RECV": 0x80409591,
    "NAME_ACQUIRE": 0x401895A0,
    "NAME_RELEASE": 0x401895A1,
    "MATCH_ADD": 0x402095B0,
    "MATCH_REMOVE": 0x402095B1,
}


def test_there_are_sixteen_requests() -> None:
    assert {f"KDBUS_CMD_{name}" for name in NUMBERS} == set(final.REQUESTS)


@pytest.mark.parametrize("name", NUMBERS)
def test_request_number(name: str) -> None:
    assert final.REQUESTS[f"KDBUS_CMD_{name}"] == NUMBERS[name]


@pytest.mark.parametrize(
    ("constant", "number"),
    [
        ("KDBUS_ITEM_NEGOTIATE", 1),
        ("KDBUS_ITEM_MAKE_NAME", 0xB),
        ("KDBUS_ITEM_NAME", 0xF),
        ("KDBUS_ITEM_DST_ID", 0x10),
        ("KDBUS_ITEM_CONN_DESCRIPTION", 0x100D),
        ("KDBUS_ITEM_REPLY_DEAD", 0x8006),
        ("KDBUS_NAME_ACQUIRED", 0x40),
        ("KDBUS_RECV_RETURN_DROPPED_MSGS", 2),
        ("KDBUS_ATTACH_CONN_DESCRIPTION", 0x2000),
    ],
)
def test_constant(constant: str, number: int) -> None:
    assert final.CONSTANTS[constant] == number


@pytest.mark.parametrize("struct", final.STRUCTS.values(), ids=lambda struct: struct.name)
def test_fields_lie_within_their_structure(struct: Struct) -> None:
    assert all(field.offset + field.size <= struct.size for field in struct.fields)
