# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting the program: fork, view, filter, descriptors to the parent, exec.

Everything that changes the child is done by the child itself, before it executes the program: a user namespace can
only be entered by a process of one thread, a filter is installed by whom it binds, and the parent has to stay
outside of both. So the fork comes early, before threads and before slow imports: the program starts while the parent
still loads its supervisor.

One SOCK_SEQPACKET pair carries all that the child has to say, in at most two messages and an end:

    D + flag, with descriptors    listener, the two folders of the view, and the user namespace if one was made
    E + a packed error            what failed; before D in the preparation, after D in execve(2)
    end of file                   after D: the program runs, as the pair closes on exec

Nothing that happens between the filter and the exec is trapped (`filter` names no call that this file makes there), so
the child never waits for a supervisor that is not there yet.

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
from typing import NoReturn

from interposer import filter as seccomp_filter
from interposer import view
from interposer.errors import (
    AlreadySupervised,
    FilterUnavailable,
    ForeignProgram,
    InterposerError,
    LaunchFailed,
    ProgramNotExecutable,
    ProgramNotFound,
    pack,
    unpack,
)
from native import namespace, seccomp

_LONGEST_REPORT = 65536
_DESCRIPTORS, _ERROR = b"D", b"E"
_COERCED_LOCALES = ("C.UTF-8", "C.utf8", "UTF-8")

_ELF_MACHINES = {
    3: "i386",
    8: "mips",
    20: "powerpc",
    21: "powerpc64",
    22: "s390",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv",
    258: "loongarch",
}


class Mode(enum.Enum):
    """How the program is shown its kdbus nodes."""

    MOUNT = "mount"
    """Real files in a mount namespace of its own (`view`)."""
    PATH = "path"
    """Trapped path calls, where no mount namespace can be had. `launch` does not choose it yet."""


class Launched:
    """A program that runs, or is about to, under the filter. `launch` makes it.

    pid                   the child; the caller reaps it
    listener              seccomp notification descriptor
    mode                  which part of the work the supervisor has
    kdbus_directory       descriptor of the folder that the program sees at /sys/fs/kdbus; nodes are made through it
    parameters_directory  descriptor of /sys/module/kdbus/parameters, for `view.AttachFlagsMask`
    user_namespace        inode number of the program's user namespace, which this process is then in, too
    waits_killable        whether the filter has SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV

    All descriptors close on exec. Whoever takes one over closes it.
    """

    def __init__(
        self,
        pid: int,
        descriptors: Sequence[int],
        user_namespace: int,
        waits_killable: bool,
        report: socket.socket,
    ) -> None:
        self.pid = pid
        self.mode = Mode.MOUNT
        self.listener, self.kdbus_directory, self.parameters_directory = descriptors
        self.user_namespace = user_namespace
        self.waits_killable = waits_killable
        self._report: socket.socket | None = report
        self._exec_error: InterposerError | None = None

    def exec_error(self) -> InterposerError | None:
        """Why the program could not be executed, None if it runs. Waits until that is known (about a millisecond).

        After an error the child has ended or is about to, and still wants to be reaped.
        """
        if self._report is not None:
            message = self._report.recv(_LONGEST_REPORT)
            self._report.close()
            self._report = None
            if message:
                self._exec_error = unpack(message[1:])
        return self._exec_error


def launch(command: Sequence[str]) -> Launched:
    """Start `command` (the program, looked up in PATH as execvp(3) does, and its arguments).

    Where the program needs a user namespace, the calling process joins it, for good, and has all capabilities in
    it, which making nodes in the read-only folder of kdbusfs takes; so the caller must then have one thread.
    Raises what `view` raises, `FilterUnavailable`, `AlreadySupervised`, `UnsupportedMachine` or `LaunchFailed`; then no
    child is left. That the program cannot be executed is told by `Launched.exec_error`.
    """
    architecture = seccomp_filter.this_architecture()
    program = seccomp_filter.build(architecture, seccomp_filter.mount_mode_traps(architecture))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ignores_children = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    if ignores_children:
        # Inherited so; the kernel would reap the child unseen, with its status.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        _become(command, program, theirs, ignores_children)
    theirs.close()
    try:
        message, descriptors, _, _ = socket.recv_fds(ours, _LONGEST_REPORT, 4, socket.MSG_CMSG_CLOEXEC)
        if message[:1] != _DESCRIPTORS:
            raise unpack(message[1:]) if message else _ended_early(pid)
        user_namespace = _join_user_namespace(descriptors[3:])
    except BaseException:
        ours.close()
        _end(pid)
        raise
    return Launched(pid, descriptors[:3], user_namespace, message[1:] == b"K", ours)


