# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections that are lent and come back unchanged, for tests of the pure broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from broker.connection import Connection
from broker.flow import lendable
from broker.interfaces import File
from broker.lending import LentWait, Returned, hand_out, take_back
from broker.origin import Origins
from broker.quota import User
from broker.reply import Reply
from tests.support.fakes import FakeReference
from tests.support.world import World


class Lent(Protocol):
    """A peer of any revision."""

    @property
    def connection(self) -> Connection: ...


class Descriptors:
    """Gives out numbers for files, and takes them back."""

    def __init__(self) -> None:
        self.files: dict[int, FakeReference] = {}

    def give(self, file: File) -> int:
        """A number that stands for another reference to the file."""
        assert isinstance(file, FakeReference)
        number = 100 + len(self.files)
        self.files[number] = FakeReference(file.file)
        return number

    def open(self, descriptor: int) -> File:
        """The reference that was given; once."""
        return self.files.pop(descriptor)


def lend_and_take_back(
    world: World, *peers: Lent, waits: Mapping[Reply, LentWait] | None = None, unchanged: Sequence[Lent] = ()
) -> Returned:
    """Lend the connections of `peers`, with their `waits`, and take them back unchanged.

    To those of `unchanged` nothing happens, so their requests count meanwhile.
    """
    counts = [peer.connection.request_count for peer in unchanged]
    waits = {} if waits is None else waits
    connections = {number: peer.connection for number, peer in enumerate(peers)}
    assert lendable(connections.values(), waits) == list(connections.values())
    users: dict[int, User] = {}
    counters = list(dict.fromkeys(connection.bus.messages for connection in connections.values()))
    files = Descriptors()
    origins = Origins()

    def number_of(user: User) -> int:
        users[id(user)] = user
        return id(user)

    words, kept = hand_out(
        [(number, peer, False) for number, peer in connections.items()],
        counters,
        number_of,
        origins,
        files.give,
        waits,
    )
    for connection in connections.values():
        assert (
            not len(connection.queue)
            and not connection.request_count
            and not any(not reply.sync for reply in connection.owed)
        )
    assert [peer.connection.request_count for peer in unchanged] == counts
    assert all(0 <= word < 1 << 64 for word in words)
    returned = take_back(words, counters, connections, users, kept, origins, files.open)
    assert not files.files
    assert len(returned.waits) == len(waits)
    assert [connection for connection, _ in returned.readable] == list(connections.values())
    return returned
