# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of a call that other revisions answer otherwise: on records alone, made as the decoder makes them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from interposer.checking.answers import differing
from interposer.checking.held import Held
from kdbus.abi.decode import Flags, Item, Text
from kdbus.abi.layout import U64
from tracing.record import Event, Record
from tracing.shown import Shown

NODE = "0-x/bus"
PAST = 50


def flags(*names: str) -> Flags:
    return Flags(1, tuple(f"KDBUS_{name}" for name in names), 0)


def item(name: str, value: Any = b"") -> Item:
    return Item(1, name, 16, Text(value.encode()) if isinstance(value, str) else value)


def held(**members: Any) -> Held:
    found = Held("program (process 1), connection 7 of 0-x", "0-x", "final", (), 4096)
    for name, value in members.items():
        setattr(found, name, value)
    return found


def said(
    command: str,
    revision: str = "final",
    *,
    arguments: dict[str, Any] | None = None,
    message: dict[str, Any] | None = None,
    results: dict[str, Any] | None = None,
    mine: Held | None = None,
    peer: Held | None = None,
    **members: Any,
) -> list[str]:
    record = Record(Event.CALL, 1, 0, 100, pid=1, node=NODE, connection=7, revision=revision, command=command)
    for name, value in members.items():
        setattr(record, name, value)
    shown = Shown(record, arguments or {}, results or {}, message or {})
    connections = {(NODE, 7): mine or held()}
    if peer is not None:
        record.peer, connections[NODE, 9] = 9, peer
    return list(differing(shown, connections[NODE, 7], connections))


