# SPDX-License-Identifier: GPL-2.0-or-later
"""Kinds of items and their numbers in each revision."""

from __future__ import annotations

import struct

import pytest

from kdbus.abi.revision import FINAL, REVISIONS, VERSION3, Kind, Revision


@pytest.mark.parametrize(
    ("kind", "three", "last"),
    [
        (Kind.NEGOTIATE, None, 1),
        (Kind.PAYLOAD_VEC, 1, 2),
        (Kind.MAKE_NAME, 10, 11),
        (Kind.NAME, 14, 15),
        (Kind.DST_ID, None, 16),
        (Kind.TIMESTAMP, 0x1000, 0x1000),
        (Kind.REPLY_DEAD, 0x8006, 0x8006),
    ],
)
def test_numbers(kind: Kind, three: int | None, last: int) -> None:
    assert (VERSION3.number_of(kind), FINAL.number_of(kind)) == (three, last)


@pytest.mark.parametrize("revision", REVISIONS, ids=lambda revision: revision.name)
def test_there_and_back(revision: Revision) -> None:
    for kind in Kind:
        number = revision.number_of(kind)
        if number is not None:
            assert revision.kind_of(number) is kind
    assert revision.kind_of(0x7777) == 0x7777
    numbers = [number for kind in Kind if (number := revision.number_of(kind)) is not None]
    assert len(set(numbers)) == len(numbers)


def test_an_item_is_built_with_the_revisions_number_and_padding() -> None:
    assert FINAL.build(Kind.NAME, b"a.b\0") == struct.pack("<QQ", 20, 15) + b"a.b\0" + bytes(4)
    assert VERSION3.build(Kind.NAME, b"a.b\0")[8:16] == struct.pack("<Q", 14)
    assert VERSION3.build(Kind.DST_ID, bytes(8)) == b""
