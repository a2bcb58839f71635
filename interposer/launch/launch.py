# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting the program: fork, view, filter, descriptors to the parent, exec.

Everything that changes the child is done by the child itself, before it executes the program: a user namespace can
only be entered by a process of one thread, a filter is installed by whom it binds, and the parent has to stay
outside of both. So the fork comes early, before threads and before slow imports: the program starts while the parent
still loads its supervisor.

One SOCK_SEQPACKET pair carries all that the child has to say, in at most two messages and an end:

    D + flags, with descriptors   listener, the user namespace if one was made (U), the two folders of the view unless
                                  it mirrors a server's; K: the filter has WAIT_KILLABLE_RECV
    E + a packed error            what failed in the preparation, before D
    X + errno and path, repeated  after D: what execve(2) said of each; the parent makes an error of it
    end of file                   after D: the program runs, as the pair closes on exec

The program is executed only when it is told so, by a byte in the other direction: once there is a caretaker
(`native.caretaker`), who answers its calls if the supervisor is killed; or a server, whose domain it joins. In path
mode the server has the folder that it is shown.

Nothing that happens between the filter and the exec is trapped (`filter` names no call that this file makes there; in
path mode: nothing looks at a path but execve(2)), so the child never waits for a supervisor that is not there yet.

Which mode: mount mode, and if the view cannot be built, whatever the reason, once more in path mode with a fresh child,
as one that has failed in the middle may be in a namespace that is of no use.

What the program inherits is what `kdbus` was given: descriptors, folder, limits, umask, signal mask. Three things that
Python changes behind its user's back are taken back: it ignores SIGPIPE and SIGXFSZ, it catches SIGINT (exec undoes
that), and in the C locale it sets LC_CTYPE (PEP 538).

Weaknesses: if SIGPIPE was ignored already when `kdbus` started, the program gets the default instead, since Python
does not tell. Where a user namespace had to be made, set-user-ID programs do not change the user in it, and groups
other than the primary one read as the overflow group. Root without CAP_SYS_ADMIN gets a user namespace as well, and
then has all capabilities in it, as it is root there.

