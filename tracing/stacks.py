# SPDX-License-Identifier: GPL-2.0-or-later
"""Who has called whom when a program made a call on kdbus: strace's `-k`.

A thread that waits in a trapped call cannot be stopped (its wait is not interruptible once the call was received), so
no debugger can look at it, and nothing that attaches to it. What can be had without stopping it is `/proc/TID/syscall`,
which has its instruction and stack pointer, and its memory. So the supervisor copies the top of the stack
(`interposer.traps.stack`) with the list of what is mapped, and whoever writes the trace, a process of its own, finds
the callers by the tables that compilers leave in programs for exceptions (`tracing.programs`).

One register is missing: rbp, by which functions without optimisation, and those with arrays of variable length, find
their frames. Functions in between have mostly saved it. Where none has, it is found by how the function begins (it
pushes registers and makes room, and has that room when it calls), or else by the first place on the stack that has a
return address whose call leads to this very function. Where neither is there, the stack ends, and that is said.

Alternatives: perf_event_open(2), which containers forbid; a stop before the call, by ptrace(2), which costs two
switches a call, and changes what is traced; eu-stack and libunwind, which attach.

Weaknesses: programs for x86-64 alone, and parts of them without those tables (Go's, the C library musl, code that is
made while a program runs) end a stack. The copy has 32 KiB.
"""

from __future__ import annotations

import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tracing.programs import NotReadable, Program, Rule
from tracing.record import Frame, Record, Tracer

MOST_BYTES: Final = 32 << 10
"""Of a stack."""
MOST_FRAMES: Final = 64
_PROGRAMS = 128
"""How many files are kept in mind."""
_HEAD = struct.Struct("<3QI")
_MAPPED = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) \S+ (\d+) *(.*)")
_ENDBR64 = bytes.fromhex("f30f1efa")
_PUSH_RBP = b"\x55"
_MOV_RBP_RSP = (bytes.fromhex("4889e5"), bytes.fromhex("488bec"))
_PUSHES = re.compile(rb"(?:\x41[\x50-\x57]|[\x50-\x57])*")
_CALL, _CALL_BYTES = 0xE8, 5


@dataclass(frozen=True, slots=True)
class Copied:
    """The top of a stack."""

    pc: int
    sp: int
    process: int
    mappings: bytes
    """The lines of `/proc/PID/maps` of what can be executed."""
    stack: bytes
    """What begins at `sp`."""

    def packed(self) -> bytes:
        """As bytes."""
        return _HEAD.pack(self.pc, self.sp, self.process, len(self.mappings)) + self.mappings + self.stack

    @classmethod
    def unpacked(cls, data: bytes) -> Copied:
        """The reverse of `packed`. Raises ValueError."""
        try:
            pc, sp, process, size = _HEAD.unpack_from(data)
        except struct.error as error:
            raise ValueError(f"no stack: {error}") from error
        end = _HEAD.size + size
        return cls(pc, sp, process, data[_HEAD.size : end], data[end:])


@dataclass(frozen=True, slots=True)
class _Mapped:
    start: int
    end: int
    offset: int
    inode: int
    path: str


class WithStacks:
    """A tracer that shows `tracer` the callers of each call."""

    stacks = True

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._programs: OrderedDict[tuple[str, int], Program | NotReadable] = OrderedDict()
        self.payload_limit = tracer.payload_limit
        self.waits = tracer.waits
        self.left = tracer.left

    def take(self, record: Record) -> None:
        """A record, in the order of what happened."""
        if record.copied:
            self._follow(record)
            record.copied = b""
        self._tracer.take(record)

    def close(self) -> None:
        """There are no more."""
        self._tracer.close()

    def _follow(self, record: Record) -> None:
        try:
            walk = _Walk(Copied.unpacked(record.copied), self._program)
            for frame in walk.frames():
                record.stack.append(frame)
        except (NotReadable, ValueError) as reason:
            record.notes.append(f"the stack cannot be followed further: {reason}")

    def _program(self, path: str, inode: int, process: int) -> Program:
        """The file, as it is here, or as the process sees it. Raises NotReadable."""
        key = path, inode
        found = self._programs.get(key)
        if found is None:
            found = self._read(path, inode, process)
            self._programs[key] = found
            if len(self._programs) > _PROGRAMS:
                self._programs.popitem(last=False)
        if isinstance(found, NotReadable):
            raise found
        return found

    @staticmethod
    def _read(path: str, inode: int, process: int) -> Program | NotReadable:
        try:
            return Program(path, inode)
        except NotReadable as reason:
            try:
                found = Program(f"/proc/{process}/root{path}", inode)
            except NotReadable:
                return reason
            found.path = path
            return found


