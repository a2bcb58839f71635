# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever peers of the final revision and of version 3 say on one bus, every answer is an errno or success.

Commands are drawn near to what is right: each member and item may be anything, numbers mostly small, items mostly of
kinds that the command takes. At the end everybody leaves, and nothing may be held: no file, no slice, no charge.
"""

from __future__ import annotations

import struct
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import KdbusError
from broker.final import FINAL
from broker.quota import ShareQuota
from kdbus.abi import final
from tests.support.final_peer import BROADCAST, ITEM, STRUCT, FinalPeer, command
from tests.support.world import Peer, World, bloom_bits, item, memfd, string_item, words_item

_U64 = st.one_of(
    st.integers(0, 9), st.sampled_from([1 << 20, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]), st.integers(0, (1 << 64) - 1)
)
_FLAGS = st.one_of(st.integers(0, 15), _U64)
_NAMES = st.sampled_from([b"org.example.One", b"org.example.Two", b"org.example.*", b"bad", b"1000-door", b""])


@st.composite
def _items(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from(sorted(ITEM)))
    number = ITEM[kind]
    if kind in ("NAME", "DST_NAME", "MAKE_NAME", "CONN_DESCRIPTION", "SECLABEL"):
        return string_item(number, draw(_NAMES))
    if kind == "BLOOM_FILTER":
        return item(number, bytes(8) + bloom_bits(draw(st.integers(0, 511))))
    if kind == "BLOOM_MASK":
        return item(number, bloom_bits(draw(st.integers(0, 511))))
    if kind == "FDS":
        return item(number, struct.pack("<i", draw(st.integers(-1, 4))) * draw(st.integers(0, 3)))
    if kind == "PAYLOAD_MEMFD":
        start, size = draw(st.integers(0, 9)), draw(st.integers(1, 9))
        return item(number, struct.pack("<QQiI", start, size, draw(st.integers(-1, 4)), 0))
    if kind == "CANCEL_FD":
        return item(number, struct.pack("<i", draw(st.integers(-1, 4))))
    if draw(st.booleans()):
        return words_item(number, *draw(st.lists(_U64, max_size=8)))
    return item(number, draw(st.binary(max_size=40)))


_CARRIED = [ITEM[kind] for kind in ("PAYLOAD_VEC", "PAYLOAD_MEMFD", "FDS", "DST_NAME", "BLOOM_FILTER")]
"""The items that a message may have."""


def _number(entry: bytes) -> int:
    return int.from_bytes(entry[8:16], "little")


_COMMANDS = st.tuples(
    st.integers(0, 3),
    st.sampled_from([*sorted(STRUCT), *["SEND", "RECV"] * 6]),
    st.lists(_items(), max_size=3),
    st.lists(_U64, min_size=9, max_size=9),
    _FLAGS,
    st.tuples(st.lists(_items(), max_size=4), st.lists(_U64, min_size=7, max_size=7), _FLAGS),
)


@settings(max_examples=300)
@given(st.lists(_COMMANDS, max_size=25))
def test_every_command_is_answered(
    steps: list[tuple[int, str, list[bytes], list[int], int, tuple[list[bytes], list[int], int]]],
) -> None:
    world = World()
    peers = [FinalPeer(world, uid=uid, pool_size=size) for uid, size in ((1000, 1 << 16), (1000, 4096), (1001, 8192))]
    old: Peer = world.connect(pool_size=1 << 14)
    old.match(words_item(13, (1 << 64) - 1))
    file = memfd(16)
    for peer in peers:
        peer.caller.open(file)
        peer.issue("MATCH_ADD", [words_item(ITEM["ID"], (1 << 64) - 1)])
    for who, name, items, words, flags, (inner_items, inner_words, inner_flags) in steps:
        if who == 3:
            with suppress(KdbusError):
                if name == "RECV":
                    old.recv()
                else:
                    old.send(peers[words[0] % 3].id, b"from version 3", cookie=words[1] % 10)
            continue
        peer = peers[who]
        known = FINAL.commands[final.REQUESTS["KDBUS_CMD_" + name]]
        if words[8] % 8:  # mostly what the command takes
            asked = flags & known.flags
            given_items = [entry for entry in items if FINAL.revision.kind_of(_number(entry)) in known.items]
        else:
            asked, given_items = flags, items
        layout = final.STRUCTS[STRUCT[name]]
        others = [field.name for field in layout.fields if field.size == 8 and field.name not in ("size", "flags")]
        members = dict(zip(others, words, strict=False))
        if name == "SEND":
            vector = item(ITEM["PAYLOAD_VEC"], struct.pack("<2Q", 5, peer.caller.memory.put(b"hello")))
            fields = ("priority", "dst_id", "src_id", "payload_type", "cookie", "timeout_ns")
            message = dict(zip(fields, inner_words, strict=False), flags=inner_flags)
            carried = inner_items
            if inner_words[6] % 4:
                message.update(src_id=0, payload_type=7, dst_id=inner_words[1] % 6, flags=inner_flags & 7)
                message["timeout_ns"] = inner_words[5] if inner_flags & 1 else inner_words[5] % 3 // 2
                carried = [entry for entry in inner_items if _number(entry) in _CARRIED]
            if inner_words[6] % 4 == 3:
                message.update(flags=4, dst_id=BROADCAST if inner_words[3] % 2 else inner_words[1] % 6, timeout_ns=0)
                carried = [item(ITEM["BLOOM_FILTER"], bytes(8) + bloom_bits(inner_flags % 512))]
            inner = command("kdbus_msg", [vector, *carried], **message)
            members["msg_address"] = peer.caller.memory.put(inner)
        if name == "HELLO":
            members["pool_size"] = 4096
        with suppress(KdbusError):
            peer.issue(name, given_items, flags=asked, **members)
            if peer.wait is not None:
                peer.wait.interrupt()
        world.expire(1)
    for peer in peers:
        quota = peer.connection.quota
        peer.handle.close()
        assert isinstance(quota, ShareQuota) and quota.used == 0
    old.close()
    assert file.pinned == 0
