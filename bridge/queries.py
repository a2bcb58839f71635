# SPDX-License-Identifier: GPL-2.0-or-later
"""What `org.freedesktop.DBus` is asked about names and connections, asked of kdbus in turn.

Source: D-Bus Specification, "Message Bus Messages", and dbus-daemon 1.14 for the names and texts of errors. A name that
only an activator has, has no owner for D-Bus. The driver itself is this process.
"""

from __future__ import annotations

import errno
import os
from typing import Final

import kdbus.trio
from bridge.failures import FAILED, NO_OWNER, PREFIX
from kdbus.dbus import names
from kdbus.dbus.errors import ErrorReply, InvalidName
from kdbus.dbus.kernel import DRIVER
from kdbus.dbus.values import Variant
from kdbus.errors import Error, NotFound
from kdbus.flags import Attach, HelloFlag, ListFlag, NameFlag
from kdbus.values import Credentials, Info, Metadata, Pids

PEER: Final = "org.freedesktop.DBus.Peer"
_CREDENTIALS: Final = Attach.CREDS | Attach.PIDS | Attach.AUXGROUPS | Attach.SECLABEL


class Queries:
    """Asks on behalf of one connection. All methods raise ErrorReply, or Error."""

    def __init__(self, peer: kdbus.trio.Connection) -> None:
        self._peer = peer

    def owner(self, name: str) -> int | None:
        """Who owns the name, for D-Bus: an activator does not."""
        found = self._info(name, Attach.NONE)
        return None if found is None or found.flags & HelloFlag.ACTIVATOR else found.id

    def _info(self, name: str, attach: Attach) -> Info | None:
        try:
            return self._peer.info(names.connection_id(name) or name, attach)
        except (NotFound, InvalidName):
            return None
        except Error as error:
            # What is a name for D-Bus need not be one for kdbus; then nobody has it.
            if error.errno != errno.EINVAL:
                raise
            return None

    def list_queued_owners(self, name: str) -> list[str]:
        if name == DRIVER:
            return [DRIVER]
        owner = self.owner(name)
        if owner is None:
            raise ErrorReply(NO_OWNER, f"Could not get owners of name '{name}': no such name")
        listed = self._peer.list_names(ListFlag.QUEUED)
        waiting = [entry.id for entry in listed if entry.name == name and entry.name_flags & NameFlag.IN_QUEUE]
        return [names.unique_name(each) for each in (owner, *waiting)]

    def list_names(self) -> list[str]:
        listed = self._peer.list_names(ListFlag.UNIQUE | ListFlag.NAMES)
        ordinary = [entry for entry in listed if not entry.flags & HelloFlag.ACTIVATOR]
        well_known = dict.fromkeys(entry.name for entry in ordinary if entry.name not in (None, DRIVER))
        unique = dict.fromkeys(names.unique_name(entry.id) for entry in ordinary)
        return [DRIVER, *well_known, *unique]

    def list_activatable_names(self) -> list[str]:
        return [DRIVER, *(entry.name for entry in self._peer.list_names(ListFlag.ACTIVATORS) if entry.name)]

    def name_has_owner(self, name: str) -> bool:
        return name == DRIVER or self.owner(name) is not None

    def get_name_owner(self, name: str) -> str:
        owner = None if name == DRIVER else self.owner(name)
        if name != DRIVER and owner is None:
            raise ErrorReply(NO_OWNER, f"Could not get owner of name '{name}': no such name")
        return DRIVER if owner is None else names.unique_name(owner)

    def _about(self, what: str, name: str) -> Metadata:
        if name == DRIVER:
            return Metadata(creds=_own_credentials(), pids=Pids(os.getpid(), 0, 0))
        found = self._info(name, _CREDENTIALS)
        if found is None or found.flags & HelloFlag.ACTIVATOR:
            raise ErrorReply(NO_OWNER, f"Could not get {what} of name '{name}': no such name")
        return found.metadata

    def get_connection_unix_user(self, name: str) -> int:
        creds = self._about("UID", name).creds
        if creds is None:
            raise ErrorReply(FAILED, f"Could not determine UID for '{name}'")
        return creds.euid

    def get_connection_unix_process_id(self, name: str) -> int:
        pids = self._about("PID", name).pids
        if pids is None or not pids.pid:
            raise ErrorReply(PREFIX + "UnixProcessIdUnknown", f"Could not determine PID for '{name}'")
        return pids.pid

    def get_connection_credentials(self, name: str) -> dict[str, Variant]:
        about = self._about("credentials", name)
        found = {}
        # In dbus-daemon's order.
        if about.pids is not None and about.pids.pid:
            found["ProcessID"] = Variant("u", about.pids.pid)
        if about.creds is not None:
            found["UnixUserID"] = Variant("u", about.creds.euid)
            if name != DRIVER:  # as with dbus-daemon
                groups = {about.creds.egid, *(about.auxgroups or ())}
                found["UnixGroupIDs"] = Variant("au", sorted(groups))
        if about.seclabel:
            label = about.seclabel.encode(errors="surrogateescape") + b"\0"
            found["LinuxSecurityLabel"] = Variant("ay", label)
        return found

    def get_security_context(self, name: str) -> bytes:
        label = self._about("security context", name).seclabel
        if not label:
            raise ErrorReply(
                PREFIX + "SELinuxSecurityContextUnknown", f"Could not determine security context for '{name}'"
            )
        return label.encode(errors="surrogateescape")

    def get_audit_data(self, name: str) -> bytes:
        # Solaris has such data.
        self._about("audit session data", name)
        raise ErrorReply(PREFIX + "AdtAuditDataUnknown", f"Could not determine audit session data for '{name}'")


def _own_credentials() -> Credentials:
    (user, effective, saved), (group, effective_group, saved_group) = os.getresuid(), os.getresgid()
    return Credentials(user, effective, saved, effective, group, effective_group, saved_group, effective_group)
