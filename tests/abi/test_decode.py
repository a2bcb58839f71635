# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes are decoded by the tables of their revision; expectations are written from the header, not from the decoder."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdbus.abi.decode import (
    COMMANDS,
    Address,
    Flags,
    Item,
    Named,
    Text,
    decode_command,
    decode_items,
    decode_message,
    decode_payload,
    decode_sized,
    results_of,
)
from kdbus.abi.revision import FINAL, REVISIONS, VERSION2, VERSION3, Kind, Revision

each_revision = pytest.mark.parametrize("revision", REVISIONS, ids=lambda revision: revision.name)


def item(number: int, payload: bytes) -> bytes:
    return struct.pack("<QQ", 16 + len(payload), number) + payload + bytes(-len(payload) % 8)


def words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def test_a_message_of_version_3() -> None:
    items = item(1, words(11, 0x7F00)) + item(4, struct.pack("<2i", 3, -1)) + item(9, b"org.example.A\0")
    header = words(64 + len(items), 5, 0, 2**64 - 1, 7, 0x4442757344427573, 9, 1000)
    assert decode_message(VERSION3, header + items) == {
        "size": 64 + 32 + 24 + 32,
        "flags": Flags(5, ("KDBUS_MSG_EXPECT_REPLY", "KDBUS_MSG_SIGNAL"), 0),
        "priority": 0,
        "dst_id": Named(2**64 - 1, "KDBUS_DST_ID_BROADCAST"),
        "src_id": 7,
        "payload_type": Named(0x4442757344427573, "KDBUS_PAYLOAD_DBUS"),
        "cookie": 9,
        "timeout_ns": 1000,
        "items": [
            Item(1, "PAYLOAD_VEC", 32, {"size": 11, "address": Address(0x7F00)}),
            Item(4, "FDS", 24, [3, -1]),
            Item(9, "DST_NAME", 30, Text(b"org.example.A")),
        ],
    }


def test_the_last_word_of_what_expects_no_reply_is_a_cookie() -> None:
    decoded = decode_message(FINAL, words(64, 0, 2**64 - 4, 1, 2, 0, 3, 4))
    assert decoded["cookie_reply"] == 4 and "timeout_ns" not in decoded
    assert decoded["priority"] == -4
    assert decoded["payload_type"] == Named(0, "KDBUS_PAYLOAD_KERNEL")


def test_numbers_of_items_are_the_revisions() -> None:
    data = item(2, words(8, 0))
    assert decode_items(VERSION3, data)[0].name == "PAYLOAD_OFF"
    assert decode_items(FINAL, data)[0].name == "PAYLOAD_VEC"
    assert decode_items(VERSION3, item(16, words(5))) == [Item(16, None, 24, words(5))]
    assert decode_items(FINAL, item(16, words(5))) == [Item(16, "DST_ID", 24, 5)]


@each_revision
@pytest.mark.parametrize(
    ("kind", "payload", "value"),
    [
        (Kind.PAYLOAD_OFF, words(5, 64), {"size": 5, "offset": 64}),
        (Kind.PAYLOAD_OFF, words(5, 2**64 - 1), {"size": 5, "offset": Named(2**64 - 1, "~0")}),
        (Kind.BLOOM_PARAMETER, words(64, 8), {"size": 64, "n_hash": 8}),
        (Kind.BLOOM_FILTER, words(1, 2), {"generation": 1, "data": words(2)}),
        (Kind.BLOOM_MASK, words(1, 2), words(1, 2)),
        (Kind.TIMESTAMP, words(1, 2, 3), {"seqnum": 1, "monotonic_ns": 2, "realtime_ns": 3}),
        (Kind.CMDLINE, b"a\0b c\0", [Text(b"a"), Text(b"b c")]),
        (Kind.EXE, b"/bin/true\0", Text(b"/bin/true")),
        (Kind.NAME, b"a\0b\0", b"a\0b\0"),
        (Kind.NAME, b"", b""),
        (Kind.ID, words(9), 9),
        (Kind.ID, b"123", b"123"),
        (Kind.CANCEL_FD, struct.pack("<i", -2), -2),
        (Kind.ATTACH_FLAGS_SEND, words(3), Flags(3, ("KDBUS_ATTACH_TIMESTAMP", "KDBUS_ATTACH_CREDS"), 0)),
        (Kind.ATTACH_FLAGS_RECV, words(2**64 - 1), Named(2**64 - 1, "_KDBUS_ATTACH_ANY")),
        (
            Kind.POLICY_ACCESS,
            words(1, 2, 1000),
            {
                "type": Named(1, "KDBUS_POLICY_ACCESS_USER"),
                "access": Named(2, "KDBUS_POLICY_OWN"),
                "id": 1000,
            },
        ),
        (Kind.ID_ADD, words(7, 1), {"id": 7, "flags": Flags(1, ("KDBUS_HELLO_ACCEPT_FD",), 0)}),
        (Kind.OWNED_NAME, words(4) + b"a.b\0", {"flags": Flags(4, ("KDBUS_NAME_QUEUE",), 0), "name": Text(b"a.b")}),
        (
            Kind.NAME_CHANGE,
            words(1, 2, 2**64 - 1, 0) + b"a.b\0",
            {
                "old_id": {"id": 1, "flags": Flags(2, ("KDBUS_NAME_ALLOW_REPLACEMENT",), 0)},
                "new_id": {"id": Named(2**64 - 1, "KDBUS_MATCH_ID_ANY"), "flags": Flags(0, (), 0)},
                "name": Text(b"a.b"),
            },
        ),
        (
            Kind.CAPS,
            struct.pack("<I4Q", 40, 1, 2, 3, 1 << 40),
            {"last_cap": 40, "inheritable": 1, "permitted": 2, "effective": 3, "bounding": 1 << 40},
        ),
        (Kind.REPLY_DEAD, b"", b""),
        (Kind.TIMESTAMP, words(1, 2), words(1, 2)),
    ],
)
def test_payloads(revision: Revision, kind: Kind, payload: bytes, value: object) -> None:
    assert decode_payload(revision, kind.name, payload) == value


