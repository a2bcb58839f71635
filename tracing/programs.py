# SPDX-License-Identifier: GPL-2.0-or-later
"""What a file that a program runs says of its functions: their names, and how to find who has called them.

ELF and DWARF are read by pyelftools (`pip install 'kdbus-interposer[stacks]'`), the instructions of call frames as
well. It would take every entry of `.eh_frame` apart before it gave one, seconds for a large library. So the section is
only walked along here, and an entry is handed over by itself, with what it refers to, once somebody asks for it.

A file is chosen by the program, so nothing in it is believed: sizes are bounded, and whatever goes wrong is
`NotReadable`.

Weakness: names are those of the file itself, so functions of a library without its symbols (`static` ones of the C
library, say) have none, and those of C++ are as in the file. Debug files elsewhere are not looked for.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from elftools.common.exceptions import DWARFError, ELFError
from elftools.dwarf.callframe import CallFrameInfo, CFIEntry, RegisterRule
from elftools.dwarf.structs import DWARFStructs
from elftools.elf.elffile import ELFFile

if TYPE_CHECKING:
    from collections.abc import Iterator

RBP, RSP, RETURN = 6, 7, 16
"""DWARF's numbers of registers of x86-64; `RETURN` is where the return address is."""
_MOST_BYTES = 64 << 20
"""Of a section."""
_CODE_BYTES = 64
"""How much of a function's beginning is looked at."""
_SYMBOL = struct.Struct("<IBBHQQ")
_FUNCTIONS = frozenset((2, 10))
"""Types of symbols: functions, and those chosen when the program starts."""
_POINTERS = {0x1B: "<i", 0x1C: "<q", 0x03: "<I", 0x04: "<Q"}
"""Forms of addresses in `.eh_frame`: signed and relative to their place, or absolute."""
_RELATIVE = 0x10


class NotReadable(Exception):
    """Something cannot be had of a file; the text says what, and why."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How to go from a function to whoever has called it. CFA: the stack pointer as it was before the call."""

    by_rbp: bool
    """Whether the CFA is told by rbp; else by rsp."""
    offset: int
    """What is added to that register."""
    saved_rbp: int | None
    """Where the caller's rbp is, from the CFA; None: in the register."""
    return_address: int | None
    """Where the return address is, from the CFA; None: nobody has called this function."""
    start: int
    """The address of the function."""


