# SPDX-License-Identifier: GPL-2.0-or-later
"""`--make-bus`: the supervisor makes buses before the program runs (`broker.standing`), as the caller that it is.

They belong to the user that the supervisor runs as, who is privileged on them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NoReturn

from broker.domain import Domain
from broker.errors import BadAddress, BadDescriptor, KdbusError, NameTooLong, NodeExists, OutOfMemory
from broker.interfaces import Credentials, File, PoolMemory
from broker.standing import make_bus
from interposer.errors import UsageError
from interposer.target.ids import ThreadFolder, ThreadIds, UserNamespaces
from interposer.target.process import TargetProcess


class OwnCaller:
    """`broker.interfaces.Caller`: this very process, which has no arguments in memory and receives nothing."""

    def __init__(self, namespaces: UserNamespaces) -> None:
        folder = ThreadFolder(os.getpid(), lambda: True)
        self.ids = ThreadIds(folder, namespaces)
        self.process = TargetProcess(folder, self.ids, namespaces)

    def credentials(self) -> Credentials:
        return self.process.credentials()

    def read(self, address: int, size: int) -> NoReturn:
        raise BadAddress

    def write(self, address: int, data: bytes) -> NoReturn:
        raise BadAddress

    def copy(self, pool: PoolMemory, offset: int, pieces: Sequence[tuple[int, int]]) -> NoReturn:
        raise BadAddress

    def file(self, descriptor: int) -> NoReturn:
        raise BadDescriptor

    def install(self, file: File) -> NoReturn:
        raise BadDescriptor

    def new_pool(self, name: bytes, size: int) -> NoReturn:
        raise OutOfMemory


def make_buses(domain: Domain, names: Iterable[str], namespaces: UserNamespaces) -> None:
    """Make a bus for each of the names that `--make-bus` was given.

    `system` is short for `0-system`, open to everybody; `user` for `UID-user`. Any other name gets the user's id in
    front, unless it begins with a number and a dash. Raises UsageError for a name that cannot be, or that is given
    twice.
    """
    caller = OwnCaller(namespaces)
    own = caller.ids.from_uid(caller.credentials().euid)
    for given in names:
        number, dash, _ = given.partition("-")
        name = "0-system" if given == "system" else given if dash and number.isdigit() else f"{own}-{given}"
        try:
            make_bus(domain, os.fsencode(name), caller, world=given == "system")
        except KdbusError as error:
            raise UsageError(f"making the bus {name!r}", _reason(error), "see --help") from error


def _reason(error: KdbusError) -> str:
    if isinstance(error, NodeExists):
        return "it was asked for twice"
    if isinstance(error, NameTooLong):
        return "its name has more than 63 bytes"
    return "a name has letters, digits and '_', and '-' and '.' not at its end"
