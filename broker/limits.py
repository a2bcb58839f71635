# SPDX-License-Identifier: GPL-2.0-or-later
"""The limits of version 3, most of which the final revision shares (reference: ipc/kdbus/limits.h). Sizes are in bytes.

Programs observe these: the n-th message, name or match gets the errno. Limits of our own, which the original did not
need, do not belong here.
"""

from typing import Final

MESSAGE_SIZE: Final = 8 << 10
"""A message: header and items, without payload."""
MESSAGE_ITEMS: Final = 128
MESSAGE_DESCRIPTORS: Final = 253
MESSAGE_PAYLOAD: Final = 2 << 20
"""The sum of a message's PAYLOAD_VEC sizes."""
COMMAND_SIZE: Final = 8 << 10
"""NAME_LIST and FREE."""
LARGE_COMMAND_SIZE: Final = 32 << 10
"""BUS_MAKE, ENDPOINT_MAKE, HELLO, the updates, MATCH_ADD, SEND, RECV."""
POLICY_SIZE: Final = 32 << 10
BLOOM_SIZE: Final = 4 << 10
NAME_LENGTH: Final = 255
"""A well-known name, without the terminating zero."""
NODE_NAME_LENGTH: Final = 63
"""The name of a bus or endpoint, and the description of a connection."""
MATCHES_PER_CONNECTION: Final = 256
NAMES_PER_CONNECTION: Final = 256
MESSAGES_PER_CONNECTION: Final = 256
MESSAGES_UNACCOUNTED: Final = 16
"""So many messages may wait before each sender's user is counted."""
MESSAGES_PER_USER: Final = 16
"""So many may one user add once it is counted."""
REQUESTS_PER_CONNECTION: Final = 128
"""Requests that wait for a reply."""
CONNECTIONS_PER_USER: Final = 1024
BUSES_PER_USER: Final = 16
DESCRIPTORS_PER_USER: Final = 16
"""The final revision: so many descriptors may one message carry, and one user have in one queue."""
PAGE_SIZE: Final = 4096
"""Pool sizes are multiples of it (PAGE_SIZE of the architectures served here)."""
