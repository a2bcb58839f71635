# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests: one module per module of the project, and end-to-end tests that run real C programs under the supervisor."""
