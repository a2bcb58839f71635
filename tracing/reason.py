# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a call failed, in words.

The broker raises errors that are typed by what went wrong, with facts that a person needs: which item of how many,
whose messages, which policy (`broker.errors.KdbusError.facts`). The sentences are here, outside it: a table from the
class to forms, from the most telling to the plainest. The first form for which all facts are there is taken, and the
last one needs none, so there is always something to say.

What comes before every form is the item that it is about, if it is about one.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from typing import Any, Final

from kdbus.abi.revision import FINAL, Kind
from tracing.escaping import escaped

FORMS: Final[Mapping[str, tuple[str, ...]]] = {
    "BadAddress": (
        "address {address:#x} is {rule}",
        "the caller cannot access {size} bytes at {address:#x}",
        "address {address:#x} is beyond what a program can have",
        "memory that the caller cannot access",
    ),
    "CallerGone": ("the caller does not wait for its answer any more",),
    "BadDescriptor": (
        "descriptor {descriptor} was {rule}",
        "descriptor {descriptor} is not open",
        "a descriptor that is not open",
    ),
    "OutOfMemory": ("no memory for a pool, or its user has used up its share",),
    "NoFreeDescriptor": ("the caller is at its limit of open files",),
    "TooManyOpenFiles": ("kdbus, or what it grants this user, is out of descriptors",),
    "UnknownCommand": ("no command of this revision has that number",),
    "WrongState": ("{command} is not for {state}", "the handle does not take this command in its present state"),
    "HandleInUse": ("the handle is already {state}", "the handle already is a connection, a bus or an endpoint"),
    "NodeShutDown": ("{node} has ended", "the bus, endpoint or domain has ended"),
    "ReplyNotExpected": (
        "connection {connection} does not wait for a reply of this connection to cookie {cookie}",
        "nobody waits for this reply",
    ),
    "NotPermitted": (
        "no {access} to connection {connection} ({names}), policy of {policy}",
        "no {access} to {names}, policy of {policy}",
        "connection {connection} has {rule}",
        "{rule}",
        "the policy or the lack of privilege forbids it",
    ),
    "WrongConnectionKind": (
        "{command} is not for a connection of kind {connection_kind}",
        "not for a connection of kind {connection_kind}",
        "{rule}",
        "a connection of this kind cannot use this command",
    ),
    "CommandTooSmall": (
        "size {count} is less than the {limit} bytes of the structure",
        "the command's size is less than its structure",
    ),
    "CommandTooLarge": ("size {count} is over the limit of {limit} bytes", "the command's size is over its limit"),
    "MessageOfBadSize": (
        "a message of {count} bytes, where the limit is {limit}",
        "the message's size is less than its header, or over its limit",
    ),
    "CommandChanged": ("the size changed while it was being read",),
    "UnknownFlags": ("unknown flags {flags:#x}", "{rule}", "flags that the command does not know"),
    "BadItem": ("{rule}", "a malformed item, or one that the command does not take"),
    "BadArgument": ("attach flags {attach_flags}: {rule}", "{rule}", "a value outside what the command takes"),
    "BadPoolSize": (
        "pool_size {count} is no multiple of {limit} bytes, or 0",
        "a pool of no size, or no multiple of the page size",
    ),
    "BadName": (
        "{name} does not begin with {prefix}-, the maker's uid",
        '"{name}" breaks the rules for names',
        "a name that breaks the rules for names",
    ),
    "NameTooLong": ("{count} bytes are over the limit of {limit}", "a node's name over its limit"),
    "MissingItem": ("needed, and not there",),
    "RepeatedItem": ("given twice",),
    "DuplicateItem": ('"{name}" has an entry already', "given twice"),
    "NodeExists": ("{node} exists already", "a bus or endpoint of that name exists already"),
    "TooManyBuses": ("user {user} has {count} of {limit} {unit}", "the user's limit of buses or endpoints"),
    "TooManyConnections": ("user {user} has {count} of {limit} connections", "the user's limit of connections"),
    "TooManyMatches": ("{count} {unit} would be over the limit of {limit}", "the limit of matches of one connection"),
    "TooManyDescriptors": (
        "user {user} would have {count} descriptors in the queue, the limit is {limit}",
        "{count} descriptors are over the limit of {limit}",
        "the limit of descriptors in one message",
    ),
    "TooManyItems": ("{count} items are over the limit of {limit}", "the limit of items in one message"),
    "TooManyNames": ("the connection has {count} of {limit} names", "the limit of names of one connection"),
    "TooManyPolicies": (
        "{count} {unit} are over the limit of {limit}",
        "more policy entries than their owner may have",
    ),
    "TooManyRequests": (
        "the connection has {count} of {limit} requests that wait for a reply",
        "the limit of requests that wait for a reply",
    ),
    "AttachFlagsRefused": (
        "the bus requires {attach_flags}, which attach_flags_send lacks",
        "the connection does not send the metadata that its bus requires",
    ),
    "Disconnected": (
        "{node} has ended, and connection {connection} with it",
        "connection {connection} has ended",
        "the connection has ended",
    ),
    "AlreadyDisconnected": ("connection {connection} has ended already", "the connection has ended already"),
    "MessagesPending": ("messages that wait to be received: {count}", "messages wait to be received"),
    "NoMessage": ("the queue is empty",),
    "NoMessageOfPriority": (
        "no message in the queue has priority {priority} or a more urgent one",
        "no message in the queue has the priority asked for",
    ),
    "MessagesLost": ("messages that were lost since the last RECV: {count}", "messages were lost since the last RECV"),
    "QueueFull": (
        "user {user} would have over {limit} bytes in the pool of connection {connection} (it has {used}, and the"
        " message takes {size}; waiting there: {waiting})",
        "{used} bytes wait in the pool of connection {connection}, over its half, {limit} (waiting: {waiting})",
        "user {user} has {count} of {limit} messages in the queue of connection {connection}, beside the first {free},"
        " which count for nobody (waiting there: {waiting})",
        "user {user} has {count} of {limit} messages in the queue of connection {connection} (waiting there:"
        " {waiting})",
        "{count} of {limit} messages are in the queue of connection {connection} (waiting there: {waiting})",
        "the receiver's queue is full",
    ),
    "PoolFull": (
        "no free slice of {size} bytes in the pool ({count} of {limit} bytes are free)",
        "no free slice of that size in the pool",
    ),
    "PoolShareExceeded": (
        "the payload of {count} bytes is over {limit}, half of what is free in the pool of connection {connection}",
        "the payload is over half of what is free in the receiver's pool",
    ),
    "NoSuchSlice": ("offset {offset} is not one that this connection was given", "an offset that was not given out"),
    "HiddenByEndpoint": (
        "the policy of the endpoint hides connection {connection}",
        "the policy of the endpoint hides the name {name}",
        "the policy of the endpoint hides it",
    ),
    "SliceNotHandedOut": (
        "what lies at offset {offset} was not given to this connection yet",
        "an offset of something that was not given out yet",
    ),
    "NoSuchConnection": (
        "connection {connection} is of kind {connection_kind}, and gets no messages",
        "policy hides connection {connection}",
        "there is no connection {connection}",
        "there is no such connection",
    ),
    "NoSuchName": (
        "{name} is owned by connection {owner}, not by that of the given id",
        "policy hides {name}",
        "nobody owns {name}",
        "nobody owns the name",
    ),
    "NotNameOwner": (
        "{name} is owned by connection {owner}, and this one does not wait for it",
        "the connection neither owns the name nor waits for it",
    ),
    "NoSuchMatch": ("no match has cookie {cookie}", "no match has that cookie"),
    "NameOwnerChanged": (
        "{name} is owned by connection {owner}, not by {connection}",
        "the name is not owned by the connection of the given id",
    ),
    "NameTaken": (
        "{name} has an activator already, connection {activator}",
        "{name} is owned by connection {owner}, which allows replacement, but REPLACE_EXISTING was not asked for",
        "{name} is owned by connection {owner}, which does not allow replacement",
        "the name has an owner that does not give it up",
    ),
    "NameAlreadyOwned": ("the connection owns {name} already", "the connection owns the name already"),
    "OnlyActivator": (
        "{name} is only held by an activator, connection {owner}, and the message has NO_AUTO_START",
        "the name is only held by an activator",
    ),
    "MissingDestination": ("a message without id and without DST_NAME",),
    "BadMessage": ("{rule}", "flags, destination and items contradict each other"),
    "NotForBroadcasts": ("{rule} in a broadcast or signal", "something that makes no sense in a broadcast"),
    "BloomSizeMismatch": (
        "{count} bytes, where the bus has {limit}",
        "a bloom filter of another size than the bus's",
    ),
    "BloomNotAligned": ("{count} bytes are no multiple of 8", "a bloom filter that is no multiple of 8 bytes"),
    "PayloadTooLarge": (
        "{count} bytes of payload are over the limit of {limit}",
        "{rule}",
        "the payload is over its limit, or its sizes overflow",
    ),
    "BeyondFile": (
        "the range ends at byte {count}, the file at {limit}",
        "a range of a memfd that goes past its end",
    ),
    "NotSealable": ("descriptor {descriptor} is no memfd that can be sealed", "a file that cannot be sealed"),
    "NotSealed": ("the memfd of descriptor {descriptor} lacks {seals}", "a memfd that lacks a seal"),
    "DescriptorNotPassable": (
        "descriptor {descriptor} is a kdbus endpoint or a unix socket, which cannot be passed",
        "files that themselves carry files cannot be passed",
    ),
    "DescriptorsRefused": (
        "connection {connection} said HELLO without ACCEPT_FD, so it takes no descriptors",
        "the receiver accepts no descriptors",
    ),
    "ReplyRefused": (
        "connection {connection} replied with descriptors, which this one does not accept (HELLO without ACCEPT_FD)",
        "the reply carried descriptors, which this connection does not accept",
    ),
    "PeerGone": (
        "connection {connection} will not reply: {rule}",
        "the connection that should have replied is gone",
    ),
    "TimedOut": (
        "connection {connection} has not replied to cookie {cookie} in time",
        "{rule}",
        "no reply before the deadline",
    ),
    "NoSuchCall": ("no call of this connection waits for the reply to cookie {cookie}", "no such call waits"),
    "Cancelled": (
        "MSG_CANCEL ended the call with cookie {cookie}",
        "the descriptor of CANCEL_FD became readable",
    ),
    "Interrupted": ("a signal arrived while waiting",),
    "NotMappable": ("{rule}", "only connections have a pool, and nobody may map it writable"),
    "MappingTooLarge": ("{count} bytes, where the pool has {limit}", "a mapping larger than the pool"),
    "NoMapping": ("this node has nothing to map",),
    "Injected": ("injected: {fault}", "injected"),
}
"""From the name of the error's class to the forms of its sentence."""

