# SPDX-License-Identifier: GPL-2.0-or-later
"""Version 4 of the kdbus ABI (March 2015), which systemd 220 was built for: numbers and layouts, as data.

Requests and layouts are the final revision's, so the two cannot be told apart by them. It lacks one item and two flags
that came later. What else differs between the two is behaviour, and stands in no header.
"""

from __future__ import annotations

from typing import Final

from kdbus.abi import final
from kdbus.abi.layout import Struct

_LATER: Final = {"KDBUS_ITEM_DST_ID", "KDBUS_NAME_PRIMARY", "KDBUS_NAME_ACQUIRED"}

CONSTANTS: Final[dict[str, int]] = {name: number for name, number in final.CONSTANTS.items() if name not in _LATER}
"""Every constant of the header but the request numbers."""

STRUCTS: Final[dict[str, Struct]] = final.STRUCTS
"""Every structure of the header."""

REQUESTS: Final[dict[str, int]] = final.REQUESTS
"""Every ioctl request number of the header."""
