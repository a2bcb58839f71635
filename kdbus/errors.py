# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong, as exceptions that name the command, its subject, and what the errno means for that command.

All are `Error`, which is an OSError. Those that callers tell apart have classes of their own, which are also the
classes that Python has for such errors (`TimedOut` is a TimeoutError). One errno means different things: ESRCH is a
name without an owner for SEND, and a name that is not ours for NAME_RELEASE. So the meanings stand in a table by
command, behind which another holds for all commands. Revisions differ in which errno they choose (docs/revisions.md);
both choices are in the tables, as none means two things to one command.
"""

from __future__ import annotations

import errno
import os
from typing import Final


class Error(OSError):
    """A command failed.

    `command` is its name ("SEND"; "open" and "mmap" for those calls), `subject` what it was about (a name, a path),
    `errno` the number, `meaning` what that says about this command.
    """

    def __init__(self, command: str, number: int, meaning: str, subject: str = "") -> None:
        about = f"{command} ({subject})" if subject else command
        super().__init__(number, f"{about}: {meaning} ({errno.errorcode.get(number, number)})")
        self.command = command
        self.meaning = meaning
        self.subject = subject

    def __reduce__(self) -> tuple[type[Error], tuple[str, int, str, str]]:
        """OSError would be made anew with two arguments."""
        return type(self), (self.command, self.errno or 0, self.meaning, self.subject)


class Malformed(Error):
    """What another program or the bus wrote contradicts itself: a size, an offset, an item."""

    def __init__(self, command: str, number: int = errno.EBADMSG, meaning: str = "", subject: str = "") -> None:
        super().__init__(command, number, meaning, subject)


class Denied(Error, PermissionError):
    """The policy, or the lack of privilege, forbids it."""


class NotFound(Error, ProcessLookupError):
    """Nobody has that name or id."""


class Exists(Error, FileExistsError):
    """A name, bus or endpoint is another's."""


class Disconnected(Error, ConnectionResetError):
    """The connection, or the one addressed, or its bus, is no more."""


class PeerGone(Error, BrokenPipeError):
    """Who should have replied ended, or dropped the request."""


class TimedOut(Error, TimeoutError):
    """No reply before the deadline."""


class Cancelled(Error):
    """The descriptor given for that purpose became readable."""


class QueueFull(Error):
    """The receiver has as much in its queue or pool as it may have, or as the sending user may put there."""


class Unsupported(Error):
    """This kernel speaks another revision of kdbus, or the descriptor is none of kdbus."""


_CLASSES: Final[dict[int, type[Error]]] = {
    errno.EPERM: Denied,
    errno.EACCES: Denied,
    errno.ESRCH: NotFound,
    errno.ENXIO: NotFound,
    errno.EEXIST: Exists,
    errno.ECONNRESET: Disconnected,
    errno.ESHUTDOWN: Disconnected,
    errno.EPIPE: PeerGone,
    errno.ETIMEDOUT: TimedOut,
    errno.ECANCELED: Cancelled,
    errno.ENOBUFS: QueueFull,
    errno.EXFULL: QueueFull,
    errno.ENOTTY: Unsupported,
}
_MEDIUM: Final = 124
"""EMEDIUMTYPE, which the module errno does not know."""

