# SPDX-License-Identifier: GPL-2.0-or-later
"""Descriptors that do not count against this process's limit of open files: the face of `keeper.c`, where it says why.

A process may have one limit's worth in its own table, and as many again in a keeper's. What lies there cannot be used,
only fetched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from native.library import failure, ffi, lib


class Keeper:
    """A thread of this process that keeps descriptors.

    Raises OSError: EAGAIN or ENOMEM if there is no room for a thread, EMFILE, ENFILE; EPERM where a thread may not have
    a table of its own, on kernels before 5.9.
    """

    __slots__ = ("_keeper",)

    def __init__(self) -> None:
        made = ffi.new("struct kdbus_keeper **")
        result = lib.kdbus_keeper_create(made)
        if result < 0:
            raise failure(result, "start a thread that keeps descriptors")
        self._keeper = made[0]

    def keep(self, descriptor: int) -> int:
        """Keep the file of `descriptor`, which may be closed then; its number for `fetched` and `drop`.

        Raises OSError: EMFILE when as many are kept as RLIMIT_NOFILE allows, ETOOMANYREFS (sendmsg(2)).
        """
        number = lib.kdbus_keeper_keep(self._keeper, descriptor)
        if number < 0:
            raise failure(number, "keep a descriptor")
        return int(number)

    @contextmanager
    def fetched(self, number: int) -> Iterator[int]:
        """A duplicate of what is kept as `number`, closed at the end. Raises OSError: EMFILE, ENFILE, ETOOMANYREFS."""
        descriptor = lib.kdbus_keeper_fetch(self._keeper, number)
        if descriptor < 0:
            raise failure(descriptor, "fetch a descriptor that is kept")
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def drop(self, number: int) -> None:
        """Close what is kept as `number`, soon."""
        result = lib.kdbus_keeper_drop(self._keeper, number)
        if result < 0:
            raise failure(result, "close a descriptor that is kept")

    def close(self) -> None:
        """Close all that is kept, and end the thread. To be called once."""
        lib.kdbus_keeper_destroy(self._keeper)
