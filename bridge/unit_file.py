# SPDX-License-Identifier: GPL-2.0-or-later
"""systemd's units: `.busname`, which it had while it had kdbus, and as much of `.service` as a name needs.

Source: the manual pages systemd.busname(5) of systemd 216 to 231, systemd.syntax(7), systemd.service(5), "Command
Lines", systemd.exec(5). A `.busname` says who may use a name on the bus, and which `.service` unit has the program.

Of a `.service` unit, ExecStart=, WorkingDirectory=, Environment= and User= are heeded, whatever else it has being about
how systemd looks after it. What cannot be done is refused and not left out: specifiers (%h), variables, backslashes,
several commands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bridge import shell_words
from bridge.service_file import BadFile, checked_name, text_of
from kdbus.flags import Access, AccessType

_GROUP = re.compile(r"\[([^\[\]]+)\]")
_TRUE: Final = frozenset({"1", "yes", "y", "true", "t", "on"})
_FALSE: Final = frozenset({"0", "no", "n", "false", "f", "off"})
_BUSNAME: Final = frozenset(
    "Name Service Activating AcceptFileDescriptors AllowUser AllowGroup AllowWorld".split()
)


@dataclass(frozen=True, slots=True)
class Allowed:
    """Who may do what with the name; `who` is a user's or group's name or number, empty for everybody."""

    access: Access
    type: AccessType
    who: str = ""


@dataclass(frozen=True, slots=True)
class BusName:
    """A `.busname` unit. `service`: the file name of the unit to start, None for its own name with another ending.
    Without `activating` nothing is started, and the rules hold nevertheless."""

    name: str
    service: str | None = None
    activating: bool = True
    accepts_descriptors: bool = True
    allowed: tuple[Allowed, ...] = ()


@dataclass(frozen=True, slots=True)
class Unit:
    """What there is to start."""

    command: tuple[str, ...]
    folder: str | None = None
    user: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


def parse_busname(data: bytes) -> BusName:
    """Read a `.busname` unit. Raises BadFile."""
    entries = _sections(data).get("BusName")
    if entries is None:
        raise BadFile("there is no section [BusName]")
    unknown = [key for key, _ in entries if key not in _BUSNAME]
    if unknown:
        raise BadFile(f"{unknown[0]}= in [BusName] is not understood")
    name = _last(entries, "Name")
    if name is None:
        raise BadFile("there is no Name= in [BusName]")
    return BusName(
        checked_name(name),
        _last(entries, "Service"),
        _truth(entries, "Activating"),
        _truth(entries, "AcceptFileDescriptors"),
        tuple(_allowed(key, value) for key, value in entries if key.startswith("Allow")),
    )


def parse_service(data: bytes) -> Unit:
    """Read a `.service` unit. Raises BadFile."""
    entries = _sections(data).get("Service")
    if entries is None:
        raise BadFile("there is no section [Service]")
    commands = _all(entries, "ExecStart")
    if len(commands) != 1:
        raise BadFile(f"there are {len(commands)} commands in ExecStart=; one is needed")
    command = _words(commands[0].removeprefix("-"), "ExecStart")
    if not command or not command[0].startswith("/"):
        raise BadFile(f"ExecStart= does not begin with the path of a program: {commands[0]!r}")
    environment = {}
    for value in _all(entries, "Environment"):
        for word in _words(value, "Environment"):
            key, equals, setting = word.partition("=")
            if not key or not equals:
                raise BadFile(f"Environment= has something that is not KEY=VALUE: {word!r}")
            environment[key] = setting
    folder = (_last(entries, "WorkingDirectory") or "").removeprefix("-")
    if folder and not folder.startswith("/"):
        raise BadFile(f"WorkingDirectory= is no absolute path: {folder!r}")
    return Unit(tuple(command), folder or None, _last(entries, "User"), environment)


Entries = list[tuple[str, str]]


def _sections(data: bytes) -> dict[str, Entries]:
    """The sections with their entries, in order; a section may come in parts."""
    sections: dict[str, Entries] = {}
    entries: Entries | None = None
    continued = ""
    for number, written in enumerate(text_of(data).split("\n"), 1):
        line = written.strip()
        if line.startswith(("#", ";")) or not (line or continued):
            continue
        line = continued + line
        continued = line[:-1] + " " if line.endswith("\\") else ""
        if continued:
            continue
        if line.startswith("["):
            section = _GROUP.fullmatch(line)
            if section is None:
                raise BadFile(f"line {number} is no name of a section: {line!r}")
            entries = sections.setdefault(section[1], [])
            continue
        key, equals, value = line.partition("=")
        if not equals or not key.strip():
            raise BadFile(f"line {number} is neither a section nor KEY=VALUE: {line!r}")
        if entries is None:
            raise BadFile(f"line {number} stands before any section: {line!r}")
        entries.append((key.strip(), value.strip()))
    if continued:
        raise BadFile("the last line is to be continued")
    return sections


def _all(entries: Entries, wanted: str) -> list[str]:
    """All values of a key that were not taken back by an empty one."""
    found: list[str] = []
    for key, value in entries:
        if key == wanted:
            found = [*found, value] if value else []
    return found


def _last(entries: Entries, wanted: str) -> str | None:
    """The value that counts; None if there is none, or an empty one."""
    values = [value for key, value in entries if key == wanted]
    return values[-1] or None if values else None


def _truth(entries: Entries, key: str) -> bool:
    value = (_last(entries, key) or "yes").lower()
    if value not in _TRUE | _FALSE:
        raise BadFile(f"{key}= is neither yes nor no: {value!r}")
    return value in _TRUE


def _allowed(key: str, value: str) -> Allowed:
    words = value.split()
    type_ = AccessType[key.removeprefix("Allow").upper()]
    if len(words) != (1 if type_ == AccessType.WORLD else 2) or words[-1] not in ("see", "talk", "own"):
        wanted = "ACCESS" if type_ == AccessType.WORLD else "WHO ACCESS"
        raise BadFile(f"{key}= is not {wanted}, with see, talk or own for ACCESS: {value!r}")
    return Allowed(Access[words[-1].upper()], type_, "" if len(words) == 1 else words[0])


def _words(line: str, key: str) -> Sequence[str]:
    """The words of a command line or a list; what would have to be replaced is refused. Raises BadFile."""
    if "\\" in line or re.search(r"(?<!\$)(?:\$\$)*\$(?!\$)|(?<!%)(?:%%)*%(?!%)", line):
        raise BadFile(f"{key}= has a variable, specifier or backslash, which are not understood: {line!r}")
    if line[:1] in ("@", "+", "!", ":", "|"):
        raise BadFile(f"{key}= begins with {line[:1]!r}, which is not understood: {line!r}")
    try:
        return shell_words.split(line.replace("$$", "$").replace("%%", "%"))
    except ValueError as error:
        raise BadFile(f"{key}=: {error}") from None
