# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m interposer` is `kdbus`."""

import sys

from interposer.command_line import main

if __name__ == "__main__":
    sys.exit(main())
