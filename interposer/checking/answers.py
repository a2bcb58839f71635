# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that another revision would have answered otherwise, though nothing in its header says so.

Each function looks at one command, and tells what in this very call differs: of a difference that every call meets, as
how the pool is laid out, the program's header is the sign (`one-revision`), and nothing is said of it here. What the
revisions do is asked of `differences.value`; a text says what is done here, and what instead in those that differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from broker import limits
from interposer.checking import differences
from interposer.checking.held import Held
from interposer.checking.members import flags, kinds, number, texts
from kdbus.abi.decode import Flags
from kdbus.abi.layout import U64, signed64
from tracing.record import Phase
from tracing.shown import Shown, items_of

_COUNTED = limits.MESSAGES_UNACCOUNTED + limits.MESSAGES_PER_USER
"""Messages of one user that a queue takes at most where messages are counted, if there are no others."""
_SILENT = frozenset("NotPermitted QueueFull PoolFull PoolShareExceeded TooManyDescriptors DescriptorsRefused".split())
"""Failures of a unicast signal that are nobody's business where it is dropped silently."""
_ORDER = {"DST_NAME": 0, "PAYLOAD_OFF": 1, "PAYLOAD_MEMFD": 1, "FDS": 2}
"""In which order items come where that is not the sender's."""
_IDS = frozenset(("ID_ADD", "ID_REMOVE"))

Difference = tuple[str, str, str]
"""What differs, by its name in `differences.value`, and what to say if that is so here, and if it is not."""


def differing(shown: Shown, held: Held | None, connections: Mapping[tuple[str, int], Held]) -> Iterator[str]:
    """What to say of a call. `held`: the connection that made it, as it was before; `connections`: all, by node and
    id."""
    record = shown.record
    look = _LOOK.get(record.command)
    if look is not None:
        for meaning, so, otherwise in look(shown, held):
            yield from _told(meaning, so, otherwise, record.revision)
    if held is not None and not record.errno:
        yield from _limits(shown, held)
    if record.command == "SEND" and record.peer is not None:
        receiver = connections.get((record.node, record.peer))
        if receiver is not None and record.connection is not None:
            yield from _queue(shown, record.connection, record.peer, receiver)


def _told(meaning: str, so: str, otherwise: str, revision: str) -> Iterator[str]:
    text = so if differences.value(meaning, revision) else otherwise
    if text and (others := differences.unlike(meaning, revision)):
        yield f"{text} in {', '.join(others)}"


def _limits(shown: Shown, held: Held) -> Iterator[str]:
    command = shown.record.command
    if command == "NAME_ACQUIRE":
        meaning, name, count = "names_per_connection", "E2BIG", len(held.names.keys() | set(texts(shown.arguments)))
    elif command == "MATCH_ADD":
        meaning, name, count = "matches_per_connection", "EMFILE", held.matches.total() + 1
    else:
        return
    if low := differences.below(meaning, count, shown.record.revision):
        limit = differences.value(meaning, low[0])
        yield f"{command} when there are {limit} already: success here, {name} in {', '.join(low)}"


def _queue(shown: Shown, sender: int, receiver: int, held: Held) -> Iterator[str]:
    """What may wait in a queue is decided by the receiver's revision."""
    record = shown.record
    if record.error == "QueueFull":
        counted = "SEND to a full queue (ENOBUFS): messages are counted here, memory is"
        shared = "SEND to a full queue (ENOBUFS): memory is shared out here, messages are counted"
        yield from _told("counts_messages", counted, shared, held.revision)
    elif not record.errno and waits_in_queue(shown) and held.waiting[sender] >= _COUNTED:
        text = f"SEND to connection {receiver}, where more than {_COUNTED} of one sender wait: success here, ENOBUFS"
        yield from _told("counts_messages", "", text, held.revision)


def waits_in_queue(shown: Shown) -> bool:
    """Whether a message that was sent is in its receiver's queue until that takes it, for certain."""
    is_whole, message = shown.record.phase is Phase.WHOLE, shown.message
    return is_whole and "KDBUS_MSG_SIGNAL" not in flags(message) and not number(message.get("cookie_reply"))


def _send(shown: Shown, held: Held | None) -> Iterator[Difference]:
    record, message = shown.record, shown.message
    signal = "KDBUS_MSG_SIGNAL" in flags(message) and number(message.get("dst_id")) != U64
    if record.errno:
        if signal and record.error in _SILENT:
            yield "silent_unicast_signals", "", "SEND of a signal to one connection: fails here, is dropped silently"
        if record.error == "TimedOut" and 0 < signed64(number(message.get("timeout_ns"))) <= record.monotonic_ns:
            late = "SEND that waits, its deadline being over:"
            yield "calls_begin_with_time", f"{late} not sent here, sent", f"{late} sent here, not sent"
        return
    passed = sum(len(each.value) for each in items_of(message) if each.name == "FDS" and isinstance(each.value, list))
    if passed > differences.FEW_DESCRIPTORS:
        yield "many_descriptors", f"SEND of {passed} descriptors: success here, EMFILE", ""
    if "KDBUS_MSG_EXPECT_REPLY" in flags(message) and not number(message.get("cookie")):
        yield "cookie_0", "SEND of a request with cookie 0: success here, EINVAL", ""
    reply = number(message.get("dst_id")), number(message.get("cookie_reply"))
    if held is not None and reply[1] and reply not in held.requests:
        yield "replies_need_requests", "", "SEND of a reply to no request: success here, EPERM or EBADSLT"


