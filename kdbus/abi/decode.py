# SPDX-License-Identifier: GPL-2.0-or-later
"""What bytes of commands, messages and items mean, by the tables of a revision: for traces, and whoever reads them.

Layouts are the revision's own (`Revision.structs`); what is added here is what a member *means* where that is more than
a number: flags, constants with names, addresses. That is the same in all revisions, as members that mean the same have
the same name, so it is one table for all.

Names are those of the header: flags and constants in full (`KDBUS_HELLO_ACCEPT_FD`), commands and items without what
they have in common (`SEND`, `PAYLOAD_VEC`).

Decoding never fails and drops nothing: what is too short for its structure, or has no structure, stays bytes; a list of
items that goes wrong ends with a nameless item that holds the rest. It makes no judgement either: what is malformed to
a command may be decoded all the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import TypeAlias

from kdbus.abi.layout import U64, Struct, align8
from kdbus.abi.revision import FINAL, Kind, Revision

_HEADER = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Flags:
    """A number of bits, the names of those that have one, lowest first, and what is left."""

    value: int
    names: tuple[str, ...]
    rest: int


@dataclass(frozen=True, slots=True)
class Named:
    """A number that has a name as a whole."""

    value: int
    name: str


@dataclass(frozen=True, slots=True)
class Address:
    """An address in a program's memory."""

    value: int


@dataclass(frozen=True, slots=True)
class Item:
    """One item. `name` is None if the revision has no item of that `number`, which is None for what is no item."""

    number: int | None
    name: str | None
    size: int
    """As its header says, in bytes."""
    value: Value
    """What its payload means; its bytes if that is not known."""


@dataclass(frozen=True, slots=True)
class Text:
    """A string without its terminating zero."""

    data: bytes


Value: TypeAlias = "int | Flags | Named | Address | Text | bytes | Sequence[Value] | Sequence[Item] | Members"
Members: TypeAlias = "dict[str, Value]"
"""The members of a structure by name, in its order."""


@dataclass(frozen=True, slots=True)
class Command:
    """What is special about one command."""

    structs: tuple[str, ...]
    """Names of its structure; the first that the revision has."""
    flags: str
    """What the names of its flags begin with."""
    returned: str = ""
    """The same of its `return_flags`."""
    results: tuple[str, ...] = ()
    """Members that the kernel fills in, beside `return_flags`."""


_PLAIN = ("kdbus_cmd", "kdbus_cmd_update")
_MAKE = ("kdbus_cmd", "kdbus_cmd_make")
_NAME = ("kdbus_cmd", "kdbus_cmd_name")
_INFO = Command(("kdbus_cmd_info",), "KDBUS_ATTACH_", results=("offset", "info_size"))
_LIST = Command(("kdbus_cmd_list", "kdbus_cmd_name_list"), "KDBUS_LIST_", results=("offset", "list_size"))
_MATCH = Command(("kdbus_cmd_match",), "KDBUS_MATCH_")

COMMANDS: Mapping[str, Command] = {
    "BUS_MAKE": Command(_MAKE, "KDBUS_MAKE_"),
    "ENDPOINT_MAKE": Command(_MAKE, "KDBUS_MAKE_"),
    "ENDPOINT_UPDATE": Command(_PLAIN, ""),
    "HELLO": Command(
        ("kdbus_cmd_hello",),
        "KDBUS_HELLO_",
        results=("attach_flags_send", "attach_flags_recv", "bus_flags", "id", "offset", "items_size", "id128"),
    ),
    "UPDATE": Command(_PLAIN, ""),
    "CONN_UPDATE": Command(_PLAIN, ""),
    "BYEBYE": Command(("kdbus_cmd",), ""),
    "FREE": Command(("kdbus_cmd_free",), ""),
    "CONN_INFO": _INFO,
    "BUS_CREATOR_INFO": _INFO,
    "LIST": _LIST,
    "NAME_LIST": _LIST,
    "SEND": Command(("kdbus_cmd_send", "kdbus_msg"), "KDBUS_SEND_", "KDBUS_RECV_RETURN_", ("reply",)),
    "RECV": Command(("kdbus_cmd_recv",), "KDBUS_RECV_", "KDBUS_RECV_RETURN_", ("offset", "dropped_msgs", "msg")),
    "CANCEL": Command(("kdbus_cmd_cancel",), ""),
    "NAME_ACQUIRE": Command(_NAME, "KDBUS_NAME_", "KDBUS_NAME_", ("flags",)),
    "NAME_RELEASE": Command(_NAME, ""),
    "MATCH_ADD": _MATCH,
    "MATCH_REMOVE": _MATCH,
}
"""By their names in the header of any revision, without prefix."""

