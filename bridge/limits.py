# SPDX-License-Identifier: GPL-2.0-or-later
"""How much a client may have. Where dbus-daemon has a limit of that kind, its number for a system bus is taken
(dbus-daemon(1), "<limit>"), as a session bus's are as good as none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes, numbers and seconds."""

    clients: int = 2048
    """Connected at a time (max_completed_connections)."""
    clients_of_user: int = 2048
    """Of these, so many of one user (max_connections_per_user, which is 256 there: but most sockets are one user's)."""
    unauthenticated: int = 64
    """Of these, so many that have not said Hello (max_incomplete_connections); who comes then waits in the backlog."""
    login_seconds: float = 30.0
    """Until a client has said Hello (auth_timeout)."""
    message: int = 32 << 20
    """Bytes of a message that a client sends (max_message_size)."""
    descriptors: int = 253
    """That come with a message: SCM_MAX_FD of unix(7), and as many as kdbus passes."""
    descriptors_seconds: float = 150.0
    """That descriptors may wait for the rest of their message (pending_fd_timeout)."""
    unread: int = 1 << 20
    """Bytes that a client has not read yet, from which on nothing more is taken from its connection of kdbus: there
    further messages wait, and their senders learn when it is full."""
    unread_answers: int = 16 << 20
    """Bytes that a client has not read, and has provoked itself by calling the driver, after which it is cut off."""
    rules: int = 512
    """Match rules (max_match_rules_per_connection). kdbus has a lower limit of its own for its matches."""
    names: int = 512
    """Names owned or waited for (max_names_per_connection)."""
    on_loop: int = 96 << 10
    """Bytes of a message up to which it is translated on the event loop; larger ones are in a thread."""


DEFAULTS = Limits()
