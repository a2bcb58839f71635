# SPDX-License-Identifier: GPL-2.0-or-later
"""D-Bus's `.service` files: which program has which name.

Source: D-Bus Specification, "Message Bus Starting Services"; dbus-daemon 1.14 for what is an error and what is let
pass, which a test compares. `SystemdService=` says how systemd would start it and is not heeded; `Exec=` has to be
there anyway, as for dbus-daemon. Stricter than dbus-daemon in one point: a name that no connection could own is an
error, and not an entry that nobody can reach.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from bridge import shell_words
from kdbus.dbus import names
from kdbus.dbus.errors import InvalidName
from kdbus.dbus.kernel import DRIVER

GROUP: Final = "D-BUS Service"
MAX_SIZE: Final = 128 << 10
"""Bytes of a file, as with dbus-daemon."""

_GROUP = re.compile(r"\[([^\[\]\0-\x1f\x7f]+)\]")
_KEY = re.compile(r"([A-Za-z0-9-]+)(\[[^=]*)?\s*=\s*(.*)", re.DOTALL)
_ESCAPES: Final = {"s": " ", "t": "\t", "n": "\n", "r": "\r", "\\": "\\"}


class BadFile(Exception):
    """A file that cannot be used; the text says where and why."""


@dataclass(frozen=True, slots=True)
class ServiceFile:
    """What a file says. `command`: the program and its arguments; None if they cannot be told apart, for the reason
    `unusable`. `user`: whom the program is to run as; None: whoever starts it."""

    name: str
    command: tuple[str, ...] | None
    unusable: str = ""
    user: str | None = None


def parse(data: bytes) -> ServiceFile:
    """Read a file. Raises BadFile."""
    entries = groups_of(data).get(GROUP)
    if entries is None:
        raise BadFile(f"there is no group [{GROUP}]")
    missing = [key for key in ("Name", "Exec") if key not in entries]
    if missing:
        raise BadFile(f"there is no {missing[0]}= in [{GROUP}]")
    name = checked_name(entries["Name"])
    try:
        command = tuple(shell_words.split(entries["Exec"]))
    except ValueError as error:
        return ServiceFile(name, None, str(error), entries.get("User"))
    return ServiceFile(name, command, user=entries.get("User"))


def checked_name(name: str) -> str:
    """The name, if a connection can own it. Raises BadFile."""
    try:
        names.check_well_known(name)
    except InvalidName as error:
        raise BadFile(str(error)) from None
    if name == DRIVER:
        raise BadFile(f"{DRIVER} is the bus itself")
    return name


def text_of(data: bytes) -> str:
    """What a file says. Raises BadFile."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BadFile("it is no UTF-8") from None
    if "\0" in text:
        raise BadFile("there is a zero character in it")
    return text


def groups_of(data: bytes) -> dict[str, dict[str, str]]:
    """The groups of a file in the form of the Desktop Entry Specification, each with its entries. Of what is there
    twice, the first counts. Raises BadFile."""
    if len(data) > MAX_SIZE:
        raise BadFile(f"it has {len(data)} bytes; {MAX_SIZE} are allowed")
    text = text_of(data)
    groups: dict[str, dict[str, str]] = {}
    entries: dict[str, str] | None = None
    for number, written in enumerate(text.split("\n"), 1):
        line = written.removesuffix("\r")
        if not line.strip(" \t") or line.startswith("#"):
            continue
        if line.startswith("["):
            group = _GROUP.fullmatch(line)
            if group is None:
                raise BadFile(f"line {number} is no name of a group: {line!r}")
            # Of a group that is there twice the second is read, and not heeded.
            entries = {}
            groups.setdefault(group[1], entries)
            continue
        entry = _KEY.fullmatch(line)
        if entry is None:
            raise BadFile(f"line {number} is neither a group nor KEY=VALUE: {line!r}")
        if entries is None:
            raise BadFile(f"line {number} stands before any group: {line!r}")
        entries.setdefault(entry[1] + (entry[2] or ""), _unescaped(entry[3], number))
    return groups


def _unescaped(value: str, number: int) -> str:
    def replaced(found: re.Match[str]) -> str:
        if found[1] not in _ESCAPES:
            raise BadFile(f"line {number} has an escape that there is not: {found[0]!r}")
        return _ESCAPES[found[1]]

    return re.sub(r"\\(.?)", replaced, value, flags=re.DOTALL)
