# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus serve`: a domain that outlives programs, for all who join it.

The server is a supervisor (`interposer.supervisor.supervisor`) without a program of its own. Each `kdbus run --domain`
starts its program as always, but hands what it would supervise with to the server
(`interposer.shared_domain.domain_socket`), which from then on answers the traps itself: a call costs no extra hop, and
the launcher only waits for its program.

*Who may join.* To serve a program is to read and write its memory, so whoever joins trusts the server's user. And the
server must be able to:

- A privileged server (root with CAP_SYS_PTRACE) serves everybody. Its socket has mode 0666; the permissions of the
  folder that it is in, or chmod(1), restrict that.
- An ordinary user's server serves that user; its socket has mode 0600. Yama's scopes 1 and 2 do not prevent that in
  mount mode: they spare who has CAP_SYS_PTRACE towards a program's user namespace, and a user has that in the
  namespaces that `kdbus run` makes for programs (user_namespaces(7)). In path mode there are none, so under Yama the
  program is refused, as are those of other users, with the reason.

Whether a program may be inspected is tried when it joins (`interposer.shared_domain.admission`).

*Who is who.* Credentials are the kernel's word at each call, in the server's own namespaces. The user namespace that
an ordinary user's launcher has to make counts as the one it was made in (`UserNamespaces.adopt`), so that users see
each other's true ids.

*What programs see.* A server that may mount (CAP_SYS_ADMIN) makes one kdbusfs and gives every program a mount of it; so
its nodes have their true owners, and programs no power over them. The same goes for the file of the module parameter.
A program in path mode is shown the same folders (`interposer.traps.path_mode`), through descriptors that lead nowhere
else.

A server that may not mount, or has nothing to mount on, has a private folder (`interposer.launch.private_folder`)
instead. To programs in path mode it is what the kdbusfs is above: one for all, the server's own, with true owners if
the server is root's. But its descriptors lead to the rest of the server's file system, so only programs with the
server's root and mount namespace are shown it. A program of the server's user in mount mode has a kdbusfs of its own,
as the server could not attach anything in other user namespaces; the server keeps all of them equal (`NodeMirrors`).

Alternative considered: private folders of the launchers, kept equal like those. They would have to outlive their
launchers, and could not be had of other users, who might keep nodes from being made in theirs.

*Ends.* A tree is served until its last process has ended, whatever becomes of its launcher. SIGTERM, SIGINT and SIGHUP
(unless it was started to ignore them, `heeded`) end the server as an unmount ends a kdbusfs: calls that wait are
answered, connections hang up, nodes vanish. Then each launcher gets its listener back and lets all calls through, since
without a listener the kernel would fail whatever the filter traps (ENOSYS), opens of plain files among them. That is
what happens to a tree whose launcher has ended, or when the server is killed.

*Ready.* The socket appears under its name when the server is ready to be joined; who else is told, and how a service
manager may listen before there is a server, is in `interposer.shared_domain.readiness`.

Weaknesses: an ordinary user's server offers no mount(2) of further kdbusfs, and its parameter cannot be changed. In
path mode the sudden death of the server (SIGKILL) makes all calls that name a path fail, as nobody has the listener. A
trap that makes the server look at a file system which does not answer holds up everybody.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import trio

from interposer.errors import DomainUnavailable, InterposerError, UsageError, pack
from interposer.heeded import heeded
from interposer.itself import itself
from interposer.launch import view
from interposer.launch.private_folder import PrivateFolder
from interposer.nodes.filesystem import NodeFiles, NodeMirrors
from interposer.options import RunOptions, see_help
from interposer.report import cause_of
from interposer.shared_domain import domain_socket
from interposer.shared_domain.activators import Activators
from interposer.shared_domain.admission import Offered, check
from interposer.shared_domain.domain_socket import Message
from interposer.shared_domain.readiness import Readiness, passed_socket
from interposer.supervisor.control import Control
from interposer.supervisor.loop import serve as serve_supervisor
from interposer.supervisor.supervisor import Supervisor
from interposer.supervisor.tree import Tree
from interposer.target.budget import Budget, Charge, OverBudget, use_descriptors
from interposer.target.ids import own_namespace, parent_namespace
from interposer.traps.answering import MountedDomain
from interposer.traps.module_parameter import AttachFlagsMask
from interposer.watching import places
from native.notification import Listener

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
    """The kdbusfs that it has made; None where it is shown ours."""