_MEMBER_FLAGS: Mapping[tuple[str, str], str] = {
    ("kdbus_msg", "flags"): "KDBUS_MSG_",
    ("kdbus_msg_info", "return_flags"): "KDBUS_RECV_RETURN_",
    ("kdbus_cmd_send", "kernel_msg_flags"): "KDBUS_MSG_",
    ("kdbus_cmd_hello", "attach_flags_send"): "KDBUS_ATTACH_",
    ("kdbus_cmd_hello", "attach_flags_recv"): "KDBUS_ATTACH_",
    ("kdbus_cmd_hello", "bus_flags"): "KDBUS_MAKE_",
    ("kdbus_cmd_info", "attach_flags"): "KDBUS_ATTACH_",
    ("kdbus_name_info", "conn_flags"): "KDBUS_HELLO_",
    ("kdbus_info", "flags"): "KDBUS_HELLO_",
    ("kdbus_name", "flags"): "KDBUS_NAME_",
    ("kdbus_notify_id_change", "flags"): "KDBUS_HELLO_",
}
"""What the names of flags in a member begin with."""

_MEMBER_NAMES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("kdbus_msg", "dst_id"): ("KDBUS_DST_ID_BROADCAST",),
    ("kdbus_msg", "src_id"): ("KDBUS_SRC_ID_KERNEL",),
    ("kdbus_msg", "payload_type"): ("KDBUS_PAYLOAD_DBUS", "KDBUS_PAYLOAD_KERNEL"),
    ("kdbus_policy_access", "type"): tuple(f"KDBUS_POLICY_ACCESS_{name}" for name in ("USER", "GROUP", "WORLD")),
    ("kdbus_policy_access", "access"): tuple(f"KDBUS_POLICY_{name}" for name in ("SEE", "TALK", "OWN")),
    ("kdbus_notify_id_change", "id"): ("KDBUS_MATCH_ID_ANY",),
}
"""Constants that a member may have as a whole."""

_NESTED: Mapping[tuple[str, str], str] = {
    ("kdbus_cmd_send", "reply"): "kdbus_msg_info",
    ("kdbus_cmd_recv", "msg"): "kdbus_msg_info",
    ("kdbus_cmd_hello", "bloom"): "kdbus_bloom_parameter",
    ("kdbus_notify_name_change", "old_id"): "kdbus_notify_id_change",
    ("kdbus_notify_name_change", "new_id"): "kdbus_notify_id_change",
}
_ADDRESSES = frozenset({("kdbus_cmd_send", "msg_address"), ("kdbus_vec", "address")})
_SIGNED = frozenset({("kdbus_msg", "priority"), ("kdbus_cmd_recv", "priority"), ("kdbus_memfd", "fd")})

_LONGER = ("KDBUS_NAME_LIST_", "KDBUS_RECV_RETURN_", "KDBUS_POLICY_ACCESS_")
"""Beginnings of names that begin like others which they do not belong to."""
_COMMON = "KDBUS_FLAG_"
"""Flags that every command knows."""


@cache
def _bits(revision: Revision, prefix: str, *, common: bool) -> tuple[tuple[int, str], ...]:
    """(bit, name) of the flags whose names begin so, lowest first."""
    others = tuple(longer for longer in _LONGER if longer.startswith(prefix) and longer != prefix)
    found = []
    for name, value in revision.constants.items():
        of_prefix = bool(prefix) and name.startswith(prefix) and not name.startswith(others or ("-",))
        if of_prefix or (common and name.startswith(_COMMON)):
            found.append((value, name))
    return tuple(sorted(found))


@lru_cache(maxsize=1024)
def flags_of(revision: Revision, value: int, prefix: str, *, common: bool = False) -> Flags | Named:
    """A number as flags whose names begin with `prefix`. `common`: bit 63 means something as well."""
    if prefix == "KDBUS_ATTACH_":
        for name in ("_KDBUS_ATTACH_ALL", "_KDBUS_ATTACH_ANY"):
            if value == revision.constants.get(name):
                return Named(value, name)
    names = [(bit, name) for bit, name in _bits(revision, prefix, common=common) if bit and value & bit == bit]
    rest = value
    for bit, _ in names:
        rest &= ~bit
    return Flags(value, tuple(name for _, name in names), rest)


