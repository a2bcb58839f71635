# SPDX-License-Identifier: GPL-2.0-or-later
"""The client library: its core by bytes that were written by hand, its faces on a device that can lie."""
