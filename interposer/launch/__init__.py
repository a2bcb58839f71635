# SPDX-License-Identifier: GPL-2.0-or-later
"""From `kdbus run -- PROGRAM` to a program that runs under the filter.

`launch` forks, `execution` executes and tells why it could not, `filter` writes the seccomp program, `guarantee` names
what the kernel promises about signals, `view` builds /sys/fs/kdbus in a mount namespace of its own, `private_folder`
the same for path mode; `program` looks after the running program, `nested` after a `kdbus run` inside another. Has to
start fast: nothing here may import trio, the broker, or a room above.
"""