def _member(revision: Revision, place: tuple[str, str]) -> Callable[[bytes], Value]:
    """What makes a value of the bytes of a member, which is named by its structure and itself."""
    start, end = revision.structs[place[0]].span(place[1])
    if place in _NESTED:
        return partial(decode_struct, revision, _NESTED[place])
    if end - start not in (4, 8):
        return bytes
    number = _signed if place in _SIGNED else _unsigned
    if place in _MEMBER_FLAGS:
        prefix, common = _MEMBER_FLAGS[place], place[0] == "kdbus_cmd_hello"
        return lambda raw: flags_of(revision, number(raw), prefix, common=common)
    if place in _ADDRESSES:
        return lambda raw: Address(number(raw))
    if place in _MEMBER_NAMES:
        names = {revision.constants[name]: name for name in _MEMBER_NAMES[place] if name in revision.constants}
        return lambda raw: Named(value, names[value]) if (value := number(raw)) in names else value
    return number


def _unsigned(raw: bytes) -> int:
    return int.from_bytes(raw, "little")


def _signed(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


@cache
def _plan(
    revision: Revision, name: str, without: tuple[str, ...]
) -> tuple[tuple[str, int, int, Callable[[bytes], Value]], ...]:
    """(name, offset, end, what makes its value) of each member of a structure, found out once."""
    return tuple(
        (field.name, field.offset, field.offset + field.size, _member(revision, (name, field.name)))
        for field in revision.structs[name].fields
        if field.size and field.name not in without
    )


def decode_struct(revision: Revision, name: str, data: bytes, without: tuple[str, ...] = ()) -> Members:
    """The members of a structure at the beginning of `data`, except those `without`.

    What lies behind the last whole member, up to the structure's size, is `raw`.
    """
    found: Members = {}
    size, last = len(data), 0
    for member, start, end, value in _plan(revision, name, without):
        if end > size:
            break
        found[member] = value(data[start:end])
        last = end
    whole = revision.structs[name].size
    if last < size < whole:
        found["raw"] = data[last:]
    return found


@lru_cache(maxsize=256)
def struct_of(revision: Revision, command: str) -> Struct | None:
    """The structure of a command; None for one without, or which nobody knows."""
    known = COMMANDS.get(command)
    names = known.structs if known is not None else ()
    return next((revision.structs[name] for name in names if name in revision.structs), None)


def decode_command(revision: Revision, command: str, data: bytes) -> Members:
    """The argument of a command, its items as the member `items`; `raw` if there is no such command."""
    layout = struct_of(revision, command)
    if layout is None:
        return {"raw": data} if data else {}
    if layout.name == "kdbus_msg":
        return decode_message(revision, data)
    found = decode_struct(revision, layout.name, data)
    flags = _flags_of_command(command, layout)
    for member in flags:
        if member in found:
            start, end = layout.span(member)
            found[member] = _command_flags(revision, data[start:end], member, flags)
    if len(data) > layout.size:
        found["items"] = decode_items(revision, data[layout.size :])
    return found


_TOLD_OTHERWISE = ("size", "kernel_flags", "kernel_msg_flags")
_NO_RESULTS = {"kdbus_msg": (*_TOLD_OTHERWISE, "timeout_ns", "cookie_reply")}
"""Members of a structure that are no results; other than `_TOLD_OTHERWISE`, in version 2, two names of the word that
tells where the answer is."""


def results_of(revision: Revision, command: str, before: bytes, after: bytes, *, failed: bool = False) -> Members:
    """What the kernel has stored in a command's argument: what differs from before, and what it returns anyway unless
    it has failed, or was only asked what there is (NEGOTIATE). The answers to that are among `items`."""
    layout = struct_of(revision, command)
    if layout is None:
        return {}
    flags = _flags_of_command(command, layout)
    found: Members = {}
    returned = () if failed or _only_asks(revision, layout, before) else _returned(revision, command)
    for member, start, end, value in _plan(revision, layout.name, _NO_RESULTS.get(layout.name, _TOLD_OTHERWISE)):
        raw = after[start:end]
        if end <= len(after) and (member in returned or before[start:end] != raw):
            found[member] = _command_flags(revision, raw, member, flags) if member in flags else value(raw)
    asked = revision.number_of(Kind.NEGOTIATE)
    if asked is not None and layout.name != "kdbus_msg" and _HEADER.pack(0, asked)[8:] in before[layout.size :]:
        old, new = (decode_items(revision, data[layout.size :]) for data in (before, after))
        answers = [item for item in new if item.name == "NEGOTIATE" and not (failed and item in old)]
        if answers:
            found["items"] = answers
    return found


def _only_asks(revision: Revision, layout: Struct, command: bytes) -> bool:
    """Whether that is all that the command does."""
    asks = revision.constants.get("KDBUS_FLAG_NEGOTIATE", 0)
    return bool(asks) and len(command) >= layout.size and bool(layout.get(command, "flags") & asks)


@cache
def _returned(revision: Revision, command: str) -> tuple[str, ...]:
    """Members that a command fills in when it succeeds. The final revision always writes `return_flags`, and has there
    what became of a name (reference: final-revision.md, 1.3, 4.7)."""
    results = COMMANDS[command].results
    return (*(name for name in results if name != "flags"), "return_flags") if revision is FINAL else results


def _flags_of_command(command: str, layout: Struct) -> Mapping[str, str]:
    """What the names of flags begin with, by member, in the structure of a command."""
    known = COMMANDS[command]
    prefix = known.flags
    if prefix == "KDBUS_LIST_" and layout.name == "kdbus_cmd_name_list":
        prefix = "KDBUS_NAME_LIST_"
    if prefix == "KDBUS_ATTACH_" and "attach_flags" in layout.members:
        prefix = ""
    return {"flags": prefix, "kernel_flags": prefix, "return_flags": known.returned}


def _command_flags(revision: Revision, raw: bytes, member: str, flags: Mapping[str, str]) -> Value:
    return flags_of(revision, _unsigned(raw), flags[member], common=member != "return_flags")


def decode_message(revision: Revision, data: bytes) -> Members:
    """A message: its header, and its items as the member `items`.

    Of the names of the last word the one is given that counts: `timeout_ns` in what expects a reply, else
    `cookie_reply`. The third name that it has in version 2 is that of a result (`results_of`).
    """
    layout = revision.structs["kdbus_msg"]
    flags = layout.get(data, "flags") if len(data) >= layout.size else 0
    expects = flags & revision.constants["KDBUS_MSG_EXPECT_REPLY"]
    other = "cookie_reply" if expects else "timeout_ns"
    found = decode_struct(revision, "kdbus_msg", data, (other, "offset_reply"))
    if len(data) > layout.size:
        found["items"] = decode_items(revision, data[layout.size :])
    return found


def decode_sized(revision: Revision, name: str, data: bytes) -> list[Value]:
    """What lies in a pool as `kdbus_info` or `kdbus_name_info`: structures one after the other, each with its items."""
    layout = revision.structs[name]
    found: list[Value] = []
    while len(data) >= layout.size:
        size = int.from_bytes(data[:8], "little")
        if not layout.size <= size <= len(data):
            break
        members = decode_struct(revision, name, data)
        if size > layout.size:
            members["items"] = decode_items(revision, data[layout.size : size])
        found.append(members)
        data = data[align8(size) :]
    if data:
        found.append(data)
    return found


def decode_items(revision: Revision, data: bytes) -> list[Item]:
    """The items in `data`; what is no item any more is the last one's value."""
    found: list[Item] = []
    position = 0
    while position < len(data):
        rest = data[position:]
        size, number = _HEADER.unpack_from(rest) if len(rest) >= _HEADER.size else (0, 0)
        if not _HEADER.size <= size <= len(rest):
            found.append(Item(None, None, len(rest), rest))
            break
        kind = revision.kind_of(number)
        name = Kind(kind).name if kind in _KINDS and revision.number_of(kind) == number else None
        payload = rest[_HEADER.size : size]
        found.append(Item(number, name, size, payload if name is None else decode_payload(revision, name, payload)))
        position += align8(size)
    return found


_KINDS = frozenset(Kind)

_STRUCTURES: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "PAYLOAD_VEC": ("kdbus_vec", ("offset",), ""),
    "PAYLOAD_OFF": ("kdbus_vec", ("address",), ""),
    "PAYLOAD_MEMFD": ("kdbus_memfd", ("__pad",), ""),
    "BLOOM_PARAMETER": ("kdbus_bloom_parameter", (), ""),
    "BLOOM_FILTER": ("kdbus_bloom_filter", (), "data"),
    "TIMESTAMP": ("kdbus_timestamp", (), ""),
    "CREDS": ("kdbus_creds", (), ""),
    "PIDS": ("kdbus_pids", (), ""),
    "AUDIT": ("kdbus_audit", (), ""),
    "POLICY_ACCESS": ("kdbus_policy_access", (), ""),
    "ID_ADD": ("kdbus_notify_id_change", (), ""),
    "ID_REMOVE": ("kdbus_notify_id_change", (), ""),
    "NAME_ADD": ("kdbus_notify_name_change", (), "name"),
    "NAME_REMOVE": ("kdbus_notify_name_change", (), "name"),
    "NAME_CHANGE": ("kdbus_notify_name_change", (), "name"),
    "OWNED_NAME": ("kdbus_name", (), "name"),
    "CAPS": ("kdbus_caps", (), "caps"),
}
"""Items that are structures: which, without which members, and what comes behind it."""
_STRINGS = frozenset("NAME DST_NAME MAKE_NAME TID_COMM PID_COMM EXE CGROUP SECLABEL CONN_DESCRIPTION".split())
_WORDS = frozenset(("FDS", "AUXGROUPS"))
_NUMBERS = frozenset(("ID", "DST_ID"))