_ATTACH = {
    value: name.removeprefix("KDBUS_ATTACH_")
    for name, value in FINAL.constants.items()
    if name.startswith("KDBUS_ATTACH_")
}
_SEALS = {1: "F_SEAL_SEAL", 2: "F_SEAL_SHRINK", 4: "F_SEAL_GROW", 8: "F_SEAL_WRITE"}


def _flags(names: Mapping[int, str]) -> Callable[[object], str]:
    def show(value: object) -> str:
        assert isinstance(value, int)
        return "|".join(name for bit, name in names.items() if value & bit) or "0"

    return show


def _path(value: object) -> str:
    assert isinstance(value, tuple)
    kinds = ("the domain", "bus ", "endpoint ")
    return kinds[min(len(value), 2)] + "/".join(_plain(part) for part in value)


def _plain(value: object) -> str:
    return escaped(value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape"))


def _names(value: object) -> str:
    assert isinstance(value, tuple)
    return ", ".join(_plain(name) for name in value) or "which owns no name"


def _senders(value: object) -> str:
    assert isinstance(value, dict)
    most = sorted(value.items(), key=lambda pair: (-pair[1], pair[0]))
    told = [f"{count} of connection {sender}" if sender else f"{count} of the bus" for sender, count in most[:4]]
    rest = sum(count for _, count in most[4:])
    return ", ".join([*told, *([f"{rest} of others"] if rest else [])]) or "nothing"


_SHOWN: Mapping[str, Callable[[object], str]] = {
    "attach_flags": _flags(_ATTACH),
    "seals": _flags(_SEALS),
    "node": _path,
    "names": _names,
    "waiting": _senders,
}

_CONDITIONS: Mapping[str, Callable[[Mapping[str, object]], bool]] = {
    "policy hides {name}": lambda facts: bool(facts.get("hidden")),
    "policy hides connection {connection}": lambda facts: bool(facts.get("hidden")),
    "{name} is owned by connection {owner}, which allows replacement, but REPLACE_EXISTING was not asked for": (
        lambda facts: bool(facts.get("allows"))
    ),
}
"""Forms that need more than the facts they tell."""


def item_name(kind: object) -> str:
    """An item's kind by its name in the header, or the number of one that has none."""
    try:
        return Kind(kind).name  # type: ignore[arg-type]
    except ValueError:
        return f"type {kind:#x}" if isinstance(kind, int) else "item"


def reason(error: str, facts: Mapping[str, Any]) -> str:
    """Why the call failed. `error` is the name of a class of `broker.errors`, `facts` are the error's."""
    found: dict[str, Any] = {name: value() if callable(value) else value for name, value in facts.items()}
    shown = {name: _show(name, value) for name, value in found.items() if value is not None}
    for form in FORMS[error]:
        wanted = {field for _, field, _, _ in string.Formatter().parse(form) if field}
        condition = _CONDITIONS.get(form)
        if wanted <= shown.keys() and (condition is None or condition(found)):
            return _place(found) + form.format_map(shown)
    raise AssertionError(f"no form of {error} that needs no fact")


def _show(name: str, value: object) -> object:
    if name in _SHOWN:
        return _SHOWN[name](value)
    return value if isinstance(value, int) else _plain(value)


def _place(facts: Mapping[str, object]) -> str:
    if "at" in facts:
        return f"item {facts['at']} of {facts['of']}, {item_name(facts['kind'])}: "
    if "at_byte" in facts:
        return f"item at byte {facts['at_byte']}: "
    return f"{item_name(facts['kind'])}: " if "kind" in facts else ""
