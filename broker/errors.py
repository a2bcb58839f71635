# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors, typed by what went wrong in the bus's own terms, and the one table that makes errno numbers of them.

A rule raises the error that says what it means (`NameTaken`, `PoolFull`); nothing in the broker mentions an errno
number. The kernel often answers different failures with the same number, and tests of programs know only numbers, so
the table below is part of the ABI. It is version 3's; what a later revision answers differently stands in its
`broker.behaviour.Behaviour`, and a failed command's error is marked with that (`KdbusError.errnos`).

Classes rather than one class with a code: a test can then ask for the reason, not just for its number. What else a
person needs in order to see why (which item, whose messages, which policy) is in the error's facts.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence

ERESTARTSYS = 512
"""What the kernel uses between itself and signal delivery: restart the call, or EINTR (include/linux/errno.h)."""


class KdbusError(Exception):
    """A command failed; `errno_of` gives the number that the program sees.

    `errnos`: what the caller's revision answers otherwise than version 3.
    `facts`: what a person has to know to see why, by name: ids and counts as numbers, names as bytes, `rule` as a
    phrase where the class alone leaves several. One that is costly to find is a function that gives it, and is called
    only if somebody asks, before the broker does anything else. `tracing.reason` makes sentences of them.
    """

    errnos: Mapping[type[KdbusError], int] = {}

    def __init__(self, **facts: object) -> None:
        super().__init__()
        self.facts = facts

    def locate(self, items: Sequence[object]) -> None:
        """Say which of the `items` of a command or message the fact `item` is: `at`, counted from 1, `of` how many."""
        wanted = self.facts.get("item")
        if wanted is None or "at" in self.facts:
            return
        for number, each in enumerate(items, 1):
            if each is wanted:
                self.facts.update(at=number, of=len(items))
                return


class BadAddress(KdbusError):
    """Memory of the caller that is not accessible, or a pointer that is not aligned to 8 bytes."""


class CallerGone(BadAddress):
    """Memory of a caller that does not wait for its answer any more: it was killed, or interrupted and will call again.

    It has seen nothing of what it began, so nobody else must.
    """


class BadDescriptor(KdbusError):
    """A descriptor number that is not open."""


class OutOfMemory(KdbusError):
    """No memory for a pool."""


class NoFreeDescriptor(KdbusError):
    """The caller is at its limit of open files."""


class TooManyOpenFiles(KdbusError):
    """Whoever serves the bus is out of descriptors."""


class UnknownCommand(KdbusError):
    """A request that this kind of handle does not know in its present state."""


class WrongState(KdbusError):
    """A request that exists, but not for this kind of handle or not in its present state."""


class HandleInUse(KdbusError):
    """The handle already is a connection, a bus or an endpoint."""


class NodeShutDown(KdbusError):
    """The domain, bus or endpoint has ended."""


class ReplyNotExpected(KdbusError):
    """A reply that nobody waits for (any more)."""


class NotPermitted(KdbusError):
    """The policy, or the lack of privilege, forbids it."""


class HiddenByEndpoint(KdbusError):
    """The policy of a custom endpoint says that there is no such thing, in version 2."""


class WrongConnectionKind(KdbusError):
    """Activators, policy holders and monitors cannot use every command."""


class CommandTooSmall(KdbusError):
    """The size of a command is less than its structure."""


class CommandTooLarge(KdbusError):
    """The size of a command is over its limit."""


class MessageOfBadSize(KdbusError):
    """A message that is smaller than its header, or larger than messages may be."""


class CommandChanged(KdbusError):
    """The size changed between the two times it was read."""


class UnknownFlags(KdbusError):
    """A flag that the command does not know."""


class BadItem(KdbusError):
    """An item is malformed, or of a type that the command does not take."""


class BadArgument(KdbusError):
    """A value outside what the command takes."""


class BadPoolSize(KdbusError):
    """A pool of no size, or of a size that is no multiple of the page size."""


class BadName(KdbusError):
    """A well-known name, or a node's name, that breaks the rules for names."""


class NameTooLong(KdbusError):
    """A node's name over its limit."""


class MissingItem(KdbusError):
    """An item that the command needs is not there."""


class DuplicateItem(KdbusError):
    """An item that may be given once was given twice."""


class RepeatedItem(KdbusError):
    """A second item of a kind that the command takes once, where a table says what it takes (`broker.negotiation`)."""