class _Walk:
    """From one function to whoever has called it. Raises NotReadable where that ends early."""

    def __init__(self, copied: Copied, program: Callable[[str, int, int], Program]) -> None:
        self._copied = copied
        self._program = program
        self._mapped = list(_mappings(copied.mappings))

    def frames(self) -> Iterator[Frame]:
        """The frames, the innermost first."""
        pc, sp, rbp = self._copied.pc, self._copied.sp, None
        inside = pc
        for _ in range(MOST_FRAMES):
            mapped = self._at(inside)
            if mapped is None or not mapped.inode:
                raise NotReadable(f"{inside:#x} is in no file")
            try:
                program = self._program(mapped.path, mapped.inode, self._copied.process)
                offset = program.address_of(inside - mapped.start + mapped.offset) - inside
            except NotReadable:
                yield Frame(mapped.path, pc - mapped.start + mapped.offset, "", 0)
                raise
            name, behind = program.symbol(inside + offset)
            yield Frame(mapped.path, pc + offset, name, behind + pc - inside if name else 0)
            rule = program.rule(inside + offset)
            if rule.return_address is None:
                return
            if rule.by_rbp and rbp is None:
                rbp = self._frame_of(program, rule, sp)
            base = sp if rbp is None or not rule.by_rbp else rbp
            sp = base + rule.offset
            if rule.saved_rbp is not None:
                rbp = self._word(sp + rule.saved_rbp)
            pc = self._word(sp + rule.return_address)
            if pc == 0:
                return
            inside = pc - 1
        raise NotReadable(f"it has more than {MOST_FRAMES} functions")

    def _at(self, address: int) -> _Mapped | None:
        return next((each for each in self._mapped if each.start <= address < each.end), None)

    def _word(self, address: int) -> int:
        place = address - self._copied.sp
        if not 0 <= place <= len(self._copied.stack) - 8:
            raise NotReadable(f"it has more than {len(self._copied.stack) >> 10} KiB, or is damaged")
        return int.from_bytes(self._copied.stack[place : place + 8], "little")

    def _frame_of(self, program: Program, rule: Rule, sp: int) -> int:
        """What rbp is in a function that calls, with the stack pointer at `sp`."""
        assert rule.return_address is not None
        returns = rule.offset + rule.return_address
        room = _room(program.code(rule.start))
        if room is not None and self._returns_at(sp + room + returns):
            return sp + room
        for place in range(sp, self._copied.sp + len(self._copied.stack) - 7, 8):
            if self._returns_at(place) and self._called(self._word(place)) == (program, rule.start):
                return place - returns
        raise NotReadable(f"{program.path} keeps its frame at {rule.start:#x} in a register that is not known")

    def _returns_at(self, address: int) -> bool:
        """Whether what is there may be a return address."""
        place = address - self._copied.sp
        return 0 <= place <= len(self._copied.stack) - 8 and self._at(self._word(address)) is not None

    def _called(self, returns: int) -> tuple[Program, int] | None:
        """Which function is called by the call that returns there, if that can be seen from the call."""
        mapped = self._at(returns)
        if mapped is None:
            return None
        try:
            program = self._program(mapped.path, mapped.inode, self._copied.process)
            address = program.address_of(returns - mapped.start + mapped.offset)
        except NotReadable:
            return None
        code = program.code(address - _CALL_BYTES, _CALL_BYTES)
        if len(code) < _CALL_BYTES or code[0] != _CALL:
            return None
        return program, address + int.from_bytes(code[1:], "little", signed=True)


def _room(code: bytes) -> int | None:
    """How far above the stack pointer rbp is in a function that begins with `code`, where it calls; None: not seen."""
    code = code.removeprefix(_ENDBR64)
    if not code.startswith(_PUSH_RBP) or code[1:4] not in _MOV_RBP_RSP:
        return None
    code = code[4:]
    match = _PUSHES.match(code)
    assert match is not None
    pushes = len(match[0].replace(b"\x41", b""))
    rest = code[match.end() :]
    if rest[:3] == b"\x48\x83\xec":
        return 8 * pushes + int.from_bytes(rest[3:4], "little", signed=True)
    if rest[:3] == b"\x48\x81\xec":
        return 8 * pushes + int.from_bytes(rest[3:7], "little", signed=True)
    return 8 * pushes


def executable_lines(maps: bytes) -> bytes:
    """Of `/proc/PID/maps`, what a walk needs."""
    return b"\n".join(line for line in maps.splitlines() if b"x" in line.split(b" ", 2)[1])


def _mappings(lines: bytes) -> Iterator[_Mapped]:
    for line in lines.splitlines():
        match = _MAPPED.fullmatch(line)
        if match is not None and b"x" in match[3]:
            start, end, offset = (int(match[number], 16) for number in (1, 2, 4))
            yield _Mapped(start, end, offset, int(match[5]), match[6].decode("utf-8", "surrogateescape"))
