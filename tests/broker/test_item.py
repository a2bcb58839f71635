# SPDX-License-Identifier: GPL-2.0-or-later
"""Items: the walk through a list, and what each type must look like (reference: item.c)."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import item
from broker.errors import BadDescriptor, BadItem, BadName, DuplicateItem, KdbusError, MissingItem, NameTooLong
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import VERSION3, Kind
from tests.support.world import fails, memfd_item, string_item, words_item
from tests.support.world import item as make

UNCHECKED = 0x7777
"""A type that no table names."""


def pairs(items: list[item.Item]) -> list[tuple[int, bytes]]:
    """(type, payload) of each."""
    return [(entry.type, entry.payload) for entry in items]


def test_a_list_is_its_items_in_order() -> None:
    data = make(UNCHECKED, b"abc") + make(UNCHECKED + 1)
    assert pairs(item.parse(data)) == [(UNCHECKED, b"abc"), (UNCHECKED + 1, b"")]


def test_an_empty_list_has_no_items() -> None:
    assert item.parse(b"") == []


def test_the_last_items_padding_may_be_missing() -> None:
    """The list ends at the padded end of its container, whether or not the container is padded."""
    assert pairs(item.parse(make(UNCHECKED, b"abc")[:19])) == [(UNCHECKED, b"abc")]


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<QQ", 0, UNCHECKED),
        struct.pack("<QQ", 15, UNCHECKED),
        struct.pack("<QQ", 17, UNCHECKED),
        struct.pack("<QQ", 1 << 63, UNCHECKED),
        struct.pack("<QQ", (1 << 64) - 1, UNCHECKED),
        make(UNCHECKED) + b"\0",
        make(UNCHECKED) + b"\0" * 8,
        make(UNCHECKED) + b"\0" * 15,
        make(UNCHECKED)[:15],
        make(UNCHECKED, b"abc") + struct.pack("<QQ", 24, UNCHECKED),
    ],
    ids=[
        "size zero", "smaller than its header", "past the end", "far past the end", "wraps around", "one byte left",
        "half a header left", "most of a header left", "header cut off", "second item past the end",
    ],
)  # fmt: skip
def test_sizes_that_lie_are_einval(data: bytes) -> None:
    with fails(BadItem, errno.EINVAL):
        item.parse(data)


def test_an_item_that_overlaps_the_next_hides_it() -> None:
    """The size decides: what lies inside an item is not an item."""
    inner = make(UNCHECKED + 1)
    assert [entry.type for entry in item.parse(make(UNCHECKED, inner))] == [UNCHECKED]


@pytest.mark.parametrize("cut", range(1, 16))
def test_every_rest_too_short_for_a_header_is_einval(cut: int) -> None:
    with fails(BadItem):
        item.parse(make(UNCHECKED) + bytes(cut))


EXACT_SIZES = {
    abi.ITEM_CANCEL_FD: 4,
    abi.ITEM_BLOOM_PARAMETER: 16,
    abi.ITEM_ATTACH_FLAGS_SEND: 8,
    abi.ITEM_ATTACH_FLAGS_RECV: 8,
    abi.ITEM_ID: 8,
    abi.ITEM_TIMESTAMP: 24,
    abi.ITEM_CREDS: 32,
    abi.ITEM_AUDIT: 8,
    abi.ITEM_POLICY_ACCESS: 24,
    abi.ITEM_ID_ADD: 16,
    abi.ITEM_ID_REMOVE: 16,
    abi.ITEM_REPLY_TIMEOUT: 0,
    abi.ITEM_REPLY_DEAD: 0,
}


@pytest.mark.parametrize(("item_type", "size"), EXACT_SIZES.items())
def test_types_of_fixed_size(item_type: int, size: int) -> None:
    assert pairs(item.parse(make(item_type, b"\1" * size))) == [(item_type, b"\1" * size)]
    for wrong in {size + 1, size + 8, max(size - 1, 0)} - {size}:
        with fails(BadItem, errno.EINVAL):
            item.parse(make(item_type, b"\1" * wrong))


@pytest.mark.parametrize("item_type", [abi.ITEM_FDS, abi.ITEM_AUXGROUPS])
def test_arrays_of_32_bit_numbers(item_type: int) -> None:
    for count in (0, 1, 2, 253):
        item.parse(make(item_type, bytes(4 * count)))
    with fails(BadItem, errno.EINVAL):
        item.parse(make(item_type, bytes(6)))


STRINGS = [
    abi.ITEM_NAME, abi.ITEM_DST_NAME, abi.ITEM_PID_COMM, abi.ITEM_TID_COMM, abi.ITEM_EXE, abi.ITEM_CMDLINE,
    abi.ITEM_CGROUP, abi.ITEM_SECLABEL,
]  # fmt: skip


@pytest.mark.parametrize("item_type", STRINGS)
@pytest.mark.parametrize("payload", [b"", b"abc", b"a\0b\0", b"abc\0\0", b"\0\0"])
def test_a_string_has_one_zero_at_its_end(item_type: int, payload: bytes) -> None:
    with fails(BadItem, errno.EINVAL):
        item.parse(make(item_type, payload))


@pytest.mark.parametrize("item_type", STRINGS)
def test_a_string_may_be_empty(item_type: int) -> None:
    assert item.parse(make(item_type, b"\0"))[0].text() == b""
    assert item.parse(make(item_type, b"abc\0"))[0].text() == b"abc"


@pytest.mark.parametrize("item_type", [abi.ITEM_PAYLOAD_VEC, abi.ITEM_PAYLOAD_OFF])
def test_a_vector_has_a_size(item_type: int) -> None:
    item.parse(words_item(item_type, 1, 0))
    with fails(BadItem, errno.EINVAL):
        item.parse(words_item(item_type, 0, 4096))
    with fails(BadItem, errno.EINVAL):
        item.parse(words_item(item_type, 1))
    with fails(BadItem, errno.EINVAL):
        item.parse(words_item(item_type, 1, 2, 3))


def test_a_memfd_has_a_size_and_a_descriptor() -> None:
    item.parse(memfd_item(3, 1))
    with fails(BadItem, errno.EINVAL):
        item.parse(memfd_item(3, 0))
    with fails(BadDescriptor, errno.EBADF):
        item.parse(memfd_item(-1, 1))
    with fails(BadItem, errno.EINVAL):
        item.parse(memfd_item(-1, 0))  # the size is looked at first
    with fails(BadItem, errno.EINVAL):
        item.parse(words_item(abi.ITEM_PAYLOAD_MEMFD, 0, 1))


def test_a_bloom_filter_has_a_generation() -> None:
    item.parse(make(abi.ITEM_BLOOM_FILTER, bytes(8)))
    with fails(BadItem, errno.EINVAL):
        item.parse(make(abi.ITEM_BLOOM_FILTER, bytes(7)))


@pytest.mark.parametrize("item_type", [abi.ITEM_NAME_ADD, abi.ITEM_NAME_REMOVE, abi.ITEM_NAME_CHANGE])
def test_a_name_change_may_have_a_name(item_type: int) -> None:
    item.parse(make(item_type, bytes(32)))
    item.parse(make(item_type, bytes(32) + b"a.b\0"))
    for wrong in (bytes(31), bytes(32) + b"a.b", bytes(32) + b"a\0b\0"):
        with fails(BadItem, errno.EINVAL):
            item.parse(make(item_type, wrong))


@pytest.mark.parametrize("item_type", [abi.ITEM_MAKE_NAME, abi.ITEM_CONN_DESCRIPTION])
@pytest.mark.parametrize(
    ("payload", "error", "number"),
    [
        (b"", BadItem, errno.EINVAL),
        (b"\0", BadItem, errno.EINVAL),
        (b"ab", BadItem, errno.EINVAL),
        (b"a\0b\0", BadItem, errno.EINVAL),
        (b"a" * 64 + b"\0", NameTooLong, errno.ENAMETOOLONG),
        (b"a" * 65, NameTooLong, errno.ENAMETOOLONG),
        (b"-a\0", BadName, errno.EINVAL),
        (b"a-\0", BadName, errno.EINVAL),
        (b".a\0", BadName, errno.EINVAL),
        (b"a b\0", BadName, errno.EINVAL),
        (b"a/b\0", BadName, errno.EINVAL),
        (b"\xd7\0", BadName, errno.EINVAL),
    ],
)
def test_names_of_nodes(item_type: int, payload: bytes, error: type[KdbusError], number: int) -> None:
    with fails(error, number):
        item.parse(make(item_type, payload))


@pytest.mark.parametrize("name", [b"a", b"_", b"0", b"a-b.c_d", b"a" * 63, b"\xe4"])
def test_good_names_of_nodes(name: bytes) -> None:
    assert item.parse(string_item(abi.ITEM_MAKE_NAME, name))[0].text() == name


@pytest.mark.parametrize("item_type", [abi.ITEM_BLOOM_MASK, abi.ITEM_CAPS, abi.ITEM_PIDS, abi.ITEM_OWNED_NAME, 0])
def test_some_types_are_left_to_the_command(item_type: int) -> None:
    assert len(item.parse(make(item_type, b"xyz"))) == 1


def test_the_first_bad_item_decides() -> None:
    data = make(abi.ITEM_CONN_DESCRIPTION, b"a" * 65) + make(abi.ITEM_ID, b"")
    with fails(NameTooLong):
        item.parse(data)


def test_unique_finds_the_only_one() -> None:
    items = item.parse(words_item(abi.ITEM_ID, 5) + string_item(abi.ITEM_NAME, b"a.b"))
    assert item.unique(items, abi.ITEM_ID).u64() == 5
    with fails(MissingItem, errno.EBADMSG):
        item.unique(items, abi.ITEM_EXE)
    with fails(DuplicateItem, errno.EEXIST):
        item.unique(items * 2, abi.ITEM_ID)


@given(st.lists(st.tuples(st.sampled_from((Kind.BLOOM_MASK, Kind.OWNED_NAME)), st.binary(max_size=40)), max_size=8))
def test_what_is_built_is_parsed(entries: list[tuple[Kind, bytes]]) -> None:
    data = b"".join(VERSION3.build(*entry) for entry in entries)
    assert data == b"".join(make(*entry) for entry in entries)
    assert pairs(item.parse(data)) == entries
    assert len(data) == sum(item.padded_size(len(payload)) for _, payload in entries)


@given(st.binary(max_size=200))
def test_any_bytes_are_items_or_refused(data: bytes) -> None:
    try:
        items = item.parse(data)
    except KdbusError:
        return
    assert sum(item.padded_size(len(entry.payload)) for entry in items) == (len(data) + 7) & ~7