def _receive(shown: Shown, held: Held | None) -> Iterator[Difference]:
    record, message, asked = shown.record, shown.message, flags(shown.arguments)
    if number(shown.results.get("dropped_msgs")):
        failing = "RECV when messages were lost: EOVERFLOW and no message here, a flag beside the message"
        yield "losses_fail", failing, "RECV when messages were lost: a flag beside the message here, EOVERFLOW"
    if record.errno:
        return
    if "KDBUS_RECV_DROP" in asked and "KDBUS_RECV_USE_PRIORITY" in asked:
        yield "drops_by_priority", "RECV with DROP and USE_PRIORITY: success here, EINVAL", ""
    if not message:
        return
    if "KDBUS_RECV_PEEK" in asked:
        yield "peek_hands_out", "RECV with PEEK: its slice may be freed here, FREE is EINVAL", ""
    found, source = kinds(message), number(message.get("src_id"))
    if number(message.get("dst_id")) == U64 and source == record.connection:
        yield "own_broadcasts", "RECV of a broadcast of its own: here it comes, nothing does", ""
    if "PAYLOAD_MEMFD" in found and held is not None and "KDBUS_HELLO_ACCEPT_FD" not in held.flags:
        without = "RECV of a memfd without KDBUS_HELLO_ACCEPT_FD:"
        yield "files_if_accepted", f"{without} no descriptor here, one", f"{without} a descriptor here, none"
    if "KDBUS_RECV_RETURN_INCOMPLETE_FDS" in _returned(shown):
        yield "needs_all_files", "", "RECV that cannot install all descriptors: a flag here, EMFILE and no message"
    order = [_ORDER[kind] for kind in found if kind in _ORDER]
    if order != sorted(order):
        yield "keeps_order", "RECV of items in the sender's order here, in a fixed one", ""
    for kind in ("CREDS", "AUXGROUPS"):
        if kind in found and source:
            form = differences.value(f"form of {kind}", record.revision)
            text = f"RECV of {kind}: {form} here, another form"
            yield f"form of {kind}", text, text
    if not source:
        meaning = "replies_are_signals" if {"REPLY_TIMEOUT", "REPLY_DEAD"} & set(found) else "notifications_are_signals"
        what = "a reply that will not come" if meaning == "replies_are_signals" else "a notification"
        signal = f"RECV of {what}: with KDBUS_MSG_SIGNAL here, without"
        yield meaning, signal, f"RECV of {what}: without KDBUS_MSG_SIGNAL here, with it"


def _returned(shown: Shown) -> tuple[str, ...]:
    place = shown.results.get("msg")
    return flags(place, "return_flags") if isinstance(place, Mapping) else ()


def _acquire(shown: Shown, held: Held | None) -> Iterator[Difference]:
    error, asked = shown.record.error, texts(shown.arguments)
    if error == "NameAlreadyOwned":
        yield "one_claim_per_name", "", "NAME_ACQUIRE of a name that it has: EALREADY here, success"
    if shown.record.errno or held is None:
        return
    for name in asked:
        if held.names.get(name) is False:
            yield "one_claim_per_name", "NAME_ACQUIRE of a name that it has: success here, EALREADY", ""
        elif name in held.names:
            again = "NAME_ACQUIRE of a name that it waits for:"
            yield "one_claim_per_name", f"{again} it waits once here, twice", f"{again} it waits twice here, once"
    if queued(shown):
        by = "NAME_ACQUIRE that has to wait: told in"
        yield "waits_in_flags", f"{by} flags here, in return_flags", f"{by} return_flags here, in flags"


def queued(shown: Shown) -> bool:
    """Whether the name that was asked for has an owner, and whoever asked waits for it."""
    stored = (shown.results.get(name) for name in ("flags", "return_flags"))
    return any("KDBUS_NAME_IN_QUEUE" in each.names for each in stored if isinstance(each, Flags))


def _match(shown: Shown, held: Held | None) -> Iterator[Difference]:
    if shown.record.errno or held is None:
        return
    if _IDS.intersection(kinds(shown.arguments)) and not shown.record.node.endswith("/bus"):
        where = "MATCH_ADD for connections that come and go, at a custom endpoint:"
        yield "hears_ids_everywhere", f"{where} they are told here, not", f"{where} not told here, they are"


def _hello(shown: Shown, _: Held | None) -> Iterator[Difference]:
    if not shown.record.errno and "KDBUS_HELLO_MONITOR" in flags(shown.arguments):
        gets, few = "HELLO of a monitor: it gets", "those that it has a match for"
        yield "monitors_match", f"{gets} of broadcasts {few} here, all", f"{gets} all broadcasts here, {few}"


def _free(shown: Shown, held: Held | None) -> Iterator[Difference]:
    if held is not None and not shown.record.errno and number(shown.arguments.get("offset")) == held.pool_size:
        yield "empty_is_pool_size", "FREE of the offset of nothing: success here, ENXIO", ""


def _info(shown: Shown, _: Held | None) -> Iterator[Difference]:
    given = shown.arguments
    if not shown.record.errno and number(given.get("id")) and texts(given):
        both = "CONN_INFO with an id and a name: here the"
        yield "name_beats_id", f"{both} name counts, the id", f"{both} id counts, the name"


def _make(shown: Shown, _: Held | None) -> Iterator[Difference]:
    for item in items_of(shown.arguments):
        if item.name == "ATTACH_FLAGS_RECV" and number(item.value) and not shown.record.errno:
            yield "requires_metadata", "BUS_MAKE that requires metadata: HELLO without fails here, does not", ""


_LOOK: Mapping[str, Callable[[Shown, Held | None], Iterator[Difference]]] = {
    "SEND": _send,
    "RECV": _receive,
    "NAME_ACQUIRE": _acquire,
    "MATCH_ADD": _match,
    "HELLO": _hello,
    "FREE": _free,
    "CONN_INFO": _info,
    "BUS_MAKE": _make,
}
