# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that touches the kernel or another process, and the command line.

The way of a `kdbus run -- program`: `command_line` reads the arguments; `launch` forks the child, which builds the
mounted `view` and installs the seccomp `filter`, hands its descriptors over and executes the program; `supervisor`
serves the traps until the program ends. `doctor` asks the machine beforehand what of this it allows.

The way of a trapped call: `supervisor.supervisor` receives it, `supervisor.tree` finds by its number who serves it (for
an open in mount mode `traps.opens`, for an ioctl `traps.ioctls`), and that one answers it through `traps.answering`. A
handle, of which `handles.handles` keeps the table, leads from there to the broker.

The package imports `broker` (the rules of the bus) and `native` (the C helper); neither imports it. This file
imports nothing on purpose: `kdbus run -- true` should cost little more than `true`, and each module pays for its own
imports only when it is needed.
"""

__version__ = "0.1.0"

CONTROL_NODE = "/sys/fs/kdbus/control"
"""The node that is there wherever programs find kdbus."""
