# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that mean harm, and the bounds they meet."""