Alternatives considered: posix_spawn(3), which cannot unshare; a small C launcher, a second program to build and find,
for the sake of 10 ms.
"""

from __future__ import annotations

import enum
import errno
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from interposer.errors import (
    FILE_SIZE_ADVICE,
    AlreadySupervised,
    FilterUnavailable,
    InterposerError,
    LaunchFailed,
    MountNamespaceUnavailable,
    NoProc,
    SysUnavailable,
    ViewFailed,
    pack,
    quoted,
    unpack,
)
from interposer.launch import filter as seccomp_filter
from interposer.launch import view
from interposer.launch.execution import candidates, execute, explain
from interposer.launch.guarantee import forced
from interposer.launch.preloading import preload_also, preloadable
from native import namespace, seccomp
from native.caretaker import Caretaker
from native.preloaded import STUB_ADDRESS

if TYPE_CHECKING:
    from interposer.launch.private_folder import PrivateFolder

_LONGEST_REPORT = 65536
_DESCRIPTORS, _ERROR, _NOT_EXECUTED = b"D", b"E", b"X"
_KILLABLE, _USER_NAMESPACE = b"K", b"U"
_GO = b"+"
_GO_AND_DIE_WITH_US = b"!"
_COERCED_LOCALES = ("C.UTF-8", "C.utf8", "UTF-8")

class Mode(enum.Enum):
    """How the program is shown its kdbus nodes."""

    MOUNT = "mount"
    """Real files in a mount namespace of its own (`view`)."""
    PATH = "path"
    """Trapped path calls (`path_mode`), where no mount namespace can be had."""


NO_VIEW = (MountNamespaceUnavailable, SysUnavailable, ViewFailed)
"""The errors that say that mount mode cannot be had."""


class Launched:
    """A program that runs, or is about to, under the filter. `launch` makes it.

    pid                   the child; the caller reaps it
    command               the program's name and arguments
    listener              seccomp notification descriptor
    mode                  which part of the work the supervisor has
    kdbus_directory       descriptor of the folder that the program sees at /sys/fs/kdbus; nodes are made through it
    parameters_directory  descriptor of /sys/module/kdbus/parameters, for `traps.module_parameter.AttachFlagsMask`
    user_namespace        inode number of the program's user namespace
    own_user_namespace    descriptor of it if it was made for the program, else -1
    waits_killable        whether the filter has SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    module_directory      path mode only: descriptor of the folder that the program finds at /sys/module/kdbus
    spared                whether the program has the library whose calls are let through (`native/preload`)
    dies_with_us          whether the program is killed if this process ends before it, in whatever way; to be set
                          before `execute`
    caretaker             answers when this process has ended; None where a server has the listener, or if there was
                          no room for a process

    All descriptors close on exec. Whoever takes one over closes it. The folders are -1 where a server has them.
    """

    def __init__(
        self,
        pid: int,
        flags: bytes,
        descriptors: Sequence[int],
        report: socket.socket,
        command: Sequence[str],
        mode: Mode,
        folder: PrivateFolder | None,
    ) -> None:
        self.pid = pid
        self.mode = mode
        self.dies_with_us = False
        self.spared = False
        self.command = list(command)
        self._folder = folder
        self.waits_killable = _KILLABLE in flags
        remaining = list(descriptors)
        self.listener = remaining.pop(0)
        self.own_user_namespace = remaining.pop(0) if _USER_NAMESPACE in flags else -1
        inside = self.own_user_namespace if self.own_user_namespace >= 0 else "/proc/self/ns/user"
        self.user_namespace = os.stat(inside).st_ino
        self.kdbus_directory, self.parameters_directory = remaining or (-1, -1)
        self.module_directory = -1
        if folder is not None:
            self.kdbus_directory, self.module_directory = folder.kdbus, folder.module
            self.parameters_directory = view.open_parameters(folder.module)
        self.caretaker: Caretaker | None = None
        self._report: socket.socket | None = report
        self._exec_error: InterposerError | None = None

    def start_caretaker(self) -> None:
        """Have calls answered when this process has ended, which has one thread as yet (`native.caretaker`)."""
        own = [(each.audit, each.system_calls["ioctl"]) for each in seccomp_filter.this_architecture().all]
        with suppress(OSError):
            # Without it all is well until this process ends.
            self.caretaker = Caretaker(self.listener, own)

    def join_user_namespace(self) -> None:
        """Enter the program's user namespace, if one was made, for good. Raises `LaunchFailed`."""
        if self.own_user_namespace < 0:
            return
        try:
            namespace.setns(self.own_user_namespace, namespace.CLONE_NEWUSER)
        except OSError as error:
            raise LaunchFailed(
                "joining the program's user namespace", str(error), "launch from a process of one thread"
            ) from error
        os.close(self.own_user_namespace)
        self.own_user_namespace = -1

    def execute(self) -> None:
        """Let the program be executed."""
        assert self._report is not None
        with suppress(OSError):
            # If it has died meanwhile, `exec_error` and wait(2) tell.
            self._report.send(_GO_AND_DIE_WITH_US if self.dies_with_us else _GO)

    def abandon(self) -> None:
        """End the child, which is reaped, and close everything."""
        self.leave_nothing()
        _end(self.pid)
        self.close()

    def close(self) -> None:
        """Close all descriptors: nobody takes them over, or only duplicates."""
        for descriptor in (
            self.listener,
            self.own_user_namespace,
            self.kdbus_directory,
            self.parameters_directory,
            self.module_directory,
        ):
            if descriptor >= 0:
                os.close(descriptor)

    def leave_nothing(self) -> None:
        """The end: have a program that was never executed end as well, since it holds what it has inherited, and, in
        path mode, remove the private folder. Idempotent."""
        if self._report is not None:
            self._report.close()
            self._report = None
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.remove()

    def exec_error(self) -> InterposerError | None:
        """Why the program could not be executed, None if it runs. Waits until that is known (about a millisecond).

        After an error the child has ended or is about to, and still wants to be reaped.
        """
        if self._report is not None:
            message = self._report.recv(_LONGEST_REPORT)
            self._report.close()
            self._report = None
            if message:
                self._exec_error = explain(self.command, message[1:])
        return self._exec_error

    def check_executed(self) -> None:
        """Raise what `exec_error` tells, once the child has been reaped."""
        error = self.exec_error()
        if error is not None:
            os.waitpid(self.pid, 0)
            raise error


