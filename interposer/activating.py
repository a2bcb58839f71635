# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus activate`, and --activate of others: which folders say what is started on which bus.

What does it is an ordinary kdbus program (`bridge.activation`), so it has to be inside of the kdbus whose buses it
serves. `kdbus run --activate` therefore runs `kdbus activate --exec` around its program, and `kdbus serve --activate`
starts `kdbus run --domain ... kdbus activate`; `kdbus proxy --activate` does it itself, since the programs that it
starts have to know the proxy's address.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import kdbus
from interposer.errors import DomainUnavailable, UsageError, quoted
from interposer.itself import itself
from interposer.options import Given

if TYPE_CHECKING:
    from bridge.activation import Activation

_NOT_FOR_PROGRAMS = ("NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def folders_by_bus(subcommand: str, given: Given) -> dict[str, list[str]]:
    """What `[BUS=]DIR` of --activate says, by bus, for a subcommand that has --make-bus. Raises UsageError."""
    attempt = f"reading the options of `kdbus {subcommand}`"
    buses = given.get("--make-bus", [])
    found: dict[str, list[str]] = {}
    for value in given.get("--activate", []):
        bus, equals, folder = value.partition("=")
        if not equals or bus not in buses:
            if len(buses) != 1:
                reason = f"--activate {quoted(value)} does not say for which bus"
                raise UsageError(attempt, reason, "such as: --make-bus user --activate user=DIR")
            bus, folder = buses[0], value
        found.setdefault(bus, []).extend(checked_folders(subcommand, [folder]))
    return found


def commands_of(folders: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """For each bus the command that activates on it; a program may follow."""
    return [
        [*itself(), "activate", "--bus", bus, *(word for folder in each for word in ("--from", folder))]
        for bus, each in folders.items()
    ]


def around(command: Sequence[str], folders: Mapping[str, Sequence[str]]) -> list[str]:
    """The command that runs `command` with activation."""
    found = list(command)
    for each in commands_of(folders):
        found = [*each, "--exec", *found]
    return found


def activate(given: Given, command: Sequence[str]) -> int:
    """`kdbus activate`; the exit status as `accompany` has it. Raises InterposerError."""
    import trio

    from interposer.companion import accompany, bus_name, check_command, try_out
    from interposer.shared_domain.readiness import Readiness

    attempt = "reading the options of `kdbus activate`"
    bus, folders = given.last("--bus"), given.get("--from", [])
    if bus is None or not folders:
        advice = "such as: kdbus activate --bus user --from /usr/share/dbus-1/services --exec PROGRAM"
        raise UsageError(attempt, f"there is no {'--from' if bus else '--bus'}", advice)
    check_command("activate", given, command)
    checked_folders("activate", folders)
    log(given)
    readiness, name = Readiness(given.last("--ready-fd")), bus_name(bus)
    try_out("activate", name)

    async def run() -> int:
        with started(name, folders, {"DBUS_STARTER_ADDRESS": f"kernel:path={node_of(name)}"}) as active:
            return await accompany(
                command,
                {},
                lambda nursery: nursery.start_soon(active.run),
                ready=lambda: readiness.ready(f"kdbus: programs are started on the bus {name}"),
                stopping=readiness.stopping,
                ended=active.ended,
            )

    return trio.run(run)


def log(given: Given) -> None:
    """Tell what happens on stderr: what is wrong, and with --verbose the rest."""
    verbose = given.keys() & {"-v", "--verbose"}
    logging.basicConfig(format="kdbus: %(message)s", level=logging.INFO if verbose else logging.WARNING)


def node_of(bus: str) -> str:
    """The path of a bus's node."""
    return bus if "/" in bus else f"{kdbus.ROOT}/{bus}/bus"


@contextmanager
def started(bus: str, folders: Sequence[str], environment: Mapping[str, str]) -> Iterator[Activation]:
    """Activate on a bus while the block runs, in which the result's `run` is to work, for what is in the folders.

    `environment`: what programs get beside ours. Raises DomainUnavailable.
    """
    from bridge.activation import AlreadyActivated, activation

    attempted = f"starting programs on the bus {quoted(bus)}"
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_PROGRAMS}
    type_ = "system" if bus == "0-system" else "session"
    with ExitStack() as stack:
        try:
            known = {**inherited, "DBUS_STARTER_BUS_TYPE": type_, **environment}
            active = stack.enter_context(activation(bus, folders, known))
        except AlreadyActivated as error:
            raise DomainUnavailable(attempted, str(error), "give that one all folders") from None
        except kdbus.Error as error:
            advice = "only who has made a bus may do that; `kdbus list` shows who is on it"
            raise DomainUnavailable(attempted, str(error), advice) from error
        yield active


def checked_folders(subcommand: str, folders: Iterable[str]) -> list[str]:
    """The absolute paths of folders that can be read. Raises UsageError."""
    for folder in folders:
        try:
            os.listdir(folder)
        except OSError as error:
            attempted = f"reading the options of `kdbus {subcommand}`"
            reason = f"the folder {quoted(folder)}: {os.strerror(error.errno or 0)}"
            raise UsageError(attempted, reason, "it is to have .service or .busname files") from error
    return [os.path.abspath(folder) for folder in folders]
