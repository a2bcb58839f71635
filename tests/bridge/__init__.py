# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the proxy for D-Bus programs."""
