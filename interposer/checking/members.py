# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read of the decoded members of commands and messages, whatever their form."""

from __future__ import annotations

from collections.abc import Mapping

from kdbus.abi.decode import Flags, Named, Text
from tracing.shown import items_of


def number(value: object) -> int:
    """A number, whether it has a meaning or not; 0 for what is none."""
    return value.value if isinstance(value, Named | Flags) else value if isinstance(value, int) else 0


def flags(members: Mapping[str, object], name: str = "flags") -> tuple[str, ...]:
    """The names of the flags that are set."""
    value = members.get(name)
    return value.names if isinstance(value, Flags) else ()


def texts(members: Mapping[str, object], kind: str | None = None) -> list[str]:
    """The texts in items, of one kind or all."""
    found = (each.value for each in items_of(members) if isinstance(each.value, Text) and kind in (None, each.name))
    return [each.data.decode("utf-8", "replace") for each in found]


def kinds(members: Mapping[str, object]) -> list[str]:
    """The kinds of items, in their order."""
    return [each.name for each in items_of(members) if each.name]
