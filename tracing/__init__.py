# SPDX-License-Identifier: GPL-2.0-or-later
"""What a call was, as one record, and how people and programs get to see it.

Nothing here knows processes or the broker: `interposer.traps.tap` makes the records, and a plain `kdbus run` imports
none of this.
"""
