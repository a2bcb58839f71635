# SPDX-License-Identifier: GPL-2.0-or-later
"""Declares the C extension to setuptools; everything else stands in pyproject.toml, which has no key for it."""

from setuptools import setup

setup(cffi_modules=["native/build.py:ffibuilder"])