class Program:
    """An executable or a library. Addresses are those in the file. Raises NotReadable."""

    def __init__(self, path: str, inode: int) -> None:
        """`inode`: the number that the file has to have."""
        self.path = path
        self._file = _open(path, inode)
        try:
            self._elf = ELFFile(self._file)
            if self._elf.header["e_machine"] != "EM_X86_64" or self._elf.elfclass != 64:
                raise NotReadable(f"{path} is not for x86-64")
            self._segments = [
                (each["p_offset"], each["p_filesz"], each["p_vaddr"])
                for each in self._elf.iter_segments()
                if each["p_type"] == "PT_LOAD"
            ]
            self._starts, self._symbols = self._read_symbols()
            self._entries = self._index()
        except NotReadable:
            self._file.close()
            raise
        except Exception as error:  # whatever a damaged file makes of its reader
            self._file.close()
            raise NotReadable(f"{path} cannot be read: {error}") from error
        self._entry_starts = [start for start, _, _, _ in self._entries]
        self._rules: dict[int, Rule] = {}

    def address_of(self, offset: int) -> int:
        """The address of what is at `offset` of the file."""
        for start, size, address in self._segments:
            if start <= offset < start + size:
                return int(offset - start + address)
        raise NotReadable(f"{self.path} has nothing at {offset:#x}")

    def symbol(self, address: int) -> tuple[str, int]:
        """The name of the function at `address`, and how far behind its beginning that is; "" if it has none."""
        place = bisect_right(self._starts, address) - 1
        if place >= 0:
            start, size, name = self._symbols[place]
            if address < start + size:
                return name, address - start
        return "", 0

    def rule(self, address: int) -> Rule:
        """How to go on from `address`."""
        found = self._rules.get(address)
        if found is None:
            try:
                found = self._rules[address] = self._find_rule(address)
            except NotReadable:
                raise
            except (DWARFError, ELFError, ValueError, KeyError, IndexError, TypeError, struct.error) as error:
                raise NotReadable(f"{self.path} has damaged tables for unwinding: {error}") from error
        return found

    def code(self, address: int, size: int = _CODE_BYTES) -> bytes:
        """What the file has there; less where there is less."""
        for start, length, where in self._segments:
            if where <= address < where + length:
                self._file.seek(start + address - where)
                return self._file.read(min(size, where + length - address))
        return b""

    def _section(self, name: str) -> tuple[int, bytes]:
        """Its address and its bytes; nothing if there is none."""
        section = self._elf.get_section_by_name(name)
        if section is None or section["sh_type"] == "SHT_NOBITS":
            return 0, b""
        return int(section["sh_addr"]), self._bytes(section["sh_offset"], section["sh_size"])

    def _bytes(self, offset: int, size: int) -> bytes:
        if size > _MOST_BYTES:
            raise NotReadable(f"{self.path} has tables of {size >> 20} MiB, too many to be read")
        self._file.seek(offset)
        return self._file.read(size)

    def _read_symbols(self) -> tuple[list[int], list[tuple[int, int, str]]]:
        """The functions in order of their addresses."""
        for name in (".symtab", ".dynsym"):
            section = self._elf.get_section_by_name(name)
            if section is None or section["sh_type"] == "SHT_NOBITS":
                continue
            table = self._bytes(section["sh_offset"], section["sh_size"] // _SYMBOL.size * _SYMBOL.size)
            other = self._elf.get_section(section["sh_link"])
            names = self._bytes(other["sh_offset"], other["sh_size"])
            found: dict[int, tuple[int, str]] = {}
            for at, information, _, where, start, size in _SYMBOL.iter_unpack(table):
                if information & 0xF in _FUNCTIONS and where:
                    said = names[at : names.find(b"\0", at)].decode("ascii", "backslashreplace")
                    found[start] = min(found.get(start, (size, said)), (size, said), key=_plainness)
            if found:
                functions = sorted((start, size, said) for start, (size, said) in found.items())
                return [start for start, _, _ in functions], functions
        return [], []

    def _index(self) -> list[tuple[int, int, int, int]]:
        """The functions of `.eh_frame` in order: address, size, and where their entry and its common part begin."""
        base, data = self._section(".eh_frame")
        self._frames = base, data
        forms: dict[int, int] = {}
        found = []
        for place, length in _entries(data):
            (back,) = struct.unpack_from("<I", data, place + 4)
            if back == 0:
                continue
            common = place + 4 - back
            if common not in forms:
                forms[common] = self._form(common)
            form = _POINTERS.get(forms[common])
            if form is None or struct.calcsize(form) * 2 + 8 > length + 4:
                continue
            start, size = struct.unpack_from(form + form[1:], data, place + 8)
            relative = base + place + 8 if forms[common] & _RELATIVE else 0
            found.append((start + relative & _U64, size, place, common))
        return sorted(found)

    def _form(self, common: int) -> int:
        """In which form the addresses are whose common part is there."""
        if not 0 <= common <= len(self._frames[1]) - 8:
            return -1
        form = self._parsed(common)[0].augmentation_dict.get("FDE_encoding", 0x04)
        return form if isinstance(form, int) else -1

    def _parsed(self, common: int, entry: int | None = None) -> list[CFIEntry]:
        """The common part alone, or with an entry behind it that refers to it."""
        base, data = self._frames
        parts = data[common : _end(data, common)]
        address = base + common
        if entry is not None:
            address = base + entry - len(parts)
            refers = struct.pack("<I", len(parts) + 4)
            parts += data[entry : entry + 4] + refers + data[entry + 8 : _end(data, entry)]
        structs = DWARFStructs(little_endian=True, dwarf_format=32, address_size=8)
        information = CallFrameInfo(io.BytesIO(parts), len(parts), address, structs, for_eh_frame=True)
        return [each for each in information.get_entries() if isinstance(each, CFIEntry)]

    def _find_rule(self, address: int) -> Rule:
        place = bisect_right(self._entry_starts, address) - 1
        if place < 0 or address >= self._entries[place][0] + self._entries[place][1]:
            raise NotReadable(f"{self.path} does not say how its function at {address:#x} was called")
        start, _, entry, common = self._entries[place]
        parsed = self._parsed(common, entry)
        if "S" in _text(parsed[0].header.get("augmentation", b"")):
            raise NotReadable("a signal was being handled")
        rows = parsed[-1].get_decoded().table
        # Those of its common part, which hold at its beginning, may be all.
        row = next((each for each in reversed(rows) if each["pc"] <= address), None)
        row = row or parsed[0].get_decoded().table[-1]
        cfa = row["cfa"]
        if cfa.reg not in (RSP, RBP):
            raise NotReadable(f"{self.path} describes its function at {address:#x} by a computation")
        saved = row.get(RBP)
        returns = row.get(RETURN)
        if saved is not None and saved.type not in (RegisterRule.OFFSET, RegisterRule.SAME_VALUE):
            raise NotReadable(f"{self.path} describes its function at {address:#x} by a computation")
        if returns is not None and returns.type not in (RegisterRule.OFFSET, RegisterRule.UNDEFINED):
            raise NotReadable(f"{self.path} describes its function at {address:#x} by a computation")
        return Rule(
            cfa.reg == RBP,
            int(cfa.offset),
            saved.arg if saved is not None and saved.type == RegisterRule.OFFSET else None,
            None if returns is None or returns.type == RegisterRule.UNDEFINED else returns.arg,
            start,
        )


_U64 = (1 << 64) - 1


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("ascii", "replace")


def _plainness(symbol: tuple[int, str]) -> tuple[bool, bool, int, str]:
    """Of several names of one function, the least is shown: one with a size, and without underscores in front."""
    size, name = symbol
    return size == 0, name.startswith("_"), len(name), name


def _entries(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the entries of `.eh_frame` begin, and how long they are without their length."""
    place = 0
    while place + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, place)
        if not 4 <= length <= len(data) - place - 4:
            return  # the end, or an entry of 4 GiB and more
        yield place, length
        place += 4 + length


def _end(data: bytes, place: int) -> int:
    return place + 4 + int.from_bytes(data[place : place + 4], "little")


def _open(path: str, inode: int) -> BinaryIO:
    """The file, if it still is that. Raises NotReadable."""
    try:
        # Not to wait for whoever has put a pipe there.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise NotReadable(f"{path} cannot be opened: {os.strerror(error.errno or 0)}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_ino != inode:
        os.close(descriptor)
        raise NotReadable(f"{path} is another file by now, or seen from here")
    return open(descriptor, "rb")