class NodeExists(KdbusError):
    """A bus or endpoint of that name exists."""


class TooManyBuses(KdbusError):
    """The user's limit of buses, or of custom endpoints, in this domain."""


class TooManyConnections(KdbusError):
    """The user's limit of connections in this domain."""


class TooManyMatches(KdbusError):
    """The limit of matches of one connection, or of the rules in them."""


class TooManyDescriptors(KdbusError):
    """The limit of descriptors in one message."""


class TooManyItems(KdbusError):
    """The limit of items in one message."""


class TooManyNames(KdbusError):
    """The limit of names of one connection, or of its places in the queues of names."""


class TooManyPolicies(KdbusError):
    """More policy entries than this owner may have."""


class TooManyRequests(KdbusError):
    """The limit of requests of one connection that wait for a reply."""


class AttachFlagsRefused(KdbusError):
    """The connection does not send the metadata that its bus requires."""


class Disconnected(KdbusError):
    """This connection, or the addressed one, is no longer there."""


class AlreadyDisconnected(KdbusError):
    """BYEBYE on a connection that has ended."""


class MessagesPending(KdbusError):
    """BYEBYE while messages wait."""


class NoMessage(KdbusError):
    """The queue is empty."""


class NoMessageOfPriority(KdbusError):
    """No message in the queue has the priority asked for."""


class MessagesLost(KdbusError):
    """Messages were dropped since the last RECV; their number is in the command."""


class QueueFull(KdbusError):
    """The receiver has as many messages as it may have, or as many of this user."""


class PoolFull(KdbusError):
    """No free slice of that size in the pool."""


class PoolShareExceeded(KdbusError):
    """A message may not take more than half of what is free in the receiver's pool."""


class NoSuchSlice(KdbusError):
    """FREE of an offset that was not given out."""


class SliceNotHandedOut(NoSuchSlice):
    """FREE of an offset at which there is something that was not given out."""


class NoSuchConnection(KdbusError):
    """No connection of that id that may be addressed or seen."""


class NoSuchName(KdbusError):
    """Nobody owns the name, or it may not be seen."""


class NotNameOwner(KdbusError):
    """The connection neither owns the name nor waits for it."""


class NoSuchMatch(KdbusError):
    """No match has that cookie."""


class NameOwnerChanged(KdbusError):
    """The name is not owned by the connection of the given id."""


class NameTaken(KdbusError):
    """The name has an owner that does not give it up."""


class NameAlreadyOwned(KdbusError):
    """The connection owns the name already."""


class OnlyActivator(KdbusError):
    """The name is only held by an activator, and the message must not start anything."""


class MissingDestination(KdbusError):
    """A message without id and without name."""


class BadMessage(KdbusError):
    """Flags, destination and items of a message contradict each other."""


class NotForBroadcasts(KdbusError):
    """Descriptors, timeouts and expected replies make no sense in a broadcast."""


class BloomSizeMismatch(KdbusError):
    """A bloom filter or mask of another size than the bus's."""


class BloomNotAligned(KdbusError):
    """A bloom filter that is no multiple of 8 bytes."""


class PayloadTooLarge(KdbusError):
    """The payload is over its limit, or its sizes overflow."""


class BeyondFile(KdbusError):
    """A range of a memfd that goes past its end."""


class NotSealable(KdbusError):
    """A memfd item whose file cannot be sealed."""


class NotSealed(KdbusError):
    """A memfd that lacks a seal."""


class DescriptorNotPassable(KdbusError):
    """Files that themselves carry files (kdbus endpoints, unix sockets) cannot be passed."""


class DescriptorsRefused(KdbusError):
    """The receiver accepts no descriptors."""


class ReplyRefused(KdbusError):
    """The reply to a synchronous request carried descriptors that the requester does not accept."""


class PeerGone(KdbusError):
    """The connection that should have replied is gone, or dropped the request."""


class TimedOut(KdbusError):
    """No reply before the deadline."""


class NoSuchCall(KdbusError):
    """MSG_CANCEL of a call that nobody waits in."""


class Cancelled(KdbusError):
    """The descriptor given for that purpose became readable."""


class Interrupted(KdbusError):
    """A signal arrived while waiting."""


class NotMappable(KdbusError):
    """Only connections have a pool, and nobody may map it writable."""


