# SPDX-License-Identifier: GPL-2.0-or-later
"""The C helper, through its Python face."""
