# SPDX-License-Identifier: GPL-2.0-or-later
"""Bloom filters of sd-bus: its hash, its entries, its parameters."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdbus.dbus import bloom
from kdbus.dbus.errors import InvalidValue
from kdbus.dbus.message import signal

siphash24 = pytest.importorskip("siphash24", reason="no siphash24; pip install kdbus-interposer[dbus]")

KEYS = (bytes.fromhex("b9660bf0467047c18875c49c54b9bd15"), bytes.fromhex("aaa154a2e0714b39bfe1dd2e9fc54a3b"))


def positions(data: bytes) -> set[int]:
    """The bits that are set, as sd-bus counts them: in 64-bit words."""
    words = [int.from_bytes(data[start : start + 8], sys.byteorder) for start in range(0, len(data), 8)]
    return {64 * index + bit for index, word in enumerate(words) for bit in range(64) if word >> bit & 1}


def test_the_hash_is_siphash_2_4() -> None:
    """The vector of the paper (Aumasson and Bernstein, appendix A)."""
    digest = siphash24.siphash24(bytes(range(15)), key=bytes(range(16))).digest()
    assert int.from_bytes(digest, "little") == 0xA129CA6149BE45E5


def test_an_entry_sets_the_bits_that_two_hashes_name() -> None:
    entry = b"member:Changed"
    stream = b"".join(siphash24.siphash24(entry, key=key).digest() for key in KEYS)
    wanted = {(stream[2 * index] << 8 | stream[2 * index + 1]) % 512 for index in range(8)}
    assert positions(bloom.filter_of_entries([entry.decode()])) == wanted


INTERFACE_BITS = [30, 216, 270, 281, 429, 430, 500, 509]
SMALL_BITS = [4, 10, 21, 38, 43, 44, 58, 63]


def test_known_filters() -> None:
    """Fixed once, so that a change of keys, order or width is seen."""
    assert sorted(positions(bloom.filter_of_entries(["interface:org.example.Printer"]))) == INTERFACE_BITS
    assert sorted(positions(bloom.filter_of_entries(["message-type:signal"], size=8, hashes=8))) == SMALL_BITS


def test_entries_of_a_signal() -> None:
    message = signal("/a/bc", "org.example.I", "M", "sogasuas", ("x.y/z", "/", "a{sv}", ["p", "q"], 1, ["r"]))
    assert sorted(set(bloom.entries_of(message))) == sorted(
        [
            "message-type:signal", "interface:org.example.I", "member:M", "path:/a/bc",
            "path-slash-prefix:/a/bc", "path-slash-prefix:/a/", "path-slash-prefix:/a", "path-slash-prefix:/",
            "arg0:x.y/z", "arg0-dot-prefix:x.y/z", "arg0-dot-prefix:x.", "arg0-dot-prefix:x",
            "arg0-slash-prefix:x.y/z", "arg0-slash-prefix:x.y/", "arg0-slash-prefix:x.y",
            "arg1:/", "arg1-dot-prefix:/", "arg1-slash-prefix:/",
            "arg2:a{sv}", "arg2-dot-prefix:a{sv}", "arg2-slash-prefix:a{sv}",
            "arg3-has:p", "arg3-has:q",
        ]
    )  # fmt: skip


def test_a_filter_that_sd_bus_made() -> None:
    """By the sd-bus of systemd 229, which left out all arguments behind the first string."""
    message = signal("/a/b", "org.example.I", "S", "sss", ("org.x.y", "second", "/p/q/r"))
    entries = [entry for entry in bloom.entries_of(message) if not entry.startswith(("arg1", "arg2"))]
    assert bloom.filter_of_entries(entries).hex() == (
        "4018e5102c2435102a034065549005429004006008080028880100041500016412091000000c39030100020e000501d01600080001462008"
        "2984814320034221"
    )


def test_at_most_64_arguments_are_entries() -> None:
    entries = set(bloom.entries_of(signal("/a", "a.b", "M", "s" * 70, ("x",) * 70)))
    assert "arg63:x" in entries and "arg64:x" not in entries


def test_a_filter_has_the_bits_of_all_entries() -> None:
    message = signal("/a/bc", "org.example.I", "M", "s", ("x",))
    data = bloom.filter_of(message)
    assert len(data) == 64
    for entry in bloom.entries_of(message):
        assert positions(bloom.filter_of_entries([entry])) <= positions(data)


def test_an_empty_mask_fits_everything() -> None:
    assert bloom.filter_of_entries([]) == bytes(64)


@pytest.mark.parametrize(("size", "hashes"), [(8, 1), (8, 64), (32, 8), (64, 32), (1 << 16, 21), (24, 3)])
def test_other_parameters(size: int, hashes: int) -> None:
    data = bloom.filter_of_entries(["member:M"], size=size, hashes=hashes)
    assert len(data) == size and 0 < len(positions(data)) <= hashes


@pytest.mark.parametrize(("size", "hashes"), [(0, 1), (8, 0), (7, 1), (8, 65), (64, 33), (-8, 1), (1 << 16, 22)])
def test_parameters_that_the_keys_cannot_serve(size: int, hashes: int) -> None:
    with pytest.raises(InvalidValue):
        bloom.filter_of_entries([], size=size, hashes=hashes)


def test_without_siphash24_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "siphash24", None)
    with pytest.raises(ImportError, match=r"kdbus-interposer\[dbus\]"):
        bloom.filter_of_entries(["member:NeverHashedBefore"])


@given(st.text(max_size=30), st.sampled_from("./"))
def test_prefixes_begin_the_text(text: str, separator: str) -> None:
    found = list(bloom._prefixes(text, separator))
    assert len(found) == 1 + 2 * text.count(separator) - text.startswith(separator)
    assert all(text.startswith(prefix) for prefix in found)
