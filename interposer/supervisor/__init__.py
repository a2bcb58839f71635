# SPDX-License-Identifier: GPL-2.0-or-later
"""The supervisor: the loop that serves traps, and what it holds while it does.

`supervisor` owns everything of one kdbus, `domains` its domains, `tree` what belongs to one tree of processes; `loop`
says when it is their turn, and `start` before there is a loop. `watchers` sees to it that who watches is told, and
`control` answers who asks from outside. `flows` decides which connections the native engine serves by itself, `busy`
which of them are worth it; `waiting` has the calls that wait for a reply, `idle` waits for the next trap in trio's
stead. Imports all floors below; is imported by `interposer.shared_domain` and the command line.
"""
