# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus serve`: a domain that outlives programs, for all who join it.

The server is a supervisor (`interposer.supervisor`) without a program of its own. Each `kdbus run --domain` starts its
program as always, but hands what it would supervise with to the server (`interposer.domain_socket`), which from then on
answers the traps itself: a call costs no extra hop, and the launcher only waits for its program.

*Who may join.* To serve a program is to read and write its memory, so whoever joins trusts the server's user. And the
server must be able to:

- A privileged server (root with CAP_SYS_ADMIN) serves everybody. Its socket has mode 0666; the permissions of the
  folder that it is in, or chmod(1), restrict that.
- An ordinary user's server serves that user; its socket has mode 0600. Yama's scopes 1 and 2 do not prevent that: they
  spare who has CAP_SYS_PTRACE towards a program's user namespace, and a user has that in the namespaces that `kdbus
  run` makes for programs (user_namespaces(7)). Programs of other users are refused, with the reason.

Whether a program may be inspected is tried when it joins, and not deduced.

*Who is who.* Credentials are the kernel's word at each call, in the server's own namespaces. The user namespace that
an ordinary user's launcher has to make counts as the one it was made in (`UserNamespaces.adopt`), so that users see
each other's true ids.

*What programs see.* A privileged server makes one kdbusfs and gives every program a mount of it; so its nodes have
their true owners, and programs no power over them. The same goes for the file of the module parameter. An ordinary
user's server could not attach anything in other user namespaces; there each program has a kdbusfs of its own, and the
server keeps all of them equal (`NodeMirrors`).

*Ends.* A tree is served until its last process has ended, whatever becomes of its launcher. SIGTERM, SIGINT and SIGHUP
end the server as an unmount ends a kdbusfs: calls that wait are answered, connections hang up, nodes vanish. Then
each launcher gets its listener back and lets all calls through, since without a listener the kernel would fail
whatever the filter traps (ENOSYS), opens of plain files among them. That is what happens to a tree whose launcher has
ended, or when the server is killed.

*Ready.* The socket appears under its name when the server is ready to be joined. Where NOTIFY_SOCKET is set, READY=1 is
sent there as well (sd_notify(3)), so a systemd unit can be of `Type=notify`.

Weaknesses: an ordinary user's server offers no mount(2) of further kdbusfs, and its parameter cannot be changed. A
trap that makes the server look at a file system which does not answer holds up everybody.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import trio

from interposer import domain_socket, view
from interposer.budget import Budget, Charge, OverBudget, use_descriptors
from interposer.domain_socket import Message, Peer
from interposer.errors import DomainUnavailable, InterposerError, pack
from interposer.filesystem import NodeFiles, NodeMirrors
from interposer.ids import lines_of, own_namespace, parent_namespace, read_file
from interposer.options import RunOptions
from interposer.supervisor import Supervisor
from interposer.traps import MountedDomain
from interposer.tree import Tree
from native.identity import pidfd_getfd

_PRESENT = (("control",),)
_FOR_ALL, _FOR_ONE = 0o666, 0o600
_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SHORTAGE_S = 0.1
"""How long nobody is let in when descriptors or memory run out."""
_TREE_DESCRIPTORS = 8
"""What a program that has joined costs, besides its connection."""


@dataclass(eq=False, slots=True)
class _Member:
    """A program that has joined, and what it started."""

    connection: socket.socket
    tree: Tree
    scope: trio.CancelScope
    charge: Charge
    """What the tree costs whoever started it."""
    adopted: int | None = None
    """Identity of its user namespace, if that passes for ours."""
    mounted: MountedDomain | None = None
    """The kdbusfs that it has made; None where ours is shared."""


class _Offered:
    """The descriptors of a JOIN, looked at but not yet taken over."""

    def __init__(self, message: Message) -> None:
        """Raises ValueError if they are not what they should be, OSError."""
        if message.kind != domain_socket.JOIN:
            raise ValueError(f"a message of kind {message.kind!r}")
        self.waits_killable = domain_socket.KILLABLE in message.text
        self._all: list[int] = []
        try:
            self.listener = self._take(message, "anon_inode:seccomp notify")
            self.pidfd = self._take(message, "")
            has_namespace = domain_socket.USER_NAMESPACE in message.text
            self.user_namespace = self._take(message, "user:[") if has_namespace else -1
            self.folder = self._take(message, "/") if domain_socket.FOLDER in message.text else -1
        except BaseException:
            self.close()
            raise

    def _take(self, message: Message, kind: str) -> int:
        descriptor = message.take()
        self._all.append(descriptor)
        found = domain_socket.kind_of(descriptor)
        if not found.startswith(kind):
            raise ValueError(f"{found!r} where {kind!r} was expected")
        return descriptor

    def give_away(self, descriptor: int) -> int:
        """The descriptor has a new owner."""
        self._all.remove(descriptor)
        return descriptor

    def close(self) -> None:
        """Close what has not been given away."""
        while self._all:
            os.close(self._all.pop())


class Server:
    """One domain, and the trees that have joined it."""

    def __init__(self, path: str, options: RunOptions) -> None:
        """Listen at `path`. Moves this process into a mount namespace of its own, if it may.

        Raises DomainUnavailable, SysUnavailable, ViewFailed.
        """
        self._path = path
        self._mounts = view.SharedMounts() if view.own_mount_namespace() else None
        self._mask: view.AttachFlagsMask | None = None
        self._supervisor = Supervisor(options, self._attach_flags_mask, self._parameter, probe=True)
        self._supervisor.when_ended(self._tree_has_ended)
        self._mirrors = NodeMirrors()
        self._domain = self._supervisor.new_domain(self._mirrors)
        self._members: dict[Tree, _Member] = {}
        if self._mounts is not None:
            shown = self._mounts.open()
            self._mask = view.AttachFlagsMask(shown.parameters_directory)
            self._supervisor.shared.parameter = self._mask
            os.close(shown.parameters_directory)
            self._show(shown.kdbus_directory)
        self._listening = domain_socket.listen(path, _FOR_ONE if self._mounts is None else _FOR_ALL)
        self._inode = os.lstat(path).st_ino

    def _attach_flags_mask(self) -> int:
        return view.DEFAULT_ATTACH_FLAGS_MASK if self._mask is None else self._mask.current()

    def _parameter(self) -> tuple[int, bytes] | None:
        return None if self._mask is None else self._mask.evidence()

    def _show(self, folder: int) -> MountedDomain:
        """Show the domain's nodes in the file system of `folder`, which is owned from now on."""
        files = NodeFiles(folder, _PRESENT)
        mounted = MountedDomain(self._domain, files)
        self._mirrors.add(files)
        self._supervisor.shared.domains.append(mounted)
        return mounted

    async def run(self) -> None:
        """Serve until a signal asks for the end, and end the domain."""
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
                nursery.start_soon(self._supervisor.serve)
                nursery.start_soon(self._accept, nursery)
                _notify(b"READY=1")
                await anext(signals)
                _notify(b"STOPPING=1")
                self._end_domain()
                nursery.cancel_scope.cancel()

    async def _accept(self, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._listening.fileno())
            try:
                connection, _ = self._listening.accept()
            except OSError as error:
                if error.errno in _SHORTAGE:
                    await trio.sleep(_SHORTAGE_S)
                continue
            connection.setblocking(False)
            nursery.start_soon(self._attend, connection)

    async def _attend(self, connection: socket.socket) -> None:
        """Let a program in, and keep its connection for as long as both sides live."""
        # Whoever breaks the rules is left alone.
        with connection, trio.CancelScope() as scope, suppress(OSError, ValueError), ExitStack() as charges:
            user = domain_socket.peer_of(connection).user
            try:
                charges.callback(self._budget.charge(user, 1).give_back)
            except OverBudget:
                domain_socket.send(connection, domain_socket.REFUSED, pack(self._too_many(user)))
                return
            self._welcome(connection)
            message = await _receive(connection)
            if message is None:
                return
            try:
                self._admit(connection, message, scope)
            except InterposerError as error:
                domain_socket.send(connection, domain_socket.REFUSED, pack(error))
                return
            finally:
                message.close()
            domain_socket.send(connection, domain_socket.ACCEPTED)
            while (message := await _receive(connection)) is not None:
                message.close()

    @property
    def _budget(self) -> Budget:
        return self._supervisor.shared.handles.budgets.descriptors

    def _too_many(self, user: int) -> DomainUnavailable:
        return DomainUnavailable(
            f"joining the domain at {self._path} as uid {user}",
            "this user has had its share of the server's descriptors",
            "end some of its programs, or raise the server's limit of open files (ulimit -Hn)",
        )

    def _welcome(self, connection: socket.socket) -> None:
        mirror: tuple[int, ...] = () if self._mounts is None else self._mounts.mirror()
        try:
            domain_socket.send(connection, domain_socket.WELCOME, bytes([domain_socket.VERSION]), mirror)
        finally:
            for mount in mirror:
                os.close(mount)

    def _admit(self, connection: socket.socket, message: Message, scope: trio.CancelScope) -> None:
        """Serve the tree that is offered. Raises DomainUnavailable, and ValueError or OSError for nonsense."""
        offered = _Offered(message)
        try:
            peer = domain_socket.peer_of(connection)
            self._check(peer, offered)
            try:
                charge = self._budget.charge(peer.user, _TREE_DESCRIPTORS)
            except OverBudget:
                raise self._too_many(peer.user) from None
            try:
                listener = offered.give_away(offered.listener)
                tree = self._supervisor.add(listener, waits_killable=offered.waits_killable)
            except BaseException:
                charge.give_back()
                raise
            member = self._members[tree] = _Member(connection, tree, scope, charge)
            try:
                member.adopted = self._adopt(offered)
                if self._mounts is None:
                    member.mounted = self._show(offered.give_away(offered.folder))
            except BaseException:
                os.close(self._supervisor.release(tree))
                self._tree_has_ended(tree)
                raise
        finally:
            offered.close()

    def _check(self, peer: Peer, offered: _Offered) -> None:
        """Raise DomainUnavailable unless the program may be served."""
        attempted = f"joining the domain at {self._path} as uid {peer.user}"
        advice = "a server that root starts serves all users; an ordinary user's serves that user"
        if self._mounts is None and (peer.user != os.geteuid() or offered.folder < 0):
            raise DomainUnavailable(attempted, f"the server is uid {os.geteuid()}'s and serves nobody else", advice)
        if _process_of(offered.pidfd) <= 0:
            raise DomainUnavailable(
                attempted,
                "the server does not see the program's process",
                "start the server in the same pid namespace, or further out",
            )
        try:
            os.close(pidfd_getfd(offered.pidfd, 0))
        except PermissionError as error:
            reason = "the server may not inspect the program's process (ptrace(2), pidfd_getfd(2))"
            raise DomainUnavailable(attempted, reason, advice) from error
        except OSError as error:
            if error.errno != errno.EBADF:
                raise DomainUnavailable(attempted, f"pidfd_getfd(2) failed: {error}", advice) from error

    def _adopt(self, offered: _Offered) -> int | None:
        """Let the program's user namespace pass for ours, if it was made in ours."""
        if offered.user_namespace < 0:
            return None
        parent = parent_namespace(offered.user_namespace)
        if parent is None:
            return None
        try:
            if os.fstat(parent).st_ino != own_namespace(b"user"):
                return None
        finally:
            os.close(parent)
        return self._supervisor.shared.namespaces.adopt(offered.give_away(offered.user_namespace))

    def _tree_has_ended(self, tree: Tree) -> None:
        member = self._members.pop(tree)
        member.charge.give_back()
        if member.adopted is not None:
            self._supervisor.shared.namespaces.release(member.adopted)
        if member.mounted is not None:
            self._supervisor.shared.domains.remove(member.mounted)
            self._mirrors.remove(member.mounted.files)
            member.mounted.files.close()
        member.scope.cancel()

    def _end_domain(self) -> None:
        """Disconnect everybody, and give each launcher its listener back."""
        self._supervisor.end_domains()
        for member in self._members.values():
            listener = self._supervisor.release(member.tree)
            try:
                with suppress(OSError):
                    # The launcher may have ended.
                    domain_socket.send(member.connection, domain_socket.BYE, b"", [listener])
            finally:
                os.close(listener)
        self._members.clear()

    def close(self) -> None:
        """Leave nothing behind."""
        self._listening.close()
        with suppress(OSError):
            if os.lstat(self._path).st_ino == self._inode:
                os.unlink(self._path)
        self._supervisor.close()
        if self._mask is not None:
            self._mask.close()


async def _receive(connection: socket.socket) -> Message | None:
    while True:
        await trio.lowlevel.wait_readable(connection.fileno())
        try:
            return domain_socket.receive(connection)
        except BlockingIOError:
            continue


def _notify(state: bytes) -> None:
    """Tell whoever manages services, if anybody does; see sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        name = "\0" + address[1:] if address.startswith("@") else address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto(state, name)


def _process_of(pidfd: int) -> int:
    """Number of the process in our pid namespace; -1 if it has ended, 0 if it is not in it. Raises ValueError."""
    fields = lines_of(read_file(f"/proc/self/fdinfo/{pidfd}"))
    numbers = [field.partition(b":")[2] for field in fields if field.startswith(b"Pid:")]
    if not numbers:
        raise ValueError("no pidfd")
    return int(numbers[0])


def serve(path: str, options: RunOptions) -> int:
    """`kdbus serve --socket PATH`: the exit status."""
    use_descriptors()
    server = Server(path, options)
    try:
        trio.run(server.run)
    finally:
        server.close()
    return 0
