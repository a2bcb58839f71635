# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits of our own: what the original left open, and a hostile program would use to fill the broker.

In the kernel, a forgotten limit costs kernel memory; here it costs the memory and the time of one process that serves
everybody. Each of these is far beyond what programs do, and answered with the errno that the nearest limit of the
original has. The limits of the original itself are in `broker.limits`, those on memory and descriptors in
`interposer.target.budget`; docs/limits.md has all of them in one table.
"""

from typing import Final

WAITING_PER_CONNECTION: Final = 256
"""Places in the queues of names that one connection may have, the same name counted as often as it was asked for
(TooManyNames)."""
RULES_PER_CONNECTION: Final = 4096
"""Rules in all matches of a connection (TooManyMatches): each may be looked at for each broadcast. As many as the final
revision has matches."""
RULE_BYTES_PER_CONNECTION: Final = 512 << 10
"""Bytes in all rules of a connection (TooManyMatches): one bloom mask may have 32 KiB."""
ENDPOINTS_PER_USER: Final = 1024
"""Custom endpoints that one user may have made (TooManyBuses): each has accounts and 32 KiB of policy of its own."""
