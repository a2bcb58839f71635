# SPDX-License-Identifier: GPL-2.0-or-later
"""What `kdbus check` finds in a program by watching its calls: leaks, races, failures, uses of one revision alone.

The checker is one more reader of the tap's records (`interposer.traps.tap`), as a trace is: it needs nothing else, and
a rule can be tried on records alone. Rules are named and documented (docs/check.md); each is about something
that was seen, so none guesses. What cannot be seen is said there, too.

Imports the broker (for the errnos of other revisions) and the tables, none of the rooms.
"""
