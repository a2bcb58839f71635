# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong before the program runs, typed by what the user can do about it.

Each error is made of three sentences' worth of fact: what was attempted and on what, why it failed, and what to do.
`str()` joins them into the one line that a person reads. Errors happen on both sides of a fork: the child that builds
the view cannot raise in its parent, so an error can be packed into bytes and unpacked again, class included.

The exit statuses are the convention of env(1), nice(1) and the shells: 127 when the program does not exist, 126 when
it exists and cannot be executed, 125 when `kdbus` itself failed. Alternative considered: pickling the exceptions. That
imports a module worth several milliseconds of start-up, and trusts bytes more than three strings need.
"""

from __future__ import annotations

from typing import ClassVar

FILE_SIZE_ADVICE = "raise the limit of the size of files: `ulimit -f unlimited`"
"""What to do about EFBIG and SIGXFSZ."""


class InterposerError(Exception):
    """Something that ends `kdbus` before, or instead of, the program.

    `attempted` (what, on what), `reason` (why it failed) and `advice` (what to do, may be empty) are text without
    final full stops. `exit_status` is the status that `kdbus` ends with.
    """

    exit_status: ClassVar[int] = 125

    def __init__(self, attempted: str, reason: str, advice: str = "") -> None:
        super().__init__(attempted, reason, advice)
        self.attempted = attempted
        self.reason = reason
        self.advice = advice

    def __str__(self) -> str:
        line = f"{self.attempted}: {self.reason}"
        return f"{line}; {self.advice}" if self.advice else line


class UsageError(InterposerError):
    """The command line cannot be understood."""


class OutputFailed(InterposerError):
    """What was asked for cannot be written to standard output."""


class RecordingUnreadable(InterposerError):
    """A recording cannot be read, or not to its end."""


class RecordingCut(RecordingUnreadable):
    """It can be read up to where it is cut off or damaged."""


class UnsupportedMachine(InterposerError):
    """There is no table of system calls for this machine's architecture."""


class MountNamespaceUnavailable(InterposerError):
    """No mount namespace can be had, so the program cannot be shown its own /sys/fs/kdbus."""


class SysUnavailable(InterposerError):
    """The program's root has no /sys with the folders that the view covers."""


class ViewFailed(InterposerError):
    """A step of building the mounted view failed."""


class PrivateFolderUnavailable(InterposerError):
    """There is no place for the private folder of path mode."""


class FilterUnavailable(InterposerError):
    """The kernel refused the seccomp filter or its listener."""


class AlreadySupervised(FilterUnavailable):
    """The process tree already has a seccomp listener; the kernel allows one."""


class LaunchFailed(InterposerError):
    """The child ended before it could hand over its descriptors, or could not report why."""


class NoProc(InterposerError):
    """There is no /proc, or not that of this process's pid namespace."""


class OutOfResources(InterposerError):
    """This process may not have what it needs: descriptors, memory, processes."""


class ProgramForbidden(InterposerError):
    """The program runs, and may not be inspected. It is told, and ends nothing."""


class DomainUnavailable(InterposerError):
    """There is no server to join at a path, it does not let this program in, or none can be started there."""


class NothingToWatch(InterposerError):
    """There is no kdbus to watch, or not the one that is meant, or it is not this user's, or it does not answer."""


class ProgramNotFound(InterposerError):
    """The program, or the interpreter that it names, does not exist."""

    exit_status = 127


class ProgramNotExecutable(InterposerError):
    """The program exists, but execve(2) refuses it."""

    exit_status = 126


class ForeignProgram(InterposerError):
    """The program is for another architecture."""


def quoted(text: str) -> str:
    """`text` in quotes, on one line, with what cannot be printed escaped."""
    return f"'{printable(text)}'"


def printable(text: str) -> str:
    """`text` on one line, which no terminal obeys: what cannot be printed is escaped, a byte that is no UTF-8 as the
    byte it is."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1].replace("\\udc", "\\x") for each in text)


_CLASSES: dict[str, type[InterposerError]] = {
    error.__name__: error
    for error in (
        InterposerError,
        UsageError,
        UnsupportedMachine,
        MountNamespaceUnavailable,
        SysUnavailable,
        ViewFailed,
        PrivateFolderUnavailable,
        FilterUnavailable,
        AlreadySupervised,
        LaunchFailed,
        DomainUnavailable,
        ProgramNotFound,
        ProgramNotExecutable,
        ForeignProgram,
    )
}


def pack(error: InterposerError) -> bytes:
    """Class name, attempted, reason, advice, separated by zero bytes; `unpack` reads it."""
    fields = (type(error).__name__, error.attempted, error.reason, error.advice)
    return b"\0".join(field.replace("\0", " ").encode("utf-8", "surrogateescape") for field in fields)


def unpack(data: bytes) -> InterposerError:
    """The error that `pack` packed. Bytes of another form yield `LaunchFailed`, which quotes them."""
    fields = [field.decode("utf-8", "surrogateescape") for field in data.split(b"\0")]
    if len(fields) != 4 or fields[0] not in _CLASSES:
        return LaunchFailed("understanding what the child reported", repr(data))
    return _CLASSES[fields[0]](*fields[1:])
