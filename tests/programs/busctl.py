# SPDX-License-Identifier: GPL-2.0-or-later
"""A service, and a busctl that looks at it: `busctl.py BUSCTL`."""

from __future__ import annotations

import subprocess
import sys
import threading

import kdbus
from kdbus.dbus.blocking import connect
from tests.programs.client_dbus import NAME, PATH, Printer

_COMMANDS = (
    ("list",),
    ("tree", NAME),
    ("introspect", NAME, PATH),
    ("call", NAME, PATH, NAME, "Print", "su", "hello", "15"),
    ("set-property", NAME, PATH, NAME, "Volume", "d", "0.75"),
    ("get-property", NAME, PATH, NAME, "Volume"),
    ("call", NAME, "/none", NAME, "Print"),
)


def main() -> None:
    with kdbus.Bus(kdbus.own_name("busctl")) as node, connect(node.name) as bus:
        bus.acquire_name(NAME)
        bus.objects.add(PATH, Printer())
        answering = threading.Thread(target=bus.serve)
        answering.start()
        address = f"--address=kernel:path={kdbus.ROOT}/{node.name}/bus"
        for command in _COMMANDS:
            subprocess.run([sys.argv[1], address, "--no-pager", *command], timeout=60, check=False)
        bus.peer.byebye()
        answering.join()


if __name__ == "__main__":
    main()