_MEANINGS: Final[dict[tuple[str, int], str]] = {
    ("BUS_MAKE", errno.EEXIST): "there is a bus of that name",
    ("BUS_MAKE", errno.EMFILE): "this user has as many buses as it may have",
    ("BUS_MAKE", errno.EINVAL): "the name must begin with the user id and '-', and have only letters, digits, '_', '-' "
    "and '.'; a bloom filter has 8 to 4096 bytes, a multiple of 8",
    ("BUS_MAKE", errno.ENAMETOOLONG): "a name has at most 63 characters",
    ("ENDPOINT_MAKE", errno.ENAMETOOLONG): "a name has at most 63 characters",
    ("ENDPOINT_MAKE", errno.EEXIST): "the bus has an endpoint of that name",
    ("ENDPOINT_MAKE", errno.EINVAL): "the name must begin with the user id and '-'",
    ("ENDPOINT_MAKE", errno.EPERM): "only the owner of a bus makes endpoints",
    ("ENDPOINT_UPDATE", errno.EINVAL): "a policy is for something that is no name, or the rules of one are wrong",
    ("UPDATE", errno.EINVAL): "a policy is for something that is no name, or metadata are asked for that do not exist",
    ("UPDATE", errno.EOPNOTSUPP): "policies are for policy holders alone, which have no metadata to ask for",
    ("HELLO", errno.ENAMETOOLONG): "a description has at most 63 characters",
    ("HELLO", errno.EINVAL): "the kind of connection, its name, policies or description (letters, digits, '_', '-', "
    "'.'), or the size of the pool (a multiple of the page size) are wrong",
    ("HELLO", errno.EFAULT): "the size of the pool is no multiple of the page size",
    ("HELLO", errno.EPERM): "only the owner of a bus may be activator, policy holder or monitor, or claim an identity",
    ("HELLO", errno.EMFILE): "this user has as many connections as it may have",
    ("HELLO", errno.ECONNREFUSED): "the bus requires more metadata than the connection is to send",
    ("HELLO", errno.EEXIST): "the name has an activator, or the policies contradict others of the bus",
    ("HELLO", errno.EOPNOTSUPP): "there are no monitors on custom endpoints",
    ("SEND", errno.ESRCH): "nobody owns the name",
    ("SEND", errno.ENXIO): "no connection has that id",
    ("SEND", errno.EREMCHG): "another connection than the one with that id owns the name",
    ("SEND", errno.EADDRNOTAVAIL): "only an activator has the name, and the message must not start anything",
    ("SEND", errno.EDESTADDRREQ): "the message has no destination",
    ("SEND", errno.EBADMSG): "a broadcast or signal needs the flag SIGNAL, a bloom filter, and no name",
    ("SEND", errno.ENOTUNIQ): "broadcasts and signals have no replies, deadlines or descriptors",
    ("SEND", errno.EFAULT): "what is to be sent cannot be read, or the bloom filter's size is no multiple of 8",
    ("SEND", errno.EDOM): "the bloom filter is not of the bus's size",
    ("SEND", errno.EINVAL): "the destination is no name, the payload type is 0, or flags and deadline contradict each "
    "other",
    ("SEND", errno.EBADF): "a descriptor or memfd to send is not open, or it ends before what is to be sent of it",
    ("SEND", errno.EMSGSIZE): "the payload, or the list of its parts, is too long",
    ("SEND", errno.ETXTBSY): "a memfd is not sealed",
    ("SEND", _MEDIUM): "what was given as a memfd is none",
    ("SEND", errno.ECOMM): "the receiver accepts no descriptors",
    ("SEND", errno.EREMOTEIO): "the reply had descriptors, which this connection does not accept",
    ("SEND", errno.EOPNOTSUPP): "this kind of connection cannot send, or a descriptor cannot be passed (one of a unix "
    "socket, or of kdbus)",
    ("SEND", errno.EMLINK): "too many requests of this connection wait for replies",
    ("SEND", errno.EMFILE): "more descriptors than one message or one user may have under way",
    ("SEND", errno.E2BIG): "too many parts",
    ("SEND", errno.EPERM): "nobody waits for this reply, or the policy does not allow to talk to the receiver",
    ("SEND", errno.EBADSLT): "nobody waits for this reply (any more)",
    ("SEND", errno.EPIPE): "the receiver ended, or dropped the request, before it replied",
    ("SEND", errno.ETIMEDOUT): "no reply before the deadline",
    ("SEND", errno.ECANCELED): "the call was cancelled",
    ("SEND", errno.ECONNRESET): "the connection, or the receiver's, has ended",
    ("RECV", errno.ETIMEDOUT): "no message came",
    ("RECV", errno.EAGAIN): "no message is queued",
    ("RECV", errno.ENOMSG): "no message of that priority is queued",
    ("RECV", errno.EOVERFLOW): "messages were lost",
    ("FREE", errno.ENXIO): "no such part of the pool was given out",
    ("NAME_ACQUIRE", errno.EEXIST): "another connection owns the name and does not give it up",
    ("NAME_ACQUIRE", errno.EALREADY): "this connection owns the name already",
    ("NAME_ACQUIRE", errno.EPERM): "the policy does not allow to own the name",
    ("NAME_ACQUIRE", errno.EINVAL): "this is no name: two or more words of letters, digits, '_' and '-' with dots "
    "between",
    ("NAME_ACQUIRE", errno.E2BIG): "this connection has, or waits for, as many names as it may",
    ("NAME_RELEASE", errno.ESRCH): "nobody owns the name, or another connection does",
    ("NAME_RELEASE", errno.EADDRINUSE): "another connection owns the name",
    ("CONN_INFO", errno.ESRCH): "nobody owns the name",
    ("CONN_INFO", errno.ENXIO): "no connection has that id",
    ("CONN_INFO", errno.ETIMEDOUT): "nobody has acquired the name in time",
    ("MATCH_ADD", errno.EINVAL): "a rule is about something that is no name, or has an item of a wrong size",
    ("MATCH_ADD", errno.EDOM): "a mask is no multiple of the bus's bloom filter",
    ("MATCH_ADD", errno.EMFILE): "this connection has as many matches as it may have",
    ("MATCH_REMOVE", errno.ENOENT): "no match has that cookie",
    ("MATCH_REMOVE", errno.EBADSLT): "no match has that cookie",
    ("BYEBYE", errno.EBUSY): "messages are queued",
    ("BYEBYE", errno.EALREADY): "the connection has ended already",
    ("open", errno.ENOENT): "there is no such node; is kdbus there, and has the bus been made?",
    ("open", errno.ETIMEDOUT): "no bus of that name was made",
    ("open", errno.EACCES): "this user may not open the node",
}
_GENERAL: Final[dict[int, str]] = {
    errno.EPERM: "not permitted",
    errno.EINVAL: "the arguments contradict each other, or have a flag or item that this revision does not know",
    errno.EOPNOTSUPP: "this kind of connection has no such command",
    errno.ECONNRESET: "the connection has ended",
    errno.ESHUTDOWN: "the bus or endpoint has ended",
    errno.ENOBUFS: "the queue or pool is full",
    errno.EXFULL: "the pool is full",
    errno.ENOTTY: "no command of this revision of kdbus, or not in this state of the descriptor",
    errno.EBADFD: "not in this state of the descriptor",
}


def closed(command: str, subject: str = "") -> Error:
    """The exception for a command after the descriptor was closed here (EBADF)."""
    return Error(command, errno.EBADF, "it has been closed", subject)


def failure(command: str, number: int, subject: str = "") -> Error:
    """The exception for a command that failed with that (positive) errno number."""
    meaning = _MEANINGS.get((command, number)) or _GENERAL.get(number) or os.strerror(number)
    return _CLASSES.get(number, Error)(command, number, meaning, subject)
