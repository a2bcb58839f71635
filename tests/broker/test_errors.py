# SPDX-License-Identifier: GPL-2.0-or-later
"""Every error of the broker has the errno number that version 3 answers."""

from __future__ import annotations

import errno

import pytest

from broker import errors
from broker.errors import KdbusError, errno_of


def _all() -> list[type[KdbusError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, KdbusError)]


@pytest.mark.parametrize("kind", [kind for kind in _all() if kind is not KdbusError], ids=lambda kind: kind.__name__)
def test_every_error_has_a_number(kind: type[KdbusError]) -> None:
    assert 0 < errno_of(kind()) <= errors.ERESTARTSYS
    assert kind.__doc__


def test_the_general_error_has_none() -> None:
    with pytest.raises(KeyError):
        errno_of(KdbusError())


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (errors.NotSealable, 124),  # EMEDIUMTYPE
        (errors.PoolShareExceeded, errno.EXFULL),
        (errors.DescriptorsRefused, errno.ECOMM),
        (errors.ReplyRefused, errno.EREMOTEIO),
        (errors.NameOwnerChanged, errno.EREMCHG),
        (errors.NotForBroadcasts, errno.ENOTUNIQ),
        (errors.HandleInUse, errno.EBADFD),
        (errors.OnlyActivator, errno.EADDRNOTAVAIL),
        (errors.Interrupted, 512),  # ERESTARTSYS
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_unusual_numbers(kind: type[KdbusError], number: int) -> None:
    assert errno_of(kind()) == number
