# SPDX-License-Identifier: GPL-2.0-or-later
"""Paths and files: where a target's path leads, and the files that show a domain's nodes.

`resolve` and `lookup` walk a path as the target would; `filesystem` keeps one real file for each node; `file_status`
packs what stat(2) and its kind answer in path mode.
"""
