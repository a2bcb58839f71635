# SPDX-License-Identifier: GPL-2.0-or-later
"""Evidence: what was read about a thread, so that it can be seen whether it still reads the same.

Metadata, credentials and namespaces are concluded from what `/proc/TID` says while the thread is trapped. To conclude
them takes long; to see that everything reads as it did when they were concluded does not, and then they are the same.
That is looked at for each message (`native/evidence.c`), so nothing can be stale.

Of `status` only those lines count that something is concluded from. The others (memory, signals, context switches)
change all the time.

One thing is concluded from what is not read again: the numbers of the parent process. They cannot change as long as
the thread has the same parent, which `status` tells; and a parent's number cannot come back as that of another parent.
A process only ever gets a parent that is an ancestor of its parent; and an ancestor has lived, under its own number,
all the time.

Layout, for each thing that was read: kind, length of the name with its zero, length of what was found (32 bits each),
the name, what was found.
"""

from __future__ import annotations

import struct

LINK, CONTENT, STATUS, ROOT, PARAMETER = range(1, 6)
"""Kinds: a link's target; a file's content; lines of `status`; the root directory, as device, inode and mount id (64
bits each); the content of a file of ours, after its descriptor (32 bits)."""
LIMIT = 16384
"""Bytes. What needs more is not worth comparing."""
_HEAD = struct.Struct("=3I")
_ROOT = struct.Struct("=3Q")
_DESCRIPTOR = struct.Struct("=i")
_LINES = frozenset(
    {
        b"Name",
        b"Tgid",
        b"Pid",
        b"PPid",
        b"Uid",
        b"Gid",
        b"Groups",
        b"NStgid",
        b"NSpid",
        b"CapInh",
        b"CapPrm",
        b"CapEff",
        b"CapBnd",
    }
)


class Evidence:
    """What has been read so far."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[tuple[int, bytes], bytes] | None = {}

    def _add(self, kind: int, name: bytes, found: bytes) -> None:
        if self._found is not None and self._found.setdefault((kind, name), found) != found:
            self._found = None

    def content(self, name: bytes, content: bytes) -> None:
        """A file of the thread's folder was read."""
        if name == b"status":
            lines = (line for line in content.split(b"\n") if line.partition(b":")[0] in _LINES)
            self._add(STATUS, name, b"".join(line + b"\n" for line in lines))
        else:
            self._add(CONTENT, name, content)

    def link(self, name: bytes, target: bytes) -> None:
        """A link of the thread's folder was read."""
        self._add(LINK, name, target)

    def root(self, device: int, inode: int, mount: int) -> None:
        """The thread's root directory was identified."""
        self._add(ROOT, b"root", _ROOT.pack(device, inode, mount))

    def parameter(self, descriptor: int, content: bytes) -> None:
        """A file of our own, which others may write to, was read from its beginning."""
        self._add(PARAMETER, b"", _DESCRIPTOR.pack(descriptor) + content)

    def cannot_be_repeated(self) -> None:
        """Something was concluded from what failed, or from what is not recorded here."""
        self._found = None

    def packed(self) -> bytes | None:
        """Everything, as the native side compares it; None if that is not possible."""
        if self._found is None:
            return None
        parts = []
        for (kind, name), found in self._found.items():
            parts += [_HEAD.pack(kind, len(name) + 1, len(found)), name, b"\0", found]
        packed = b"".join(parts)
        return packed if len(packed) <= LIMIT else None
