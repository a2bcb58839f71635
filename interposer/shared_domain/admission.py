# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may join a server's domain (`interposer.shared_domain.serve`), and what is taken from them.

What a launcher offers is looked at before it is used, as it may be anybody's: each descriptor has to be of the kind
that it is said to be. Whether the server can serve a program is tried on that program, and not deduced from users,
capabilities and settings: the kernel knows more rules than this file could.

Alternative considered, for an ordinary user under Yama's scope 1: the program may name the server as its tracer
(PR_SET_PTRACER, prctl(2)). That counts for this one process and for nothing that it starts.
"""

from __future__ import annotations

import os

from interposer.errors import DomainUnavailable
from interposer.shared_domain import domain_socket
from interposer.shared_domain.domain_socket import Message, Peer
from interposer.target.ids import lines_of, read_file
from interposer.target.inspection import try_to_inspect, yama_scope
from tracing.faults import parse


class Offered:
    """The descriptors of a JOIN, looked at but not yet taken over."""

    def __init__(self, message: Message) -> None:
        """Raises ValueError if they are not what they should be, OSError."""
        if message.kind != domain_socket.JOIN:
            raise ValueError(f"a message of kind {message.kind!r}")
        flags, _, words = message.text.partition(domain_socket.FAULTS)
        self.waits_killable = domain_socket.KILLABLE in flags
        self.faults = tuple(parse(word.decode()) for word in words.split(domain_socket.FAULTS) if word)
        """What calls of the program, and of all that it starts, are to meet."""
        self._all: list[int] = []
        try:
            self.listener = self._take(message, "anon_inode:seccomp notify")
            self.pidfd = self._take(message, "")
            has_namespace = domain_socket.USER_NAMESPACE in flags
            self.user_namespace = self._take(message, "user:[") if has_namespace else -1
            self.folder = self._take(message, "/") if domain_socket.FOLDER in flags else -1
            self.path_mode = domain_socket.PATH_MODE in flags
            if self.path_mode and self.folder >= 0:
                raise ValueError("a kdbusfs of its own, and path mode")
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


def check(path: str, peer: Peer, offered: Offered, *, shares_mounts: bool) -> None:
    """Decide whether the server at `path` may serve the program that `peer` offers.

    `shares_mounts`: the server has a kdbusfs that programs of all users mount; otherwise it has a private folder, for
    path mode. Raises DomainUnavailable if it may not, ValueError for nonsense.
    """
    attempted = f"joining the domain at {path} as uid {peer.user}"
    if not shares_mounts:
        _check_without_mounts(attempted, peer, offered)
    process = _process_of(offered.pidfd)
    if process <= 0:
        raise DomainUnavailable(
            attempted,
            "the server does not see the program's process",
            "start the server in the same pid namespace, or further out",
        )
    try:
        try_to_inspect(process)
    except PermissionError as error:
        scope = yama_scope()
        reason = f"the server (uid {os.geteuid()}) may not inspect the program's process {process}: process_vm_readv(2)"
        reason += " says EPERM" if scope in (None, "0") else f" says EPERM, and kernel.yama.ptrace_scope is {scope}"
        raise DomainUnavailable(attempted, reason, _advice(peer, scope)) from error
    except OSError as error:
        raise DomainUnavailable(attempted, f"process_vm_readv(2) of the program's process failed: {error}") from error
    if offered.path_mode and not shares_mounts:
        _check_place(attempted, process)


def _check_without_mounts(attempted: str, peer: Peer, offered: Offered) -> None:
    own = os.geteuid()
    if peer.user != own and own != 0:
        advice = "a server that root starts serves all users; an ordinary user's serves that user"
        raise DomainUnavailable(attempted, f"the server is uid {own}'s and serves nobody else", advice)
    if offered.path_mode:
        return
    if offered.folder < 0:
        raise ValueError("neither a kdbusfs of its own, nor path mode")
    if peer.user != own:
        raise DomainUnavailable(
            attempted,
            "the server may not mount, so it has no kdbusfs that programs of other users could mount",
            "run the program without `--mode mount`, or start the server with CAP_SYS_ADMIN",
        )


def _check_place(attempted: str, process: int) -> None:
    """The private folder must not lead `process` out of where it is.

    A program gets descriptors of the folder; with `..`, or fchdir(2), they lead to what the server sees, which a
    container or a chroot is there to prevent.
    """
    try:
        same = _place_of(str(process)) == _place_of("self")
    except OSError as error:
        raise DomainUnavailable(attempted, f"looking at the root of process {process} failed: {error}") from error
    if not same:
        raise DomainUnavailable(
            attempted,
            f"process {process} is in path mode, and has another root or mount namespace than the server, whose "
            "private folder would lead it out",
            "start the server in the same container or chroot, or with CAP_SYS_ADMIN",
        )


def _place_of(process: str) -> tuple[int, int, int]:
    """What tells a root in a mount namespace from others. Raises OSError."""
    root = os.stat(f"/proc/{process}/root")
    return os.stat(f"/proc/{process}/ns/mnt").st_ino, root.st_dev, root.st_ino


def _advice(peer: Peer, scope: str | None) -> str:
    """What lets the server inspect the program of `peer`."""
    if scope == "3":
        return "that forbids it to root too, and stays until the machine is restarted; with 2 root's server may"
    ways = "start the server with CAP_SYS_PTRACE (Docker: --cap-add SYS_PTRACE)"
    if os.geteuid() == 0:
        ways += "; where it has that, a policy of AppArmor or SELinux forbids it (`ptrace`)"
    if peer.user == os.geteuid() and scope in ("1", "2"):
        # In a user namespace of their own, they are spared: user_namespaces(7).
        ways += ", or allow user namespaces to programs (`kdbus doctor`)"
        if scope == "1":
            ways += ", or set kernel.yama.ptrace_scope to 0"
    return ways


def _process_of(pidfd: int) -> int:
    """Number of the process in our pid namespace; -1 if it has ended, 0 if it is not in it. Raises ValueError."""
    fields = lines_of(read_file(f"/proc/self/fdinfo/{pidfd}"))
    numbers = [field.partition(b":")[2] for field in fields if field.startswith(b"Pid:")]
    if not numbers:
        raise ValueError("no pidfd")
    return int(numbers[0])