class Server:
    """One domain, and the trees that have joined it."""

    def __init__(
        self,
        path: str,
        options: RunOptions,
        readiness: Readiness,
        passed: socket.socket | None = None,
        activating: Sequence[Sequence[str]] = (),
    ) -> None:
        """Listen at `path`, or on `passed`. `activating`: commands for `Activators`, to be run in the domain.

        Moves this process into a mount namespace of its own, if it may.

        Raises DomainUnavailable, PrivateFolderUnavailable, SysUnavailable, ViewFailed.
        """
        self._path = path if passed is None else os.fsdecode(passed.getsockname())
        self._readiness = readiness
        joining = [*itself(), "run", "--domain", os.path.abspath(self._path), "--"]
        self._activators = Activators([[*joining, *command] for command in activating])
        self._passed = passed
        self._mounts: view.SharedMounts | None = None
        self._private: PrivateFolder | None = None
        folders: view.SharedMounts | PrivateFolder
        if view.can_share_mounts() and view.own_mount_namespace():
            folders = self._mounts = view.SharedMounts()
        else:
            folders = self._private = PrivateFolder()
        try:
            self._begin(folders, options)
        except BaseException:
            self._leave_nothing()
            raise
        self._place = places.make()
        about: dict[str, object] = {"serves": "serve", "socket": os.path.abspath(self._path)}
        self._control = Control(self._supervisor, about, self._place)

    def _begin(self, folders: view.SharedMounts | PrivateFolder, options: RunOptions) -> None:
        """Show the domain's nodes in `folders`, and listen."""
        self._module = folders.module
        parameters = view.open_parameters(self._module)
        self._mask = AttachFlagsMask(parameters)
        os.close(parameters)
        self._supervisor = Supervisor(options, self._mask, probe=True)
        self._supervisor.when_ended(self._tree_has_ended)
        self._mirrors = NodeMirrors()
        self._domain = self._supervisor.domains.new(self._mirrors)
        self._members: dict[Tree, _Member] = {}
        self._kdbus = folders.kdbus
        self._shown = self._show(self._kdbus)
        if options.buses:
            self._supervisor.domains.make_buses(self._domain, options.buses)
        for_all = self._mounts is not None or os.geteuid() == 0
        self._inode: int | None = None
        if self._passed is not None:
            # Its name, permissions and end are the service manager's.
            self._listening = self._passed
            return
        self._listening = domain_socket.listen(self._path, _FOR_ALL if for_all else _FOR_ONE)
        self._inode = os.lstat(self._path).st_ino

    def _show(self, folder: int) -> MountedDomain:
        """Show the domain's nodes in the file system of `folder`, which is owned from now on."""
        files = NodeFiles(folder, _PRESENT)
        mounted = MountedDomain(self._domain, files)
        self._mirrors.add(files)
        self._supervisor.domains.mounted.append(mounted)
        return mounted

    async def run(self) -> None:
        """Serve until a signal asks for the end, and end the domain."""
        async with trio.open_nursery() as nursery:
            ends = heeded(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            with trio.open_signal_receiver(*ends) as signals:
                nursery.start_soon(serve_supervisor, self._supervisor)
                nursery.start_soon(self._control.serve)
                nursery.start_soon(self._accept, nursery)
                await self._activators.start(nursery)
                self._readiness.ready(
                    f"kdbus: serving at {self._path}, until Ctrl+C; "
                    f"join it with: kdbus run --domain {self._path} -- PROGRAM"
                )
                await anext(signals)
                self._readiness.stopping()
                await self._activators.end()
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
            peer = domain_socket.peer_of(connection)
            user = peer.user
            try:
                charges.callback(self._budget.charge(user, 1).give_back)
            except OverBudget:
                domain_socket.send(connection, domain_socket.REFUSED, pack(self._too_many(user)))
                return
            await self._activators.let_in(peer.process)
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
        offered = Offered(message)
        try:
            peer = domain_socket.peer_of(connection)
            check(self._path, peer, offered, shares_mounts=self._mounts is not None)
            try:
                charge = self._budget.charge(peer.user, _TREE_DESCRIPTORS)
            except OverBudget:
                raise self._too_many(peer.user) from None
            try:
                listener = Listener(offered.listener)
                offered.give_away(offered.listener)
                tree = self._supervisor.add(
                    listener, waits_killable=offered.waits_killable, faults=offered.faults
                )
            except BaseException:
                charge.give_back()
                raise
            member = self._members[tree] = _Member(connection, tree, scope, charge)
            try:
                member.adopted = self._adopt(offered)
                if offered.path_mode:
                    tree.show_folder(self._shown.files, self._kdbus, os.dup(self._module))
                elif self._mounts is None:
                    member.mounted = self._show(offered.give_away(offered.folder))
            except BaseException:
                os.close(self._supervisor.release(tree))
                self._tree_has_ended(tree)
                raise
        finally:
            offered.close()

    def _adopt(self, offered: Offered) -> int | None:
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
            self._supervisor.domains.mounted.remove(member.mounted)
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
        if self._place is not None:
            self._place.close()
        with suppress(OSError):
            if self._inode is not None and os.lstat(self._path).st_ino == self._inode:
                os.unlink(self._path)
        self._supervisor.close()
        self._mask.close()
        os.close(self._module)
        self._leave_nothing()

    def _leave_nothing(self) -> None:
        if self._private is not None:
            self._private.remove()


async def _receive(connection: socket.socket) -> Message | None:
    while True:
        await trio.lowlevel.wait_readable(connection.fileno())
        try:
            return domain_socket.receive(connection)
        except BlockingIOError:
            continue


def serve(
    path: str | None, options: RunOptions, ready_fd: str | None, activating: Sequence[Sequence[str]] = ()
) -> int:
    """`kdbus serve`: the exit status.

    `path`: where to listen; None: with the socket that a service manager has passed. `ready_fd`: as for `Readiness`;
    `activating`: as for `Server`. Raises UsageError, and what `Server` raises.
    """
    readiness = Readiness(ready_fd)
    passed = passed_socket(socket.SOCK_SEQPACKET)
    if passed is None and path is None:
        raise UsageError("reading the options of `kdbus serve`", "there is no --socket PATH", see_help("serve"))
    if passed is not None and path is not None:
        reason = "the service manager has passed a socket, and --socket asks for another"
        raise UsageError("reading the options of `kdbus serve`", reason, "leave one out")
    use_descriptors()
    server = Server(path or "", options, readiness, passed, activating)
    try:
        trio.run(server.run)
    except BaseExceptionGroup as group:
        found = cause_of(group)
        if isinstance(found, InterposerError):
            raise found from found.__cause__
        raise
    finally:
        server.close()
    return 0
