# SPDX-License-Identifier: GPL-2.0-or-later
"""What the supervisor holds for its targets, counted for each user, so that nobody can use it up.

In the original, what programs left open or queued was the kernel's, and had no end but the machine's. Here all of it is
held by one process, which has limits: descriptors (RLIMIT_NOFILE), address space, memory. Whoever reaches them first
would take kdbus away from all others, who have done nothing. So there is a budget for each, and one rule:

    a user has at most half of what all other users together leave; of descriptors, two thirds.

Whoever comes later therefore always finds something, however many have come before, and a single user on a machine of
its own has half of everything. A fixed share would need to know how many users there will be. Of descriptors a limit of
20 000, which is common, is to be enough for 10 000 connections of one user.

Users are the real uids of the calling threads, in the supervisor's user namespace. That is on purpose coarser than in
`broker.quota`, where each custom endpoint has an account of its own: those can be made at will.

Three budgets:

*Descriptors*: 1 for each open handle (2 for one that has replaced a plain file), 1 for each descriptor that a message
under way carries. ENFILE. Some are kept back for the supervisor's own needs, and a ninth for the sets of handles
(`interposer.handles.entries`). Those of pools, of which a handle has one at most, are not counted: a few are kept in
sight, all others in a table of their own (`native.keeper`), which has room for one of each handle.

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
from native.keeper import Keeper
from native.pool import Pool

DESCRIPTORS_AT_MOST = 1 << 17
"""More are not used even where RLIMIT_NOFILE allows them: each stands for memory."""
DESCRIPTORS_KEPT_BACK = 128
"""For the supervisor's own needs, most of which last for one call."""
THREAD_DESCRIPTORS = 256
"""For what the hot path holds of threads (`native.flow`); an eighth of all where there are few."""
HANDLE_DESCRIPTORS = 1
HANDLES_PER_SET = 8
"""How many handles share an epoll set, which is a descriptor as well (`interposer.handles.entries`)."""
POOLS_AT_HAND = 64
"""Pools whose descriptors stay in the process's own table; a sixteenth of it where that is less."""
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

    def __init__(self, total: int, what: str, share: tuple[int, int] = (1, 2)) -> None:
        """`share`: which part a user may have of what others leave, (numerator, denominator)."""
        self.total = total
        self._what = what
        self._part, self._whole = share
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
        return max(0, (self.total - (self._used - own)) * self._part // self._whole - own)

    def take(self, user: int, amount: int) -> None:
        """Count `amount` more for `user`. Raises OverBudget."""
        own = self._by_user.get(user, 0)
        others = self._used - own
        if self._whole * (own + amount) > self._part * (self.total - others):
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
        at_hand = min(POOLS_AT_HAND, limit // 16)
        of_handles = max(0, limit - self.of_threads - at_hand - DESCRIPTORS_KEPT_BACK)
        self.descriptors = Budget(of_handles * HANDLES_PER_SET // (HANDLES_PER_SET + 1), "open files", (2, 3))
        self.address_space = Budget(min(ADDRESS_SPACE, _limit(resource.RLIMIT_AS)), "address space")
        self.memory = Budget(_memory() // 2, "memory")
        self._places = _Places(at_hand)

    def new_pool(self, user: int, name: bytes, size: int) -> BudgetedPool:
        """A pool that is charged to `user` until it is closed.

        Raises OverBudget, and OSError as `Pool` and `Keeper` do.
        """
        charges: list[Charge] = []
        try:
            charges.append(self.address_space.charge(user, size))
            charges.append(self.memory.charge(user, 0))
            return BudgetedPool(name, size, charges, self._places)
        except BaseException:
            for charge in charges:
                charge.give_back()
            raise


class _Places:
    """Where the descriptors of pools are: at hand, as long as there is room, or with a keeper, as long as needed."""

    def __init__(self, at_hand: int) -> None:
        self._room = at_hand
        self._entrusted = 0
        self._keeper: Keeper | None = None

    def take_in(self, pool: Pool) -> bool:
        """Find a place for the descriptor of a new pool; whether it is with the keeper. Raises OSError."""
        if self._room:
            self._room -= 1
            return False
        if self._keeper is None:
            self._keeper = Keeper()
        self._entrusted += 1
        try:
            pool.entrust(self._keeper)
        except OSError:
            self.let_go(entrusted=True)
            raise
        return True

    def let_go(self, *, entrusted: bool) -> None:
        """A pool that was taken in has been closed."""
        if not entrusted:
            self._room += 1
            return
        self._entrusted -= 1
        if not self._entrusted and self._keeper is not None:
            self._keeper.close()
            self._keeper = None


class BudgetedPool(Pool):
    """A pool that gives back what it was charged for when it is closed; the last charge is for memory."""

    __slots__ = ("_charges", "_entrusted", "_places")

    def __init__(self, name: bytes, size: int, charges: list[Charge], places: _Places) -> None:
        super().__init__(name, size)
        try:
            self._entrusted = places.take_in(self)
        except OSError:
            super().close()
            raise
        self._places: _Places | None = places
        self._charges = charges
        self.limit(0)

    def reserve(self, end: int) -> bool:
        """See `broker.interfaces.PoolMemory.reserve`."""
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
        places, self._places = self._places, None
        if places is not None:
            places.let_go(entrusted=self._entrusted)
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
