# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of one thing that happened: the record, defined once.

A record has bytes and numbers, no meanings: whoever shows it decodes it (`tracing.shown`), now or from a file, later
and elsewhere. Only what cannot be found out later is in words: why a call failed, and who owned which names.

A call that waits has two records, one when it begins to wait and one when it is over, as strace has two lines for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol


class Event(StrEnum):
    """What happened."""

    CALL = "call"
    """An ioctl on a handle."""
    OPEN = "open"
    """A node was opened, or could not be."""
    MAP = "map"
    """A pool was mapped, or could not be."""
    MOUNT = "mount"
    """A kdbusfs was mounted, or could not be."""
    UMOUNT = "umount"
    """One was unmounted, or could not be."""
    HANG_UP = "hang-up"
    """A connection has ended, whose handle is still open."""
    CLOSE = "close"
    """The last descriptor of a handle was closed."""
    DROPPED = "dropped"
    """Records are missing here, as whoever reads them was too slow."""


CALLS = frozenset((Event.CALL, Event.OPEN, Event.MAP, Event.MOUNT, Event.UMOUNT))
"""What somebody has called, and has a result."""


class Phase(StrEnum):
    """Which part of a call a record tells."""

    WHOLE = "complete"
    WAITS = "unfinished"
    RESUMED = "resumed"


class Frame(NamedTuple):
    """A function that had called another one when the call was made."""

    file: str
    address: int
    """Where it goes on, as the file's own tables number it."""
    function: str
    """Empty if the file does not name it."""
    offset: int
    """How far behind the beginning of the function that is."""


class Left(NamedTuple):
    """A descriptor that came with a message, and that nobody has closed."""

    pid: int
    """The process that has received it."""
    descriptor: int
    source: int
    """The connection that has sent the message."""
    cookie: int
    """The message's."""


@dataclass(slots=True)
class Record:
    """One record. Times are in ns, sizes in bytes."""

    event: Event
    sequence: int
    """Counts all records, from 1; one that was dropped is missing."""
    realtime_ns: int
    """CLOCK_REALTIME when it began."""
    monotonic_ns: int
    """CLOCK_MONOTONIC when it began."""
    duration_ns: int | None = None
    """None where it has none, or is not over."""
    phase: Phase = Phase.WHOLE
    pid: int = 0
    """Process, 0 where nobody's act is recorded."""
    tid: int = 0
    """Thread."""
    comm: str = ""
    """The thread's name."""

    descriptor: int | None = None
    node: str = ""
    """The node that the handle was opened from, below the file system's root: "0-system/bus"."""
    connection: int | None = None
    """Id of the connection that the handle is."""
    revision: str = ""
    """Of the ABI, as `kdbus.abi.revision.Revision.name`; empty where none is known."""
    command: str = ""
    """Name of the ioctl, "SEND"; or its number, "0x12345678"."""
    request: int = 0
    address: int = 0
    """The third argument of the ioctl."""

    before: bytes = b""
    """The argument of the command, items included, as it was read."""
    after: bytes = b""
    """The same with what the kernel has stored in it."""
    message: bytes = b""
    """The message that was sent or received, its items included and its payload not."""
    payload: bytes = b""
    """The beginning of its payload."""
    payload_size: int = 0
    pool: bytes = b""
    """What else was left in the pool: names, information on a connection or a bus."""
    length: int = 0
    """Of a mapping; also messages left unread at a close."""

    value: int = 0
    """What the call returned, if it did not fail."""
    errno: int = 0
    """Positive; 0 if the call did not fail."""
    error: str = ""
    """The class of `broker.errors`."""
    reason: str = ""
    """Why the call failed, in words."""
    peer: int | None = None
    """The connection to which a message went, or from which it came."""
    names: dict[int, list[str]] = field(default_factory=dict)
    """The well-known names of the connections that the record mentions, by id."""
    notes: list[str] = field(default_factory=list)
    """What else a person wants to know, in words: whom a call waits for, which replies never came."""
    count: int = 0
    """Of records that were dropped."""
    path: str = ""
    """Of a mount, as the program gave it."""
    stack: list[Frame] = field(default_factory=list)
    """Who has made the call, the innermost first; empty unless that was asked for."""
    copied: bytes = b""
    """What that is found by (`tracing.stacks.Copied`), until it is."""
    left: list[Left] = field(default_factory=list)
    """Of a close: what was open then, or when the process ended by itself; of a hang-up: the latter. Empty unless that
    was asked for."""
    unknown: int = 0
    """Of a close: how many descriptors came with messages to a process that was killed since, so that nobody knows
    whether it had closed them."""


class Tracer(Protocol):
    """Who wants records."""

    @property
    def payload_limit(self) -> int:
        """How many bytes of a payload a record shall have."""
        ...

    @property
    def waits(self) -> bool:
        """Whether taking a record may wait for a reader, and calls with it."""
        ...

    @property
    def stacks(self) -> bool:
        """Whether records shall have what stacks are found by, which native code does not keep."""
        ...

    @property
    def left(self) -> bool:
        """Whether records shall tell which descriptors were left open, for which ends of processes are trapped."""
        ...

    def take(self, record: Record) -> None:
        """A record, in the order of what happened."""
        ...

    def close(self) -> None:
        """There are no more."""
        ...
