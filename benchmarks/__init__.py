# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast it is, measured: `python -m benchmarks`.

One run measures everything on one machine, one thing after the other, so that what stands in its tables can be
compared: what a trapped call costs at the least, what the kdbus commands cost, the same conversation over kdbus,
D-Bus and a plain socket, what grows and what does not, and what bystanders pay.

Rules that all of it follows:

- The measuring itself is done by small C programs (`programs/`), which use public interfaces only: linux/kdbus.h,
  libsystemd's sd-bus, unix sockets. Python starts them, and counts nothing that it does itself.
- A group of things to compare is measured in turns: A B C, A B C, and not A A, B B, C C. Whatever changes on the
  machine in the meantime, its clock rate or its other users, then changes for all of them.
- Each figure is a mean over a slice of time (`programs/measure.h`); a result is the median of all figures of all turns,
  with its quartiles. Where they lie too far apart the result is called disturbed; it is shown, not hidden.
- What cannot be measured, as a program is not installed, is named together with the package that brings it.

Admitted weaknesses. Nothing is pinned to a core: programs in use are not, and the scheduler's choice is part of the
price, but it also makes short conversations jump between two or three typical times. The payload is neither filled nor
read by the peers, so that the memory's speed counts for the transport alone. sd-bus parses and checks what it gets, the
kdbus programs here do what a small C program would: part of the distance between them is the library's.

Nothing here imports the rest of the project: `kdbus run` is a command like the others.
"""
