# SPDX-License-Identifier: GPL-2.0-or-later
"""Payloads that are D-Bus, as D-Bus.

kdbus does not look at payloads, but those of its users were D-Bus: in the second version of its wire format (sd-bus,
GLib) or the first (libdbus). A message says which by its fourth byte. What claims to be D-Bus and is not stays bytes.
"""

from __future__ import annotations

from typing import Any

from kdbus.dbus import versions
from kdbus.dbus.errors import DBusError
from kdbus.dbus.message import Message
from kdbus.dbus.values import Just, Variant
from tracing.escaping import LONGEST_NAME, quoted

MOST = 16 << 10
"""Bytes of a payload that is looked into; decoding takes time in proportion to it."""
_MEMBERS = ("destination", "sender", "path", "interface", "member", "error_name", "reply_cookie", "signature")


def dbus_version(payload: bytes) -> int:
    """Which version of the wire format a payload claims to have, 0 for none."""
    return versions.version_of(payload) or 0


def parse(payload: bytes, most: int = MOST) -> Message | None:
    """The D-Bus message that a whole payload is; None if it is none, or has more than `most` bytes."""
    if len(payload) > most:
        return None
    try:
        return versions.parse(payload)[0]
    except DBusError:
        return None


def text(message: Message, limit: int) -> str:
    """The message for people; strings and arrays of the body are cut after `limit` bytes or elements."""
    parts = [message.type.name]
    for name in _MEMBERS:
        value = getattr(message, name)
        if value:
            parts.append(f"{name}={_string(value, max(limit, LONGEST_NAME)) if isinstance(value, str) else value}")
    if message.body:
        parts.append(f"body=[{', '.join(_text(each, limit) for each in message.body)}]")
    return "{" + ", ".join(parts) + "}"


def _string(value: str, limit: int) -> str:
    return quoted(value.encode("utf-8", "surrogateescape"), limit)


def _text(value: Any, limit: int) -> str:
    if isinstance(value, str):
        return _string(value, limit)
    if isinstance(value, bytes):
        return quoted(value, limit)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Variant):
        return f"<{value.signature} {_text(value.value, limit)}>"
    if isinstance(value, Just):
        return _text(value.value, limit)
    if isinstance(value, dict):
        pairs = [f"{_text(key, limit)}: {_text(each, limit)}" for key, each in list(value.items())[:limit]]
        return "{" + ", ".join([*pairs, *(["..."] if len(value) > limit else [])]) + "}"
    if isinstance(value, list | tuple):
        texts = [_text(each, limit) for each in value[:limit]]
        inner = ", ".join([*texts, *(["..."] if len(value) > limit else [])])
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    return str(value)


def as_object(message: Message, version: int) -> dict[str, Any]:
    """The message as what `json.dumps` takes."""
    found: dict[str, Any] = {"version": version, "type": message.type.name, "cookie": message.cookie}
    found |= {name: value for name in _MEMBERS if (value := getattr(message, name))}
    return {**found, "body": [_as_value(each) for each in message.body]}


def _as_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, Variant):
        return {"signature": value.signature, "value": _as_value(value.value)}
    if isinstance(value, Just):
        return _as_value(value.value)
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _as_value(each) for key, each in value.items()}
        return [[_as_value(key), _as_value(each)] for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [_as_value(each) for each in value]
    # JSON has no infinity, and no value that is none.
    return str(value) if isinstance(value, float) and value - value != 0 else value