@pytest.mark.parametrize(
    ("kind", "payload", "value"),
    [
        (Kind.PAYLOAD_MEMFD, struct.pack("<QQiI", 1, 2, -1, 0), {"start": 1, "size": 2, "fd": -1}),
        (Kind.PIDS, words(1, 2, 3), {"pid": 1, "tid": 2, "ppid": 3}),
        (Kind.ATTACH_FLAGS_RECV, words(16383), Named(16383, "_KDBUS_ATTACH_ALL")),
    ],
)
def test_payloads_that_version_2_does_not_know(kind: Kind, payload: bytes, value: object) -> None:
    assert decode_payload(VERSION3, kind.name, payload) == decode_payload(FINAL, kind.name, payload) == value


@pytest.mark.parametrize(
    ("kind", "payload", "value"),
    [
        (Kind.PAYLOAD_MEMFD, struct.pack("<QiI", 2, -1, 0), {"size": 2, "fd": -1}),
        (Kind.CREDS, words(1, 2, 3, 4, 5), {"uid": 1, "gid": 2, "pid": 3, "tid": 4, "starttime": 5}),
        (Kind.AUDIT, words(1, 2), {"sessionid": 1, "loginuid": 2}),
        (Kind.ATTACH_FLAGS_RECV, words(8191), Named(8191, "_KDBUS_ATTACH_ALL")),
    ],
)
def test_payloads_of_version_2(kind: Kind, payload: bytes, value: object) -> None:
    assert decode_payload(VERSION2, kind.name, payload) == value


def test_in_version_2_a_message_is_a_command() -> None:
    message = words(72, 2 | 1, 0, 0, 7, 0, 0, 3, 99)
    decoded = decode_command(VERSION2, "SEND", message)
    assert decoded["flags"] == Flags(3, ("KDBUS_MSG_EXPECT_REPLY", "KDBUS_MSG_SYNC_REPLY"), 0)
    assert decoded["timeout_ns"] == 99 and "cookie_reply" not in decoded and "offset_reply" not in decoded
    assert decode_command(VERSION2, "CANCEL", words(5, 0)) == {"cookie": 5, "flags": Flags(0, (), 0)}


def test_groups_have_words_of_their_revision() -> None:
    assert decode_payload(VERSION3, "AUXGROUPS", struct.pack("<2I", 4, 2**32 - 1)) == [4, 2**32 - 1]
    assert decode_payload(FINAL, "AUXGROUPS", words(4, 2**32 - 1)) == [4, 2**32 - 1]


def test_credentials_have_words_of_their_revision() -> None:
    names = ("uid", "euid", "suid", "fsuid", "gid", "egid", "sgid", "fsgid")
    numbers = range(1, 9)
    assert decode_payload(VERSION3, "CREDS", struct.pack("<8I", *numbers)) == dict(zip(names, numbers, strict=True))
    assert decode_payload(FINAL, "CREDS", struct.pack("<8Q", *numbers)) == dict(zip(names, numbers, strict=True))


