# SPDX-License-Identifier: GPL-2.0-or-later
"""The project itself: its command line, imports, headers, samples, benchmarks, and the kernel's selftests."""
