# SPDX-License-Identifier: GPL-2.0-or-later
"""The module parameter: which numbers are understood, and what its value is while somebody writes it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interposer.launch.view import MASK_FILE
from interposer.traps.module_parameter import AttachFlagsMask, parse_unsigned


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"123", 123),
        (b"123\n", 123),
        (b"0x3f", 0x3F),
        (b"0X3F\n", 0x3F),
        (b"+7", 7),
        (b"010", 8),
        (b"0", 0),
        (b"18446744073709551615", 2**64 - 1),
        (b"18446744073709551616", None),
        (b"", None),
        (b"\n", None),
        (b"0x", None),
        (b"0x0x1", None),
        (b"-1", None),
        (b"1 ", None),
        (b"1\n\n", None),
        (b"1_0", None),
        (b"09", None),
        (b"3f", None),
        ("\u0663".encode(), None),
    ],
)
def test_numbers_are_read_as_sysfs_reads_them(written: bytes, expected: int | None) -> None:
    assert parse_unsigned(written) == expected


@given(st.integers(0, 2**64 - 1))
def test_every_mask_survives_being_written(value: int) -> None:
    assert parse_unsigned(b"%d\n" % value) == parse_unsigned(b"%#x" % value) == value


@given(st.binary(max_size=30))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    value = parse_unsigned(data)
    assert value is None or 0 <= value < 2**64


def mask_in(folder: Path, content: str) -> tuple[Path, AttachFlagsMask]:
    """The parameter's file in `folder`, with that content, and what is made of it."""
    file = folder / MASK_FILE
    file.write_text(content)
    opened = os.open(folder, os.O_PATH)
    mask = AttachFlagsMask(opened, default=1)
    os.close(opened)
    return file, mask


def test_a_mask_that_is_about_to_be_written_keeps_its_value_until_then(tmp_path: Path) -> None:
    file, mask = mask_in(tmp_path, "10271\n")
    assert mask.is_file(file.stat()) and not mask.is_file(tmp_path.stat())
    mask.opened_for_writing()
    assert file.read_text() == ""
    assert mask.current() == 10271
    with file.open("r+") as writer:
        writer.write("0")
    assert mask.current() == 0
    mask.close()


def test_unreadable_mask_keeps_the_last_value(tmp_path: Path) -> None:
    file, mask = mask_in(tmp_path, "12\n")
    assert mask.current() == 12
    file.write_text("")
    assert mask.current() == 12
    mask.close()
    assert mask.current() == 12


def test_a_shorter_number_may_be_written_over_a_longer_one(tmp_path: Path) -> None:
    file, mask = mask_in(tmp_path, "10271\n")
    assert mask.current() == 10271
    with open(file, "r+b", buffering=0) as parameter:
        parameter.write(b"0x2\n")
    assert mask.current() == 2
    mask.close()