NAME = {"items": [item("NAME", "org.example.X")]}
FROM_9 = {"src_id": 9, "dst_id": 7}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "a name again": (
        {"command": "NAME_ACQUIRE", "arguments": NAME, "mine": held(names={"org.example.X": False})},
        "NAME_ACQUIRE of a name that it has: success here, EALREADY in 2, 3, 219, 4",
    ),
    "a name again, refused": (
        {"command": "NAME_ACQUIRE", "revision": "219", "arguments": NAME, "error": "NameAlreadyOwned", "errno": 114},
        "NAME_ACQUIRE of a name that it has: EALREADY here, success in final",
    ),
    "a wait again": (
        {"command": "NAME_ACQUIRE", "arguments": NAME, "mine": held(names={"org.example.X": True})},
        "NAME_ACQUIRE of a name that it waits for: it waits once here, twice in 2, 3, 219, 4",
    ),
    "a wait": (
        {"command": "NAME_ACQUIRE", "arguments": NAME, "results": {"return_flags": flags("NAME_IN_QUEUE")}},
        "NAME_ACQUIRE that has to wait: told in return_flags here, in flags in 2, 3, 219",
    ),
    "many names": (
        {"command": "NAME_ACQUIRE", "arguments": NAME, "mine": held(names=dict.fromkeys(map(str, range(64)), False))},
        "NAME_ACQUIRE when there are 64 already: success here, E2BIG in 2",
    ),
    "many matches": (
        {"command": "MATCH_ADD", "mine": held(matches=Counter({1: 256}))},
        "MATCH_ADD when there are 256 already: success here, EMFILE in 2, 3, 219, 4",
    ),
    "ids at a custom endpoint": (
        {"command": "MATCH_ADD", "node": "0-x/other", "arguments": {"items": [item("ID_ADD")]}},
        "MATCH_ADD for connections that come and go, at a custom endpoint: they are told here, not in 3, 219, 4",
    ),
    "a monitor": (
        {"command": "HELLO", "arguments": {"flags": flags("HELLO_MONITOR")}},
        "HELLO of a monitor: it gets all broadcasts here, those that it has a match for in 2",
    ),
    "nothing, freed": (
        {"command": "FREE", "arguments": {"offset": 4096}},
        "FREE of the offset of nothing: success here, ENXIO in 2, 3",
    ),
    "an id and a name": (
        {"command": "CONN_INFO", "revision": "3", "arguments": {"id": 9, **NAME}},
        "CONN_INFO with an id and a name: here the id counts, the name in 219, 4, final",
    ),
    "required metadata": (
        {"command": "BUS_MAKE", "revision": "3", "arguments": {"items": [item("ATTACH_FLAGS_RECV", flags("X"))]}},
        "BUS_MAKE that requires metadata: HELLO without fails here, does not in final",
    ),
    "losses": (
        {"command": "RECV", "revision": "219", "results": {"dropped_msgs": 3}, "errno": 75, "error": "MessagesLost"},
        "RECV when messages were lost: EOVERFLOW and no message here, a flag beside the message in 4, final",
    ),
    "a drop by priority": (
        {"command": "RECV", "revision": "3", "arguments": {"flags": flags("RECV_DROP", "RECV_USE_PRIORITY")}},
        "RECV with DROP and USE_PRIORITY: success here, EINVAL in 4, final",
    ),
    "a look": (
        {"command": "RECV", "arguments": {"flags": flags("RECV_PEEK")}, "message": FROM_9},
        "RECV with PEEK: its slice may be freed here, FREE is EINVAL in 2",
    ),
    "its own broadcast": (
        {"command": "RECV", "message": {"src_id": 7, "dst_id": U64}},
        "RECV of a broadcast of its own: here it comes, nothing does in 2, 3, 219, 4",
    ),
    "a memfd that was not asked for": (
        {"command": "RECV", "revision": "3", "message": {**FROM_9, "items": [item("PAYLOAD_MEMFD")]}},
        "RECV of a memfd without KDBUS_HELLO_ACCEPT_FD: a descriptor here, none in 219, 4, final",
    ),
    "not all descriptors": (
        {
            "command": "RECV",
            "message": FROM_9,
            "results": {"msg": {"return_flags": flags("RECV_RETURN_INCOMPLETE_FDS")}},
        },
        "RECV that cannot install all descriptors: a flag here, EMFILE and no message in 2",
    ),
    "an order": (
        {"command": "RECV", "message": {**FROM_9, "items": [item("FDS"), item("PAYLOAD_OFF")]}},
        "RECV of items in the sender's order here, in a fixed one in 2, 3, 219, 4",
    ),
    "credentials": (
        {"command": "RECV", "revision": "219", "message": {**FROM_9, "items": [item("CREDS")]}},
        "RECV of CREDS: 32 bits for each number here, another form in 2, 4, final",
    ),
    "a notification": (
        {"command": "RECV", "message": {"src_id": 0, "dst_id": U64, "items": [item("NAME_ADD")]}},
        "RECV of a notification: with KDBUS_MSG_SIGNAL here, without in 2, 3",
    ),
    "a reply that will not come": (
        {"command": "RECV", "message": {"src_id": 0, "dst_id": 7, "items": [item("REPLY_DEAD")]}},
        "RECV of a reply that will not come: without KDBUS_MSG_SIGNAL here, with it in 219, 4",
    ),
    "many descriptors": (
        {"command": "SEND", "revision": "3", "message": {"dst_id": 9, "items": [item("FDS", list(range(17)))]}},
        "SEND of 17 descriptors: success here, EMFILE in 4, final",
    ),
    "a request without a number": (
        {"command": "SEND", "message": {"dst_id": 9, "flags": flags("MSG_EXPECT_REPLY"), "cookie": 0}},
        "SEND of a request with cookie 0: success here, EINVAL in 2, 3, 219, 4",
    ),
    "a reply to nothing": (
        {"command": "SEND", "revision": "2", "message": {"dst_id": 9, "cookie_reply": 3}},
        "SEND of a reply to no request: success here, EPERM or EBADSLT in 3, 219, 4, final",
    ),
    "a signal that is not wanted": (
        {
            "command": "SEND",
            "revision": "3",
            "message": {"dst_id": 9, "flags": flags("MSG_SIGNAL")},
            "error": "NotPermitted",
            "errno": 1,
        },
        "SEND of a signal to one connection: fails here, is dropped silently in 219, 4, final",
    ),
    "too late": (
        {"command": "SEND", "message": {"dst_id": 9, "timeout_ns": PAST}, "error": "TimedOut", "errno": 110},
        "SEND that waits, its deadline being over: not sent here, sent in 2, 3",
    ),
    "a queue that is counted": (
        {"command": "SEND", "error": "QueueFull", "errno": 105, "peer": held(revision="3")},
        "SEND to a full queue (ENOBUFS): messages are counted here, memory is in 4, final",
    ),
    "a queue that is shared": (
        {"command": "SEND", "peer": held(waiting=Counter({7: 32}))},
        "SEND to connection 9, where more than 32 of one sender wait: success here, ENOBUFS in 2, 3, 219",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_said(case: str) -> None:
    call, expected = CASES[case]
    assert said(**call) == [expected]


def test_what_all_do_alike_is_not_told() -> None:
    for revision in ("2", "3", "219", "final"):
        assert said("SEND", revision, message={"dst_id": 9, "flags": flags("MSG_EXPECT_REPLY"), "cookie": 5}) == []
        assert said("SEND", revision, message={"dst_id": 9}, peer=held(revision=revision)) == []
        assert said("RECV", revision, message={**FROM_9, "items": [item("PAYLOAD_OFF"), item("FDS")]}) == []
        assert said("RECV", revision, error="NoMessage", errno=11) == []
        assert said("NAME_ACQUIRE", revision, arguments=NAME) == []
        assert said("HELLO", revision) == said("BYEBYE", revision) == said("FREE", revision) == []
