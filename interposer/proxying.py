# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus proxy`: where `bridge` listens, for how long, and the program that it may be for.

The socket is made here, or comes from a service manager; `bridge` knows nothing of command lines. With --exec the proxy
is there for one program, as dbus-run-session(1) is: it ends with it, and as it does. Otherwise SIGTERM, SIGINT or
SIGHUP end it. The program gets the first and the last of these handed on; the terminal has sent it the other itself.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from urllib.parse import quote, unquote_to_bytes

import trio

import kdbus.trio
from bridge.busconfig import Configuration, ConfigurationError, read
from bridge.client import Terms
from bridge.proxy import Proxy, new_guid
from bridge.service import offered
from interposer.errors import DomainUnavailable, ProgramNotExecutable, ProgramNotFound, UsageError, quoted
from interposer.heeded import heeded
from interposer.options import Given, see_help
from interposer.shared_domain import domain_socket
from interposer.shared_domain.readiness import Readiness, passed_socket

_ATTEMPT = "reading the options of `kdbus proxy`"


def proxy(given: Given, command: Sequence[str]) -> int:
    """Serve as the options say; the exit status of the program, negative if it died of that signal, or 0. Raises
    InterposerError."""
    bus, address = given.last("--bus"), given.last("--listen")
    if bus is None:
        raise UsageError(_ATTEMPT, "there is no --bus", "such as: kdbus proxy --bus user --listen unix:path=PATH")
    if command and "--exec" not in given:
        raise UsageError(_ATTEMPT, f"{quoted(command[0])} is too many", "--exec in front of it runs it")
    if "--exec" in given and not command:
        raise UsageError(_ATTEMPT, "--exec without a program", see_help("proxy"))
    path = None if address is None else path_of(address)
    readiness = Readiness(given.last("--ready-fd"))
    verbose = given.keys() & {"-v", "--verbose"}
    logging.basicConfig(format="kdbus: %(message)s", level=logging.INFO if verbose else logging.WARNING)
    terms = Terms(bus_name(bus), new_guid(), anonymous="--anonymous" in given, other_users="--all-users" in given)
    if (file := given.last("--config")) is not None:
        terms = _configured(terms, file)
    _try_out(terms.bus)
    with ExitStack() as stack:
        passed = passed_socket(socket.SOCK_STREAM)
        if passed is not None:
            listening, path = passed, os.fsdecode(passed.getsockname())
        else:
            if path is None:
                if not command:
                    raise UsageError(_ATTEMPT, "there is neither --listen nor --exec", see_help("proxy"))
                folder = tempfile.mkdtemp(prefix="kdbus-proxy-")
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                path = f"{folder}/bus"
            mode = 0o666 if terms.other_users or terms.policy else 0o600
            listening = domain_socket.listen(path, mode, socket.SOCK_STREAM)
            stack.callback(_unlink, path, os.lstat(path).st_ino)
        stack.callback(listening.close)
        return trio.run(_serve, terms, listening, f"{address_of(path)},guid={terms.guid}", command, readiness)


def configuration_in(file: str) -> Configuration:
    """What a configuration file of dbus-daemon says. Raises UsageError."""
    try:
        return read(file)
    except ConfigurationError as error:
        raise UsageError(f"reading the configuration {quoted(file)}", str(error), "see dbus-daemon(1)") from error


def _configured(terms: Terms, file: str) -> Terms:
    """The terms with the policy and limits in a file. Raises UsageError."""
    if terms.other_users:
        raise UsageError(_ATTEMPT, "--all-users beside --config", '<allow user="*"/> in that file says the same')
    found = configuration_in(file)
    for warning in found.warnings:
        logging.getLogger("bridge").warning("%s", warning)
    anonymous = terms.anonymous or found.anonymous
    return replace(terms, limits=found.limits, anonymous=anonymous, policy=found.policy)


def bus_name(given: str) -> str:
    """The bus that is meant: a path stays one; names are those of `kdbus run --make-bus`."""
    number, dash, _ = given.partition("-")
    if "/" in given or (dash and number.isdigit()):
        return given
    return "0-system" if given == "system" else kdbus.own_name(given)


def path_of(address: str) -> str:
    """The path in an address of D-Bus (D-Bus Specification, "Server Addresses"). Raises UsageError for others."""
    kind, _, words = address.partition(":")
    key, _, value = words.partition("=")
    if kind != "unix" or key != "path" or not value or "," in value or ";" in value:
        raise UsageError(_ATTEMPT, f"{quoted(address)} is no place to listen at", "such as: --listen unix:path=PATH")
    return os.fsdecode(unquote_to_bytes(value))


def address_of(path: str) -> str:
    """The address of a socket, for DBUS_SESSION_BUS_ADDRESS."""
    return f"unix:path={quote(os.fsencode(os.path.abspath(path)))}"


def _try_out(bus: str) -> None:
    """Raise what would become of every client."""
    attempted = f"connecting to the bus {quoted(bus)}"
    try:
        import siphash24  # noqa: F401
    except ImportError:
        raise DomainUnavailable(
            attempted, "the package siphash24 is missing", "pip install 'kdbus-interposer[dbus]'"
        ) from None
    try:
        kdbus.trio.connect(bus, revision=kdbus.FINAL).close()
    except kdbus.Error as error:
        advice = "run it in a kdbus that has that bus: kdbus run --make-bus user -- kdbus proxy --bus user ..."
        raise DomainUnavailable(attempted, error.meaning, advice) from error


def _unlink(path: str, inode: int) -> None:
    """Remove our socket, unless another has taken its place."""
    with suppress(OSError):
        if os.lstat(path).st_ino == inode:
            os.unlink(path)


async def _serve(
    terms: Terms, listening: socket.socket, address: str, command: Sequence[str], readiness: Readiness
) -> int:
    """Serve until the program, or a signal, ends it."""
    ends = heeded(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    async with offered(terms.bus):
        with trio.open_signal_receiver(*ends) as signals:
            # The socket listens already. Outside of the nursery, whose exceptions would come in groups.
            process = await _start(command, address) if command else None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Proxy(terms).serve, trio.socket.from_stdlib_socket(listening))
                readiness.ready(f"kdbus: D-Bus at {address}")
                if process is None:
                    await anext(signals)
                    status = 0
                else:
                    nursery.start_soon(_hand_on, signals, process)
                    status = await process.wait()
                readiness.stopping()
                nursery.cancel_scope.cancel()
    return status


async def _start(command: Sequence[str], address: str) -> trio.Process:
    """Start the program. Raises ProgramNotFound or ProgramNotExecutable."""
    environment = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": address}
    attempted = f"executing {quoted(command[0])}"
    try:
        return await trio.lowlevel.open_process(list(command), env=environment)
    except FileNotFoundError as error:
        raise ProgramNotFound(attempted, "there is no such program", "check its name and PATH") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise ProgramNotExecutable(attempted, str(error)) from error


async def _hand_on(signals: AsyncIterator[int], process: trio.Process) -> None:
    async for number in signals:
        if number != signal.SIGINT:
            process.send_signal(number)
