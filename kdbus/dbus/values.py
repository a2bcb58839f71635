# SPDX-License-Identifier: GPL-2.0-or-later
"""How values of D-Bus and GVariant look in Python.

    y n q i u x t h     int (h: an index into the message's descriptors)
    b d                 bool, float
    s o g               str
    v                   Variant(signature, value)
    ay                  bytes
    a{..}               dict, in the order of the bytes; of equal keys the last one counts
    a...                list
    (..) and {..}       tuple
    m...                None, or Just(value), since the value may be None itself

What is parsed has just these types. What is marshalled may be of related ones: any iterable of integers or anything
with a buffer for `ay`, any mapping for a dictionary, any sequence for arrays and structures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Variant:
    """A value that carries its own type: the signature of one complete type, and a value of it."""

    signature: str
    value: Any


@dataclass(frozen=True, slots=True)
class Just:
    """A maybe that has a value (GVariant only)."""

    value: Any
