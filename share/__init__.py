# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes below PREFIX/share when the project is installed: manual pages, and completion for three shells.

All of it is made from the texts of `interposer.help`, at installation, by setup.py; so what there is to say of an
option is said in one place. Nothing here is installed itself, or needs more than the standard library.

    pages        a page of `kdbus help`, taken apart
    manual       pages as troff, man(7)
    completion   scripts for bash, zsh and fish

Alternatives: argparse and its relatives (shtab, argcomplete, argparse-manpage) would need a second description of the
options, as `kdbus` reads its own (`interposer.options`): it has to start faster than they can be imported. argcomplete
starts Python at each press of the key; and none of them completes the words of the program that `kdbus run` is given.
"""

from __future__ import annotations