def test_negotiated_types_have_names() -> None:
    assert decode_payload(FINAL, "NEGOTIATE", words(2, 99)) == [Named(2, "KDBUS_ITEM_PAYLOAD_VEC"), 99]


def test_hello_of_version_3_and_what_it_returns() -> None:
    before = words(104, 1, 0, 0, 3, 16383, 0, 0, 1 << 20, 0, 0, 0, 0)
    assert decode_command(VERSION3, "HELLO", before) == {
        "size": 104,
        "flags": Flags(1, ("KDBUS_HELLO_ACCEPT_FD",), 0),
        "kernel_flags": Flags(0, (), 0),
        "return_flags": Flags(0, (), 0),
        "attach_flags_send": Flags(3, ("KDBUS_ATTACH_TIMESTAMP", "KDBUS_ATTACH_CREDS"), 0),
        "attach_flags_recv": Named(16383, "_KDBUS_ATTACH_ALL"),
        "bus_flags": Flags(0, (), 0),
        "id": 0,
        "pool_size": 1 << 20,
        "offset": 0,
        "items_size": 0,
        "id128": bytes(16),
    }
    after = words(104, 1, 1 << 63 | 15, 0, 3, 16383, 2, 5, 1 << 20, 0, 24, 1, 2)
    assert results_of(VERSION3, "HELLO", before, after) == {
        "attach_flags_send": Flags(3, ("KDBUS_ATTACH_TIMESTAMP", "KDBUS_ATTACH_CREDS"), 0),
        "attach_flags_recv": Named(16383, "_KDBUS_ATTACH_ALL"),
        "bus_flags": Flags(2, ("KDBUS_MAKE_ACCESS_WORLD",), 0),
        "id": 5,
        "offset": 0,
        "items_size": 24,
        "id128": words(1, 2),
    }


