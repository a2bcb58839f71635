# SPDX-License-Identifier: GPL-2.0-or-later
"""The one package of this project that others may import.

So far it holds `kdbus.abi`, the tables of the kdbus ABI, on which everything else stands. Nothing is imported here, so
that who wants the tables gets the tables alone.
"""
