# SPDX-License-Identifier: GPL-2.0-or-later
"""In what revisions differ for a client, beyond the numbers and layouts of their tables.

The tables (`kdbus.abi`) say how a command is written; a `Dialect` says what its result means. What a table implies is
derived from it, so that one more revision needs one more line in `DIALECTS`. docs/revisions.md is the long version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kdbus.abi.layout import Struct
from kdbus.abi.revision import FINAL, REVISION219, VERSION3, Revision

_STRUCTS: Final[Mapping[str, tuple[str, ...]]] = {
    "BUS_MAKE": ("kdbus_cmd", "kdbus_cmd_make"),
    "ENDPOINT_MAKE": ("kdbus_cmd", "kdbus_cmd_make"),
    "ENDPOINT_UPDATE": ("kdbus_cmd", "kdbus_cmd_update"),
    "HELLO": ("kdbus_cmd_hello",),
    "UPDATE": ("kdbus_cmd", "kdbus_cmd_update"),
    "FREE": ("kdbus_cmd_free",),
    "SEND": ("kdbus_cmd_send",),
    "RECV": ("kdbus_cmd_recv",),
    "CONN_INFO": ("kdbus_cmd_info",),
    "BUS_CREATOR_INFO": ("kdbus_cmd_info",),
    "LIST": ("kdbus_cmd_list", "kdbus_cmd_name_list"),
    "NAME_ACQUIRE": ("kdbus_cmd", "kdbus_cmd_name"),
    "NAME_RELEASE": ("kdbus_cmd", "kdbus_cmd_name"),
    "MATCH_ADD": ("kdbus_cmd_match",),
    "MATCH_REMOVE": ("kdbus_cmd_match",),
}
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {"UPDATE": ("UPDATE", "CONN_UPDATE"), "LIST": ("LIST", "NAME_LIST")}


class Dialect:
    """What one revision means.

    `requires_metadata`: BUS_MAKE says what every connection must tell of itself. `payload_in_pool`: offsets of payload
    count from the start of the pool, not of the message. `size_word`, `list_size_word`: results of HELLO, and lists of
    names, begin with a word that has their size. `flags_attach`: CONN_INFO has the metadata asked for in its flags.
    `lost_is_error`: losses are told by EOVERFLOW and no message. `answers_in_flags`: NAME_ACQUIRE tells in its flags
    whether the name is only waited for.
    """

    def __init__(
        self, revision: Revision, *, requires_metadata: bool, payload_in_pool: bool, answers_in_flags: bool
    ) -> None:
        members = revision.structs
        self.revision = revision
        self.requires_metadata = requires_metadata
        self.payload_in_pool = payload_in_pool
        self.size_word = "kdbus_item_list" in members
        self.list_size_word = "kdbus_name_list" in members
        self.list_entry = members["kdbus_name_info" if "kdbus_name_info" in members else "kdbus_info"]
        self.flags_attach = "attach_flags" not in members["kdbus_cmd_info"].members
        self.lost_is_error = "KDBUS_RECV_RETURN_DROPPED_MSGS" not in revision.constants
        self.answers_in_flags = answers_in_flags
        self._layouts: dict[str, tuple[int, Struct | None]] = {}

    def layout(self, command: str) -> tuple[int, Struct | None]:
        """Request number and structure of a command; BYEBYE has no structure in version 3."""
        if command not in self._layouts:
            requests, structs = self.revision.requests, self.revision.structs
            number = next(requests[name] for name in _NAMES.get(command, (command,)) if name in requests)
            candidates = _STRUCTS.get(command, ("kdbus_cmd",))
            self._layouts[command] = number, next((structs[name] for name in candidates if name in structs), None)
        return self._layouts[command]


DIALECTS: Final[Mapping[Revision, Dialect]] = {
    VERSION3: Dialect(VERSION3, requires_metadata=True, payload_in_pool=True, answers_in_flags=True),
    REVISION219: Dialect(REVISION219, requires_metadata=True, payload_in_pool=False, answers_in_flags=True),
    FINAL: Dialect(FINAL, requires_metadata=False, payload_in_pool=False, answers_in_flags=False),
}
"""All revisions that this library speaks."""
