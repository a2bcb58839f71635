# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read of programs' files: right where readelf(1) can be asked, and never more than NotReadable if damaged."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.compiling import compile_program

pytest.importorskip("elftools", reason="needs pyelftools: pip install pyelftools")

from tracing.programs import NotReadable, Program
from tracing.record import Event, Record
from tracing.stacks import Copied, WithStacks, executable_lines


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program("stacks", tmp_path_factory.mktemp("programs"))


def opened(path: Path) -> Program:
    return Program(str(path), path.stat().st_ino)


def test_functions_are_those_of_nm(file: Path) -> None:
    program = opened(file)
    listed = subprocess.check_output(["nm", file], text=True)
    functions = re.findall(r"^([0-9a-f]{16}) [tT] (\w+)$", listed, re.MULTILINE)
    for name in ("main", "innermost", "middle", "outermost"):
        (address,) = [int(where, 16) for where, what in functions if what == name]
        assert program.symbol(address) == (name, 0)
        assert program.symbol(address + 5) == (name, 5)
        rule = program.rule(address)
        # At its first instruction, there is only the return address.
        assert (rule.by_rbp, rule.offset, rule.return_address, rule.start) == (False, 8, -8, address)
    assert program.symbol(0) == ("", 0)


def test_a_file_that_took_the_place_of_another(file: Path) -> None:
    with pytest.raises(NotReadable, match="another file"):
        Program(str(file), file.stat().st_ino + 1)


@pytest.mark.parametrize("path", ["/dev/null", "/proc/self/status", "/", "/nowhere"])
def test_what_is_no_program(path: str) -> None:
    inode = Path(path).stat().st_ino if Path(path).exists() else 0
    with pytest.raises(NotReadable):
        Program(path, inode)


@pytest.mark.parametrize("seed", range(40))
def test_damage(seed: int, file: Path, tmp_path: Path) -> None:
    """Whatever is changed in a file, or cut off, something comes back, or NotReadable does."""
    chance = random.Random(seed)
    data = bytearray(file.read_bytes())
    tables = data.find(b".symtab"), data.find(b"\x14\x00\x00\x00\x00\x00\x00\x00\x01zR")
    for _ in range(chance.choice((1, 8, 64))):
        near = chance.choice((0, *tables, len(data) - 2000))
        data[min(near + chance.randrange(2000), len(data) - 1)] = chance.randrange(256)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(data[: chance.choice((len(data), chance.randrange(len(data))))])
    try:
        program = opened(damaged)
    except NotReadable:
        return
    for address in range(0x1000, 0x1400, 7):
        program.symbol(address)
        try:
            program.rule(address)
            program.address_of(address)
        except NotReadable:
            continue


class _Kept:
    payload_limit = 0
    waits = False
    stacks = False
    left = False

    def __init__(self) -> None:
        self.records: list[Record] = []

    def take(self, record: Record) -> None:
        self.records.append(record)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("seed", range(20))
def test_a_stack_of_nonsense_ends(seed: int, file: Path) -> None:
    chance = random.Random(seed)
    program, inode = opened(file), file.stat().st_ino
    maps = f"400000-500000 r-xp 00000000 fe:00 {inode} {file}\n500000-600000 rw-p 00000000 00:00 0 \n".encode()
    places = [(0x401000 + chance.randrange(0x400), 0x7FFF0000 + 8 * chance.randrange(64)) for _ in range(64)]
    stack = b"".join(chance.choice(words).to_bytes(8, "little") for words in places)
    kept = _Kept()
    tracer = WithStacks(kept)
    for pc in (0x401000 + chance.randrange(0x400), 0x500000, 0):
        copied = Copied(pc, 0x7FFF0000, 1, executable_lines(maps), stack)
        tracer.take(Record(Event.CALL, 1, 0, 0, copied=copied.packed()))
    tracer.take(Record(Event.CALL, 1, 0, 0, copied=b"nonsense"))
    assert len(kept.records) == 4 and not any(record.copied for record in kept.records)
    assert all(len(record.stack) <= 64 for record in kept.records)
    assert program.path == str(file)
