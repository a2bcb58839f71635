# SPDX-License-Identifier: GPL-2.0-or-later
"""What the test and the agent in its domain say to each other: JSON, an object in each line, over a stream socket.

The test asks: `{"id": N, "do": WHAT, ...}`, and gets `{"id": N, "value": ...}` or `{"id": N, "error": TEXT}`, with
`command`, `errno` and `subject` if it is one of kdbus. What happens by itself is told by the agent: `{"event": WHAT,
...}`. Bytes are in hexadecimal.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

Words = dict[str, Any]


class Channel:
    """One end. `send` may be called by any thread, `receive` by one."""

    def __init__(self, end: socket.socket) -> None:
        """Takes over `end`."""
        self._end = end
        self._lines = end.makefile("rb")
        self._lock = threading.Lock()

    def send(self, **words: Any) -> None:
        """Say something. Raises OSError if the other end is gone."""
        data = json.dumps(words).encode() + b"\n"
        with self._lock:
            self._end.sendall(data)

    def receive(self) -> Iterator[Words]:
        """What the other end says, until it is gone."""
        try:
            for line in self._lines:
                yield json.loads(line)
        except (OSError, ValueError):
            return  # cut off, or closed at this end

    def shut_down(self) -> None:
        """Tell the other end that nothing more is asked or answered."""
        try:
            self._end.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has gone first

    def close(self) -> None:
        """Close it, once nobody receives any more."""
        self._lines.close()
        self._end.close()