def install_filter(program: Sequence[seccomp_filter.Instruction]) -> tuple[int, bool]:
    """Bind this thread, for good, to `program`; returns its listener and whether waits are killable only.

    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (Linux 5.19) is asked for and done without. no_new_privs, which would
    break set-user-ID programs, is set only if the kernel insists: without CAP_SYS_ADMIN (seccomp(2), EACCES).
    """
    flags = seccomp.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
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


def explain_exec_failure(path: str, error_number: int) -> InterposerError:
    """The typed error for execve(2) of `path`, which exists or whose existence is in doubt, failing so."""
    attempted = f"running {path!r}"
    if error_number == errno.ENOENT:
        return ProgramNotFound(
            attempted,
            "the file is there, but its interpreter or dynamic loader is not",
            "look at its first line, or at what `file` says of it",
        )
    header = _read_header(path) if error_number == errno.ENOEXEC else b""
    if header.startswith(b"\x7fELF"):
        return ForeignProgram(
            attempted,
            f"it is a program for {_elf_machine(header)}, this machine is {os.uname().machine}",
            "build it for this machine",
        )
    if error_number == errno.ENOEXEC:
        return ProgramNotExecutable(
            attempted,
            os.strerror(error_number),
            "if it is a script, its first line has to name an interpreter: #!/bin/sh",
        )
    if error_number == errno.EACCES and os.path.isdir(path):
        return ProgramNotExecutable(attempted, "it is a directory", "name a program")
    advice = "`chmod +x` makes a file executable" if error_number == errno.EACCES else ""
    return ProgramNotExecutable(attempted, os.strerror(error_number), advice)


def _become(
    command: Sequence[str], program: Sequence[seccomp_filter.Instruction], report: socket.socket, ignores_children: bool
) -> NoReturn:
    """The child's whole life."""
    try:
        _restore_inherited_state(ignores_children)
        own_user_namespace = view.enter_mount_namespace()
        built = view.build(own_user_namespace)
        extra = [os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)] if own_user_namespace else []
        listener, waits_killable = install_filter(program)
        flag = b"K" if waits_killable else b"-"
        socket.send_fds(report, [_DESCRIPTORS + flag], [listener, *built, *extra])
        report.send(_ERROR + pack(_execute(command)))
    except InterposerError as error:
        report.send(_ERROR + pack(error))
    except Exception as error:
        report.send(_ERROR + pack(LaunchFailed("preparing the program's process", f"{type(error).__name__}: {error}")))
    finally:
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


def _execute(command: Sequence[str]) -> InterposerError:
    """Replace this process by the program; returns only why that failed.

    As in execvp(3): a name with a slash is a path, and in PATH a forbidden file does not end the search. Unlike there,
    a folder of PATH that may not be searched does not count as a forbidden file.
    """
    name = command[0]
    searching = "/" not in name
    candidates = [os.path.join(folder, name) for folder in os.get_exec_path()] if searching else [name]
    forbidden: InterposerError | None = None
    for path in candidates if name else ():
        try:
            os.execv(path, list(command))
        except OSError as error:
            absent = (errno.ENOENT, errno.ENOTDIR, errno.EACCES) if searching else (errno.ENOENT, errno.ENOTDIR)
            if error.errno in absent and not os.path.lexists(path):
                continue
            failure = explain_exec_failure(path, error.errno or 0)
            if error.errno != errno.EACCES:
                return failure
            forbidden = forbidden or failure
    where = " in PATH" if searching else ""
    return forbidden or ProgramNotFound(f"running {name!r}", f"there is no such program{where}", "check its name")


def _read_header(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(20)
    except OSError:
        return b""


def _elf_machine(header: bytes) -> str:
    """Name of the machine in an ELF header: e_machine, 16 bits at 18, in the byte order that byte 5 names (elf(5))."""
    number = int.from_bytes(header[18:20], "big" if header[5:6] == b"\2" else "little")
    return _ELF_MACHINES.get(number, f"ELF machine {number}")


def _join_user_namespace(descriptors: Sequence[int]) -> int:
    """Enter the user namespace behind the only descriptor, if there is one; the inode number of ours."""
    for descriptor in descriptors:
        try:
            namespace.setns(descriptor, namespace.CLONE_NEWUSER)
        except OSError as error:
            raise LaunchFailed(
                "joining the program's user namespace", str(error), "launch from a process of one thread"
            ) from error
        finally:
            os.close(descriptor)
    return os.stat("/proc/self/ns/user").st_ino


def _ended_early(pid: int) -> LaunchFailed:
    return LaunchFailed("preparing the program's process", f"process {pid} ended without telling why")


def _end(pid: int) -> None:
    """Make sure that the child is gone and reaped."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
