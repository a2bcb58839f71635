# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus run` inside of `kdbus run`.

The kernel allows one seccomp listener for each tree of processes, so an inner supervisor is impossible. It is not
needed either: what the inner `kdbus run` would start is supervised by the outer one anyway. So the program is simply
executed, and finds the outer domain. It cannot be given a domain of its own, nor one of a server.

That there is a supervisor of ours above is told by two things together: the control node is there, and a listener
cannot be installed. A child tries that, as nobody can take a filter off again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from interposer.errors import AlreadySupervised, FilterUnavailable
from interposer.launch.launch import install_filter, replace_process
from native import seccomp


def is_nested() -> bool:
    """Whether this process, which sees a control node, is supervised already."""
    child = os.fork()
    if child == 0:
        status = 0
        try:
            install_filter([(seccomp.BPF_RET | seccomp.BPF_K, 0, 0, seccomp.SECCOMP_RET_ALLOW)])
        except AlreadySupervised:
            status = 1
        except FilterUnavailable:
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def run_nested(command: Sequence[str], domain: str | None) -> None:
    """Execute `command` in this process. Returns never; raises what prevents it."""
    if domain is not None:
        raise AlreadySupervised(
            f"joining the domain at {domain}",
            "this process tree is in the domain of an outer `kdbus run` already, and the kernel allows one supervisor",
            "leave out --domain to use the outer domain, or start from outside",
        )
    raise replace_process(command)
