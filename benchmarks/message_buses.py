# SPDX-License-Identifier: GPL-2.0-or-later
"""The D-Bus message buses to compare: private ones, started for the run and gone afterwards.

dbus-daemon is started as a session bus on a socket of ours, with the distribution's session.conf, as any desktop does.

dbus-broker is harder, since its launcher expects systemd around it. It is content without, given three things:
- a listening socket as descriptor 3, announced as socket activation does (LISTEN_FDS, LISTEN_PID, sd_listen_fds(3));
- a session bus to talk to about units, for which our dbus-daemon does: it answers that there is no systemd;
- something bound to the journal's socket, whose path cannot be chosen. Where no journal runs, the launcher gets a mount
  namespace with a /run of its own and our socket bound to that path, so nothing is left behind in the real /run. An
  ordinary user has that in a user namespace, and in a second one within it the launcher has its user's number
  again, which its clients name when they authenticate.

Alternative considered: starting the program dbus-broker itself and taking the launcher's part. That part is a protocol
of its own, policies included, which has no stable documentation.

Weakness: dbus-broker needs dbus-daemon here, so without the latter both are missing.

The third is ours, to be compared with these: `kdbus proxy`, on a bus of a `kdbus run` of its own.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from benchmarks.execution import CannotRun, Execution, NotInstalled

DAEMON = "dbus-daemon"
BROKER = "dbus-broker"
NAMES = (DAEMON, BROKER)
"""Those of others."""
PROXY = "kdbus proxy"

_JOURNAL = Path("/run/systemd/journal/socket")
_START_SECONDS = 20.0
_LISTEN_DESCRIPTOR = 3

# $1: our socket; the rest: the launcher. `exec` keeps the shell's process id, which LISTEN_PID has to name.
_WITH_JOURNAL = f"""set -e
mount -t tmpfs tmpfs /run
mkdir -p {_JOURNAL.parent}
: > {_JOURNAL}
mount --bind "$1" {_JOURNAL}
shift
LISTEN_PID=$$ exec "$@"
"""
_WITHOUT_JOURNAL = 'shift; LISTEN_PID=$$ exec "$@"'


@contextmanager
def message_buses(execution: Execution) -> Iterator[dict[str, str | CannotRun]]:
    """Start the message buses. Yields for each of `NAMES`, and for the proxy, its D-Bus address, or why it is
    missing."""
    with ExitStack() as stack:
        found: dict[str, str | CannotRun] = {}
        try:
            found[DAEMON] = stack.enter_context(_daemon(execution))
        except CannotRun as error:
            found[DAEMON] = error
        daemon = found[DAEMON]
        try:
            _need("dbus-broker-launch", "dbus-broker")
            if isinstance(daemon, CannotRun):
                raise CannotRun(f"its launcher wants a session bus to talk to, and there is no dbus-daemon: {daemon}")
            found[BROKER] = stack.enter_context(_broker(execution, daemon))
        except CannotRun as error:
            found[BROKER] = error
        try:
            found[PROXY] = stack.enter_context(_proxy(execution))
        except CannotRun as error:
            found[PROXY] = error
        yield found


def _need(program: str, package: str) -> None:
    if shutil.which(program) is None:
        raise NotInstalled(f"{program} is not installed; apt-get install {package}")


@contextmanager
def _daemon(execution: Execution) -> Iterator[str]:
    _need("dbus-daemon", "dbus")
    path = execution.folder / "dbus-daemon.socket"
    command = ["dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address=unix:path={path}"]
    log = _log(execution, DAEMON)
    with log, execution.started([*command, "--print-address=1"], subprocess.PIPE, log) as process:
        output = process.stdout
        assert output is not None
        ready = select.select([output], [], [], _START_SECONDS)[0]
        line = output.readline().decode().strip() if ready else ""
        if not line:
            raise CannotRun(f"dbus-daemon does not start: {_last_line(execution, DAEMON)}")
        yield line


@contextmanager
def _proxy(execution: Execution) -> Iterator[str]:
    address = f"unix:path={execution.folder / 'kdbus-proxy.socket'}"
    reading, writing = os.pipe()
    proxy = [*execution.kdbus, "proxy", "--bus", "benchmarks", "--listen", address, "--ready-fd", str(writing)]
    run = [*execution.kdbus, "run", "--make-bus", "benchmarks", "--"]
    with ExitStack() as stack:
        ready, told = stack.enter_context(open(reading, "rb")), stack.enter_context(open(writing, "wb"))
        log = stack.enter_context(_log(execution, "kdbus-proxy"))
        stack.enter_context(execution.started([*run, *proxy], log, log, pass_fds=[writing]))
        told.close()
        if not select.select([ready], [], [], _START_SECONDS)[0] or not ready.read(1):
            raise CannotRun(f"`kdbus proxy` does not serve: {_last_line(execution, 'kdbus-proxy')}")
        yield address


@contextmanager
def _broker(execution: Execution, session_bus: str) -> Iterator[str]:
    path = execution.folder / "dbus-broker.socket"
    journal = execution.folder / "journal.socket"
    command = ["sh", "-c", _WITHOUT_JOURNAL, "sh", str(journal)]
    with ExitStack() as stack:
        log = stack.enter_context(_log(execution, BROKER))
        if not _JOURNAL.exists():
            _need("unshare", "util-linux")
            as_root, as_before = [], []
            if os.geteuid():
                as_root = ["--user", "--map-root-user"]
                as_before = ["unshare", "--user", f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}"]
            command = ["unshare", *as_root, "--mount", "sh", "-c", _WITH_JOURNAL, "sh", str(journal), *as_before]
            stack.enter_context(_discarding_socket(journal))
        listening = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
        listening.bind(str(path))
        listening.listen(128)

        def place_socket() -> None:
            os.dup2(listening.fileno(), _LISTEN_DESCRIPTOR, inheritable=True)

        stack.enter_context(
            execution.started(
                [*command, "dbus-broker-launch", "--scope", "user"],
                log,
                log,
                {"DBUS_SESSION_BUS_ADDRESS": session_bus, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "dbus.socket"},
                preexec_fn=place_socket,
                pass_fds=[_LISTEN_DESCRIPTOR],
            )
        )
        if not _answers(path):
            raise CannotRun(f"dbus-broker-launch does not serve: {_last_line(execution, BROKER)}")
        yield f"unix:path={path}"


def _answers(path: Path) -> bool:
    """Whether somebody authenticates us on that socket: the start of the D-Bus protocol, whoever serves it."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_START_SECONDS)
        try:
            client.connect(str(path))
            client.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
            return client.recv(64).startswith(b"OK ")
        except OSError:
            return False


@contextmanager
def _discarding_socket(path: Path) -> Iterator[None]:
    """A datagram socket at `path` that reads what it gets and forgets it; a full one would block the launcher."""
    end = b"end of the benchmarks"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))

        def discard() -> None:
            while server.recv(len(end)) != end:
                pass

        thread = threading.Thread(target=discard, daemon=True)
        thread.start()
        try:
            yield
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
                client.sendto(end, str(path))
            thread.join()


def _log(execution: Execution, name: str) -> BinaryIO:
    """The file that takes what the message bus `name` says."""
    return open(execution.folder / f"{name}.log", "wb")


def _last_line(execution: Execution, name: str) -> str:
    """The last thing that the message bus `name` said."""
    lines = (execution.folder / f"{name}.log").read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it says nothing")
