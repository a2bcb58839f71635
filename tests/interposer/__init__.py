# SPDX-License-Identifier: GPL-2.0-or-later
"""The rooms of `interposer`, module by module."""
