# SPDX-License-Identifier: GPL-2.0-or-later
"""What is done for each trapped call.

`answering` says in which ways a call can be answered, and `exactly_once` sees to it that it takes effect once whatever
signals arrive; `probe` finds out how much of that the kernel does. What the call means is said by `opens`, `ioctls` and
`mappings`; `node_handles` leads from nodes and descriptors to handles for all three. `path_mode` answers the calls that
name a path where no mount namespace can be had; `mounts`, with `mount_child` and `mount_watch`, serves mount(2) of
kdbusfs; `preloaded` what the library asks that programs are started with. `module_parameter` is what programs write to
/sys/module/kdbus. Who watches is shown all of it by `tap`, with `watched`; who wants to be disturbed is served by
`faults` and `delayed`. `shelves` lets receivers serve themselves.

May import the rooms below (launch, handles, injection, nodes, target); is imported by the supervisor, whose `tree` puts
these together for each listener.
"""
