# SPDX-License-Identifier: GPL-2.0-or-later
"""What the supervisor holds for its targets, counted for each user, so that nobody can use it up.

In the original, what programs left open or queued was the kernel's, and had no end but the machine's. Here all of it is
held by one process, which has limits: descriptors (RLIMIT_NOFILE), address space, memory. Whoever reaches them first
would take kdbus away from all others, who have done nothing. So there is a budget for each, and one rule:

    a user has at most half of what all other users together leave.

Whoever comes later therefore always finds something, however many have come before, and a single user on a machine of
its own has half of everything. A fixed share would need to know how many users there will be.

Users are the real uids of the calling threads, in the supervisor's user namespace. That is on purpose coarser than in
`broker.quota`, where each custom endpoint has an account of its own: those can be made at will.

Three budgets:

*Descriptors*: 2 for each open handle (3 for one that has replaced a plain file), 1 for each pool, 1 for each descriptor
that a message under way carries. ENFILE. Some are kept back for the supervisor's own needs.

*Address space* for pools, each of which is mapped as a whole. ENOMEM from HELLO.

*Memory* in pools: the part, from the beginning, in which anything was ever stored, in steps of 64 KiB. The pages stay
allocated until the pool is closed (`native.pool` says why), so that is what is counted. A receiver for whom there is no
more looks to its senders as if its pool were full (ENOBUFS). The owner of the pool is charged, not the sender, as
it is the owner who does not give slices back.

A charge is an object that belongs to what it was paid for, and is given back once.

Alternatives: a limit for each kind of thing lets their number multiply what each of them may hold; a limit on the
whole supervisor (RLIMIT_AS) hits whoever asks next.

Weakness: what the broker remembers of users' commands (names, matches, policies, queued messages) is bounded by counts
(`broker.bounds`, `broker.limits`), the most important of which is that of handles here, and not counted in bytes.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable

from interposer.target.ids import lines_of, read_file
from native.pool import Pool

DESCRIPTORS_AT_MOST = 1 << 17
"""More are not used even where RLIMIT_NOFILE allows them: each stands for memory."""
DESCRIPTORS_KEPT_BACK = 128
"""For the supervisor's own needs, most of which last for one call."""
THREAD_DESCRIPTORS = 256
"""For what the hot path holds of threads (`native.flow`); an eighth of all where there are few."""
HANDLE_DESCRIPTORS = 2
ADDRESS_SPACE = 1 << 46
"""Bytes; half of what a process has on x86-64."""
MEMORY_STEP = 64 << 10
"""Bytes of a pool that are charged at once."""
_UNLIMITED = 1 << 62


class OverBudget(Exception):
    """The user has had its share."""


class Charge:
    """Something that was charged to a user. Made by `Budget.charge`."""

    __slots__ = ("_amount", "_budget", "_user")

    def __init__(self, budget: Budget, user: int) -> None:
        self._budget = budget
        self._user = user
        self._amount = 0

    @property
    def user(self) -> int:
        """Who is charged."""
        return self._user

    def add(self, amount: int) -> None:
        """Charge more. Raises OverBudget, and then nothing has changed."""
        self._budget.take(self._user, amount)
        self._amount += amount

    def again(self) -> Charge:
        """Charge the same user as much once more, for a duplicate. Raises OverBudget."""
        return self._budget.charge(self._user, self._amount)

    def give_back(self) -> None:
        """Return everything. Idempotent."""
        amount, self._amount = self._amount, 0
        if amount:
            self._budget.give(self._user, amount)


class Budget:
    """`total` of something, `what` to people, shared by users."""

    def __init__(self, total: int, what: str) -> None:
        self.total = total
        self._what = what
        self._used = 0
        self._by_user: dict[int, int] = {}

    def used_by(self, user: int) -> int:
        """What is charged to `user` at the moment."""
        return self._by_user.get(user, 0)

    def charge(self, user: int, amount: int) -> Charge:
        """Charge `amount` to `user`. Raises OverBudget."""
        charge = Charge(self, user)
        charge.add(amount)
        return charge

    def left(self, user: int) -> int:
        """How much `user` may still be charged."""
        own = self._by_user.get(user, 0)
        return max(0, (self.total - (self._used - own)) // 2 - own)

    def take(self, user: int, amount: int) -> None:
        """Count `amount` more for `user`. Raises OverBudget."""
        own = self._by_user.get(user, 0)
        others = self._used - own
        if 2 * (own + amount) > self.total - others:
            raise OverBudget(f"user {user} has its share of {self._what}")
        self._used += amount
        self._by_user[user] = own + amount

    def give(self, user: int, amount: int) -> None:
        """Count `amount` less."""
        self._used -= amount
        own = self._by_user[user] - amount
        if own:
            self._by_user[user] = own
        else:
            del self._by_user[user]


class Budgets:
    """The budgets of one supervisor."""

    def __init__(self) -> None:
        """With the limits of this process and this machine. Raises OSError."""
        limit = _limit(resource.RLIMIT_NOFILE)
        self.of_threads = min(THREAD_DESCRIPTORS, limit // 8)
        self.descriptors = Budget(max(0, limit - self.of_threads - DESCRIPTORS_KEPT_BACK), "open files")
        self.address_space = Budget(min(ADDRESS_SPACE, _limit(resource.RLIMIT_AS)), "address space")
        self.memory = Budget(_memory() // 2, "memory")

    def new_pool(self, user: int, name: bytes, size: int) -> BudgetedPool:
        """A pool that is charged to `user` until it is closed. Raises OverBudget, and OSError as `Pool` does."""
        charges = []
        try:
            charges.append(self.descriptors.charge(user, 1))
            charges.append(self.address_space.charge(user, size))
            charges.append(self.memory.charge(user, 0))
            return BudgetedPool(name, size, charges)
        except BaseException:
            for charge in charges:
                charge.give_back()
            raise


class BudgetedPool(Pool):
    """A pool that gives back what it was charged for when it is closed; the last charge is for memory."""

    __slots__ = ("_charges",)

    def __init__(self, name: bytes, size: int, charges: list[Charge]) -> None:
        super().__init__(name, size)
        self._charges = charges
        self.limit(0)

    def reserve(self, end: int) -> bool:
        """See `broker.outside.PoolMemory.reserve`."""
        if end > self.usable:
            wanted = min(self.size, -(-end // MEMORY_STEP) * MEMORY_STEP)
            try:
                self._charges[-1].add(wanted - self.usable)
            except OverBudget:
                return False
            self.limit(wanted)
        return True

    def close(self) -> None:
        super().close()
        for charge in self._charges:
            charge.give_back()


def use_descriptors() -> None:
    """Let this process open as many files as it is allowed to, and as are any use."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = DESCRIPTORS_AT_MOST if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_AT_MOST)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _limit(which: int) -> int:
    soft, _ = resource.getrlimit(which)
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def _memory() -> int:
    """Bytes of memory that this process may use: the machine's, or less in a control group with a limit."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(found, _number(lambda: _control_group_file(b"memory.max")))


def _control_group_file(name: bytes) -> bytes:
    """A file of this process's control group, version 2. Raises OSError."""
    groups = [line[3:] for line in lines_of(read_file("/proc/self/cgroup")) if line.startswith(b"0::")]
    return read_file(b"/sys/fs/cgroup" + (groups[0] if groups else b"") + b"/" + name)


def _number(read: Callable[[], bytes]) -> int:
    try:
        return int(read())
    except (OSError, ValueError):
        # No control groups here, or "max".
        return _UNLIMITED
