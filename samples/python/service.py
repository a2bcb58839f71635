#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A service: takes a name on a bus, answers requests with their text in capitals, each in a task of its own.

    service.py [BUS]                    default: <uid>-sample

Try it together with the client, on a bus that is made for them (../service.c makes its own):

    kdbus run --make-bus sample -- sh -c './service.py & ./client.py; kill $!'

Both need the packages kdbus and trio: run them with the Python that has them.
"""

from __future__ import annotations

import sys

import trio

import kdbus
import kdbus.trio

NAME = "org.example.Sample"


async def capitals(request: kdbus.Message) -> bytes:
    text = bytes(request.payload)
    # The samples in C send the zero byte at the end of their texts as well.
    print(f"request from connection {request.sender}: {text.rstrip(bytes(1)).decode(errors='replace')}", flush=True)
    return text.upper()


async def main(bus: str) -> None:
    with kdbus.trio.connect(bus) as connection:
        connection.acquire_name(NAME)
        print(f"serving {NAME} on {bus}", flush=True)
        await connection.serve(capitals)


if __name__ == "__main__":
    try:
        trio.run(main, sys.argv[1] if len(sys.argv) > 1 else kdbus.own_name("sample"))
    except kdbus.Error as error:
        sys.exit(f"service.py: {error}")
