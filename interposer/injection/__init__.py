# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls that a target's thread is made to execute, through ptrace.

`injection` has the procedure, `registers` the registers of each architecture, `injected_calls` the calls that path
mode needs besides mmap. The one room that knows python-ptrace.
"""
