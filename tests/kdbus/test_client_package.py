# SPDX-License-Identifier: GPL-2.0-or-later
"""What `import kdbus` gives, when it is loaded, and that the library's core does no input or output."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kdbus
from tests.project.test_imports import PURE_MODULES, imported_modules

PACKAGE = Path(kdbus.__file__).parent
CORE = ("commands", "dialect", "flags", "items", "matches", "message", "negotiation", "values")


def test_every_name_is_there() -> None:
    for name in kdbus.__all__:
        assert getattr(kdbus, name) is not None
    assert set(kdbus.__all__) <= set(dir(kdbus))
    with pytest.raises(AttributeError, match="'kdbus' has no attribute 'nonsense'"):
        _ = kdbus.nonsense  # type: ignore[attr-defined]


def test_names_for_type_checkers_are_those_that_are_loaded() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    imported = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(imported) == set(kdbus.__all__)
    for name, module in imported.items():
        loaded = getattr(sys.modules.get(str(module)), name, None)
        assert loaded is getattr(kdbus, name), name


def test_tables_load_nothing_of_the_library() -> None:
    code = "import sys, kdbus.abi.revision; print(*(name for name in sys.modules if name.startswith('kdbus')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in found if not name.startswith("kdbus.abi")} == {"kdbus"}


@pytest.mark.parametrize("module", CORE)
def test_core_is_pure(module: str) -> None:
    path = PACKAGE / f"{module}.py"
    for line, name in imported_modules(path.read_text(), f"kdbus.{module}", False):
        top, _, rest = name.partition(".")
        allowed = rest.partition(".")[0] in (*CORE, "abi", "errors", "items") if top == "kdbus" else top in PURE_MODULES
        assert allowed, f"kdbus.{module}:{line} imports {name}"
