#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A client: waits until there is the bus, and somebody owns the service's name on it; calls it, prints the reply.

    client.py [BUS [TEXT]]              defaults: <uid>-sample, "hello from the client"

The call is synchronous: the bus lets the client wait, and tells why if there is no reply.
"""

from __future__ import annotations

import sys

import kdbus

NAME = "org.example.Sample"
PATIENCE = 30.0


def main() -> None:
    bus = sys.argv[1] if len(sys.argv) > 1 else kdbus.own_name("sample")
    text = sys.argv[2] if len(sys.argv) > 2 else "hello from the client"
    kdbus.wait_for_name(bus, NAME, PATIENCE)
    with kdbus.connect(bus) as connection, connection.call(NAME, text.encode(), timeout=PATIENCE) as reply:
        print(f"reply from connection {reply.sender}: {bytes(reply.payload).rstrip(bytes(1)).decode()}")


if __name__ == "__main__":
    try:
        main()
    except kdbus.Error as error:
        sys.exit(f"client.py: {error}")