def decode_payload(revision: Revision, name: str, payload: bytes) -> Value:
    """What the payload of an item means; the payload itself if it does not look like one."""
    if name in _STRUCTURES and _STRUCTURES[name][0] in revision.structs:
        return _decode_structure(revision, name, payload)
    if name in _STRINGS:
        return Text(payload[:-1]) if payload.endswith(b"\0") and b"\0" not in payload[:-1] else payload
    if name == "CMDLINE":
        return [Text(word) for word in payload[:-1].split(b"\0")] if payload.endswith(b"\0") else payload
    if name == "AUXGROUPS" and len(payload) % 8 == 0 and revision.structs["kdbus_creds"].size != 32:
        return [number for (number,) in struct.iter_unpack("<Q", payload)]
    if name in _WORDS and len(payload) % 4 == 0:
        return [number for (number,) in struct.iter_unpack("<i" if name == "FDS" else "<I", payload)]
    if name in _NUMBERS and len(payload) == 8:
        return int.from_bytes(payload, "little")
    if name in ("ATTACH_FLAGS_SEND", "ATTACH_FLAGS_RECV") and len(payload) == 8:
        return flags_of(revision, int.from_bytes(payload, "little"), "KDBUS_ATTACH_")
    if name == "CANCEL_FD" and len(payload) == 4:
        return int.from_bytes(payload, "little", signed=True)
    if name == "NEGOTIATE" and len(payload) % 8 == 0:
        return [_item_type(revision, number) for (number,) in struct.iter_unpack("<Q", payload)]
    return payload


