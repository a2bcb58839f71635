# SPDX-License-Identifier: GPL-2.0-or-later
"""What `kdbus proxy` and `kdbus activate` have in common: the bus that they serve, and the program that they are for.

With --exec they are there for one program, as dbus-run-session(1) is: they end with it, and as it does. Otherwise
SIGTERM, SIGINT or SIGHUP end them. The program gets the first and the last of these handed on; the terminal has sent it
the other itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import trio

import kdbus.trio
from interposer.errors import DomainUnavailable, ProgramNotExecutable, ProgramNotFound, UsageError, quoted
from interposer.heeded import heeded
from interposer.options import Given, see_help


def bus_name(given: str) -> str:
    """The bus that is meant: a path stays one; names are those of `kdbus run --make-bus`."""
    number, dash, _ = given.partition("-")
    if "/" in given or (dash and number.isdigit()):
        return given
    return "0-system" if given == "system" else kdbus.own_name(given)


def check_command(subcommand: str, given: Given, command: Sequence[str]) -> None:
    """Raise UsageError for a program without --exec, and the other way round."""
    attempt = f"reading the options of `kdbus {subcommand}`"
    if command and "--exec" not in given:
        raise UsageError(attempt, f"{quoted(command[0])} is too many", "--exec in front of it runs it")
    if "--exec" in given and not command:
        raise UsageError(attempt, "--exec without a program", see_help(subcommand))


def try_out(subcommand: str, bus: str) -> None:
    """Raise what would become of every connection to the bus."""
    attempted = f"connecting to the bus {quoted(bus)}"
    try:
        kdbus.trio.connect(bus, revision=kdbus.FINAL).close()
    except kdbus.Error as error:
        advice = f"run it in a kdbus that has that bus: kdbus run --make-bus user -- kdbus {subcommand} --bus user ..."
        raise DomainUnavailable(attempted, error.meaning, advice) from error


async def accompany(
    command: Sequence[str],
    environment: Mapping[str, str],
    serve: Callable[[trio.Nursery], None],
    *,
    ready: Callable[[], None],
    stopping: Callable[[], None],
    ended: trio.Event | None = None,
) -> int:
    """Have `serve` start tasks, and wait for the end: of the program, which gets that environment, or by a signal.

    `ready` and `stopping` are called when both run, and when they end. `ended`: ends it as well. Returns the program's
    status, negative if it died of that signal, or 0. Raises ProgramNotFound or ProgramNotExecutable.
    """
    ends = heeded(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    with trio.open_signal_receiver(*ends) as signals:
        # Outside of the nursery, whose exceptions would come in groups.
        process = await _start(command, environment) if command else None
        status = 0
        async with trio.open_nursery() as nursery:
            serve(nursery)
            ready()
            if process is not None:
                nursery.start_soon(_hand_on, signals, process)
                status = await process.wait()
            else:
                if ended is not None:
                    nursery.start_soon(_end_with, ended, nursery)
                await anext(signals)
            stopping()
            nursery.cancel_scope.cancel()
    return status


async def _end_with(ended: trio.Event, nursery: trio.Nursery) -> None:
    await ended.wait()
    nursery.cancel_scope.cancel()


async def _start(command: Sequence[str], environment: Mapping[str, str]) -> trio.Process:
    """Start the program. Raises ProgramNotFound or ProgramNotExecutable."""
    attempted = f"executing {quoted(command[0])}"
    try:
        return await trio.lowlevel.open_process(list(command), env={**os.environ, **environment})
    except FileNotFoundError as error:
        raise ProgramNotFound(attempted, "there is no such program", "check its name and PATH") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise ProgramNotExecutable(attempted, str(error)) from error


async def _hand_on(signals: AsyncIterator[int], process: trio.Process) -> None:
    async for number in signals:
        if number != signal.SIGINT:
            process.send_signal(number)
