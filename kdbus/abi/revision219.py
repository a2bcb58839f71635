# SPDX-License-Identifier: GPL-2.0-or-later
"""The state of the kdbus ABI that systemd 219 was built for (February 2015): numbers and layouts, as data.

It lies between versions 3 and 4. Requests are those of version 4 already, but for the two that tell about connections,
whose structure is shorter by `attach_flags`. Credentials, and the list that HELLO leaves in the pool, are still version
3's; there is no flag for losses yet.
"""

from __future__ import annotations

from typing import Final

from kdbus.abi import revision3, revision4
from kdbus.abi.layout import READ, Struct, request

_LATER: Final = {"KDBUS_RECV_RETURN_DROPPED_MSGS"}
_EARLIER_STRUCTS: Final = ("kdbus_creds", "kdbus_item", "kdbus_item_list")

CONSTANTS: Final[dict[str, int]] = {name: number for name, number in revision4.CONSTANTS.items() if name not in _LATER}
"""Every constant of the header but the request numbers."""

_INFO: Final = Struct(
    "kdbus_cmd_info",
    48,
    "size@0:8 flags@8:8 return_flags@16:8 id@24:8 offset@32:8 info_size@40:8 items@48:0",
)

STRUCTS: Final[dict[str, Struct]] = {
    **revision4.STRUCTS,
    **{name: revision3.STRUCTS[name] for name in _EARLIER_STRUCTS},
    _INFO.name: _INFO,
}
"""Every structure of the header."""

REQUESTS: Final[dict[str, int]] = {
    **revision4.REQUESTS,
    "KDBUS_CMD_CONN_INFO": request(READ, 0x84, _INFO.size),
    "KDBUS_CMD_BUS_CREATOR_INFO": request(READ, 0x85, _INFO.size),
}
"""Every ioctl request number of the header."""
