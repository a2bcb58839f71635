# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules of the bus, each against the pure broker."""