def test_what_a_command_that_failed_or_only_asked_returns() -> None:
    """Only what differs; and what NEGOTIATE answers is there in any case but where it was not looked at."""
    hello = FINAL.structs["kdbus_cmd_hello"]
    number = {name: FINAL.number_of(Kind[name]) or 0 for name in ("NEGOTIATE", "NAME", "ID")}
    array = words(32, number["NEGOTIATE"], number["NAME"], number["ID"])
    before = words(hello.size + 32, *[0] * (hello.size // 8 - 1)) + array
    assert results_of(FINAL, "HELLO", before, before, failed=True) == {}
    done = results_of(FINAL, "HELLO", before, before)
    assert done["return_flags"] == Flags(0, (), 0) and done["offset"] == 0
    name, id = Named(number["NAME"], "KDBUS_ITEM_NAME"), Named(number["ID"], "KDBUS_ITEM_ID")
    assert done["items"] == [Item(number["NEGOTIATE"], "NEGOTIATE", 32, [name, id])]
    asking = before[:8] + words(1 << 63) + before[16:]
    after = before[:8] + words(1) + before[16:-8] + words(0)
    assert results_of(FINAL, "HELLO", asking, after) == {
        "flags": Flags(1, ("KDBUS_HELLO_ACCEPT_FD",), 0),
        "items": [Item(number["NEGOTIATE"], "NEGOTIATE", 32, [name, 0])],
    }
    assert results_of(FINAL, "HELLO", before, after, failed=True).keys() == {"flags", "items"}


def test_where_it_is_told_what_became_of_a_name() -> None:
    before, after = words(24, 4, 0), words(24, 4, 2)
    assert results_of(FINAL, "NAME_ACQUIRE", before, before) == {"return_flags": Flags(0, (), 0)}
    assert results_of(FINAL, "NAME_ACQUIRE", before, after).keys() == {"return_flags"}
    before = words(40, 4, 0, 0, 0)
    assert results_of(VERSION3, "NAME_ACQUIRE", before, before).keys() == {"flags"}


def test_hello_of_version_2_returns_the_bloom_parameters_itself() -> None:
    layout = VERSION2.structs["kdbus_cmd_hello"]
    before = bytearray(layout.size)
    layout.put(before, "size", layout.size)
    after = bytearray(before)
    start, end = layout.span("bloom")
    after[start:end] = words(64, 8)
    found = results_of(VERSION2, "HELLO", bytes(before), bytes(after))
    assert found["bloom"] == {"size": 64, "n_hash": 8}


def test_receive_and_what_it_returns() -> None:
    before = words(64, 5, 0, 2**64 - 1, 0, 0, 0, 0)
    assert decode_command(FINAL, "RECV", before)["flags"] == Flags(5, ("KDBUS_RECV_PEEK", "KDBUS_RECV_USE_PRIORITY"), 0)
    assert decode_command(FINAL, "RECV", before)["priority"] == -1
    after = words(64, 5, 2, 2**64 - 1, 3, 128, 264, 1)
    assert results_of(FINAL, "RECV", before, after) == {
        "return_flags": Flags(2, ("KDBUS_RECV_RETURN_DROPPED_MSGS",), 0),
        "dropped_msgs": 3,
        "msg": {"offset": 128, "msg_size": 264, "return_flags": Flags(1, ("KDBUS_RECV_RETURN_INCOMPLETE_FDS",), 0)},
    }


def test_flags_depend_on_the_command() -> None:
    def flags(revision: Revision, command: str, value: int, size: int) -> object:
        return decode_command(revision, command, words(size, value, *[0] * (size // 8 - 2)))["flags"]

    assert flags(FINAL, "NAME_ACQUIRE", 3, 24) == Flags(
        3, ("KDBUS_NAME_REPLACE_EXISTING", "KDBUS_NAME_ALLOW_REPLACEMENT"), 0
    )
    assert flags(FINAL, "BUS_MAKE", 3, 24) == Flags(3, ("KDBUS_MAKE_ACCESS_GROUP", "KDBUS_MAKE_ACCESS_WORLD"), 0)
    assert flags(FINAL, "UPDATE", 3, 24) == Flags(3, (), 3)
    assert flags(FINAL, "UPDATE", 1 << 63, 24) == Flags(1 << 63, ("KDBUS_FLAG_NEGOTIATE",), 0)
    assert flags(VERSION3, "NAME_LIST", 1, 48) == Flags(1, ("KDBUS_NAME_LIST_UNIQUE",), 0)
    assert flags(FINAL, "LIST", 1, 40) == Flags(1, ("KDBUS_LIST_UNIQUE",), 0)
    assert flags(VERSION3, "CONN_INFO", 1, 56) == Flags(1, ("KDBUS_ATTACH_TIMESTAMP",), 0)
    assert flags(FINAL, "CONN_INFO", 1, 56) == Flags(1, (), 1)


def test_list_entries() -> None:
    entry = words(24 + 32, 7, 0) + item(0x1004, words(1) + b"a.b\0\0\0\0\0"[:8])
    listed = decode_sized(FINAL, "kdbus_info", entry + words(24, 8, 1))
    assert [each["id"] for each in listed if isinstance(each, dict)] == [7, 8]
    assert decode_sized(FINAL, "kdbus_info", words(24, 8, 1) + b"rest")[1:] == [b"rest"]


def test_what_does_not_fit_is_kept() -> None:
    bad = words(99, 1) + b"abc"
    assert decode_items(VERSION3, item(13, words(1)) + bad) == [
        Item(13, "ID", 24, 1),
        Item(None, None, len(bad), bad),
    ]
    assert decode_command(VERSION3, "NO_SUCH", b"abc") == {"raw": b"abc"}
    assert decode_command(VERSION3, "FREE", words(40) + b"abc") == {"size": 40, "raw": b"abc"}


@given(st.sampled_from(REVISIONS), st.sampled_from([*COMMANDS, "NO_SUCH"]), st.binary(max_size=200))
def test_no_bytes_make_it_fail(revision: Revision, command: str, data: bytes) -> None:
    decode_command(revision, command, data)
    decode_message(revision, data)
    decode_sized(revision, "kdbus_info", data)
    results_of(revision, command, data, data[::-1])


@given(st.sampled_from(REVISIONS), st.sampled_from(Kind), st.binary(max_size=80))
def test_no_payload_makes_it_fail(revision: Revision, kind: Kind, payload: bytes) -> None:
    decode_payload(revision, kind.name, payload)
    number = revision.number_of(kind)
    if number is not None:
        (decoded,) = decode_items(revision, item(number, payload))
        assert (decoded.number, decoded.name, decoded.size) == (number, kind.name, 16 + len(payload))


@given(st.sampled_from(REVISIONS), st.lists(st.tuples(st.integers(0, 0x9000), st.binary(max_size=40)), max_size=5))
def test_no_item_is_dropped(revision: Revision, listed: list[tuple[int, bytes]]) -> None:
    data = b"".join(item(number, payload) for number, payload in listed)
    assert [each.number for each in decode_items(revision, data)] == [number for number, _ in listed]
