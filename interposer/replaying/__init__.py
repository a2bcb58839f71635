# SPDX-License-Identifier: GPL-2.0-or-later
"""`kdbus replay`: plays recorded peers against a live program, and compares what that does with what was recorded.

`script` takes a recording apart: who there was, who is played, and in which order things happened. `live` follows the
live side and pairs its connections with the recorded ones. `likeness` makes calls comparable. `player` speaks for the
recorded peers, as an ordinary kdbus program; `stage` is its process, which also starts the live program. `replay` is
the command line's side of it.
"""
