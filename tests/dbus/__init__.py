# SPDX-License-Identifier: GPL-2.0-or-later
"""D-Bus as it was spoken on kdbus: values, messages, names and matches."""
