# SPDX-License-Identifier: GPL-2.0-or-later
"""The bus semantics of kdbus: pure, synchronous, without descriptors, clocks or processes."""
