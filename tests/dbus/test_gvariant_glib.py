# SPDX-License-Identifier: GPL-2.0-or-later
"""GVariant's form against GLib, which is where it comes from.

GLib builds each value from GLib's own text format, so that nothing but the value is shared with the code under test.
The library is called through ctypes; where there is none, the tests are skipped (Debian: libglib2.0-0).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import reprlib
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from kdbus.dbus.errors import Malformed
from kdbus.dbus.gvariant import marshal
from kdbus.dbus.signature import Type, single
from kdbus.dbus.unmarshal import unmarshal
from kdbus.dbus.values import Variant
from tests.support.dbus_values import signatures, typed_values

_NAME = ctypes.util.find_library("glib-2.0")
pytestmark = pytest.mark.skipif(_NAME is None, reason="no GLib here; apt-get install libglib2.0-0")

_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "g_variant_type_new": (ctypes.c_void_p, (ctypes.c_char_p,)),
    "g_variant_type_free": (None, (ctypes.c_void_p,)),
    "g_variant_parse": (ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p, *[ctypes.c_void_p] * 3)),
    "g_variant_ref_sink": (ctypes.c_void_p, (ctypes.c_void_p,)),
    "g_variant_unref": (None, (ctypes.c_void_p,)),
    "g_variant_byteswap": (ctypes.c_void_p, (ctypes.c_void_p,)),
    "g_variant_get_size": (ctypes.c_size_t, (ctypes.c_void_p,)),
    "g_variant_get_data": (ctypes.c_void_p, (ctypes.c_void_p,)),
    "g_variant_is_normal_form": (ctypes.c_int, (ctypes.c_void_p,)),
    "g_variant_new_from_bytes": (ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)),
    "g_bytes_new": (ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_size_t)),
    "g_bytes_unref": (None, (ctypes.c_void_p,)),
}


def _load() -> Any:
    library = ctypes.CDLL(_NAME)
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def text_of(kind: Type, value: Any) -> str:
    """The value in GLib's text format (GVariant Text Format), for a parser that knows the type."""
    if kind.code in "sog":
        return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
    if kind.code == "b":
        return str(value).lower()
    if kind.code == "v":
        return f"<@{value.signature} {text_of(single(value.signature, gvariant=True), value.value)}>"
    if kind.code == "m":
        return "nothing" if value is None else f"just {text_of(kind.items[0], value.value)}"
    if kind.code == "a" and kind.items[0].code == "{":
        key, content = kind.items[0].items
        return "{" + ",".join(f"{text_of(key, k)}:{text_of(content, v)}" for k, v in value.items()) + "}"
    if kind.code == "a":
        return "[" + ",".join(text_of(kind.items[0], item) for item in value) + "]"
    if kind.code in "({":
        members = ",".join(text_of(item, member) for item, member in zip(kind.items, value, strict=True))
        if kind.code == "{":
            return "{" + members + "}"
        return f"({members},)" if len(value) == 1 else f"({members})"
    return repr(value)


class GVariant:
    """A GVariant that lives as long as the `with` block."""

    def __init__(self, signature: str, *, text: str | None = None, data: bytes = b"") -> None:
        self._library = _load()
        kind = self._library.g_variant_type_new(signature.encode())
        if text is not None:
            value = self._library.g_variant_parse(kind, text.encode(), None, None, None)
        else:
            chunk = self._library.g_bytes_new(data, len(data))
            value = self._library.g_variant_new_from_bytes(kind, chunk, 0)
            self._library.g_bytes_unref(chunk)
        self._library.g_variant_type_free(kind)
        assert value, f"GLib does not understand {reprlib.repr(text)} as {signature}"
        self._value = self._library.g_variant_ref_sink(value)

    def __enter__(self) -> GVariant:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.g_variant_unref(self._value)

    def data(self) -> bytes:
        """Its serialised form."""
        return self._data(self._value)

    def swapped(self) -> bytes:
        """Its serialised form in the other byte order."""
        other = self._library.g_variant_byteswap(self._value)
        data = self._data(other)
        self._library.g_variant_unref(other)
        return data

    def is_normal(self) -> bool:
        """Whether its bytes are in normal form."""
        return bool(self._library.g_variant_is_normal_form(self._value))

    def _data(self, value: int) -> bytes:
        # Without a call of get_data first, the size is computed from a tree that may not be serialised yet.
        address = self._library.g_variant_get_data(value)
        size = self._library.g_variant_get_size(value)
        return ctypes.string_at(address, size) if size else b""


@given(typed_values())
@settings(max_examples=300)
@example(("a{s(yv)}", {"x" * 300: (1, Variant("ax", [1] * 100))}))
@example(("(sss)", ("x" * 100, "y" * 100, "z" * 70000)))
def test_glib_marshals_the_same_bytes_in_both_orders(typed: tuple[str, Any]) -> None:
    signature, value = typed
    assume("inf" not in repr(value))
    with GVariant(signature, text=text_of(single(signature, gvariant=True), value)) as theirs:
        assert marshal(signature, value) == theirs.data()
        assert marshal(signature, value, order="big") == theirs.swapped()


def _agree(signature: str, data: bytes) -> None:
    try:
        unmarshal(signature, data, strict=True)
        normal = True
    except Malformed:
        normal = False
    with GVariant(signature, data=data) as theirs:
        if theirs.is_normal() == normal:
            return
    # GLib takes a structure of no bytes at all for normal, though it writes such a structure with its offsets.
    assert not normal
    value = unmarshal(signature, data)
    assume("d" not in signature and b"d" not in data)
    with GVariant(signature, text=text_of(single(signature, gvariant=True), value)) as theirs:
        assert theirs.data() != data


# Signatures as values are left out: GLib takes more for a signature than D-Bus does.
_NO_SIGNATURES = signatures().filter(lambda text: "g" not in text)


@given(_NO_SIGNATURES, st.binary(max_size=40))
@settings(max_examples=500)
def test_glib_agrees_on_what_is_normal(signature: str, data: bytes) -> None:
    assume(b"g" not in data)
    _agree(signature, data)


@given(typed_values(), st.data())
@settings(max_examples=500)
def test_glib_agrees_on_damaged_values(typed: tuple[str, Any], data: st.DataObject) -> None:
    signature, value = typed
    damaged = bytearray(marshal(signature, value))
    assume(damaged and b"g" not in damaged and "g" not in signature)
    for _ in range(data.draw(st.integers(0, 2))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.sampled_from((0, 1, 2, 4, 8, 40, 255)))
    _agree(signature, bytes(damaged))