def launch(
    command: Sequence[str],
    mode: Mode | None = None,
    *,
    held: bool = False,
    dies_with_us: bool = False,
    preload: bool | None = None,
    self_serve: bool = False,
    exits: bool = False,
) -> Launched:
    """Start `command` (the program, looked up in PATH as execvp(3) does, and its arguments), to be supervised by us.

    `mode` None: the first of the two that can be had here. `held`: it is not executed before `Launched.execute`.
    `dies_with_us`: see `Launched`. `preload`: whether the program gets the library that spares it traps
    (`interposer.launch.preloading`); None: in path mode. `self_serve`: in mount mode, too, as its receivers serve
    themselves by means of it. `exits`: the supervisor is asked before a process ends by itself.
    Where the program needs a user namespace, the calling process joins it, for good, and has all capabilities in
    it, which making nodes in the read-only folder of kdbusfs takes; so the caller must then have one thread.
    Raises what `launch_held` raises.
    """
    if mode is not Mode.PATH:
        try:
            preloaded = bool(preload) or self_serve
            return _launch_mounted(command, held=held, dies_with_us=dies_with_us, preload=preloaded, exits=exits)
        except NO_VIEW:
            if mode is Mode.MOUNT:
                raise
    from interposer.launch.private_folder import PrivateFolder

    folder = PrivateFolder()
    try:
        launched = _launch(command, Mode.PATH, None, folder, preload=preload is not False, exits=exits)
    except BaseException:
        folder.remove()
        raise
    launched.dies_with_us = dies_with_us
    launched.start_caretaker()
    if not held:
        launched.execute()
    return launched


def _launch_mounted(
    command: Sequence[str], *, held: bool, dies_with_us: bool, preload: bool, exits: bool
) -> Launched:
    launched = _launch(command, Mode.MOUNT, None, None, preload=preload, exits=exits)
    launched.dies_with_us = dies_with_us
    launched.start_caretaker()
    if not held:
        launched.execute()
    try:
        launched.join_user_namespace()
    except InterposerError:
        launched.abandon()
        raise
    return launched


def launch_held(command: Sequence[str], mirror: view.Mirror | None, *, preload: bool = False) -> Launched:
    """As `launch`, but the program is not executed before `Launched.execute`, and nothing is joined.

    `mirror`: what to show at /sys/fs/kdbus and the parameters, closed here in any case. `preload`: start it with the
    library.
    Raises what `view` raises, `FilterUnavailable`, `AlreadySupervised`, `UnsupportedMachine` or `LaunchFailed`; then no
    child is left. That the program cannot be executed is told by `Launched.exec_error`.
    """
    return _launch(command, Mode.MOUNT, mirror, None, preload=preload)


def launch_held_in_path_mode(command: Sequence[str], *, preload: bool = True) -> Launched:
    """As `launch_held`, but in path mode, with the private folder of a server, which is not needed here.

    `preload`: see `launch`.
    """
    return _launch(command, Mode.PATH, None, None, preload=preload)


def _need_proc(program: str) -> None:
    if not os.path.exists("/proc/self/ns/user"):
        raise NoProc(
            f"starting {quoted(program)}",
            "there is no /proc, by which the supervisor knows its programs",
            "mount it: `mount -t proc proc /proc`",
        )


def _launch(
    command: Sequence[str],
    mode: Mode,
    mirror: view.Mirror | None,
    folder: PrivateFolder | None,
    *,
    preload: bool = False,
    exits: bool = False,
) -> Launched:
    """`mirror` is for mount mode, `folder` for path mode; it stays the caller's if this raises."""
    architectures = seccomp_filter.this_architecture().all
    _need_proc(command[0])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ignores_children = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    if ignores_children:
        # Inherited so; the kernel would reap the child unseen, with its status.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    library = preloadable() if preload else None
    # Where a server's nodes are mounted, nobody tells the library which they are.
    spared = library is not None and mirror is None
    pid = os.fork()
    if pid == 0:
        ours.close()
        _become(command, architectures, theirs, ignores_children, mirror, library, spared, mode is Mode.MOUNT, exits)
    theirs.close()
    for mount in mirror or ():
        os.close(mount)
    try:
        message, descriptors, _, _ = socket.recv_fds(ours, _LONGEST_REPORT, 4, socket.MSG_CMSG_CLOEXEC)
        if message[:1] != _DESCRIPTORS:
            raise unpack(message[1:]) if message else _ended_early(pid)
    except BaseException:
        ours.close()
        _end(pid)
        raise
    launched = Launched(pid, message[1:], descriptors, ours, command, mode, folder)
    launched.spared = spared
    return launched


def replace_process(command: Sequence[str]) -> InterposerError:
    """Execute `command` in this process, unsupervised, with what `kdbus` was given; returns only why that failed."""
    _restore_inherited_state(signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN)
    return explain(command, execute(candidates(command[0]), command))


