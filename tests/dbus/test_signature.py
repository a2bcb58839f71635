# SPDX-License-Identifier: GPL-2.0-or-later
"""Signatures: what is one, and what GVariant's layout makes of each type."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdbus.dbus.errors import InvalidSignature
from kdbus.dbus.signature import single, split


@pytest.mark.parametrize(
    "text",
    ["", "s", "ybnqiuxtdsogvh", "as", "aas", "a{sv}", "a{y(ii)}", "(s)", "((s)(ii))", "a(sa{sv})v", "a" * 32 + "y"],
)
def test_signatures_of_d_bus_are_taken_apart_and_back(text: str) -> None:
    assert "".join(map(str, split(text))) == text


@pytest.mark.parametrize(
    "text",
    [
        "a", "aa", "z", "s z", "(", ")", "(s", "s)", "()", "a()", "{sv}", "a{s}", "a{sv", "a{svs}", "a{vs}", "a{(s)s}",
        "a{}", "ms", "r", "e", "*", "?", "\0", "é", "a" * 33 + "y", "(" * 33 + "y" + ")" * 33, "y" * 256,
    ],
)  # fmt: skip
def test_what_is_no_signature_is_refused(text: str) -> None:
    with pytest.raises(InvalidSignature):
        split(text)


@pytest.mark.parametrize("text", ["ms", "mmi", "()", "a()", "{sv}", "({sv}m())", "mamas"])
def test_gvariant_has_more_types(text: str) -> None:
    assert str(single(text, gvariant=True)) == text
    with pytest.raises(InvalidSignature):
        single(text)


@pytest.mark.parametrize("text", ["", "ss", "s()"])
def test_several_types_are_not_one(text: str) -> None:
    with pytest.raises(InvalidSignature):
        single(text, gvariant=True)


@pytest.mark.parametrize(
    ("text", "alignment", "size"),
    [
        # Fixed sizes and alignments: GVariant Specification, section 2.5.
        ("b", 1, 1), ("y", 1, 1), ("n", 2, 2), ("u", 4, 4), ("h", 4, 4), ("t", 8, 8), ("d", 8, 8), ("s", 1, 0),
        ("g", 1, 0), ("v", 8, 0), ("as", 1, 0), ("ax", 8, 0), ("mi", 4, 0), ("()", 1, 1), ("(y)", 1, 1), ("(iy)", 4, 8),
        ("(yi)", 4, 8), ("(yyyyut)", 8, 16), ("(ys)", 1, 0), ("{tv}", 8, 0), ("{yx}", 8, 16), ("((y)(n))", 2, 4),
    ],
)  # fmt: skip
def test_layout(text: str, alignment: int, size: int) -> None:
    kind = single(text, gvariant=True)
    assert (kind.alignment, kind.size) == (alignment, size)


def test_depth_and_weight() -> None:
    assert (single("a(sv)").depth, single("a(sv)").weight) == (3, 1)
    assert (single("(s(iv))").depth, single("(s(iv))").weight) == (3, 6)


@given(st.text(alphabet="ybnqiuxthdsogvma(){}", max_size=300), st.booleans())
def test_any_text_is_a_signature_or_refused(text: str, gvariant: bool) -> None:
    try:
        types = split(text, gvariant=gvariant)
    except InvalidSignature:
        return
    assert "".join(map(str, types)) == text
    assert all(kind.depth <= 64 and kind.weight <= 256 for kind in types)
