# SPDX-License-Identifier: GPL-2.0-or-later
"""Random types and values of D-Bus and GVariant, for property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from kdbus.dbus.signature import BASIC, Type, single
from kdbus.dbus.values import Just, Variant

_BASIC = st.sampled_from(sorted(BASIC))
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_INTEGERS = {
    "y": (0, (1 << 8) - 1),
    "n": (-1 << 15, (1 << 15) - 1),
    "q": (0, (1 << 16) - 1),
    "i": (-1 << 31, (1 << 31) - 1),
    "u": (0, (1 << 32) - 1),
    "h": (0, (1 << 31) - 1),
    "x": (-1 << 63, (1 << 63) - 1),
    "t": (0, (1 << 64) - 1),
}


def signatures(*, dbus: bool = False) -> st.SearchStrategy[str]:
    """One complete type each; with `dbus` such as D-Bus has."""

    def longer(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        least = 1 if dbus else 0
        choices = [
            inner.map("a{}".format),
            st.lists(inner, min_size=least, max_size=4).map(lambda members: f"({''.join(members)})"),
            st.tuples(_BASIC, inner).map(lambda entry: "a{" + "".join(entry) + "}"),
        ]
        if not dbus:
            choices.append(inner.map("m{}".format))
            choices.append(st.tuples(_BASIC, inner).map(lambda entry: "{" + "".join(entry) + "}"))
        return st.one_of(choices)

    return st.recursive(st.one_of(_BASIC, st.just("v")), longer, max_leaves=6).filter(lambda text: len(text) < 60)


def values(kind: Type, *, dbus: bool = False) -> st.SearchStrategy[Any]:
    """Values of that type, as they come out of unmarshalling; without NaN, which equals nothing, and without subnormal
    numbers, which GLib cannot read as text."""
    if kind.code in _INTEGERS:
        return st.integers(*_INTEGERS[kind.code])
    if kind.code == "b":
        return st.booleans()
    if kind.code == "d":
        return st.floats(allow_nan=False, allow_subnormal=False)
    if kind.code == "s":
        return _TEXT
    if kind.code == "o":
        return st.lists(st.text("aZ0_", min_size=1, max_size=5), max_size=4).map(lambda parts: "/" + "/".join(parts))
    if kind.code == "g":
        return signatures(dbus=True)
    if kind.code == "v":
        return st.sampled_from(("s", "u", "as", "(yx)", "a{sv}")).flatmap(
            lambda text: values(single(text)).map(lambda value: Variant(text, value))
        )
    if kind.code == "m":
        return st.none() | values(kind.items[0]).map(Just)
    if kind.code == "a":
        element = kind.items[0]
        if element.code == "y":
            return st.binary(max_size=300)
        if element.code == "{":
            return st.dictionaries(values(element.items[0]), values(element.items[1]), max_size=4)
        return st.lists(values(element), max_size=4)
    return st.tuples(*(values(item) for item in kind.items))


@st.composite
def typed_values(draw: st.DrawFn, *, dbus: bool = False) -> tuple[str, Any]:
    """(signature, value) pairs."""
    signature = draw(signatures(dbus=dbus))
    return signature, draw(values(single(signature, gvariant=not dbus)))
