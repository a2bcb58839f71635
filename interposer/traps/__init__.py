# SPDX-License-Identifier: GPL-2.0-or-later
"""What is done for each trapped call.

A trapped call arrives in `traps`: ioctls of magic 0x95, opens of nodes, mappings of pools. `exactly_once` answers so
that a call takes effect once whatever signals arrive; `probe` finds out how much of that the kernel does. `path_mode`
answers the calls that name a path where no mount namespace can be had; `mounts`, with `mount_child` and `mount_watch`,
serves mount(2) of kdbusfs. May import the rooms below (launch, handles, injection, nodes, target); is imported by the
supervisor.
"""
