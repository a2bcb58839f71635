# SPDX-License-Identifier: GPL-2.0-or-later
"""File descriptors among the values of a message.

In the bytes a value of the type `h` is an index into the descriptors that travel beside the message. Users want the
descriptor. `replaced` walks over the values and puts another thing in the place of each, whichever way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from kdbus.dbus.signature import Type, single, split
from kdbus.dbus.values import Variant


@lru_cache(maxsize=1024)
def _may_have(kind: Type) -> bool:
    """Whether values of the type can have a descriptor inside."""
    return kind.code in "hv" or any(map(_may_have, kind.items))


def replaced(signature: str, body: tuple[Any, ...], replace: Callable[[Any], Any]) -> tuple[Any, ...]:
    """The values of a body, with `replace(value)` for each value of the type `h`, also within variants."""
    return tuple(_replaced(kind, value, replace) for kind, value in zip(split(signature), body, strict=True))


def _replaced(kind: Type, value: Any, replace: Callable[[Any], Any]) -> Any:
    if not _may_have(kind):
        return value
    if kind.code == "h":
        return replace(value)
    if kind.code == "v":
        if not isinstance(value, Variant):
            return value
        return Variant(value.signature, _replaced(single(value.signature), value.value, replace))
    if kind.code == "(":
        return tuple(_replaced(item, member, replace) for item, member in zip(kind.items, value, strict=True))
    element = kind.items[0]
    if element.code == "{":
        return {
            _replaced(element.items[0], key, replace): _replaced(element.items[1], content, replace)
            for key, content in value.items()
        }
    return [_replaced(element, item, replace) for item in value]
