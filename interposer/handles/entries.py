# SPDX-License-Identifier: GPL-2.0-or-later
"""Epoll sets that hold the targets' ends of handles, several in each, as each set is a descriptor of the supervisor.

What an entry is good for stands in `native.identity`. It is found by the set and by the number under which the file was
added, so within a set the numbers have to differ; and as the kernel walks through the set, a set is small: eight
entries cost some 20 ns more than one. The numbers are kept open for that, on a file that is of no use, and each end
stands at one of them for the moment in which it is added.

An entry goes when its file is closed for the last time, not when it is removed here; so a place whose file is still
open somewhere is passed over.

Weakness: who closes all handles but one of each set keeps the sets; what can be kept so is an eighth of what was open
once, and `interposer.target.budget` reckons with that.
"""

from __future__ import annotations

import os
import select
from itertools import islice
from typing import NamedTuple

from interposer.target.budget import HANDLES_PER_SET
from native import identity


class Entry(NamedTuple):
    """A file in one of the sets. `epoll`: descriptor of the set. `number`: the one under which the file was added."""

    epoll: int
    number: int

    def is_open(self) -> bool:
        """Whether the file is still open anywhere."""
        return identity.epoll_holds(self.epoll, self.number)

    def is_file(self, thread: int, descriptor: int) -> bool:
        """Whether `descriptor` of `thread` is the file. Raises OSError as `native.identity.same_file` does."""
        return identity.same_file(thread, descriptor, self.epoll, self.number)


class Entries:
    """The entries of one supervisor. Raises OSError: EMFILE, ENFILE."""

    def __init__(self) -> None:
        self._nothing = select.epoll()
        self._numbers: list[int] = []
        self._sets: dict[int, select.epoll] = {}
        self._free: dict[Entry, None] = {}
        """In the order in which they are tried."""
        try:
            for _ in range(HANDLES_PER_SET):
                self._numbers.append(os.dup(self._nothing.fileno()))
        except OSError:
            self.close()
            raise

    def add(self, descriptor: int) -> Entry:
        """An entry for the file of `descriptor`, which may be closed then. Raises OSError: EMFILE, ENFILE, ENOSPC."""
        entry = self._free_entry()
        number = entry.number
        try:
            os.dup2(descriptor, number, inheritable=False)
            try:
                self._sets[entry.epoll].register(number, 0)
            finally:
                os.dup2(self._nothing.fileno(), number, inheritable=False)
        except BaseException:
            self.remove(entry)
            raise
        return entry

    def _free_entry(self) -> Entry:
        for entry in list(islice(self._free, HANDLES_PER_SET)):
            del self._free[entry]
            if not entry.is_open():
                return entry
            self._free[entry] = None
        made = select.epoll()
        self._sets[made.fileno()] = made
        first, *others = (Entry(made.fileno(), number) for number in self._numbers)
        self._free = dict.fromkeys(others) | self._free
        return first

    def remove(self, entry: Entry) -> None:
        """The entry is not needed any more."""
        self._free[entry] = None
        whole = [Entry(entry.epoll, number) for number in self._numbers]
        if all(each in self._free for each in whole):
            for each in whole:
                del self._free[each]
            self._sets.pop(entry.epoll).close()

    def close(self) -> None:
        """Close everything."""
        while self._numbers:
            os.close(self._numbers.pop())
        for made in self._sets.values():
            made.close()
        self._sets.clear()
        self._free.clear()
        self._nothing.close()
