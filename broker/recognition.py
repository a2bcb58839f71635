# SPDX-License-Identifier: GPL-2.0-or-later
"""Recognition: which revision a program speaks on a handle.

Nothing in a command says so, but the numbers of requests have the sizes of structures in them, and sizes have changed.
So the first command tells, and what has made something of the handle settles it: a handle that has become a
connection, a bus or an endpoint is spoken to as that revision from then on. A command that only asks what is supported
makes nothing, and settles nothing.

The state that systemd 219 was built for shares its HELLO, and all but two other numbers, with the final revision, as
which it is served until it issues one of the two; then it has spoken that from the start. Version 4 cannot be told from
the final revision at all, and is served as that.

Version 2 shares the numbers of BUS_MAKE and ENDPOINT_MAKE with the final revision, and their layout. An item tells: the
number 9 is a name there, which must be given, and later something that must not.

Where somebody says what is spoken (`kdbus run --revision`), nothing else is. Reference: revisions.md;
final-revision.md, 5.1.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from broker import limits
from broker.errors import KdbusError
from broker.final import FINAL
from broker.item import walk
from broker.revision219 import REVISION219
from broker.version2 import VERSION2
from broker.version3 import VERSION3
from kdbus.abi.revision import Kind

if TYPE_CHECKING:
    from broker.behaviour import Behaviour
    from broker.interfaces import Caller

_IN_DOUBT = (VERSION3, FINAL, REVISION219, VERSION2)
"""All revisions, those first that a number stands for which several have."""


def named(name: str) -> Behaviour:
    """The revision of that name, such as "3" or "final"; "4" is served by the final one. Raises KeyError."""
    names = {behaviour.revision.name: behaviour for behaviour in _IN_DOUBT}
    return {**names, "4": FINAL}[name]


NAMES = ("2", "3", "219", "4", "final")
"""What `named` takes, in the order in which they came."""


_MAKE = frozenset(VERSION2.commands) & frozenset(FINAL.commands)
_MAKE_SIZE = FINAL.revision.structs["kdbus_cmd"].size
_MAKE_NAME = VERSION2.revision.number_of(Kind.MAKE_NAME)


def spoken(request: int, settled: Behaviour | None, argument: int, caller: Caller) -> Behaviour | None:
    """The revision that `request` belongs to, on a handle on which `settled` has been spoken so far (None: nothing).

    `argument`: that of the request, which may have to be looked at in the memory of `caller`.

    A request that `settled` does not know belongs to it all the same, as one that nobody knows does; unless it is that
    of a revision which a program could have been taken for it. None if nothing is settled, and nobody knows it.
    """
    if settled is not None and request in settled.commands:
        return settled
    if settled is None and request in _MAKE and _has_name_of_version2(caller, argument):
        return VERSION2
    for behaviour in _IN_DOUBT:
        if request in behaviour.commands and (settled is None or _is_like(behaviour, settled)):
            return behaviour
    return settled


def _has_name_of_version2(caller: Caller, argument: int) -> bool:
    """Whether there is an item 9 in a command; not if it cannot be read, which its revision then says."""
    with suppress(KdbusError):
        size = int.from_bytes(caller.read(argument, 8), "little")
        if _MAKE_SIZE < size <= limits.LARGE_COMMAND_SIZE:
            items = caller.read(argument, size)[_MAKE_SIZE:]
            return any(number == _MAKE_NAME for _, number, _, _ in walk(items))
    return False


def _is_like(behaviour: Behaviour, settled: Behaviour) -> bool:
    return behaviour.revision.requests["HELLO"] == settled.revision.requests["HELLO"]
