# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus proxy`: where `bridge` listens. What it has in common with others is in `interposer.companion`.

The socket is made here, or comes from a service manager; `bridge` knows nothing of command lines.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from urllib.parse import quote, unquote_to_bytes

import trio

from bridge.busconfig import Configuration, ConfigurationError, read
from bridge.client import Terms
from bridge.proxy import Proxy, new_guid
from bridge.rules import Policy
from bridge.service import offered
from interposer.activating import checked_folders, log, started
from interposer.companion import accompany, bus_name, check_command, try_out
from interposer.errors import DomainUnavailable, UsageError, quoted
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
    check_command("proxy", given, command)
    folders = checked_folders("proxy", given.get("--activate", []))
    path = None if address is None else path_of(address)
    readiness = Readiness(given.last("--ready-fd"))
    log(given)
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
        return trio.run(_serve, terms, listening, f"{address_of(path)},guid={terms.guid}", command, readiness, folders)


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

    def reread() -> Policy:
        return read(file).policy

    return replace(terms, limits=found.limits, anonymous=anonymous, policy=found.policy, reread=reread)


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
    try:
        import siphash24  # noqa: F401
    except ImportError:
        attempted, advice = f"connecting to the bus {quoted(bus)}", "pip install 'kdbus-interposer[dbus]'"
        raise DomainUnavailable(attempted, "the package siphash24 is missing", advice) from None
    try_out("proxy", bus)


def _unlink(path: str, inode: int) -> None:
    """Remove our socket, unless another has taken its place."""
    with suppress(OSError):
        if os.lstat(path).st_ino == inode:
            os.unlink(path)


async def _serve(
    terms: Terms,
    listening: socket.socket,
    address: str,
    command: Sequence[str],
    readiness: Readiness,
    folders: Sequence[str],
) -> int:
    """Serve until the program, or a signal, ends it."""
    environment = {"DBUS_SESSION_BUS_ADDRESS": address}
    async with offered(terms.bus):
        with ExitStack() as stack:
            active = None
            if folders:
                active = stack.enter_context(
                    started(terms.bus, folders, {**environment, "DBUS_STARTER_ADDRESS": address})
                )
                terms = replace(terms, reload_services=active.reload)

            def serve(nursery: trio.Nursery) -> None:
                if active is not None:
                    nursery.start_soon(active.run)
                # The socket listens already.
                nursery.start_soon(Proxy(terms).serve, trio.socket.from_stdlib_socket(listening))

            return await accompany(
                command,
                environment,
                serve,
                ready=lambda: readiness.ready(f"kdbus: D-Bus at {address}"),
                stopping=readiness.stopping,
            )
