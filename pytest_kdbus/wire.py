# SPDX-License-Identifier: GPL-2.0-or-later
"""What the test and the agent in its domain say to each other: JSON, an object in each line, over a stream socket.

The test asks: `{"id": N, "do": WHAT, ...}`, and gets `{"id": N, "value": ...}` or `{"id": N, "error": TEXT}`, with
`command`, `errno` and `subject` if it is one of kdbus. What happens by itself is told by the agent: `{"event": WHAT,
...}`. Bytes are in hexadecimal. Descriptors go beside the line (SCM_RIGHTS, unix(7)), and `descriptors` in it says how
many: as many as came before it, so they are told apart by their order alone.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

Words = dict[str, Any]


_AT_ONCE = 65536
_MOST = 253
"""Descriptors that one message takes (SCM_MAX_FD)."""


class Channel:
    """One end. `send` may be called by any thread, `receive` by one."""

    def __init__(self, end: socket.socket) -> None:
        """Takes over `end`."""
        self._end = end
        self._lock = threading.Lock()

    def send(self, descriptors: Sequence[int] = (), **words: Any) -> None:
        """Say something, and pass copies of descriptors. Raises OSError if the other end is gone."""
        if descriptors:
            words["descriptors"] = len(descriptors)
        data = json.dumps(words).encode() + b"\n"
        with self._lock:
            if descriptors:
                sent = socket.send_fds(self._end, [data], list(descriptors))
                data = data[sent:]
            self._end.sendall(data)

    def receive(self) -> Iterator[Words]:
        """What the other end says, until it is gone. `descriptors` are the receiver's, and absent if there are none."""
        passed: deque[int] = deque()
        rest = b""
        try:
            while True:
                data, descriptors, _, _ = socket.recv_fds(self._end, _AT_ONCE, _MOST)
                passed += descriptors
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    words = json.loads(line)
                    if "descriptors" in words:
                        words["descriptors"] = [passed.popleft() for _ in range(words["descriptors"])]
                    yield words
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
        self._end.close()
