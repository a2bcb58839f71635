# SPDX-License-Identifier: GPL-2.0-or-later
"""Open descriptors of nodes: which handle of the broker a target's descriptor stands for.

`handles` has the table, `stand_ins` the sockets that stand for handles in targets. `lazy` replaces a node that was
opened unseen at its first ioctl, `detour` serves descriptors of processes that others trace.
"""
