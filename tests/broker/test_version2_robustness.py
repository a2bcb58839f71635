# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever peers of version 2 say on a bus that they share with others, every answer is an errno or success.

Commands are drawn near to what is right: each member and item may be anything, numbers mostly small, items mostly of
kinds that the command takes. At the end everybody leaves, and nothing may be held: no file, no charge.
"""

from __future__ import annotations

import struct
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import KdbusError
from broker.quota import QueueQuota
from kdbus.abi import revision2
from tests.support.final_peer import FinalPeer
from tests.support.version2_peer import BROADCAST, ITEM, STRUCT, Version2Peer
from tests.support.world import BLOOM_SIZE, Peer, World, bloom_bits, item, memfd, string_item, words_item

_U64 = st.one_of(
    st.integers(0, 9), st.sampled_from([1 << 20, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]), st.integers(0, (1 << 64) - 1)
)
_FLAGS = st.one_of(st.integers(0, 7), _U64)
_NAMES = st.sampled_from([b"org.example.One", b"org.example.Two", b"org.example.*", b"bad", b"1000-door", b""])
_FITTING = {
    "MSG_SEND": ("PAYLOAD_VEC", "PAYLOAD_MEMFD", "FDS", "DST_NAME", "BLOOM_FILTER"),
    "MATCH_ADD": ("BLOOM_MASK", "ID", "NAME", "NAME_ADD", "ID_ADD"),
    "NAME_ACQUIRE": ("NAME",),
    "NAME_RELEASE": ("NAME",),
    "CONN_INFO": ("NAME",),
    "CONN_UPDATE": ("ATTACH_FLAGS_SEND", "ATTACH_FLAGS_RECV"),
}
"""Kinds of items that a command takes."""


@st.composite
def _items(draw: st.DrawFn, kinds: tuple[str, ...]) -> bytes:
    kind = draw(st.sampled_from(kinds))
    number = ITEM[kind]
    if kind in ("NAME", "DST_NAME", "MAKE_NAME", "CONN_DESCRIPTION", "SECLABEL"):
        return string_item(number, draw(_NAMES))
    if kind == "BLOOM_FILTER":
        return item(number, bytes(8) + bloom_bits(draw(st.integers(0, 511)), size=BLOOM_SIZE))
    if kind == "BLOOM_MASK":
        return item(number, bloom_bits(draw(st.integers(0, 511)), size=BLOOM_SIZE))
    if kind == "FDS":
        return item(number, struct.pack("<i", draw(st.integers(-1, 4))) * draw(st.integers(0, 3)))
    if kind == "PAYLOAD_VEC":
        return item(number, struct.pack("<2Q", draw(st.integers(0, 9)), draw(st.sampled_from([0, 64, 1 << 40]))))
    if kind == "PAYLOAD_MEMFD":
        return item(number, struct.pack("<QiI", draw(st.integers(1, 9)), draw(st.integers(-1, 4)), 0))
    if draw(st.booleans()):
        return words_item(number, *draw(st.lists(_U64, max_size=8)))
    return item(number, draw(st.binary(max_size=40)))


@st.composite
def _commands(draw: st.DrawFn) -> tuple[str, list[bytes], dict[str, int]]:
    name = draw(st.sampled_from([*sorted(STRUCT), *["MSG_SEND", "MSG_RECV"] * 6]))
    kinds = tuple(ITEM) if draw(st.integers(0, 7)) == 0 else _FITTING.get(name, ())
    items = draw(st.lists(_items(kinds), max_size=4)) if kinds else []
    layout = revision2.STRUCTS[STRUCT[name]]
    members = {field.name: draw(_U64) for field in layout.fields if field.size == 8 and field.name != "size"}
    members["flags"] = draw(_FLAGS)
    if name == "MSG_SEND" and draw(st.integers(0, 3)):
        members.update(src_id=0, payload_type=7, dst_id=draw(st.sampled_from([0, 1, 2, 3, 4, 5, BROADCAST])))
        members["flags"] &= 7
        for same in ("timeout_ns", "cookie_reply", "offset_reply"):
            members[same] = draw(_U64) if members["flags"] & 1 else draw(st.integers(0, 2))
        if members["dst_id"] == BROADCAST:
            members.update(dict.fromkeys(("flags", "timeout_ns", "cookie_reply", "offset_reply"), 0))
        if draw(st.booleans()):  # as it should be
            kind = "BLOOM_FILTER" if members["dst_id"] == BROADCAST else "FDS"
            items = [item(ITEM["PAYLOAD_VEC"], struct.pack("<2Q", 5, 0)), draw(_items((kind,)))]
            members["dst_id"] = members["dst_id"] or 1
            members["flags"] &= 1
            members["cookie"] = draw(st.integers(1, 3))
    if name == "MSG_RECV" and draw(st.integers(0, 3)):
        members.update(offset=0, dropped_msgs=0, flags=members["flags"] & 7)
    if name == "HELLO":
        members["pool_size"] = 4096
    return name, items, members


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 5), _commands()), min_size=8, max_size=25))
def test_every_command_is_answered(steps: list[tuple[int, tuple[str, list[bytes], dict[str, int]]]]) -> None:
    world = World()
    sizes = ((1000, 1, 1 << 16), (1000, 1, 4096), (1001, 1, 8192), (1000, 8 | 1, 1 << 16))
    peers = [Version2Peer(world, uid=uid, flags=flags, pool_size=size) for uid, flags, size in sizes]
    old: Peer = world.connect(pool_size=1 << 14)
    new = FinalPeer(world, attach_flags_recv=2)
    file = memfd(16)
    for peer in peers:
        peer.caller.open(file)
        peer.match(words_item(ITEM["ID"], BROADCAST))
    for who, (name, items, members) in steps:
        with suppress(KdbusError):
            if who == 4:
                old.send(peers[len(items) % 3].id, b"from version 3", cookie=members["flags"] % 10)
            elif who == 5:
                new.send(peers[len(items) % 3].id, b"from the final revision", cookie=members["flags"] % 10)
                new.recv()
            else:
                peer = peers[who]
                peer.issue(name, items, **members)
                if peer.wait is not None:
                    peer.wait.interrupt()
        world.expire(1)
    for peer in peers:
        quota = peer.connection.quota
        peer.handle.close()
        assert isinstance(quota, QueueQuota) and not quota.charged
    old.close()
    new.handle.close()
    assert file.pinned == 0
