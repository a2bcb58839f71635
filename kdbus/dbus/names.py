# SPDX-License-Identifier: GPL-2.0-or-later
"""Names: which strings D-Bus takes for the name of a connection, interface, member or error, and for an object path.

Source: D-Bus Specification, "Valid Names" and "Valid Object Paths". kdbus itself is laxer with well-known names in one
point (it does not know unique ones) and as strict otherwise; a name that passes here is one there.

Each `check_*` returns its argument, so that it can stand where the name is used, and raises InvalidName.
"""

from __future__ import annotations

import re
from typing import Final

from kdbus.dbus.errors import InvalidName

MAX_LENGTH: Final = 255
"""Bytes of any name but an object path, which has no limit of its own."""

UNIQUE_PREFIX: Final = ":1."
"""What the unique name of a connection with a given id begins with, on kdbus."""

_MAX_ID: Final = (1 << 64) - 1

_WELL_KNOWN = re.compile(r"[A-Za-z_-][A-Za-z0-9_-]*(\.[A-Za-z_-][A-Za-z0-9_-]*)+", re.ASCII)
_UNIQUE = re.compile(r":[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+", re.ASCII)
_INTERFACE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+", re.ASCII)
_MEMBER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_PATH = re.compile(r"/|(/[A-Za-z0-9_]+)+", re.ASCII)
_ID = re.compile(r":1\.(0|[1-9][0-9]{0,19})", re.ASCII)


def _check(kind: str, text: str, pattern: re.Pattern[str]) -> str:
    if len(text) > MAX_LENGTH or not pattern.fullmatch(text):
        raise InvalidName(f"{text[: MAX_LENGTH + 1]!r} is not {kind}")
    return text


def is_path(text: str) -> bool:
    """Whether this is an object path: "/", or elements of letters, digits and underscores, each with a slash before."""
    return _PATH.fullmatch(text) is not None


def check_path(text: str) -> str:
    """An object path."""
    if not is_path(text):
        raise InvalidName(f"{text[: MAX_LENGTH + 1]!r} is not an object path")
    return text


def check_bus_name(text: str) -> str:
    """The name of a connection: a well-known one ("org.example.Printer"), or a unique one (":1.42")."""
    return _check("the name of a bus connection", text, _UNIQUE if text.startswith(":") else _WELL_KNOWN)


def check_well_known(text: str) -> str:
    """A name that a connection can ask for."""
    return _check("a well-known name", text, _WELL_KNOWN)


def check_interface(text: str) -> str:
    """The name of an interface; those of errors follow the same rule."""
    return _check("the name of an interface or error", text, _INTERFACE)


def check_member(text: str) -> str:
    """The name of a method, signal or property."""
    return _check("the name of a member", text, _MEMBER)


def unique_name(identifier: int) -> str:
    """The unique name of the connection with this kdbus id: ":1." and the id in decimal, as sd-bus has it."""
    if not 0 < identifier <= _MAX_ID:
        raise InvalidName(f"{identifier} is not the id of a connection")
    return f"{UNIQUE_PREFIX}{identifier}"


def connection_id(name: str) -> int | None:
    """The kdbus id in a unique name, None for a well-known name.

    Raises InvalidName for a unique name that no connection of kdbus can have.
    """
    if not name.startswith(":"):
        return None
    found = _ID.fullmatch(name)
    if found is None or not 0 < int(found[1]) <= _MAX_ID:
        raise InvalidName(f"{name[: MAX_LENGTH + 1]!r} is not the unique name of a kdbus connection")
    return int(found[1])
