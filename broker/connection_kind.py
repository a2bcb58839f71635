# SPDX-License-Identifier: GPL-2.0-or-later
"""The kinds of connections, and which sets of them commands are for.

An ordinary one is what HELLO makes unless its flags ask for one of the others, which are for who is privileged
(`broker.connection` says what each of them is).
"""

from __future__ import annotations

ORDINARY = "ordinary"
ACTIVATOR = "activator"
POLICY_HOLDER = "policy holder"
MONITOR = "monitor"

ANY_KIND = frozenset((ORDINARY, ACTIVATOR, POLICY_HOLDER, MONITOR))
ONLY_ORDINARY = frozenset((ORDINARY,))
RECEIVERS = frozenset((ORDINARY, ACTIVATOR, MONITOR))
