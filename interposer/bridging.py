# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus bridge`: a bus of kdbus, and the bus of a D-Bus daemon that runs, as one (`bridge.union`).

The program that it may be for is started when each side has the other's names. It is found out at once if one of the
sides cannot be had; if one of them ends later, so does the bridge.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import trio

from bridge.daemon import Unreachable, paths_of
from bridge.union import Union
from interposer.activating import log
from interposer.companion import accompany, bus_name, check_command, try_out
from interposer.errors import DomainUnavailable, InterposerError, UsageError, quoted
from interposer.options import Given
from interposer.shared_domain.readiness import Readiness

_ATTEMPT = "reading the options of `kdbus bridge`"
_SYSTEM = "unix:path=/run/dbus/system_bus_socket"


def bridge(given: Given, command: Sequence[str]) -> int:
    """Serve as the options say; the exit status as `accompany` has it. Raises InterposerError."""
    bus, to = given.last("--bus"), given.last("--to")
    if bus is None or to is None:
        advice = "such as: kdbus bridge --bus user --to session --exec PROGRAM"
        raise UsageError(_ATTEMPT, f"there is no {'--to' if bus else '--bus'}", advice)
    check_command("bridge", given, command)
    address, readiness, name = address_of(to), Readiness(given.last("--ready-fd")), bus_name(bus)
    log(given)
    try_out("bridge", name)
    union = Union(name, address, all_users="--all-users" in given)
    return trio.run(_serve, union, f"the bus {name} and {address} are one", address, command, readiness)


def address_of(to: str) -> str:
    """The daemon's address: what is given, or what `session` and `system` stand for. Raises UsageError."""
    if to == "session":
        found = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
        if not found:
            raise UsageError(_ATTEMPT, "DBUS_SESSION_BUS_ADDRESS is not set", "give the address: --to unix:path=PATH")
        to = found
    elif to == "system":
        to = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or _SYSTEM
    try:
        paths_of(to)
    except Unreachable as error:
        raise UsageError(_ATTEMPT, str(error), "such as: --to unix:path=PATH, --to session, --to system") from None
    return to


async def _serve(union: Union, line: str, address: str, command: Sequence[str], readiness: Readiness) -> int:
    """Serve until the program, a signal, or one of the sides ends it."""
    begun, ended = trio.Event(), trio.Event()
    failures: list[InterposerError] = []

    async def run() -> None:
        try:
            await union.run(begun.set)
        except Unreachable as error:
            attempted = f"joining the bus at {quoted(address)}"
            failures.append(DomainUnavailable(attempted, str(error), "is there a daemon? try: dbus-send --bus=..."))
        finally:
            ended.set()
            begun.set()

    status = 0
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await begun.wait()
            if not failures:
                status = await accompany(
                    command,
                    {},
                    lambda _: None,
                    ready=lambda: readiness.ready(f"kdbus: {line}"),
                    stopping=readiness.stopping,
                    ended=ended,
                )
            nursery.cancel_scope.cancel()
    except* InterposerError as group:
        failures += [error for error in group.exceptions if isinstance(error, InterposerError)]
    if failures:
        raise failures[0]
    return status