def _item_type(revision: Revision, number: int) -> int | Named:
    kind = revision.kind_of(number)
    known = kind in _KINDS and revision.number_of(kind) == number
    return Named(number, f"KDBUS_ITEM_{Kind(kind).name}") if known else number


def _decode_structure(revision: Revision, name: str, payload: bytes) -> Value:
    struct_name, without, behind = _STRUCTURES[name]
    layout = revision.structs[struct_name]
    if len(payload) < layout.size:
        return payload
    found = decode_struct(revision, struct_name, payload, without)
    if name == "PAYLOAD_OFF" and found["offset"] == U64:
        found["offset"] = Named(U64, "~0")  # zeros that are not stored
    if name in ("NAME_ADD", "NAME_REMOVE", "NAME_CHANGE"):
        for member in ("old_id", "new_id"):
            _as_name_flags(revision, found[member])
    rest = payload[layout.size :]
    text = rest.rstrip(b"\0")
    if behind == "name" and b"\0" not in text and (text != rest or not rest):
        found["name"] = Text(text)  # notifications of version 3 count the padding as well
    elif behind == "caps" and len(rest) % 16 == 0:
        size = len(rest) // 4
        sets = ("inheritable", "permitted", "effective", "bounding")
        found.update({each: int.from_bytes(rest[place * size :][:size], "little") for place, each in enumerate(sets)})
    elif rest:
        found[behind or "rest"] = rest
    return found


def _as_name_flags(revision: Revision, change: Value) -> None:
    """In a change of a name's owner the flags are the name's, not the connection's."""
    if isinstance(change, dict) and isinstance(change.get("flags"), Flags):
        flags = change["flags"]
        assert isinstance(flags, Flags)
        change["flags"] = flags_of(revision, flags.value, "KDBUS_NAME_")
