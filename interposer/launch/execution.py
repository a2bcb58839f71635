# SPDX-License-Identifier: GPL-2.0-or-later
"""Executing a program as execvp(3) does, and telling why it could not be.

What execve(2) says is an errno, for each file that was tried. Whoever tries is a child that is about to end, or a
process that is about to be the program; so it says no more than that, in bytes, and the error that a person reads is
made where it is shown.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from interposer.errors import ForeignProgram, InterposerError, ProgramNotExecutable, ProgramNotFound, quoted

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


def candidates(name: str) -> list[str]:
    """The files that may be the program `name`, in the order of PATH, as in execvp(3)."""
    if "/" in name or not name:
        return [name] if name else []
    paths = [os.path.join(folder, name) for folder in os.get_exec_path()]
    return [path for path in paths if os.path.lexists(path)]


def execute(files: Sequence[str], command: Sequence[str]) -> bytes:
    """Replace this process by the program; returns only if that failed: errno, blank, path, zero byte, repeated.

    As in execvp(3), a forbidden file does not end the search.
    """
    failures = b""
    for path in files:
        try:
            os.execv(path, list(command))
        except OSError as error:
            failures += b"%d %b\0" % (error.errno or errno.EIO, os.fsencode(path))
            if error.errno != errno.EACCES:
                break
    return failures


def explain(command: Sequence[str], failures: bytes) -> InterposerError:
    """The error for what `execute` returned: the last failure, or the first forbidden file if all were."""
    found: InterposerError | None = None
    for failure in failures.split(b"\0")[:-1]:
        number, _, path = failure.partition(b" ")
        if int(number) in (errno.ENOENT, errno.ENOTDIR) and not os.path.lexists(path):
            continue
        if found is None or int(number) != errno.EACCES:
            found = explain_exec_failure(os.fsdecode(path), int(number))
    where = "" if "/" in command[0] else " in PATH"
    attempted = f"running {quoted(command[0])}"
    return found or ProgramNotFound(attempted, f"there is no such program{where}", "check its name")


def explain_exec_failure(path: str, error_number: int) -> InterposerError:
    """The typed error for execve(2) of `path`, which exists or whose existence is in doubt, failing so."""
    attempted = f"running {quoted(path)}"
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
