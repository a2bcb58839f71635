# SPDX-License-Identifier: GPL-2.0-or-later
"""A target process as the kernel tells of it: who it is, its memory, its files.

`ids` and `process` read /proc, `evidence` says whether what was read is still true, `caller` is the broker's view of
the calling thread, `files` and `reopened` its open files, `budget` what each user may cost. The lowest room: imports
none of the others.
"""
