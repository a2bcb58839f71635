# SPDX-License-Identifier: GPL-2.0-or-later
"""ptrace(2) for `interposer.injection.injection`: python-ptrace, or what stands in for it. Nothing else knows either.

python-ptrace knows the request numbers and registers of many machines. But the import of it does more than is needed
here (it runs a program to find the C library, and calls what newer versions of Python deprecate and then remove), and
if it failed, no pool could be mapped any more. So its warnings are not ours to show or to obey, and whatever else keeps
it from being imported makes the few lines below take its place: the C library that is loaded anyway, and the registers
of the machines that `interposer.injection.registers` knows, by python-ptrace's names.

Either is imported when the first thread is traced, as that takes some 20 ms, and most programs never need it.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache
from typing import Any, Protocol

_GETREGS, _SETREGS, _GETREGSET, _SETREGSET = 12, 13, 0x4204, 0x4205
_NT_PRSTATUS = 1

_REGISTERS = {
    "x86_64": (
        "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es "
        "fs gs"
    ).split(),
    "aarch64": [*(f"r{number}" for number in range(31)), "sp", "pc", "pstate"],
}
"""`struct user_regs_struct` of <sys/user.h>, by machine (uname(2)); all members have 64 bits."""


class Binding(Protocol):
    """What is needed of ptrace(2). All methods raise OSError."""

    def request(self, request: int, thread: int, address: int, data: int) -> None:
        """Any request whose result is nothing but success."""

    def registers(self, thread: int) -> Any:
        """The registers of a stopped thread: a ctypes structure with a member for each."""

    def set_registers(self, thread: int, registers: Any) -> None:
        """Set all registers of a stopped thread."""


class _PythonPtrace:
    """python-ptrace. The constructor raises whatever its import raises."""

    def __init__(self) -> None:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from ptrace.binding import func
        self._func = func
        self._error = func.PtraceError
        self._get, self._set, self._ptrace = func.ptrace_getregs, func.ptrace_setregs, func.ptrace

    def request(self, request: int, thread: int, address: int, data: int) -> None:
        self._call(self._ptrace, request, thread, address, data)

    def registers(self, thread: int) -> Any:
        return self._call(self._get, thread)

    def set_registers(self, thread: int, registers: Any) -> None:
        self._call(self._set, thread, registers)

    def _call(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._error as error:
            raise OSError(error.errno, os.strerror(error.errno)) from None


class _OwnBinding:
    """The C library's ptrace. The constructor raises KeyError on a machine whose registers are not known."""

    def __init__(self) -> None:
        machine = platform.machine()
        names = _REGISTERS[machine]
        fields = [(name, ctypes.c_uint64) for name in names]
        self._registers = type("Registers", (ctypes.Structure,), {"_fields_": fields})
        self._in_sets = machine != "x86_64"
        """Else all at once; in sets, a 32-bit program on x86-64 would have another structure."""
        self._ptrace = ctypes.CDLL(None, use_errno=True).ptrace
        self._ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
        self._ptrace.restype = ctypes.c_long

    def request(self, request: int, thread: int, address: int, data: int) -> None:
        if self._ptrace(request, thread, address, data) == -1:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def registers(self, thread: int) -> Any:
        registers = self._registers()
        self._move(thread, registers, _GETREGS, _GETREGSET)
        return registers

    def set_registers(self, thread: int, registers: Any) -> None:
        self._move(thread, registers, _SETREGS, _SETREGSET)

    def _move(self, thread: int, registers: Any, all_at_once: int, in_sets: int) -> None:
        if not self._in_sets:
            self.request(all_at_once, thread, 0, ctypes.addressof(registers))
            return
        piece = (ctypes.c_uint64 * 2)(ctypes.addressof(registers), ctypes.sizeof(registers))  # struct iovec
        self.request(in_sets, thread, _NT_PRSTATUS, ctypes.addressof(piece))


@cache
def binding() -> Binding:
    """The one to use. The first call takes some 20 ms. Raises KeyError if there is none for this machine."""
    try:
        return _PythonPtrace()
    except Exception:  # whatever it is, it must not keep pools from being mapped
        return _OwnBinding()
