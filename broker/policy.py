# SPDX-License-Identifier: GPL-2.0-or-later
"""Policy: who may own, talk to, or see a well-known name.

A database maps names to lists of access entries (user, group or world; SEE < TALK < OWN, each including the lesser).
The highest access that any entry grants to a credential counts; a name without entry grants nothing. An entry
`org.example.*` serves the names just one element below `org.example` that have no entry of their own.

A bus has a database, filled by policy holders and activators with one name each; a custom endpoint has one, filled by
who made it. Each entry has an owner, and goes with it. Setting an owner's policy replaces all its entries, or changes
nothing at all on an error.

How the two databases combine for a connection is decided in `broker.access`. Reference: ipc/kdbus/policy.c.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from broker import limits
from broker.errors import BadArgument, BadName, DuplicateItem, TooManyPolicies
from broker.interfaces import Credentials, Ids
from broker.item import Item, padded_size
from broker.naming import is_valid_name
from kdbus.abi import revision3 as abi
from kdbus.abi.revision import Kind

NO_ACCESS = -1
"""Less than SEE."""


@dataclass(frozen=True, slots=True)
class Access:
    """One entry: the kind of subject (POLICY_ACCESS_*), its global id, and the access granted (POLICY_SEE, _TALK or
    _OWN)."""

    kind: int
    id: int
    access: int

    def covers(self, who: Credentials) -> bool:
        """Whether the entry is about `who`: effective user, effective or supplementary group, or everybody."""
        if self.kind == abi.POLICY_ACCESS_USER:
            return who.euid == self.id
        if self.kind == abi.POLICY_ACCESS_GROUP:
            return who.egid == self.id or self.id in who.groups
        return True


@dataclass(slots=True)
class Entry:
    """The access to one name, or to all names one element below it."""

    name: bytes
    wildcard: bool
    owner: object
    accesses: list[Access] = field(default_factory=list)


def _parse_access(payload: Item, ids: Ids) -> Access:
    kind, access, number = payload.u64(0), payload.u64(1), payload.u64(2) & 0xFFFFFFFF
    if access not in (abi.POLICY_SEE, abi.POLICY_TALK, abi.POLICY_OWN):
        raise BadArgument(item=payload, kind=payload.type, rule=f"access {access} is none of SEE, TALK, OWN")
    if kind == abi.POLICY_ACCESS_WORLD:
        return Access(kind, 0, access)
    if kind not in (abi.POLICY_ACCESS_USER, abi.POLICY_ACCESS_GROUP):
        raise BadArgument(item=payload, kind=payload.type, rule=f"type {kind} is none of USER, GROUP, WORLD")
    made = ids.make_uid(number) if kind == abi.POLICY_ACCESS_USER else ids.make_gid(number)
    if made is None:
        raise BadArgument(item=payload, kind=payload.type, rule=f"id {number} is not mapped in the caller's namespace")
    return Access(kind, made, access)


class PolicyDatabase:
    """The entries of one bus or one custom endpoint."""

    def __init__(self) -> None:
        self._entries: dict[tuple[bytes, bool], Entry] = {}

    def entries(self) -> list[Entry]:
        """All entries, in the order in which they were made."""
        return list(self._entries.values())

    def query(self, who: Credentials, name: bytes) -> int:
        """The access that `who` has to `name`: POLICY_SEE, _TALK, _OWN, or NO_ACCESS."""
        entry = self._entries.get((name, False))
        if entry is None:
            entry = self._entries.get((name.rpartition(b".")[0], True))
        if entry is None:
            return NO_ACCESS
        return max((access.access for access in entry.accesses if access.covers(who)), default=NO_ACCESS)

    def set(self, items: list[Item], ids: Ids, owner: object, *, single: bool, wildcards: bool) -> None:
        """Replace the entries of `owner` by those that `items` describe.

        Each NAME item begins an entry, each POLICY_ACCESS item that follows adds to it; other items are ignored.

        Args:
            ids: namespaces of the caller, in whose numbers the entries name users and groups.
            single: whether only one name may be given.
            wildcards: whether names may end in `.*`.

        Raises TooManyPolicies (also over 32 KiB of items), BadName, BadArgument (an access without name, an access or
        kind that does not exist, an id that is not mapped), DuplicateItem (a name that has an entry of another owner,
        or comes twice).
        """
        size = sum(padded_size(len(entry.payload)) for entry in items)
        if size > limits.POLICY_SIZE:
            raise TooManyPolicies(count=size, limit=limits.POLICY_SIZE, unit="bytes of items")
        wanted: list[Entry] = []
        for current in items:
            if current.type == Kind.NAME:
                if single and wanted:
                    raise TooManyPolicies(item=current, kind=current.type, count=2, limit=1, unit="names")
                name = current.text()
                if not is_valid_name(name, wildcard=True):
                    raise BadName(item=current, kind=current.type, name=name)
                wildcard = name.endswith(b".*")
                if wildcard and not wildcards:
                    raise BadArgument(item=current, kind=current.type, rule="no wildcards here")
                wanted.append(Entry(name[:-2] if wildcard else name, wildcard, owner))
            elif current.type == Kind.POLICY_ACCESS:
                if not wanted:
                    raise BadArgument(item=current, kind=current.type, rule="no NAME item before it")
                wanted[-1].accesses.append(_parse_access(current, ids))
        entries = {key: entry for key, entry in self._entries.items() if entry.owner is not owner}
        for entry in wanted:
            key = (entry.name, entry.wildcard)
            if key in entries:
                raise DuplicateItem(kind=Kind.NAME, name=entry.name + (b".*" if entry.wildcard else b""))
            entries[key] = entry
        self._entries = entries

    def remove_owner(self, owner: object) -> None:
        """Remove all entries of `owner`."""
        gone = [key for key, entry in self._entries.items() if entry.owner is owner]
        for key in gone:
            del self._entries[key]
