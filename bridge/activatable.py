# SPDX-License-Identifier: GPL-2.0-or-later
"""Which names there is a program for: what the files in some folders say.

A folder may have D-Bus's `.service` files, and systemd's `.busname` units with the `.service` units that they name;
which of them a `.service` file is, its groups tell. Of several files for a name the first counts: folders in the order
in which they are given, in each the files by name, `.busname` before `.service`. A file that cannot be used is told of
and left out, as dbus-daemon does.
"""

from __future__ import annotations

import grp
import logging
import os
import pwd
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bridge import service_file, unit_file
from bridge.service_file import BadFile
from kdbus.flags import AccessType
from kdbus.values import Rule

_LOG = logging.getLogger("bridge")


@dataclass(frozen=True, slots=True)
class Activatable:
    """A name, and what to start for it. `command` is None where nothing can be: `unusable` says why, or it is empty and
    there is nothing to start, only rules for the name."""

    name: str
    source: str
    command: tuple[str, ...] | None
    unusable: str = ""
    user: str | None = None
    folder: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    accepts_descriptors: bool = True

    @property
    def activating(self) -> bool:
        """Whether messages are to start something, or to fail with the reason."""
        return self.command is not None or bool(self.unusable)


def found(folders: Iterable[str]) -> list[Activatable]:
    """What there is. What is wrong with a folder or file is logged."""
    names: dict[str, Activatable] = {}
    for folder in folders:
        try:
            entries = sorted(os.listdir(folder))
        except OSError as error:
            _LOG.warning("the folder %s is left out: %s", folder, os.strerror(error.errno or 0))
            continue
        for ending in (".busname", ".service"):
            for path in (f"{folder}/{entry}" for entry in entries if entry.endswith(ending)):
                for each in _read(path):
                    if each.name in names:
                        _LOG.warning("%s is left out: %s has %s already", path, names[each.name].source, each.name)
                    else:
                        names[each.name] = each
    return list(names.values())


def _read(path: str) -> Iterator[Activatable]:
    """What a file says: one name, or none."""
    try:
        if path.endswith(".busname"):
            yield _of_unit(path)
        else:
            with open(path, "rb") as file:
                data = file.read(service_file.MAX_SIZE + 1)
            if not _is_unit(data):
                said = service_file.parse(data)
                _check_user(said.user)
                yield Activatable(said.name, path, said.command, said.unusable, said.user)
    except (BadFile, OSError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else error
        _LOG.warning("%s is left out: %s", path, reason)


def _is_unit(data: bytes) -> bool:
    """Whether a `.service` file is one of systemd's, which is of no use here unless a `.busname` names it."""
    lines = [line.strip() for line in data.split(b"\n")]
    return b"[Service]" in lines and f"[{service_file.GROUP}]".encode() not in lines


def _of_unit(path: str) -> Activatable:
    """Raises BadFile or OSError."""
    with open(path, "rb") as file:
        said = unit_file.parse_busname(file.read(service_file.MAX_SIZE + 1))
    rules = tuple(Rule(each.access, each.type, _number_of(each)) for each in said.allowed)
    if not said.activating:
        return Activatable(said.name, path, None, rules=rules)
    service = said.service or os.path.basename(path).removesuffix(".busname") + ".service"
    if "/" in service:
        raise BadFile(f"Service= is no name of a unit: {service!r}")
    try:
        with open(f"{os.path.dirname(path)}/{service}", "rb") as file:
            unit = unit_file.parse_service(file.read(service_file.MAX_SIZE + 1))
    except OSError as error:
        raise BadFile(f"the unit {service} beside it: {os.strerror(error.errno or 0)}") from None
    except BadFile as error:
        raise BadFile(f"the unit {service} beside it: {error}") from None
    _check_user(unit.user)
    return Activatable(
        *(said.name, path, unit.command, "", unit.user, unit.folder, unit.environment),
        *(rules, said.accepts_descriptors),
    )


def _check_user(user: str | None) -> None:
    """Raise BadFile if a program cannot be run as that user, as ours can only by root."""
    if user is None:
        return
    try:
        number = account(user).pw_uid
    except KeyError:
        raise BadFile(f"User= is nobody here: {user!r}") from None
    if os.geteuid() not in (0, number):
        raise BadFile(f"User= is {user}, and only root can start programs of others")


def account(user: str) -> pwd.struct_passwd:
    """Of a user, by name or number. Raises KeyError."""
    return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)


def _number_of(allowed: unit_file.Allowed) -> int:
    if allowed.type == AccessType.WORLD:
        return 0
    try:
        if allowed.who.isdecimal():
            return int(allowed.who)
        if allowed.type == AccessType.USER:
            return pwd.getpwnam(allowed.who).pw_uid
        return grp.getgrnam(allowed.who).gr_gid
    except KeyError:
        raise BadFile(f"there is no {allowed.type.name.lower()} {allowed.who!r}") from None
