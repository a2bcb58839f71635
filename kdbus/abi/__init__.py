# SPDX-License-Identifier: GPL-2.0-or-later
"""The kdbus ABI as data: what every side must know of it, and nothing else.

`layout` is the vocabulary (structures, fields, alignment); a module per revision has its numbers and layouts. There are
no rules here and no I/O: the broker, the tracer and the client library all stand on these tables, and importing them
loads nothing else.

It lives inside `kdbus`, as that is the one importable package which is installed, and the library stands on it.
"""
