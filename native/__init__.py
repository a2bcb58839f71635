# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls and byte moving that Python cannot do, or cannot do fast enough: C behind a typed Python face.

Why C at all: a trapped call costs about four microseconds when C answers it. Each of the steps around it (receive, read
the target's memory, copy a payload into a pool) is one system call with structures that Python has no words for. Why
cffi: see `build.py`. Why no more C than this: rules of kdbus live in `broker/`, once; here is only mechanism, and every
function of this package could be described without the word kdbus.

One module per concept, with the C file of the same name behind it:

* `notification`: the supervisor's end of a seccomp filter;
* `memory`: reading and writing the memory of another process;
* `pool`: memory that this process writes and others may only read;
* `identity`: which file a descriptor of another process is;
* `namespace`: namespaces, mounts, path lookup;
* `credentials`: acting for a moment with somebody else's file system identity;
* `seccomp`: what a target is started with.

All functions raise `OSError` with the kernel's errno unless they say otherwise; the message names what was attempted.
They release Python's global lock while they run, and none keeps state of its own, so any thread may call any of them.

Weakness: 64-bit machines only, as addresses of a target are handled as pointers.
"""
