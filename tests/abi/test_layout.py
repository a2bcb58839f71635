# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes in structures: offsets, widths, and what does not fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdbus.abi import revision3 as abi
from kdbus.abi.layout import U64, Struct, align8, signed64

PAIR = Struct("pair", 16, "first@0:8 second@8:4 third@12:4 rest@16:0")


@pytest.mark.parametrize(("size", "aligned"), [(0, 0), (1, 8), (7, 8), (8, 8), (9, 16), (63, 64)])
def test_align8_rounds_up(size: int, aligned: int) -> None:
    assert align8(size) == aligned


def test_members_are_little_endian_at_their_offsets() -> None:
    data = bytearray(16)
    PAIR.put(data, "first", 0x0102030405060708)
    PAIR.put(data, "third", 0xAABBCCDD)
    assert data == bytes.fromhex("0807060504030201 00000000 ddccbbaa")
    assert PAIR.get(data, "first") == 0x0102030405060708
    assert PAIR.get(data, "second") == 0


def test_a_value_is_cut_to_its_member() -> None:
    data = bytearray(16)
    PAIR.put(data, "second", 0x1_0000_0001)
    assert PAIR.get(data, "second") == 1
    assert PAIR.get(data, "third") == 0
    PAIR.put(data, "first", -1)
    assert PAIR.get(data, "first") == U64


def test_a_flexible_array_starts_where_the_structure_ends() -> None:
    assert PAIR.span("rest") == (16, 16)
    assert abi.STRUCTS["kdbus_msg"].span("items") == (64, 64)


@given(st.integers(min_value=-(1 << 63), max_value=(1 << 63) - 1))
def test_signed64_undoes_the_wrap(value: int) -> None:
    assert signed64(value & U64) == value


@pytest.mark.parametrize("layout", abi.STRUCTS.values(), ids=lambda layout: layout.name)
def test_members_lie_inside_their_structure(layout: Struct) -> None:
    for field in layout.fields:
        start, end = layout.span(field.name)
        assert (start, end) == (field.offset, field.offset + field.size)
        assert end <= layout.size
