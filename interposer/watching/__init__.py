# SPDX-License-Identifier: GPL-2.0-or-later
"""Watching a kdbus from outside: the control sockets, and the commands that ask them.

`places` is where the sockets are, and `wire` what is said on them; the supervisor has both from here. Everything else
is the other side: `ask` finds a domain and asks it, the remaining modules show the answers. None of them is imported by
a `kdbus run`, and what the supervisor says is in `interposer.supervisor.control`.
"""
