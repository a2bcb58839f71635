# SPDX-License-Identifier: GPL-2.0-or-later
"""The domains of one supervisor: what they are made of, and the file systems that show them.

The first is there from the start; each mount of a kdbusfs is one more. All of them have the supervisor's clocks and its
module parameter in common, and what is known of the revisions that programs speak.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from broker.domain import Domain
from broker.interfaces import Ids, NodeEvents
from broker.recognition import named
from interposer.nodes.filesystem import NodeFiles
from interposer.target.ids import ThreadFolder, ThreadIds, UserNamespaces
from interposer.traps.answering import MountedDomain
from interposer.traps.module_parameter import AttachFlagsMask


class SystemClock:
    """`broker.interfaces.Clock` on the system's clocks."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    realtime_ns = staticmethod(time.time_ns)


class Domains:
    """`mounted` has every file system that shows the nodes of a domain; a domain may be shown by several."""

    def __init__(self, revision: str | None, mask: AttachFlagsMask, namespaces: UserNamespaces) -> None:
        """`revision`: the name of the one that every program is taken to speak; None: it is recognised."""
        self.mounted: list[MountedDomain] = []
        self.spoken: set[str] = set()
        """Names of the revisions that programs have spoken, in whichever domain."""
        self._revision = revision
        self._mask = mask
        self._namespaces = namespaces
        self._own_ids = ThreadIds(ThreadFolder(os.getpid(), lambda: True), namespaces)

    def new(self, nodes: NodeEvents) -> Domain:
        """A domain that belongs to this process's user namespace."""
        return self._new(self._own_ids, nodes)

    def new_mounted(self, ids: Ids, files: NodeFiles) -> MountedDomain:
        """One that belongs to the user namespace of a program that has mounted it; not among `mounted` yet."""
        return MountedDomain(self._new(ids, files), files)

    def _new(self, ids: Ids, nodes: NodeEvents) -> Domain:
        domain = Domain(SystemClock(), os.urandom, self._mask.current, ids, nodes)
        domain.spoken = self.spoken
        if self._revision is not None:
            domain.forced = named(self._revision)
        return domain

    def make_buses(self, domain: Domain, names: Sequence[str]) -> None:
        """Make these buses (`--make-bus`). Raises UsageError."""
        from interposer.supervisor.own_buses import make_buses

        make_buses(domain, names, self._namespaces)

    def all(self) -> list[Domain]:
        """The domains, each once; the first is the one that was there from the start."""
        return list(dict.fromkeys(mounted.domain for mounted in self.mounted))

    def node_of(self, status: os.stat_result) -> tuple[str, ...] | None:
        """The path, in its domain, of the node whose file has that status; None if it is no node."""
        for mounted in self.mounted:
            path = mounted.files.find(status.st_dev, status.st_ino)
            if path is not None:
                return path
        return None

    def deactivate(self) -> None:
        """Disconnect everybody, as an unmount would."""
        for mounted in self.mounted:
            mounted.domain.deactivate()

    def close(self) -> None:
        """Let go of the file systems."""
        for mounted in self.mounted:
            mounted.files.close()
