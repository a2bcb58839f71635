# SPDX-License-Identifier: GPL-2.0-or-later
"""Records as JSON, one object per line, for programs.

The form is that of `trace.schema.json`, which is installed beside this module and named by `schema`: an integer that
grows when something changes that a reader may have relied on, and stays when members are added. Times are integers in
nanoseconds. Numbers that have a meaning keep their value beside it: flags are `{"value", "flags", "unknown"}`,
constants `{"value", "name"}`. Bytes that are no text are `{"hex"}`.
"""

from __future__ import annotations

import json
from typing import Any

from kdbus.abi.decode import Address, Flags, Item, Named, Text, Value
from tracing import payload
from tracing.errnos import errno_name
from tracing.record import CALLS, Event
from tracing.shown import Shown

SCHEMA = 1
PAYLOAD = 4096
"""Bytes of a payload, if nothing else is asked for."""


def line(shown: Shown, limit: int = PAYLOAD) -> str:
    """The record as one line, with its newline; ASCII only. `limit`: bytes of its payload."""
    return _ENCODER.encode(as_object(shown, limit)) + "\n"


_ENCODER = json.JSONEncoder(separators=(",", ":"))
"""Kept, as to make one takes a third of what a line does."""


def as_object(shown: Shown, limit: int = PAYLOAD) -> dict[str, Any]:
    """The record as what `json.dumps` takes."""
    record = shown.record
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "event": record.event.value,
        "sequence": record.sequence,
        "realtime_ns": record.realtime_ns,
        "monotonic_ns": record.monotonic_ns,
    }
    if record.event is Event.DROPPED:
        return {**found, "count": record.count}
    found["node"] = record.node
    optional = {
        "duration_ns": record.duration_ns,
        "pid": record.pid or None,
        "tid": record.tid or None,
        "comm": record.comm or None,
        "path": record.path or None,
        "descriptor": record.descriptor,
        "connection": record.connection,
        "peer": record.peer,
        "length": record.length or None,
        "names": {str(number): names for number, names in record.names.items()} or None,
        "notes": record.notes or None,
        "left": [left._asdict() for left in record.left] or None,
        "unknown": record.unknown or None,
        "stack": [frame._asdict() for frame in record.stack] or None,
    }
    found |= {name: value for name, value in optional.items() if value is not None}
    if record.event is Event.CALL:
        found |= _call(shown, limit)
    if record.event in CALLS and found.get("phase") != "unfinished":
        found["value"] = None if record.errno or record.error else record.value
        found["errno"] = errno_name(record.errno) if record.errno else None
        if record.error:
            found |= {"error": record.error, "reason": record.reason}
    return found


def _call(shown: Shown, limit: int) -> dict[str, Any]:
    record = shown.record
    found: dict[str, Any] = {
        "phase": record.phase.value,
        "command": record.command,
        "request": record.request,
        "revision": record.revision or None,
    }
    for name, members in (("arguments", shown.arguments), ("results", shown.results), ("message", shown.message)):
        if members:
            found[name] = as_value(members)
    if shown.pool:
        found["pool"] = [as_value(each) for each in shown.pool]
    if record.payload_size:
        found["payload"] = {"size": record.payload_size, "hex": record.payload[:limit].hex()}
    if shown.dbus is not None:
        found["dbus"] = payload.as_object(shown.dbus, payload.dbus_version(record.payload))
    return found


def as_value(value: Value | Item) -> Any:
    """A decoded value as what `json.dumps` takes."""
    # What most values are comes first.
    if type(value) is int:
        return value
    if isinstance(value, dict):
        return {name: as_value(each) for name, each in value.items()}
    if isinstance(value, Flags):
        return {"value": value.value, "flags": list(value.names), "unknown": value.rest}
    if isinstance(value, Named):
        return {"value": value.value, "name": value.name}
    if isinstance(value, Address):
        return value.value
    if isinstance(value, Text):
        return value.data.decode("utf-8", "backslashreplace")
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, Item):
        return {"item": value.name, "type": value.number, "size": value.size, "value": as_value(value.value)}
    if isinstance(value, int):
        return value
    return [as_value(each) for each in value]
