# SPDX-License-Identifier: GPL-2.0-or-later
"""Real C programs under the real supervisor."""
