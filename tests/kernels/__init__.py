# SPDX-License-Identifier: GPL-2.0-or-later
"""The project on kernels that its users have: each is booted in QEMU, and tests run on it.

    python -m tests.kernels                     # one after the other: what `DEFAULT` of __main__ names
    python -m tests.kernels 5.10 newest
    python -m tests.kernels --keep /tmp/out 6.1
    python -m tests.kernels --architecture arm64 6.12

What an older kernel lacks (a wait that only a fatal signal breaks off, the synchronous wake-up, the kernel's word on
exactly-once) is imitated in the other tests. Here it lacks. A newer one than that of the machine at hand shows what is
going to break.

The kernels are distribution packages, downloaded by the machine's own apt and kept outside of the project (`packages`).
A root file system comes for free: the machine's own, shared read-only by 9p, with what is written kept in memory, so
that the interpreter and this very checkout are there (`image`); for another architecture one is made of packages
(`roots`). QEMU emulates the processor (`machine`): no KVM is needed, but everything is much slower, which is why
programs are chosen (`inside`, the only part that runs on the emulated machine).

This is a command and no part of the suite: it downloads, and takes minutes for each kernel. What came of it is told in
docs/kernels.md.
"""