class MappingTooLarge(KdbusError):
    """A mapping larger than the pool."""


class NoMapping(KdbusError):
    """A node that cannot be mapped at all."""


class Injected(KdbusError):
    """A failure that somebody has asked for from outside; `errnos` has the number."""


_ERRNO: dict[type[KdbusError], int] = {
    BadAddress: errno.EFAULT,
    CallerGone: errno.EFAULT,
    BadDescriptor: errno.EBADF,
    OutOfMemory: errno.ENOMEM,
    NoFreeDescriptor: errno.EMFILE,
    TooManyOpenFiles: errno.ENFILE,
    UnknownCommand: errno.ENOTTY,
    WrongState: errno.ENOTTY,
    HandleInUse: errno.EBADFD,
    NodeShutDown: errno.ESHUTDOWN,
    ReplyNotExpected: errno.EPERM,
    NotPermitted: errno.EPERM,
    HiddenByEndpoint: errno.ENOENT,
    WrongConnectionKind: errno.EOPNOTSUPP,
    CommandTooSmall: errno.EINVAL,
    CommandTooLarge: errno.EMSGSIZE,
    MessageOfBadSize: errno.EMSGSIZE,
    CommandChanged: errno.EINVAL,
    UnknownFlags: errno.EINVAL,
    BadItem: errno.EINVAL,
    BadArgument: errno.EINVAL,
    BadPoolSize: errno.EFAULT,
    BadName: errno.EINVAL,
    NameTooLong: errno.ENAMETOOLONG,
    MissingItem: errno.EBADMSG,
    DuplicateItem: errno.EEXIST,
    RepeatedItem: errno.EINVAL,
    NodeExists: errno.EEXIST,
    TooManyBuses: errno.EMFILE,
    TooManyConnections: errno.EMFILE,
    TooManyMatches: errno.EMFILE,
    TooManyDescriptors: errno.EMFILE,
    TooManyItems: errno.E2BIG,
    TooManyNames: errno.E2BIG,
    TooManyPolicies: errno.E2BIG,
    TooManyRequests: errno.EMLINK,
    AttachFlagsRefused: errno.ECONNREFUSED,
    Disconnected: errno.ECONNRESET,
    AlreadyDisconnected: errno.EALREADY,
    MessagesPending: errno.EBUSY,
    NoMessage: errno.EAGAIN,
    NoMessageOfPriority: errno.ENOMSG,
    MessagesLost: errno.EOVERFLOW,
    QueueFull: errno.ENOBUFS,
    PoolFull: errno.ENOBUFS,
    PoolShareExceeded: errno.EXFULL,
    NoSuchSlice: errno.ENXIO,
    SliceNotHandedOut: errno.ENXIO,
    NoSuchConnection: errno.ENXIO,
    NoSuchName: errno.ESRCH,
    NotNameOwner: errno.ESRCH,
    NoSuchMatch: errno.ENOENT,
    NameOwnerChanged: errno.EREMCHG,
    NameTaken: errno.EEXIST,
    NameAlreadyOwned: errno.EALREADY,
    OnlyActivator: errno.EADDRNOTAVAIL,
    MissingDestination: errno.EDESTADDRREQ,
    BadMessage: errno.EBADMSG,
    NotForBroadcasts: errno.ENOTUNIQ,
    BloomSizeMismatch: errno.EDOM,
    BloomNotAligned: errno.EFAULT,
    PayloadTooLarge: errno.EMSGSIZE,
    BeyondFile: errno.EBADF,
    NotSealable: 124,  # EMEDIUMTYPE, which the errno module does not know
    NotSealed: errno.ETXTBSY,
    DescriptorNotPassable: errno.EOPNOTSUPP,
    DescriptorsRefused: errno.ECOMM,
    ReplyRefused: errno.EREMOTEIO,
    PeerGone: errno.EPIPE,
    TimedOut: errno.ETIMEDOUT,
    NoSuchCall: errno.ENOENT,
    Cancelled: errno.ECANCELED,
    Interrupted: ERESTARTSYS,
    NotMappable: errno.EPERM,
    MappingTooLarge: errno.EFAULT,
    NoMapping: errno.ENODEV,
    Injected: errno.EIO,
}


def errno_of(error: KdbusError) -> int:
    """The positive errno number that the failed command's revision answers `error` with."""
    return error.errnos.get(type(error), _ERRNO[type(error)])
