# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m benchmarks`."""

import sys

from benchmarks.command_line import main

sys.exit(main())
