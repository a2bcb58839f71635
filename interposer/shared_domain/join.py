# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus run --domain PATH`: starting a program whose calls a server answers (`interposer.shared_domain.serve`).

The program is started as always, and executed when the server has taken over its listener. Then nothing is left to do
here but what is owed to the program as its parent (`interposer.launch.program`), and to be there for the day on which
the server ends: it then gives the listener back, and every call is let through to the kernel.
kdbus is gone for the program, but it can still open files.

The launcher keeps no duplicate of the listener meanwhile. It would keep calls waiting for ever that a killed server has
received and not answered.

Which mode: mount mode, and path mode where that cannot be had, as in `interposer.launch.launch`; also where the server
shares no mount and belongs to another user. A kdbusfs of the program's own could then not show the nodes of all users.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence

from interposer.errors import DomainUnavailable, unpack
from interposer.lasting import lasting_objects
from interposer.launch.filter import this_architecture
from interposer.launch.launch import NO_VIEW, Launched, Mode, launch_held, launch_held_in_path_mode
from interposer.launch.view import Mirror
from interposer.shared_domain import domain_socket
from interposer.shared_domain.domain_socket import FOLDER, KILLABLE, PATH_MODE, USER_NAMESPACE, Message


class Joined:
    """A program that runs in a server's domain, or is about to. `join` makes it."""

    def __init__(self, launched: Launched, connection: socket.socket) -> None:
        self.launched = launched
        self._connection = connection

    def run(self) -> int:
        """Wait for the end of the program; returns its status as wait(2) gives it."""
        # Late, as the program runs already.
        with lasting_objects():
            import trio

            from interposer.launch.program import Program

        async def wait() -> int:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._outlive_server)
                status = await Program(self.launched.pid).run()
                nursery.cancel_scope.cancel()
            return status

        with self._connection:
            return trio.run(wait)

    async def _outlive_server(self) -> None:
        import trio

        while True:
            await trio.lowlevel.wait_readable(self._connection.fileno())
            message = _receive(self._connection)
            if message is None:
                return
            try:
                if message.kind == domain_socket.BYE:
                    await _let_through(message.take())
                    return
            finally:
                message.close()


async def _let_through(descriptor: int) -> None:
    """Let the kernel have all calls of the listener `descriptor`. kdbus's own fail as after an unmount."""
    import trio

    from native.notification import EndOfTargets, Listener

    own = {(each.audit, each.system_calls["ioctl"]) for each in this_architecture().all}
    with Listener(descriptor) as listener:
        while True:
            await trio.lowlevel.wait_readable(listener.fileno())
            try:
                notification = listener.receive()
            except EndOfTargets:
                return
            if notification is None:
                continue
            if (notification.architecture, notification.number) in own:
                listener.respond_error(notification.id, errno.ESHUTDOWN)
            else:
                listener.respond_continue(notification.id)


def join(
    path: str,
    connection: socket.socket,
    command: Sequence[str],
    mode: Mode | None,
    *,
    dies_with_us: bool,
    preload: bool | None = None,
    self_serve: bool = False,
    faults: Sequence[str] = (),
) -> Joined:
    """Start `command` in the domain of the server at `path`; see `interposer.launch.launch.launch_held` for the rest.

    `connection`: to that server, owned from now on. `mode` None: the first of the two that can be had here.
    `faults`: what calls are to meet, as `tracing.faults` reads it. `dies_with_us`: see
    `interposer.launch.launch.Launched`; `preload`, `self_serve`: `launch` there. Raises
    DomainUnavailable, and what `launch_held` raises; then no child is left.
    """
    try:
        launched = _launch(path, command, connection, mode, dies_with_us, preload, self_serve, faults)
    except BaseException:
        connection.close()
        raise
    return Joined(launched, connection)


def _launch(
    path: str,
    command: Sequence[str],
    connection: socket.socket,
    mode: Mode | None,
    dies_with_us: bool,
    preload: bool | None,
    self_serve: bool,
    faults: Sequence[str],
) -> Launched:
    welcome = _expect(path, connection, domain_socket.WELCOME)
    try:
        if welcome.text != bytes([domain_socket.VERSION]):
            raise DomainUnavailable(
                f"joining the domain at {path}",
                "the server is of another version",
                "run the same kdbus on both sides",
            )
        mirror = Mirror(welcome.take(), welcome.take()) if welcome.descriptors else None
    finally:
        welcome.close()
    if mode is None and mirror is None and domain_socket.peer_of(connection).user != os.geteuid():
        mode = Mode.PATH
    launched = _launch_held(command, mirror, mode, preload, self_serve)
    try:
        _offer(connection, launched, faults)
        _expect(path, connection, domain_socket.ACCEPTED).close()
    except BaseException:
        launched.abandon()
        raise
    launched.close()
    launched.dies_with_us = dies_with_us
    launched.execute()
    return launched


def _launch_held(
    command: Sequence[str], mirror: Mirror | None, mode: Mode | None, preload: bool | None, self_serve: bool
) -> Launched:
    """`mirror` is closed in any case. Raises what `launch_held` raises."""
    if mode is Mode.PATH:
        for mount in mirror or ():
            os.close(mount)
        return launch_held_in_path_mode(command, preload=preload is not False)
    try:
        return launch_held(command, mirror, preload=self_serve)
    except NO_VIEW:
        if mode is Mode.MOUNT:
            raise
    return launch_held_in_path_mode(command, preload=preload is not False)


def _offer(connection: socket.socket, launched: Launched, faults: Sequence[str]) -> None:
    flags = KILLABLE if launched.waits_killable else b""
    pidfd = os.pidfd_open(launched.pid)
    try:
        offered = [launched.listener, pidfd]
        if launched.own_user_namespace >= 0:
            flags += USER_NAMESPACE
            offered.append(launched.own_user_namespace)
        if launched.kdbus_directory >= 0:
            flags += FOLDER
            offered.append(launched.kdbus_directory)
        if launched.mode is Mode.PATH:
            flags += PATH_MODE
        words = b"".join(domain_socket.FAULTS + fault.encode() for fault in faults)
        domain_socket.send(connection, domain_socket.JOIN, flags + words, offered)
    finally:
        os.close(pidfd)


def _expect(path: str, connection: socket.socket, kind: bytes) -> Message:
    """The next message, of that kind. Raises DomainUnavailable, or whatever the server says has gone wrong."""
    message = _receive(connection)
    if message is not None and message.kind == kind:
        return message
    if message is not None:
        message.close()
        if message.kind == domain_socket.REFUSED:
            raise unpack(message.text)
    raise DomainUnavailable(
        f"joining the domain at {path}",
        "the server closed the connection" if message is None else f"it said {message.kind!r}",
        "see whether it has ended, and what it says on its stderr",
    )


def _receive(connection: socket.socket) -> Message | None:
    """None also if the server was killed."""
    try:
        return domain_socket.receive(connection)
    except ConnectionResetError:
        return None
