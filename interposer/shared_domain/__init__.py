# SPDX-License-Identifier: GPL-2.0-or-later
"""A kdbus that several `kdbus run` share: the server, those who join it, and who may.

`serve` keeps a domain alive behind a socket; `join` is the other end, a `kdbus run --domain`; `domain_socket` is what
they say to each other, `admission` whether a tree may come in. The top floor: only the command line imports it.
"""