def install_filter(program: Sequence[seccomp_filter.Instruction]) -> tuple[int, bool]:
    """Bind this thread, for good, to `program`; returns its listener and whether waits are killable only.

    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (Linux 5.19) is asked for and done without. no_new_privs, which would
    break set-user-ID programs, is set only if the kernel insists: without CAP_SYS_ADMIN (seccomp(2), EACCES).
    """
    wanted = forced()
    flags = 0 if wanted and not wanted.needs_flag else seccomp.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    may_give_up_privileges = True
    while True:
        try:
            return seccomp.install_filter(program, flags), bool(flags)
        except OSError as error:
            if error.errno == errno.EINVAL and flags:
                flags = 0
            elif error.errno == errno.EACCES and may_give_up_privileges:
                may_give_up_privileges = False
                seccomp.set_no_new_privileges()
            elif error.errno == errno.EBUSY:
                raise AlreadySupervised(
                    "installing a seccomp listener",
                    "one is installed already, and the kernel allows one for each tree of processes",
                    "run the program without the inner `kdbus run`, or outside of what supervises this one",
                ) from error
            else:
                raise FilterUnavailable(
                    "installing a seccomp listener",
                    str(error),
                    "`kdbus doctor` tells what this kernel and container allow",
                ) from error


def _become(
    command: Sequence[str],
    architectures: Sequence[seccomp_filter.Architecture],
    report: socket.socket,
    ignores_children: bool,
    mirror: view.Mirror | None,
    preloaded: str | None,
    spared: bool,
    mounts: bool,
    exits: bool,
) -> NoReturn:
    """The child's whole life. `preloaded`: the library that the program is to be started with; `spared`: what it calls
    untrapped is let through."""
    try:
        launcher = os.getppid()
        _restore_inherited_state(ignores_children)
        own_user_namespace = mounts and view.enter_mount_namespace()
        built: Sequence[int] = ()
        if not mounts:
            pass
        elif mirror is None:
            built = view.build(own_user_namespace)
        else:
            view.build_mirror(own_user_namespace, mirror)
        own = [os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)] if own_user_namespace else []
        files = candidates(command[0])
        if not mounts:
            traps = seccomp_filter.path_mode_traps
        elif own_user_namespace and os.geteuid() != 0:
            # Nobody can become another user in it, root for instance.
            traps = seccomp_filter.one_user_traps
        else:
            traps = seccomp_filter.mount_mode_traps
        more = (seccomp_filter.EXITS,) if exits else ()
        listener, waits_killable = install_filter(
            seccomp_filter.build_for(
                [(each, (*traps(each), *more)) for each in architectures], STUB_ADDRESS if spared else None
            )
        )
        flags = (_KILLABLE if waits_killable else b"") + (_USER_NAMESPACE if own else b"")
        socket.send_fds(report, [_DESCRIPTORS + flags], [listener, *own, *built])
        told = report.recv(1)
        if told == _GO_AND_DIE_WITH_US:
            # Not earlier, as a change of user or capabilities would undo it.
            seccomp.set_parent_death_signal(signal.SIGKILL)
        if told not in (_GO, _GO_AND_DIE_WITH_US) or os.getppid() != launcher:
            raise LaunchFailed("preparing the program's process", "whoever launched it has ended")
        if preloaded:
            preload_also(preloaded)
        report.send(_NOT_EXECUTED + execute(files, command))
    except InterposerError as error:
        report.send(_ERROR + pack(error))
    except Exception as error:
        report.send(_ERROR + pack(LaunchFailed("preparing the program's process", f"{type(error).__name__}: {error}")))
    finally:
        if exits:
            # Nobody serves that trap before the program runs.
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(LaunchFailed.exit_status)


def _restore_inherited_state(ignores_children: bool) -> None:
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    if ignores_children:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for caught in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
        if callable(signal.getsignal(caught)):
            # The exec would do it, too; from here to there, the signal ends the child as it would end the program.
            signal.signal(caught, signal.SIG_DFL)
    if os.environ.get("LC_CTYPE") in _COERCED_LOCALES:
        _restore_locale()


def _restore_locale() -> None:
    """Give LC_CTYPE the value that this process was started with, wherever Python has replaced it."""
    with open("/proc/self/environ", "rb") as file:
        entries = file.read().split(b"\0")
    given = [entry.partition(b"=")[2] for entry in entries if entry.startswith(b"LC_CTYPE=")]
    if given:
        os.environb[b"LC_CTYPE"] = given[0]
    else:
        del os.environ["LC_CTYPE"]


def _ended_early(pid: int) -> LaunchFailed:
    """Why a child that has told nothing, and is still to be reaped, has ended. Waits for its end."""
    attempted = "preparing the program's process"
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if ended is None or ended.si_code == os.CLD_EXITED:
        return LaunchFailed(attempted, f"process {pid} ended without telling why")
    number = ended.si_status
    advice = FILE_SIZE_ADVICE if number == signal.SIGXFSZ else ""
    return LaunchFailed(attempted, f"process {pid} was ended by {signal.Signals(number).name}", advice)


def _end(pid: int) -> None:
    """Make sure that the child is gone and reaped."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
