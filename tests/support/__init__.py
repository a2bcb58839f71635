# SPDX-License-Identifier: GPL-2.0-or-later
"""What several tests share: users, fakes, compiled programs, cases of C programs."""
